# SPDX-License-Identifier: Apache-2.0
"""Which block devices are mounted, and where; and which are swapped to.

Sources: /proc/self/mountinfo, /proc/mounts where there is none, /proc/swaps, and of a btrfs on several devices, of
which mountinfo names one, /sys/fs/btrfs/UUID/devices. A container or service may have mounted what the host's own list
does not have: each other mount namespace is read once, through one of its processes.
"""

from __future__ import annotations

import os

from pvepassthru.model import mounts
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from pvepassthru.host.blocks import Blocks
    from pvepassthru.host.host import Host
    from pvepassthru.model.mounts import Mount

MOUNTINFO = "/proc/self/mountinfo"
MOUNTS = "/proc/mounts"
SWAPS = "/proc/swaps"
BTRFS = "/sys/fs/btrfs"


class Mounted:
    """The mounts and swap spaces of a host, read at once."""

    def __init__(self, blocks: Blocks) -> None:
        self.damaged: dict[str, int] = {}
        """Files with a line that makes no sense, each with the number of the first."""
        self._blocks = blocks
        self._points: dict[str, list[str]] = {}
        self._swaps: dict[str, list[str]] = {}
        """Both by block device: its name, or `major:minor` where the kernel tells that."""
        self._read_mounts()
        self._read_other_namespaces()
        self._read_btrfs()
        self._read_swaps()

    def points(self, device: str) -> list[str]:
        """Where a block device is mounted, in the order of the mounts."""
        return _of_either(self._points, device, self._blocks.number(device))

    def swaps(self, device: str) -> list[str]:
        """What of a block device is swapped to: a swap file's path, or nothing for all of it."""
        return _of_either(self._swaps, device, self._blocks.number(device))

    def _read_mounts(self) -> None:
        text = self._blocks.text(MOUNTINFO)
        if text is None and MOUNTINFO not in self._blocks.host.unreadable:
            path, (found, bad) = MOUNTS, mounts.mounts(self._blocks.text(MOUNTS) or "")
        else:
            path, (found, bad) = MOUNTINFO, mounts.mountinfo(text or "")
        self._mounts = found
        self._note(path, bad)
        for mount in found:
            for device in self._devices(mount):
                _add(self._points, device, mount.point)

    def _read_other_namespaces(self) -> None:
        host = self._blocks.host
        seen = {host.target("/proc/self/ns/mnt")}
        if None in seen:  # a copy of a host, or a kernel without namespaces
            return
        for pid in sorted(int(name) for name in self._blocks.names("/proc") if name.isdecimal()):
            namespace = _target(host, f"/proc/{pid}/ns/mnt")
            if namespace is None or namespace in seen:
                continue
            seen.add(namespace)
            for mount in mounts.mountinfo(_text(host, f"/proc/{pid}/mountinfo"))[0]:
                for device in self._devices(mount):
                    if not self._points.get(device):
                        _add(self._points, device, f"{mount.point} (in a namespace of its own, as of process {pid})")

    def _devices(self, mount: Mount) -> list[str]:
        """The block devices that a mount is of, each by name or `major:minor`."""
        if mount.number and not mount.number.startswith("0:"):
            return [mount.number]
        found = [self._blocks.find(source) for source in mount.source.split(":")]  # bcachefs names all its devices
        return [device for device in found if device]

    def _read_btrfs(self) -> None:
        for uuid in self._blocks.names(BTRFS):
            devices = self._blocks.names(f"{BTRFS}/{uuid}/devices")
            points = sorted({point for device in devices for point in self.points(device)})
            for device in devices:
                for point in points or ["(a btrfs)"]:
                    _add(self._points, device, point)

    def _read_swaps(self) -> None:
        found, bad = mounts.swaps(self._blocks.text(SWAPS) or "")
        self._note(SWAPS, bad)
        for swap in found:
            if swap.kind == "file":
                mount = mounts.mounted_at(swap.path, self._mounts)
                for device in self._devices(mount) if mount else ():
                    _add(self._swaps, device, swap.path)
                continue
            found_device = self._blocks.find(swap.path)
            if found_device:
                _add(self._swaps, found_device, "")

    def _note(self, path: str, bad: int | None) -> None:
        if bad is not None:
            self.damaged[path] = bad


def _add(to: dict[str, list[str]], device: str, what: str) -> None:
    values = to.setdefault(device, [])
    if what not in values:
        values.append(what)


def _of_either(table: dict[str, list[str]], name: str, number: str | None) -> list[str]:
    return table.get(name, []) + (table.get(number, []) if number else [])


def _target(host: Host, path: str) -> str | None:
    """As Host.target, of a process that may end meanwhile or be another user's: then None, and nothing is noted."""
    try:
        return os.readlink(host.path(path))
    except OSError:
        return None


def _text(host: Host, path: str) -> str:
    """As Host.text, likewise; nothing if there is nothing to be read."""
    try:
        return host.read(path).decode("utf-8", "surrogateescape")
    except OSError:
        return ""
