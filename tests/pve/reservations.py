# SPDX-License-Identifier: Apache-2.0
"""PVE's reservation file: which VM may use which PCI function.

The decisions are pure functions over the file's text; `File` adds PVE's lock and its way of writing.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from tests.pve.config import PveError

PATH = "/run/qemu-server/pci-id-reservations"
LEEWAY = 5
"""Seconds that PVE adds to a start's time limit."""

_LINE = re.compile(
    r"((?:[0-9a-f]{4,}:)?[0-9a-f]{2}:[0-9a-f]{2}(?:\.[0-9a-f])?)\s([0-9]+)\s(time|pid):([0-9]+)", re.ASCII
)


class Entry(NamedTuple):
    """One reservation; numbers stay the text that they are in the file."""

    vmid: str
    kind: str
    """`time` or `pid`."""
    value: str


def parse(text: str | None) -> dict[str, Entry]:
    """The entries by PCI id; the last of an id wins, other lines count for nothing."""
    matches = (_LINE.fullmatch(line) for line in (text or "").split("\n"))
    return {match[1]: Entry(match[2], match[3], match[4]) for match in matches if match}


def render(entries: dict[str, Entry]) -> str:
    """The text of a file with these entries, sorted by id."""
    return "".join(f"{name} {entry.vmid} {entry.kind}:{entry.value}\n" for name, entry in sorted(entries.items()))


class Request(NamedTuple):
    """Who wants ids and for how long: `pid` while that process runs, else `timeout` seconds from `now`."""

    vmid: int
    now: int
    timeout: int | None = None
    pid: int | None = None


Running = Callable[[str], int | None]
"""The pid of a VM that runs, by its id as text."""


def reserve(
    text: str | None, ids: Sequence[str], request: Request, running: Running, warn: Callable[[str], None]
) -> str | None:
    """The file's new text, or None when nothing is to be written. Raises PveError when an id is not to be had."""
    if not ids:
        return None
    entries = parse(text)
    for name in ids:
        expiry = "" if request.timeout is None else str(request.now + request.timeout + LEEWAY)
        if (entry := entries.get(name)) is not None:
            alive = entry.kind == "pid" and running(entry.vmid) == int(entry.value)
            if int(entry.vmid) != request.vmid:
                _check_other(name, entry, request.now, warn, alive=alive)
            elif alive:
                if request.pid is not None:
                    raise PveError("already-running-self", name)
                return None
            elif entry.kind == "time" and expiry:
                expiry = max(expiry, entry.value, key=int)
        if request.pid is None and not expiry:
            warn(f"{name} is reserved without any limit")
        kind, value = ("time", expiry) if request.pid is None else ("pid", str(request.pid))
        entries[name] = Entry(str(request.vmid), kind, value)
    return render(entries)


def _check_other(name: str, entry: Entry, now: int, warn: Callable[[str], None], *, alive: bool) -> None:
    if entry.kind == "time" and int(entry.value) > now:
        raise PveError("reserved-pending", f"{name} is about to be used by VM {entry.vmid}")
    if alive:
        raise PveError("reserved-in-use", f"{name} is used by VM {entry.vmid}")
    if entry.kind == "pid":
        warn(f"{name} is reserved by VM {entry.vmid}, which does not run; taken")


def remove(text: str | None, vmid: int, ids: Sequence[str] | None = None) -> str:
    """The file's new text without this VM's reservations, all or those of `ids`."""
    entries = parse(text)
    gone = [name for name, entry in entries.items() if int(entry.vmid) == vmid and (ids is None or name in ids)]
    for name in gone:
        del entries[name]
    return render(entries)


def reserved(text: str | None, vmid: int) -> list[str]:
    """The ids that a VM has reserved, sorted."""
    return sorted(name for name, entry in parse(text).items() if int(entry.vmid) == vmid)


class File:
    """The reservation file below `root`, under PVE's lock."""

    def __init__(self, root: str, running: Running, now: Callable[[], float], warn: Callable[[str], None]) -> None:
        self.path = root + PATH
        self.running = running
        self.now = now
        self.warn = warn

    def read(self) -> str | None:
        """The file's text, without a lock; None if there is no file."""
        try:
            with open(self.path, encoding="utf-8", errors="surrogateescape", newline="") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def reserve(self, ids: Sequence[str], vmid: int, *, timeout: int | None = None, pid: int | None = None) -> None:
        """Reserve ids as PVE does. Raises PveError."""
        with self._locked(5):
            request = Request(vmid, int(self.now()), timeout, pid)
            self._write(reserve(self.read(), ids, request, self.running, self.warn))

    def remove(self, vmid: int, ids: Sequence[str] | None = None) -> None:
        """Drop a VM's reservations. Raises PveError when the lock is busy for too long."""
        with self._locked(2):
            self._write(remove(self.read(), vmid, ids))

    def _write(self, text: str | None) -> None:
        if text is None:
            return
        temporary = f"{self.path}.tmp.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        os.rename(temporary, self.path)

    @contextmanager
    def _locked(self, seconds: float) -> Iterator[None]:
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with flocked(self.path + ".lock", seconds):
            yield


@contextmanager
def flocked(path: str, seconds: float) -> Iterator[None]:
    """Hold an exclusive flock on a file that is never removed. Raises PveError("lock-timeout") after `seconds`."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        end = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise PveError("lock-timeout", f"{path} is busy for more than {seconds} s") from None
                time.sleep(0.02)
        yield
    finally:
        os.close(fd)
