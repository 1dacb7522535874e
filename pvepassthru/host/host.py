# SPDX-License-Identifier: Apache-2.0
"""The host: the only place that reads or writes files.

Every path that the program uses is written as on a real host (`/sys/...`) and looked up below `root`, so that a test
host, a captured host and the real one differ by a folder.
"""

from __future__ import annotations

import errno
import os
import time

from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pvepassthru.host.slow import Writer

MAX_FILE = 64 * 1024 * 1024
"""Bytes; no file of a host that we read is larger. More is refused, so that a wrong file cannot fill the memory."""

TEMPORARY = ".pvepassthru"
"""Ending of the file that `replace` writes before it renames it."""

ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO})
"""What open or read answers when a file or its device is not there (any more)."""


WAITING = ("/sriov_numvfs", "/driver_override")
"""Ends of the kernel's attributes whose readers wait for the function's lock, which somebody may hold for ever: who
removes VFs of which one is open, or unbinds a driver that a process uses (Linux drivers/pci/iov.c and pci-sysfs.c).
Reading driver_override takes no lock any more in kernels from the spring of 2026 on, stable ones among them."""
ATTRIBUTE_WAIT = 3.0
"""Seconds to wait for one of them. A function that was late once is not asked again: each late read leaves a process
behind, until the kernel answers it."""
TOGETHER = 64
"""How many of them are read at once."""


def way_out(error: OSError, usual: str = "see what is wrong with it") -> str:
    """What to do about a file that cannot be used: become root where that is what is missing, else `usual`."""
    return "run this as root" if error.errno in {errno.EACCES, errno.EPERM} and os.geteuid() else usual


class Host:
    """The files of one host below `root`."""

    simulated = False
    partial = False
    """Whether only some of the host's files are here, so that what is absent may be there on the host itself."""

    def __init__(self, root: str = "/", node: str | None = None) -> None:
        self.root = "" if root == "/" else root.rstrip("/")
        """Prefix of every path; empty for the real host."""
        self.unreadable: dict[str, int] = {}
        """Files that are there and could not be read, each with its errno; rules turn them into findings."""
        self.copy_of: Host | None = None
        """The host whose copy this is, of which is asked what the copy lacks: what the host itself uses (plan)."""
        self._node = node
        self._reader: Writer | None = None
        self._late: set[str] = set()

    def path(self, path: str) -> str:
        """The path to open for `path` (absolute, as on a host)."""
        return self.root + path

    @property
    def node(self) -> str:
        """The node's name: as given, else the host name of this root without its domain, as PVE takes it."""
        if self._node is None:
            if self.root:
                name = self.text("/etc/hostname") or self.text("/proc/sys/kernel/hostname") or "localhost"
            else:
                name = os.uname().nodename
            self._node = name.split(".", 1)[0]
        return self._node

    def now(self) -> float:
        """Seconds since the epoch; in a snapshot of a host those at which it was taken."""
        return time.time()

    # ---- reading

    def read(self, path: str, limit: int = MAX_FILE) -> bytes:
        """The bytes of a file.

        Raises OSError as the kernel gives it (ENOENT, EACCES, EIO, ELOOP, EISDIR, ...), and EFBIG when there are more
        than `limit` bytes. Never waits for a FIFO's writer, nor longer than ATTRIBUTE_WAIT for an attribute that is
        WAITING: ETIMEDOUT then.
        """
        if path.endswith(WAITING) and self.may_wait(path):
            return self._patiently(path)
        return self.at_once(path, limit)

    def _patiently(self, path: str) -> bytes:
        """An attribute that is WAITING. Raises OSError as `read`."""
        if self._is_late(path):
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), self.root + path)
        try:
            return self.within(path, ATTRIBUTE_WAIT)
        except OSError as error:
            if error.errno == errno.ETIMEDOUT:
                self._be_late(path)
            raise

    def _is_late(self, path: str) -> bool:
        """Whether a read of this function's attributes hangs, by this process or by one that has ended."""
        from pvepassthru.host import slow, state  # noqa: PLC0415 - few files need it

        address = path.split("/")[-2]
        if address not in self._late:
            noted = state.late_path(address)
            try:
                reader = self.at_once(noted).decode("ascii", "replace")
            except OSError:
                return False
            pid = reader.partition(" ")[0]
            if not pid.isdecimal() or slow.identity(int(pid)) != reader:
                self._forget(noted)
                return False
            self._late.add(address)
        return True

    def _be_late(self, path: str) -> None:
        """Note, for the processes to come, too, that a read of this function's attributes hangs."""
        from pvepassthru.host import state  # noqa: PLC0415 - hardly ever

        address = path.split("/")[-2]
        self._late.add(address)
        reader = self._helper().left_behind
        try:
            if reader is not None:
                self.replace(state.late_path(address), reader.encode())
        except OSError:  # not root's, or no folder yet: it is only asked in vain once more then
            pass

    def _forget(self, path: str) -> None:
        try:
            self.remove(path)
        except OSError:
            pass

    def texts(self, paths: Sequence[str]) -> dict[str, str | None]:
        """As `text` of each; attributes that are WAITING are read together, which takes a quarter of the time."""
        left = [path for path in paths if path.endswith(WAITING) and self.may_wait(path)]
        found: dict[str, str | None] = {}
        while left := [path for path in left if not self._is_late(path)]:
            some = left[:TOGETHER]
            answers = self._helper().read_all(some, ATTRIBUTE_WAIT)
            for path, answer in zip(some, answers, strict=False):
                if isinstance(answer, bytes):
                    found[path] = answer.decode("utf-8", "surrogateescape").strip()
                elif answer == errno.ETIMEDOUT:
                    self._be_late(path)
            left = left[len(answers) :]
        return {path: found[path] if path in found else self.text(path) for path in paths}

    def within(self, path: str, seconds: float) -> bytes:
        """What one of the kernel's attributes reads, waiting at most `seconds`. Raises OSError: ETIMEDOUT then."""
        return self._helper().read(path, seconds)

    def _helper(self) -> Writer:
        if self._reader is None:
            from pvepassthru.host import slow  # noqa: PLC0415 - few files need it

            self._reader = slow.Writer(self)
        return self._reader

    def at_once(self, path: str, limit: int = MAX_FILE) -> bytes:
        """As `read`, and waits for whatever the kernel waits for."""
        fd = os.open(self.root + path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            chunks = []
            size = 0
            while chunk := os.read(fd, 65536):
                chunks.append(chunk)
                size += len(chunk)
                if size > limit:
                    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), self.root + path)
            return b"".join(chunks)
        finally:
            os.close(fd)

    def may_wait(self, path: str) -> bool:
        """Whether a reader of an attribute that is WAITING may have to wait."""
        return self.exists(path)

    def head(self, path: str, size: int) -> bytes:
        """The first bytes of a file, as many as one read(2) of `size` gives. Raises OSError as `read`."""
        fd = os.open(self.root + path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return os.read(fd, size)
        finally:
            os.close(fd)

    def text(self, path: str) -> str | None:
        """A small file as text without its outer blanks, or None: absent, vanished, or noted in `unreadable`.

        Never raises: bytes that are not UTF-8 are kept as surrogates.
        """
        try:
            return self.read(path).decode("utf-8", "surrogateescape").strip()
        except (OSError, ValueError) as error:
            self._note(path, error)
            return None

    def names(self, path: str) -> list[str]:
        """The sorted names in a folder; none if it is absent or, then noted in `unreadable`, cannot be read."""
        try:
            return sorted(os.listdir(self.root + path))
        except (OSError, ValueError) as error:
            self._note(path, error)
            return []

    def target(self, path: str) -> str | None:
        """Where a symbolic link points, as it says it (in sysfs a relative path), or None."""
        try:
            return os.readlink(self.root + path)
        except (OSError, ValueError) as error:
            if not isinstance(error, OSError) or error.errno != errno.EINVAL:  # EINVAL: there, and no link
                self._note(path, error)
            return None

    def link(self, path: str) -> str | None:
        """The last component of where a symbolic link points (a driver's name, a group's number), or None."""
        target = self.target(path)
        return None if target is None else target.rstrip("/").rpartition("/")[2]

    def resolve(self, path: str) -> str | None:
        """The path, as on a host, that `path` leads to with all links followed, or None if it leads nowhere."""
        try:
            real = os.path.realpath(self.root + path, strict=True)
        except (OSError, ValueError) as error:
            self._note(path, error)
            return None
        top = os.path.realpath(self.root) if self.root else ""
        if top and not (real + "/").startswith(top + "/"):
            return None
        return real[len(top) :] or "/"

    def exists(self, path: str) -> bool:
        """Whether the path exists, links followed."""
        try:
            os.stat(self.root + path)
        except (OSError, ValueError) as error:
            self._note(path, error)
            return False
        return True

    def mode(self, path: str) -> int | None:
        """The type and permission bits of a file, links followed (stat(2), st_mode), or None if it is absent."""
        try:
            return os.stat(self.root + path).st_mode
        except (OSError, ValueError) as error:
            self._note(path, error)
            return None

    def _note(self, path: str, error: OSError | ValueError) -> None:
        """Note what is there and cannot be read. A path with a NUL byte, a ValueError, is none that could be there."""
        if isinstance(error, OSError) and error.errno not in ABSENT:
            self.unreadable[path] = error.errno or errno.EIO

    # ---- writing

    def write(self, path: str, value: str) -> None:
        """Write `value` to a kernel attribute in one write(2).

        Raises OSError with the kernel's errno; may block for as long as the kernel does (see host/slow.py).
        """
        fd = os.open(self.root + path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)

    def append(self, path: str, line: str) -> None:
        """Append one line to an existing file in one O_APPEND write. Raises OSError, ENOSPC after a short write too."""
        data = line.encode()
        fd = os.open(self.root + path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if os.write(fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.root + path)
        finally:
            os.close(fd)

    def replace(self, path: str, data: bytes, mode: int = 0o600, *, sync: bool = False) -> None:
        """Put `data` in the place of a file atomically: a temporary file beside it, then rename. Raises OSError.

        The caller holds a lock on the file, so one name is enough, and what a killed writer left there is overwritten.
        With `sync` it is on the disk before it has the file's name, as what outlives a power cut has to be.
        """
        real = self.root + path
        temporary = real + TEMPORARY
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        try:
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
                os.fchmod(fd, mode)
                if sync:
                    os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(temporary, real)
        except BaseException:
            os.unlink(temporary)
            raise

    def remove(self, path: str) -> None:
        """Remove a file; one that is gone already is fine. Raises OSError otherwise."""
        try:
            os.unlink(self.root + path)
        except FileNotFoundError:
            pass


def open_host(root: str = "/", node: str | None = None) -> Host:
    """The host below `root`: a real one when its /sys is the running kernel's, else a simulated one (host/sim.py)."""
    if root == "/" or _is_kernel_sysfs(root):
        return Host(root, node)
    from pvepassthru.host.sim import SimHost  # noqa: PLC0415 - not on the real host's fast path

    return SimHost(root, node)


def _is_kernel_sysfs(root: str) -> bool:
    try:
        return os.stat(root + "/sys/kernel").st_dev == os.stat("/sys/kernel").st_dev and os.path.ismount(root + "/sys")
    except OSError:
        return False
