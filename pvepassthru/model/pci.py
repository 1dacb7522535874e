# SPDX-License-Identifier: Apache-2.0
"""PCI addresses, selectors, and the UUIDs that PVE gives to mediated devices.

A full address is `DOMAIN:BUS:SLOT.FUNCTION` in lower-case hex, as sysfs names functions; domains have four digits or
more (VMD). A selector is what people write in a VM config: without a domain it means 0000, without a function every
function of the slot. Source: behaviour of qemu-server's PCI code.
"""

from __future__ import annotations

MAX_INDEX = 15
"""hostpci0 to hostpci15."""
MIN_VMID = 100
MAX_VMID = 999_999_999

_MIDDLE = "-0000-0000-0000-"
_HEX = frozenset("0123456789abcdef")


def is_address(text: str) -> bool:
    """Whether this is a full address as sysfs names functions: `0000:01:00.0`."""
    return text.count(":") == 2 and text[-2:-1] == "." and text[-1:] in "01234567" and is_selector(text)


def is_selector(text: str) -> bool:
    """Whether PVE accepts this as a selector; functions 8 to f pass and match nothing."""
    slot_of, dot, function = text.partition(".")
    *domain, bus, device = slot_of.split(":") if ":" in slot_of else ("", "")
    if len(bus) != 2 or len(device) != 2 or len(domain) > 1 or len(function) != len(dot):
        return False
    return (not domain or len(domain[0]) >= 4) and _HEX.issuperset(bus + device + function + "".join(domain))


def are_selectors(text: str) -> bool:
    """Whether this is one selector, or several separated by `;`."""
    return all(map(is_selector, text.split(";")))


def is_uuid(text: str) -> bool:
    """Whether this is a UUID as the kernel accepts one for a mediated device, in either case."""
    parts = text.split("-")
    return [len(part) for part in parts] == [8, 4, 4, 4, 12] and _HEX.issuperset("".join(parts).lower())


def with_domain(selector: str) -> str:
    """A selector with its domain: `01:00` becomes `0000:01:00`."""
    return f"0000:{selector}" if selector.count(":") == 1 else selector


def has_short_domain(address: str) -> bool:
    """Whether a full address or selector has a domain of four digits, as all have but those behind VMD.

    PVE's API takes no other one where it is asked for mdev types.
    """
    return address.find(":") == 4


def overlap(one: str, other: str) -> bool:
    """Whether two selectors with domains have a function in common."""
    return slot(one) == slot(other) and (one == other or "." not in one or "." not in other)


def slot(address: str) -> str:
    """The slot of an address or selector, without the function: `0000:01:00`."""
    return address.partition(".")[0]


def mdev_uuid(index: int, vmid: int) -> str:
    """The UUID that PVE gives to the mediated device of a VM's hostpci entry."""
    return f"{index:08d}{_MIDDLE}{vmid:012d}"


def vmid_of_uuid(uuid: str) -> tuple[int, int] | None:
    """(hostpci index, VMID) of a UUID in PVE's pattern, or None if it cannot be PVE's."""
    entry, _, vm = uuid.partition(_MIDDLE)
    if (len(entry), len(vm)) != (8, 12) or not (entry + vm).isdecimal() or not uuid.isascii():
        return None
    index, vmid = int(entry), int(vm)
    return (index, vmid) if index <= MAX_INDEX and MIN_VMID <= vmid <= MAX_VMID else None
