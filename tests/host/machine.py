# SPDX-License-Identifier: Apache-2.0
"""A small machine for tests of the simulated kernel, in both layouts that trees have.

01:00.0 and 01:00.1 share a slot and a group, 02:00.0 is a PF with up to 4 VFs, 03:00.0 and 04:00.0 are mdev parents of
4 units each, 05:00.0 is a NIC, 06:00.0 a bridge with 07:01.0 and 07:02.0 behind it in one group.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import time
from typing import TYPE_CHECKING

from pvepassthru.host.sim import SimHost
from pvepassthru.host.sim_settings import tbmdev_settings
from tests import tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PCI, DRIVERS, MDEVS = "/sys/bus/pci/devices", "/sys/bus/pci/drivers", "/sys/bus/mdev/devices"
PROBE, RESCAN = "/sys/bus/pci/drivers_probe", "/sys/bus/pci/rescan"
GPU, AUDIO, PF, PARENT, OTHER, NIC = (
    *("0000:01:00.0", "0000:01:00.1", "0000:02:00.0"),
    *("0000:03:00.0", "0000:04:00.0", "0000:05:00.0"),
)
BRIDGE, BEHIND, BESIDE = "0000:06:00.0", "0000:07:01.0", "0000:07:02.0"
VFS = tuple(f"0000:02:00.{function}" for function in range(1, 5))
UUIDS = tuple(f"{index:08d}-0000-0000-0000-000000000100" for index in range(8))
SRIOV = {
    "sriov_totalvfs": "4\n",
    "sriov_numvfs": "0\n",
    "sriov_offset": "1\n",
    "sriov_stride": "1\n",
    "sriov_vf_device": "10\n",
    "sriov_drivers_autoprobe": "1\n",
}
MACHINE: dict[str, tuple[str, str, str, str, int, str | None, str | None]] = {
    # address: bridges above, vendor, device, class, group, driver, reset methods
    GPU: ("0000:00:04.0", "0x1234", "0x1111", "0x038000", 10, "bochs", "bus"),
    AUDIO: ("0000:00:04.0", "0x8086", "0x2668", "0x040300", 10, None, None),
    PF: ("0000:00:04.1", "0x1b36", "0x0010", "0x010802", 11, "nvme", "flr bus"),
    PARENT: ("0000:00:04.2", "0x1234", "0x11e8", "0x00ff00", 12, "tbmdev", "bus"),
    OTHER: ("0000:00:04.3", "0x1234", "0x11e8", "0x00ff00", 13, "tbmdev", "bus"),
    NIC: ("0000:00:04.4", "0x8086", "0x10d3", "0x020000", 14, "e1000e", "pm bus"),
    BRIDGE: ("0000:00:04.5", "0x1b36", "0x000e", "0x060400", 15, None, "pm bus"),
    BEHIND: ("0000:00:04.5/0000:06:00.0", "0x1234", "0x11e9", "0x00ff00", 15, None, "bus"),
    BESIDE: ("0000:00:04.5/0000:06:00.0", "0x8086", "0x100e", "0x020000", 15, "e1000", None),
}


SHARED_MEMORY = "/dev/shm"


@contextlib.contextmanager
def memory_folder() -> Iterator[str]:
    """A temporary folder, in memory where that is to be had: on a disk these trees take ten times as long."""
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None) as folder:
        yield folder


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Run a `with` block as a user whom file modes bind; root becomes nobody for as long."""
    own = os.geteuid()
    if own == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(own)


def build(root: str | Path, *, nested: bool) -> SimHost:
    """Make the machine's tree; `nested` with folders below sys/devices and links to them, as a real sysfs has."""
    tree.folder(root, "sys/class/iommu/dmar0")
    for name in ("vfio-pci", "e1000"):
        tree.driver(root, name)
    for address, (_, vendor, device, kind, group, driver, methods) in MACHINE.items():
        values = {"vendor": vendor, "device": device, "class": kind, "iommu_group": group}
        files = {"reset_method": f"{methods}\n"} if methods else {}
        if address == PF:
            files.update(SRIOV)
        extra = {"driver": driver} if driver else {}
        tree.add_device(root, address, {**values, **extra, "files": files, "reset": methods is not None})
    if nested:
        for address, (above, *_) in MACHINE.items():
            _nest(root, address, f"sys/devices/pci0000:00/{above}/{address}")
    host = SimHost(str(root))
    host.configure(tbmdev_settings())
    return host


def _nest(root: str | Path, address: str, real: str) -> None:
    """Move a function's folder to where the kernel has it, and lead the links there."""
    plain = os.path.join(root, f"sys/bus/pci/devices/{address}")
    links = {name: os.path.realpath(os.path.join(plain, name)) for name in os.listdir(plain)}
    links = {name: target for name, target in links.items() if os.path.islink(os.path.join(plain, name))}
    os.makedirs(os.path.join(root, os.path.dirname(real)), exist_ok=True)
    os.rename(plain, os.path.join(root, real))
    tree.link(root, f"sys/bus/pci/devices/{address}", real)
    for name, target in links.items():
        tree.link(root, f"{real}/{name}", target.removeprefix(str(root)))
        if name in {"driver", "iommu_group"}:
            tree.link(root, f"{target.removeprefix(str(root))}/{'devices/' * (name != 'driver')}{address}", real)


def attempt(host: SimHost, path: str, value: str) -> str:
    """The outcome of a write: ok, or the name of its errno."""
    try:
        host.write(path, value)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


def create(host: SimHost, uuid: str, kind: str = "tbmdev-1", parent: str = PARENT) -> str:
    return attempt(host, f"{PCI}/{parent}/mdev_supported_types/{kind}/create", uuid)


def remove(host: SimHost, uuid: str) -> str:
    return attempt(host, f"{MDEVS}/{uuid}/remove", "1")


def available(host: SimHost, parent: str = PARENT) -> list[str | None]:
    path = f"{PCI}/{parent}/mdev_supported_types"
    return [host.text(f"{path}/tbmdev-{units}/available_instances") for units in (1, 2, 4)]


def driver(host: SimHost, address: str) -> str | None:
    return host.link(f"{PCI}/{address}/driver")


def unbind(host: SimHost, address: str) -> str:
    return attempt(host, f"{DRIVERS}/{driver(host, address)}/unbind", address)


def take(host: SimHost, address: str, name: str) -> None:
    """Bind a function to a driver by driver_override."""
    if driver(host, address):
        assert unbind(host, address) == "ok"
    host.write(f"{PCI}/{address}/driver_override", name)
    host.write(PROBE, address)
    assert driver(host, address) == name


@contextlib.contextmanager
def opened(host: SimHost, folder: str, pid: int = 4711) -> Iterator[None]:
    """Have a process hold a function or instance (its folder) open."""
    link = f"{host.root}/proc/{pid}/fd/9"
    os.makedirs(os.path.dirname(link), exist_ok=True)
    os.symlink(f"/dev/vfio/{host.link(f'{folder}/iommu_group')}", link)
    try:
        yield
    finally:
        os.unlink(link)


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


class Child:
    """A write in a process of its own; `outcome` waits for it and returns what it was."""

    def __init__(self, host: SimHost, path: str, value: str) -> None:
        self._reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.write(writer, attempt(host, path, value).encode())
            finally:
                os._exit(0)
        os.close(writer)

    def running(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def outcome(self) -> str:
        with os.fdopen(self._reader) as reader:
            seen = reader.read()
        os.waitpid(self.pid, 0)
        return seen


def snapshot(host: SimHost) -> dict[str, str]:
    """Every file, link and folder of the tree but the simulation's own, once all is settled."""
    host.names("/sys")
    found: dict[str, str] = {}
    for folder, folders, files in os.walk(host.root):
        if folder == host.root:
            folders.remove(".sim")
        for name in folders + files:
            path = os.path.join(folder, name)
            here = path.removeprefix(host.root)
            if os.path.islink(path):
                found[here] = f"-> {os.path.realpath(path).removeprefix(os.path.realpath(host.root))}"
            elif os.path.isdir(path):
                found[here] = "/"
            else:
                with open(path, encoding="utf-8") as file:
                    found[here] = file.read()
    return found
