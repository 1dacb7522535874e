# SPDX-License-Identifier: Apache-2.0
"""What goes wrong around a hook: unreadable files, killed writers, others at work, damaged journals, Ctrl-C."""

from __future__ import annotations

import fcntl
import functools
import os
import signal
import time
from typing import TYPE_CHECKING

from tests.kernel import guest
from tests.kernel.checks import check, holds
from tests.scenarios.hook_process import HookProcess
from tests.scenarios.world import MDEVS, NIC, OTHER, PARENT, failed, mdev, refused, said, uuid, went

if TYPE_CHECKING:
    from tests.scenarios.world import World

FOLDER = "/run/pvepassthru"
TWO_UNITS = "101"
"""A vGPU type."""


def create_elsewhere_takes_long(world: World) -> None:
    """A post-stop does not wait for another VM's create on the same parent: nothing of its own is in flight."""
    world.pve.define(100, mdev(1, 1))
    went(world.pve.start(100))
    with open(f"{world.root}{FOLDER}/{PARENT}.lock", "a", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        world.pve.end_qemu(100)
        world.host.write(f"{MDEVS}/{uuid(1, 100)}/remove", "1")  # as PVE's own cleanup does
        begin = time.monotonic()
        check("exit code", world.hook(100, "post-stop").code, 0)
        holds("at once", time.monotonic() - begin < 8)
    check("gone", world.mdevs(), {})
    check("journals", world.journals(), [])


def gpu_is_free_while_qemu_ends(world: World) -> None:
    """While a post-stop waits for its QEMU to let go of a VF, another VM gets its vGPU on the same GPU."""
    mine, others = world.make_vfs(2)
    world.pve.define(100, f"hostpci0: {mine},mdev=nvidia-{TWO_UNITS}\n")
    world.pve.define(101, f"hostpci0: {others},mdev=nvidia-{TWO_UNITS}\n")
    failed(world.pve.start(100, fail="command"), "injected-command")
    with world.held(mine):
        hook = HookProcess(world, 100, "post-stop")
        begin = time.monotonic()
        check("exit code", world.hook(101, "pre-start").code, 0)
        holds("at once", time.monotonic() - begin < 6)
    hook.end()
    check("vGPUs", world.vgpus(), {others: TWO_UNITS})
    check("exit code", world.hook(101, "post-stop").code, 0)


def post_stop_of_a_running_vm(world: World) -> None:
    """Whoever runs it: the VM's device stays, and so does PVE's own reservation."""
    (vf,) = world.make_vfs(1)
    world.pve.define(100, f"hostpci0: {vf},mdev=nvidia-{TWO_UNITS}\n")
    went(world.pve.start(100))
    before = world.state()
    with world.impatient():
        said(world.hook(100, "post-stop"), "VM 100 runs as process", "nothing is given back")
    check("as before", world.state(), before)
    check("reserved", world.reservations(), {vf: "100 pid"})
    went(world.pve.stop(100))


def vf_is_anothers(world: World) -> None:
    """A post-stop does not wait for the QEMU of another VM that has the VF by now."""
    (vf,) = world.make_vfs(1)
    for vmid in (100, 101):
        world.pve.define(vmid, f"hostpci0: {vf},mdev=nvidia-{TWO_UNITS}\n")
    went(world.pve.start(100))
    went(world.pve.stop(100, post_stop=0))
    went(world.pve.start(101))
    begin = time.monotonic()
    said(world.hook(100, "post-stop"), "the VF is no longer this VM's")
    holds("at once", time.monotonic() - begin < 6)
    went(world.pve.stop(101))
    said(world.run("recover"), "VM 100: recovered")


def adopted_is_done(world: World) -> None:
    """What a start adopts after its hook was killed needs no wait for the parent any more when it is given back."""
    world.pve.define(100, mdev(1))
    check("exit code", world.hook(100, "pre-start").code, 0)
    path = f"{world.root}{FOLDER}/100.journal"
    with open(path, encoding="ascii") as file:
        lines = file.readlines()
    with open(path, "w", encoding="ascii") as file:
        file.writelines(line for line in lines if '"done"' not in line)  # killed before it wrote that
    check("exit code", world.hook(100, "pre-start").code, 0)
    with open(f"{world.root}{FOLDER}/{PARENT}.lock", "a", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        begin = time.monotonic()
        check("exit code", world.hook(100, "post-stop").code, 0)
        holds("at once", time.monotonic() - begin < 6)
    check("gone", world.mdevs(), {})


def lost_step_is_not_forgotten(world: World) -> None:
    """A step whose intent is damaged keeps its number, whatever comes after it."""
    world.pve.define(100, mdev(1) + f"hostpci1: {OTHER},mdev=tbmdev-1\n")
    check("exit code", world.hook(100, "pre-start").code, 0)
    path = f"{world.root}{FOLDER}/100.journal"
    with open(path, "rb") as journal:
        lines = journal.read().split(b"\n")
    place = next(number for number, line in enumerate(lines) if b'"n": 2, "do"' in line)
    lines[place] = lines[place][:12] + b"\xff" + lines[place][13:]
    with open(path, "wb") as journal:
        journal.write(b"\n".join(lines))
    world.pve.define(100, mdev(1) + f"hostpci2: {OTHER},mdev=tbmdev-1\n")
    check("exit code", world.hook(100, "pre-start").code, 0)
    check("exit code", world.hook(100, "post-stop").code, 0)
    holds("kept for people", os.path.exists(f"{world.root}{FOLDER}/100.damaged"))
    check("which nobody undid", list(world.mdevs()), [uuid(1, 100)])


def holder_is_about_to_be_gone(world: World) -> None:
    """A QEMU whose memory is being taken down has its files open for a while: the gate does not refuse for it."""
    world.pve.define(100, f"hostpci0: {NIC}\n")
    with world.held(NIC) as pid:
        refused(world, 100, "PVP424", f"process {pid} (")
        with open(f"{world.root}/proc/{pid}/cmdline", "w", encoding="ascii"):
            pass
        check("exit code", world.hook(100, "pre-start").code, 0)


def several_signals_at_once(world: World) -> None:
    """They end a pre-start once, and nothing complains of the others."""
    world.pve.define(100, mdev(1))
    world.configure(delay_ms=700)
    hook = HookProcess(world, 100, "pre-start")
    holds("begun", guest.wait_for(lambda: len(world.kept(100)) == 1))
    os.kill(hook.pid, signal.SIGSTOP)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
        os.kill(hook.pid, number)
    hook.end()
    check(f"exit code: {hook.output}", hook.code, 8)
    check("lines", sum("error" in line.lower() for line in hook.output.splitlines()), 1)
    world.configure(delay_ms=0)
    check("gone", world.mdevs(), {})


def type_cannot_be_read(world: World) -> None:
    """Unreadable is not gone: the step is kept, and a start says what it is."""
    (vf,) = world.make_vfs(1)
    world.pve.define(100, f"hostpci0: {vf},mdev=nvidia-{TWO_UNITS}\n")
    failed(world.pve.start(100, fail="command"), "injected-command")
    with world.bent("eio=current_vgpu_type"):
        said(world.hook(100, "post-stop"), "kept vGPU type", "current_vgpu_type: Input/output error")
    check("kept", len(world.kept(100)), 1)
    check("exit code", world.hook(100, "post-stop").code, 0)
    check("vGPUs", world.vgpus(), {})
    world.pve.cluster.put("/etc/pvepassthru.yaml", "defaults: {gate: off}\n")
    with world.bent("eio=current_vgpu_type"):
        refused(world, 100, "current_vgpu_type: Input/output error")


def writer_is_killed(world: World) -> None:
    """The process that creates is killed after the kernel has created: the instance is known, and goes again."""
    world.pve.define(100, mdev(1))
    with world.bent("killed=create"):
        refused(world, 100, "the process that wrote", "create was killed")
    went(world.pve.start(100))
    world.pve.end_qemu(100)
    with world.bent("killed=remove"):
        said(world.hook(100, "post-stop"), "kept mdev tbmdev-1", "remove was killed")
    check("nothing of it is left", world.mdevs(), {})
    said(world.run("recover"), "VM 100: recovered")


def damaged_journals_are_all_kept(world: World) -> None:
    """A start settles a damaged journal and fails then: both what is damaged and nothing else is set aside."""
    world.pve.define(100, mdev(1))
    check("exit code", world.hook(100, "pre-start").code, 0)
    folder = f"{world.root}{FOLDER}"
    texts = []
    for kept in ("100.damaged", "100.damaged.2"):
        with open(f"{folder}/100.journal", "rb+") as file:
            lines = file.read().split(b"\n")
            lines[1] = lines[1][:10] + b"\xff" + lines[1][11:]
            file.seek(0)
            file.write(b"\n".join(lines))
        texts.append(b"\n".join(lines))
        world.host.write(f"{MDEVS}/{uuid(0, 100)}/remove", "1")
        full = world.fill(OTHER)
        world.pve.define(100, mdev(1) + f"hostpci1: {OTHER},mdev=tbmdev-1\n")
        world.pve.cluster.put("/etc/pvepassthru.yaml", "defaults: {gate: off}\n")
        run = world.hook(100, "pre-start")
        check(f"refused: {run.output}", run.code, 5)
        check("said once", run.output.count("is not known and not undone"), 1)
        with open(f"{folder}/{kept}", "rb") as file:
            check(f"whole in {kept}", file.read(), texts[-1])
        check("journals", world.journals(), [])
        world.host.write(f"{MDEVS}/{full}/remove", "1")
        world.pve.define(100, mdev(1))
        check("exit code", world.hook(100, "pre-start").code, 0)
    with open(f"{folder}/100.damaged", "rb") as file:
        check("the first one too", file.read(), texts[0])
    check("exit code", world.hook(100, "post-stop").code, 0)


def strange_target(world: World) -> None:
    """A journal whose step names no device is damaged, and keeps nothing."""
    world.pve.define(100, mdev(1))
    check("exit code", world.hook(100, "pre-start").code, 0)
    with open(f"{world.root}{FOLDER}/100.journal", "a", encoding="ascii") as file:
        file.write('{"n": 7, "do": "mdev", "target": ["a"], "before": null, "after": "x"}\n')
    said(world.run("recover", "100"), "VM 100: recovered")
    check("journals", world.journals(), [])


def journal_is_a_dangling_link(world: World) -> None:
    """It is not taken for no journal."""
    world.pve.define(100, "memory: 512\n")
    os.mkdir(f"{world.root}{FOLDER}", 0o700)
    os.symlink("/absent", f"{world.root}{FOLDER}/100.journal")
    said(world.hook(100, "post-stop"), "100.journal is not a plain file")
    os.unlink(f"{world.root}{FOLDER}/100.journal")


def interrupted_by_hand(world: World) -> None:
    """Ctrl-C ends a phase that undoes nothing by itself as it ends any program."""
    world.pve.define(100, mdev(1))
    check("exit code", world.hook(100, "pre-start").code, 0)
    for phase in ("post-start", "pre-stop", "post-stop"):
        with open(f"{world.root}{FOLDER}/100.lock", "a", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            hook = HookProcess(world, 100, phase)
            holds("it waits", guest.wait_for(functools.partial(hook.has_open, "100.lock"), 30))
            hook.end(signal.SIGINT)
        check(f"{phase}: {hook.output}", (hook.code, hook.output), (-signal.SIGINT, ""))
    check("exit code", world.hook(100, "post-stop").code, 0)


def every_reason_is_an_error(world: World) -> None:
    """Of several reasons to refuse a start none is called a warning."""
    world.pve.define(100, f"hostpci0: {PARENT},pcie=1\nhostpci1: 0000:0f:00.0\nhostpci2: 0000:0e:00.0\n")
    output = refused(world, 100, "PVP310", "PVP201")
    check(f"errors in {output}", output.count("error: PVP"), 3)
    check("warnings", output.count("warning: PVP"), 0)


def folder_of_pve_is_absent(world: World) -> None:
    """PVE makes it when it first needs it after a boot, and so do we."""
    (vf,) = world.make_vfs(1)
    world.pve.define(100, f"hostpci0: {vf},mdev=nvidia-{TWO_UNITS}\n")
    os.rename(f"{world.root}/run/qemu-server", f"{world.root}/run/other")
    check("exit code", world.hook(100, "pre-start").code, 0)
    check("exit code", world.hook(100, "post-stop").code, 0)
    check("vGPUs", world.vgpus(), {})
