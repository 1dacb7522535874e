# SPDX-License-Identifier: Apache-2.0
"""The runner itself, on this host: whatever a test does, its result says so."""

from __future__ import annotations

import os
import signal
import time
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from tests.kernel import checks, guest, runner
from tests.kernel.checks import check, holds

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def passes() -> None:
    check("one", 1, 1)
    holds("two", [2])


def takes_a_machine(machine: guest.Machine) -> None:
    assert isinstance(machine, guest.Machine)


def fails_a_check() -> None:
    check("one", 1, 2)


def fails_a_condition() -> None:
    holds("three", 0)


def exits() -> None:
    raise SystemExit(0)


def dies() -> None:
    os._exit(0)


def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def blocks() -> None:
    time.sleep(60)


def leaves_a_child() -> None:
    if os.fork() == 0:
        time.sleep(60)
    check("parent", "here", "here")


@pytest.mark.parametrize(
    "test,words",
    [
        (passes, ""),
        (takes_a_machine, ""),
        (leaves_a_child, ""),
        (fails_a_check, "AssertionError: one: seen 1, expected 2"),
        (fails_a_condition, "AssertionError: three"),
        (exits, "SystemExit: 0"),
        (dies, "its process died"),
        (is_killed, "its process died"),
        (blocks, "did not end within 1 s"),
    ],
)
def test_result(test: Callable[..., None], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "done", [])  # what other tests of this process compared
    start = time.monotonic()
    result = runner.run_one(ModuleType("suite"), test, 1.0 if test is blocks else 30.0)
    assert time.monotonic() - start < 20
    assert result["name"] == test.__name__
    assert result["outcome"] == ("failed" if words else "passed"), result
    assert str(result["words"]).strip().endswith(words)
    if test is passes:
        assert result["checks"] == ["one: 1", "two"]


def test_what_a_test_leaves_running_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "pid"

    def leaves_a_sleeper() -> None:
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        note.write_text(str(pid))

    assert runner.run_one(ModuleType("suite"), leaves_a_sleeper, 30.0)["outcome"] == "passed"
    left = int(note.read_text())
    assert guest.wait_for(lambda: not os.path.exists(f"/proc/{left}") or state_of(left) == "Z")


def state_of(pid: int) -> str:
    try:
        return guest.read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def test_setup_runs_before_and_its_failure_is_the_tests() -> None:
    def refuse() -> None:
        raise OSError("no such machine")

    suite = ModuleType("suite")
    vars(suite)["setup"] = refuse
    result = runner.run_one(suite, passes, 30.0)
    assert result["outcome"] == "failed"
    assert "no such machine" in str(result["words"])


def test_tests_of_a_suite_are_its_own_functions() -> None:
    suite = ModuleType("suite")
    exec("def test_one(): ...\ndef other(): ...\ndef test_two(): ...\n", vars(suite))  # noqa: S102 - text of this test
    vars(suite)["__name__"] = "suite"
    for name in ("test_one", "test_two"):
        vars(suite)[name].__module__ = "suite"
    vars(suite)["test_borrowed"] = passes
    assert [test.__name__ for test in runner.tests_of(suite)] == ["test_one", "test_two"]


def test_it_refuses_to_run_outside_of_the_guest(capsys: pytest.CaptureFixture[str]) -> None:
    assert not guest.inside()
    assert runner.main(["sysfs_mdev"]) == 2
    assert "only in the guest" in capsys.readouterr().err
