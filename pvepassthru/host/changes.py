# SPDX-License-Identifier: Apache-2.0
"""Changes to a host's files that can be taken back: shown as a diff, backed up, made atomically, undone byte for byte.

The backup (host/backups.py) is complete and on the disk before the first file is touched, and every file is put in
place by a rename, so that whoever is stopped at any point leaves each file either old or new, and a set of changes
that `undo` can use.
"""

from __future__ import annotations

import difflib
import errno
import os
import stat
from typing import TYPE_CHECKING

from pvepassthru.host import backups
from pvepassthru.host.backups import Change, Entry, Set
from pvepassthru.host.host import ABSENT, way_out
from pvepassthru.model.errors import DeviceError, InputError
from pvepassthru.model.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pvepassthru.host.host import Host

TEMPORARY = ".pvepassthru-new"
"""Ending of the file that is renamed into place."""
LOCK = "/run/lock/pvepassthru-doctor.lock"


class ChangedSinceError(InputError):
    """A file that is to be restored is not what doctor --fix made of it; `lines` are the difference."""

    def __init__(self, message: str, hint: str, lines: list[str]) -> None:
        super().__init__(message, hint)
        self.lines = lines


def current(host: Host, path: str) -> bytes | None:
    """The bytes of a file that is to be changed, None if there is none.

    Raises InputError when it cannot be read, is no file, or is a link that leads nowhere or out of the root.
    """
    try:
        data = host.read(path)
    except OSError as error:
        if error.errno in ABSENT and host.link(path) is None:
            backups.place(host, path)
            return None
        why = "it is a link that leads nowhere" if error.errno in ABSENT else str(error.strerror)
        raise InputError(f"cannot change {path}: {why}", way_out(error, "see what it is")) from error
    real = host.resolve(path)
    if real is None or not stat.S_ISREG(os.stat(host.path(real)).st_mode):
        raise InputError(f"cannot change {path}: it is no file, or lies outside of this root", "see what it is")
    return data


def diff(change: Change) -> list[str]:
    """The change as a unified diff, line by line, safe to print; a new or removed file is compared with /dev/null."""
    before, after = (_lines(data) for data in (change.before, change.after))
    old = change.path if change.before is not None else "/dev/null"
    new = change.path if change.after is not None else "/dev/null"
    lines = [one_line(line) for line in difflib.unified_diff(before, after, old, new, lineterm="")]
    for data, sign in ((change.before, "-"), (change.after, "+")):
        if data and not data.endswith(b"\n"):
            place = max((number for number, line in enumerate(lines) if line[:1] in {sign, " "}), default=-1)
            lines.insert(place + 1, "\\ No newline at end of file")
    return lines


def _lines(data: bytes | None) -> list[str]:
    text = (data or b"").decode("utf-8", "surrogateescape")
    return text.removesuffix("\n").split("\n") if text else []


# ---- making


def apply(host: Host, changes: Iterable[Change], commands: Iterable[tuple[str, ...]]) -> Set:
    """Back the files up, then change them all; the caller holds LOCK. Returns the set.

    Raises InputError when a file is not what it was when the change was planned, DeviceError when a file cannot be
    written: then those that were changed already are as before.
    """
    wanted = [change for change in changes if change.before != change.after]
    for change in wanted:
        if current(host, change.path) != change.before:
            raise InputError(f"{change.path} was changed meanwhile", "run this once more")
    made = backups.save(host, wanted, tuple(commands))
    done: list[Entry] = []
    try:
        for entry, change in zip(made.entries, wanted, strict=True):
            done.append(entry)
            _write(host, entry, change.after)
    except OSError as error:
        _take_back(host, made, done)
        where = wanted[len(done) - 1].path
        hint = {
            errno.EROFS: "its file system is read-only; mount it writable",
            errno.ENOSPC: "make room on its file system",
            errno.EPERM: f"see whether it is immutable: lsattr {where}",
        }
        raise DeviceError(
            f"cannot change {where}: {error.strerror}; nothing was changed",
            hint.get(error.errno or 0, way_out(error)) if os.geteuid() == 0 else way_out(error),
        ) from error
    return made


def _take_back(host: Host, made: Set, done: list[Entry]) -> None:
    """Restore the files of a set that could not be made. Raises DeviceError when that fails too."""
    for entry in reversed(done):
        try:
            _restore(host, made, entry)
        except OSError as error:
            raise DeviceError(
                f"cannot change the files, and cannot restore {entry.path}: {error.strerror}",
                f"its bytes are in {made.folder}; once it can be written: pvepassthru doctor --undo",
            ) from error
    try:
        backups.close(host, made)
    except OSError:  # it stays, and `undo` finds every file as it was before
        pass


def _write(host: Host, entry: Entry, data: bytes | None) -> None:
    """Put these bytes in the place of a file, or remove it. Raises OSError."""
    real = host.path(entry.real)
    for folder in entry.folders if data is not None else ():
        try:
            os.mkdir(host.path(folder))
            os.chmod(host.path(folder), 0o755)  # noqa: S103 - as all folders of configuration are
        except FileExistsError:
            continue
        backups.sync(os.path.dirname(host.path(folder)))
    if data is None:
        host.remove(entry.real)
    else:
        temporary = real + TEMPORARY
        try:
            backups.put(temporary, data, entry)
            _copy_attributes(real, temporary)
            os.rename(temporary, real)
        except BaseException:
            host.remove(entry.real + TEMPORARY)
            raise
    backups.sync(os.path.dirname(real))


def _copy_attributes(real: str, temporary: str) -> None:
    """Give the new file the extended attributes (access lists, labels) of the old one, as far as that can be."""
    try:
        for name in os.listxattr(real):
            os.setxattr(temporary, name, os.getxattr(real, name))
    except OSError:  # there is no old file, or the file system has none of them
        pass


# ---- taking back


def restoring(host: Host, made: Set) -> list[Change]:
    """What `undo` will change, for the diff.

    Raises ChangedSinceError when a file was changed since, InputError when one, or its backup, cannot be read.
    """
    found = []
    for entry in made.entries:
        present = current(host, entry.real)
        before, after = (_backup(host, made, entry, name) for name in (entry.backup, entry.made))
        if backups.digest(before) != entry.before:
            raise InputError(f"the backup of {entry.path} in {made.folder} is damaged", "restore the file by hand")
        if backups.digest(present) not in {entry.before, entry.after}:
            raise ChangedSinceError(
                f"{entry.path} was changed since doctor --fix; nothing was undone",
                f"take that change back, or restore what you want of {made.folder} by hand and move that folder away",
                diff(Change(entry.path, after, present, entry.mode, "")),
            )
        found.append(Change(entry.path, present, before, entry.mode, f"undo: {entry.why}"))
    return found


def _backup(host: Host, made: Set, entry: Entry, name: str) -> bytes | None:
    try:
        return host.read(f"{made.folder}/{name}") if name else None
    except OSError as error:
        raise InputError(
            f"cannot read the backup of {entry.path} in {made.folder}: {error.strerror}", way_out(error)
        ) from error


def undo(host: Host, made: Set) -> None:
    """Restore the files of a set, the last one first; the caller holds LOCK, and calls backups.close at the end.

    Raises InputError as `restoring`, DeviceError when a file cannot be written; undo can be asked again then.
    """
    restoring(host, made)
    for entry in reversed(made.entries):
        try:
            _restore(host, made, entry)
        except OSError as error:
            raise DeviceError(
                f"cannot restore {entry.path}: {error.strerror}", "mend that, then run doctor --undo again"
            ) from error


def _restore(host: Host, made: Set, entry: Entry) -> None:
    before = host.read(f"{made.folder}/{entry.backup}") if entry.backup else None
    host.remove(entry.real + TEMPORARY)
    try:
        present: bytes | None = host.read(entry.real)
    except FileNotFoundError:
        present = None
    if present != before:
        _write(host, entry, before)
    for folder in reversed(entry.folders):
        try:
            os.rmdir(host.path(folder))
        except FileNotFoundError:  # it was never made
            continue
        except OSError:  # somebody put something into it
            break
