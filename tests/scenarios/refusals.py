# SPDX-License-Identifier: Apache-2.0
"""What the hook refuses: by policy, for want of a trustworthy /run, and when it is called or fed wrongly."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import signal
import stat
import subprocess
from typing import TYPE_CHECKING

from tests.kernel import guest
from tests.kernel.checks import check, holds
from tests.scenarios.hook_process import HookProcess
from tests.scenarios.world import OTHER, PARENT, failed, mdev, refused, said, uuid, went

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.scenarios.world import World

ONE = mdev(1)
MADE = {uuid(0, 100): f"{PARENT} tbmdev-1"}
FOLDER = "/run/pvepassthru"
NODE_POLICY, CLUSTER_POLICY = "/etc/pvepassthru.yaml", "/etc/pve/pvepassthru.yaml"
OUTSIDE = f"hostpci0: {PARENT},mdev=tbmdev-1,romfile=../../../etc/hostname\n"
"""PVE starts this, and the gate does not let it."""


def one_sentence(output: str) -> None:
    """Check that an error is one line, without a traceback."""
    lines = output.splitlines()
    check(f"errors in {output!r}", sum("error:" in line for line in lines), 1)
    holds(f"no traceback: {output}", "Traceback" not in output)


# ---- policy


def gate_policy(world: World) -> None:
    """enforce is the default; warn says it and starts; off says nothing."""
    for vmid in (100, 101):
        world.pve.define(vmid, OUTSIDE)
    one_sentence(refused(world, 100, "PVP230", "romfile"))
    world.pve.cluster.put(NODE_POLICY, "defaults: {gate: warn}\n")
    said(went(world.pve.start(100)), "warning: PVP230", "created mdev")
    went(world.pve.stop(100))
    world.pve.cluster.put(NODE_POLICY, "defaults: {gate: off}\nvms: {101: {gate: enforce}}\n")
    holds("nothing of it", "PVP230" not in went(world.pve.start(100)).output)
    refused(world, 101, "PVP230")
    went(world.pve.stop(100))
    world.pve.cluster.put(NODE_POLICY, "defaults: {gate: enforce}\n")
    world.pve.cluster.put(CLUSTER_POLICY, "defaults: {gate: off}\n")
    refused(world, 100, "PVP230")


def silenced_by_the_policy(world: World) -> None:
    """A silenced error does not refuse: it is a warning with the owner's reason; other errors and VMs are as before."""
    for vmid in (100, 101):
        world.pve.define(vmid, OUTSIDE)
    entry = f"{{code: PVP230, vm: 100, device: {PARENT}, reason: a link of ours}}"
    world.pve.cluster.put(NODE_POLICY, f"silence: [{entry}]\n")
    said(went(world.pve.start(100)), "warning: PVP230", "(silenced by the policy: a link of ours)", "created mdev")
    refused(world, 101, "PVP230")
    went(world.pve.stop(100))
    world.pve.define(100, OUTSIDE.replace("\n", ",pcie=1\n"))
    output = refused(world, 100, "error: PVP310", "warning: PVP230")
    holds("only the other error", "error: PVP230" not in output)


def gate_off_and_unknown_type(world: World) -> None:
    """Without the gate the create itself says what is wrong."""
    world.pve.cluster.put(NODE_POLICY, "defaults: {gate: off}\n")
    world.pve.define(100, f"hostpci0: {PARENT},mdev=tbmdev-9\n")
    one_sentence(refused(world, 100, "cannot create mdev tbmdev-9 for hostpci0", f"on {PARENT}: it offers tbmdev-1"))
    world.pve.define(100, ONE)
    world.unbind(PARENT)
    refused(world, 100, "cannot create mdev tbmdev-1 for hostpci0", f"on {PARENT}: it offers no mdev types")


def gate_off_and_held(world: World) -> None:
    """What is in use is refused all the same."""
    world.pve.cluster.put(NODE_POLICY, "defaults: {gate: off}\n")
    world.create(1, uuid(0, 100))
    world.pve.define(100, ONE)
    with world.held(uuid(0, 100)) as pid:
        refused(world, 100, f"process {pid} (")


def policy_refused(world: World) -> None:
    """A policy that others can write, or that says nothing sensible."""
    world.pve.define(100, ONE)
    path = f"{world.root}{NODE_POLICY}"
    world.pve.cluster.put(NODE_POLICY, "defaults: {gate: off}\n")
    for mode in (0o664, 0o666, 0o646):
        os.chmod(path, mode)
        one_sentence(refused(world, 100, NODE_POLICY, "can be written by others", f"{mode:04o}"))
        check("exit code", world.hook(100, "pre-start").code, 7)
    os.chmod(path, 0o644)
    for text in (
        "silence: [{code: PVP230}]\n",
        "defaults: {gate: maybe}\n",
        "defaults: [",
        "- a\n",
        "vms: {100: enforce}\n",
        "a: &a [*a]\n\0",
    ):
        world.pve.cluster.put(NODE_POLICY, text)
        one_sentence(refused(world, 100, NODE_POLICY))
        check("exit code", world.hook(100, "pre-start").code, 4)
    world.host.remove(NODE_POLICY)
    os.symlink("pvepassthru.yaml", path)
    refused(world, 100, NODE_POLICY)
    world.pve.define(101, "memory: 512\n")
    check("a VM without hostpci starts", world.hook(101, "pre-start").code, 0)


# ---- /run


def run_is_full(world: World) -> None:
    """Whichever line of the journal does not fit any more: the start fails with one sentence, and nothing is left."""
    world.pve.define(100, mdev(1, 1))
    before = world.state()
    for lines in range(5):  # version, intent, done, intent, done
        with world.bent(f"lines={lines}"):
            log = failed(world.pve.start(100), "hook-failed")
        one_sentence(log.output)
        said(log, "cannot write the journal", "No space left on device", "/run")
        check(f"as before, with {lines} lines", world.state(), before)
    with world.bent("lines=5"):
        check("enough", world.hook(100, "pre-start").code, 0)


def run_is_full_at_the_stop(world: World) -> None:
    """All is undone even so."""
    before = world.state()
    world.pve.define(100, mdev(1, 1))
    failed(world.pve.start(100, fail="command"), "injected-command")
    with world.bent("lines=0"):
        check("exit code", world.hook(100, "post-stop").code, 0)
    check("as before", world.state(), before)


def run_is_not_ours(world: World) -> None:
    """The folder of journals and locks must be a folder, and root's alone."""
    world.pve.define(100, ONE)
    path = f"{world.root}{FOLDER}"
    before = world.state()
    makers: dict[str, Callable[[], object]] = {
        "is not a folder": lambda: os.symlink("/tmp", path),
        "is not a folder,": lambda: os.symlink("nowhere", path),
        "not a folder": lambda: world.pve.cluster.put(FOLDER, ""),
        "0770": lambda: _folder(path, 0o770),
        "0707": lambda: _folder(path, 0o707),
    }
    for words, make in makers.items():
        make()
        one_sentence(refused(world, 100, FOLDER, words))
        check("exit code", world.hook(100, "pre-start").code, 7)
        check("others exit well", [world.hook(100, phase).code for phase in ("post-start", "post-stop")], [0, 0])
        if os.path.isdir(path) and not os.path.islink(path):
            os.rmdir(path)
        else:
            os.unlink(path)
    check("as before", world.state(), before)


def _folder(path: str, mode: int) -> None:
    os.mkdir(path)
    os.chmod(path, mode)


def journal_is_not_ours(world: World) -> None:
    """A journal that others could have written is not followed, nor is a link, a folder or a pipe."""
    world.create(1, uuid(0, 999))
    world.pve.define(100, ONE)
    os.mkdir(f"{world.root}{FOLDER}", 0o700)
    path = f"{world.root}{FOLDER}/100.journal"
    step = {"n": 1, "do": "mdev", "target": f"{PARENT}/{uuid(0, 999)}", "before": None, "after": "tbmdev-1"}
    victim = json.dumps({"v": 1}) + "\n" + json.dumps(step) + "\n"
    world.pve.cluster.put("/tmp/journal", victim)
    world.pve.cluster.put(f"{FOLDER}/101.journal", victim)
    os.chmod(f"{world.root}{FOLDER}/101.journal", 0o664)
    makers: list[Callable[[], None]] = [
        lambda: os.symlink("../../tmp/journal", path),
        lambda: os.symlink("100.journal", path),
        lambda: os.mkdir(path),
        lambda: os.mkfifo(path),
        lambda: os.rename(f"{world.root}{FOLDER}/101.journal", path),
    ]
    for make in makers:
        make()
        run = world.hook(100, "pre-start")
        holds(f"refused: {run}", run.code not in (0, 1))
        one_sentence(run.output)
        said(run, "100.journal")
        run = world.hook(100, "post-stop")
        check("exit code", run.code, 0)
        check("the victim is there", world.mdevs(), {uuid(0, 999): f"{PARENT} tbmdev-1"})
        if stat.S_ISDIR(os.lstat(path).st_mode):
            os.rmdir(path)
        else:
            os.unlink(path)


# ---- how it is called


def called_wrongly(world: World) -> None:
    """Exit code 2 and one sentence; nothing is touched, and no file is read that the VMID names."""
    words = ["../../etc/passwd", "0", "-1", "99", "0100", "1234567890", "1e3", "٣٠٠", "100\n", " 100", "", "100.conf"]
    for vmid in words:
        run = world.hook(vmid, "pre-start")
        check(f"exit code for {vmid!r}", run.code, 2)
        one_sentence(run.output)
    for phase in ("prestart", "pre-start ", "", "PRE-START", "--help"):
        run = world.hook(100, phase)
        check(f"exit code for {phase!r}", run.code, 2)
        one_sentence(run.output)
    holds("no folder of ours", not world.host.exists(FOLDER))


def called_for_a_strange_source(world: World) -> None:
    """PVE_MIGRATED_FROM that is no node's name, or a node without such a VM."""
    world.pve.define(100, ONE)
    for source in ("../../../tmp", "/", "a/b", "-", "no\nnode"):
        run = world.hook(100, "pre-start", source)
        check(f"exit code for {source!r}", run.code, 2)
        one_sentence(run.output)
    run = world.hook(100, "pre-start", "elsewhere")
    check("exit code", run.code, 3)
    said(run, "no VM 100")
    check("nothing is made", world.mdevs(), {})


def called_while_running(world: World) -> None:
    """A pre-start of a VM that runs is refused, and takes nothing from it."""
    world.pve.define(100, ONE)
    went(world.pve.start(100))
    before = world.state()
    run = world.hook(100, "pre-start")
    check("exit code", run.code, 5)
    said(run, "it is running as process")
    check("untouched", world.state(), before)


def called_without_streams(world: World) -> None:
    """No stdin, no stdout, no stderr, or a reader that has gone: the work is done."""
    world.pve.define(100, ONE)
    for closing in ("0<&- 1>&- 2>&-", "0<&-", "1>&-", "2>&-", ">/dev/full 2>&1", "2>&1 | true"):
        script = f'"$@" {closing}; exit 0'
        usual = world.pve.hook
        world.pve.hook = ["/bin/sh", "-c", script, "sh", *usual]
        world.hook(100, "pre-start")
        check(f"made with {closing}", world.mdevs(), MADE)
        check(f"journal with {closing}", world.kept(100), [f"mdev {PARENT}/{uuid(0, 100)} tbmdev-1"])
        world.hook(100, "post-stop")
        check(f"gone with {closing}", world.mdevs(), {})
        check(f"no journal with {closing}", world.journals(), [])
        check(f"not said into a lock with {closing}", world.host.text(f"{FOLDER}/100.lock"), "")
        world.pve.hook = usual


def two_at_once(world: World) -> None:
    """Two hooks of one VM: one after the other, and the same as one."""
    world.pve.define(100, ONE)
    before = world.state()
    for phase, codes in (("pre-start", [0, 0]), ("post-stop", [0, 0])):
        hooks = [HookProcess(world, 100, phase) for _ in range(2)]
        for hook in hooks:
            hook.end()
        check(f"exit codes: {[hook.output for hook in hooks]}", [hook.code for hook in hooks], codes)
        made = phase == "pre-start"
        check("mdevs", world.mdevs(), MADE if made else {})
        check("steps", len(world.kept(100)), 1 if made else 0)
    check("as before", world.state(), before)


def vm_lock_is_busy(world: World) -> None:
    """The wait for the VM's lock has a limit, and the sentence says who holds it."""
    world.pve.define(100, ONE)
    os.mkdir(f"{world.root}{FOLDER}", 0o700)
    with open(f"{world.root}{FOLDER}/100.lock", "a", encoding="ascii") as file, world.bent("budget=1"):
        fcntl.flock(file, fcntl.LOCK_EX)
        log = failed(world.pve.start(100), "hook-failed")
        one_sentence(log.output)
        said(log, "cannot lock VM 100 within 1 s", f"process {os.getpid()} (")
        check("exit code", log.hooks[0].code, 6)
        run = world.hook(100, "post-start")
        check("exit code", run.code, 0)
    check("nothing is made", world.mdevs(), {})


def parent_lock_is_busy(world: World) -> None:
    """As above for a parent: what was made on another one before is undone."""
    world.pve.define(100, f"hostpci0: {OTHER},mdev=tbmdev-1\nhostpci1: {PARENT},mdev=tbmdev-1\n")
    os.mkdir(f"{world.root}{FOLDER}", 0o700)
    before = world.state()
    with open(f"{world.root}{FOLDER}/{PARENT}.lock", "a", encoding="ascii") as file, world.bent("budget=2"):
        fcntl.flock(file, fcntl.LOCK_EX)
        log = failed(world.pve.start(100), "hook-failed")
    one_sentence(log.output)
    said(log, PARENT, f"process {os.getpid()} (")
    check("as before", world.state(), before)


def policy_gives_more_time(world: World) -> None:
    """A create that is too slow for the usual budget, and fits the one that the owner's policy gives."""
    world.pve.define(100, ONE)
    world.configure(delay_ms=3000)
    before = world.state()
    with world.bent("budget=2"):
        refused(world, 100, "cannot create mdev tbmdev-1 on", "the kernel has not finished in time")
        world.configure(delay_ms=0)
        check("nothing is left of it", world.hook(100, "post-stop").code, 0)
        check("as before", world.state(), before)
        world.configure(delay_ms=3000)
        world.pve.cluster.put(CLUSTER_POLICY, "vms: {100: {pre_start_seconds: 30}}\n")
        went(world.pve.start(100))
    world.configure(delay_ms=0)
    check("its mdev", world.mdevs(), MADE)
    went(world.pve.stop(100))


def ended_while_waiting(world: World) -> None:
    """SIGTERM while it waits for a lock: it ends at once, with one sentence."""
    world.pve.define(100, ONE)
    os.mkdir(f"{world.root}{FOLDER}", 0o700)
    for number, name in ((signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT"), (signal.SIGHUP, "SIGHUP")):
        with open(f"{world.root}{FOLDER}/{PARENT}.lock", "a", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            hook = HookProcess(world, 100, "pre-start")
            holds("it waits", guest.wait_for(functools.partial(hook.has_open, f"{PARENT}.lock"), 30))
            hook.end(number)
        check(f"exit code: {hook.output}", hook.code, 8)
        one_sentence(hook.output)
        said(hook.output, name)
        check("nothing is made", (world.mdevs(), world.journals()), ({}, []))


# ---- what it is fed


def strange_configs(world: World) -> None:
    """One sentence or none, and never a traceback; a config that cannot be read refuses the start."""
    path = f"{world.root}/etc/pve/nodes/{world.node}/qemu-server/100.conf"
    line = ONE.encode()
    for data, code in {
        b"hostpci0: \0\0\n": 5,
        b"name: a\0b\n" + line: 0,
        b"description: " + b"x" * 10_000_000 + b"\n" + line: 0,
        b"hostpci0: " + b"0" * 10_000_000: 5,
        b"name: \xff\xfe\n" + line: 0,
        b"hostpci0: \xff\n" + line: 5,
        line.replace(b"\n", b"\r\n"): 0,
        b"\xef\xbb\xbf" + line: 0,
        b"hostpci0\n" * 1000: 0,
    }.items():
        with open(path, "wb") as file:
            file.write(data)
        run = world.hook(100, "pre-start")
        check(f"exit code for {data[:40]!r}: {run.output[:500]}", run.code, code)
        holds("no control characters", all(char.isprintable() or char == "\n" for char in run.output))
        check("exit code", world.hook(100, "post-stop").code, 0)
        check("nothing is left", (world.mdevs(), world.journals()), ({}, []))
    os.unlink(path)
    makers: list[tuple[Callable[[], None], int]] = [
        (lambda: None, 3),
        (lambda: os.symlink("100.conf", path), 4),
        (lambda: os.mkdir(path), 4),
    ]
    for make, code in makers:
        make()
        run = world.hook(100, "pre-start")
        check(f"exit code: {run}", run.code, code)
        one_sentence(run.output)
        check("exit code", world.hook(100, "post-stop").code, 0)
        if os.path.islink(path):
            os.unlink(path)


def run_cannot_be_written(world: World) -> None:
    """Only in the guest: the folder of journals is on a file system that is read-only, then on one that is full."""
    world.pve.define(100, ONE)
    os.makedirs(FOLDER, mode=0o700, exist_ok=True)
    before = world.state()
    for options, words in (("ro,mode=0700", "Read-only file system"), ("size=4k,mode=0700", "No space left on device")):
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", FOLDER], check=True)
        try:
            if "size" in options:
                with open(f"{FOLDER}/ballast", "wb") as file:
                    file.write(bytes(4096))
            one_sentence(refused(world, 100, FOLDER, words))
        finally:
            subprocess.run(["umount", FOLDER], check=True)
    check("as before", world.state(), before)
