# SPDX-License-Identifier: Apache-2.0
"""Every write of the hook's to a kernel attribute fails once, or never returns: then a start is complete or undone.

What a stop cannot undo stays in the journal, and `recover` undoes it when the kernel is well again. A write that
hangs holds its own function up and no other, until it ends.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import sim
from pvepassthru.lifecycle import drivers
from tests.kernel.checks import check, holds
from tests.scenarios import crashes
from tests.scenarios.forked import VMID, forked, hook, ran, recover
from tests.scenarios.world import AUDIO, GPU, HOST_DRIVERS, NIC

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.scenarios.forked import Done
    from tests.scenarios.world import SimWorld

CONFIG = f"hostpci0: {GPU[:-2]}\nhostpci1: {NIC}\n"
SITUATION = crashes.Situation(CONFIG, (GPU, AUDIO, NIC))
WRITES = 9
"""Of a start or a stop: three for each function."""
ERRORS = (errno.EBUSY, errno.ENODEV, errno.EIO)
LATE, OK_AND_NOTHING = "never returns", "says ok and does nothing"


class Faults:
    """The write that fails: of those to /sys that the hook makes from now on, the one of this number."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._real = sim.SimHost.write

    @contextmanager
    def at(self, number: int, fault: int | str, times: int = 1) -> Iterator[None]:
        """For as long as the `with` lasts, that write fails, or so many from it on, counted in a file."""
        count = f"{self.folder}/count"
        release = f"{self.folder}/release"
        for path in (count, release):
            if os.path.exists(path):
                os.unlink(path)
        real = self._real

        def write(host: sim.SimHost, path: str, value: str) -> None:
            if path.startswith("/sys/"):
                with open(count, "a", encoding="ascii") as file:
                    file.write("x")
                if number <= os.path.getsize(count) < number + times:
                    if isinstance(fault, int):
                        raise OSError(fault, os.strerror(fault), path)
                    while fault == LATE and not os.path.exists(release):
                        time.sleep(0.01)
                    return
            real(host, path, value)

        sim.SimHost.write = write  # type: ignore[method-assign,assignment] # for this one hook
        try:
            yield
        finally:
            sim.SimHost.write = real  # type: ignore[method-assign] # as above
            with open(release, "w", encoding="ascii"):
                pass


@pytest.fixture(name="faults")
def make_faults(tmp_path: object) -> Faults:
    return Faults(str(tmp_path))


@pytest.fixture(name="short")
def make_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that are seconds on a host: for a write, and for the lock that a hanging one keeps."""
    monkeypatch.setattr(drivers, "SECONDS", 2.0)
    monkeypatch.setattr(drivers, "UNDO_LOCK_WAIT", 0.3)


def prepared(world: SimWorld, seconds: int = 15) -> dict[str, object]:
    crashes.furnish(world, CONFIG)
    world.policy(f"defaults: {{seconds: {seconds}}}\ndevices:\n  '{GPU[:-2]}': {{give_back: former}}\n")
    return crashes.warm_up(world, SITUATION)


def run(call: Callable[[], int]) -> Done:
    done = forked(call)
    holds(f"no traceback: {done.output}", "Traceback" not in done.output)
    holds(f"no bug: {done.output}", "a bug of" not in done.output)
    return done


@pytest.mark.parametrize("fault", [*ERRORS, OK_AND_NOTHING], ids=str)
def test_a_write_of_a_start_fails(world: SimWorld, faults: Faults, fault: int | str) -> None:
    """The start fails and all is as before at once; it went through only when the write did not matter."""
    before = prepared(world)
    for number in range(1, WRITES + 1):
        with faults.at(number, fault):
            done = run(hook(world, "pre-start"))
        words = f"write {number}: {fault}: {done.output}"
        holds(words, done.code in {0, crashes.DEVICE_ERROR})
        if done.code:
            holds(words, "error: " in done.output)
            crashes.as_before(world, before, words)
        else:
            crashes.started(world, SITUATION)
            crashes.stop(world)
            crashes.as_before(world, before, words)
        check("a start after it", run(hook(world, "pre-start")).code, 0)
        crashes.started(world, SITUATION)
        crashes.stop(world)
        crashes.as_before(world, before, f"and a stop, {words}")


@pytest.mark.parametrize("fault", [*ERRORS, OK_AND_NOTHING], ids=str)
def test_a_write_of_a_stop_fails(world: SimWorld, faults: Faults, fault: int | str) -> None:
    """What could not be undone is kept, and said; recover undoes it."""
    before = prepared(world)
    for number in range(1, WRITES + 1):
        crashes.start(world, SITUATION)
        with faults.at(number, fault):
            done = run(hook(world, "post-stop"))
        words = f"write {number}: {fault}: {done.output}"
        check(words, done.code, 0)
        if world.journals():
            holds(words, "kept " in done.output)
        else:
            crashes.as_before(world, before, words)
        ran(forked(recover(world)))
        crashes.as_before(world, before, words)


@pytest.mark.parametrize("fault", ERRORS, ids=str)
def test_a_write_of_an_undo_fails(world: SimWorld, faults: Faults, fault: int) -> None:
    """The start failed, and undoing it fails, too: recover goes on."""
    before = prepared(world)
    for number in (2, 5, 8):
        with faults.at(number, fault, 2):  # this one, and the first of the undo
            done = run(hook(world, "pre-start"))
        holds(f"failed, and kept what it could not undo: {done}", done.code and "kept " in done.output)
        ran(forked(recover(world)))
        crashes.as_before(world, before, f"write {number}")


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("number", range(1, WRITES + 1))
def test_a_write_of_a_start_never_returns(world: SimWorld, faults: Faults, number: int) -> None:
    """The start fails in its time and says what hangs; the other functions are as before, and that one once it ends."""
    before = prepared(world, 2)
    begin = time.monotonic()
    with faults.at(number, LATE):
        done = run(hook(world, "pre-start"))
        seconds = time.monotonic() - begin
        words = f"write {number}: {done.output}"
        holds(words, done.code == 6 and "the kernel has not finished the write to /sys/bus/pci/" in done.output)
        holds(f"in its time, {seconds:.1f} s, {words}", seconds < 20)
        stuck = (GPU, AUDIO, NIC)[(number - 1) % 3]
        for address in (GPU, AUDIO, NIC):
            if address != stuck:
                check(f"{address}, {words}", world.driver(address), HOST_DRIVERS[address])
        holds(f"kept: {words}", world.journals() and all(stuck in step for step in world.kept(VMID)))
    ran(forked(recover(world)))
    crashes.as_before(world, before, words)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("number", range(1, WRITES + 1, 2))
def test_a_write_of_a_stop_never_returns(world: SimWorld, faults: Faults, number: int) -> None:
    before = prepared(world, 2)
    crashes.start(world, SITUATION)
    with faults.at(number, LATE):
        done = run(hook(world, "post-stop"))
        check(f"write {number}: {done.output}", done.code, 0)
        holds(f"kept: {done.output}", world.journals())
    ran(forked(recover(world)))
    crashes.as_before(world, before, f"write {number}: {done.output}")
