# SPDX-License-Identifier: Apache-2.0
"""QEMU's part: a process that looks like a VM's and has its devices open.

On a simulated tree the process is only its traces (proc/PID with cmdline, stat and fd links, the scope's cgroup.procs);
on a real host it is a real process that opens the VFIO groups (qemu_process.py).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from tests.pve.config import PveError
from tests.pve.qemu_server import mdev_uuid
from tests.pve.sysfs import DEVICES, MDEVS

if TYPE_CHECKING:
    from tests.pve.qemu_server import Device
    from tests.pve.sysfs import Sysfs

KVM = "/usr/bin/kvm"
SLICE = "/sys/fs/cgroup/qemu.slice"
PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


PROGRAM = f"import sys; sys.path.insert(0, {PROJECT!r}); from tests.pve import qemu_process; qemu_process.main()"


class Opening(NamedTuple):
    """A device to open: its name (an address or an mdev's uuid) and its IOMMU group."""

    name: str
    group: str


def openings(sysfs: Sysfs, devices: list[Device], vmid: int) -> list[Opening]:
    """What QEMU opens; on a real host not what no VFIO driver has, such as the vendor vGPU of the test driver."""
    found: list[tuple[str, str | None]] = []
    for device in devices:
        if device.classic_mdev:
            uuid = mdev_uuid(device.index, vmid)
            found.append((uuid, sysfs.link(f"{MDEVS}/{uuid}/iommu_group")))
        else:
            found += [(name, sysfs.link(f"{DEVICES}/{name}/iommu_group")) for name in device.ids]
    named = [Opening(name, group) for name, group in found if group]
    return [one for one in named if sysfs.root or os.path.exists(f"/dev/vfio/{one.group}")]


def arguments(vmid: int) -> list[str]:
    """The part of QEMU's command line by which PVE knows a VM's process."""
    return ["-id", str(vmid), "-name", f"vm{vmid}", "-pidfile", f"/var/run/qemu-server/{vmid}.pid", "-daemonize"]


def running_pid(root: str, vmid: int | str) -> int | None:
    """The pid of a VM that runs, as PVE tells it: pid file, command line, and no zombie."""
    first = _read(f"{root}/run/qemu-server/{vmid}.pid").split(b"\n")[0]
    if not first.isdigit():
        return None
    words = _read(f"{root}/proc/{int(first)}/cmdline").split(b"\0")
    if not words[0].endswith(b"kvm") and not os.path.basename(words[0]).startswith(b"qemu-"):
        return None
    files = [words[place + 1] for place, word in enumerate(words[:-1]) if word == b"-pidfile"]
    if not files or files[-1] != f"/var/run/qemu-server/{vmid}.pid".encode():
        return None
    state = _read(f"{root}/proc/{int(first)}/stat").rpartition(b")")[2].split()
    return None if state and state[0] == b"Z" else int(first)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


class SimulatedQemus:
    """The QEMU processes of a simulated tree."""

    def __init__(self, root: str) -> None:
        self.root = root

    def start(self, vmid: int, devices: list[Opening]) -> int:
        """Start QEMU; returns its pid. Raises PveError("qemu-failed") when another process has a group open."""
        groups = list(dict.fromkeys(device.group for device in devices))
        for group in groups:
            if holder := self._holder(f"/dev/vfio/{group}"):
                raise PveError("qemu-failed", f"/dev/vfio/{group} is open in process {holder}")
        os.makedirs(f"{self.root}/proc", exist_ok=True)
        pid = 1_000_000 + time.time_ns() // 1000 % 3_000_000  # as on a real host, not that of the last one
        while True:
            try:
                os.mkdir(f"{self.root}/proc/{pid}")
                break
            except FileExistsError:
                pid += 1
        folder = f"{self.root}/proc/{pid}"
        _write(f"{folder}/comm", "kvm\n")
        _write(f"{folder}/stat", f"{pid} (kvm) S 1 {pid} {pid} 0 -1\n")
        os.mkdir(f"{folder}/fd")
        for number, node in enumerate(["vfio", *groups], 20):
            os.symlink(f"/dev/vfio/{node}", f"{folder}/fd/{number}")
        _write(f"{folder}/cmdline", "".join(f"{word}\0" for word in [KVM, *arguments(vmid)]))
        _write(f"{self.root}{SLICE}/{vmid}.scope/cgroup.procs", f"{pid}\n")
        _write(f"{self.root}/run/qemu-server/{vmid}.pid", f"{pid}\n")
        return pid

    def _holder(self, node: str) -> str | None:
        """The first process with this device node open; the container /dev/vfio/vfio is everybody's."""
        proc = f"{self.root}/proc"
        for pid in os.listdir(proc) if os.path.isdir(proc) else ():
            folder = f"{proc}/{pid}/fd"
            for name in os.listdir(folder) if os.path.isdir(folder) else ():
                if os.readlink(f"{folder}/{name}") == node:
                    return pid
        return None

    def end(self, vmid: int, pid: int) -> None:
        """The process ends: its files close first, then it is gone with its scope."""
        shutil.rmtree(f"{self.root}/proc/{pid}/fd", ignore_errors=True)
        shutil.rmtree(f"{self.root}/proc/{pid}", ignore_errors=True)
        shutil.rmtree(f"{self.root}{SLICE}/{vmid}.scope", ignore_errors=True)


class RealQemus:
    """Real processes that open real VFIO groups; needs root."""

    def __init__(self) -> None:
        self.children: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, vmid: int, devices: list[Opening]) -> int:
        """Start QEMU; returns its pid. Raises PveError("qemu-failed") when it cannot open a device."""
        words = [f"{device.name}={device.group}" for device in devices]
        child = subprocess.Popen(
            [KVM, "-I", "-S", "-c", PROGRAM, *arguments(vmid), "--open", *words],
            executable=sys.executable,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
        )
        if child.stdout is None:
            raise AssertionError("the pipe was asked for")
        answer = child.stdout.readline()
        if answer != b"ready\n":
            rest = child.stdout.read()
            child.stdout.close()
            child.wait()
            raise PveError("qemu-failed", (answer + rest).decode(errors="replace").strip())
        child.stdout.close()
        self.children[child.pid] = child
        if os.path.exists("/sys/fs/cgroup/cgroup.procs"):
            os.makedirs(f"{SLICE}/{vmid}.scope", exist_ok=True)
            _write(f"{SLICE}/{vmid}.scope/cgroup.procs", str(child.pid))
        _write(f"/run/qemu-server/{vmid}.pid", f"{child.pid}\n")
        return child.pid

    def end(self, vmid: int, pid: int) -> None:
        """Kill the process and wait until it is gone."""
        child = self.children.pop(pid, None)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        if child is not None:
            child.wait()
        end = time.monotonic() + 10
        while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
            time.sleep(0.01)
        try:
            os.rmdir(f"{SLICE}/{vmid}.scope")
        except OSError:
            pass
