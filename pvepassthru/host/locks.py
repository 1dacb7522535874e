# SPDX-License-Identifier: Apache-2.0
"""Locks among processes: flock(2) on files, with a limit to every wait and a name for whoever is in the way.

Order, for whoever takes several: PVE's config lock of a VM (recover only), our VM lock, an mdev instance, its parent
or the PF, PVE's reservation file. filelock and perl's flock take the same kernel lock, so all exclude each other; this
module serves the hook, where importing filelock would cost more than the rest of the start.
"""

from __future__ import annotations

import errno
import fcntl
import os

from pvepassthru.host.deadline import Deadline, pause
from pvepassthru.host.host import way_out
from pvepassthru.model.errors import BusyError, PassthruError
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from pvepassthru.host.host import Host

FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.1
"""Seconds between two tries for a lock: short at first, since most are held for milliseconds."""


class Lock:
    """A held lock; leave the `with` block, or call `release`, to let it go."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def release(self) -> None:
        """Let the lock go. A second call does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def take(host: Host, path: str, deadline: Deadline, what: str, most: float | None = None) -> Lock:
    """Take the exclusive lock on `path`, creating the file; it stays in place afterwards.

    `what` names the lock in the error; the wait ends at the deadline, or after `most` seconds. Raises BusyError when
    the wait reached its limit, with the processes that hold the lock, and PassthruError when the file cannot be opened.
    """
    try:
        fd = os.open(host.path(path), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise PassthruError(
            f"cannot lock {what}: {path}: {error.strerror}", way_out(error, "check that /run is writable and not full")
        ) from error
    end = Deadline(deadline.left(most))
    step = FIRST_PAUSE
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in {errno.EWOULDBLOCK, errno.EINTR}:
                    raise
            else:
                return Lock(fd)
            if not pause(end, step):
                raise BusyError(
                    f"cannot lock {what} within {end.seconds:.0f} s: {path} is held by {holders_of(host.path(path))}",
                    "wait for it to finish, or end it",
                )
            step = min(step * 2, LONGEST_PAUSE)
    except BaseException:
        os.close(fd)
        raise


def holders_of(path: str) -> str:
    """Words for the processes that hold a flock on the file at this real path: "process 4711 (qm)"."""
    pids: list[str] = []
    try:
        info = os.stat(path)
        inode = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
        with open("/proc/locks", encoding="ascii", errors="replace") as table:
            for line in table:
                words = line.split()
                # "1: FLOCK  ADVISORY  WRITE 4711 00:19:1234 0 EOF"; a waiter has "->" behind its number
                if len(words) > 5 and words[1] == "FLOCK" and words[5] == inode and words[4] not in pids:
                    pids.append(words[4])
    except OSError:
        pass
    return ", ".join(f"process {pid} ({process_name(pid)})" for pid in pids) or "another process"


def process_name(pid: str) -> str:
    """The kernel's short name of a process of this machine, or "gone"."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            return comm.read().strip()
    except OSError:
        return "gone"
