# SPDX-License-Identifier: Apache-2.0
"""Every flow of PVE's hook tables, with mediated devices that the hook makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.kernel.checks import check, holds
from tests.scenarios.world import ALL, NIC, OTHER, PARENT, START, STOP, failed, mdev, refused, said, uuid, went

if TYPE_CHECKING:
    from tests.scenarios.world import World

ONE = mdev(1)
MADE = {uuid(0, 100): f"{PARENT} tbmdev-1"}


def running(world: World, vmid: int = 100, config: str = ONE) -> None:
    """Define a VM and start it."""
    world.pve.define(vmid, config)
    went(world.pve.start(vmid))


def start_and_stop(world: World) -> None:
    before = world.state()
    world.pve.define(100, f"hostpci0: {PARENT},mdev=tbmdev-1\nhostpci1: {OTHER},mdev=tbmdev-2\n")
    log = went(world.pve.start(100))
    check("phases", log.phases, START)
    check("PVE creates nothing itself", [path for path, _ in log.writes], [])
    holds("PVE takes ours", sum("used as it is" in warning for warning in log.warnings) == 2)
    said(log, f"created mdev tbmdev-1 on {PARENT} ({uuid(0, 100)})", f"created mdev tbmdev-2 on {OTHER}")
    made = {uuid(0, 100): f"{PARENT} tbmdev-1", uuid(1, 100): f"{OTHER} tbmdev-2"}
    check("mdevs", world.mdevs(), made)
    check("journal", world.journal(100)[-1], {"state": "running"})
    said(world.run("status"), "VM 100: running", "mdev tbmdev-1", "mdev tbmdev-2")

    log = went(world.pve.stop(100))
    check("phases", log.phases, STOP)
    said(log, "2 steps will be undone after the stop")
    check("as before", world.state(), before)


def shutdown(world: World) -> None:
    before = world.state()
    running(world)
    log = failed(world.pve.shutdown(100, times_out=True), "shutdown-timeout")
    check("phases", log.phases, ["pre-stop"])
    check("the VM runs on with its mdev", world.mdevs(), MADE)
    check("and its journal", world.journals(), ["100.journal"])
    check("phases", went(world.pve.shutdown(100)).phases, STOP)
    check("as before", world.state(), before)


def reboot(world: World) -> None:
    before = world.state()
    running(world)
    log = went(world.pve.reboot(100))
    check("phases", log.phases, [*STOP, *START])
    check("a new mdev", world.mdevs(), MADE)
    went(world.pve.stop(100))
    check("as before", world.state(), before)


def guest_ends(world: World) -> None:
    before = world.state()
    for end in (world.pve.power_off, world.pve.crash):
        running(world)
        check("phases", went(end(100)).phases, ["post-stop"])
        check("as before", world.state(), before)


# ---- starts that fail


def start_fails(world: World) -> None:
    """PVE runs no post-stop then; the next pre-start settles what is left."""
    for place, left in (("command", MADE), ("prepare", {}), ("qemu", {})):
        _start_fails(world, place, left)


def start_fails_once(world: World) -> None:
    """As above, where PVE cleans nothing up."""
    _start_fails(world, "command", MADE)


def _start_fails(world: World, place: str, left: dict[str, str]) -> None:
    before = world.state()
    world.pve.define(100, ONE)
    log = failed(world.pve.start(100, fail=place), f"injected-{place}")
    check("phases", log.phases, ["pre-start"])
    check(f"what PVE leaves of {place}", world.mdevs(), left)
    check("the journal stays", world.journals(), ["100.journal"])
    said(went(world.pve.start(100)), "an earlier start left a journal")
    check("one step only", world.kept(100), [f"mdev {PARENT}/{uuid(0, 100)} tbmdev-1"])
    went(world.pve.stop(100))
    check("as before", world.state(), before)


def start_fails_and_recover_settles(world: World) -> None:
    before = world.state()
    world.pve.define(100, ONE)
    for place in ("command", "prepare", "qemu"):
        failed(world.pve.start(100, fail=place), f"injected-{place}")
        said(world.run("recover"), "VM 100: recovered")
        check("as before", world.state(), before)
    said(world.run("recover"), "nothing to recover")


def start_changes_its_mind(world: World) -> None:
    """The VM's entries change between a start that failed and the next: what is not wanted any more goes."""
    before = world.state()
    world.pve.define(100, mdev(1, 2))
    failed(world.pve.start(100, fail="command"), "injected-command")
    world.pve.define(100, f"hostpci0: {PARENT},mdev=tbmdev-1\nhostpci1: {OTHER},mdev=tbmdev-4\n")
    log = went(world.pve.start(100))
    said(log, f"gave back mdev tbmdev-2 {PARENT}/{uuid(1, 100)}", f"adopted mdev tbmdev-1 on {PARENT}")
    check("mdevs", world.mdevs(), {**MADE, uuid(1, 100): f"{OTHER} tbmdev-4"})
    went(world.pve.stop(100))
    check("as before", world.state(), before)
    world.pve.define(100, mdev(1, 2))
    failed(world.pve.start(100, fail="command"), "injected-command")
    world.pve.define(100, "memory: 512\n")
    went(world.pve.start(100))
    check("no entry is left, and no mdev", world.mdevs(), {})
    went(world.pve.stop(100))
    check("as before", world.state(), before)


# ---- resume, rollback, backup


def hibernate_and_resume(world: World) -> None:
    """PVE refuses to hibernate with hostpci; a resume starts the main section, and [PENDING] waits."""
    before = world.state()
    running(world)
    check("phases", failed(world.pve.hibernate(100), "hibernate-with-hostpci").phases, [])
    check("phases", went(world.pve.hibernate(100, anyway=True)).phases, ["post-stop"])
    check("as before", world.state(), before)
    world.pve.set_pending(100, "hostpci0", f"{OTHER},mdev=tbmdev-2")
    check("phases", went(world.pve.start(100)).phases, START)
    check("the main section counts", world.mdevs(), MADE)
    went(world.pve.stop(100))
    check("as before", world.state(), before)
    went(world.pve.start(100))
    check("what waited counts now", world.mdevs(), {uuid(0, 100): f"{OTHER} tbmdev-2"})
    went(world.pve.stop(100))
    check("as before", world.state(), before)


def rollback(world: World) -> None:
    """The snapshot's entry is another one than what runs."""
    before = world.state()
    snapshot = f"\n[snap]\nhostpci3: {OTHER},mdev=tbmdev-4\n"
    running(world, config=ONE + snapshot)
    check("phases", went(world.pve.rollback(100, "snap", ram=True)).phases, [*STOP, *START])
    check("the snapshot's", world.mdevs(), {uuid(3, 100): f"{OTHER} tbmdev-4"})
    check("phases", went(world.pve.rollback(100, "snap")).phases, STOP)
    check("as before", world.state(), before)


def backup(world: World) -> None:
    before = world.state()
    world.pve.define(100, ONE)
    check("of a stopped VM", went(world.pve.backup(100)).phases, ALL)
    check("as before", world.state(), before)
    went(world.pve.start(100))
    check("in snapshot mode", went(world.pve.backup(100, "snapshot")).phases, [])
    check("in stop mode", went(world.pve.backup(100, "stop")).phases, [*STOP, *START])
    check("its mdev", world.mdevs(), MADE)
    went(world.pve.stop(100))
    check("as before", world.state(), before)


def backup_finds_no_room(world: World) -> None:
    """A device in use by another VM refuses the start of a backup with a sentence that names the backup."""
    running(world, 101, mdev(4))
    world.pve.define(100, ONE)
    before = world.state()
    log = failed(world.pve.backup(100), "hook-failed")
    said(log, "a backup starts VM 100", "tbmdev-1", "VM 101")
    check("as before", world.state(), before)
    world.pve.cluster.put("/etc/pvepassthru.yaml", "defaults: {gate: off}\n")  # then the create finds it
    log = failed(world.pve.backup(100), "hook-failed")
    said(log, "a backup starts VM 100", "cannot create mdev tbmdev-1", "VM 101")
    check("as before", world.state(), before)


# ---- migration and HA


def migration_target(world: World) -> None:
    """Its config lies under the source node, and no such VM is on this one."""
    before = world.state()
    world.pve.define(100, ONE + f"\n[PENDING]\nhostpci0: {OTHER},mdev=tbmdev-2\n", node="other")
    check("phases", went(world.pve.migrate_in(100, "other")).phases, START)
    check("the main section counts", world.mdevs(), MADE)
    world.pve.finish_migration(100, "other")
    went(world.pve.stop(100))
    check("as before", world.state(), before)


def aborted_migration(world: World) -> None:
    """post-stop comes without a config."""
    before = world.state()
    world.pve.define(100, ONE, node="other")
    went(world.pve.migrate_in(100, "other"))
    check("phases", went(world.pve.abort_migration(100, "other")).phases, ["post-stop"])
    check("as before", world.state(), before)


def aborted_migration_while_qemu_lives(world: World) -> None:
    """QEMU got its SIGTERM just now: post-stop waits for it, and what it has open by then is recover's."""
    before = world.state()
    world.pve.define(100, ONE, node="other")
    went(world.pve.migrate_in(100, "other"))
    pid = world.pve.running(100)
    with world.impatient():
        log = went(world.pve.abort_migration(100, "other", qemu="lingers"))
    check("exit code", log.hooks[0].code, 0)
    said(log, "kept mdev tbmdev-1", f"process {pid} (")
    world.pve.close()
    said(world.run("recover"), "VM 100: recovered")
    check("as before", world.state(), before)


def migration_source(world: World) -> None:
    """No hook runs: the journal stays, and recover finds it empty of anything to do."""
    before = world.state()
    running(world)
    check("phases", went(world.pve.migrate_out(100, "other")).phases, [])
    check("the journal stays", world.journals(), ["100.journal"])
    said(world.run("recover"), "VM 100: recovered")
    check("as before", world.state(), before)


def high_availability(world: World) -> None:
    """A start that fails is tried once more, then the VM goes elsewhere; back again later it starts."""
    foreign = world.fill()
    world.pve.define(100, ONE)
    before = world.state()
    logs = world.pve.ha_start(100, "other")
    check("phases", [log.phases for log in logs], [["pre-start"], ["pre-start"]])
    said(logs[1], "no instance")
    check("as before", world.state(), before)
    world.host.write(f"/sys/bus/mdev/devices/{foreign}/remove", "1")
    world.pve.cluster.move(100, "other", world.node)
    check("phases", [log.phases for log in world.pve.ha_start(100, "other")], [START])
    check("its mdev", world.mdevs(), MADE)


# ---- odd ends


def entry_deleted_while_running(world: World) -> None:
    """Pending changes are applied before post-stop: the config knows nothing of the device any more."""
    before = world.state()
    running(world)
    world.pve.set_pending(100, "hostpci0", None)
    went(world.pve.stop(100))
    holds("the entry is gone", "hostpci" not in (world.host.text("/etc/pve/qemu-server/100.conf") or ""))
    check("as before", world.state(), before)


def mapping_deleted_while_running(world: World) -> None:
    """PVE's own cleanup dies half way and leaves its mdev: post-stop removes it."""
    before = world.state()
    world.map("gpu", [PARENT, OTHER])
    running(world, config="hostpci0: mapping=gpu,mdev=tbmdev-1\n")
    world.pve.map("")
    log = went(world.pve.stop(100))
    holds(f"PVE dies half way: {log}", "half way" in log.warnings[0])
    said(log, "gave back mdev")
    check("as before", world.state(), before)


def config_deleted_while_running(world: World) -> None:
    """No config at all: pre-stop and post-stop need none."""
    before = world.state()
    running(world)
    world.pve.end_qemu(100)
    world.host.remove(f"/etc/pve/nodes/{world.node}/qemu-server/100.conf")
    world.host.remove("/run/qemu-server/100.pid")
    check("exit code", world.hook(100, "pre-stop").code, 0)
    check("exit code", world.hook(100, "post-stop").code, 0)
    check("as before", world.state(), before)


def post_stop_twice(world: World) -> None:
    before = world.state()
    running(world)
    log = went(world.pve.stop(100, post_stop=2))
    check("phases", log.phases, ["pre-stop", "post-stop", "post-stop"])
    check("exit codes", [run.code for run in log.hooks], [0, 0, 0])
    check("nothing to say the second time", log.hooks[2].output, "")
    check("as before", world.state(), before)


def post_stop_never(world: World) -> None:
    """The next pre-start carries the step over; its first original value counts."""
    before = world.state()
    running(world)
    went(world.pve.stop(100, post_stop=0))
    check("the journal stays", world.journals(), ["100.journal"])
    said(went(world.pve.start(100)), "an earlier start left a journal")
    check("its mdev", world.mdevs(), MADE)
    went(world.pve.stop(100))
    check("as before", world.state(), before)


def qemu_lingers(world: World) -> None:
    """QEMU outlives SIGKILL, for PVE it is gone. PVE's own remove of the mdev blocks, and hides it from listings."""
    before = world.state()
    running(world)
    with world.impatient():
        log = went(world.pve.stop(100, qemu="lingers"))
    check("exit codes", [run.code for run in log.hooks], [0, 0])
    said(log, "kept mdev tbmdev-1", "recover")
    check("the journal stays", world.journals(), ["100.journal"])
    holds(f"no start now: {log}", not world.pve.start(100).ok)
    said(world.run("recover", code=0), "VM 100: skipped")
    check("the journal stays", world.journals(), ["100.journal"])
    world.pve.close()
    said(world.run("recover"), "VM 100: recovered")
    check("as before", world.state(), before)


def template(world: World) -> None:
    """A template ignores hostpci: its backup starts it without a device, and nothing is made."""
    world.pve.define(100, "template: 1\n" + ONE)
    before = world.state()
    log = went(world.pve.backup(100))
    check("phases", log.phases, ["pre-start", *STOP])
    check("as before", world.state(), before)
    check("nothing to say", log.output, "")


def without_hostpci(world: World) -> None:
    """Leaves at once, and makes no file at all."""
    world.pve.define(100, "memory: 512\n")
    check("phases", went(world.pve.start(100)).phases, START)
    log = went(world.pve.stop(100))
    check("phases", log.phases, STOP)
    check("nothing to say", log.output, "")
    holds("no folder of ours", not world.host.exists("/run/pvepassthru"))


def driver_is_kept(world: World) -> None:
    """hostpci with driver=keep: the driver is PVE's and the owner's business, and no journal is written."""
    world.pve.define(100, f"hostpci0: {NIC},driver=keep\n")
    before = world.state()
    check("exit code", world.hook(100, "pre-start").code, 0)
    check("as before", world.state(), before)


def wrong_entries(world: World) -> None:
    """What PVE refuses or drops, the hook refuses first, with a sentence that says what and where."""
    for config, words in {
        "hostpci0: 0000:1f:1f.0\n": ["0000:1f:1f.0", "PVP201"],
        "hostpci0: 0000:GG:00.0\n": ["0000:GG:00.0", "PVP301"],
        f"hostpci0: {PARENT},mdev=tbmdev-9\n": ["tbmdev-9", "PVP211", "tbmdev-1"],
        f"hostpci0: {NIC},mdev=tbmdev-1\n": [NIC, "PVP210"],
        f"hostpci0: {PARENT},mdev=tbmdev-1,pcie=1\n": ["q35", "PVP310"],
        "hostpci0: mapping=none,mdev=tbmdev-1\n": ["none", "PVP401"],
        f"hostpci0: {PARENT},mdev=tbmdev-1,romfile=../../etc/passwd\n": ["romfile", "PVP230"],
    }.items():
        world.pve.define(100, config)
        refused(world, 100, "hostpci0", *words)
