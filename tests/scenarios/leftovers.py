# SPDX-License-Identifier: Apache-2.0
"""What VMs leave behind: after a migration, without a journal, of another node, by hand; and who may take it away."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

from tests.kernel import guest
from tests.kernel.checks import check, holds
from tests.scenarios import forked
from tests.scenarios.recovery import locked
from tests.scenarios.world import MDEVS, NIC, OTHER, PARENT, PCI, mdev, said, uuid, went

if TYPE_CHECKING:
    from tests.scenarios.world import World

ONE = mdev(1)
OURS = uuid(0, 100)
STEP = f"mdev tbmdev-1 {PARENT}/{OURS}"
POLICY = "/etc/pve/pvepassthru.yaml"


def _json(world: World, *words: str, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(world.run(*words, "--json", code=code))
    return found


def _states(world: World, *words: str, code: int = 0) -> dict[int, str]:
    return {vm["vmid"]: vm["state"] for vm in _json(world, "recover", *words, code=code)["vms"]}


def _remove_orphans(world: World) -> None:
    world.pve.cluster.put(POLICY, "orphans: remove\n")
    os.chmod(world.host.path(POLICY), 0o644)


def _named(found: dict[str, Any]) -> list[str]:
    return [one["target"] for one in found["orphans"] if one["kind"] != "reservation"]


# ---- a migration's source


def migrated_away(world: World) -> None:
    """No post-stop runs on the source, and PVE's own cleanup died: recover gives back here what was made here."""
    world.map("gpu", [PARENT])
    before = world.state()
    world.pve.define(100, "hostpci0: mapping=gpu,mdev=tbmdev-1\n")
    went(world.pve.start(100))
    world.pve.map("")  # so PVE finds nothing to clean up
    went(world.pve.migrate_out(100, "other"))
    check("its config is another node's", world.host.exists("/etc/pve/qemu-server/100.conf"), expected=False)
    check("left here", list(world.mdevs()), [OURS])
    check("recovered", _states(world), {100: "recovered"})
    check("as before", world.state(), before)


def comes_back_meanwhile(world: World) -> None:
    """A VM that left a journal here and migrates back: nothing is touched while it starts, nor when it runs."""
    world.map("gpu", [PARENT])
    before = world.state()
    world.pve.define(100, "hostpci0: mapping=gpu,mdev=tbmdev-1\n")
    went(world.pve.start(100))
    went(world.pve.migrate_out(100, "other"))
    check("the journal stays", world.journals(), ["100.journal"])
    _remove_orphans(world)
    with locked(world, 100):  # as the start of the migration's target
        check("prepared", world.hook(100, "pre-start", source="other").code, 0)
        check("PVE works on it", _states(world), {100: "busy"})
        check("untouched", list(world.mdevs()), [OURS])
    went(world.pve.migrate_in(100, "other"))
    check("it runs", _states(world), {100: "alive"})
    world.pve.finish_migration(100, "other")
    check("it runs", _states(world), {100: "alive"})
    check("untouched", list(world.mdevs()), [OURS])
    went(world.pve.stop(100))
    check("as before", world.state(), before)


def aborted_beside_recover(world: World) -> None:
    """The post-stop of an aborted migration holds no lock of PVE's, so it and recover meet at ours: both end well."""
    before = world.state()
    world.pve.define(100, ONE, node="other")
    went(world.pve.migrate_in(100, "other"))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for _ in range(5):
                world.run("recover", "100")
            code = 0
        finally:
            os._exit(code)
    went(world.pve.abort_migration(100, "other"))
    check("recover", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
    check("as before", world.state(), before)


# ---- orphans by the policy


def orphans_of_this_node(world: World) -> None:
    """With `orphans: remove` what is PVE's by its UUID goes, of dead VMs of this node; all else stays."""
    world.pve.define(100, ONE)
    world.pve.define(102, ONE, node="other")
    world.pve.define(103, mdev(1, parent=OTHER))
    went(world.pve.start(103))
    foreign = "c0ffee00-1111-2222-3333-444455556666"
    for name in (OURS, uuid(0, 101), uuid(0, 102)):
        world.create(1, name)
    world.create(1, foreign, OTHER)
    alike = [OURS, uuid(0, 101), uuid(0, 102), foreign]
    check("without a policy they are reported", _named(_json(world, "recover")), alike)
    check("and stay", len(world.mdevs()), 5)
    _remove_orphans(world)
    planned = _json(world, "recover", "--dry-run")
    outcomes = {vm["vmid"]: (vm["state"], vm["undone"]) for vm in planned["vms"]}
    check("in a dry run", outcomes, {100: ("would-recover", [STEP]), 103: ("alive", [])})
    check("and is told of once", _named(planned), alike[1:])
    check("nothing is touched", len(world.mdevs()), 5)
    found = _json(world, "recover")
    check("removed", {vm["vmid"]: vm["state"] for vm in found["vms"]}, {100: "recovered", 103: "alive"})
    check("the others stay, and are told", _named(found), alike[1:])
    check("no journal was made", world.journals(), ["103.journal"])
    went(world.pve.stop(103))


def orphans_that_prove_nothing(world: World) -> None:
    """What mdevctl defines, what a process has open, and what may be in a damaged journal is not removed."""
    _remove_orphans(world)
    for vmid in (100, 101, 102):
        world.pve.define(vmid, ONE)
        world.create(1, uuid(0, vmid))
    world.pve.cluster.put(f"/etc/mdevctl.d/{PARENT}/{OURS}", "{}\n")
    with locked(world, 101):
        prepared = world.hook(101, "pre-start")  # adopts what is there, and so has no journal
        check("prepared", prepared.code, 0)
        with world.held(uuid(0, 102)) as pid:
            found = _json(world, "recover")
    states = {vm["vmid"]: vm["state"] for vm in found["vms"]}
    check("states", states, {100: "gone", 101: "busy"})
    holds(f"one in use is no orphan ({pid})", uuid(0, 102) not in _named(found))
    check("all are there", len(world.mdevs()), 3)
    said(next(one["hint"] for one in found["orphans"] if one["vmid"] == 100), "/etc/mdevctl.d/", "defines it")
    check("later", _states(world), {100: "gone", 101: "recovered", 102: "recovered"})
    check("mdevctl's stays", list(world.mdevs()), [OURS])


def orphan_in_a_damaged_journal(world: World) -> None:
    """A journal with a damaged line may have had it."""
    _remove_orphans(world)
    world.pve.define(100, ONE)
    world.create(1, OURS)
    path = f"{world.root}/run/pvepassthru/100.journal"
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(path, "w", encoding="ascii") as file:
        file.write('{"v": 1, "vmid": 100}\njunk\n{"n": 2, "done": true}\n')
    os.chmod(path, 0o600)
    check("recovered", _states(world), {100: "recovered"})
    check("its instance stays", list(world.mdevs()), [OURS])


def orphan_being_created(world: World) -> None:
    """An instance that the kernel still creates is left alone: a remove now would take its `remove` file for good."""
    _remove_orphans(world)
    world.pve.define(100, ONE)
    world.configure(delay_ms=1500)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            world.create(1, OURS)
            code = 0
        finally:
            os._exit(code)
    end = time.monotonic() + 10
    while not world.host.exists(f"{MDEVS}/{OURS}") and time.monotonic() < end:
        time.sleep(0.005)
    for _ in range(2):
        forked.ran(forked.forked(forked.recover(world)))
    check("created", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
    world.configure(delay_ms=0)
    holds("it can be removed", world.host.exists(f"{PCI}/{PARENT}/{OURS}/remove") or not world.mdevs())
    forked.ran(forked.forked(forked.recover(world)))
    check("gone", world.mdevs(), {})


def orphaned_vgpu_types(world: World) -> None:
    """A vGPU type goes where PVE's file still names the dead VM; where it names nobody it is only reported."""
    world.configure(capacity=8)
    first, second, third = world.make_vfs(3)
    before = world.state()
    world.pve.define(100, f"hostpci0: {first},mdev=nvidia-101\n")
    for vf in (first, second, third):
        world.set_vgpu(vf, "101")
    reserved = f"{first} 100 pid:999999\n{third} 101 pid:999999\n"
    world.pve.cluster.put("/run/qemu-server/pci-id-reservations", reserved)
    check("reported", _named(_json(world, "recover")), [first, second, third])
    _remove_orphans(world)
    check("removed", _states(world), {100: "recovered"})
    check("the others stay", list(world.vgpus()), [second, third])
    check("as does the other's reservation", world.reservations(), {third: "101 pid"})
    said(world.run("release", "101"), "VM 101: recovered")
    check("by hand", list(world.vgpus()), [second])
    world.set_vgpu(second, "0")
    check("as before", world.state() | {"reservations": ""}, before | {"reservations": ""})


def stale_override(world: World) -> None:
    """An override that nothing asks for is reported, with policy too; never touched."""
    _remove_orphans(world)
    world.host.write(f"{PCI}/{NIC}/driver_override", "vfio-pci")
    found = _json(world, "recover")
    check("reported", [(one["kind"], one["target"]) for one in found["orphans"]], [("override", NIC)])
    said(found["orphans"][0]["hint"], "nobody can tell who wrote it", f"echo > {PCI}/{NIC}/driver_override")
    check("untouched", world.host.text(f"{PCI}/{NIC}/driver_override"), "vfio-pci")


def wanted_override(world: World) -> None:
    """None is stale that a file sets at boot, that the policy lets stay, or whose function is in use."""
    world.host.write(f"{PCI}/{NIC}/driver_override", "vfio-pci")
    folder = (world.host.resolve(f"{PCI}/{NIC}") or "").removeprefix("/sys")
    rule = 'DEVPATH=="{}", ATTR{{driver_override}}="vfio-pci"\n'
    sources = {
        "/etc/udev/rules.d/61-pvepassthru.rules": rule.format(folder),
        "/etc/initramfs-tools/scripts/init-top/mine": "for one in $ALL; do echo vfio-pci >$one/driver_override; done\n",
        f"/etc/driverctl.d/{NIC}": "vfio-pci\n",
        POLICY: f"devices:\n  '{NIC}':\n    give_back: stay\n",
    }
    for path, text in sources.items():
        world.pve.cluster.put(path, text)
        os.chmod(world.host.path(path), 0o644)
        check(f"by {path}", _json(world, "recover")["orphans"], [])
        os.unlink(world.host.path(path))
    for path, text in {
        "/etc/udev/rules.d/9.rules": rule.format(OTHER),  # another device's
        "/usr/local/bin/tool": "\0driver_override",  # a program
    }.items():
        world.pve.cluster.put(path, text)
        check(f"not by {path}", _named(_json(world, "recover")), [NIC])
        os.unlink(world.host.path(path))
    with world.held(NIC):
        check("in use", _named(_json(world, "recover")), [])


# ---- the timer


def quiet_timer(world: World) -> None:
    """`--quiet` says each orphan once, and then nothing until something new happens."""
    check("nothing", world.run("recover", "--quiet"), "")
    world.create(1, uuid(0, 555))
    said(world.run("recover", "--quiet"), uuid(0, 555), "pvepassthru release 555")
    check("said before", world.run("recover", "--quiet"), "")
    world.pve.define(101, mdev(1, parent=OTHER))
    went(world.pve.start(101))
    check("a running VM is nothing new", world.run("recover", "--quiet"), "")
    went(world.pve.stop(101))
    world.pve.define(100, ONE)
    check("prepared", world.hook(100, "pre-start").code, 0)
    output = world.run("recover", "--quiet", "--limit", "60")
    said(output, "VM 100: recovered", "gave back")
    holds(f"nothing of what was said: {output}", "555" not in output)
    said(world.run("release", "555"), "VM 555: recovered")
    check("nothing", world.run("recover", "--quiet"), "")
    world.create(1, uuid(0, 555))
    said(world.run("recover", "--quiet"), uuid(0, 555))


def limited_time(world: World) -> None:
    """A run that has no time left for a VM leaves it to the next one."""
    world.pve.define(100, ONE)
    check("prepared", world.hook(100, "pre-start").code, 0)
    check("postponed", _states(world, "--limit", "1"), {100: "postponed"})
    check("still there", list(world.mdevs()), [OURS])
    check("next time", _states(world, "--limit", "60"), {100: "recovered"})
    said(world.run("recover", "--limit", "0", code=2), "no time")


def many_dead(world: World) -> None:
    """After a crash of fifty VMs one run gives everything back, two at once share the work, and none is in the way."""
    world.configure(capacity=64)
    before = world.state()
    for vmid in range(100, 150):
        world.pve.define(vmid, mdev(1, parent=(PARENT, OTHER)[vmid % 2]))
        forked.ran(forked.forked(forked.hook(world, "pre-start", vmid)))
    check("instances", len(world.mdevs()), 50)
    begin = time.monotonic()
    pids = []
    for _ in range(2):
        pids.append(os.fork())
        if not pids[-1]:
            code = 1
            try:
                code = forked.recover(world, "--quiet", "--limit", "240")()
            finally:
                os._exit(code)
    check("exit codes", [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids], [0, 0])
    seconds = time.monotonic() - begin
    holds(f"within two minutes: {seconds:.1f} s", seconds < 120)
    check("as before", world.state(), before)


def slow_removal(world: World) -> None:
    """A driver that takes longer than recover may hold PVE's lock: the lock is let go in time, the rest comes later."""
    world.pve.define(100, ONE)
    check("prepared", world.hook(100, "pre-start").code, 0)
    world.configure(delay_ms=10_000)
    begin = time.monotonic()
    outcome = _json(world, "recover", code=1)["vms"][0]
    seconds = time.monotonic() - begin
    world.configure(delay_ms=0)
    holds(f"before a start's patience is over: {seconds:.1f} s", seconds < 9.5)
    check("kept", (outcome["state"], len(outcome["kept"])), ("kept", 1))
    said(outcome["kept"][0], STEP, "a removal is under way")
    with locked(world, 100):
        check("nobody has PVE's lock", world.kept(100), [f"mdev {PARENT}/{OURS} tbmdev-1"])
    holds("the removal ends", guest.wait_for(lambda: not world.host.exists(f"{PCI}/{PARENT}/{OURS}"), 15))
    check("later", _states(world), {100: "recovered"})
    check("gone", (world.mdevs(), world.journals()), ({}, []))


def broken_policy(world: World) -> None:
    """Journals are replayed all the same; orphans stay, and it is said why."""
    world.pve.define(100, ONE)
    check("prepared", world.hook(100, "pre-start").code, 0)
    world.pve.define(101, ONE)
    world.create(1, uuid(0, 101))
    _remove_orphans(world)
    os.chmod(world.host.path(POLICY), 0o666)
    found = _json(world, "recover", code=1)
    check("the journal", [(vm["vmid"], vm["state"]) for vm in found["vms"]], [(100, "recovered")])
    said(found["warnings"][0], "orphans are only reported", POLICY)
    check("stays", list(world.mdevs()), [uuid(0, 101)])


# ---- by hand


def release_by_hand(world: World) -> None:
    """What the journal has and what is in none, once the VM is dead; and whose config is nowhere."""
    before = world.state()
    world.pve.define(100, mdev(1, 1))
    check("prepared", world.hook(100, "pre-start").code, 0)
    world.create(1, uuid(5, 100), OTHER)
    planned = _json(world, "release", "100", "--dry-run")["vms"][0]
    check("planned", planned["state"], "would-recover")
    third = f"mdev tbmdev-1 {OTHER}/{uuid(5, 100)}"
    check("planned", planned["undone"], [STEP, f"mdev tbmdev-1 {PARENT}/{uuid(1, 100)}", third])
    check("nothing is touched", len(world.mdevs()), 3)
    world.pve.destroy(100)
    said(world.run("release", "100"), "VM 100: recovered", uuid(5, 100))
    check("as before", world.state(), before)
    said(world.run("release", "100"), "VM 100: nothing is left")
    said(world.run("release", "99", code=2), "no VMID")


def release_refused(world: World) -> None:
    """A VM that lives, by any sign, and one that PVE works on: why, and nothing is touched."""
    world.pve.define(100, ONE)
    went(world.pve.start(100))
    before = world.state()
    said(world.run("release", "100", code=5), "cannot release VM 100: it runs as process", "qm stop 100")
    went(world.pve.stop(100))
    check("prepared", world.hook(100, "pre-start").code, 0)
    with locked(world, 100):
        said(world.run("release", "100", code=6), "cannot lock the config of VM 100 within 5 s", "process")
    with world.held(OURS) as pid:
        said(world.run("release", "100", code=5), f"process {pid}", f"has {STEP} open")
    if world.simulated:
        world.pve.cluster.put("/sys/fs/cgroup/qemu.slice/100.scope/cgroup.procs", "4711\n")
        said(world.run("release", "100", code=5), "its scope still has process 4711")
        world.pve.cluster.put("/sys/fs/cgroup/qemu.slice/100.scope/cgroup.procs", "")
    check("untouched", world.mdevs(), before["mdevs"])
    world.run("release", "100")
    check("gone", world.mdevs(), {})


def release_keeps(world: World) -> None:
    """What mdevctl defines is kept, and told; the rest goes."""
    world.create(1, OURS)
    world.create(1, uuid(1, 100))
    world.pve.cluster.put(f"/etc/mdevctl.d/{PARENT}/{OURS}", "{}\n")
    output = world.run("release", "100", code=1)
    said(output, "VM 100: kept", f"kept {STEP}: /etc/mdevctl.d/{PARENT}/{OURS} defines it", uuid(1, 100))
    check("kept", list(world.mdevs()), [OURS])
