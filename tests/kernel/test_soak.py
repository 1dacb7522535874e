# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.kernel import soak, suites, testbed
from tests.scenarios import counts
from tests.scenarios.counts import VARIABLE

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mock import MockerFixture

SUITE = suites.Suite("lifecycle_race", ("test_one", "test_two"), 10.0, ("6.1",), "")
RESULT: dict[str, object] = {
    "name": "test_one",
    "outcome": "passed",
    "seconds": 12.34,
    "words": "",
    "checks": ["exit code: 0", "count VMs: 64"],
}


@pytest.fixture(autouse=True)
def no_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")


def test_a_test_that_did_not_run_failed() -> None:
    first, second = soak.read(
        "6.1", SUITE, suites.Outcome({"test_one": RESULT}, complete=False, words="the guest died")
    )
    assert first == ("6.1", "lifecycle_race", "test_one", "passed", 12.34, ("VMs: 64",), "")
    assert second.outcome == "failed"
    assert "the guest died" in second.words


def test_the_page(tmp_path: Path, mocker: MockerFixture, capsys: pytest.CaptureFixture[str]) -> None:
    mocker.patch.object(soak, "PAGE", str(tmp_path / "soak.md"))
    mocker.patch.object(testbed, "kernels", return_value=("6.1", "6.12"))
    outcome = suites.Outcome({"test_one": RESULT, "test_two": {**RESULT, "outcome": "failed"}}, complete=True, words="")
    boot = mocker.patch.object(suites, "boot", return_value=outcome)
    mocker.patch.object(suites, "suites", return_value=[SUITE, SUITE._replace(name="lifecycle_flows")])
    ended = subprocess.CompletedProcess([], 1, "one failed\n== 1 failed, 8 passed ==\n", "")
    run = mocker.patch.object(subprocess, "run", return_value=ended)
    assert soak.main(["--rounds", "7", "--seed", "5", "--write"]) == 1
    assert [call.args for call in boot.call_args_list] == [("6.1", SUITE), ("6.12", SUITE)]
    assert os.environ[VARIABLE] == "rounds=7,vms=64,seed=5"
    assert f"soak: 2 passed, {2 + len(soak.SIMULATED)} failed" in capsys.readouterr().out
    assert [call.args[0][-1] for call in run.call_args_list] == [
        f"tests/lifecycle/{name}.py" for name in soak.SIMULATED
    ]
    page = (tmp_path / "soak.md").read_text()
    assert "| 6.12 | race: one | passed | 12 | VMs: 64 |\n" in page
    assert "| simulated | faults | failed | 0 | 1 failed, 8 passed |\n" in page
    assert "rounds=7,vms=64,seed=5" in page


def test_no_kernel_here(mocker: MockerFixture, capsys: pytest.CaptureFixture[str]) -> None:
    mocker.patch.object(testbed, "kernels", return_value=())
    assert soak.main([]) == 2
    assert "no kernel" in capsys.readouterr().err


def test_the_suites_are_there() -> None:
    assert set(soak.SUITES) <= {suite.name for suite in suites.suites()}


@pytest.mark.parametrize(
    "text,rounds,vms", [("", 4, 32), ("1", 100, 64), ("rounds=3", 3, 64), ("rounds=3,vms=5,seed=9", 3, 5)]
)
def test_counts(monkeypatch: pytest.MonkeyPatch, text: str, rounds: int, vms: int) -> None:
    monkeypatch.setenv(VARIABLE, text)
    wanted = counts.counts()
    assert (wanted.rounds, wanted.vms) == (rounds, vms)
    assert (wanted.seed == 9) == ("seed=9" in text)


def test_the_page_of_the_project_is_the_programs() -> None:
    with open(soak.PAGE, encoding="utf-8") as page:
        assert page.read().startswith(soak.INTRODUCTION)
