# SPDX-License-Identifier: Apache-2.0
"""A hookscript that writes down what it was called with and what the host looked like: one JSON line a run.

It fails in the phases that the file `fail` of its folder names, and sleeps where the file `sleep` does.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time


def read(path: str) -> str | None:
    """The text of a file, or None."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return None


def is_locked(path: str) -> bool:
    """Whether somebody holds this flock."""
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def main() -> None:
    """Record one run."""
    folder = os.path.dirname(os.path.abspath(__file__))
    root = os.environ.get("PVEPASSTHRU_ROOT", "")
    _, vmid, phase = sys.argv
    mdevs = f"{root}/sys/bus/mdev/devices"
    record = {
        "vmid": vmid,
        "phase": phase,
        "cwd": os.getcwd(),
        "stdin": sys.stdin.read(),
        "environment": dict(os.environ),
        "locked": is_locked(f"{root}/var/lock/qemu-server/lock-{vmid}.conf"),
        "pid_file": read(f"{root}/run/qemu-server/{vmid}.pid"),
        "config": read(f"{root}/etc/pve/qemu-server/{vmid}.conf"),
        "reservations": read(f"{root}/run/qemu-server/pci-id-reservations"),
        "scope": read(f"{root}/sys/fs/cgroup/qemu.slice/{vmid}.scope/cgroup.procs"),
        "mdevs": sorted(os.listdir(mdevs)) if os.path.isdir(mdevs) else [],
    }
    with open(f"{folder}/runs", "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    os.write(1, f"out {phase}\n".encode())
    os.write(2, f"err {phase}\n".encode())
    if phase in (read(f"{folder}/sleep") or "").split():
        time.sleep(60)
    if phase in (read(f"{folder}/fail") or "").split():
        sys.exit(3)


if __name__ == "__main__":
    main()
