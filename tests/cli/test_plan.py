# SPDX-License-Identifier: Apache-2.0
"""The command `plan`: which config it takes, and what it says of one that is none."""

from __future__ import annotations

import errno
import os
import tempfile
from typing import TYPE_CHECKING

import pytest

from pvepassthru.cli import plan, words
from pvepassthru.cli.main import main
from tests import tree
from tests.host.machine import memory_folder, unprivileged

if TYPE_CHECKING:
    from pathlib import Path

GONE = "hostpci0: 0000:0f:00.0\n"


def test_migrated_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a migration's target the config is still under the source node, as for the hook."""
    root = tree.build(tmp_path)
    tree.put(tmp_path, "etc/pve/nodes/other/qemu-server/100.conf", f"memory: 512\n[PENDING]\n{GONE}")
    assert main(["--root", root, "plan", "100"]) == 3
    assert "there is no VM 100 on node pve" in capsys.readouterr().err
    monkeypatch.setenv("PVE_MIGRATED_FROM", "other")
    assert main(["--root", root, "plan", "100"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    monkeypatch.setenv("PVE_MIGRATED_FROM", "../other")
    assert main(["--root", root, "plan", "100"]) == 2


def test_pending_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """PVE applies them before the next start, which is what is planned."""
    root = tree.build(tmp_path, configs={100: f"memory: 512\n[PENDING]\n{GONE}"})
    assert main(["--root", root, "plan", "100"]) == 5
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading == "pre-start of VM 100 would say, on node pve (it ran on a copy; nothing is changed):"
    assert "PVP201" in lines[-1]


def test_journals_that_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    """A plan without them would say that there is nothing to undo."""
    with memory_folder() as folder:
        os.chmod(folder, 0o755)
        root = tree.build(folder, configs={100: "memory: 512\n"})
        os.chmod(tree.folder(folder, "run/pvepassthru"), 0o000)
        with unprivileged():
            assert main(["--root", root, "plan", "100", "post-stop"]) == 5
    assert "cannot read /run/pvepassthru: Permission denied; run this as root" in capsys.readouterr().err


def test_config_that_is_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tree.build(tmp_path)
    tree.folder(tmp_path, "etc/pve/nodes/pve/qemu-server/100.conf")
    assert main(["--root", root, "plan", "100"]) == 4
    err = capsys.readouterr().err
    assert "cannot read the config of VM 100" in err
    assert "Is a directory" in err


@pytest.mark.parametrize("command", [["plan", "100"], ["demo"]], ids=["plan", "demo"])
@pytest.mark.parametrize("memory", ["read-only", "absent"])
def test_memory_that_cannot_be_written(
    memory: str, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then the files lie where temporary files go."""
    with memory_folder() as folder:
        os.chmod(folder, 0o755)
        root = tree.build(folder, configs={100: "memory: 512\n"})
        os.chmod(tree.folder(folder, "read-only"), 0o555)
        monkeypatch.setattr(words, "MEMORY", f"{folder}/{memory}")
        with unprivileged():
            assert main(["--root", root, *command]) == 0
    assert capsys.readouterr().err == ""


def test_no_place_for_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tree.build(tmp_path, configs={100: "memory: 512\n"})
    monkeypatch.setattr(words, "MEMORY", f"{tmp_path}/absent")
    monkeypatch.setattr(tempfile, "tempdir", f"{tmp_path}/absent")
    assert main(["--root", root, "plan", "100"]) == 5
    err = capsys.readouterr().err
    assert err.startswith("pvepassthru: cannot make a temporary folder: No such file or directory; ")


def test_no_room_for_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **_named: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    root = tree.build(tmp_path, configs={100: "memory: 512\n"})
    monkeypatch.setattr(plan, "capture", full)
    assert main(["--root", root, "plan", "100"]) == 5
    err = capsys.readouterr().err
    assert err.startswith("pvepassthru: cannot copy the host's files to ")
    assert err.endswith(": No space left on device; see that its file system has room\n")
