# SPDX-License-Identifier: Apache-2.0
"""Mapped PCI devices (mapping/pci.cfg), read and checked as PVE does."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from tests.pve.config import BLANKS, Check, PveError, pattern, properties

if TYPE_CHECKING:
    from tests.pve.sysfs import Sysfs

PATH = "/etc/pve/mapping/pci.cfg"

_PATH = r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}(?:.[0-9a-f])?"  # PVE's own dot is unescaped, too
_ID = pattern(r"[0-9a-fA-F]{4}:[0-9a-fA-F]{4}")
_MAP_CHECKS: dict[str, Check] = {
    "node": pattern(r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?", "bad-format"),
    "path": pattern(f"{_PATH}(?:;{_PATH})*"),
    "id": _ID,
    "subsystem-id": _ID,
    "iommugroup": pattern(r"[+-]?[0-9]+", "bad-format"),
    "description": pattern(r"(?s:.*)"),
}
_HEADER = re.compile(r"([a-zA-Z][a-zA-Z0-9_-]+)[ \t\r\f\v]*")
_PROPERTY = re.compile(r"[ \t\r\f\v]+([^ \t\r\f\v]+)(?:[ \t\r\f\v]+(.*))?", re.DOTALL)


@dataclasses.dataclass
class Mapping:
    """One mapping: its valid `map` lines, for all nodes."""

    maps: list[dict[str, str]] = dataclasses.field(default_factory=list)
    mdev: bool = False
    live_migration: bool = False

    def read(self, name: str, value: str) -> None:
        """Take one property line; what PVE warns about changes nothing."""
        if name == "map":
            try:
                entry = properties(value, _MAP_CHECKS)
            except PveError:
                return
            if {"node", "path", "id"} <= entry.keys():
                self.maps.append(entry)
        elif name in ("mdev", "live-migration-capable") and value in ("", "0", "1"):
            flag = value != "0"  # a bare key is a yes; other words than 0 and 1 do not count here
            if name == "mdev":
                self.mdev = flag
            else:
                self.live_migration = flag

    def alternatives(self, node: str) -> list[dict[str, str]]:
        """The `map` lines of a node."""
        return [entry for entry in self.maps if entry["node"] == node]


def parse(data: bytes) -> dict[str, Mapping]:
    """The mappings by name; a later one of the same name replaces the earlier."""
    mappings: dict[str, Mapping] = {}
    current: Mapping | None = None
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        if current is not None and line in ("", "0"):  # to perl both are false: the section ends
            current = None
        elif not line.strip(BLANKS) or line.lstrip(BLANKS).startswith("#"):
            continue
        elif current is None:
            if header := _HEADER.fullmatch(line):
                current = mappings[header[1]] = Mapping()
        elif match := _PROPERTY.fullmatch(line):
            current.read(match[1], (match[2] or "").rstrip(BLANKS))
    return mappings


def check(sysfs: Sysfs, entry: dict[str, str], mapping: Mapping) -> None:
    """Compare one alternative with the hardware. Raises PveError at the first difference."""
    for place, path in enumerate(entry["path"].split(";")):
        address = path if re.search(r"\.[0-9a-f]\Z", path) else f"{path}.0"
        info = sysfs.info(address)
        if info is None:
            raise PveError("mapping-device-not-found", path)
        if entry["id"] != f"{info.vendor}:{info.device}":
            raise PveError("mapping-id-mismatch", path)
        present = {"subsystem-id": info.subsystem}
        if place == 0:
            group = sysfs.group(address)
            present["iommugroup"] = None if group is None else str(group)
        for key, value in sorted(present.items()):
            given = entry.get(key)
            if value is None and given is not None:
                raise PveError("mapping-unexpected-property", f"{path} has no {key}")
            if value is not None and given is None:
                raise PveError("mapping-missing-property", f"{path} has {key} {value}")
            if given != value:
                code = "mapping-subsystem-mismatch" if key == "subsystem-id" else "mapping-iommugroup-mismatch"
                raise PveError(code, path)
        if mapping.mdev != sysfs.is_mdev_parent(address):
            raise PveError("mapping-mdev-mismatch", path)
