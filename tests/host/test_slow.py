# SPDX-License-Identifier: Apache-2.0
"""Writes in a child process: errnos come back, late ones are left behind, locks outlive a killed caller."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import locks, slow, state
from pvepassthru.host.deadline import Deadline
from pvepassthru.host.host import Host
from pvepassthru.model.errors import BusyError, PassthruError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Stuck(Host):
    """A host whose writes take as long as the value says, in seconds, and then store it."""

    def write(self, path: str, value: str) -> None:
        time.sleep(float(value))
        with open(self.path(path), "w", encoding="ascii") as file:
            file.write(value)


class Refusing(Host):
    """A host whose writes fail with the errno that the value names."""

    def write(self, path: str, value: str) -> None:
        raise OSError(getattr(errno, value), value, path)


def lock_on(host: Host, path: str = "/lock") -> locks.Lock:
    return locks.take(host, path, Deadline(5), "it")


def test_value_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    host = Host(str(tmp_path))
    with lock_on(host) as lock:
        slow.write(host, "/file", "text", 5, lock)
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.parametrize("name", ["ENOSPC", "EEXIST", "EAGAIN"])
def test_errno_comes_back(name: str, tmp_path: Path) -> None:
    host = Refusing(str(tmp_path))
    with lock_on(host) as lock, pytest.raises(OSError, match=os.strerror(getattr(errno, name))) as caught:
        slow.write(host, "/file", name, 5, lock)
    assert caught.value.errno == getattr(errno, name)


def test_late_write_is_left_behind_with_its_lock(tmp_path: Path) -> None:
    host = Stuck(str(tmp_path))
    with lock_on(host) as lock, pytest.raises(slow.StillBlockedError):
        slow.write(host, "/file", "4", 0.2, lock)
    assert not (tmp_path / "file").exists(), "it was not waited for"
    with pytest.raises(BusyError):
        locks.take(host, "/lock", Deadline(0.1), "it")
    locks.take(host, "/lock", Deadline(20), "it").release()
    assert (tmp_path / "file").read_text() == "4", "the write went on, and the lock was held until it was done"


CALLER = """
import sys
sys.path.insert(0, sys.argv[2])
from tests.host.test_slow import Stuck, lock_on
from pvepassthru.host import slow
host = Stuck(sys.argv[1])
other = lock_on(host, "/other")
print("write", flush=True)
slow.write(host, "/file", "1", 30, lock_on(host))
"""


def test_killed_caller_frees_all_but_the_lock_on_the_target(tmp_path: Path) -> None:
    top = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    with subprocess.Popen(
        [sys.executable, "-c", CALLER, str(tmp_path), top], stdout=subprocess.PIPE, text=True, cwd=top
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.4)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout.read() == "", "the child does not hold our output open"
    host = Host(str(tmp_path))
    locks.take(host, "/other", Deadline(0.1), "it").release()
    locks.take(host, "/lock", Deadline(20), "it").release()
    assert (tmp_path / "file").exists()


class EndedError(Exception):
    pass


def end(number: int, _frame: object) -> None:
    raise EndedError(number)


def test_ending_signal_ends_the_wait_and_not_the_write(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGTERM, end)
    try:
        host = Stuck(str(tmp_path))
        killer = "import os,sys,time; time.sleep(0.2); os.kill(int(sys.argv[1]), 15)"
        with subprocess.Popen([sys.executable, "-c", killer, str(os.getpid())]), lock_on(host) as lock:
            with pytest.raises(EndedError):
                slow.write(host, "/file", "1.2", 5, lock)
            assert not (tmp_path / "file").exists()
        locks.take(host, "/lock", Deadline(20), "it").release()
        assert (tmp_path / "file").exists()
        assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.signal(signal.SIGTERM, before)


class Killed(Host):
    """A host whose writes are done by a process that is killed then."""

    def write(self, path: str, value: str) -> None:
        super().write(path, value)
        os.kill(os.getpid(), signal.SIGKILL)


def test_killed_writer(tmp_path: Path) -> None:
    """Whether it wrote nobody knows, so it must not pass for an errno of the kernel."""
    (tmp_path / "file").write_text("")
    host = Killed(str(tmp_path))
    with lock_on(host) as lock, pytest.raises(PassthruError, match="the process that wrote /file was killed"):
        slow.write(host, "/file", "text", 5, lock)


def test_one_process_makes_several_writes(tmp_path: Path) -> None:
    """One that is late is left behind with its own lock only, and the next write has a new process."""
    host = Stuck(str(tmp_path))
    with slow.Writer(host) as writer:
        for value in ("0", "0.1"):
            with lock_on(host, "/other") as lock:
                writer.write("/file", value, 5, lock)
            assert (tmp_path / "file").read_text() == value
        first = writer._child
        with lock_on(host) as lock, pytest.raises(slow.StillBlockedError):
            writer.write("/late", "1.5", 0.2, lock)
        with lock_on(host, "/other") as lock:
            writer.write("/file", "0.2", 5, lock)
        assert writer._child != first
        with pytest.raises(BusyError):
            locks.take(host, "/lock", Deadline(0.1), "it")
    locks.take(host, "/lock", Deadline(20), "it").release()
    assert (tmp_path / "late").read_text() == "1.5"


def test_writer_that_was_killed_between_two_writes(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    host = Host(str(tmp_path))
    with slow.Writer(host) as writer, lock_on(host) as lock:
        writer.write("/file", "1", 5, lock)
        os.kill(writer._child, signal.SIGKILL)
        with pytest.raises(PassthruError, match="was killed"):
            writer.write("/file", "2", 5, lock)
        writer.write("/file", "3", 5, lock)
    assert (tmp_path / "file").read_text() == "3"


def test_writer_ends_with_its_caller(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    host = Host(str(tmp_path))
    with slow.Writer(host) as writer, lock_on(host) as lock:
        writer.write("/file", "1", 5, lock)
        child = writer._child
    with contextlib.suppress(ChildProcessError):  # it has been waited for already
        os.waitpid(child, 0)


# ---- reads


def test_read_gives_the_start_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(range(256)) * 2000)
    assert slow.read(str(path), 300_000, 10) == (bytes(range(256)) * 2000)[:300_000]
    assert slow.read(str(path), 10_000_000, 10) == bytes(range(256)) * 2000
    path.write_bytes(b"")
    assert slow.read(str(path), 512, 10) == b""


def test_read_raises_as_the_kernel_does(tmp_path: Path) -> None:
    for path, number in ((tmp_path / "gone", errno.ENOENT), (tmp_path, errno.EISDIR)):
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            slow.read(str(path), 512, 10)
        assert (caught.value.errno, caught.value.filename) == (number, str(path))


def test_read_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stuck(_path: str, _size: int) -> bytes:
        time.sleep(30)
        return b""

    monkeypatch.setattr(slow, "_start_of", stuck)
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        slow.read(str(tmp_path / "disk"), 512, 0.2)
    assert time.monotonic() - start < 5


def test_read_whose_process_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow, "_start_of", lambda _path, _size: os.kill(os.getpid(), 9))
    with pytest.raises(OSError, match="Input/output error"):
        slow.read(str(tmp_path / "disk"), 512, 10)


# ---- attributes whose readers may have to wait


class Locked(Host):
    """A host of whose functions those that have a file `locked` answer when it is gone."""

    def at_once(self, path: str, limit: int = 1 << 26) -> bytes:
        while os.path.exists(os.path.join(os.path.dirname(self.path(path)), "locked")):
            time.sleep(0.01)
        return super().at_once(path, limit)


@pytest.fixture
def functions(tmp_path: Path) -> Iterator[Locked]:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "driver_override").write_text(f"of {name}\n")
        (tmp_path / name / "sriov_numvfs").write_text("2\n")
    yield Locked(str(tmp_path))
    (tmp_path / "a/locked").unlink(missing_ok=True)  # a reader that was left behind ends


def test_attributes_are_read_by_one_process_of_their_own(functions: Locked) -> None:
    assert functions.text("/a/driver_override") == "of a"
    writer = functions._reader
    assert writer is not None
    child = writer._child
    assert child != os.getpid()
    assert functions.text("/b/driver_override") == "of b"
    assert functions.text("/b/sriov_numvfs") == "2"
    assert writer._child == child


def test_an_attribute_that_is_not_there(functions: Locked) -> None:
    with pytest.raises(FileNotFoundError):
        functions.read("/c/driver_override")
    assert functions.text("/c/driver_override") is None
    assert functions.unreadable == {}
    assert functions._reader is None


def test_a_locked_function_is_waited_for_once(functions: Locked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its other attributes not at all; those of others answer at once."""
    monkeypatch.setattr("pvepassthru.host.host.ATTRIBUTE_WAIT", 1.0)
    lock = os.path.join(functions.root, "a", "locked")
    with open(lock, "w", encoding="ascii"):
        pass
    start = time.monotonic()
    assert functions.text("/a/sriov_numvfs") is None
    assert functions.unreadable == {"/a/sriov_numvfs": errno.ETIMEDOUT}
    assert time.monotonic() - start >= 1.0
    monkeypatch.setattr("pvepassthru.host.host.ATTRIBUTE_WAIT", 60.0)
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        functions.read("/a/driver_override")
    assert functions.text("/b/driver_override") == "of b"
    assert time.monotonic() - start < 30


def test_a_late_read_is_left_behind_once(functions: Locked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes later, too, leaves no other process behind, and asks again when that one has its answer."""
    monkeypatch.setattr("pvepassthru.host.host.ATTRIBUTE_WAIT", 0.5)
    os.mkdir(functions.path("/run"))
    state.prepare(functions)
    lock = os.path.join(functions.root, "a", "locked")
    with open(lock, "w", encoding="ascii"):
        pass
    assert functions.text("/a/sriov_numvfs") is None
    assert functions._reader is not None
    stuck = functions._reader._child
    other = Locked(functions.root)
    monkeypatch.setattr("pvepassthru.host.host.ATTRIBUTE_WAIT", 60.0)
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        other.read("/a/driver_override")
    assert other.texts(["/a/driver_override", "/b/driver_override"])["/a/driver_override"] is None
    assert time.monotonic() - start < 30
    noted = other.path(state.late_path("a"))
    with open(noted, encoding="ascii") as file:
        assert file.read() == slow.identity(stuck)
    os.unlink(lock)
    os.waitpid(stuck, 0)
    assert Locked(functions.root).text("/a/driver_override") == "of a"
    assert not os.path.exists(noted)


def test_many_are_read_together(functions: Locked, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is late does not cost the others theirs, nor are its function's other attributes asked for."""
    monkeypatch.setattr("pvepassthru.host.host.ATTRIBUTE_WAIT", 4.0)
    os.unlink(os.path.join(functions.root, "b", "sriov_numvfs"))
    paths = [f"/{name}/{attribute}" for name in ("a", "b") for attribute in ("driver_override", "sriov_numvfs")]
    expected = {"/a/driver_override": "of a", "/a/sriov_numvfs": "2", "/b/driver_override": "of b"}
    assert functions.texts(paths) == {**expected, "/b/sriov_numvfs": None}
    with open(os.path.join(functions.root, "a", "locked"), "w", encoding="ascii"):
        pass
    late = dict.fromkeys(paths[:2])
    start = time.monotonic()
    assert functions.texts(paths) == {**expected, **late, "/b/sriov_numvfs": None}
    assert 4.0 <= time.monotonic() - start < 8, "one wait for both of the function"
    assert functions.unreadable == dict.fromkeys(late, errno.ETIMEDOUT)


def test_a_fork_that_closed_its_files_closes_no_other(functions: Locked) -> None:
    """The number of the channel may be another file's there."""
    assert functions.text("/a/driver_override") == "of a"
    reader = functions._reader
    assert reader is not None
    assert reader._channel is not None
    number = reader._channel.fileno()
    pid = os.fork()
    if pid == 0:
        os.close(number)
        other = os.open(os.devnull, os.O_RDONLY)
        os.dup2(other, number)
        reader.close()
        os.fstat(number)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert functions.text("/b/driver_override") == "of b"


def test_a_fork_has_a_reader_of_its_own(functions: Locked) -> None:
    assert functions.text("/a/driver_override") == "of a"
    pid = os.fork()
    if pid == 0:
        os._exit(0 if functions.text("/b/driver_override") == "of b" else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert functions.text("/b/sriov_numvfs") == "2"


def test_a_reader_that_was_killed_is_replaced(functions: Locked) -> None:
    assert functions.text("/a/driver_override") == "of a"
    assert functions._reader is not None
    os.kill(functions._reader._child, signal.SIGKILL)
    assert functions.text("/a/driver_override") == "of a"
