# SPDX-License-Identifier: Apache-2.0
"""recover, plan and status beside PVE: what they do, and what they leave alone."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.kernel.checks import check, holds
from tests.scenarios.world import MDEVS, OTHER, PARENT, PCI, failed, mdev, said, uuid, went

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.scenarios.world import World

ONE = mdev(1)
OURS = uuid(0, 100)
MADE = {OURS: f"{PARENT} tbmdev-1"}
STEP = f"mdev tbmdev-1 {PARENT}/{OURS}"


def _crashed(world: World, vmid: int = 100, config: str = ONE) -> None:
    """A VM whose start failed where PVE cleans nothing up."""
    world.pve.define(vmid, config)
    failed(world.pve.start(vmid, fail="command"), "injected-command")


def _json(world: World, *words: str, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(world.run(*words, "--json", code=code))
    return found


def _tree(world: World) -> dict[str, str]:
    """Every file, link and folder of a simulated node, with what is in it."""
    found = {}
    for folder, folders, files in os.walk(world.root):
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                found[path] = os.readlink(path)
            elif os.path.isdir(path):
                found[path] = oct(os.stat(path).st_mode)
            else:
                with open(path, "rb") as file:
                    found[path] = f"{os.stat(path).st_mode:o} {hashlib.sha256(file.read()).hexdigest()}"
    return found


@contextmanager
def _unchanged(world: World) -> Iterator[None]:
    """See that the `with` changes nothing: the whole tree of a simulated node, what can change of a real one."""
    before = _tree(world) if world.simulated else world.state()
    yield
    check("nothing changed", _tree(world) if world.simulated else world.state(), before)


@contextmanager
def locked(world: World, vmid: int) -> Iterator[None]:
    """Hold PVE's lock on a VM's config, as any qm command does."""
    with open(f"{world.root}/run/lock/qemu-server/lock-{vmid}.conf", "a", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# ---- recover


def recover_dead(world: World) -> None:
    """What a dead VM left goes; a running one stays, and so does what nobody of us made."""
    world.pve.define(101, mdev(1, parent=OTHER))
    went(world.pve.start(101))
    before = world.state()
    _crashed(world)
    with _unchanged(world):
        found = _json(world, "recover", "--dry-run")
        outcomes = {vm["vmid"]: (vm["state"], vm["undone"]) for vm in found["vms"]}
        check("in a dry run", outcomes, {100: ("would-recover", [STEP]), 101: ("alive", [])})
        check("nothing is foreign", found["orphans"], [])
    outcomes = {vm["vmid"]: (vm["state"], vm["kept"]) for vm in _json(world, "recover")["vms"]}
    check("really", outcomes, {100: ("recovered", []), 101: ("alive", [])})
    check("as before", world.state(), before)
    said(world.run("recover", "100"), "nothing to recover for VM 100")
    went(world.pve.stop(101))


def recover_one(world: World) -> None:
    """With a VMID only that VM's journal is touched."""
    _crashed(world)
    _crashed(world, 101, mdev(1, parent=OTHER))
    said(world.run("recover", "101"), "VM 101: recovered")
    check("the other stays", world.mdevs(), MADE)
    check("the other's journal stays", world.journals(), ["100.journal"])


def recover_busy(world: World) -> None:
    """PVE works on the VM: it is between pre-start and QEMU, or being stopped. Skipped within about 5 s."""
    _crashed(world)
    with locked(world, 100), _unchanged_but_locks(world):
        begin = time.monotonic()
        found = _json(world, "recover")
        seconds = time.monotonic() - begin
        check("busy", [(vm["vmid"], vm["state"]) for vm in found["vms"]], [(100, "busy")])
        said(found["vms"][0]["reason"], "process")
        holds(f"within about 5 s: {seconds}", seconds < (8 if world.simulated else 20))
    said(world.run("recover"), "VM 100: recovered")


@contextmanager
def _unchanged_but_locks(world: World) -> Iterator[None]:
    before = world.state()
    yield
    check("nothing changed", world.state(), before)


def recover_sees_life(world: World) -> None:
    """A process in the VM's scope, or one that has the device open, is a sign of life."""
    _crashed(world)
    scope = "/sys/fs/cgroup/qemu.slice/100.scope/cgroup.procs"
    world.pve.cluster.put(scope, "4711\n")
    outcomes = _json(world, "recover")["vms"]
    check("alive", [(vm["state"], "4711" in vm["reason"]) for vm in outcomes], [("alive", True)])
    world.pve.cluster.put(scope, "")
    with world.held(OURS) as pid:
        outcomes = _json(world, "recover")["vms"]
        check("alive", [(vm["state"], str(pid) in vm["reason"]) for vm in outcomes], [("alive", True)])
    check("still there", world.mdevs(), MADE)
    said(world.run("recover"), "VM 100: recovered")
    check("gone", world.mdevs(), {})


def recover_damaged(world: World) -> None:
    """Journals that are none: one sentence each, and the others are still seen to."""
    _crashed(world)
    folder = f"{world.root}/run/pvepassthru"
    for name, text in {
        "101.journal": "\0\xff junk\n[]\n",
        "102.journal": '{"v": 99, "vmid": 102}\n',
        "103.journal": '{"v": 1, "vmid": 103}\n{"n": 1, "do": "warp", "target": "x", "before": null, "after": "y"}\n',
    }.items():
        with open(f"{folder}/{name}", "w", encoding="latin-1") as file:
            file.write(text)
        os.chmod(f"{folder}/{name}", 0o600)
    os.mkdir(f"{folder}/104.journal")
    report = _json(world, "recover", code=1)
    found = {vm["vmid"]: vm for vm in report["vms"]}
    states = {100: "recovered", 101: "recovered", 102: "failed", 103: "kept", 104: "failed"}
    check("states", {vmid: vm["state"] for vmid, vm in found.items()}, states)
    said(report["warnings"][0], "line 1 of", "101.journal", "damaged")
    said(found[102]["reason"], "format 99")
    said(found[103]["kept"][0], "warp")
    check("the good one is done", world.mdevs(), {})


def recover_reports_orphans(world: World) -> None:
    """An instance of PVE's UUID without a journal, and a foreign one: reported, never touched."""
    world.create(1, uuid(0, 555))
    world.create(1, "c0ffee00-1111-2222-3333-444455556666")
    with _unchanged_but_locks(world):
        found = _json(world, "recover")["orphans"]
    check(
        "orphans",
        [(one["vmid"], one["what"].split()[1]) for one in found],
        [
            (555, uuid(0, 555)),
            (None, "c0ffee00-1111-2222-3333-444455556666"),
        ],
    )


def status_of_everything(world: World) -> None:
    """status and mdev list say who holds what."""
    said(world.run("status"), "nothing held")
    _crashed(world)
    world.pve.define(101, mdev(2, parent=OTHER))
    went(world.pve.start(101))
    journals = {row["vmid"]: row for row in _json(world, "status")["journals"]}
    said(journals[100]["state"], "prepared")
    said(journals[101]["state"], "running")
    check("steps", [step["what"] for step in journals[100]["steps"]], [STEP])
    rows = json.loads(world.run("mdev", "list", "--json"))
    check(
        "instances",
        {row["uuid"]: (row["vmid"], row["parent"], row["type"]) for row in rows},
        {
            OURS: (100, PARENT, "tbmdev-1"),
            uuid(0, 101): (101, OTHER, "tbmdev-2"),
        },
    )
    said(next(row["state"] for row in rows if row["vmid"] == 101), "open in process")


# ---- plan


def plan_says_what_happens(world: World) -> None:
    """For pre-start and post-stop it says what the hook then does, and changes nothing below the root."""
    world.map("gpu", [PARENT, OTHER])
    world.fill()
    world.pve.define(100, "hostpci0: mapping=gpu,mdev=tbmdev-2\n")
    with _unchanged(world):
        planned = _lines(world, "plan", "100")
    run = world.hook(100, "pre-start")
    check("what pre-start did", _spoken(run.output), planned)
    said(planned[-1], f"created mdev tbmdev-2 on {OTHER}")
    with _unchanged(world):
        planned = _lines(world, "plan", "100", "post-stop")
    run = world.hook(100, "post-stop")
    check("what post-stop did", _spoken(run.output), planned)
    said(planned[0], "gave back mdev tbmdev-2")
    check("nothing is left", world.journals(), [])


def plan_of_a_refused_start(world: World) -> None:
    """The same sentence, and the phase's exit code."""
    world.fill()
    world.pve.define(100, ONE)
    with _unchanged(world):
        found = _json(world, "plan", "100", code=5)
    run = world.hook(100, "pre-start")
    check("exit code", run.code, 5)
    check("ok", found["ok"], expected=False)
    said(run, found["lines"][-1]["text"])


def plan_of_vgpu(world: World) -> None:
    """The kernel's part in it is simulated too; what others hold stays theirs."""
    first, second = world.make_vfs(2)
    world.pve.define(101, f"hostpci0: {first},mdev=nvidia-101\n")
    went(world.pve.start(101))
    world.pve.define(100, f"hostpci0: {second},mdev=nvidia-101\n")
    with _unchanged(world):
        planned = _lines(world, "plan", "100")
    run = world.hook(100, "pre-start")
    check("what pre-start did", _spoken(run.output), planned)
    with _unchanged(world):
        planned = _lines(world, "plan", "100", "post-stop")
    run = world.hook(100, "post-stop")
    check("what post-stop did", _spoken(run.output), planned)
    world.pve.define(100, f"hostpci0: {first},mdev=nvidia-101\n")
    with _unchanged(world):
        said(world.run("plan", "100", code=5), "PVP420", "VM 101")


def plan_of_nothing(world: World) -> None:
    """No VM, no journal, a running VM."""
    world.pve.define(100, "memory: 512\n")
    with _unchanged(world):
        said(world.run("plan", "100"), "nothing to do")
        said(world.run("plan", "100", "post-stop"), "nothing to do")
        said(world.run("plan", "199", code=3), "no VM 199")
    world.pve.define(101, ONE)
    went(world.pve.start(101))
    with _unchanged(world):
        said(world.run("plan", "101", code=5), "it is running as process")
        said(world.run("plan", "101", "pre-stop"), "1 step")
        begin = time.monotonic()
        said(world.run("plan", "101", "post-stop"), f"gave back mdev tbmdev-1 {PARENT}")
        holds("it waits for nobody", time.monotonic() - begin < 8)


def _lines(world: World, *words: str) -> list[str]:
    return [line["text"] for line in _json(world, *words)["lines"]]


def _spoken(output: str) -> list[str]:
    """What a hook said, without its name before each line."""
    return [line.partition(": ")[2].removeprefix("warning: ") for line in output.splitlines()]


def recover_while_starting(world: World) -> None:
    """A VM between pre-start and QEMU does not run, and its lock is held: nothing of it is touched."""
    world.pve.define(100, ONE)
    with locked(world, 100):
        check("prepared", world.hook(100, "pre-start").code, 0)
        said(world.run("recover"), "VM 100: skipped")
        check("untouched", world.mdevs(), MADE)
        check("untouched", world.kept(100), [f"mdev {PARENT}/{OURS} tbmdev-1"])
    holds("not removed", world.host.exists(f"{MDEVS}/{OURS}/remove") and world.host.exists(f"{PCI}/{PARENT}/{OURS}"))
