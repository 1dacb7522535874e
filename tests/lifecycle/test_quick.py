# SPDX-License-Identifier: Apache-2.0
"""The hookscript's way in: when a phase has nothing to do, and what it makes of a config that is no plain file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pvepassthru.lifecycle import quick
from tests import tree
from tests.scenarios.world import SCRIPT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONFIG = "etc/pve/qemu-server/100.conf"


def idle(root: Path, source: str = "") -> bool:
    return quick.nothing_to_do(str(root), "100", "pre-start", source)


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"", True),
        (b"memory: 512\n", True),
        (b"memory: 512\nhostpci0: 01:00\n", False),
        (b"x" * 65533 + b"hostpci0: 01:00\n", False),
        (b"x" * 200_000, True),
    ],
    ids=["empty", "without", "with", "across two reads", "long"],
)
def test_config(data: bytes, expected: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter of the test
    tree.put(tmp_path, CONFIG, data)
    assert idle(tmp_path) is expected


def test_config_of_a_migration(tmp_path: Path) -> None:
    tree.put(tmp_path, CONFIG, "memory: 512\n")
    assert not idle(tmp_path, "other")
    tree.put(tmp_path, "etc/pve/nodes/other/qemu-server/100.conf", "memory: 512\n")
    assert idle(tmp_path, "other")
    assert not idle(tmp_path, "a\0b")


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path), lambda path: os.symlink("100.conf", path)],
    ids=["FIFO", "folder", "endless device", "loop"],
)
def test_what_is_no_plain_file_is_a_doubt(make: Callable[[str], None], tmp_path: Path) -> None:
    """A FIFO would make an open wait for ever, and /dev/zero has no end."""
    make(f"{tree.folder(tmp_path, os.path.dirname(CONFIG))}/100.conf")
    assert not idle(tmp_path)


def test_too_large_a_config_is_a_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.put(tmp_path, CONFIG, b"x" * 200_000)
    monkeypatch.setattr(quick, "MAX_CONFIG", 200_000)
    assert idle(tmp_path)
    monkeypatch.setattr(quick, "MAX_CONFIG", 199_999)
    assert not idle(tmp_path)


def test_journal(tmp_path: Path) -> None:
    tree.put(tmp_path, CONFIG, "memory: 512\n")
    assert quick.nothing_to_do(str(tmp_path), "100", "post-stop", "")
    tree.put(tmp_path, "run/pvepassthru/100.journal")
    assert not quick.nothing_to_do(str(tmp_path), "100", "post-stop", "")
    assert not idle(tmp_path)


def test_script_without_its_package(tmp_path: Path) -> None:
    """A copy of the script, for a Python that does not have the package."""
    script = shutil.copy(SCRIPT, tmp_path / "pvepassthru")
    words = [sys.executable, "-I", "-S", script, "100", "pre-start"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={})
    assert done.returncode == 3
    assert done.stderr.startswith(f"pvepassthru: error: the package is not installed for {sys.executable} (")
    assert done.stderr.count("\n") == 1
