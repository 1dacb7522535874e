# SPDX-License-Identifier: Apache-2.0
"""Writes to kernel attributes and reads of these and of disks that may block, in a child process with a deadline.

A sysfs write can sleep for ever where no signal reaches it: unbinding a driver or removing an mdev that a process has
open. The child can then not be killed either, but the caller goes on and can say whom the kernel waits for.

A write that is in flight must not surprise anybody after its caller was killed, so the child keeps the caller's lock on
what it writes to, and whoever looks at that thing takes the lock first.
"""

from __future__ import annotations

import _socket
import errno
import gc
import os
import select
import sys

from pvepassthru.host import signals
from pvepassthru.host.deadline import Deadline
from pvepassthru.model.errors import PassthruError
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    from pvepassthru.host.host import Host
    from pvepassthru.host.locks import Lock

RIGHTS = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS)
"""The kind of message that passes open files on: unix(7). `_socket` is what socket, which is slow to import, wraps."""
BYTES = 4
"""Of a file's number in it."""
READ, WRITE = b"r", b"w"
"""How a message to a Writer's process begins, and what it is to do."""
LONGEST = 65536
"""Bytes of a message: paths and what is written, or what was read."""


class StillBlockedError(Exception):
    """A write or read had not returned by its deadline; a child process goes on with it."""


class _KilledError(Exception):
    """The process was killed."""


class _NoProcessError(Exception):
    """There could be no process; the text says why."""


Answer = tuple[int, bytes]
"""The errno, 0 for none, and what was read."""


class Writer:
    """A process that makes one write or read after the other, forked for the first of them.

    Of the caller's open files it keeps only, during a write, the lock on what it writes to: one that hangs holds
    nothing else up, and is left behind with it. Leave the `with` block, or call `close`, to end it.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._channel: _socket.socket | None = None
        self._child = 0
        self._caller = 0
        self.left_behind: str | None = None
        """The `identity` of the last process that had not answered a read in time."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, path: str, value: str, seconds: float, lock: Lock) -> None:
        """Write `value` to the attribute `path`, waiting at most `seconds`.

        The process has `lock` until the write returns. A signal that ends the caller ends its wait, and not the write.
        Raises OSError with the kernel's errno, StillBlockedError, or PassthruError when there is no process for it or
        that process was killed: the write may have been done then, or not.
        """
        message = WRITE + f"{path}\0{value}".encode("utf-8", "surrogateescape")
        try:
            number, _ = self._ask(message, seconds, [(*RIGHTS, lock.fd.to_bytes(BYTES, sys.byteorder))])
        except _KilledError:
            raise PassthruError(
                f"the process that wrote {path} was killed", "see the kernel log, then try again"
            ) from None
        except _NoProcessError as error:
            raise PassthruError(
                f"cannot write {path}: no process for it: {error}", "see what fills the host"
            ) from error
        if number:
            raise OSError(number, os.strerror(number), self._host.path(path))

    def read(self, path: str, seconds: float) -> bytes:
        """What the attribute `path` reads, waiting at most `seconds`.

        Raises OSError with the kernel's errno, ETIMEDOUT after that time, and EIO when there is no process for it.
        """
        (answer,) = self.read_all([path], seconds)
        if isinstance(answer, int):
            raise OSError(answer, os.strerror(answer), self._host.path(path))
        return answer

    def read_all(self, paths: Sequence[str], seconds: float) -> list[bytes | int]:
        """What these attributes (at least one) read, or the errno of each, waiting at most `seconds` for each.

        The last answer is ETIMEDOUT if that one took longer: those behind it were not asked then, and `left_behind`
        tells of the process that still reads. EIO likewise when there is no process, or it was killed.
        """
        message: bytes | None = READ + "\0".join(paths).encode("utf-8", "surrogateescape")
        answers: list[bytes | int] = []
        killed = False
        while len(answers) < len(paths):
            try:
                number, data = self._ask(message, seconds)
            except StillBlockedError:
                self.left_behind = identity(self._child)
                return [*answers, errno.ETIMEDOUT]
            except (_KilledError, _NoProcessError):
                if killed or answers:
                    return [*answers, errno.EIO]
                killed = True  # before it was asked, maybe
                continue
            answers.append(number or data)
            message = None
        return answers

    def _ask(self, message: bytes | None, seconds: float, rights: list[tuple[int, int, bytes]] | None = None) -> Answer:
        """Have the process do something, or, without a message, await its next answer.

        Raises StillBlockedError, _KilledError, _NoProcessError.
        """
        mask = signals.hold_back()
        answer = b""
        try:
            if self._caller != os.getpid():  # a fork of the one that has the process
                self.close()
            channel = self._channel or self._fork()
            try:
                if message is not None:
                    channel.sendmsg([message], rights or [])
                answer = self._answer(channel, seconds, mask)
            except OSError as error:
                if error.errno not in {errno.EPIPE, errno.ECONNRESET}:  # these: it was killed
                    raise
        finally:
            try:
                if not answer:
                    self.close()
            finally:
                signals.let_go(mask)
        if not answer:
            raise _KilledError
        number, _, data = answer.partition(b"\0")
        return int(number), data

    def close(self) -> None:
        """End the process, or leave it behind if it still writes or reads."""
        if self._channel is None:
            return
        if self._caller == os.getpid():
            self._channel.close()
            os.waitpid(self._child, os.WNOHANG)  # it need not be waited for while the kernel takes it down
        else:
            self._channel.detach()  # a fork may have closed it, and have another file by its number
        self._channel = None

    def __del__(self) -> None:
        self.close()

    def _answer(self, channel: _socket.socket, seconds: float, mask: set[int]) -> bytes:
        """What the process answers, nothing if it was killed. Raises StillBlockedError."""
        poll = select.poll()
        poll.register(channel, select.POLLIN | select.POLLHUP)
        signals.let_go(mask)
        try:
            ended = poll.poll(max(0, int(seconds * 1000)))
        finally:
            signals.hold_back()
        if not ended:
            raise StillBlockedError
        return channel.recv(LONGEST)

    def _fork(self) -> _socket.socket:
        """Start the process. Raises _NoProcessError."""
        ours, its = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        caller = os.getpid()
        try:
            child = os.fork()
        except OSError as error:
            ours.close()
            its.close()
            raise _NoProcessError(error.strerror) from error
        if child == 0:
            _serve(self._host, its, caller)
        its.close()
        self._channel, self._child, self._caller = ours, child, caller
        return ours


def write(host: Host, path: str, value: str, seconds: float, lock: Lock) -> None:
    """Make one write in a process of its own. Raises as Writer.write."""
    with Writer(host) as writer:
        writer.write(path, value, seconds, lock)


def read(path: str, size: int, seconds: float) -> bytes:
    """The first `size` bytes of a file or device (its real path), waiting at most `seconds` for them.

    A disk that does not answer would hold its reader for ever. Raises OSError: ETIMEDOUT after that time, EIO when the
    child process was killed, else as the kernel gives it.
    """
    reader, writer = os.pipe()
    try:
        try:
            child = os.fork()
            if child == 0:
                _read_in_child(path, size, writer)
        finally:
            os.close(writer)
        try:
            answer = _collect(reader, seconds)
        except BaseException:
            os.kill(child, 9)  # which one that hangs in the kernel notices when that answers
            os.waitpid(child, os.WNOHANG)
            raise
        os.waitpid(child, 0)  # it has closed the pipe, and so is about to end
    finally:
        os.close(reader)
    number, newline, data = answer.partition(b"\n")
    code = int(number) if newline else errno.EIO
    if code:
        raise OSError(code, os.strerror(code), path)
    return data


def _collect(reader: int, seconds: float) -> bytes:
    """All that comes through a pipe until it is closed. Raises OSError, ETIMEDOUT."""
    deadline = Deadline(seconds)
    poll = select.poll()
    poll.register(reader, select.POLLIN | select.POLLHUP)
    chunks: list[bytes] = []
    while poll.poll(int(deadline.left() * 1000)):
        chunk = os.read(reader, 65536)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
    raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


def _read_in_child(path: str, size: int, writer: int) -> None:
    try:
        _keep_only((writer,))
        try:
            answer = b"0\n" + _start_of(path, size)
        except OSError as error:
            answer = b"%d\n" % (error.errno or errno.EIO)
        view = memoryview(answer)
        while view:
            view = view[os.write(writer, view) :]
    finally:
        os._exit(0)


def _start_of(path: str, size: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    data = b""
    while len(data) < size and (chunk := os.read(fd, size - len(data))):
        data += chunk
    return data


def _serve(host: Host, channel: _socket.socket, caller: int) -> None:
    """Do what comes through the channel until it is closed, and end the process."""
    try:
        gc.disable()  # of what the caller no longer uses nothing may be closed here: the numbers are others' now
        _keep_only((channel.fileno(),))
        while True:
            message, rights, _, _ = channel.recvmsg(LONGEST, _socket.CMSG_SPACE(BYTES))
            if not message or os.getppid() != caller:  # killed meanwhile: nobody wants this any more
                return
            words = message[1:].decode("utf-8", "surrogateescape")
            if message.startswith(READ):
                for path in words.split("\0"):
                    channel.send(_outcome(host.at_once, path, LONGEST // 2))
                continue
            path, _, value = words.partition("\0")
            answer = _outcome(host.write, path, value)
            os.close(int.from_bytes(rights[0][2], sys.byteorder))
            channel.send(answer)
    finally:
        os._exit(0)


def _outcome(deed: Callable[..., bytes | None], *words: str | int) -> bytes:
    """The errno of what is done, 0 for none, a NUL, and what it returned."""
    try:
        data = deed(*words)
    except OSError as error:
        return b"%d\0" % (error.errno or errno.EIO)
    return b"0\0" + (data or b"")


def identity(pid: int) -> str | None:
    """A process's pid and when it began, in clock ticks since the boot; None if there is none (proc_pid_stat(5))."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fields = os.read(fd, 4096).rpartition(b")")[2].split()
    except OSError:  # it ended just now
        return None
    finally:
        os.close(fd)
    return f"{pid} {int(fields[19])}" if fields[:1] != [b"Z"] else None


def _keep_only(keep: tuple[int, ...]) -> None:
    """Close all files of this process but these; its standard streams are /dev/null from now on."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # PVE reads the hook's output to its end: a stuck child must not hold it
        os.dup2(null, stream)
    first = 3
    for fd in sorted(keep):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, 4096)
