# SPDX-License-Identifier: Apache-2.0
"""Crashes of the hook at any point, and what must be left after them: the host as it was before the start.

The hook runs in a forked process (forked.py); tests/kernel/killed.py kills it at a change to the outside world. Then
either `pvepassthru recover` or the VM's next start and stop must leave the host as before. Only the standard library.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import tempfile
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from pvepassthru.host.state import RUN
from pvepassthru.model.errors import DeviceError
from tests.kernel import killed
from tests.kernel.checks import check, holds
from tests.scenarios.forked import VMID, forked, hook, ran, recover
from tests.scenarios.world import AUDIO, GPU, HOST_DRIVERS, MDEVS, NIC, OTHER, PARENT, PARENTS, RESERVATIONS, VFS, mdev

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.scenarios.forked import Done
    from tests.scenarios.world import World

NEIGHBOUR = 901
NO_ROOM = re.compile(r"no instance (of \S+ is )?left")
"""Of the driver's answer, or of the gate's, when it counts what an earlier start left."""
NO_TIME = "no time was left"
DEVICE_ERROR = DeviceError.exit_code
OWN_FOLDER = "/run/pvepassthru/"
SIMULATION = "/.sim"
UNITS = f"{SIMULATION}/units"


class Situation(NamedTuple):
    """A VM whose hook is going to be killed."""

    config: str
    made: tuple[str, ...]
    """What its start makes: an mdev's uuid, or the address of a VF with a type, or of a function on vfio-pci."""
    fails: bool = False
    """Whether its start fails half way, so that it undoes itself."""


WAYS = {"before": ("recover",), "after": ("next",), "spared": ("recover", "next")}
"""What follows a crash, by where it was."""
SITUATIONS = {
    "mdev": Situation(mdev(1), (f"00000000-0000-0000-0000-{VMID:012d}",)),
    "mdevs": Situation(
        f"hostpci0: {PARENT},mdev=tbmdev-2\nhostpci1: {OTHER},mdev=tbmdev-1\n",
        (f"00000000-0000-0000-0000-{VMID:012d}", f"00000001-0000-0000-0000-{VMID:012d}"),
    ),
    "vgpu": Situation(f"hostpci0: {VFS[0]},mdev=nvidia-100\n", (VFS[0],)),
    "nic": Situation(f"hostpci0: {NIC}\n", (NIC,)),
    "gpu": Situation(f"hostpci0: {GPU[:-2]}\n", (GPU, AUDIO)),
    "fails": Situation(mdev(1, 1, 2), (), fails=True),
}


# ---- the host


def furnish(world: World, config: str) -> None:
    """Put things of others beside the VM with this config, which must stay whatever happens.

    They are an instance on each parent, a reserved VF with its vGPU type set, and a reservation. The GPU has drivers of
    the host, to which the policy gives it back.
    """
    world.make_vfs(2)
    world.drive_gpu()
    world.policy(f"devices:\n  '{GPU[:-2]}': {{give_back: former}}\n")
    for number, parent in enumerate(PARENTS):
        world.create(1, f"f0f0f0f0-0000-0000-0000-00000000000{number}", parent)
    world.set_vgpu(VFS[1], "101")
    later = int(time.time()) + 100_000
    world.pve.cluster.put(RESERVATIONS, f"{VFS[1]} {NEIGHBOUR} time:{later}\n0000:07:02.0 900 time:{later}\n")
    world.pve.reserved().reserve([VFS[1]], NEIGHBOUR, timeout=100_000)  # in PVE's own order and form
    world.pve.define(VMID, config)
    with world.pve._locked(VMID):  # makes PVE's lock file, which stays
        pass


def seen(world: World) -> dict[str, Any]:
    """All that must be as before: the world's state, and on a simulated host systemd's units and every file but the
    tool's locks.
    """
    state = world.state() | {"left beside": world.host.names("/run/qemu-server")}
    if world.simulated:
        state["files"] = dict(_files(world.root, world.root))
        state["units"] = {name: world.host.text(f"{UNITS}/{name}") for name in world.host.names(UNITS)}
    return state


def _files(folder: str, root: str) -> Iterator[tuple[str, str]]:
    """Each path below a folder with what it is: a folder, a link, or a file's text; but locks and notes of runs."""
    with os.scandir(folder) as entries:
        for entry in entries:
            path = entry.path.removeprefix(root)
            if entry.is_symlink():
                yield path, f"-> {os.readlink(entry.path)}"
            elif entry.is_dir():
                yield path, "/"
                if path != SIMULATION and not path.endswith("/vfio-dev"):  # numbers by the order of binding
                    yield from _files(entry.path, root)
            elif not path.startswith(OWN_FOLDER) or not path.endswith((".lock", RUN)):
                with open(entry.path, encoding="utf-8", errors="surrogateescape") as file:
                    yield path, file.read()


def as_before(world: World, before: dict[str, Any], words: str) -> None:
    """Check that the host is as `seen` saw it."""
    now = seen(world)
    for part, value in before.items():
        if now[part] != value:
            old, new = (value, now[part]) if isinstance(value, dict) else ({"it": value}, {"it": now[part]})
            changed = [
                f"{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in old | new if old.get(key) != new.get(key)
            ]
            raise AssertionError(f"{words}: {part}: {', '.join(changed)}")
    check("journals", world.journals(), [])


def started(world: World, situation: Situation) -> None:
    """Check that what the VM needs is there."""
    bound = [address for address in HOST_DRIVERS if world.driver(address) == "vfio-pci"]
    there = {*world.mdevs(), *world.vgpus(), *bound}
    holds(f"{situation.made} made: {there}", all(name in there for name in situation.made))


def start(world: World, situation: Situation) -> None:
    """Start the VM, or, where that fails, see that it says why."""
    done = ran(forked(hook(world, "pre-start")), DEVICE_ERROR if situation.fails else 0)
    if situation.fails:
        holds(f"says why: {done.output}", NO_ROOM.search(done.output))
    else:
        started(world, situation)


def stop(world: World) -> None:
    """Stop the VM, without PVE's own cleanup, so that all of it is our hook's work."""
    ran(forked(hook(world, "post-stop")))


def warm_up(world: World, situation: Situation) -> dict[str, Any]:
    """Start and stop once, so that folders which stay are there, and return what is seen then."""
    start(world, situation)
    stop(world)
    return seen(world)


# ---- crash and way on


def torn(world: World, size: int) -> None:
    """Cut the last line of the VM's journal to so many bytes."""
    path = f"{world.root}/run/pvepassthru/{VMID}.journal"
    with open(path, "rb+") as file:
        whole = file.read()
        first = whole.rfind(b"\n", 0, -1) + 1
        file.truncate(min(first + size, len(whole)))


class Kill(NamedTuple):
    """Where a phase is killed."""

    phase: str
    """`pre-start`, `post-stop` or `recover`."""
    number: int
    """The change; 0 is none."""
    after: bool = False
    spare_child: bool = False

    def __str__(self) -> str:
        spared = ", its child spared" if self.spare_child else ""
        return f"{self.phase} killed {'after' if self.after else 'before'} change {self.number}{spared}"


def call_of(world: World, phase: str) -> Callable[[], int]:
    return recover(world) if phase == "recover" else hook(world, phase)


def lead_up(world: World, situation: Situation, phase: str) -> None:
    """What comes before the phase that is killed."""
    if phase != "pre-start" and not situation.fails:
        start(world, situation)


def changes(world: World, situation: Situation, phase: str) -> Done:
    """A phase run to its end, with its changes; the host is as before then."""
    lead_up(world, situation, phase)
    with tempfile.NamedTemporaryFile() as log:
        done = forked(call_of(world, phase), killed.At(log=log.name))
    ran(done, DEVICE_ERROR if situation.fails and phase == "pre-start" else 0)
    stop(world)
    return done


def crash(world: World, situation: Situation, kill: Kill, *, may_end: bool = False) -> Done:
    """Kill a phase, which has not ended by itself, unless it `may_end`."""
    lead_up(world, situation, kill.phase)
    before, after = (None, kill.number) if kill.after else (kill.number, None)
    done = forked(call_of(world, kill.phase), killed.At(before, after, kill.spare_child))
    holds(f"no traceback: {done.output}", "Traceback" not in done.output)
    holds(f"{kill}: {done}", done.code == -signal.SIGKILL or may_end)
    return done


def go_on(world: World, situation: Situation, way: str) -> None:
    """After a crash: `recover`, or the `next` start and stop."""
    if way == "recover":
        done = forked(recover(world))
        for _ in range(9):  # under PVE's lock it works 6 s on a VM, and a guest is slow
            if NO_TIME not in done.output:
                break
            done = forked(recover(world))
        ran(done)
    else:
        start(world, situation)
        stop(world)


def points(makers: list[str], how: str, *, every: bool) -> list[int]:
    """The changes to kill at; without `every` only the first two, one in the middle and the last of those that a child
    makes in a row: on a simulated host they are the simulated kernel's own.
    """
    found = []
    rows = itertools.groupby(range(1, len(makers) + 1), lambda number: makers[number - 1].lower())
    for maker, numbers in rows:
        row = list(numbers)
        if maker == "child" and not every:
            row = sorted({*row[:2], row[len(row) // 2], row[-1]})
        if maker == "child" or how != "spared":
            found += [number for number in row if how != "after" or makers[number - 1].islower()]
    return found


def sweep(  # noqa: PLR0913 - what varies is by keyword
    world: World, situation: Situation, phase: str, how: str, *, every: bool = True, stride: int = 1, most: int = 0
) -> int:
    """Kill a phase at every change, or each `stride`-th, or at `most` of them that lie evenly, and go on.

    Returns how many crashes there were.

    `how`: `before` a change, then recover; `after` it, then the next start, which meets the same states; or `spared`:
    before a change of its child, which lives on, then either in turn.
    """
    before = warm_up(world, situation)
    makers = changes(world, situation, phase).changes
    as_before(world, before, "without a crash")
    numbers = points(makers, how, every=every)[::stride]
    if 0 < most < len(numbers):
        numbers = [numbers[(2 * place + 1) * len(numbers) // (2 * most)] for place in range(most)]
    holds(f"makes changes: {makers}", numbers)
    for number, way in zip(numbers, itertools.cycle(WAYS[how]), strict=False):
        kill = Kill(phase, number, after=how == "after", spare_child=how == "spared")
        try:
            answers = how == "after" and makers[number - 1] == "child"  # then the hook goes on while the kill comes
            crash(world, situation, kill, may_end=answers)
            go_on(world, situation, way)
            as_before(world, before, "after it")
        except AssertionError as error:
            raise AssertionError(f"{kill} ({makers[number - 1]}), then {way}: {error}") from error
    return len(numbers)


def torn_writes(world: World, name: str, phase: str, sizes: tuple[int, ...]) -> int:
    """Kill a phase after each line of its journal, the line cut to so many bytes, as a kill in the middle of its write
    leaves it, and go on; returns how many crashes there were.
    """
    situation = SITUATIONS[name]
    before = warm_up(world, situation)
    journal = f"/run/pvepassthru/{VMID}.journal"
    names = changes(world, situation, phase).names
    numbers = [number for number, what in enumerate(names, 1) if what.startswith("write ") and what.endswith(journal)]
    ways = itertools.cycle(("recover", "next"))
    for number, size in itertools.product(numbers, sizes):
        crash(world, situation, Kill(phase, number, after=True))
        torn(world, size)
        way = next(ways)
        go_on(world, situation, way)
        as_before(world, before, f"{phase} killed at change {number}, its line cut to {size} bytes, then {way}")
    return len(numbers) * len(sizes)


def slow_write(world: World, name: str, phase: str, way: str) -> None:
    """The driver takes a second, and the hook alone is killed while its child is in the middle of that write."""
    situation = SITUATIONS[name]
    before = warm_up(world, situation)
    lead_up(world, situation, phase)
    starts = phase == "pre-start"
    path = f"{world.root}{MDEVS}/{situation.made[0 if starts else -1]}"  # a SimHost would complete the write
    world.configure(delay_ms=1000)
    done = forked(hook(world, phase), when=lambda: os.path.lexists(path) == starts)
    check(f"killed: {done.output}", done.code, -signal.SIGKILL)
    begin = time.monotonic()
    go_on(world, situation, way)
    holds("waited for the write", time.monotonic() - begin > 0.3)
    world.configure(delay_ms=0)
    as_before(world, before, f"{name}, {phase}, {way}")
