# SPDX-License-Identifier: Apache-2.0
"""All that sysfs says of one PCI function, for people who look at it; rules read only what they need (inventory.py).

Only plain reads. A function that sleeps in D3cold would be woken by reading its link, its config space or its ROM, so
of such a one these are left out. Source: Linux Documentation/ABI/testing/sysfs-bus-pci and
sysfs-bus-pci-devices-aer_stats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.host.inventory import DEVICES
from pvepassthru.model.text import number

if TYPE_CHECKING:
    from pvepassthru.host.host import Host
    from pvepassthru.host.inventory import Inventory

KINDS = {
    "gpu": ("03",),
    "nic": ("02",),
    "nvme": ("0108",),
    "storage": ("01",),
    "usb": ("0c03",),
    "audio": ("0401", "0403"),
    "accelerator": ("12",),
    "bridge": ("06",),
}
"""Words for kinds of functions, each with how their class codes start (PCI Code and ID Assignment Specification)."""
HEADER = 64
"""Bytes of the config space that are the same in all functions."""
BARS = 6
_IO, _MEMORY, _PREFETCH, _WIDE = 0x100, 0x200, 0x2000, 0x100000
"""Bits of a resource's flags. Source: Linux include/linux/ioport.h."""
_UNKNOWN = frozenset({"Unknown", "Unknown speed", "0", ""})


class Link(NamedTuple):
    """A PCIe link: what it runs at, and what it can."""

    speed: str | None
    """In GT/s, such as "8.0"; None if the kernel does not know."""
    width: int | None
    max_speed: str | None
    max_width: int | None

    def __str__(self) -> str:
        now = f"{self.speed or '?'}x{self.width}" if self.width else "-"
        return f"{now}/{self.max_speed or '?'}x{self.max_width or '?'}"


class Region(NamedTuple):
    """One address region of a function."""

    name: str
    """`BAR 0`, `ROM`, `VF BAR 0` or `window 0`."""
    kind: str
    """`memory` or `I/O ports`."""
    start: int
    size: int
    """In bytes."""
    wide: bool
    """Whether it has a 64-bit address."""
    prefetchable: bool


class Function(NamedTuple):
    """What a table says of one function."""

    address: str
    vendor: str | None
    device: str | None
    subsystem_vendor: str | None
    subsystem_device: str | None
    pci_class: str | None
    driver: str | None
    group: int | None
    reset_methods: tuple[str, ...] | None
    """In the kernel's order, empty if there is none; None where the kernel (before 5.15) does not say."""
    numa_node: int | None
    link: Link | None
    """None for a function without a link, or one that sleeps."""
    power_state: str | None
    vfs: int | None
    """VFs that exist; None if this is no PF."""
    total_vfs: int | None
    physical_function: str | None
    mdev_types: int
    """How many mdev or vGPU types it offers."""
    mdevs: tuple[str, ...]
    """UUIDs of its instances."""
    vgpu: str | None
    """The vGPU type that is set on it, or None."""

    @property
    def kind(self) -> str:
        """The first word of KINDS that its class has, or `other`."""
        digits = (self.pci_class or "").removeprefix("0x")
        return next((word for word, starts in KINDS.items() if digits.startswith(starts)), "other")

    @property
    def asleep(self) -> bool:
        """Whether it is without power, so that it is not to be read."""
        return self.power_state == "D3cold"


def function(inventory: Inventory, address: str) -> Function:
    """What sysfs says of a function; all values None or empty if there is none."""

    def text(name: str) -> str | None:
        return inventory.attribute(address, name)

    power = text("power_state")
    methods = text("reset_method")
    numa = text("numa_node")
    total = number(text("sriov_totalvfs"))
    current = inventory.vgpu_current(address)
    return Function(
        address,
        text("vendor"),
        text("device"),
        text("subsystem_vendor"),
        text("subsystem_device"),
        text("class"),
        inventory.driver(address),
        inventory.group(address),
        None if methods is None else tuple(methods.split()),
        number(numa),
        None if power == "D3cold" else _link(inventory, address),
        power,
        number(text("sriov_numvfs")) if total is not None else None,
        total,
        inventory.physical_function(address),
        len(inventory.host.names(f"{DEVICES}/{address}/mdev_supported_types"))
        or len(inventory.vgpu_creatable(address)),
        inventory.mdevs_of(address),
        None if current in {None, "", "0"} else f"nvidia-{current}",
    )


def _link(inventory: Inventory, address: str) -> Link | None:
    speed, top = (_speed(inventory.attribute(address, f"{which}_link_speed")) for which in ("current", "max"))
    wide, most = (number(inventory.attribute(address, f"{which}_link_width")) for which in ("current", "max"))
    if speed is None and top is None:
        return None
    return Link(speed, wide or None, top, None if most in {None, 0, 255} else most)


def _speed(text: str | None) -> str | None:
    """`8.0` of `8.0 GT/s PCIe`."""
    word = (text or "").partition(" ")[0]
    return None if word in _UNKNOWN else word


def virtual_functions(host: Host, address: str) -> tuple[str, ...]:
    """The addresses of a PF's VFs, in the order of their numbers."""
    numbers = [
        int(name[6:])
        for name in host.names(f"{DEVICES}/{address}")
        if name.startswith("virtfn") and number(name[6:]) is not None
    ]
    found = (host.link(f"{DEVICES}/{address}/virtfn{index}") for index in sorted(numbers))
    return tuple(vf for vf in found if vf)


def regions(text: str | None) -> tuple[Region, ...]:
    """The regions that a function's file `resource` lists: a line a region, with start, end and flags in hex.

    BARs 0 to 5, the ROM, with SR-IOV six BARs of all VFs together, then a bridge's windows; an unused one is all zero.
    """
    lines = (text or "").splitlines()
    names = [f"BAR {index}" for index in range(BARS)] + ["ROM"]
    if len(lines) >= len(names) + BARS:
        names += [f"VF BAR {index}" for index in range(BARS)]
    found = []
    for place, line in enumerate(lines):
        values = [_hex(word) for word in line.split()]
        if len(values) != 3 or None in values:
            continue
        start, end, flags = (value or 0 for value in values)
        if end <= start or not flags & (_IO | _MEMORY):
            continue
        name = names[place] if place < len(names) else f"window {place - len(names)}"
        kind = "memory" if flags & _MEMORY else "I/O ports"
        found.append(Region(name, kind, start, end - start + 1, bool(flags & _WIDE), bool(flags & _PREFETCH)))
    return tuple(found)


def _hex(word: str) -> int | None:
    try:
        return int(word, 16)
    except ValueError:
        return None


def errors(inventory: Inventory, address: str) -> dict[str, dict[str, int]] | None:
    """PCIe errors counted since boot: of each kind those that happened, by name; None if the function counts none."""
    counted = {}
    for kind in ("correctable", "nonfatal", "fatal"):
        text = inventory.attribute(address, f"aer_dev_{kind}")
        if text is not None:
            pairs = (line.rpartition(" ") for line in text.splitlines())
            counted[kind] = {
                name: count
                for name, _, word in pairs
                if (count := number(word)) and name and not name.startswith("TOTAL_ERR")
            }
    return counted or None


def answers(host: Host, address: str) -> bool | None:
    """Whether a function answers: its config space does not read 0xFF everywhere, as of one that fell off the bus.

    Reads the header only. None if that cannot be read. Not for functions that sleep.
    """
    try:
        header = host.head(f"{DEVICES}/{address}/config", HEADER)
    except OSError:
        return None
    return bool(header.strip(b"\xff")) if header else None
