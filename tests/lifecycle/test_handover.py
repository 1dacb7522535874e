# SPDX-License-Identifier: Apache-2.0
"""The scenarios of whole functions, on a simulated kernel, and those of services, which need systemd."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import programs
from pvepassthru.lifecycle import hook
from pvepassthru.lifecycle.phases import Start
from pvepassthru.lifecycle.work import Voice
from pvepassthru.model.errors import DeviceError
from tests import tree
from tests.kernel.checks import check, holds
from tests.scenarios import handover
from tests.scenarios.world import GPU, HOST_DRIVERS, NIC, failed, refused, said, scenarios, went

if TYPE_CHECKING:
    from pvepassthru.host.host import Host
    from tests.scenarios.world import Scenario, SimWorld, World

CASES = [*scenarios(handover), handover.nic, handover.gpu]
UNIT = "desk.service"
VFIO_PCI = "/sys/bus/pci/drivers/vfio-pci"
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


# ---- VFIO's driver is not loaded


class Modprobe:
    """Stands for modprobe on a host that has the module vfio-pci and has not loaded it, as after each boot."""

    def __init__(self, world: SimWorld, monkeypatch: pytest.MonkeyPatch, *, loads: bool = True) -> None:
        self._host = world.host
        self._loads = loads
        self.ran: list[tuple[str, ...]] = []
        os.rename(self._host.path(VFIO_PCI), f"{world.root}/vfio-pci")
        tree.put(world.root, "proc/sys/kernel/osrelease", "6.8.12-1-pve\n")
        tree.put(world.root, "lib/modules/6.8.12-1-pve/modules.dep", "kernel/drivers/vfio/pci/vfio-pci.ko:\n")
        monkeypatch.setattr(programs, "find", lambda _host, name: f"/usr/sbin/{name}")
        monkeypatch.setattr(programs, "run", self._run)

    def _run(self, _host: Host, command: tuple[str, ...], _seconds: float) -> programs.Output:
        self.ran.append(command)
        if not self._loads:
            return programs.Output(1, "", "modprobe: ERROR: could not insert 'vfio_pci': Operation not permitted")
        os.rename(f"{self._host.root}/vfio-pci", self._host.path(VFIO_PCI))
        return programs.Output(0, "", "")

    def pre_start(self) -> None:
        """Run pre-start of VM 100 in this process."""
        silent = Voice(*[lambda _: None] * 3)
        hook.run_phase(self._host, 100, "pre-start", Start({}), silent)


def test_vfios_driver_is_loaded(world: SimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """PVE loads it when it binds a device; whoever binds before it has to."""
    world.pve.define(100, handover.ONE_NIC)
    modprobe = Modprobe(world, monkeypatch)
    modprobe.pre_start()
    check("driver", world.driver(NIC), "vfio-pci")
    check("run", modprobe.ran, [("/usr/sbin/modprobe", "--", "vfio-pci")])


def test_vfios_driver_cannot_be_loaded(world: SimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the host keeps the card: nothing was touched."""
    world.pve.define(100, handover.ONE_NIC)
    modprobe = Modprobe(world, monkeypatch, loads=False)
    with pytest.raises(DeviceError, match=f"cannot bind {NIC} to vfio-pci: modprobe: ERROR: could not insert"):
        modprobe.pre_start()
    check("driver", world.driver(NIC), HOST_DRIVERS[NIC])
    holds("never taken", not world.host.exists("/run/pvepassthru/100.journal"))


def test_a_plan_loads_no_driver(world: SimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world.pve.define(100, handover.ONE_NIC)
    modprobe = Modprobe(world, monkeypatch)
    assert f"bound {NIC} to vfio-pci" in world.run("plan", "100")
    check("run", modprobe.ran, [])
    holds("not loaded", not world.host.exists(VFIO_PCI))
