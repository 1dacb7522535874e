# SPDX-License-Identifier: Apache-2.0
"""The same locks as host/locks.py, taken with the filelock library: for commands, where its import time is no matter.

tests/host/test_locks.py proves that filelock, our flock and perl's exclude each other.
"""

from __future__ import annotations

import contextlib
import os

import filelock

from pvepassthru.host import locks
from pvepassthru.model.errors import BusyError, PassthruError
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.host.host import Host


@contextlib.contextmanager
def hold(host: Host, path: str, seconds: float, what: str) -> Iterator[None]:
    """Hold the exclusive lock on `path`, making the file and its folder, for a `with` block.

    Raises BusyError when it is not to be had within `seconds`, with the processes that hold it, and PassthruError when
    the file cannot be opened.
    """
    real = host.path(path)
    try:
        os.makedirs(os.path.dirname(real), mode=0o755, exist_ok=True)
        lock = filelock.FileLock(real, timeout=seconds)
        lock.acquire(poll_interval=0.02)
    except filelock.Timeout:
        raise BusyError(
            f"cannot lock {what} within {seconds:.0f} s: {path} is held by {locks.holders_of(real)}",
            "wait for it to finish, then try again",
        ) from None
    except OSError as error:
        raise PassthruError(f"cannot lock {what}: {path}: {error.strerror}", "run this as root") from error
    try:
        yield
    finally:
        lock.release()
