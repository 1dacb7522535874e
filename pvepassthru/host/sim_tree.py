# SPDX-License-Identifier: Apache-2.0
"""One operation's view of a simulated sysfs: what it reads, and the changes that it plans.

An operation plans all its changes first and sees them in what it reads; host/sim.py then carries them out, so that a
killed writer leaves either nothing or a list that the next user completes.
"""

from __future__ import annotations

import os

from pvepassthru.host.host import Host
from pvepassthru.host.inventory import DEVICES, MDEVS
from pvepassthru.host.sim_settings import SETTINGS, Settings
from pvepassthru.model import jsontext
from pvepassthru.model.errors import InputError
from pvepassthru.model.pci import is_address
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

    Entry = dict[str, Any]
    """A write that still runs: its kind, the `devices` that it locks, and what its kind needs; lies in JSON."""

DRIVERS = "/sys/bus/pci/drivers"
STATE = "/.sim/state.json"
TEMPORARY = "/.sim/temporary"
STASH = "/.sim/stash"
"""Where what a driver or a device shows is kept while the driver is unbound or the device removed."""


class DeviceLockedError(Exception):
    """A write that still runs holds the lock of this device; the kernel makes other writers wait for it."""


def locked(entry: Entry) -> set[str]:
    """The addresses of the functions whose locks a write that still runs has: its own, and the VF that it removes."""
    found = set(entry.get("devices", ()))
    for removal in (entry.get("vfs"), (entry.get("detach") or {}).get("vfs")):
        if removal and removal["queue"]:
            found.add(removal["queue"][0][1])
    return found


def fail(number: int, path: str) -> NoReturn:
    """Raise OSError as the kernel answers a write to `path`."""
    raise OSError(number, os.strerror(number), path)


def apply(root: str, change: Sequence[str]) -> None:
    """Carry out one planned change below `root`; doing it again changes nothing. Raises OSError."""
    kind, path = change[0], root + change[1]
    if kind == "remove":
        _remove(path)
        return
    if kind == "dir":
        os.makedirs(path, exist_ok=True)
        return
    os.makedirs(os.path.dirname(root + change[2] if kind == "move" else path), exist_ok=True)
    if kind == "move":
        target = root + change[2]
        if os.path.lexists(target):  # moved before; what is at the source comes from carrying out earlier changes again
            _remove(path)
        elif os.path.lexists(path):
            os.rename(path, target)
    elif kind == "link":
        if os.path.lexists(path):
            if os.path.islink(path) and os.readlink(path) == change[2]:
                return
            _remove(path)
        os.symlink(change[2], path)
    else:
        replace(root, change[1], change[2])


def replace(root: str, path: str, text: str) -> None:
    """Put a file in place so that no reader sees half of it; only for the holder of the lock. Raises OSError."""
    with open(root + TEMPORARY, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    os.rename(root + TEMPORARY, root + path)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        for name in os.listdir(path):
            _remove(f"{path}/{name}")
        os.rmdir(path)
    elif os.path.lexists(path):
        os.unlink(path)


def _inside(path: str, folder: str) -> bool:
    return path.startswith(folder) and path[len(folder) : len(folder) + 1] in {"", "/"}


class _Disk(Host):
    """The tree's files as they are, for which nobody waits."""

    def may_wait(self, path: str) -> bool:  # noqa: ARG002 - of any
        """Never."""
        return False


class Tree:
    """The sysfs below `root` as one operation sees it, with what the operation plans to change."""

    def __init__(self, root: str, waiting: list[Entry]) -> None:
        self.disk = _Disk(root or "/")
        self.changes: list[list[str]] = []
        self.waiting = waiting
        """Writes that still run, of this process and others."""
        self.taken_groups: set[int] = set()
        """The numbers of the IOMMU groups, once host/sim_vfio.py counted them."""
        self._planned: dict[str, list[str]] = {}
        self._implied: set[str] = set()
        """The folders that come with what is planned."""
        self._gone: list[str] = []
        self._moved: list[tuple[str, str]] = []
        self._devices: dict[str, str | None] = {}
        self._state: Entry | None = None
        self._settings: Settings | None = None

    # ---- reading

    def _place(self, path: str) -> str | None:
        """Where `path` lies on the disk before the planned changes, or None if they removed it."""
        for source, target in reversed(self._moved):
            if _inside(path, target):
                return source + path[len(target) :]
        return None if any(_inside(path, gone) for gone in self._gone) else path

    def text(self, path: str) -> str | None:
        """A file's text without its outer blanks, or None without such a file."""
        if path in self._planned:
            return self._planned[path][2].strip() if self._planned[path][0] == "file" else None
        place = self._place(path)
        return self.disk.text(place) if place else None

    def link(self, path: str) -> str | None:
        """The last component of a symbolic link's target, or None without such a link."""
        if path in self._planned:
            change = self._planned[path]
            return change[2].rpartition("/")[2] if change[0] == "link" else None
        place = self._place(path)
        return self.disk.link(place) if place else None

    def exists(self, path: str) -> bool:
        """Whether there is a file, folder or link, dangling or not."""
        if path in self._planned or path in self._implied:
            return True
        place = self._place(path)
        return place is not None and os.path.lexists(self.disk.path(place))

    def names(self, path: str) -> list[str]:
        """The sorted names in a folder."""
        place = self._place(path)
        names = {name for name in self.disk.names(place) if self._place(f"{path}/{name}")} if place else set()
        names.update(
            other[len(path) + 1 :].partition("/")[0] for other in self._planned if other.startswith(path + "/")
        )
        return sorted(names)

    def device(self, address: str) -> str | None:
        """The folder of a PCI function with all links followed, or None if there is no such function."""
        if address not in self._devices:
            self._devices[address] = self.disk.resolve(f"{DEVICES}/{address}") if is_address(address) else None
        return self._devices[address]

    def know(self, address: str, folder: str | None) -> None:
        """Let `device` answer so for a function that this operation adds or removes."""
        self._devices[address] = folder

    def driver(self, folder: str) -> str | None:
        """The name of the driver that a function is bound to, or None."""
        return self.link(f"{folder}/driver")

    def is_virtual(self, folder: str) -> bool:
        """Whether a function is a VF."""
        return self.exists(f"{folder}/physfn")

    def instances(self, folder: str) -> list[str]:
        """The uuids of a parent's mdev instances, those that are being created or removed included."""
        return [name for name in self.names(folder) if len(name) == 36 and name.count("-") == 4]

    def check_unlocked(self, *addresses: str) -> None:
        """Raise DeviceLockedError while a write that still runs locks one of these devices."""
        for entry in self.waiting:
            if not locked(entry).isdisjoint(addresses):
                raise DeviceLockedError

    # ---- planning

    def file(self, path: str, text: str) -> None:
        """Plan a file with this text; a newline is added to what is not empty."""
        self._plan(["file", path, text + "\n" if text else ""])

    def folder(self, path: str) -> None:
        """Plan a folder."""
        self._plan(["dir", path])

    def connect(self, path: str, target: str) -> None:
        """Plan a symbolic link to `target`, a path as on a host, in the relative form that sysfs uses."""
        self._plan(["link", path, os.path.relpath(target, os.path.dirname(path))])

    def remove(self, path: str) -> None:
        """Plan the removal of a file, a link, or a folder with all in it; one that is absent is fine."""
        if self.exists(path):
            self._forget(path)
            self.changes.append(["remove", path])

    def move(self, path: str, target: str) -> None:
        """Plan that a folder with all in it goes to `target`, where nothing is."""
        self._forget(path)
        self._moved.append((path, target))
        self.changes.append(["move", path, target])

    def _forget(self, path: str) -> None:
        for other in [other for other in self._planned if _inside(other, path)]:
            del self._planned[other]
        self._implied = {other for other in self._implied if not _inside(other, path)}
        self._gone.append(path)

    def _plan(self, change: list[str]) -> None:
        self.changes.append(change)
        self._planned[change[1]] = change
        parent = change[1].rpartition("/")[0]
        while parent and parent not in self._implied:
            self._implied.add(parent)
            parent = parent.rpartition("/")[0]

    # ---- state and settings

    @property
    def settings(self) -> Settings:
        """The simulation's settings. Raises InputError if the file is malformed."""
        if self._settings is None:
            self._settings = Settings(self._json(SETTINGS))
        return self._settings

    def recall(self, kind: str, key: str) -> Any:  # noqa: ANN401 - JSON, whose shape is known to who remembered it
        """What was remembered under this kind and key, or None."""
        return self.remembered(kind).get(key)

    def remembered(self, kind: str) -> Entry:
        """All that was remembered under this kind."""
        found: Entry = self._remembered().get(kind, {})
        return found

    def remember(self, kind: str, key: str, value: object) -> None:
        """Plan to remember `value`, or nothing any more if it is None, under this kind and key."""
        values = self._remembered().setdefault(kind, {})
        if value is None:
            values.pop(key, None)
        else:
            values[key] = value
        self.changes = [change for change in self.changes if change[1] != STATE]
        self.file(STATE, jsontext.dumps(self._remembered()))

    def _remembered(self) -> Entry:
        if self._state is None:
            self._state = self._json(STATE)
        return self._state

    def _json(self, path: str) -> Entry:
        try:
            value = jsontext.loads(self.disk.read(path))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise InputError(f"cannot read {self.disk.path(path)}: {error}", "write it anew or remove it") from None
        if not isinstance(value, dict):
            raise InputError(f"cannot read {self.disk.path(path)}: no JSON object", "write it anew or remove it")
        return value

    def adopt(self) -> None:
        """On the first write to a tree: plan the control files that a capture may lack."""
        if not os.path.lexists(self.disk.path(STATE)):
            for uuid in self.names(MDEVS):
                folder = self.disk.resolve(f"{MDEVS}/{uuid}")
                if folder and not self.exists(f"{folder}/remove"):
                    self.file(f"{folder}/remove", "")
            self.file(STATE, "{}")
