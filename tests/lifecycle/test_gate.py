# SPDX-License-Identifier: Apache-2.0
"""The policy's gate: what it lets pass, and what it never does."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pvepassthru.cli.main import main
from tests import tree

if TYPE_CHECKING:
    from pathlib import Path

DISK = "0000:03:00.0"
SILENCE = f"silence: [{{code: PVP240, vm: 105, device: {DISK}, reason: a test}}]\n"


@pytest.fixture
def root(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> str:
    folder = str(tmp_path / "host")
    assert main(["demo", "--keep", folder]) == 0
    capfd.readouterr()
    return folder


def put(root: str, text: str) -> None:
    os.chmod(tree.put(root, "etc/pvepassthru.yaml", text), 0o600)


def driver(root: str) -> str:
    return os.path.basename(os.readlink(f"{root}/sys/bus/pci/devices/{DISK}/driver"))


@pytest.mark.parametrize("gate", ["enforce", "warn", "off"])
@pytest.mark.parametrize("section", ["defaults", "vms"])
def test_no_gate_gives_the_root_disk_away(
    root: str, gate: str, section: str, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = f"{{gate: {gate}}}"
    put(root, f"defaults: {settings}\n" if section == "defaults" else f"vms: {{105: {settings}}}\n")
    assert main(["--root", root, "--node", "demo", "hook", "105", "pre-start"]) == 5
    assert "PVP240" in capfd.readouterr().err
    assert driver(root) == "nvme"


def test_the_owner_can_silence_it_for_one_device(root: str, capfd: pytest.CaptureFixture[str]) -> None:
    put(root, f"defaults: {{gate: off}}\n{SILENCE}")
    assert main(["--root", root, "--node", "demo", "hook", "105", "pre-start"]) == 0
    assert "(silenced by the policy: a test)" in capfd.readouterr().err
    assert driver(root) == "vfio-pci"
