# SPDX-License-Identifier: Apache-2.0
"""What makes PVE fail when it prepares devices that a config names rightly.

Source: behaviour of qemu-server's and pve-common's start code. `available_instances` is advice, not a promise: only the
create itself says (kernel, vfio-mdev).
"""

from __future__ import annotations

from pvepassthru.model import pci
from pvepassthru.model.problem import Problem, readable
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import listed, nearest, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Literal

    from pvepassthru.model.passed import Passed
    from pvepassthru.model.problem import Hardware

    Guest = Callable[[int], Literal["running", "journal", "stopped"]]
    """Of a VM whether it runs; if not, whether it left a journal, so that `recover` knows what to give back."""


def problems(
    passed: Iterable[Passed], hardware: Hardware, vmid: int | None, guest: Guest | None = None
) -> list[Problem]:
    """What makes the start fail, of all devices; `vmid` tells its own mediated devices from others'."""
    devices = tuple(passed)
    found: list[Problem] = []
    if devices:
        found += _host_problems(devices, hardware)
    room = _Room(hardware, vmid, guest)
    vgpus: set[str] = set()
    for device in devices:
        if device.nvidia:
            found += _vgpu_problems(device, hardware, vgpus)
        elif device.mdev:
            if not device.entry.keeps_driver and not device.multifunction:
                found += room.problems(device)
        else:
            found += _plain_problems(device, hardware)
    return found


def _problem(code: str, device: Passed, message: str, hint: str) -> Problem:
    return Problem(code, device.entry.key, device.entry.line, message, hint)


def _host_problems(devices: tuple[Passed, ...], hardware: Hardware) -> list[Problem]:
    found = []
    if hardware.iommu_present() is False:
        message = "the kernel drives no IOMMU: /sys/class/iommu is empty"
        hint = "enable VT-d or AMD-Vi in the firmware, and intel_iommu=on on Intel before kernel 6.8; then reboot"
        found.append(_problem("iommu-not-present", devices[0], message, hint))
    binding = [device for device in devices if device.bound_to_vfio]
    if binding and hardware.driver_available("vfio-pci") is False:
        message = "there is no driver vfio-pci, and no module of that name for the running kernel"
        hint = "boot a kernel whose modules are installed, then: modprobe vfio-pci"
        found.append(_problem("vfio-pci-missing", binding[0], message, hint))
    return found


def _plain_problems(device: Passed, hardware: Hardware) -> list[Problem]:
    """A device that is passed whole."""
    found = []
    for address in device.addresses:
        unreadable = readable(hardware, address)
        if unreadable:
            text = hardware.attribute(address, unreadable)
            has = "absent" if text is None else f'"{shown(text)}"'
            message = f"PVE cannot read {address}: its {unreadable} in sysfs is {has}"
            hint = "see what the kernel log says of the device; a rescan or a reboot may bring it back"
            found.append(_problem("device-info-unreadable", device, message, hint))
        elif device.bound_to_vfio and hardware.group(address) is None:
            message = f"{address} is in no IOMMU group, so it cannot be bound to vfio-pci"
            hint = "enable the IOMMU (VT-d, AMD-Vi) for it, or use driver=keep with a driver that needs none"
            found.append(_problem("device-without-iommu-group", device, message, hint))
    return found


# ---- NVIDIA's vendor vGPU interface


def _vgpu_problems(device: Passed, hardware: Hardware, taken: set[str]) -> list[Problem]:
    number = device.nvidia or ""
    if len(device.alternatives) > 1:
        for functions in device.alternatives:
            if functions[0] not in taken and vgpu_fits(hardware, functions[0], number):
                taken.add(functions[0])
                return []
        offers = sorted({kind for functions in device.alternatives for kind in hardware.vgpu_creatable(functions[0])})
        message = f"no free device of mapping {device.entry.mapping} offers vGPU type {number}"
        hint = f"on offer: {listed(offers) or 'none'}; choose one of them, or stop a VM that uses the GPU"
        return [_problem("vgpu-no-alternative", device, message, hint)]
    address = device.addresses[0]
    taken.add(address)
    if hardware.vgpu_current(address) is None:
        message = f"{address} has no nvidia/current_vgpu_type"
        hint = "name a virtual function of the GPU, with NVIDIA's vGPU host driver loaded and its VFs enabled"
        return [_problem("nvidia-no-sysfs", device, message, hint)]
    if vgpu_fits(hardware, address, number):
        return []
    offers = [f"{kind} ({name})" for kind, name in hardware.vgpu_creatable(address).items()]
    plain = number.lstrip("0")
    hint = f"on offer now: {listed(offers) or 'none'}"
    if plain != number and plain in hardware.vgpu_creatable(address):
        hint = f"write mdev=nvidia-{plain}"
    message = f"{address} does not offer vGPU type {number}"
    return [_problem("vgpu-type-not-available", device, message, hint)]


def owners(uuids: Iterable[str]) -> tuple[tuple[int, ...], str]:
    """The VMs that mediated devices belong to by their UUIDs, and words for all: `VM 101, 102 and uuid ...`."""
    vms: set[int] = set()
    foreign = []
    for uuid in uuids:
        owner = pci.vmid_of_uuid(uuid)
        if owner:
            vms.add(owner[1])
        else:
            foreign.append(uuid)
    words = [f"VM {listed(sorted(vms))}"] if vms else []
    words += [f"uuid {listed(foreign)}"] if foreign else []
    return tuple(sorted(vms)), " and ".join(words)


def vgpu_fits(hardware: Hardware, address: str, number: str) -> bool:
    """Whether a VF can get a vGPU type: it is set already, on offer, or hidden by one that PVE resets first."""
    current = hardware.vgpu_current(address)
    if current is None:
        return False
    if current == number:
        return True
    offers = hardware.vgpu_creatable(address)
    return number in offers or (current != "0" and not offers)


# ---- classic mediated devices


class _Room:
    """The instances that are left, less those that earlier entries of the same VM take."""

    def __init__(self, hardware: Hardware, vmid: int | None, guest: Guest | None) -> None:
        self.hardware = hardware
        self.vmid = vmid
        self.guest = guest
        self.taken: dict[tuple[str, str], int] = {}
        self.offers: dict[str, dict[str, int | None]] = {}

    def problems(self, device: Passed) -> list[Problem]:
        """Take one instance for a device, on the first parent that has room, or say why there is none."""
        kind = device.mdev or ""
        if self.vmid is not None:
            uuid = pci.mdev_uuid(device.index, self.vmid)
            made = self.hardware.mdev(uuid)
            if made.parent is not None:
                return self._own(device, uuid, made.parent, made.type)
        full: list[str] = []
        for parent in device.addresses:
            offers = self._offers(parent)
            if kind not in offers or readable(self.hardware, parent):
                continue
            left = offers[kind]
            used = self.taken.get((parent, kind), 0)
            if left is None or left > used:
                self.taken[parent, kind] = used + 1
                return []
            full.append(parent)
        return [self._no_room(device, kind, full) if full else self._no_type(device, kind)]

    def _offers(self, parent: str) -> dict[str, int | None]:
        if parent not in self.offers:
            self.offers[parent] = self.hardware.mdev_room(parent)
        return self.offers[parent]

    def _own(self, device: Passed, uuid: str, parent: str, kind: str | None) -> list[Problem]:
        """The VM's own instance exists: PVE adopts it if it fits, and removes it when the VM stops."""
        if kind is None or (kind == device.mdev and parent in device.addresses):
            return []  # None: the kernel still creates it, and it may yet fit
        if self.guest and self.vmid is not None and self.guest(self.vmid) == "running":
            return []
        if kind != device.mdev:
            message = f"mdev {uuid} is there as {kind} on {parent}, not as {shown(device.mdev or '')}"
        else:
            message = f"mdev {uuid} is there on {parent}, not on {listed(device.addresses)}"
        hint = f"if VM {self.vmid} does not run: echo 1 > /sys/bus/mdev/devices/{uuid}/remove"
        return [_problem("mdev-uuid-taken", device, message, hint)]

    def _no_room(self, device: Passed, kind: str, full: list[str]) -> Problem:
        own = sum(self.taken.get((parent, kind), 0) for parent in full)
        words = []
        vms: set[int] = set()
        foreign: list[str] = []
        for parent in full:
            made = self.hardware.mdevs_of(parent)
            named, who = owners(made)
            vms.update(named)
            foreign += [uuid for uuid in made if pci.vmid_of_uuid(uuid) is None]
            words.append(f"{f'{len(made)} in use ({who})' if made else 'none in use'} on {parent}")
        message = f"no instance of {kind} is left: {'; '.join(words)}"
        if own:
            message += f"; earlier entries of this VM take {own}"
        hint = self._make_room(sorted(vms), foreign)
        if own and not vms and not foreign:
            away = f"take hostpci{device.index} away"
            hint = f"this VM asks for more than are left: {away}, or use a mapping with more devices"
        others = [
            f"on {parent}: {listed(names)}"
            for parent in device.addresses
            if (names := [name for name, left in self._offers(parent).items() if left and name != kind])
        ]
        if others and not own:
            more = f"; and on {len(others) - 4} more" if len(others) > 4 else ""
            hint += f"; still to be had {'; '.join(others[:4])}{more}"
        return _problem("mdev-no-instance", device, message, hint)

    def _make_room(self, vms: list[int], foreign: list[str]) -> str:
        """What to do for an instance when these VMs have all; one that does not run cannot be stopped.

        `foreign` are instances of no VM: somebody made them by hand.
        """
        states = {vmid: self.guest(vmid) if self.guest else "running" for vmid in vms}
        words = []
        for state, command in (
            ("journal", "pvepassthru recover gives back what"),
            ("stopped", "pvepassthru mdev list shows what"),
        ):
            idle = [vmid for vmid in vms if states[vmid] == state]
            does, it = ("does", "it") if len(idle) == 1 else ("do", "they")
            if idle:
                words.append(f"VM {listed(idle)} {does} not run: {command} {it} left")
        if foreign:
            one = "what no VM owns" if len(foreign) == 1 else f"one of {len(foreign)} that no VM owns"
            words.append(f"pvepassthru mdev remove {foreign[0]} removes {one}")
        stop = "stop a VM that uses one, or " if "running" in states.values() or not words else ""
        return "; ".join([*words, f"{stop}use a mapping with more devices"])

    def _no_type(self, device: Passed, kind: str) -> Problem:
        offers = {parent: self._offers(parent) for parent in device.addresses}
        names = sorted({name for types in offers.values() for name in types})
        where = listed(device.addresses)
        verb = "has" if len(device.addresses) == 1 else "have"
        unreadable = next((parent for parent in device.addresses if kind in offers[parent]), None)
        if unreadable:
            message = f"PVE cannot read {unreadable}: its {readable(self.hardware, unreadable)} in sysfs is not usable"
            return _problem("device-info-unreadable", device, message, "see what the kernel log says of the device")
        if names:
            near = nearest(kind, names)
            hint = f"write mdev={near} if that is meant; " if near else ""
            message = f"{where} {verb} no mdev type {shown(kind)}"
            return _problem("mdev-type-unknown", device, message, f"{hint}the types are {listed(names)}")
        vendor = sorted({number for parent in device.addresses for number in self.hardware.vgpu_creatable(parent)})
        hint = "load the driver that provides them, or name the device that has them"
        if vendor:
            hint = f"this one has NVIDIA's vendor vGPU types: mdev=nvidia-N with N one of {listed(vendor)}"
        message = f"{where} {verb} no mediated device types at all, so mdev={shown(kind)} cannot be created"
        return _problem("mdev-unsupported", device, message, hint)
