# SPDX-License-Identifier: Apache-2.0
"""Names of PCI vendors, devices, subsystems and classes, out of the list pci.ids that Debian's package pci.ids has.

The list is kept as one text in which the few ids of a host are looked for; making values of its 35,000 lines would
take longer than all else that a command does. Its format is told in its own head.
"""

from __future__ import annotations

import re
import zlib

from pvepassthru.host.host import MAX_FILE, Host

FILES = (
    "/usr/share/misc/pci.ids",
    "/usr/share/hwdata/pci.ids",
    "/usr/share/misc/pci.ids.gz",
    "/usr/share/hwdata/pci.ids.gz",
)
_END = re.compile(r"\n[^\t#\n]")
"""Where a vendor's or class's part of the list ends: at the next line that is not its own, nor a comment, nor empty."""
_END_OF_DEVICE = re.compile(r"\n(?!\t\t|#|\n)")
_HEX = frozenset("0123456789abcdef")
_LEGAL = frozenset({"co", "company", "corp", "corporation", "inc", "limited", "llc", "ltd"})
"""Words at the end of a vendor's name that tell nobody anything."""


class PciIds:
    """The list of names, read when a name is first asked for. Ids are as sysfs has them: `0x10de`, `0x030000`."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._text: str | None = None
        self._parts: dict[str, str] = {}

    def vendor(self, vendor: str | None) -> str | None:
        """A vendor's name, or None if the list is absent or does not have it."""
        return _first(self._part(_hex(vendor, 4)))

    def device(self, vendor: str | None, device: str | None) -> str | None:
        """The name of a vendor's device, without the vendor's, or None."""
        return _first(self._device(vendor, device))

    def subsystem(
        self, vendor: str | None, device: str | None, subvendor: str | None, subdevice: str | None
    ) -> str | None:
        """The name of the board that a device is on, or None."""
        key = f"{_hex(subvendor, 4)} {_hex(subdevice, 4)}"
        return _first(_inner(self._device(vendor, device), "\t\t", key))

    def subclass(self, code: str | None) -> str | None:
        """The name of a class, such as "VGA compatible controller" for `0x030000`; that of the base class, or None."""
        digits = _hex(code, 6)
        base = self._part(f"C {digits[:2]}") if digits else ""
        return _first(_inner(base, "\t", digits[2:4])) or _first(base)

    def name(self, vendor: str | None, device: str | None) -> str:
        """A vendor, by its short name, and its device in words; numbers where the list has no name."""
        known, called = self.vendor(vendor), self.device(vendor, device)
        maker = _short(known) if known else f"vendor {_hex(vendor, 4) or '?'}"
        return f"{maker} {called or f'device {_hex(device, 4)}' if _hex(device, 4) else 'device ?'}"

    def _device(self, vendor: str | None, device: str | None) -> str:
        """A device's part of the list: its line, and those of its subsystems."""
        key = f"{_hex(vendor, 4)}:{_hex(device, 4)}"
        if key not in self._parts:
            self._parts[key] = _inner(self._part(_hex(vendor, 4)), "\t", _hex(device, 4), _END_OF_DEVICE)
        return self._parts[key]

    def _part(self, key: str) -> str:
        """The part of the list whose first line starts with a key, or nothing."""
        if key not in self._parts:
            self._parts[key] = _inner(self._list(), "", key, _END)
        return self._parts[key]

    def _list(self) -> str:
        if self._text is None:
            self._text = "\n" + (_read(self._host) or (_read(Host()) if self._host.root else None) or "")
        return self._text


def _read(host: Host) -> str | None:
    """The first list that a host has, or None; one that cannot be read or unpacked does not count."""
    for path in FILES:
        try:
            data = host.read(path)
            if path.endswith(".gz"):
                unpacker = zlib.decompressobj(wbits=31)
                data = unpacker.decompress(data, MAX_FILE)
        except (OSError, zlib.error):  # names are a courtesy: ids do without
            continue
        return data.decode("latin-1")  # one byte a character: that is searched fastest; _first makes UTF-8 of a name
    return None


def _inner(text: str, tabs: str, key: str, end: re.Pattern[str] | None = None) -> str:
    """The line of a text that starts with tabs and a key, and what follows it up to `end`, or nothing."""
    if not key.strip():
        return ""
    start = text.find(f"\n{tabs}{key}  ")
    if start < 0:
        return ""
    found = end.search(text, start + 1) if end else None
    stop = found.start() if found else len(text) if end else text.find("\n", start + 1)
    return text[start:stop] if stop >= 0 else text[start:]


def _first(part: str) -> str | None:
    """The name in the first line of a part, or None."""
    line = part[1:].partition("\n")[0].lstrip("\t")
    return line.partition("  ")[2].strip().encode("latin-1").decode("utf-8", "replace") or None


def _short(vendor: str) -> str:
    """A vendor's name without `Corporation` and its like, or what the list has in brackets: `[AMD/ATI]`."""
    if vendor.endswith("]") and "[" in vendor:
        return vendor[vendor.rindex("[") + 1 : -1]
    words = vendor.split()
    while len(words) > 1 and words[-1].strip(".,").lower() in _LEGAL:
        del words[-1]
    return " ".join(words).rstrip(",")


def _hex(value: str | None, digits: int) -> str:
    """An id as the list has it: `0x10DE` becomes `10de`; nothing if it is no such id."""
    plain = (value or "").lower().removeprefix("0x")
    return plain if len(plain) == digits and _HEX.issuperset(plain) else ""
