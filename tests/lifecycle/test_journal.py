# SPDX-License-Identifier: Apache-2.0
"""The journal: every intent before its deed, torn and damaged files, other boots, newer formats."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvepassthru.host import state
from pvepassthru.host.host import Host
from pvepassthru.lifecycle.journal import Journal
from pvepassthru.model.errors import EndedError, InputError, PassthruError, UnsafeError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "run").mkdir()
    boot = tmp_path / "proc/sys/kernel/random"
    boot.mkdir(parents=True)
    (boot / "boot_id").write_text("one\n")
    made = Host(str(tmp_path))
    state.prepare(made)
    return made


def content(host: Host) -> bytes:
    with open(host.path(state.journal_path(100)), "rb") as file:
        return file.read()


def put(host: Host, data: bytes) -> None:
    with open(host.path(state.journal_path(100)), "wb") as file:
        file.write(data)
    os.chmod(host.path(state.journal_path(100)), 0o600)


def fill(host: Host) -> Journal:
    journal = Journal(host, 100)
    first = journal.intend("mdev", "0000:01:00.0/u", None, "t-1")
    journal.done(first)
    second = journal.intend("vgpu", "0000:02:00.4", "0", "35")
    journal.done(second)
    journal.intend("reserve", "0000:02:00.4", None, "100")
    return journal


def test_what_is_written_is_read_back(host: Host) -> None:
    written = fill(host)
    read = Journal(host, 100)
    assert read.exists
    assert read.steps == written.steps
    assert [step.done for step in read.steps] == [True, True, False]
    assert read.steps[1][:5] == (2, "vgpu", "0000:02:00.4", "0", "35")
    assert os.stat(host.path(read.path)).st_mode & 0o777 == 0o600


def test_every_line_is_json_and_the_first_names_format_and_boot(host: Host) -> None:
    fill(host)
    lines = content(host).splitlines()
    assert json.loads(lines[0]) == {"v": 1, "vmid": 100, "boot": "one"}
    assert all(isinstance(json.loads(line), dict) for line in lines)


def test_no_file_before_the_first_intent(host: Host) -> None:
    journal = Journal(host, 100)
    assert not journal.exists
    assert not os.path.exists(host.path(journal.path))
    assert journal.steps == ()


def test_undone_steps_are_gone_and_numbers_go_on(host: Host) -> None:
    journal = fill(host)
    journal.undone(journal.steps[0], "removed")
    again = Journal(host, 100)
    assert [step.number for step in again.steps] == [2, 3]
    assert again.intend("mdev", "t", None, "x").number == 4


def test_running_is_noted(host: Host) -> None:
    fill(host).note_running()
    assert Journal(host, 100).state == "running"


def test_remove_and_use_again(host: Host) -> None:
    journal = fill(host)
    journal.remove()
    assert not os.path.exists(host.path(journal.path))
    journal.remove()
    assert journal.intend("mdev", "t", None, "x").number == 1
    assert len(Journal(host, 100).steps) == 1


def test_torn_at_every_byte(host: Host) -> None:
    """Cut anywhere, the journal still holds each whole line before the cut, and can be gone on with."""
    fill(host)
    whole = content(host)
    for cut in range(len(whole)):
        put(host, whole[:cut])
        journal = Journal(host, 100)
        assert journal.damaged == []
        wanted = sum(b'"do"' in line for line in whole[:cut].split(b"\n")[:-1])
        assert wanted <= len(journal.steps) <= wanted + 1, cut
        journal.intend("mdev", "more", None, "x")
        after = Journal(host, 100)
        assert after.steps[-1].target == "more", cut
        assert len(after.steps) == len(journal.steps)
        assert len(after.damaged) <= 1, "the torn line now stands in the middle"


def test_damaged_line_is_passed_over_and_told(host: Host) -> None:
    fill(host)
    lines = content(host).split(b"\n")
    lines[2] = b'{"n": 1, "do'
    lines.insert(4, b"[]")
    put(host, b"\n".join(lines))
    journal = Journal(host, 100)
    assert journal.damaged == [3, 5]
    assert len(journal.steps) == 3


def test_other_boot_voids_the_steps(host: Host, tmp_path: Path) -> None:
    fill(host)
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text("two\n")
    journal = Journal(host, 100)
    assert journal.exists
    assert journal.steps == ()


def test_newer_format_is_refused(host: Host) -> None:
    put(host, b'{"v": 2, "vmid": 100, "boot": "one"}\n{"n": 1, "new": 1}\n')
    with pytest.raises(InputError, match="has format 2, this program knows 1; finish with the newer"):
        Journal(host, 100)


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_journal_that_others_can_write_is_not_trusted(host: Host, mode: int) -> None:
    fill(host)
    os.chmod(host.path(state.journal_path(100)), mode)
    with pytest.raises(UnsafeError, match="not trusted"):
        Journal(host, 100)


def test_link_is_not_trusted(host: Host, tmp_path: Path) -> None:
    os.symlink(tmp_path / "x", host.path(state.journal_path(100)))
    with pytest.raises(UnsafeError, match="not trusted"):
        Journal(host, 100)


def test_disk_full(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that cannot be written refuses the deed; a short write counts as full."""
    journal = fill(host)
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[: len(data) // 2]))
    with pytest.raises(PassthruError, match=r"cannot write the journal .*No space left on device; check that /run"):
        journal.intend("mdev", "never", None, "x")
    monkeypatch.undo()
    assert all(step.target != "never" for step in Journal(host, 100).steps)
    journal.intend("mdev", "later", None, "x")
    assert Journal(host, 100).steps[-1].target == "later"


@given(st.binary(max_size=300))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "run").mkdir()
    host = Host(str(folder))
    state.prepare(host)
    put(host, data)
    try:
        Journal(host, 100)
    except PassthruError:
        pass


def test_a_file_that_others_can_write(host: Host) -> None:
    """Its lines may be all that is known of a VM's devices: nobody is told to remove it."""
    fill(host)
    path = state.journal_path(100)
    os.chmod(host.path(path), 0o666)
    with pytest.raises(UnsafeError, match=f"look at its lines, and if they are right: chown root: {path}; chmod 600"):
        Journal(host, 100)


def test_a_signal_when_the_file_is_made(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever undoes all then removes it, though nothing is in it."""

    def ended(_fd: int) -> None:
        raise EndedError("SIGTERM")

    journal = Journal(host, 100)
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", ended)
        with pytest.raises(EndedError):
            journal.intend("mdev", "0000:01:00.0/u", None, "t-1")
    assert journal.exists
    assert journal.steps == ()
    journal.remove()
    assert not host.exists(state.journal_path(100))
