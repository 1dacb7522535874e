# SPDX-License-Identifier: Apache-2.0
"""The systemd units of packaging/systemd: systemd itself takes them, and they run what there is."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pvepassthru.cli.main import build_parser
from pvepassthru.lifecycle import recover

UNITS = Path(__file__).resolve().parent.parent / "packaging" / "systemd"
SERVICE, TIMER = "pvepassthru-recover.service", "pvepassthru-recover.timer"


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys of units have capitals
    parser.read_string((UNITS / name).read_text(encoding="ascii"))
    return parser


def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        reason = "systemd-analyze is not here: apt-get install systemd"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def verify(folder: Path, name: str) -> str:
    """What systemd has to say of a unit in this folder, where the command is one that this machine has.

    It looks for manual pages that the unit names, too.
    """
    command = [analyze(), "verify", "--recursive-errors=no", str(folder / name)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path in UNITS.iterdir():
        text = path.read_text(encoding="ascii").replace("ExecStart=/usr/bin/pvepassthru ", "ExecStart=/bin/true ")
        (tmp_path / path.name).write_text(text, encoding="ascii")
    return tmp_path


@pytest.mark.parametrize("name", [SERVICE, TIMER])
def test_systemd_takes_it(name: str, folder: Path) -> None:
    assert not verify(folder, name)


def test_systemd_would_complain(folder: Path) -> None:
    """Else the test above could not fail."""
    path = folder / SERVICE
    path.write_text(path.read_text(encoding="ascii").replace("ProtectClock", "ProtectClocks"), encoding="ascii")
    assert "ProtectClocks" in verify(folder, SERVICE)


def test_it_runs_a_command_that_there_is() -> None:
    program, *words = unit(SERVICE)["Service"]["ExecStart"].split()
    assert program == "/usr/bin/pvepassthru"
    args = build_parser().parse_args(words)
    assert (args.command, args.quiet, args.vmid) == ("recover", True, None)
    assert args.limit + recover.MOST < 5 * 60, "TimeoutStartSec"
    assert unit(SERVICE)["Service"]["TimeoutStartSec"] == "5min"


def test_times() -> None:
    timer = unit(TIMER)["Timer"]
    assert (timer["OnBootSec"], timer["OnUnitActiveSec"]) == ("2min", "5min")


def test_it_may_write_what_recover_writes() -> None:
    """ProtectSystem=strict leaves /sys alone, ProtectKernelTunables would not; PVE's locks lie in /run/lock."""
    service = unit(SERVICE)["Service"]
    assert "/run" in service["ReadWritePaths"].split()
    for key in ("ProtectKernelTunables", "PrivateNetwork", "PrivateDevices", "ProtectProc", "ProtectKernelModules"):
        assert key not in service
    assert {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE"} <= set(service["CapabilityBoundingSet"].split())
