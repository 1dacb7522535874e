# SPDX-License-Identifier: Apache-2.0
"""Takes a snapshot of a host: collects what contents.py lists, as masks.py leaves it, into an archive.

What could not be read is noted with its error, so that host/snapshot.py can give the same one.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import stat
from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.host import vms
from pvepassthru.host.archive import Archive, stays_inside
from pvepassthru.host.capture import Copy
from pvepassthru.host.contents import PCI, ROWS, Row
from pvepassthru.host.host import ABSENT
from pvepassthru.host.masks import SIGNATURE, Masks
from pvepassthru.host.snapshot import ABOUT, FORMAT, UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from pvepassthru.host.host import Host

CONFIG_BYTES = 256
"""Of a function's config space: without the extended capabilities, among which is the serial number."""
LARGE = 8 * 1024 * 1024
"""Bytes of a module's file that is not read as a whole."""
_WORD = re.compile(r"(?<![^\s\"'=@:+!|-])/(?:usr/local|opt|root|etc|srv)/[^\s\"';]+")
"""A script of the host's owner in a unit."""
_OPTIONS = re.compile(r"(?m)^[ \t]*options[ \t]+([\w-]+)")
"""A module that modprobe.d has options for."""
_STORAGE = re.compile(r"(?m)^[ \t]+path[ \t]+(/[^\s*?]+)[ \t]*$")
"""The folder of a storage."""
_CMDLINE = re.compile(r"/proc/[0-9]+/cmdline")


class Taken(NamedTuple):
    """What came of taking a snapshot."""

    files: int
    unreadable: tuple[str, ...]
    """What is there and could not be read."""


def take(host: Host, file: BinaryIO, version: str, *, full: bool = False) -> Taken:
    """Write a snapshot of a host to a file. Raises OSError when it cannot be written.

    The host is only read. With `full` nothing is left out that the rows of contents.py name.
    """
    return _Snapshot(host, file, full=full).take(version)


class _Snapshot:
    """A snapshot that is being taken."""

    def __init__(self, host: Host, file: BinaryIO, *, full: bool) -> None:
        self.host = host
        self.masks = Masks(full=full)
        self.archive = Archive(file, self._change, self.masks.pseudonyms.name)
        self.unreadable: dict[str, int] = {}
        self.files = 0
        self._listed: dict[str, list[tuple[str, bool]]] = {}
        self._resolved: dict[str, str | None] = {}
        self._taken: set[str] = set()

    def take(self, version: str) -> Taken:
        about = {
            "format": FORMAT,
            "made_by": f"pvepassthru {version}",
            "node": self.host.node,
            "time": int(self.host.now()),
            "full": self.masks.full,
        }
        self.archive.put(ABOUT, json.dumps(about, indent=2).encode() + b"\n")
        self.archive.put("/etc/hostname", self.host.node.encode() + b"\n")
        for row in ROWS:
            for folder in row.folder.split():
                for real in self._folders(folder):
                    self._row(real, row)
        self._configs_of_functions()
        self._built_modules()
        self._configured_modules()
        self._scripts()
        self._snippets()
        self._namespaces()
        self._processes()
        self.archive.put(UNREADABLE, json.dumps(dict(sorted(self.unreadable.items())), indent=0).encode() + b"\n")
        self.archive.close()
        return Taken(self.files, tuple(sorted(self.unreadable)))

    def _change(self, path: str, data: bytes) -> bytes:
        """What every file goes through."""
        return self.masks.qemu(data) if _CMDLINE.fullmatch(path) else self.masks.plain(data)

    # ---- folders of the table

    def _folders(self, pattern: str) -> Iterator[str]:
        """The real folders that a path with patterns means; the links on the way become part of the snapshot."""
        found = [""]
        for part in pattern.strip("/").split("/"):
            deeper = []
            for folder in found:
                names = (
                    [part] if not _is_pattern(part) else [name for name, _ in self._names(folder) if _fits(name, part)]
                )
                deeper += [real for name in names if (real := self._enter(f"{folder}/{name}")) is not None]
            found = deeper
        yield from dict.fromkeys(found)

    def _enter(self, path: str) -> str | None:
        """The real folder that a path leads to, its link copied if it is one; None if there is no such folder."""
        if path not in self._resolved:
            real = self._followed(path)
            self._resolved[path] = real if real is not None and os.path.isdir(self.host.path(real)) else None
            if self._resolved[path] is not None:
                self.archive.folder(self._resolved[path] or "")
        return self._resolved[path]

    def _followed(self, path: str) -> str | None:
        """The path that a path leads to, of whose folder all links have been followed already; its own link copied."""
        try:
            text = os.readlink(self.host.path(path))
        except OSError:
            return path
        target = self.host.resolve(path)
        self._link(path, text, target)
        return target

    def _link(self, path: str, text: str, target: str | None) -> None:
        """Copy a link; one with an absolute text, or one that leads out, by where it leads."""
        if text.startswith("/") or (target is not None and not stays_inside(path, text)):
            text = os.path.relpath(target or text, path.rpartition("/")[0] or "/")
        self.archive.link(path, text)

    def _names(self, folder: str) -> list[tuple[str, bool]]:
        """The names in a real folder, each with whether it is a link, sorted."""
        if folder not in self._listed:
            try:
                with os.scandir(self.host.path(folder or "/")) as entries:
                    self._listed[folder] = sorted((entry.name, entry.is_symlink()) for entry in entries)
            except OSError as error:
                self._note(folder, error)
                self._listed[folder] = []
        return self._listed[folder]

    # ---- files of a row

    def _row(self, folder: str, row: Row) -> None:
        if row.names == "**":
            self._tree(folder, row)
            return
        patterns = row.names.split()
        plain = {name for name in patterns if not _is_pattern(name)}
        wild = [name for name in patterns if _is_pattern(name)]
        for name, is_link in self._names(folder):
            if name in plain or any(_fits(name, pattern) for pattern in wild):
                self._entry(f"{folder}/{name}", row, is_link=is_link)

    def _tree(self, folder: str, row: Row) -> None:
        pending = [folder]
        while pending:
            here = pending.pop()
            self.archive.folder(here)
            self._mode(here)
            for name, is_link in self._names(here):
                path = f"{here}/{name}"
                if not is_link and os.path.isdir(self.host.path(path)):
                    pending.append(path)
                else:
                    self._entry(path, row, is_link=is_link)

    def _mode(self, folder: str) -> None:
        try:
            self.archive.own(folder, os.stat(self.host.path(folder)))
        except OSError:  # it has just gone
            pass

    def _entry(self, path: str, row: Row, *, is_link: bool) -> None:
        """Copy one file, link or folder's name."""
        real = self._followed(path) if is_link else path
        if real is None:
            return
        if real.startswith(("/sys/", "/proc/")) and row.how is not Masks.nothing and not is_link:
            self._attribute(real, row)
            return
        try:
            info = os.stat(self.host.path(real))
        except OSError as error:
            self._note(real, error)
            return
        if stat.S_ISDIR(info.st_mode):
            self.archive.folder(real)
        elif stat.S_ISREG(info.st_mode) or row.how is Masks.nothing:
            if row.how is Masks.nothing:
                self._put(real, b"", info)
            else:
                self._attribute(real, row, info)

    def _attribute(self, path: str, row: Row, info: os.stat_result | None = None) -> None:
        """Copy what a file holds; what is a folder after all is copied as one."""
        if path in self._taken:
            return
        self._taken.add(path)
        try:
            data = self.host.read(path)
        except IsADirectoryError:
            self.archive.folder(path)
        except OSError as error:
            self._note(path, error)
        else:
            self._put(path, data if row.how is Masks.plain else row.how(self.masks, data), info)

    def _put(self, path: str, data: bytes, info: os.stat_result | None) -> None:
        in_kernel = path.startswith(("/sys/", "/proc/", "/dev/"))
        self.archive.put(path, data, None if in_kernel else info)
        self.files += 1

    def _note(self, path: str, error: OSError) -> None:
        if error.errno not in ABSENT and error.errno:
            self.unreadable[path] = error.errno

    # ---- what is no plain file

    def _configs_of_functions(self) -> None:
        """The config space of functions that do not sleep; reading it would wake the others."""
        for folder in self._folders(PCI):
            if self.host.text(f"{folder}/power_state") == "D3cold":
                continue
            if self.host.text(f"{folder}/power/runtime_status") in {"suspended", "suspending"}:
                continue
            try:
                self._put(f"{folder}/config", self.host.head(f"{folder}/config", CONFIG_BYTES), None)
            except OSError as error:
                self._note(f"{folder}/config", error)

    def _built_modules(self) -> None:
        """The modules that were built here; of large ones, as NVIDIA's, only the end: whether they are signed."""
        row = Row("", "", Masks.parameters)
        for folder in self._folders("/lib/modules/*/updates/dkms"):
            for name in (name for name, _ in self._names(folder) if name.endswith(".ko")):
                path = f"{folder}/{name}"
                try:
                    with open(self.host.path(path), "rb") as file:
                        size = os.fstat(file.fileno()).st_size
                        if size > LARGE:
                            file.seek(size - SIGNATURE)
                            self._put(path, file.read(SIGNATURE), None)
                        else:
                            self._attribute(path, row)
                except OSError as error:
                    self._note(path, error)

    def _configured_modules(self) -> None:
        """The modules that options are set for: which parameters they have."""
        names = set()
        for folder in self._folders("/etc/modprobe.d"):
            for name, _ in self._names(folder):
                names |= {
                    found.replace("-", "_") for found in _OPTIONS.findall(self.host.text(f"{folder}/{name}") or "")
                }
        row = Row("", "", Masks.parameters)
        base = f"/lib/modules/{self.host.text('/proc/sys/kernel/osrelease')}"
        for line in (self.host.text(f"{base}/modules.dep") or "").split("\n"):
            path = line.partition(":")[0]
            if path.endswith(".ko") and path.rpartition("/")[2][: -len(".ko")].replace("-", "_") in names:
                parent = self._folder_of(f"{base}/{path}")
                if parent:
                    self._entry(f"{parent}/{path.rpartition('/')[2]}", row, is_link=False)

    def _scripts(self) -> None:
        """The scripts that units of this host's owner start, reduced as these are."""
        row = Row("", "", Masks.makers)
        for folder in self._folders("/etc/systemd/system"):
            for name, _ in self._names(folder):
                text = self.host.text(f"{folder}/{name}") if name.endswith(".service") else None
                for word in _WORD.findall(text or ""):
                    real = self.host.resolve(word)
                    parent = self._folder_of(word) if real else None
                    if real and parent and os.path.isfile(self.host.path(real)):
                        self._entry(
                            f"{parent}/{word.rpartition('/')[2]}", row, is_link=os.path.islink(self.host.path(word))
                        )

    def _snippets(self) -> None:
        """The names and modes of hookscripts on storages that are folders."""
        text = self.host.text("/etc/pve/storage.cfg") or ""
        row = Row("", "*", Masks.nothing)
        for path in dict.fromkeys(_STORAGE.findall(text)):
            for folder in self._folders(f"{path.rstrip('/')}/snippets"):
                self._row(folder, row)

    def _folder_of(self, path: str) -> str | None:
        """The real folder that a file is in, with the links on the way."""
        found = ""
        for part in path.split("/")[1:-1]:
            entered = self._enter(f"{found}/{part}")
            if entered is None:
                return None
            found = entered
        return found

    def _namespaces(self) -> None:
        """The mounts of one process of each namespace of mounts."""
        row = Row("", "", Masks.mounts)
        own = self.host.link("/proc/self/ns/mnt")
        if own is None:
            return
        self._folder_of("/proc/self/ns/mnt")
        me = self.host.resolve("/proc/self") or "/proc/self"
        self.archive.link(f"{me}/ns/mnt", own)
        seen = {own}
        for pid in sorted(int(name) for name, _ in self._names("/proc") if name.isdecimal()):
            try:
                namespace = os.readlink(self.host.path(f"/proc/{pid}/ns/mnt"))
            except OSError:  # ended, or not ours to see
                continue
            if namespace not in seen:
                seen.add(namespace)
                self.archive.link(f"/proc/{pid}/ns/mnt", namespace)
                self._attribute(f"/proc/{pid}/mountinfo", row)

    def _processes(self) -> None:
        """Running VMs, who has VFIO devices open, and the ROM images that configs name."""
        copy = Copy(self.host, self.archive)
        copy.processes(set(vms.vmids(self.host)), None)
        copy.roms(
            f"{folder}/{name}"
            for folder in self._folders("/etc/pve/nodes/*/qemu-server")
            for name in self._confs(folder)
        )
        copy.roms(
            f"{folder}/{name}" for folder in self._folders("/etc/pve/qemu-server") for name in self._confs(folder)
        )

    def _confs(self, folder: str) -> list[str]:
        return [name for name, _ in self._names(folder) if name.endswith(".conf")]


def _is_pattern(name: str) -> bool:
    return "*" in name or "?" in name


def _fits(name: str, pattern: str) -> bool:
    return pattern == "*" or fnmatch.fnmatchcase(name, pattern)
