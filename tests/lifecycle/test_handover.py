# SPDX-License-Identifier: Apache-2.0
"""The scenarios of whole functions, on a simulated kernel, and those of services, which need systemd."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.kernel.checks import check
from tests.scenarios import handover
from tests.scenarios.world import GPU, HOST_DRIVERS, NIC, failed, refused, said, scenarios, went

if TYPE_CHECKING:
    from tests.scenarios.world import Scenario, SimWorld, World

CASES = [*scenarios(handover), handover.nic, handover.gpu]
UNIT = "desk.service"
SERVICES = f"services:\n  {UNIT}: {{devices: ['0000:01:00'], seconds: 1}}\n"


@pytest.mark.parametrize("scenario", CASES, ids=lambda case: case.__name__)
def test_handover(scenario: Scenario, world: World) -> None:
    scenario(world)


# ---- services


def unit(world: SimWorld, state: str | None = None, name: str = UNIT) -> str | None:
    """The state of a unit of the simulated host, once it is set to `state` if that is given."""
    folder = f"{world.root}/.sim/units"
    if state is not None:
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/{name}", "w", encoding="ascii") as file:
            file.write(state + "\n")
    return world.host.text(f"/.sim/units/{name}")


def test_a_service_that_has_the_device(world: SimWorld) -> None:
    """It is stopped, which frees the device, and started again after the stop."""
    world.drive_gpu()
    world.policy(SERVICES + handover.FORMER)
    world.pve.define(100, handover.ONE_GPU)
    before = world.state()
    with world.opened("/dev/dri/card0") as pid:
        unit(world, f"active {pid}")
        log = went(world.pve.start(100))
        said(log, f"stopped {UNIT}")
        check("stopped", unit(world), "inactive")
        os.makedirs(f"{world.root}/proc/{pid}")  # which `opened` removes
    said(went(world.pve.stop(100)), f"started {UNIT} again")
    check("started", unit(world), "active")
    check("as before", world.state(), before)


def test_a_service_waits_for_a_vm_that_lingers(world: SimWorld) -> None:
    """It would find its device gone; recover starts it with all else."""
    world.drive_gpu()
    world.policy(SERVICES + handover.FORMER)
    world.pve.define(100, handover.ONE_GPU)
    unit(world, "active")
    went(world.pve.start(100))
    with world.impatient():
        said(went(world.pve.stop(100, qemu="lingers")), f"kept the stop of {UNIT}: ", f"has {GPU} open")
    check("not started", unit(world), "inactive")
    world.pve.end_qemu(100)
    said(world.run("recover"), f"started {UNIT} again")
    check("started", unit(world), "active")


def test_a_service_that_did_not_run(world: SimWorld) -> None:
    world.drive_gpu()
    world.policy(SERVICES)
    world.pve.define(100, handover.ONE_GPU)
    unit(world, "inactive")
    went(world.pve.start(100))
    went(world.pve.stop(100))
    check("not started", unit(world), "inactive")


def test_a_service_that_does_not_stop(world: SimWorld) -> None:
    """The start fails in its time, and nothing was taken."""
    world.drive_gpu()
    world.policy(SERVICES)
    world.pve.define(100, handover.ONE_GPU)
    unit(world, "active stuck")
    refused(world, 100, UNIT, "within 1 s")
    check("driver", world.driver(GPU), HOST_DRIVERS[GPU])


def test_a_service_of_two_vms(world: SimWorld) -> None:
    """It is started again when the last of them has stopped, whichever that is."""
    world.drive_gpu()
    world.policy(f"services:\n  {UNIT}: {{devices: ['*']}}\n{handover.FORMER}")
    world.pve.define(100, handover.ONE_GPU)
    world.pve.define(101, handover.ONE_NIC)
    for first, last in ((100, 101), (101, 100)):
        unit(world, "active")
        went(world.pve.start(100))
        went(world.pve.start(101))
        said(went(world.pve.stop(first)), f"{UNIT} stays stopped for VM {last}")
        check("stopped", unit(world), "inactive")
        said(went(world.pve.stop(last)), f"started {UNIT} again")
        check("started", unit(world), "active")


def test_a_backup_stops_no_service(world: SimWorld) -> None:
    world.drive_gpu()
    world.policy(SERVICES)
    world.pve.define(100, handover.ONE_GPU)
    with world.opened("/dev/dri/card0") as pid:
        unit(world, f"active {pid}")
        said(failed(world.pve.backup(100), "hook-failed"), "a backup starts VM 100", f"process {pid} (")
        check("runs on", unit(world), f"active {pid}")
        world.policy(f"{SERVICES}defaults: {{on_backup: handover}}\n")
        said(went(world.pve.backup(100)), f"stopped {UNIT}", f"started {UNIT} again")
        os.makedirs(f"{world.root}/proc/{pid}", exist_ok=True)


def test_the_hook_dies_after_it_stopped_a_service(world: SimWorld) -> None:
    """recover starts it, though PVE runs no post-stop."""
    world.policy(f"services:\n  {UNIT}: {{devices: ['{NIC}']}}\n")
    world.pve.define(100, handover.ONE_NIC)
    unit(world, "active")
    failed(world.pve.start(100, fail="command"), "injected-command")
    said(world.run("status"), f"the stop of {UNIT}")
    said(world.run("recover"), f"started {UNIT} again")
    check("started", unit(world), "active")
