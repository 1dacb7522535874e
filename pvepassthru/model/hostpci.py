# SPDX-License-Identifier: Apache-2.0
"""A hostpci entry of a VM config: `hostpci0: 01:00,pcie=1`. Source: behaviour of qemu-server's hostpci format."""

from __future__ import annotations

from pvepassthru.model import pci, property_string
from pvepassthru.model.pattern import ASCII, Pattern
from pvepassthru.model.property_string import Key
from pvepassthru.model.record import NamedTuple


def _is_mdev_type(text: str) -> bool:
    return bool(text) and not any(char in "/.:" for char in text)


ROMS = "/usr/share/kvm"
"""PVE puts this folder before every romfile."""
_FLAG = Key("boolean", form="1 or 0")
_ID = Key(fits=Pattern(r"0x[0-9a-fA-F]{4}", ASCII).fits, form="0x and four hex digits, such as 0x10de")
KEYS: dict[str, Key] = {
    "host": Key(
        fits=pci.are_selectors,
        form="a PCI address in lower-case hex, such as 01:00 or 01:00.0",
        default=True,
    ),
    "mapping": Key(
        fits=Pattern(r"[a-zA-Z][a-zA-Z0-9_-]+", ASCII).fits,
        reason="bad-format",
        form="the name of a mapping (a letter, then letters, digits, - and _)",
    ),
    "mdev": Key(fits=_is_mdev_type, form="an mdev type without / . and :, such as nvidia-63"),
    "rombar": _FLAG,
    "romfile": Key(fits=Pattern(r"[^,;]+").fits, form=f"a file name in {ROMS} without , and ;"),
    "pcie": _FLAG,
    "x-vga": _FLAG,
    "legacy-igd": _FLAG,
    "vendor-id": _ID,
    "device-id": _ID,
    "sub-vendor-id": _ID,
    "sub-device-id": _ID,
    "driver": Key("enum", values=("vfio", "keep")),
}


class HostpciEntry(NamedTuple):
    """One hostpci entry as PVE reads it.

    Both host and mapping may be there, or none of them: that is refused later (model/resolve.py).
    """

    index: int  # type: ignore[assignment] # the field's own word; nobody asks these tuples for tuple.index
    line: int
    """Line of the config file, from 1."""
    host: str | None
    """Selectors as written, several separated by `;`."""
    mapping: str | None
    mdev: str | None
    """The mdev type as written; see `wants_mdev`."""
    rombar: bool
    romfile: str | None
    pcie: bool
    x_vga: bool
    legacy_igd: bool
    driver: str | None
    vendor_id: str | None
    device_id: str | None
    sub_vendor_id: str | None
    sub_device_id: str | None
    options: dict[str, str]
    """All but host, mapping and mdev, as PVE keeps them: booleans are "1" or "0"."""

    @property
    def key(self) -> str:
        """The key in the config, `hostpciN`."""
        return f"hostpci{self.index}"

    @property
    def wants_mdev(self) -> bool:
        """Whether a mediated device is asked for; PVE takes `mdev=0` for none."""
        return self.mdev is not None and self.mdev != "0"

    @property
    def keeps_driver(self) -> bool:
        """Whether PVE leaves the device with its driver (`driver=keep`)."""
        return self.driver == "keep"


def parse(index: int, text: str, line: int = 0) -> HostpciEntry:
    """The entry of `hostpciINDEX: TEXT`. Raises PropertyError with the reasons when PVE drops it."""
    values = property_string.parse(text, KEYS)
    options = {name: value for name, value in values.items() if name not in {"host", "mapping", "mdev"}}
    return HostpciEntry(
        index=index,
        line=line,
        host=values.get("host"),
        mapping=values.get("mapping"),
        mdev=values.get("mdev"),
        rombar=options.get("rombar", "1") == "1",
        romfile=options.get("romfile"),
        pcie=options.get("pcie") == "1",
        x_vga=options.get("x-vga") == "1",
        legacy_igd=options.get("legacy-igd") == "1",
        driver=options.get("driver"),
        vendor_id=options.get("vendor-id"),
        device_id=options.get("device-id"),
        sub_vendor_id=options.get("sub-vendor-id"),
        sub_device_id=options.get("sub-device-id"),
        options=options,
    )


def write(entry: HostpciEntry) -> str:
    """The entry's text in a config; parsing it again gives the same entry."""
    named = {"host": entry.host, "mapping": entry.mapping, "mdev": entry.mdev}
    values = {name: value for name, value in named.items() if value is not None} | entry.options
    return property_string.write(values, KEYS)
