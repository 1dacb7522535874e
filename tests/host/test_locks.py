# SPDX-License-Identifier: Apache-2.0
"""Locks against other processes: our flock, filelock and perl's exclude each other, and every wait has a limit."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import filelocks, locks
from pvepassthru.host.deadline import Deadline
from pvepassthru.host.host import Host
from pvepassthru.model.errors import BusyError, PassthruError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

OURS = """
import sys
from pvepassthru.host import locks
from pvepassthru.host.deadline import Deadline
from pvepassthru.host.host import Host
with locks.take(Host("/"), sys.argv[1], Deadline(5), "it"):
    print("held", flush=True); sys.stdin.read()
"""
FILELOCK = """
import sys, filelock
with filelock.FileLock(sys.argv[1], timeout=5):
    print("held", flush=True); sys.stdin.read()
"""
PERL = (
    'use Fcntl ":flock"; open(my $f, ">>", $ARGV[0]) or die; flock($f, LOCK_EX) or die;'
    '$| = 1; print "held\\n"; <STDIN>;'
)
HOLDERS = {
    "ours": [sys.executable, "-c", OURS],
    "filelock": [sys.executable, "-c", FILELOCK],
    "perl": [shutil.which("perl") or "perl", "-e", PERL],
}


@contextlib.contextmanager
def held_by(kind: str, path: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock, until the block ends."""
    with subprocess.Popen([*HOLDERS[kind], path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        if process.poll() is None:
            process.communicate()
            assert process.returncode == 0


def take_ours(path: str, seconds: float) -> AbstractContextManager[object]:
    return locks.take(Host("/"), path, Deadline(seconds), "the thing")


def take_filelock(path: str, seconds: float) -> AbstractContextManager[object]:
    return filelocks.hold(Host("/"), path, seconds, "the thing")


@pytest.mark.parametrize("take", [take_ours, take_filelock])
@pytest.mark.parametrize("kind", HOLDERS)
def test_lock_excludes(take: Callable[[str, float], AbstractContextManager[object]], kind: str, tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with held_by(kind, path) as process:
        with pytest.raises(BusyError) as caught, take(path, 0.3):
            pass
        assert f"process {process.pid} (" in str(caught.value), "it says whom it waits for"
        assert "the thing" in str(caught.value)
    with take(path, 5):
        assert os.path.exists(path)
    assert os.path.exists(path), "the file stays: removing it would split its waiters"


def test_wait_ends_when_the_lock_is_let_go(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    holder = "import sys,time,fcntl; f=open(sys.argv[1],'a'); fcntl.flock(f,2); print('held',flush=1); time.sleep(0.4)"
    with subprocess.Popen([sys.executable, "-c", holder, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        begun = time.monotonic()
        with take_ours(path, 20):
            assert 0.1 < time.monotonic() - begun < 15


def test_lock_is_freed_by_kill(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with held_by("ours", path) as process:
        process.kill()
        process.wait()
        with take_ours(path, 1):
            pass


def test_release_twice_is_fine(tmp_path: Path) -> None:
    with locks.take(Host("/"), str(tmp_path / "lock"), Deadline(1), "it") as lock:
        lock.release()
        lock.release()


def test_lock_file_that_cannot_be_made(tmp_path: Path) -> None:
    missing = str(tmp_path / "absent" / "lock")
    with pytest.raises(PassthruError, match=r"cannot lock it: .*No such file"):
        locks.take(Host("/"), missing, Deadline(1), "it")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PassthruError, match="cannot lock it"):
        locks.take(Host("/"), str(tmp_path / "link"), Deadline(1), "it")
