# SPDX-License-Identifier: Apache-2.0
"""The command `hook` ends as the hookscript does."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pvepassthru.cli.main import main
from pvepassthru.lifecycle.quick import PHASES
from tests import tree
from tests.kernel import guest

if TYPE_CHECKING:
    from pathlib import Path

HOOKSCRIPT = os.path.join(guest.PROJECT, "hookscripts/pvepassthru")


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A host whose policy has a mistake."""
    root = tree.build(tmp_path, configs={100: "memory: 512\n", 101: "hostpci0: 0000:0f:00.0\n"})
    tree.put(tmp_path, "etc/pvepassthru.yaml", "defaults: 1\n")
    return root


def hookscript(root: str, vmid: int, phase: str) -> int:
    environment = {**os.environ, "PVEPASSTHRU_ROOT": root}
    command = [sys.executable, HOOKSCRIPT, str(vmid), phase]
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode


@pytest.mark.parametrize("phase", PHASES)
def test_nothing_to_do(phase: str, root: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither the policy nor the state folder matters then."""
    assert main(["--root", root, "hook", "100", phase]) == hookscript(root, 100, phase) == 0
    assert capfd.readouterr() == ("", "")
    assert not os.path.exists(os.path.join(root, "run/pvepassthru"))


def test_something_to_do(root: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", root, "hook", "101", "pre-start"]) == hookscript(root, 101, "pre-start") == 4
    assert "defaults must be a mapping" in capfd.readouterr().err


def test_migrated_from(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.put(root, "etc/pve/nodes/other/qemu-server/100.conf", "hostpci0: 0000:0f:00.0\n")
    monkeypatch.setenv("PVE_MIGRATED_FROM", "other")
    assert main(["--root", root, "hook", "100", "pre-start"]) == 4
