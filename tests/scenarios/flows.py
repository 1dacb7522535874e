# SPDX-License-Identifier: Apache-2.0
"""Every flow of PVE's hook tables, with mediated devices that the hook makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.kernel.checks import check, holds
from tests.scenarios.world import ALL, OTHER, PARENT, START, STOP, failed, mdev, said, uuid, went

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
