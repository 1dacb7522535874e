# SPDX-License-Identifier: Apache-2.0
"""systemd's units of a host, asked and told through systemctl.

A simulated host has the state of its units in files, DIR/.sim/units/UNIT: `active` or `inactive`, behind it perhaps the
pid of a process below DIR/proc that ends with the unit, or the word `stuck` for one that does not stop. Programs of
another tree than the host's own are never run.
"""

from __future__ import annotations

import os
import time

from pvepassthru.model.errors import DeviceError
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from pvepassthru.host.host import Host
    from pvepassthru.host.locks import Lock

PROGRAM = "/usr/bin/systemctl"
RUNNING = frozenset({"active", "activating", "reloading", "refreshing"})
"""States (systemctl is-active) of a unit that has processes, or is about to."""
ANSWER = 10.0
"""Seconds for systemd to answer what needs no job to be waited for."""
SIMULATED = "/.sim/units"


def is_running(host: Host, unit: str) -> bool:
    """Whether a unit runs; one that is not there does not. Raises DeviceError when systemd does not answer."""
    if host.simulated:
        text = host.text(f"{SIMULATED}/{unit}")
        if text is None and host.copy_of is not None:
            return is_running(host.copy_of, unit)
        return (text or "").partition(" ")[0] in RUNNING
    return _systemctl(host, ("is-active", unit), ANSWER)[1].strip() in RUNNING


def stop(host: Host, unit: str, seconds: float, lock: Lock) -> None:
    """Stop a unit and wait for it. Raises DeviceError when that fails or takes longer than so many seconds.

    systemctl keeps `lock` as long as it runs: it outlives a caller that is killed.
    """
    if host.simulated:
        _simulate_stop(host, unit, seconds)
        return
    code, words = _systemctl(host, ("stop", unit), seconds, (lock.fd,))
    if code:
        raise DeviceError(f"cannot stop {unit}: {words}", f"see systemctl status {unit}")


def start(host: Host, unit: str) -> None:
    """Have systemd start a unit, without waiting for it. Raises DeviceError when systemd refuses."""
    if host.simulated:
        _simulate(host, unit, "active")
        return
    code, words = _systemctl(host, ("start", "--no-block", unit), ANSWER)
    if code:
        raise DeviceError(f"cannot start {unit}: {words}", f"systemctl start {unit}")


def _systemctl(host: Host, words: tuple[str, ...], seconds: float, keep: tuple[int, ...] = ()) -> tuple[int, str]:
    """Run systemctl: its exit code with its last line of output, or that code in words. Raises DeviceError."""
    from pvepassthru.host import programs  # noqa: PLC0415 - only VMs with services in their policy pay for it

    done = programs.run(host, (PROGRAM, "--no-ask-password", *words), seconds, keep)
    if done.code is None:
        raise DeviceError(f"cannot run systemctl {' '.join(words)}: {done.words}", f"see systemctl status {words[-1]}")
    lines = f"{done.stdout}\n{done.words}".split("\n")
    return done.code, next((line for line in reversed(lines) if line.strip()), f"exit code {done.code}")


def _simulate_stop(host: Host, unit: str, seconds: float) -> None:
    _, _, more = (host.text(f"{SIMULATED}/{unit}") or "").partition(" ")
    if more == "stuck":
        time.sleep(seconds)
        raise DeviceError(f"systemctl stop {unit} has not ended within {seconds:.0f} s", f"see systemctl status {unit}")
    if more:
        import shutil  # noqa: PLC0415 - simulated hosts only

        shutil.rmtree(host.path(f"/proc/{more}"), ignore_errors=True)
    _simulate(host, unit, "inactive")


def _simulate(host: Host, unit: str, state: str) -> None:
    folder = host.path(SIMULATED)
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/{unit}", "w", encoding="ascii") as file:
        file.write(state + "\n")
