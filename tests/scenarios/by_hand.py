# SPDX-License-Identifier: Apache-2.0
"""Instances made and removed by `mdev create` and `mdev remove`: only such as no VM owns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.model.errors import BusyError, DeviceError, NotFoundError, UsageError
from tests.kernel.checks import check, holds
from tests.scenarios.world import OTHER, PARENT, VFS, failed, mdev, said, uuid, went

if TYPE_CHECKING:
    from tests.scenarios.world import World

MINE = "f0f0f0f0-1111-2222-3333-444444444444"


def made_and_removed(world: World) -> None:
    """With a random UUID and with a given one; what is full or there already is told."""
    before = world.state()
    made = world.run("mdev", "create", "tbmdev-2", PARENT).strip()
    check("made", world.mdevs(), {made: f"{PARENT} tbmdev-2"})
    world.run("mdev", "create", "tbmdev-1", PARENT.removeprefix("0000:"), "--uuid", MINE.upper())
    check("and", world.mdevs()[MINE], f"{PARENT} tbmdev-1")
    words = world.run("mdev", "create", "tbmdev-1", OTHER, "--uuid", MINE, code=DeviceError.exit_code)
    holds(f"it is there: {words}", f"exists as tbmdev-1 on {PARENT}" in words)
    words = world.run("mdev", "create", "tbmdev-2", PARENT, code=DeviceError.exit_code)
    holds(f"no room: {words}", "no instance left" in words and MINE in words)
    for name in (made, MINE):
        holds("removed", "removed mdev tbmdev-" in world.run("mdev", "remove", name))
    check("as before", world.state(), before)


def in_use(world: World) -> None:
    """What a process has open is named and not touched; nor is a VM's."""
    world.create(2, MINE)
    with world.held(MINE) as pid:
        words = world.run("mdev", "remove", MINE, code=DeviceError.exit_code)
        holds(f"who has it: {words}", f"process {pid} (" in words)
        check("untouched", world.mdevs(), {MINE: f"{PARENT} tbmdev-2"})
    world.run("mdev", "remove", MINE)
    world.pve.define(100, mdev(1))
    went(world.pve.start(100))
    words = world.run("mdev", "remove", uuid(0, 100), code=DeviceError.exit_code)
    holds(f"a VM's: {words}", "VM 100 runs with it as hostpci0" in words)
    went(world.pve.stop(100))


def of_a_vm(world: World) -> None:
    """An instance with PVE's UUID is its VM's, as long as there is that VM, or its journal."""
    world.run("mdev", "create", "tbmdev-1", PARENT, "--uuid", uuid(0, 100), code=UsageError.exit_code)
    world.pve.define(100, mdev(1))
    failed(world.pve.start(100, fail="command"), "injected-command")
    words = world.run("mdev", "remove", uuid(0, 100), code=DeviceError.exit_code)
    holds(f"its journal has it: {words}", "pvepassthru recover 100" in words)
    said(world.run("recover"), "VM 100: recovered")
    world.create(1, uuid(0, 100))
    words = world.run("mdev", "remove", uuid(0, 100), code=DeviceError.exit_code)
    holds(f"it may be starting: {words}", "pvepassthru release 100" in words and f"node {world.node}" in words)
    world.host.remove(f"/etc/pve/nodes/{world.node}/qemu-server/100.conf")
    world.pve.define(100, mdev(1), node="other")
    words = world.run("mdev", "remove", uuid(0, 100), code=DeviceError.exit_code)
    holds(f"it may come by migration: {words}", "node other" in words)
    world.host.remove("/etc/pve/nodes/other/qemu-server/100.conf")
    holds("nobody's", "removed" in world.run("mdev", "remove", uuid(0, 100)))
    check("nothing is left", (world.mdevs(), world.journals()), ({}, []))


def wrong_words(world: World) -> None:
    """What is not there, or is none, with the exit code of its class and nothing made."""
    before = world.state()
    (vf,) = world.make_vfs(1)
    for code, *words in (
        (UsageError.exit_code, "create", "tbmdev-1", PARENT, "--uuid", "x"),
        (UsageError.exit_code, "create", "tbmdev-1", "03:00"),
        (NotFoundError.exit_code, "create", "tbmdev-1", "0000:1f:00.0"),
        (NotFoundError.exit_code, "create", "tbmdev-7", PARENT),
        (NotFoundError.exit_code, "create", "../tbmdev-1", PARENT),
        (DeviceError.exit_code, "create", "nvidia-100", vf),
        (DeviceError.exit_code, "create", "tbmdev-1", "0000:05:00.0"),
        (UsageError.exit_code, "remove", "x"),
        (NotFoundError.exit_code, "remove", MINE),
    ):
        said_ = world.run("mdev", *words, code=int(code))
        check(f"one sentence: {said_}", said_.count("\n"), 1)
    check("VFs", vf, VFS[0])
    check("no instance", (world.mdevs(), world.journals()), (before["mdevs"], []))


def removal_waits(world: World) -> None:
    """Somebody else removes it while it is open: told as that, and gone when it is closed."""
    world.create(1, MINE)
    with world.held(MINE) as pid:
        blocked = world.pve.sysfs.write_in_child(f"/sys/bus/mdev/devices/{MINE}/remove", "1", 0.3)
        holds("it blocks", blocked is not None)
        words = world.run("mdev", "remove", MINE, code=DeviceError.exit_code)
        holds(f"who has it: {words}", f"process {pid} (" in words)
        words = world.run("mdev", "create", "tbmdev-1", PARENT, "--uuid", MINE, code=DeviceError.exit_code)
        holds(f"not yet: {words}", "a removal is under way" in words)
        world.pve.removers += [blocked] if blocked else []
    world.pve.close()
    check("gone", world.mdevs(), {})


def slow_driver(world: World) -> None:
    """A driver that takes its time is waited for."""
    world.configure(delay_ms=300)
    made = world.run("mdev", "create", "tbmdev-4", OTHER).strip()
    holds("removed", "removed" in world.run("mdev", "remove", made))
    check("none", world.mdevs(), {})


def locked(world: World) -> None:
    """Under the hook's locks: a hook that works on the parent is waited for, and named if it takes too long."""
    from pvepassthru.host import locks, state  # noqa: PLC0415 - only here
    from pvepassthru.host.deadline import Deadline  # noqa: PLC0415 - only here

    world.create(1, MINE)
    state.prepare(world.host)
    with locks.take(world.host, state.device_lock_path(MINE), Deadline(1), "it"):
        words = world.run("mdev", "remove", MINE, code=BusyError.exit_code)
    holds(f"who holds it: {words}", "is held by process" in words)
    world.run("mdev", "remove", MINE)
