# SPDX-License-Identifier: Apache-2.0
"""The state folder is root's alone, or nothing in it is trusted."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import state
from pvepassthru.host.host import Host
from pvepassthru.model.errors import PassthruError, UnsafeError
from tests import tree
from tests.host.machine import memory_folder, unprivileged

if TYPE_CHECKING:
    from pathlib import Path

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives a file to another user")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "run").mkdir()
    return Host(str(tmp_path))


def test_is_made_private(host: Host) -> None:
    old = os.umask(0)
    try:
        state.prepare(host)
    finally:
        os.umask(old)
    assert os.stat(host.path(state.FOLDER)).st_mode & 0o777 == 0o700
    state.prepare(host)


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o750])
def test_mode_that_others_can_use_is_refused(host: Host, mode: int) -> None:
    state.prepare(host)
    os.chmod(host.path(state.FOLDER), mode)
    for use in (state.prepare, state.check, state.journals):
        with pytest.raises(UnsafeError, match=rf"mode {mode:04o}.*chmod 0700"):
            use(host)


def test_link_and_file_are_refused(host: Host, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    os.symlink(tmp_path / "elsewhere", host.path(state.FOLDER))
    with pytest.raises(UnsafeError, match="not a folder"):
        state.prepare(host)
    os.unlink(host.path(state.FOLDER))
    (tmp_path / "run" / "pvepassthru").write_text("")
    with pytest.raises(UnsafeError, match="not a folder"):
        state.prepare(host)


@ROOT_ONLY
def test_other_owner_is_refused(host: Host) -> None:
    state.prepare(host)
    os.chown(host.path(state.FOLDER), 12345, 0)
    with pytest.raises(UnsafeError, match="belongs to user 12345"):
        state.prepare(host)


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(PassthruError, match="cannot make /run/pvepassthru"):
        state.prepare(Host(str(tmp_path)))
    assert state.journals(Host(str(tmp_path))) == []


def test_journals_are_listed_by_vmid(host: Host) -> None:
    state.prepare(host)
    others = ["100.lock", "x.journal", "300.journal.tmp.7", "0000:01:00.0.lock"]
    no_vmids = ["5.journal", "00100.journal", "1000000000.journal", ".journal", "\u0661\u0660\u0660.journal"]
    for name in ("1000.journal", "200.journal", *others, *no_vmids):
        with open(f"{host.path(state.FOLDER)}/{name}", "w", encoding="ascii"):
            pass
    assert state.journals(host) == [200, 1000]


def test_a_folder_that_cannot_be_listed_is_not_empty() -> None:
    """Else a user without the right to look would be told that nothing is held."""
    with memory_folder() as folder:
        os.chmod(folder, 0o755)
        made = tree.folder(folder, state.FOLDER)
        os.chmod(made, 0o700 if os.geteuid() == 0 else 0)
        sentence = "cannot read /run/pvepassthru: Permission denied; run this as root"
        with unprivileged(), pytest.raises(PassthruError, match=f"^{sentence}$"):
            state.journals(Host(folder))
