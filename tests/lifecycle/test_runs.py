# SPDX-License-Identifier: Apache-2.0
"""How the last run of a hook phase went is noted, for `metrics`; nothing depends on it, and nothing fails by it."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import state
from pvepassthru.host.host import Host
from pvepassthru.model.errors import BusyError, DeviceError, UnsafeError
from tests.scenarios.world import mdev

if TYPE_CHECKING:
    from pathlib import Path

    from tests.scenarios.world import SimWorld

RUN = state.Run(100, "pre-start", 1_795_000_000_123, 45, 0, 2)


def noted(world: SimWorld) -> dict[tuple[int, str], state.Run]:
    return {(run.vmid, run.phase): run for run in state.runs(world.host)}


def test_each_phase_that_did_something_is_noted(world: SimWorld) -> None:
    world.pve.define(100, mdev(1))
    before = int(world.host.now() * 1000)
    for phase in ("pre-start", "post-start", "pre-stop", "post-stop"):
        assert world.hook(100, phase).code == 0
    found = noted(world)
    assert list(found) == [(100, phase) for phase in ("post-start", "post-stop", "pre-start", "pre-stop")]
    after = int(world.host.now() * 1000)
    for run in found.values():
        assert run.code == 0
        assert before <= run.ended <= after
        assert 0 <= run.took <= after - before
    assert found[100, "pre-start"].ended <= found[100, "post-stop"].ended


def test_phases_with_nothing_to_do_leave_no_note(world: SimWorld) -> None:
    world.pve.define(100, "memory: 512\n")
    for phase in ("pre-start", "post-start", "pre-stop", "post-stop"):
        assert world.hook(100, phase).code == 0
    assert not os.path.exists(world.host.path(state.FOLDER))


def test_a_failure_is_noted_and_the_next_success_replaces_it(world: SimWorld) -> None:
    world.pve.define(100, mdev(1).replace("tbmdev-1", "tbmdev-9"))
    assert world.hook(100, "pre-start").code == DeviceError.exit_code
    assert noted(world)[100, "pre-start"].code == DeviceError.exit_code
    world.pve.define(100, mdev(1))
    assert world.hook(100, "pre-start").code == 0
    assert noted(world)[100, "pre-start"].code == 0
    assert os.path.getsize(world.host.path(state.run_path(100, "pre-start"))) == state.RUN_LENGTH


def test_a_post_stop_that_failed_is_noted_though_pve_is_told_nothing(
    world: SimWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pvepassthru.lifecycle import hook, phases  # noqa: PLC0415 - beside what is replaced

    def fail(_work: object) -> None:
        raise BusyError("somebody holds it")

    monkeypatch.setattr(phases, "post_stop", fail)
    assert hook.run_on(world.host, 100, "post-stop", {}) == 0
    assert noted(world)[100, "post-stop"].code == BusyError.exit_code


# ---- the notes themselves


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(str(tmp_path))
    os.makedirs(made.path("/run"))
    state.prepare(made)
    return made


def test_a_note_is_read_as_it_was_written(host: Host) -> None:
    more = state.Run(1000, "post-stop", 10**13, 10**7, 15, 10**4)
    for run in (more, RUN):
        state.note_run(host, run)
    assert state.runs(host) == [RUN, more]
    info = os.stat(host.path(state.run_path(100, "pre-start")))
    assert (stat.S_IMODE(info.st_mode), info.st_size) == (0o600, state.RUN_LENGTH)


@pytest.mark.parametrize(
    "text",
    ["", "1 2", "2 1 2 3 4\n", "1 1 2 3 x\n", "1 1 -2 3 4\n", "1 1 2 3 4 5\n", f"1 {'9' * 40} 2 3 4\n", "\0" * 64],
)
def test_what_is_no_note_is_passed_over(text: str, host: Host) -> None:
    with open(host.path(state.run_path(100, "pre-start")), "w", encoding="ascii") as file:
        file.write(text)
    assert state.runs(host) == []


@pytest.mark.parametrize("name", ["099.pre-start.run", "x.run", ".run", "100.journal"])
def test_other_files_are_no_notes(name: str, host: Host) -> None:
    with open(host.path(f"{state.FOLDER}/{name}"), "w", encoding="ascii") as file:
        file.write("1 2 3 4 5\n")
    assert state.runs(host) == []


def test_no_folder_no_note(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    state.note_run(host, RUN)
    assert os.listdir(tmp_path) == []
    assert state.runs(host) == []


def test_nothing_is_written_to_a_folder_that_is_not_trusted(host: Host) -> None:
    os.chmod(host.path(state.FOLDER), 0o777)
    state.note_run(host, RUN)
    assert os.listdir(host.path(state.FOLDER)) == []
    with pytest.raises(UnsafeError):
        state.runs(host)


def test_a_link_is_not_followed(host: Host, tmp_path: Path) -> None:
    os.symlink(tmp_path / "target", host.path(state.run_path(100, "pre-start")))
    state.note_run(host, RUN)
    assert not os.path.lexists(tmp_path / "target")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_stands_in_the_way_hinders_nobody(make: object, host: Host) -> None:
    assert callable(make)
    make(host.path(state.run_path(100, "pre-start")))
    state.note_run(host, RUN)
    assert not [run for run in state.runs(host) if run.code]
