# SPDX-License-Identifier: Apache-2.0
"""Every write that a hook makes fails once, or never returns: then a start is complete or undone.

What a stop cannot undo stays in the journal, and `recover` undoes it when the kernel is well again. A write that
hangs holds its own function up and no other, until it ends.

`./dev test` gives each write of a start and of a stop one of the errors in turn, and tries every STRIDE-th one in the
other ways; `./dev soak` tries all.
"""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.cli.main import main
from pvepassthru.host import numvfs, state, vf_settings
from pvepassthru.lifecycle import console, drivers, mdev, phases, settings, vgpu
from pvepassthru.model.errors import BusyError
from tests.kernel.checks import check, holds
from tests.scenarios import counts, crashes
from tests.scenarios.faults import CASES, ERRORS, FILES, FULL, KERNEL, LATE, OK_AND_NOTHING, SLOW, Faults
from tests.scenarios.forked import VMID, forked, hook, ran, recover
from tests.scenarios.world import PF, VFS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.scenarios.faults import Case
    from tests.scenarios.forked import Done
    from tests.scenarios.world import SimWorld

NAMES = tuple(CASES)
STRIDE = 3
SHORT = 3
"""Seconds for a write, where one hangs."""
BEGIN, END = "pre-start", "post-stop"
UNFINISHED = f"{PF}{state.UNFINISHED}"
DEVICE = re.compile(r"[0-9a-f-]{36}|[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]|vtcon\d|[a-z-]+\.service")
LIMITS = {
    drivers: ("SECONDS", "UNDO_LOCK_WAIT"),
    settings: ("UNDO_SECONDS", "LOCK_WAIT"),
    console: ("UNDO_SECONDS",),
    mdev: ("HALF_CREATED_WAIT", "INSTANCE_LOCK_WAIT", "REMOVE_WAIT", "PARENT_WAIT"),
    vgpu: ("GPU_LOCK_WAIT", "RESET_WAIT"),
    numvfs: ("WRITE_LIMIT", "COUNT_WAIT"),
    vf_settings: ("BIND_LIMIT",),
}
"""Waits that are seconds on a host."""


class Bench:
    """A VM, and its host as it was before the start."""

    def __init__(self, world: SimWorld, case: Case, folder: str, seconds: int, kind: str) -> None:
        self.world, self.case, self.faults = world, case, Faults(folder)
        self.code = crashes.DEVICE_ERROR if case.situation.fails else 0
        case.furnish(world, seconds)
        ran(forked(hook(world, BEGIN)), self.code)  # folders that stay are there then
        self.stop()
        self.none: dict[str, Any] = {}
        self.reset()
        self.none = crashes.seen(world)
        """Without VFs that the start makes."""
        self.lines: dict[tuple[str, str], list[str]] = {}
        """What each phase writes, by kind."""
        with self.faults.at(0, kind=kind):
            ran(forked(hook(world, BEGIN)), self.code)
        self.lines[BEGIN, kind] = self.faults.paths
        self.whole = self.have()
        with self.faults.at(0, kind=kind):
            ran(forked(hook(world, END)))
        self.lines[END, kind] = self.faults.paths
        self.before = crashes.seen(world)
        check("journals", world.journals(), [])

    def numbers(self, phase: str, kind: str = KERNEL) -> range:
        """Of the writes of a phase."""
        return range(1, len(self.lines[phase, kind]) + 1)

    def have(self) -> dict[str, Any]:
        """What a VM that has started has."""
        now = self.world.state()
        return now | {"reservations": self.world.reservations(), "units": crashes.seen(self.world)["units"]}

    def reset(self) -> None:
        """Have no VFs, if the start is to make them."""
        if self.case.vfs:
            ran(forked(lambda: main(["--root", self.world.root, "sriov", "set", PF, "0"])))
            self.as_it_was(self.none or crashes.seen(self.world), "no VFs")

    def as_it_was(self, before: dict[str, Any], words: str) -> None:
        crashes.as_before(self.world, before, words)

    def start(self) -> None:
        self.reset()
        ran(forked(hook(self.world, BEGIN)), self.code)
        if not self.case.situation.fails:
            check("whole", self.have(), self.whole)

    def stop(self) -> None:
        ran(forked(hook(self.world, END)))

    def recovered(self, words: str) -> None:
        """`recover`, for which the kernel is well, undoes all that was kept."""
        ran(forked(recover(self.world)))
        self.refused(words)

    def refused(self, words: str) -> None:
        """After a start that failed all is as before; VFs, which are their PF's, may be there.

        Those that are not set up are marked, and the next start sets them up.
        """
        if not self.case.vfs:
            self.as_it_was(self.before, words)
            return
        now = crashes.seen(self.world)
        if UNFINISHED in self.world.host.names(state.FOLDER):
            others = {name: now[name] for name in ("mdevs", "reservations", "journals", "left beside", "units")}
            check(words, others, {name: self.before[name] for name in others})
        else:
            vfs = [vf for vf in VFS if f"/sys/bus/pci/devices/{vf}" in now["files"]]
            self.as_it_was(self.before if vfs else self.none, words)
        ran(forked(hook(self.world, BEGIN)))
        check(f"started in full, {words}", self.have(), self.whole)
        self.stop()
        self.as_it_was(self.before, words)


@pytest.fixture(name="bench")
def make_bench(world: SimWorld, tmp_path: object, request: pytest.FixtureRequest) -> Bench:
    name = request.node.name
    seconds = SHORT if "never_returns" in name else 15
    kind = FILES if "a_file" in name else KERNEL
    return Bench(world, CASES[request.param], str(tmp_path), seconds, kind)


@contextmanager
def hasty() -> Iterator[None]:
    """For as long as the `with` lasts, the hook's waits are short."""
    with pytest.MonkeyPatch.context() as patch:
        for module, names in LIMITS.items():
            for name in names:
                patch.setattr(module, name, 0.2 if "LOCK" in name else SHORT)
        for phase in (BEGIN, END):
            patch.setitem(phases.BUDGET, phase, 8.0)
        patch.setattr(phases, "UNDO_BUDGET", 8.0)
        yield


def run(call: Callable[[], int]) -> Done:
    done = forked(call)
    holds(f"no traceback: {done.output}", "Traceback" not in done.output)
    holds(f"no bug: {done.output}", "a bug of" not in done.output)
    return done


def points(
    bench: Bench, phase: str, faults: tuple[int | str, ...], kind: str = KERNEL, stride: int = 1
) -> Iterator[tuple[int, int | str, str]]:
    """The writes of a phase, each with a fault and words for it; in a small test each `stride`-th, with one fault."""
    for number in bench.numbers(phase, kind):
        if not counts.full() and number % stride != len(bench.case.situation.config) % stride:
            continue
        chosen = faults if counts.full() else (faults[number % len(faults)],)
        for fault in chosen:
            line = bench.lines[phase, kind][number - 1]
            yield number, fault, f"write {number} of {phase} ({line}): {fault}"


def hanging(bench: Bench, phase: str) -> Iterator[tuple[int, str, str]]:
    """As `points`, of those that hang."""
    for number, fault, words in points(bench, phase, (LATE, SLOW), stride=STRIDE):
        yield number, str(fault), words


def judge_start(bench: Bench, done: Done, words: str) -> None:
    """The start failed and all is as before at once, or it went through, and so does the stop."""
    words = f"{words}: {done.output}"
    fails = bench.case.situation.fails
    if done.code == 0:
        holds(words, not fails)
        if not bench.case.moves and "warning: " not in done.output:
            check(f"whole, {words}", bench.have(), bench.whole)
        crashes.started(bench.world, bench.case.situation)
        bench.stop()
        bench.as_it_was(bench.before, words)
        return
    holds(words, done.code in {1, crashes.DEVICE_ERROR} and "error: " in done.output)
    if bench.world.journals():  # the fault was one of the undoing
        holds(words, "kept " in done.output)
        bench.recovered(words)
    else:
        bench.refused(words)


every = pytest.mark.parametrize("bench", NAMES, indirect=True)


@every
def test_a_write_of_a_start_fails(bench: Bench) -> None:
    """The start fails and all is as before; it went through only when the write did not matter."""
    for number, fault, words in points(bench, BEGIN, (*ERRORS, OK_AND_NOTHING)):
        bench.reset()
        with bench.faults.at(number, fault):
            done = run(hook(bench.world, BEGIN))
        judge_start(bench, done, words)
    bench.start()
    bench.stop()
    bench.as_it_was(bench.before, "a start and a stop")


@every
def test_a_write_of_a_stop_fails(bench: Bench) -> None:
    """What could not be undone is kept, and said; recover undoes it."""
    for number, fault, words in points(bench, END, (*ERRORS, OK_AND_NOTHING)):
        bench.start()
        with bench.faults.at(number, fault):
            done = run(hook(bench.world, END))
        text = f"{words}: {done.output}"
        check(text, done.code, 0)
        if bench.world.journals():
            holds(text, "kept " in done.output)
            ran(forked(recover(bench.world)))
        bench.as_it_was(bench.before, text)


@every
def test_writes_of_an_undo_fail(bench: Bench) -> None:
    """The start fails, and undoing it fails, too: recover goes on."""
    for number, fault, words in points(bench, BEGIN, ERRORS, stride=STRIDE):
        bench.reset()
        with bench.faults.at(number, fault, 3):  # this one, and the first of the undo
            done = run(hook(bench.world, BEGIN))
        judge_start(bench, done, words)


@every
def test_a_file_cannot_be_written(bench: Bench) -> None:
    """The journal, PVE's reservations, or what is noted of VFs: /run is full for a moment."""
    for phase in (BEGIN, END):
        for number, fault, words in points(bench, phase, (FULL,), FILES, STRIDE):
            if phase == END:
                bench.start()
            else:
                bench.reset()
            with bench.faults.at(number, fault, kind=FILES):
                done = run(hook(bench.world, phase))
            if phase == BEGIN:
                judge_start(bench, done, words)
            else:
                ran(forked(recover(bench.world)))
                bench.as_it_was(bench.before, f"{words}: {done.output}")


@every
def test_a_write_of_a_start_never_returns(bench: Bench) -> None:
    """The start fails in its time and says what hangs; the other functions are as before, and that one once it ends."""
    for number, fault, words in hanging(bench, BEGIN):
        bench.reset()
        begin = time.monotonic()
        with hasty(), bench.faults.at(number, fault):
            done = run(hook(bench.world, BEGIN))
            seconds = time.monotonic() - begin
            text = f"{words}: {done.output}"
            line = bench.lines[BEGIN, KERNEL][number - 1]
            stuck = set(DEVICE.findall(line))
            holds(text, done.code in {BusyError.exit_code, crashes.DEVICE_ERROR} and "error: " in done.output)
            holds(f"names it, {text}", any(name in done.output for name in stuck))
            holds(f"in its time, {seconds:.1f} s, {text}", seconds < 40)
            others_as_before(bench, stuck, text)
        ran(forked(recover(bench.world)))
        bench.refused(text)


@every
def test_a_write_of_a_stop_never_returns(bench: Bench) -> None:
    for number, fault, words in hanging(bench, END):
        bench.start()
        with hasty(), bench.faults.at(number, fault):
            done = run(hook(bench.world, END))
            text = f"{words}: {done.output}"
            check(text, done.code, 0)
            holds(f"kept: {text}", bench.world.journals())
            others_as_before(bench, set(DEVICE.findall(bench.lines[END, KERNEL][number - 1])), text)
        ran(forked(recover(bench.world)))
        bench.as_it_was(bench.before, text)


def others_as_before(bench: Bench, stuck: set[str], words: str) -> None:
    """All that is not about a device that hangs, or the console on it, is as before, and nothing of it is kept."""
    world = bench.world
    if bench.case.vfs:
        return  # one card
    for step in world.kept(VMID):
        holds(f"{step} is about {stuck}, {words}", any(name in step for name in stuck) or step.startswith("console"))
    now, before = world.state(), bench.before
    for part in ("drivers", "overrides", "reset methods", "d3cold", "mdevs"):
        for name, value in before[part].items():
            holds(
                f"{part} of {name}: {value} -> {now[part].get(name)}, {words}",
                name in stuck or now[part].get(name) == value,
            )
