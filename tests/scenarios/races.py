# SPDX-License-Identifier: Apache-2.0
"""Many hooks at once: whoever comes first has the instance, the others say why not, and nothing is left or lost.

The hooks are real processes of the hookscript. Only the standard library.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
import traceback
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.host import reservations, state
from pvepassthru.host.deadline import Deadline
from pvepassthru.lifecycle import orphans, recover
from pvepassthru.model.errors import DeviceError
from tests.kernel.checks import check, holds
from tests.pve import hook as pve_hook
from tests.scenarios.counts import note
from tests.scenarios.world import MDEVS, PARENTS, PCI, PF, RESERVATIONS, VFS, uuid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pvepassthru.host.host import Host
    from tests.pve.flows import Pve
    from tests.scenarios.world import World

ROOM = 4
"""Instances of tbmdev-2 that the two parents have together."""
CONFIG = "hostpci0: mapping=vgpu,mdev=tbmdev-2\n"
FIRST = 200
LOSES = re.compile(
    r"pvepassthru: error: (PVP212 \S+ hostpci0: no instance of tbmdev-2 is left: "
    r"\d in use \(VM \d[^)]*\) on 0000:03:00.0; \d in use \(VM \d[^)]*\) on 0000:04:00.0; "
    r"|cannot create mdev tbmdev-2 for hostpci0 on 0000:03:00.0: no instance left \(used by VM \d[^)]*\); "
    r"on 0000:04:00.0: no instance left \(used by VM \d[^)]*\); )(stop a VM |VM \d[\d, ]* do(es)? not run: )"
)
"""What a hook says that comes too late: the gate's sentence, or that of the create which found the room gone."""


class Ended(NamedTuple):
    """How a hook ended."""

    code: int
    output: str


def at_once(world: World, calls: Iterable[tuple[int, str]], limit: float = 600.0) -> list[Ended]:
    """Run the hookscript for these VMs and phases, all at the same time."""
    environment = pve_hook.environment_of("", {"PVEPASSTHRU_ROOT": world.root} if world.root else {})
    running = [world.pve.begin([*world.pve.hook, str(vmid), phase], environment) for vmid, phase in calls]
    end = time.monotonic() + limit
    ended = []
    for program in running:
        output = pve_hook.finish(program, max(1.0, end - time.monotonic()))
        holds(f"no traceback: {output}", "Traceback" not in output)
        ended.append(Ended(program.returncode, output))
    return ended


def share(world: World, vmids: Iterable[int]) -> None:
    """Define VMs that all want one of the ROOM instances on the two parents."""
    world.map("vgpu", PARENTS)
    for vmid in vmids:
        world.pve.define(vmid, CONFIG)


def many_vms(world: World, count: int) -> None:
    """Of many VMs that start at once as many get an instance as there are; the others say that none is left."""
    vmids = range(FIRST, FIRST + count)
    share(world, vmids)
    before = world.state()
    ended = dict(zip(vmids, at_once(world, [(vmid, "pre-start") for vmid in vmids]), strict=True))
    have = [vmid for vmid, end in ended.items() if end.code == 0]
    check("VMs with an instance", len(have), ROOM)
    for vmid, end in ended.items():
        if vmid not in have:
            check(f"exit code of VM {vmid}: {end.output}", end.code, DeviceError.exit_code)
            last = end.output.splitlines()[-1]
            holds(f"VM {vmid} says why: {end.output}", LOSES.match(last))
            check("one error", end.output.count("error:"), 1)
    check("instances", sorted(world.mdevs()), sorted(uuid(0, vmid) for vmid in have))
    check("on each parent", sorted(place.split()[0] for place in world.mdevs().values()), sorted(PARENTS * 2))
    check("journals", world.journals(), [f"{vmid}.journal" for vmid in have])
    for end in at_once(world, [(vmid, "post-stop") for vmid in vmids]):
        check(f"post-stop: {end.output}", end.code, 0)
    check("as before", world.state(), before)


@contextmanager
def together(world: World, count: int) -> Iterator[None]:
    """Within it so many hooks come to their first reservation before one of them makes its own."""
    with world.bent(f"together={count}"):
        yield
    shutil.rmtree(f"{world.root}/run/together")


def whole_functions(world: World, count: int) -> None:
    """Of many VMs that start at once as many get a VF as the mapping has; the others say who has them.

    All choose the first free one, and only one VM can be the first to reserve it.
    """
    world.host.write(f"{PCI}/{PF}/driver_override", "tbvgpu")
    world.host.write("/sys/bus/pci/drivers_probe", PF)
    world.host.write(f"{PCI}/{PF}/sriov_numvfs", str(len(VFS)))
    world.map("pool", VFS, mdev=False)
    vmids = range(FIRST, FIRST + count)
    for vmid in vmids:
        world.pve.define(vmid, "hostpci0: mapping=pool\n")
    before = world.state()
    with together(world, count):
        ended = dict(zip(vmids, at_once(world, [(vmid, "pre-start") for vmid in vmids]), strict=True))
    have = [vmid for vmid, end in ended.items() if end.code == 0]
    words = {vmid: end for vmid, end in ended.items() if end.code}
    check(f"VMs with a VF: {words}", len(have), len(VFS))
    check("each has one", sorted(line.split()[0] for line in world.reservations().values()), sorted(map(str, have)))
    check("bound", {vf: world.driver(vf) for vf in VFS}, dict.fromkeys(VFS, "vfio-pci"))
    for vmid, end in words.items():
        check(f"exit code of VM {vmid}: {end.output}", end.code, DeviceError.exit_code)
        holds(f"VM {vmid} says who has them: {end.output}", "PVP422" in end.output)
        holds(f"all of them: {end.output}", all(f"VM {other} has reserved it" in end.output for other in have))
        check("one error", end.output.count("error:"), 1)
    check("journals", world.journals(), [f"{vmid}.journal" for vmid in have])
    for end in at_once(world, [(vmid, "post-stop") for vmid in vmids]):
        check(f"post-stop: {end.output}", end.code, 0)
    check("as before", world.state(), before)


def mates(world: World, rounds: int = 4) -> None:
    """Two VMs with a function each of one IOMMU group start at once: only one of them has the group."""
    pair = ("0000:07:01.0", "0000:07:02.0")
    for vmid, function in zip((FIRST, FIRST + 1), pair, strict=True):
        world.pve.define(vmid, f"hostpci0: {function}\n")
    before = world.state() | {function: world.driver(function) for function in pair}
    for _ in range(rounds):
        with together(world, 2):
            ended = at_once(world, [(FIRST, "pre-start"), (FIRST + 1, "pre-start")])
        check(f"one of them starts: {ended}", sorted(end.code for end in ended), [0, DeviceError.exit_code])
        check("one has the group", len(world.reservations()), 1)
        check("bound", [world.driver(function) for function in pair], ["vfio-pci"] * 2)
        for end in at_once(world, [(FIRST, "post-stop"), (FIRST + 1, "post-stop")]):
            check(f"post-stop: {end.output}", end.code, 0)
        check("as before", world.state() | {function: world.driver(function) for function in pair}, before)


def one_vm(world: World, count: int = 8) -> None:
    """Hooks of one VM at once wait for each other."""
    share(world, [FIRST])
    before = world.state()
    for end in at_once(world, [(FIRST, "pre-start")] * count):
        check(f"pre-start: {end.output}", end.code, 0)
    check("instances", list(world.mdevs()), [uuid(0, FIRST)])
    for end in at_once(world, [(FIRST, "post-stop")] * count):
        check(f"post-stop: {end.output}", end.code, 0)
    check("as before", world.state(), before)
    for end in at_once(world, [(FIRST, "pre-start"), (FIRST, "post-stop")] * (count // 2)):
        check(f"mixed: {end.output}", end.code, 0)
    instances, journals = list(world.mdevs()), world.journals()
    holds(f"all or nothing: {instances} {journals}", len(instances) == len(journals) <= 1)
    for end in at_once(world, [(FIRST, "post-stop")]):
        check(f"post-stop: {end.output}", end.code, 0)
    check("as before", world.state(), before)


# ---- PVE's reservation file


def children(calls: Iterable[Callable[[], None]]) -> None:
    """Run calls in forked processes, all at the same time, and raise AssertionError when one of them fails."""
    started = []
    for call in calls:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                call()
                code = 0
            except BaseException:  # noqa: BLE001 - the exit code tells it, and the traceback is for people
                traceback.print_exc()
            finally:
                os._exit(code)
        started.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in started]
    check("exit codes of the children", codes, [0] * len(codes))


def edits(world: World, times: int) -> None:
    """PVE and we edit the reservation file at once, each other VMs' functions: no edit is lost."""
    later = int(time.time()) + 100_000
    kept = f"0000:05:00.0 900 time:{later}\n"
    world.pve.cluster.put(RESERVATIONS, kept)

    def ours(vmid: int, address: str) -> Callable[[], None]:
        def call() -> None:
            for _ in range(times):
                reservations.reserve(world.host, [address], vmid, 60, Deadline(30))
                holds("reserved", world.reservations().get(address) == f"{vmid} time")
                reservations.release(world.host, [address], vmid, Deadline(30))
                holds("released", address not in world.reservations())

        return call

    def theirs(vmid: int, address: str) -> Callable[[], None]:
        def call() -> None:
            for _ in range(times):
                world.pve.reserved().reserve([address], vmid, timeout=60)
                holds("reserved", world.reservations().get(address) == f"{vmid} time")
                world.pve.reserved().remove(vmid)
                holds("removed", address not in world.reservations())

        return call

    children([who(300 + index, f"0000:0{index + 1}:00.1") for index, who in enumerate((ours, theirs) * 3)])
    check("what was there is there", world.host.read(RESERVATIONS).decode(), kept)


# ---- recover beside starts and stops


def lives(world: World, make_pve: Callable[[], Pve], vmids: Iterable[int], workers: int, watchers: int = 2) -> None:
    """VMs start and stop, as many at once as there is room for, beside `recover`s that run without a pause.

    They remove orphans too. Half of the VMs have no hookscript: what PVE makes for them is in no journal, and looks
    like an orphan until their QEMU runs.
    """
    wanted = list(vmids)
    share(world, wanted)
    before = world.state()
    stop, seen = os.pipe(), os.pipe()
    watching = [_fork_watcher(world, stop, seen) for _ in range(watchers)]
    os.close(stop[0])
    os.close(seen[1])

    def worker(own: list[int]) -> Callable[[], None]:
        def call() -> None:
            pve = make_pve()
            hook = pve.hook
            for vmid in own:
                pve.hook = hook if vmid % 2 else []
                log = pve.start(vmid)
                holds(f"VM {vmid} started: {log}", log.ok)
                holds(f"its instance is there: {log}", world.host.exists(f"{MDEVS}/{uuid(0, vmid)}"))
                holds(f"it can be removed: {log}", world.host.exists(f"{MDEVS}/{uuid(0, vmid)}/remove"))
                adopted = any("used as it is" in warning for warning in log.warnings)
                check(f"PVE found it: {log}", adopted, bool(pve.hook))
                time.sleep(0.1)  # it runs, and nobody has its lock
                log = pve.stop(vmid)
                holds(f"VM {vmid} stopped: {log}", log.ok)
            pve.close()

        return call

    try:
        children(worker(wanted[index::workers]) for index in range(workers))
    finally:
        os.close(stop[1])
    with os.fdopen(seen[0]) as reader:
        states = reader.read().split()
    for pid in watching:
        check("recover ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
    holds(f"recover met VMs that live: {Counter(states)}", states.count("alive") >= len(wanted) // 2)
    holds(f"and undid nothing: {Counter(states)}", set(states) <= {"alive", "busy", "gone", "recovered"})
    note("recover beside them", len(states))
    check("as before", world.state(), before)


def _fork_watcher(world: World, stop: tuple[int, int], seen: tuple[int, int]) -> int:
    """A process that recovers without a pause until `stop` is closed; returns its pid."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(stop[1])
        _recover_without_pause(world.host, stop[0], seen[1])
    return pid


def _recover_without_pause(host: Host, stop: int, seen: int) -> None:
    """Recover every VM with a journal, or with an orphan, over and over until `stop` is closed at its other end.

    Each outcome is noted, with a plus for each step undone.
    """
    code = 1
    try:
        os.set_blocking(stop, False)
        while not _closed(stop):
            for vmid in {*state.journals(host), *orphans.removable(host)}:
                outcome = recover.recover(host, vmid, dry_run=False, warn=lambda _: None, with_orphans=True)
                os.write(seen, f"{outcome.state}{'+' * len(outcome.undone)}\n".encode())
        code = 0
    except BaseException:  # noqa: BLE001 - the exit code tells it, and the traceback is for people
        traceback.print_exc()
    finally:
        os._exit(code)


def _closed(fd: int) -> bool:
    try:
        return os.read(fd, 1) == b""
    except BlockingIOError:
        return False
