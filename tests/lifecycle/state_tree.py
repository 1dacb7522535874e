# SPDX-License-Identifier: Apache-2.0
"""A simulated host for console, settings and health: the guest's machine, and what that has not: see `furnish`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pvepassthru.host import state
from pvepassthru.host.deadline import Deadline
from pvepassthru.host.sim import SimHost
from pvepassthru.lifecycle.journal import Journal
from pvepassthru.lifecycle.work import Function, Voice, Work
from pvepassthru.model.policy import Policies
from tests import tree
from tests.kernel import machine
from tests.scenarios.world import JOURNALS, PCI

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pvepassthru.lifecycle.journal import Step

VMID = 100
GPU, AUDIO, NIC = "0000:01:00.0", "0000:01:00.1", "0000:05:00.0"
PORT = "0000:00:04.0"
HEADER = bytes([0x34, 0x12, 0x11, 0x11, 3, 0, 16, 0, 2, 0, 0, 3, *[0] * 52])
DEAD = b"\xff" * 64
IOMEM = """\
00000000-00000fff : Reserved
c0000000-febfffff : PCI Bus 0000:00
  fc000000-fcffffff : PCI Bus 0000:01
    fc000000-fcffffff : 0000:01:00.0
      fc000000-fc2fffff : efifb
"""
RESOURCE = """\
0x00000000fc000000 0x00000000fcffffff 0x0000000000042208
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x00000000fe804000 0x00000000fe804fff 0x0000000000040200
"""


class Bench:
    """A simulated host, one VM's work on it, and what was said."""

    def __init__(self, root: Path) -> None:
        machine.build(root, machine.read())
        self.root = str(root)
        self.host = SimHost(self.root)
        self.settings: dict[str, Any] = {
            "drivers": {"bochs-drm": {"framebuffer": True}, "vfio-pci": {}, "e1000e": {}},
            "devices": {},
        }
        self.host.configure(self.settings)
        for address in (GPU, AUDIO, NIC):
            self.put(f"{PCI}/{address}/config", HEADER)
        os.makedirs(self.host.path("/run/qemu-server"))
        state.prepare(self.host)
        self.said: list[str] = []
        self.warned: list[str] = []

    def device(self, address: str, **settings: object) -> None:
        """Tell the simulation more of a device."""
        self.settings["devices"][address] = settings
        self.host.configure(self.settings)

    def put(self, path: str, content: str | bytes) -> None:
        """Put a file into the tree."""
        tree.put(self.root, path.lstrip("/"), content)

    def work(self, vmid: int = VMID) -> Work:
        """The work of a phase, with the journal as it is on the disk now."""
        voice = Voice(self.said.append, self.warned.append, self.warned.append)
        return Work(self.host, vmid, Journal(self.host, vmid), Deadline(20.0), 0.0, voice)

    def undo(
        self, kinds: Mapping[str, Callable[[Work, Step], str | None]], *, running: bool = False
    ) -> list[str | None]:
        """Undo the journal as undo.py does, and return why each step was kept."""
        work = self.work()
        if running:
            work.journal.note_running()
        found = []
        for step in reversed(work.journal.steps):
            why = kinds[step.kind](work, step)
            if why is None:
                work.journal.undone(step, "undone")
            found.append(why)
        return found

    def take(self, address: str, driver: str) -> None:
        """Bind a function to a driver by override."""
        self.leave(address)
        self.host.write(f"{PCI}/{address}/driver_override", driver)
        self.host.write("/sys/bus/pci/drivers_probe", address)
        assert self.host.link(f"{PCI}/{address}/driver") == driver

    def leave(self, address: str) -> None:
        """Take a function's driver away."""
        if self.host.link(f"{PCI}/{address}/driver"):
            self.host.write(f"{PCI}/{address}/driver/unbind", address)

    def firmware(self, driver: str = "efi-framebuffer") -> str:
        """Let the firmware's picture lie in the GPU, with the console on it; returns the platform device's name."""
        device = f"{driver}.0"
        tree.folder(self.root, f"sys/devices/platform/{device}")
        tree.link(self.root, f"sys/bus/platform/devices/{device}", f"sys/devices/platform/{device}")
        self.put("/proc/iomem", IOMEM)
        self.put(f"{PCI}/{GPU}/boot_vga", "1\n")
        self.put(f"{PCI}/{GPU}/class", "0x030000\n")
        self.host.write(f"/sys/bus/platform/drivers/{driver}/bind", device)
        return device

    def reserve(self, vmid: int, *addresses: str) -> None:
        """Reserve functions for a VM in PVE's file, for ever."""
        self.put("/run/qemu-server/pci-id-reservations", "".join(f"{at} {vmid} time:99999999999\n" for at in addresses))

    def kept(self) -> list[str]:
        """What the journal still has to undo, `KIND TARGET BEFORE AFTER` each."""
        return [f"{step.kind} {step.target} {step.before} {step.after}" for step in self.work().journal.steps]

    def files(self) -> list[str]:
        """The names of what the tool left in its folder, but locks."""
        return [name for name in self.host.names(JOURNALS) if not name.endswith(".lock")]


def functions(*addresses: str) -> tuple[Function, ...]:
    return tuple(Function(address, 0, None, passed=True) for address in addresses or (GPU, AUDIO))


def policies(**device: object) -> Policies:
    """What a policy file says of the GPU."""
    return Policies({"devices": {GPU: device}})
