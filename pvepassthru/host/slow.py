# SPDX-License-Identifier: Apache-2.0
"""Writes to kernel attributes that may block, done in a child process with a deadline.

A sysfs write can sleep for ever where no signal reaches it: unbinding a driver or removing an mdev that a process has
open. The child can then not be killed either, but the caller goes on and can say whom the kernel waits for.

A write that is in flight must not surprise anybody after its caller was killed, so the child keeps the caller's lock on
what it writes to, and whoever looks at that thing takes the lock first.
"""

from __future__ import annotations

import errno
import os
import select

from pvepassthru.host import signals
from pvepassthru.model.errors import PassthruError
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from pvepassthru.host.host import Host
    from pvepassthru.host.locks import Lock


class StillBlockedError(Exception):
    """The write had not returned by its deadline; a child process goes on with it."""


def write(host: Host, path: str, value: str, seconds: float, lock: Lock) -> None:
    """Write `value` to the attribute `path`, waiting at most `seconds`.

    Of the caller's open files the child keeps only `lock`, until the write returns. A signal that ends the caller ends
    its wait, and not the write. Raises OSError with the kernel's errno, StillBlockedError, or PassthruError when there
    is no process for it or that process was killed: the write may have been done then, or not.
    """
    reader, writer = os.pipe()
    mask = signals.hold_back()
    try:
        caller = os.getpid()
        try:
            child = os.fork()
        except OSError as error:
            os.close(writer)
            raise PassthruError(
                f"cannot write {path}: no process for it: {error.strerror}", "see what fills the host"
            ) from error
        if child == 0:
            _write_in_child(host, path, value, (lock.fd, writer), caller)
        os.close(writer)
        poll = select.poll()
        poll.register(reader, select.POLLIN | select.POLLHUP)
        signals.let_go(mask)
        try:
            ended = poll.poll(max(0, int(seconds * 1000)))
        finally:
            signals.hold_back()
        if not ended:
            raise StillBlockedError
        answer = os.read(reader, 16)
        os.waitpid(child, os.WNOHANG)  # all is done; it need not be waited for while the kernel takes it down
    finally:
        os.close(reader)
        signals.let_go(mask)
    if not answer:
        raise PassthruError(f"the process that wrote {path} was killed", "see the kernel log, then try again")
    number = int(answer)
    if number:
        raise OSError(number, os.strerror(number), host.path(path))


def _write_in_child(host: Host, path: str, value: str, keep: tuple[int, int], caller: int) -> None:
    number = errno.EIO
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):  # PVE reads the hook's output to its end: a stuck child must not hold it
            os.dup2(null, stream)
        first = 3
        for fd in sorted(keep):
            os.closerange(first, fd)
            first = fd + 1
        os.closerange(first, 4096)
        if os.getppid() != caller:  # killed meanwhile: nobody wants this any more
            return
        try:
            host.write(path, value)
            number = 0
        except OSError as error:
            number = error.errno or errno.EIO
        os.close(keep[0])
        os.write(keep[1], str(number).encode())
    finally:
        os._exit(0)
