# SPDX-License-Identifier: Apache-2.0
"""Sets of changes to a host's files, kept so that they can be taken back.

A set is a folder below /var/lib/pvepassthru/backups, named by its time: `manifest.json`, and the bytes of each file as
it was before and after.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from pvepassthru.host.host import way_out
from pvepassthru.model.errors import DeviceError, InputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pvepassthru.host.host import Host

BACKUPS = "/var/lib/pvepassthru/backups"
MANIFEST = "manifest.json"
UNDONE = ".undone"
"""Ending of a set that was taken back."""
RAN = "ran"
"""The file in a set's folder that says that its commands were run."""
UNFINISHED = ".new"
"""Ending of a set that was not written to its end; nothing was changed by it."""
VERSION = 1


class Change(NamedTuple):
    """One file as it is and as it is to be."""

    path: str
    """As on the host; a symbolic link is followed and stays."""
    before: bytes | None
    """None: there is no such file."""
    after: bytes | None
    """None: it is to be removed."""
    mode: int
    """Of the new file, where there is none before."""
    why: str
    """What it is for, in words."""


class Entry(NamedTuple):
    """One file of a set, as the manifest has it."""

    path: str
    real: str
    """Where the file itself lies, links followed; as on the host."""
    why: str
    before: str | None
    """SHA-256 of the bytes before; None: there was no file."""
    after: str | None
    mode: int
    uid: int
    gid: int
    backup: str
    """The name of the file with the bytes before, in the set's folder; empty without one."""
    made: str
    """The name of the file with the bytes after, likewise."""
    folders: tuple[str, ...]
    """Folders that are made for it, the outermost first."""


class Set(NamedTuple):
    """A set of changes that can be taken back."""

    name: str
    entries: tuple[Entry, ...]
    commands: tuple[tuple[str, ...], ...]
    """What was to be run afterwards, and is to be run after the undo too."""

    @property
    def folder(self) -> str:
        """Where it lies."""
        return f"{BACKUPS}/{self.name}"


def place(host: Host, path: str) -> tuple[str, tuple[str, ...]]:
    """Where a file that is not there would lie, links of its folders followed; and the folders that are missing.

    Raises InputError when that is outside of the root, or below what is no folder.
    """
    missing: list[str] = []
    folder, name = os.path.split(path)
    while not os.path.lexists(host.path(folder)) and folder != "/":
        missing.insert(0, os.path.basename(folder))
        folder = os.path.dirname(folder)
    real = host.resolve(folder)
    if real is None or not os.path.isdir(host.path(real)):
        raise InputError(f"cannot make {path}: {folder} is no folder, or lies outside of this root", "see what it is")
    parts = [real.rstrip("/")]
    for part in missing:
        parts.append(f"{parts[-1]}/{part}")
    return f"{parts[-1]}/{name}", tuple(parts[1:])


def save(host: Host, changes: Sequence[Change], commands: tuple[tuple[str, ...], ...]) -> Set:
    """Write a set's folder and return the set. Raises DeviceError when that fails; nothing is changed then."""
    name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    try:
        os.makedirs(host.path(BACKUPS), mode=0o700, exist_ok=True)
        taken = {other.partition(".")[0] for other in os.listdir(host.path(BACKUPS))}
        name = next(word for word in (name, *(f"{name}-{number:03}" for number in range(1, 1000))) if word not in taken)
        folder = host.path(f"{BACKUPS}/{name}{UNFINISHED}")
        os.mkdir(folder, 0o700)
        entries = []
        for number, change in enumerate(changes):
            names = ["", ""]
            for place, (data, what) in enumerate(((change.before, "before"), (change.after, "after"))):
                if data is not None:
                    names[place] = f"{number:02}.{what}"
                    put(f"{folder}/{names[place]}", data)
            entries.append(_entry(host, change, *names))
        made = Set(name, tuple(entries), commands)
        shape = {"version": VERSION, "commands": commands, "changes": [entry._asdict() for entry in entries]}
        put(f"{folder}/{MANIFEST}", json.dumps(shape, indent=1).encode())
        sync(folder)
        os.rename(folder, host.path(made.folder))
        sync(host.path(BACKUPS))
    except OSError as error:
        raise DeviceError(
            f"cannot back up the files in {BACKUPS}: {error.strerror}; nothing was changed", way_out(error)
        ) from error
    return made


def _entry(host: Host, change: Change, backup: str, made: str) -> Entry:
    mode, uid, gid = change.mode, 0, 0
    missing: tuple[str, ...] = ()
    if change.before is not None:
        real = host.resolve(change.path) or change.path
        known = os.stat(host.path(real))
        mode, uid, gid = stat.S_IMODE(known.st_mode), known.st_uid, known.st_gid
    else:
        real, missing = place(host, change.path)
        if os.geteuid():  # a test, or a folder of one's own
            uid, gid = os.geteuid(), os.getegid()
    digests = (digest(change.before), digest(change.after))
    return Entry(change.path, real, change.why, *digests, mode, uid, gid, backup, made, missing)


def digest(data: bytes | None) -> str | None:
    """The SHA-256 of a file's bytes; None where there is none."""
    return None if data is None else hashlib.sha256(data).hexdigest()


def put(real: str, data: bytes, entry: Entry | None = None) -> None:
    """Write a file and wait for the disk; with an entry, its owner and mode. Raises OSError."""
    fd = os.open(real, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        if entry is not None:
            known = os.fstat(fd)
            if (known.st_uid, known.st_gid) != (entry.uid, entry.gid):
                os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
        os.fsync(fd)
    finally:
        os.close(fd)


def sync(folder: str) -> None:
    """Wait until the disk has what was done to the names in a folder. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def newest(host: Host) -> Set:
    """The newest set that was not taken back. Raises NotFoundError without one, InputError when it cannot be read."""
    names = [name for name in host.names(BACKUPS) if not name.endswith((UNDONE, UNFINISHED))]
    if BACKUPS in host.unreadable:
        raise InputError(f"cannot read {BACKUPS}: {os.strerror(host.unreadable[BACKUPS])}", "run this as root")
    if not names:
        raise NotFoundError(f"there is nothing to undo: {BACKUPS} has no change of doctor --fix")
    path = f"{BACKUPS}/{names[-1]}/{MANIFEST}"
    try:
        shape = json.loads(host.read(path))
        if shape["version"] != VERSION:
            raise InputError(f"{path} is of version {shape['version']!r}", "use the pvepassthru that wrote it")
        entries = tuple(_parsed(one) for one in shape["changes"])
        return Set(names[-1], entries, tuple(tuple(map(str, words)) for words in shape["commands"]))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", way_out(error)) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        hint = f"restore the files in {BACKUPS}/{names[-1]} by hand, and move that folder away"
        raise InputError(f"{path} is damaged: {error!r}", hint) from error


def _parsed(one: dict[str, Any]) -> Entry:
    entry = Entry(**one)
    texts = (entry.path, entry.real, entry.why, entry.backup, entry.made, *entry.folders)
    if not all(isinstance(text, str) for text in texts) or "/" in entry.backup + entry.made:
        raise TypeError("a change that is none")
    if not all(path.startswith("/") and "/../" not in path + "/" for path in (entry.path, entry.real, *entry.folders)):
        raise ValueError("a path that is none")
    if not all(isinstance(number, int) for number in (entry.mode, entry.uid, entry.gid)):
        raise TypeError("a mode or owner that is none")
    return entry._replace(folders=tuple(entry.folders))


def close(host: Host, made: Set) -> None:
    """Note that a set was taken back: `newest` passes it over. Raises OSError."""
    os.rename(host.path(made.folder), host.path(made.folder + UNDONE))
    sync(host.path(BACKUPS))


def ran(host: Host, made: Set) -> None:
    """Note that the commands of a set were run. Raises OSError."""
    put(host.path(f"{made.folder}/{RAN}"), b"")
    sync(host.path(made.folder))


def owed(host: Host) -> Set | None:
    """The newest set, if nothing says that its commands were run: whoever made it was stopped, or one failed.

    Raises InputError when it cannot be read.
    """
    try:
        made = newest(host)
    except NotFoundError:
        return None
    return None if not made.commands or host.exists(f"{made.folder}/{RAN}") else made
