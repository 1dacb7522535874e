# SPDX-License-Identifier: Apache-2.0
"""Snapshots of hosts: a file with what the rules read of a host (host/contents.py), for another machine to work on.

host/collector.py takes one. What could not be read on the host cannot be read in its snapshot either, with the same
error, and time stands still there; so the rules find the same as on the host.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

from pvepassthru.host.archive import unpack
from pvepassthru.host.host import MAX_FILE
from pvepassthru.host.sim import SimHost
from pvepassthru.model.errors import InputError

if TYPE_CHECKING:
    from typing import Any

FORMAT = 1
ABOUT = "/.snapshot/about.json"
UNREADABLE = "/.snapshot/unreadable.json"


class SnapshotHost(SimHost):
    """A host as a snapshot has it: what could not be read there cannot be read here, with the same error."""

    def __init__(self, root: str, file: str, node: str | None = None, executable: frozenset[str] = frozenset()) -> None:
        super().__init__(root, node)
        self._executable = executable
        self.file = file
        """The archive, for words to people."""
        self._errors: dict[str, int] = {}
        about = self._json(ABOUT)
        self._time = about.get("time") if isinstance(about.get("time"), int) else None
        self.taken_on = str(about.get("node"))
        errors = self._json(UNREADABLE)
        self._errors = {path: number for path, number in errors.items() if isinstance(number, int)}

    def _json(self, path: str) -> dict[str, Any]:
        try:
            value = json.loads(super().read(path))
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def now(self) -> float:
        """The time at which the snapshot was taken."""
        return time.time() if self._time is None else float(self._time)

    def read(self, path: str, limit: int = MAX_FILE) -> bytes:
        """As Host.read."""
        self._fail(path)
        return super().read(path, limit)

    def head(self, path: str, size: int) -> bytes:
        """As Host.head."""
        self._fail(path)
        return super().head(path, size)

    def names(self, path: str) -> list[str]:
        """As Host.names."""
        try:
            self._fail(path)
        except OSError as error:
            self._note(path, error)
            return []
        return super().names(path)

    def mode(self, path: str) -> int | None:
        """As Host.mode, of what the host has: here nothing can be executed."""
        mode = super().mode(path)
        real = self.resolve(path) if mode is not None else None
        return mode | 0o111 if mode is not None and (real or "").lstrip("/") in self._executable else mode

    def _fail(self, path: str) -> None:
        """Raise the error that reading this path gave on the host, if it gave one."""
        if self._errors:
            folder, _, name = path.rpartition("/")
            real = os.path.realpath(self.root + folder).removeprefix(os.path.realpath(self.root))
            number = self._errors.get(f"{real}/{name}") or self._errors.get(path)
            if number:
                raise OSError(number, os.strerror(number), self.root + path)


def load(path: str, destination: str, node: str | None = None) -> SnapshotHost:
    """Unpack a snapshot into a private, empty folder, and open it.

    Raises InputError when it cannot be read or is none, OSError when `destination` cannot be written.
    """
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise InputError(f"cannot read the snapshot {path}: {error.strerror}", "give a file that is there") from error

    def check(name: str, data: bytes) -> None:
        try:
            about = json.loads(data) if name == ABOUT.strip("/") else None
        except ValueError:
            about = None
        if not isinstance(about, dict) or not isinstance(about.get("format"), int):
            hint = "give the file that `pvepassthru snapshot` made"
            raise InputError(f"{path} is no snapshot of pvepassthru, but another archive", hint)
        if about["format"] > FORMAT:
            hint = "use the version that made it, or a newer one"
            raise InputError(f"{path} is a snapshot of format {about['format']}; this version reads {FORMAT}", hint)

    executable = unpack(path, destination, check)
    return SnapshotHost(destination, path, node, executable)
