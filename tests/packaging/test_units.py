# SPDX-License-Identifier: Apache-2.0
"""The systemd units that are shipped: systemd takes them, and they run what exists, when and with what it needs."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pvepassthru.cli.main import build_parser
from pvepassthru.lifecycle import recover

FOLDER = Path(__file__).resolve().parent.parent.parent / "packaging" / "systemd"
RECOVER, TIMER = "pvepassthru-recover.service", "pvepassthru-recover.timer"
SRIOV = "pvepassthru-sriov.service"
METRICS, METRICS_TIMER = "pvepassthru-metrics.service", "pvepassthru-metrics.timer"
CLOSING = ("PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock")
"""These leave a unit no device nodes but the harmless ones; ProtectClock= implies DeviceAllow= (systemd.exec(5))."""


def unit(name: str) -> configparser.ConfigParser:
    """A unit of ours; of conditions that it has more than once only the last is seen."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys of units have capitals
    parser.read_string((FOLDER / name).read_text(encoding="ascii"))
    return parser


# ---- systemd takes them


def verify(folder: Path, name: str) -> str:
    """What systemd has to say of a unit in this folder."""
    if shutil.which("systemd-analyze") is None:
        reason = "systemd-analyze is not here: apt-get install systemd"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(folder / name)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The units, with a program that this machine has: it has no pvepassthru in /usr/bin."""
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="ascii").replace("ExecStart=/usr/bin/pvepassthru ", "ExecStart=/bin/true ")
        (tmp_path / path.name).write_text(text, encoding="ascii")
    return tmp_path


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir()))
def test_systemd_takes_it(name: str, folder: Path) -> None:
    assert not verify(folder, name)


@pytest.mark.parametrize("name", [RECOVER, SRIOV, METRICS])
def test_systemd_would_complain(name: str, folder: Path) -> None:
    """Else the test above could not fail."""
    path = folder / name
    path.write_text(path.read_text(encoding="ascii").replace("ProtectHostname", "ProtectHostnames"), encoding="ascii")
    assert "ProtectHostnames" in verify(folder, name)


# ---- what they may do


@pytest.mark.parametrize("name", [RECOVER, SRIOV])
def test_devices_modules_and_sys_stay_open(name: str) -> None:
    """ProtectSystem=strict leaves /sys alone, ProtectKernelTunables would not."""
    closed = {*CLOSING, "ProtectKernelTunables", "ProtectKernelModules", "PrivateNetwork"}
    assert not closed & set(unit(name)["Service"])


def test_metrics_reads_and_writes_one_file() -> None:
    """ProtectKernelModules= would hide the lists of modules; ProtectProc= other users' processes."""
    service = unit(METRICS)["Service"]
    assert not {*CLOSING, "ProtectKernelModules", "PrivateNetwork", "ProtectProc"} & set(service)
    folder = "/var/lib/prometheus/node-exporter"
    assert (service["ProtectSystem"], service["ProtectKernelTunables"]) == ("strict", "yes")
    assert service["ReadWritePaths"] == folder
    assert os.path.dirname(service["ExecStart"].split()[-1]) == folder
    assert unit(METRICS)["Unit"]["ConditionPathIsDirectory"] == folder
    assert {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE"} <= set(service["CapabilityBoundingSet"].split())
    assert not {"CAP_SYS_RAWIO", "CAP_CHOWN", "CAP_KILL"} & set(service["CapabilityBoundingSet"].split())
    recover_has = {key for key, value in unit(RECOVER)["Service"].items() if value == "yes"}
    assert recover_has <= {key for key, value in service.items() if value == "yes"}, "hardened no less"


def test_recover_may_do_what_it_does() -> None:
    """PVE's locks lie in /run/lock, and it looks at other users' processes."""
    service = unit(RECOVER)["Service"]
    assert "/run" in service["ReadWritePaths"].split()
    assert "ProtectProc" not in service
    assert {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE"} <= set(service["CapabilityBoundingSet"].split())


# ---- what they run, and when


def test_recover_runs_a_command_that_there_is() -> None:
    program, *words = unit(RECOVER)["Service"]["ExecStart"].split()
    assert program == "/usr/bin/pvepassthru"
    args = build_parser().parse_args(words)
    assert (args.command, args.quiet, args.vmid) == ("recover", True, None)
    assert args.limit + recover.MOST < 5 * 60, "TimeoutStartSec"
    assert unit(RECOVER)["Service"]["TimeoutStartSec"] == "5min"


def test_when_recover_runs() -> None:
    timer = unit(TIMER)["Timer"]
    assert (timer["OnBootSec"], timer["OnUnitActiveSec"]) == ("2min", "5min")


def test_metrics_runs_a_command_that_there_is() -> None:
    program, *words = unit(METRICS)["Service"]["ExecStart"].split()
    assert program == "/usr/bin/pvepassthru"
    args = build_parser().parse_args(words)
    assert (args.command, args.output.endswith(".prom")) == ("metrics", True)


def test_metrics_has_a_timer_that_nobody_enabled() -> None:
    """A unit without [Install] starts only by its timer, and that only once somebody enables it."""
    timer = unit(METRICS_TIMER)
    assert (timer["Timer"]["OnUnitActiveSec"], timer["Install"]["WantedBy"]) == ("5min", "timers.target")
    assert "Install" not in unit(METRICS)
    assert unit(METRICS)["Service"]["TimeoutStartSec"] == "2min"


def test_sriov_runs_a_command_that_there_is() -> None:
    program, *words = unit(SRIOV)["Service"]["ExecStart"].split()
    assert program == "/usr/bin/pvepassthru"
    assert build_parser().parse_args(words).action == "apply"


def test_the_vfs_are_there_before_any_vm_starts() -> None:
    when = unit(SRIOV)["Unit"]
    assert {"pve-ha-lrm.service", "pve-guests.service"} <= set(when["Before"].split())
    after = set(when["After"].split())
    assert {"pve-cluster.service", "systemd-modules-load.service", "networking.service"} <= after
    assert "systemd-udev-settle.service" not in after
    service = unit(SRIOV)["Service"]
    assert (service["Type"], service["RemainAfterExit"]) == ("oneshot", "yes")


def test_how_to_install_them_by_hand_is_told() -> None:
    root = FOLDER.parent.parent
    text = (root / "packaging" / "README.md").read_text("utf-8")
    assert "install -m 644 packaging/systemd/pvepassthru-* /etc/systemd/system/" in text
    assert {path.name.partition("-")[0] for path in FOLDER.iterdir()} == {"pvepassthru"}
    for name in (TIMER, SRIOV, METRICS_TIMER):
        assert name in text
        assert name in (root / "docs" / "guide" / "install.md").read_text("utf-8")
