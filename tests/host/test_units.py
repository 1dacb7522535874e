# SPDX-License-Identifier: Apache-2.0
"""systemd's units through systemctl, for which a script stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import locks, units
from pvepassthru.host.deadline import Deadline
from pvepassthru.host.host import Host
from pvepassthru.model.errors import DeviceError

if TYPE_CHECKING:
    from pathlib import Path

    from pvepassthru.host.locks import Lock

UNIT = "desk.service"


@pytest.fixture
def host() -> Host:
    return Host("/")


def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    program = tmp_path / "systemctl"
    program.write_text(f"#!/bin/sh\n{text}\n", encoding="ascii")
    program.chmod(0o700)
    monkeypatch.setattr(units, "PROGRAM", str(program))


@pytest.fixture
def lock(host: Host, tmp_path: Path) -> Lock:
    return locks.take(host, str(tmp_path / "unit.lock"), Deadline(1), UNIT)


def test_is_running(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, monkeypatch, f'test "$*" = "--no-ask-password is-active {UNIT}" && echo activating')
    assert units.is_running(host, UNIT)
    script(tmp_path, monkeypatch, "echo inactive; exit 3")
    assert not units.is_running(host, UNIT)


def test_what_systemd_refuses(host: Host, lock: Lock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, monkeypatch, "echo Failed to stop: Access denied >&2; exit 4")
    with pytest.raises(DeviceError, match=f"^cannot stop {UNIT}: Failed to stop: Access denied"):
        units.stop(host, UNIT, 5, lock)
    script(tmp_path, monkeypatch, "exit 5")
    with pytest.raises(DeviceError, match=f"^cannot start {UNIT}: exit code 5"):
        units.start(host, UNIT)


def test_a_unit_that_does_not_stop(host: Host, lock: Lock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told in time; and systemctl has the lock for as long as it runs."""
    script(tmp_path, monkeypatch, f"ls -l /proc/self/fd > {tmp_path}/open; exec sleep 60")
    with pytest.raises(DeviceError, match=f"cannot run systemctl stop {UNIT}: .* did not end within 1 s"):
        units.stop(host, UNIT, 1, lock)
    assert "unit.lock" in (tmp_path / "open").read_text(encoding="utf-8")
    lock.release()
    locks.take(host, str(tmp_path / "unit.lock"), Deadline(1), UNIT).release()


def test_no_systemd(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "PROGRAM", str(tmp_path / "gone"))
    with pytest.raises(DeviceError, match="cannot be run: No such file"):
        units.is_running(host, UNIT)
