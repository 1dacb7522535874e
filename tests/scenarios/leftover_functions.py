# SPDX-License-Identifier: Apache-2.0
"""Whole functions of VMs that are dead: given back to the host by recover and by hand, and left alone meanwhile."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from tests.kernel.checks import check, holds
from tests.scenarios.recovery import locked
from tests.scenarios.world import HOST_DRIVERS, NIC, PCI, said, went

if TYPE_CHECKING:
    from tests.scenarios.world import World

CONFIG = f"hostpci0: {NIC}\n"
DRIVER = HOST_DRIVERS[NIC]


def _recover(world: World, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(world.run("recover", *words, "--json"))
    return found


def _driver(world: World) -> str | None:
    return world.host.link(f"{PCI}/{NIC}/driver")


def function_of_a_migrated_vm(world: World) -> None:
    """Its source runs no post-stop: recover gives the function back there."""
    before = world.state()
    world.pve.define(100, CONFIG)
    went(world.pve.start(100))
    check("taken", _driver(world), "vfio-pci")
    check("in no way an orphan", _recover(world)["orphans"], [])
    went(world.pve.migrate_out(100, "other"))
    found = _recover(world)
    check("recovered", [(vm["vmid"], vm["state"], vm["kept"]) for vm in found["vms"]], [(100, "recovered", [])])
    check("given back", _driver(world), DRIVER)
    check("no orphan is left", found["orphans"], [])
    check("as before", world.state(), before)


def function_of_a_start_that_failed(world: World) -> None:
    """While PVE works on the VM it stays; by hand it goes back to the host once nobody has it."""
    before = world.state()
    world.pve.define(100, CONFIG)
    with locked(world, 100):
        check("prepared", world.hook(100, "pre-start").code, 0)
        check("busy", [vm["state"] for vm in _recover(world)["vms"]], ["busy"])
        said(world.run("release", "100", code=6), "cannot lock the config of VM 100")
    with world.held(NIC) as pid:
        check("alive", [vm["state"] for vm in _recover(world)["vms"]], ["alive"])
        said(world.run("release", "100", code=5), f"process {pid}")
    check("still taken", _driver(world), "vfio-pci")
    said(world.run("release", "100", "--dry-run"), f"binding {NIC} to vfio-pci", f"driver_override vfio-pci of {NIC}")
    said(world.run("release", "100"), "VM 100: recovered", NIC)
    check("given back", _driver(world), DRIVER)
    check("as before", world.state(), before)


def function_beside_recover(world: World, rounds: int = 5) -> None:
    """Starts and stops with a function beside recovers without a pause: none is disturbed, all is as before."""
    before = world.state()
    world.pve.define(100, CONFIG)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            while world.host.exists("/etc/pve/qemu-server/100.conf"):
                world.run("recover", "--quiet")
            code = 0
        finally:
            os._exit(code)
    for number in range(rounds):
        log = went(world.pve.start(100))
        check(f"round {number}: {log}", _driver(world), "vfio-pci")
        went(world.pve.stop(100))
        check(f"round {number}", _driver(world), DRIVER)
    world.pve.destroy(100)
    check("recover", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
    holds("no journal", not world.journals())
    check("as before", world.state(), before)
