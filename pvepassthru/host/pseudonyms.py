# SPDX-License-Identifier: Apache-2.0
"""Pseudonyms for what names one machine: MAC addresses, disks with their serial numbers, UUIDs.

The same one wherever the same value stands, counted in the order in which they are met: a hash of something as short as
a MAC address could be found by trying all.
"""

from __future__ import annotations

import re

_MAC = re.compile(
    rb"(?<![0-9A-Fa-f])(?<![0-9A-Fa-f]{2}[:-])[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4,}[0-9A-Fa-f]{2}(?![0-9A-Fa-f])"
)
"""Six bytes, or more, as InfiniBand's have."""
_MAC_NAME = re.compile(rb"(?<![0-9A-Za-z])((?:en|wl|ww|sl|ib)x)([0-9a-f]{12})(?![0-9a-f])")
"""An interface that systemd names by its MAC address (systemd.net-naming-scheme)."""
_BY_ID = re.compile(rb"(?<=/disk/by-id/)[^\s,;:\"']+")
"""Disks named by model and serial number."""
UUID = re.compile(rb"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


class Pseudonyms:
    """Those of one snapshot; with `full` everything keeps its own name."""

    def __init__(self, *, full: bool = False) -> None:
        self.full = full
        self._numbers: dict[str, dict[bytes, int]] = {}

    def number(self, kind: str, value: bytes) -> int:
        """The number of a value of some kind, from 1."""
        known = self._numbers.setdefault(kind, {})
        return known.setdefault(value, len(known) + 1)

    def plain(self, data: bytes) -> bytes:
        """Any text without MAC addresses and disk names that have a serial number.

        Asked once of everything that goes into a snapshot, after the others.
        """
        if self.full:
            return data
        if b":" in data or b"-" in data:
            data = _MAC.sub(self._mac, data)
        if b"x" in data:
            data = _MAC_NAME.sub(self._mac_name, data)
        if b"/by-id/" in data:
            data = _BY_ID.sub(self._disk, data)
        return data

    def name(self, name: str) -> str:
        """A file's path, or a link's text, without a MAC address or a disk's serial number."""
        if self.full or ("x" not in name and "/by-id/" not in name):
            return name
        data = _MAC_NAME.sub(self._mac_name, name.encode("utf-8", "surrogateescape"))
        return _BY_ID.sub(self._disk, data).decode("utf-8", "surrogateescape")

    def _mac(self, found: re.Match[bytes]) -> bytes:
        digits = found[0].replace(found[1], b"").lower()
        if digits in {b"0" * 12, b"f" * 12}:  # none, and everybody
            return found[0]
        pseudonym = b"02%010x" % self.number("mac", digits)
        return found[1].join(pseudonym[place : place + 2] for place in range(0, 12, 2))

    def _mac_name(self, found: re.Match[bytes]) -> bytes:
        return b"%s02%010x" % (found[1], self.number("mac", found[2]))

    def _disk(self, found: re.Match[bytes]) -> bytes:
        return b"disk-%d" % self.number("disk", found[0])

    def uuids(self, data: bytes) -> bytes:
        """A text with its UUIDs replaced."""
        if self.full:
            return data
        return UUID.sub(lambda found: b"00000000-0000-4000-8000-%012x" % self.number("uuid", found[0].lower()), data)
