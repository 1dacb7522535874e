# SPDX-License-Identifier: Apache-2.0
"""What makes PVE refuse a start, and the view of the hardware that decides it."""

from __future__ import annotations

from pvepassthru.model.record import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class Problem(NamedTuple):
    """One reason for which PVE refuses to start the VM."""

    code: str
    """A word: device-not-found, pcie-needs-q35, ... (rules/catalogue.py has one rule for each)."""
    key: str
    """The key of the VM config that is at fault."""
    line: int | None
    """Its line, from 1."""
    message: str
    hint: str
    device: str | None = None
    """The address or slot that is not there, where that is the reason."""


class Instance(Protocol):
    """A mediated device as host/inventory.py has it."""

    @property
    def uuid(self) -> str:
        """Its UUID."""

    @property
    def parent(self) -> str | None:
        """Its parent's address, None if there is no such instance."""

    @property
    def type(self) -> str | None:
        """Its type's id, None while the kernel still creates it."""


class Hardware(Protocol):
    """What resolving a config asks of a host's hardware; host/inventory.py's Inventory is one."""

    def addresses(self) -> Sequence[str]:
        """The addresses of all functions."""

    def in_slot(self, slot: str) -> Sequence[str]:
        """The addresses of a slot's functions, sorted."""

    def attribute(self, address: str, name: str) -> str | None:
        """A function's attribute as text, or None."""

    def has(self, address: str, name: str) -> bool:
        """Whether a function has this file or folder."""

    def group(self, address: str) -> int | None:
        """A function's IOMMU group, or None."""

    def iommu_present(self) -> bool | None:
        """Whether the kernel drives an IOMMU; None if that cannot be told."""

    def driver_available(self, name: str) -> bool | None:
        """Whether a driver is there or can be loaded; None if that cannot be told."""

    def mdev_room(self, address: str) -> dict[str, int | None]:
        """The mdev types of a function by id, each with how many more instances fit; None if that cannot be told."""

    def mdevs_of(self, parent: str) -> Sequence[str]:
        """The UUIDs of a parent's mediated devices, those whose removal waits included."""

    def mdev(self, uuid: str) -> Instance:
        """One mediated device."""

    def vgpu_creatable(self, address: str) -> dict[str, str]:
        """The vendor vGPU types on offer, number to name."""

    def vgpu_current(self, address: str) -> str | None:
        """The vendor vGPU type that is set, "0" for none, or None without that interface."""


def readable(hardware: Hardware, address: str) -> str | None:
    """The attribute for which PVE cannot read a function's data, or None if it can.

    PVE wants a numeric `irq`, and `vendor` and `device` that start with 0x.
    """
    irq = hardware.attribute(address, "irq")
    if irq is None or not (irq.isascii() and irq.isdecimal()):
        return "irq"
    for name in ("vendor", "device"):
        if not (hardware.attribute(address, name) or "").startswith("0x"):
            return name
    return None


def plain_id(hardware: Hardware, address: str, vendor: str, device: str) -> str | None:
    """`vendor:device` without 0x from two attributes of a function, or None if one is absent."""
    first, second = hardware.attribute(address, vendor), hardware.attribute(address, device)
    if first is None or second is None:
        return None
    return f"{first.removeprefix('0x')}:{second.removeprefix('0x')}"


def is_mdev_capable(hardware: Hardware, address: str) -> bool:
    """Whether PVE takes a function for one with mediated devices, classic or NVIDIA's vendor ones."""
    return hardware.has(address, "mdev_supported_types") or hardware.has(address, "nvidia")
