# SPDX-License-Identifier: Apache-2.0
"""The command `explain`."""

from __future__ import annotations

import json

import pytest

from pvepassthru.cli.main import main
from pvepassthru.rules.catalogue import BY_CODE, RULES
from pvepassthru.rules.explanation import PARTS, parts


def test_one_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "pvp201"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "PVP201: error; PVE itself refuses or drops it; the hook refuses the start\n\nWhat it checks: "
    )
    assert "\n\nWhy it matters: " in out
    assert "\n\nHow to fix: " in out


def test_all_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--all"]) == 0
    out = capsys.readouterr().out
    codes = [line[:6] for line in out.splitlines() if line.startswith("PVP")]
    assert codes == sorted(BY_CODE)
    assert len(codes) == len(RULES)


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "PVP303", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "code": "PVP303",
        "severity": "error",
        "origin": "pve",
        "gate": True,
        "hook": "refuses",
        "step": None,
        "checks": "whether a key is given twice in a hostpci entry. A word without `=` counts as `host`.\n"
        "So `01:00,pcie` has two hosts: `01:00` and `pcie`.",
        "matters": "PVE drops the whole entry with a warning, and the VM starts without its device.",
        "fix": "keep one value; write flags with `=1`, as in `01:00,pcie=1`.",
    }


def test_json_of_several(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "PVP309", "PVP201", "pvp309", "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert [(answer["code"], answer["gate"]) for answer in answers] == [("PVP309", False), ("PVP201", True)]


def test_json_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    """Each rule has all three parts, and none is lost or said twice."""
    assert main(["explain", "--all", "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert [answer["code"] for answer in answers] == sorted(BY_CODE)
    for answer in answers:
        assert list(answer) == ["code", "severity", "origin", "gate", "hook", "step", "checks", "matters", "fix"]
        said = [label + answer[name] for name, label in PARTS.items()]
        assert all(answer[name].endswith(".") for name in PARTS), answer["code"]
        assert " ".join(said).split() == BY_CODE[answer["code"]].explanation.split()


@pytest.mark.parametrize(
    "explanation", ["", "What it checks: a.\n\nHow to fix: b.", "Why it matters: a.\n\nWhat it checks: b."]
)
def test_explanation_without_a_part(explanation: str) -> None:
    with pytest.raises(ValueError, match="an explanation has the parts"):
        parts(explanation)


@pytest.mark.parametrize("word", ["PVP3011", "PVP20", "PVP999", "nonsense"])
def test_unknown_code(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A code that looks alike means something else, so none is guessed."""
    assert main(["explain", word]) == 3
    assert capsys.readouterr().err == f"pvepassthru: there is no code {word}; pvepassthru explain --all lists all\n"


def test_blanks_around_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", " pvp310 "]) == 0
    assert capsys.readouterr().out.startswith("PVP310: ")


@pytest.mark.parametrize(
    "words, why",
    [([], "explain needs one or more codes, or --all"), (["PVP201", "--all"], "takes codes or --all, not both")],
)
def test_wrong_usage(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *words]) == 2
    assert why in capsys.readouterr().err
