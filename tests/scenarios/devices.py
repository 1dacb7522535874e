# SPDX-License-Identifier: Apache-2.0
"""Mediated devices: which instance a start gets, what it leaves alone, and removals that block."""

from __future__ import annotations

import contextlib
import errno
import signal
import subprocess
import tempfile
from typing import TYPE_CHECKING

from tests.kernel import guest
from tests.kernel.checks import check, holds
from tests.kernel.sysfs import Started
from tests.scenarios.hook_process import HookProcess
from tests.scenarios.world import MDEVS, OTHER, PARENT, PCI, START, failed, mdev, refused, said, uuid, went

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.scenarios.world import World

ONE = mdev(1)
OURS = uuid(0, 100)
MADE = {OURS: f"{PARENT} tbmdev-1"}
MAPPED = "hostpci0: mapping=gpu,mdev=tbmdev-1\n"
PROBE = guest.PROBE


# ---- which one


def first_alternative_is_full(world: World) -> None:
    """The second is taken, and PVE adopts it there."""
    foreign = world.fill()
    world.map("gpu", [PARENT, OTHER])
    world.pve.define(100, MAPPED)
    before = world.state()
    log = went(world.pve.start(100))
    said(log, f"created mdev tbmdev-1 on {OTHER}")
    holds(f"PVE adopts it: {log}", "used as it is" in log.warnings[-1])
    check("mdevs", world.mdevs(), {foreign: f"{PARENT} tbmdev-4", OURS: f"{OTHER} tbmdev-1"})
    went(world.pve.stop(100))
    check("as before", world.state(), before)


def all_alternatives_are_full(world: World) -> None:
    for parent in (PARENT, OTHER):
        world.fill(parent)
    world.map("gpu", [PARENT, OTHER])
    world.pve.define(100, MAPPED)
    refused(world, 100, "hostpci0", "tbmdev-1", "no instance", PARENT, OTHER)


def adopted(world: World) -> None:
    """An instance of the right type under our UUID is taken as it is; what we did not make, a failing start leaves."""
    world.create(1, OURS)
    world.pve.define(100, ONE)
    before = world.state()
    log = failed(world.pve.start(100, fail="command"), "injected-command")
    said(log, f"adopted mdev tbmdev-1 on {PARENT}")
    check("no journal, and as before", world.state(), before)
    check("phases", went(world.pve.start(100)).phases, START)
    went(world.pve.stop(100))
    check("PVE removed it", world.mdevs(), {})


def adopted_on_a_later_alternative(world: World) -> None:
    """PVE then fails on the earlier one with EEXIST, warns, and takes ours where it is."""
    world.map("gpu", [PARENT, OTHER])
    world.create(1, OURS, OTHER)
    world.pve.define(100, MAPPED)
    log = went(world.pve.start(100))
    said(log, f"adopted mdev tbmdev-1 on {OTHER}")
    holds(f"EEXIST: {log}", "EEXIST" in log.warnings[0])
    went(world.pve.stop(100))
    check("PVE removed it", world.mdevs(), {})


def ours_of_another_type(world: World) -> None:
    world.create(2, OURS)
    world.pve.define(100, ONE)
    refused(world, 100, OURS, "tbmdev-2", PARENT)


def ours_on_another_parent(world: World) -> None:
    world.create(1, OURS, OTHER)
    world.pve.define(100, ONE)
    refused(world, 100, OURS, OTHER)


def ours_is_held(world: World) -> None:
    world.create(1, OURS)
    world.pve.define(100, ONE)
    with world.held(OURS) as pid:
        refused(world, 100, OURS, f"process {pid} (")


def foreign_instances(world: World) -> None:
    """Neither start nor stop nor recover touches what somebody else made; recover reports it."""
    foreign = "c0ffee00-1111-2222-3333-444455556666"
    world.create(1, foreign)
    world.create(1, uuid(0, 999))
    before = world.state()
    world.pve.define(100, mdev(1, 1))
    went(world.pve.start(100))
    went(world.pve.stop(100))
    check("as before", world.state(), before)
    said(world.run("recover"), "in no journal, left alone", foreign, uuid(0, 999))
    said(world.run("status"), "in no journal", foreign, uuid(0, 999))
    check("as before", world.state(), before)


def several_entries(world: World) -> None:
    """Two on one parent, out of order in the file, one through a mapping whose first parent they fill."""
    before = world.state()
    world.map("gpu", [PARENT, OTHER])
    entries = {9: "mapping=gpu,mdev=tbmdev-4", 2: f"{PARENT},mdev=tbmdev-1", 1: f"{PARENT},mdev=tbmdev-2"}
    world.pve.define(100, "".join(f"hostpci{index}: {value}\n" for index, value in entries.items()))
    log = went(world.pve.start(100))
    made = [line.split()[3] for line in log.output.splitlines() if "created mdev" in line]
    check("by number", made, ["tbmdev-2", "tbmdev-1", "tbmdev-4"])
    check("where", sorted(world.mdevs().values()), [f"{PARENT} tbmdev-1", f"{PARENT} tbmdev-2", f"{OTHER} tbmdev-4"])
    went(world.pve.stop(100))
    check("as before", world.state(), before)


def eight_entries(world: World) -> None:
    before = world.state()
    parents = [PARENT, OTHER] * 4
    world.pve.define(100, "".join(f"hostpci{index}: {parent},mdev=tbmdev-1\n" for index, parent in enumerate(parents)))
    went(world.pve.start(100))
    check("mdevs", world.mdevs(), {uuid(index, 100): f"{parents[index]} tbmdev-1" for index in range(8)})
    went(world.pve.stop(100))
    check("as before", world.state(), before)


# ---- room


def no_room(world: World) -> None:
    """The sentence says who has it."""
    world.pve.define(101, mdev(2, 1))
    went(world.pve.start(101))
    world.create(1, "c0ffee00-1111-2222-3333-444455556666")
    world.pve.define(100, ONE)
    refused(world, 100, "tbmdev-1", "VM 101", PARENT)


def room_of_the_core(world: World) -> None:
    """Where the kernel's core counts, a create without room answers EUSERS."""
    world.configure(core_count=1)
    world.create(1, uuid(0, 101))
    world.pve.define(100, ONE)
    refused(world, 100, "tbmdev-1", "VM 101", PARENT)


# ---- what goes away


def parent_without_driver(world: World) -> None:
    """The parent lost its driver before the start, and with it its types."""
    world.unbind(PARENT)
    world.pve.define(100, ONE)
    refused(world, 100, PARENT, "hostpci0")


def parent_loses_driver_while_running(world: World) -> None:
    """Its instances go with it: nothing is left to undo, and nothing else is touched."""
    world.create(1, uuid(0, 999), OTHER)
    before = world.state()
    world.pve.define(100, ONE)
    went(world.pve.start(100))
    world.pve.end_qemu(100)
    world.unbind(PARENT)
    log = went(world.pve.power_off(100))
    check("exit code", [run.code for run in log.hooks], [0])
    check("no journal", world.journals(), [])
    world.host.write(PROBE, PARENT)
    check("as before", world.state(), before)


def types_vanish_after_a_start_that_failed(world: World) -> None:
    """The parent lost driver, types and our instance: the next start is refused, and nothing is left to settle."""
    before = world.state()
    world.pve.define(100, ONE)
    failed(world.pve.start(100, fail="command"), "injected-command")
    world.unbind(PARENT)
    log = failed(world.pve.start(100), "hook-failed")
    said(log, PARENT, "hostpci0")
    check("no journal", world.journals(), [])
    world.host.write(PROBE, PARENT)
    check("as before", world.state(), before)


def replaced_while_running(world: World) -> None:
    """Somebody removed our instance and made another of our UUID: an equal name is not ownership."""
    world.pve.define(100, ONE)
    failed(world.pve.start(100, fail="command"), "injected-command")
    world.host.write(f"{MDEVS}/{OURS}/remove", "1")
    world.create(2, OURS, OTHER)
    log = world.hook(100, "post-stop")
    check("exit code", log.code, 0)
    said(log, OURS, "tbmdev-2", "left alone")
    check("still there", world.mdevs(), {OURS: f"{OTHER} tbmdev-2"})
    check("no journal", world.journals(), [])


# ---- in use, being removed, being created


def held_while_torn_down(world: World) -> None:
    """post-stop waits, keeps the step, names the process and ends well; later recover finds it closed."""
    world.pve.define(100, ONE)
    before = world.state()
    failed(world.pve.start(100, fail="command"), "injected-command")
    with world.held(OURS) as pid:
        run = world.hook(100, "post-stop")
        check("exit code", run.code, 0)
        holds(f"within its limit: {run.seconds}", 9 < run.seconds < 30)
        said(run, "kept mdev tbmdev-1", f"process {pid} (", "recover")
        check("kept", world.kept(100), [f"mdev {PARENT}/{OURS} tbmdev-1"])
        check("its removal was not even begun", world.mdevs(), MADE)
        log = failed(world.pve.start(100), "hook-failed")
        said(log, f"process {pid} (", OURS)
        check("the journal stays", world.kept(100), [f"mdev {PARENT}/{OURS} tbmdev-1"])
        said(world.run("recover"), "VM 100: skipped", f"process {pid} (")
    said(world.run("recover"), "VM 100: recovered")
    check("as before", world.state(), before)


def held_and_in_the_way(world: World) -> None:
    """What a start left and a process holds refuses the next start only if that needs the device."""
    before = world.state()
    world.pve.define(100, mdev(1))
    failed(world.pve.start(100, fail="command"), "injected-command")
    with world.held(OURS) as pid:
        world.pve.define(100, mdev(2))
        log = failed(world.pve.start(100), "hook-failed")
        said(log, f"cannot undo mdev tbmdev-1 {PARENT}/{OURS} of an earlier start", f"process {pid} (", "recover 100")
        check("untouched", world.mdevs(), MADE)
        world.pve.define(100, f"hostpci1: {OTHER},mdev=tbmdev-4\n")
        with world.impatient():
            said(went(world.pve.start(100)), "warning: kept mdev tbmdev-1", f"process {pid} (")
            check("both", world.mdevs(), {**MADE, uuid(1, 100): f"{OTHER} tbmdev-4"})
            went(world.pve.stop(100))
        check("the old one", world.kept(100), [f"mdev {PARENT}/{OURS} tbmdev-1"])
    said(world.run("recover"), "VM 100: recovered")
    check("as before", world.state(), before)


def removal_blocks(world: World) -> None:
    """PVE's own remove blocks while a QEMU lingers: our UUID is used, unlisted, and its capacity is not free."""
    before = world.state()
    world.pve.define(100, ONE)
    went(world.pve.start(100))
    pid = world.pve.running(100)
    with world.impatient():
        log = went(world.pve.stop(100, qemu="lingers"))
        said(log, "kept mdev tbmdev-1", f"process {pid} (")
    check("unlisted", world.mdevs(), {})
    log = failed(world.pve.start(100), "hook-failed")
    said(log, f"for an older one on {PARENT} a removal is under way", f"process {pid} (")
    world.pve.define(101, mdev(4))
    said(failed(world.pve.start(101), "hook-failed"), "tbmdev-4", f"1 in use (VM 100) on {PARENT}")
    world.pve.close()
    check("PVE's remove ended", world.state()["inside the parents"], before["inside the parents"])
    check("phases", went(world.pve.start(100)).phases, START)
    went(world.pve.stop(100))
    check("as before", world.state(), before)


def removal_takes_long(world: World) -> None:
    """Our own remove has not ended in time: the step is kept, and a start is refused until it has."""
    before = world.state()
    world.pve.define(100, ONE)
    failed(world.pve.start(100, fail="command"), "injected-command")
    world.configure(delay_ms=2500)
    with world.impatient():
        run = world.hook(100, "post-stop")
        check("exit code", run.code, 0)
        said(run, "kept mdev tbmdev-1", "a removal is under way")
        log = failed(world.pve.start(100), "hook-failed")
        said(log, OURS, "a removal is under way")
    world.configure(delay_ms=0)
    holds("it ends", guest.wait_for(lambda: not world.host.exists(f"{PCI}/{PARENT}/{OURS}"), 20))
    said(world.run("recover"), "VM 100: recovered")
    check("as before", world.state(), before)


def half_created(world: World) -> None:
    """Somebody creates our instance and takes his time: it is waited for and adopted, never removed half-created."""
    world.pve.define(100, ONE)
    world.configure(delay_ms=1500)
    creator = Started(world, f"{PCI}/{PARENT}/mdev_supported_types/tbmdev-1/create", OURS)
    holds("begun", guest.wait_for(lambda: world.host.exists(f"{MDEVS}/{OURS}")))
    check("no type yet", world.host.link(f"{MDEVS}/{OURS}/mdev_type"), None)
    run = world.hook(100, "pre-start")
    check("created", creator.outcome(), "ok")
    check(f"exit code: {run.output}", run.code, 0)
    said(run, f"adopted mdev tbmdev-1 on {PARENT}")
    holds("its remove file is there", world.host.exists(f"{MDEVS}/{OURS}/remove"))
    check("no journal", world.journals(), [])


def half_created_for_too_long(world: World) -> None:
    """The create does not end in time: the start is refused, and nobody writes to its remove file."""
    world.pve.define(100, ONE)
    world.configure(delay_ms=4000)
    creator = Started(world, f"{PCI}/{PARENT}/mdev_supported_types/tbmdev-1/create", OURS)
    holds("begun", guest.wait_for(lambda: world.host.exists(f"{MDEVS}/{OURS}")))
    with world.impatient():
        run = world.hook(100, "pre-start")
    holds(f"refused: {run}", run.code not in (0, 1, 2))
    holds("still creating", creator.running(0))
    holds("its remove file is there", world.host.exists(f"{MDEVS}/{OURS}/remove"))
    check("created", creator.outcome(), "ok")
    check("there", world.mdevs(), MADE)


def create_is_interrupted(world: World) -> None:
    """SIGTERM in the middle of a slow create: the hook waits for the kernel, then undoes itself."""
    before = world.state()
    world.pve.define(100, mdev(1, 1))
    world.configure(delay_ms=1000)
    hook = HookProcess(world, 100, "pre-start")
    holds("begun", guest.wait_for(lambda: len(world.kept(100)) == 1))
    hook.end(signal.SIGTERM)
    check(f"exit code: {hook.output}", hook.code, 8)
    said(hook.output, "SIGTERM")
    world.configure(delay_ms=0)
    check("as before", world.state(), before)


# ---- only on a simulated kernel, where a file can be made to say anything


def advice_is_wrong(world: World) -> None:
    """available_instances promises room that is not there: only the create tells, and the next alternative is taken."""
    foreign = world.fill()
    world.map("gpu", [PARENT, OTHER])
    world.pve.define(100, MAPPED)
    with _promised(world):
        log = went(world.pve.start(100))
    said(log, f"created mdev tbmdev-1 on {OTHER}")
    check("mdevs", world.mdevs(), {foreign: f"{PARENT} tbmdev-4", OURS: f"{OTHER} tbmdev-1"})
    went(world.pve.stop(100))


def advice_is_wrong_and_no_other(world: World) -> None:
    """Each errno that says full, and one that does not."""
    for parameters, words in (
        ({"full_errno": errno.ENOSPC}, "no instance left"),
        ({"full_errno": errno.EIO}, "Input/output error"),
        ({"full_errno": errno.ENOSPC, "core_count": 1}, "no instance left"),
    ):
        world.configure(**parameters)
        foreign = world.fill()
        world.pve.define(100, ONE)
        with _promised(world):
            refused(world, 100, words, f"uuid {foreign}" if "left" in words else "the kernel says", PARENT)
        world.host.write(f"{MDEVS}/{foreign}/remove", "1")


def second_entry_fails(world: World) -> None:
    """The gate saw room for it, and there was none: the first one's instance goes again."""
    world.fill(OTHER)
    world.pve.define(100, mdev(1) + f"hostpci1: {OTHER},mdev=tbmdev-1\n")
    with _promised(world, OTHER):
        said(refused(world, 100, "hostpci1", "no instance left", OTHER), "created mdev", "gave back mdev")


@contextlib.contextmanager
def _promised(world: World, parent: str = PARENT) -> Iterator[None]:
    """Let a parent's available_instances say 3; a real kernel's is covered by another file for as long."""
    path = f"{world.root}{PCI}/{parent}/mdev_supported_types/tbmdev-1/available_instances"
    if world.simulated:
        with open(path, "w", encoding="ascii") as file:
            file.write("3\n")
        yield
        return
    with tempfile.NamedTemporaryFile("w", encoding="ascii") as file:
        file.write("3\n")
        file.flush()
        subprocess.run(["mount", "-o", "bind", file.name, path], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", path], check=True)
