# SPDX-License-Identifier: Apache-2.0
"""A lock that all nodes of a cluster share: a folder in /etc/pve/priv/lock, made by whoever is first.

Source: README of pve-cluster, "File Locking", and its cfs_lock. Such a lock is good for 120 s, after which pmxcfs
removes its folder when somebody sets the folder's times to 0; whoever holds one is to be done within 60 s.
"""

from __future__ import annotations

import contextlib
import errno
import os

from pvepassthru.host.deadline import Deadline, pause
from pvepassthru.host.host import way_out
from pvepassthru.model.errors import BusyError, PassthruError
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.host.host import Host

FOLDER = "/etc/pve/priv/lock"
PATIENCE = 10.0
"""Seconds to wait for another holder, as PVE does."""
ASK_EVERY = 10
"""Every so many tries pmxcfs is asked to remove a lock that has outlived its holder: each asking goes to all nodes."""
STEP = 0.1
"""Seconds between two tries."""


@contextlib.contextmanager
def hold(host: Host, name: str, what: str) -> Iterator[None]:
    """Hold the lock for a `with` block, whose work is to be short.

    Raises BusyError when it is not to be had within PATIENCE seconds, and PassthruError when /etc/pve cannot be
    written, as without quorum.
    """
    folder = host.path(FOLDER)
    if not os.path.isdir(os.path.dirname(folder)):
        with contextlib.suppress(OSError):
            os.mkdir(os.path.dirname(folder))
    with contextlib.suppress(OSError):
        os.mkdir(folder)
    own = f"{folder}/{name}"
    _take(own, f"{FOLDER}/{name}", what)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # pmxcfs removed it, or gives it up by itself after 120 s
            os.rmdir(own)


def _take(own: str, path: str, what: str) -> None:
    deadline = Deadline(PATIENCE)
    tries = 0
    while True:
        try:
            os.mkdir(own)
        except FileExistsError:
            pass
        except OSError as error:
            hint = "has the cluster quorum? (pvecm status)" if error.errno == errno.EACCES else "is this a PVE node?"
            raise PassthruError(f"cannot lock {what}: {path}: {error.strerror}", way_out(error, hint)) from error
        else:
            return
        if tries % ASK_EVERY == 0:
            with contextlib.suppress(OSError):
                os.utime(own, (0, 0))
        tries += 1
        if not pause(deadline, STEP):
            raise BusyError(
                f"cannot lock {what} within {PATIENCE:.0f} s: {path} is there",
                "somebody else is at work; what a process that was killed has left there goes by itself after 2 min",
            )
