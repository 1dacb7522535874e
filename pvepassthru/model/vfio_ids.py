# SPDX-License-Identifier: Apache-2.0
"""The parameter `ids=` of vfio-pci: which devices it takes when it is loaded.

Source: Linux drivers/vfio/pci/vfio_pci.c: entries parted by commas, each
`vendor:device[:subvendor[:subdevice[:class[:class_mask]]]]` in hex; a missing one fits any, class and mask are 0.
"""

from __future__ import annotations

from pvepassthru.model.record import NamedTuple

ANY = 0xFFFF_FFFF
LONGEST = 1023
"""Characters that the kernel keeps of the whole parameter."""
_HEX = frozenset("0123456789abcdefABCDEF")


class VfioId(NamedTuple):
    """One entry of ids=."""

    text: str
    """As written."""
    values: tuple[int, int, int, int, int, int] | None
    """Vendor, device, subvendor, subdevice, class and its mask; None of an entry that the kernel passes over."""

    def fits(self, vendor: str, device: str, subvendor: str, subdevice: str, pci_class: str) -> bool:
        """Whether it takes a device with these values, hex digits as sysfs has them without 0x; empty fits only any."""
        if self.values is None:
            return False
        wanted, mask = self.values[:4], self.values[5]
        has = (vendor, device, subvendor, subdevice)
        if any(one not in {ANY, _number(text)} for one, text in zip(wanted, has, strict=True)):
            return False
        return not mask or ((_number(pci_class) or 0) ^ self.values[4]) & mask == 0


def parse(text: str) -> tuple[VfioId, ...]:
    """The entries of ids=; empty ones, between two commas, are nothing. Never raises."""
    return tuple(VfioId(entry, _values(entry)) for entry in text.split(",") if entry)


def _values(entry: str) -> tuple[int, int, int, int, int, int] | None:
    numbers = [_number(field) for field in entry.strip(" \t").split(":")]
    if not 2 <= len(numbers) <= 6 or None in numbers:
        return None
    given = [number for number in numbers if number is not None]
    vendor, device, subvendor, subdevice, pci_class, mask = given + [ANY, ANY, 0, 0][len(given) - 2 :]
    return vendor, device, subvendor, subdevice, pci_class, mask


def _number(text: str) -> int | None:
    digits = text[2:] if text[:2] in {"0x", "0X"} else text
    return int(digits, 16) if 0 < len(digits) <= 8 and _HEX.issuperset(digits) else None
