# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import functools
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvepassthru.host import backups, changes
from pvepassthru.host.backups import Change, Set
from pvepassthru.host.host import Host
from pvepassthru.model.errors import DeviceError, InputError, NotFoundError
from tests import tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GRUB = "/etc/default/grub"
NEW = "/etc/udev/rules.d/61-x.rules"
GONE = "/etc/modprobe.d/old.conf"
CALLS = ("open", "write", "fchmod", "fsync", "rename", "mkdir", "chmod", "unlink", "rmdir")
"""What changes the outside world, or is about to."""


def planned() -> list[Change]:
    return [
        Change(GRUB, b"A=1\n", b"A=2\n", 0o644, "why"),
        Change(GONE, b"x\n", None, 0o644, "why"),
        Change(NEW, None, b"rule\n", 0o755, "why"),
    ]


@pytest.fixture(autouse=True)
def no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no disk: a thousand times takes minutes on a slow one."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    tree.put(tmp_path, GRUB, "A=1\n")
    os.chmod(f"{tmp_path}{GRUB}", 0o640)
    tree.put(tmp_path, GONE, "x\n")
    return Host(str(tmp_path))


def state(host: Host) -> dict[str, tuple[bytes, int]]:
    """The bytes and mode of all files but the backups; and the folders."""
    found = {}
    for folder, names, files in os.walk(f"{host.root}/etc"):
        for name in files:
            path = f"{folder}/{name}"
            with open(path, "rb") as file:
                found[path] = (file.read(), os.stat(path).st_mode)
        found.update({f"{folder}/{name}": (b"", os.stat(f"{folder}/{name}").st_mode) for name in names})
    return found


def undo(host: Host) -> None:
    made = backups.newest(host)
    changes.undo(host, made)
    backups.close(host, made)


def test_changes_and_back(host: Host) -> None:
    before = state(host)
    made = changes.apply(host, planned(), [("update-grub",)])
    assert host.read(GRUB) == b"A=2\n"
    assert os.stat(host.path(GRUB)).st_mode & 0o777 == 0o640
    assert os.stat(host.path(NEW)).st_mode & 0o777 == 0o755
    assert os.stat(host.path("/etc/udev/rules.d")).st_mode & 0o777 == 0o755
    assert not host.exists(GONE)
    assert backups.newest(host) == made
    assert made.commands == (("update-grub",),)
    undo(host)
    assert state(host) == before
    with pytest.raises(NotFoundError):
        backups.newest(host)


def test_the_newest_set_comes_first(host: Host) -> None:
    changes.apply(host, planned()[:1], [])
    changes.apply(host, [Change(GRUB, b"A=2\n", b"A=3\n", 0o644, "why")], [])
    undo(host)
    assert host.read(GRUB) == b"A=2\n"
    undo(host)
    assert host.read(GRUB) == b"A=1\n"


def test_a_set_of_many_on_one_second_keeps_its_order(host: Host) -> None:
    for number in range(12):
        changes.apply(host, [Change(GRUB, f"A={number + 1}\n".encode(), f"A={number + 2}\n".encode(), 0o644, "")], [])
    for number in reversed(range(12)):
        undo(host)
        assert host.read(GRUB) == f"A={number + 1}\n".encode()


def test_a_file_changed_since_is_not_undone(host: Host) -> None:
    changes.apply(host, planned(), [])
    tree.put(host.root, GRUB, "A=2\nB=1\n")
    after = state(host)
    with pytest.raises(changes.ChangedSinceError) as caught:
        undo(host)
    assert GRUB in caught.value.message
    assert "+B=1" in caught.value.lines
    assert state(host) == after


def test_a_file_changed_meanwhile_is_not_changed(host: Host) -> None:
    tree.put(host.root, GONE, "y\n")
    before = state(host)
    with pytest.raises(InputError, match="changed meanwhile"):
        changes.apply(host, planned(), [])
    assert state(host) == before


def test_a_link_stays_and_its_file_is_changed(host: Host) -> None:
    tree.put(host.root, "/etc/real", "A=1\n")
    os.unlink(host.path(GRUB))
    os.symlink("../real", host.path(GRUB))
    changes.apply(host, planned()[:1], [])
    assert os.readlink(host.path(GRUB)) == "../real"
    assert host.read("/etc/real") == b"A=2\n"
    undo(host)
    assert os.readlink(host.path(GRUB)) == "../real"
    assert host.read("/etc/real") == b"A=1\n"


def _dangling(path: str) -> None:
    os.symlink("nowhere", path)


def _outside(path: str) -> None:
    os.symlink("/etc/passwd", path)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, _dangling, _outside])
def test_what_is_no_file_of_the_host_is_refused(host: Host, make: Callable[[str], None]) -> None:
    os.unlink(host.path(GRUB))
    make(host.path(GRUB))
    with pytest.raises(InputError, match="cannot change /etc/default/grub"):
        changes.current(host, GRUB)


def test_a_folder_that_leads_outside_is_refused(host: Host) -> None:
    os.symlink("/tmp", host.path("/etc/udev"))
    with pytest.raises(InputError, match="outside of this root"):
        changes.current(host, NEW)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EPERM, errno.EIO])
@pytest.mark.parametrize("path", [GRUB, NEW])
def test_a_file_that_cannot_be_written_leaves_all_as_before(
    host: Host, monkeypatch: pytest.MonkeyPatch, number: int, path: str
) -> None:
    before = state(host)
    real = backups.put

    def put(target: str, data: bytes, entry: backups.Entry | None = None) -> None:
        if target == host.path(path) + changes.TEMPORARY:
            raise OSError(number, os.strerror(number), target)
        real(target, data, entry)

    monkeypatch.setattr(backups, "put", put)
    with pytest.raises(DeviceError) as caught:
        changes.apply(host, reversed(planned()), [])
    assert path in caught.value.message
    assert "nothing was changed" in caught.value.message
    assert caught.value.hint
    assert state(host) == before


def test_a_backup_that_cannot_be_written_changes_nothing(host: Host) -> None:
    tree.put(host.root, "/var/lib/pvepassthru", "a file")
    before = state(host)
    with pytest.raises(DeviceError, match="cannot back up"):
        changes.apply(host, planned(), [])
    assert state(host) == before


def _killed_at(host: Host, number: int, work: Callable[[], object]) -> bool:
    """Do the work in a child that is killed before its N-th call; whether it was."""
    pid = os.fork()
    if pid == 0:
        left = [number]

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*values: Any, **named: Any) -> Any:  # noqa: ANN401 - whatever it wraps
                left[0] -= 1
                if left[0] == 0:
                    os._exit(9)
                return real(*values, **named)

            return call

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        try:
            work()
        except BaseException:  # noqa: BLE001 - the parent reads the code
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in {0, 9}, host.root
    return code == 9


def _is_old_or_new(host: Host, before: dict[str, tuple[bytes, int]], after: dict[str, tuple[bytes, int]]) -> None:
    seen = state(host)
    for path in (GRUB, NEW, GONE):
        real = host.path(path)
        assert seen.get(real) in (before.get(real), after.get(real)), path


def test_whoever_is_killed_leaves_old_or_new_and_undo_restores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _fd: None)  # a hundred times, it takes a minute
    number, goes_on = 0, True
    while goes_on:
        number += 1
        here = tmp_path / str(number)
        tree.put(here, GRUB, "A=1\n")
        tree.put(here, GONE, "x\n")
        host = Host(str(here))
        before = state(host)
        after = {
            host.path(GRUB): (b"A=2\n", before[host.path(GRUB)][1]),
            host.path(NEW): (b"rule\n", 0o100755),
        }
        goes_on = _killed_at(host, number, functools.partial(changes.apply, host, planned(), []))
        _is_old_or_new(host, before, after)
        try:
            undo(host)
        except NotFoundError:  # killed before the backup was complete
            pass
        assert state(host) == before
    assert number > 30


def test_an_undo_that_is_killed_can_be_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _fd: None)  # a hundred times, it takes a minute
    number, goes_on = 0, True
    while goes_on:
        number += 1
        here = tmp_path / str(number)
        tree.put(here, GRUB, "A=1\n")
        tree.put(here, GONE, "x\n")
        host = Host(str(here))
        before = state(host)
        changes.apply(host, planned(), [])
        after = state(host)
        goes_on = _killed_at(host, number, functools.partial(undo, host))
        _is_old_or_new(host, before, after)
        try:
            undo(host)
        except NotFoundError:  # it was at its end
            pass
        assert state(host) == before
    assert number > 10


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"version": 1}',
        '{"version": 2}',
        '{"version": 1, "commands": [], "changes": [{}]}',
        '{"version": 1, "commands": [], "changes": [1]}',
        '{"version": 1, "commands": 3, "changes": []}',
    ],
)
def test_a_damaged_manifest_is_one_sentence(host: Host, text: str) -> None:
    made = changes.apply(host, planned(), [])
    tree.put(host.root, f"{made.folder}/{backups.MANIFEST}", text)
    with pytest.raises(InputError, match=r"manifest\.json"):
        backups.newest(host)


@pytest.mark.parametrize("path", ["relative", "/etc/../../x", "/x/.."])
def test_a_manifest_does_not_lead_elsewhere(host: Host, path: str) -> None:
    made = changes.apply(host, planned(), [])
    shape = json.loads(host.read(f"{made.folder}/{backups.MANIFEST}"))
    shape["changes"][0]["real"] = path
    tree.put(host.root, f"{made.folder}/{backups.MANIFEST}", json.dumps(shape))
    with pytest.raises(InputError, match="damaged"):
        backups.newest(host)


def test_a_damaged_backup_restores_nothing(host: Host) -> None:
    made: Set = changes.apply(host, planned(), [])
    tree.put(host.root, f"{made.folder}/{made.entries[0].backup}", "other")
    after = state(host)
    with pytest.raises(InputError, match="is damaged"):
        undo(host)
    assert state(host) == after


def test_commands_that_were_not_run_are_owed(host: Host) -> None:
    assert backups.owed(host) is None
    made = changes.apply(host, planned(), [("update-grub",)])
    assert backups.owed(host) == made
    backups.ran(host, made)
    assert backups.owed(host) is None


def test_a_diff_is_safe_to_print() -> None:
    change = Change("/f", b"a\x1b[31m\n\xff", b"a\x1b[31m\nb\n", 0o644, "")
    lines = changes.diff(change)
    assert all(line.isprintable() for line in lines)
    assert "\\ No newline at end of file" in lines
    assert changes.diff(Change("/f", None, b"x\n", 0o644, ""))[:2] == ["--- /dev/null", "+++ /f"]


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_any_bytes_have_a_diff(before: bytes, after: bytes) -> None:
    lines = changes.diff(Change("/f", before, after, 0o644, ""))
    assert all(line.isprintable() for line in lines)
