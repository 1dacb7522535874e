# SPDX-License-Identifier: Apache-2.0
"""PCI addresses, selectors, and the UUIDs that PVE gives to mediated devices.

A full address is `DOMAIN:BUS:SLOT.FUNCTION` in lower-case hex, as sysfs names functions; domains have four digits or
more (VMD). A selector is what people write in a VM config: without a domain it means 0000, without a function every
function of the slot. Source: behaviour of qemu-server's PCI code.
"""

from __future__ import annotations

from pvepassthru.model.pattern import ASCII, Pattern

ADDRESS = Pattern(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", ASCII)
"""A full address."""
SELECTOR = r"(?:[0-9a-f]{4,}:)?[0-9a-f]{2}:[0-9a-f]{2}(?:\.[0-9a-f])?"
"""What PVE accepts as a selector; functions 8 to f pass here and match nothing."""

MAX_INDEX = 15
"""hostpci0 to hostpci15."""
MIN_VMID = 100
MAX_VMID = 999_999_999

_UUID = Pattern(r"([0-9]{8})-0000-0000-0000-([0-9]{12})", ASCII)


def with_domain(selector: str) -> str:
    """A selector with its domain: `01:00` becomes `0000:01:00`."""
    return f"0000:{selector}" if selector.count(":") == 1 else selector


def slot(address: str) -> str:
    """The slot of an address or selector, without the function: `0000:01:00`."""
    return address.partition(".")[0]


def mdev_uuid(index: int, vmid: int) -> str:
    """The UUID that PVE gives to the mediated device of a VM's hostpci entry."""
    return f"{index:08d}-0000-0000-0000-{vmid:012d}"


def vmid_of_uuid(uuid: str) -> tuple[int, int] | None:
    """(hostpci index, VMID) of a UUID in PVE's pattern, or None if it cannot be PVE's."""
    match = _UUID.fullmatch(uuid)
    if match is None:
        return None
    index, vmid = int(match[1]), int(match[2])
    return (index, vmid) if index <= MAX_INDEX and MIN_VMID <= vmid <= MAX_VMID else None
