# SPDX-License-Identifier: Apache-2.0
"""Which findings --select and --ignore leave, and which of them fail."""

from __future__ import annotations

import pytest

from pvepassthru.cli.codes import ALWAYS, FAIL_ON, Choice, choice, fails
from pvepassthru.model.errors import UsageError
from pvepassthru.model.finding import Finding
from pvepassthru.rules.catalogue import BY_CODE


@pytest.mark.parametrize(
    "select,ignore,wanted,unwanted",
    [
        (None, None, {"PVP101", "PVP310"}, set()),
        (["PVP3"], None, {"PVP310", "PVP301"}, {"PVP201", "PVP401"}),
        (["pvp310, pvp2"], None, {"PVP310", "PVP231"}, {"PVP301"}),
        (["PVP310", "PVP2"], None, {"PVP310", "PVP231"}, {"PVP301"}),
        (None, ["PVP3,PVP201"], {"PVP202"}, {"PVP310", "PVP201"}),
        (["PVP3"], ["PVP31"], {"PVP301"}, {"PVP310", "PVP201"}),
        (["PVP"], None, {"PVP101", "PVP420"}, set()),
    ],
)
def test_choice(select: list[str] | None, ignore: list[str] | None, wanted: set[str], unwanted: set[str]) -> None:
    chosen = choice(select, ignore)
    assert {code for code in wanted | unwanted if chosen.wants(code)} == wanted
    assert chosen.everything == (select is None and ignore is None)


@pytest.mark.parametrize("code", ALWAYS)
def test_what_could_not_be_read_goes_by_its_whole_code_only(code: str) -> None:
    assert code in BY_CODE
    assert choice(["PVP201"], None).wants(code)
    assert choice(None, [code[:5]]).wants(code)
    assert choice(None, ["PVP"]).wants(code)
    assert not choice(None, [code]).wants(code)
    assert not choice([code], [code]).wants(code)


@pytest.mark.parametrize(
    "word,sentence",
    [
        ("PVP999", "--select PVP999: no code begins so; pvepassthru explain --all lists all codes"),
        ("PV310", "--select PV310: no code begins so; is PVP310 meant"),
        ("PVP2010", "no code begins so"),
        ("PVP2,nonsense", "--select NONSENSE: no code begins so; pvepassthru explain --all"),
        (",", "--select names no code; --select PVP2,PVP310"),
        ("", "--select names no code"),
        ("\x1b", r"--select \\x1b: no code begins so"),
    ],
)
def test_unknown_code_is_wrong_usage(word: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        choice([word], None)
    with pytest.raises(UsageError, match=sentence.replace("--select", "--ignore")):
        choice(None, [word])


def _finding(severity: str, reason: str | None = None) -> Finding:
    return Finding("PVP310", severity, "pve", "/x", "m", "h", reason)  # type: ignore[arg-type] # one of the three


@pytest.mark.parametrize(
    "severity,failing",
    [("error", {"error", "warning", "info"}), ("warning", {"warning", "info"}), ("info", {"info"})],
)
def test_fails(severity: str, failing: set[str]) -> None:
    assert {limit for limit in FAIL_ON if fails([_finding(severity)], limit)} == failing
    assert not any(fails([_finding(severity, "known")], limit) for limit in FAIL_ON)
    assert not any(fails([], limit) for limit in FAIL_ON)


def test_nothing_chosen_is_everything() -> None:
    assert all(Choice().wants(code) for code in BY_CODE)
