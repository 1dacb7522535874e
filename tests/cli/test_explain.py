# SPDX-License-Identifier: Apache-2.0
"""The command `explain`."""

from __future__ import annotations

import json

import pytest

from pvepassthru.cli.main import main
from pvepassthru.rules.catalogue import BY_CODE, RULES


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
    assert main(["explain", "PVP309", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer.keys() == {"code", "severity", "origin", "gate", "explanation"}
    assert (answer["code"], answer["severity"], answer["origin"], answer["gate"]) == ("PVP309", "warning", "own", False)


@pytest.mark.parametrize(
    "word, hint",
    [("PVP3011", "the nearest is PVP301"), ("PVP20", "the nearest is PVP201"), ("nonsense", "--all lists")],
)
def test_unknown_code(word: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", word]) == 3
    err = capsys.readouterr().err
    assert err.startswith("pvepassthru: there is no code ")
    assert hint in err


@pytest.mark.parametrize("words", [[], ["PVP201", "--all"]])
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *words]) == 2
    assert "explain needs one or more codes, or --all" in capsys.readouterr().err
