# SPDX-License-Identifier: Apache-2.0
"""The systemd units that are shipped: systemd takes them, and they run what exists, when it must run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pvepassthru.cli.main import build_parser

FOLDER = Path(__file__).resolve().parent.parent.parent / "packaging" / "systemd"
SRIOV = FOLDER / "pvepassthru-sriov.service"


def settings(path: Path, section: str, name: str) -> list[str]:
    """The words of all lines that set `name`, in their order."""
    found: list[str] = []
    inside = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            inside = line.strip("[]")
        key, equals, value = line.partition("=")
        if inside == section and equals and key == name:
            found += value.split()
    return found


def keys() -> set[str]:
    return {line.partition("=")[0] for line in SRIOV.read_text(encoding="utf-8").splitlines()}


def test_the_vfs_are_there_before_any_vm_starts() -> None:
    assert {"pve-ha-lrm.service", "pve-guests.service"} <= set(settings(SRIOV, "Unit", "Before"))
    after = set(settings(SRIOV, "Unit", "After"))
    assert {"pve-cluster.service", "systemd-modules-load.service", "networking.service"} <= after
    assert "systemd-udev-settle.service" not in after
    assert settings(SRIOV, "Service", "Type") == ["oneshot"]
    assert settings(SRIOV, "Service", "RemainAfterExit") == ["yes"]


def test_sys_can_be_written() -> None:
    assert not {"ProtectKernelTunables", "PrivateNetwork"} & keys()


def test_devices_and_modules_stay_as_they_are() -> None:
    """ProtectClock= implies DeviceAllow=, which closes all device nodes but its own (systemd.exec(5))."""
    assert not {"PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock", "ProtectKernelModules"} & keys()


def test_what_it_runs_is_a_command() -> None:
    program, *words = settings(SRIOV, "Service", "ExecStart")
    assert program == "/usr/bin/pvepassthru"
    assert build_parser().parse_args(words).action == "apply"


def test_how_to_install_them_is_told_the_same_way_twice() -> None:
    """README.md and packaging/README.md have the same commands, and these name all units."""
    root = FOLDER.parent.parent
    commands = ["\n".join(part.splitlines()[1:]) for part in (root / "README.md").read_text("utf-8").split("```")]
    (units,) = [part for part in commands if part.startswith("install -m 644 packaging/systemd/")]
    assert units in (root / "packaging" / "README.md").read_text("utf-8")
    assert {path.name.partition("-")[0] for path in FOLDER.iterdir()} == {"pvepassthru"}


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """systemd-analyze says nothing of it; the program, which is not installed here, is one that is."""
    if shutil.which("systemd-analyze") is None:
        reason = "systemd-analyze is not installed: apt-get install systemd"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    unit = tmp_path / SRIOV.name
    text = SRIOV.read_text(encoding="utf-8")
    assert "ExecStart=/usr/bin/pvepassthru " in text
    unit.write_text(text.replace("ExecStart=/usr/bin/pvepassthru ", "ExecStart=/usr/bin/env "), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", str(unit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
    unit.write_text(text.replace("RemainAfterExit=yes", "RemainAfterExit=perhaps"), encoding="utf-8")
    bad = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], stderr=subprocess.PIPE, text=True, check=False
    )
    assert "perhaps" in bad.stderr
