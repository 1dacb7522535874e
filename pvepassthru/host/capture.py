# SPDX-License-Identifier: Apache-2.0
"""A copy of what hook, rules and plan read from a host, as a tree for SimHost.

The source is only read, and of sysfs only plain attributes that cost nothing to read. What vanishes meanwhile is left
out, as is what cannot be read.
"""

from __future__ import annotations

import os
import re
import stat

from pvepassthru.host import capture_displays, reservations, users, vms
from pvepassthru.host.host import MAX_FILE
from pvepassthru.host.inventory import DEVICES, MDEVS
from pvepassthru.model.hostpci import ROMS
from pvepassthru.model.pci import is_address, is_uuid
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pvepassthru.host.host import Host
    from pvepassthru.model.record import Protocol

    class Target(Protocol):
        """Where a copy goes: a folder, or an archive (host/archive.py)."""

        def folder(self, path: str) -> None:
            """Make a folder."""

        def put(self, path: str, data: bytes, info: os.stat_result | None = None) -> None:
            """Write a file."""

        def link(self, path: str, text: str) -> None:
            """Make a symbolic link."""

        def own(self, path: str, info: os.stat_result) -> None:
            """Give a file or folder its mode, owner and time."""


DRIVERS = "/sys/bus/pci/drivers"
GROUPS = "/sys/kernel/iommu_groups"
ATTRIBUTES = frozenset(
    (
        *("vendor", "device", "class", "revision", "subsystem_vendor", "subsystem_device", "irq", "boot_vga"),
        *("driver_override", "reset_method", "sriov_totalvfs", "sriov_numvfs", "sriov_offset", "sriov_stride"),
        *("sriov_vf_device", "sriov_drivers_autoprobe", "d3cold_allowed", "resource"),
        *(f"resource{bar}_resize" for bar in range(6)),
    )
)
"""Of a function: files whose text is copied."""
CONTROLS = frozenset({"create", "remove", "reset", "rom"})
"""Files that are empty in the copy, since they can only be written, or cost something to read."""
OPENED = ("/dev/vfio/", *users.NODES)
"""Nodes of devices; who has one open is copied."""
FOLDERS = frozenset({"mdev_supported_types", "nvidia", "pci_bus", "vfio-dev"})
PLAIN = (
    "/etc/pvepassthru.yaml",
    "/etc/pve/pvepassthru.yaml",
    "/etc/pve/mapping/pci.cfg",
    reservations.FILE,
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/random/boot_id",
    "/.sim/settings.json",
    "/.sim/state.json",
    "/.sim/redo.json",
)
ROMFILE = re.compile(rb"romfile=([^,\s]+)")


def capture(host: Host, destination: str, vmids: Iterable[int], *, ended: int | None = None) -> None:
    """Copy a host into the folder `destination`, with the configs of these VMs. Raises OSError where it cannot write.

    Copied are PCI functions, drivers, IOMMU groups, mediated devices; the VMs' configs on all nodes, mappings, policy;
    reservations, running VMs, journals, who has VFIO devices open; the ROM images that the configs name, and of all
    others in /usr/share/kvm the size. The QEMU of the VM `ended` is left out, as if it had ended.
    """
    copy = Copy(host, Folder(destination))
    copy.devices()
    copy.drivers_and_groups()
    capture_displays.displays(copy)
    capture_displays.quarantined(copy)
    copy.configs(set(vmids))
    copy.processes(set(vmids), ended)
    for path in PLAIN:
        copy.file(path)
    copy.tree("/run/pvepassthru")
    copy.tree("/.sim/stash")
    release = copy.source.text("/proc/sys/kernel/osrelease")
    for name in ("modules.dep", "modules.builtin"):
        copy.file(f"/lib/modules/{release}/{name}")
    copy.target.put("/etc/hostname", host.node.encode() + b"\n")


class Folder:
    """A folder that a copy is made in; paths are as on a host."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self._folders: set[str] = set()

    def folder(self, path: str) -> None:
        """Make a folder, with those above it."""
        if path not in self._folders:
            os.makedirs(self.root + path, exist_ok=True)
            self._folders.add(path)

    def put(self, path: str, data: bytes, info: os.stat_result | None = None) -> None:
        """Write a file; with `info` its mode, owner and time."""
        self.folder(path.rpartition("/")[0])
        fd = os.open(self.root + path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
        if info:
            self.own(path, info)

    def link(self, path: str, text: str) -> None:
        """Make a symbolic link with this text, unless there is something of that name."""
        self.folder(path.rpartition("/")[0])
        if not os.path.lexists(self.root + path):
            os.symlink(text, self.root + path)

    def own(self, path: str, info: os.stat_result) -> None:
        """Give a file or folder its mode, owner and time."""
        os.chmod(self.root + path, stat.S_IMODE(info.st_mode))
        try:
            os.chown(self.root + path, info.st_uid, info.st_gid)
        except PermissionError:  # only root may give files away, and only root's plan sees who owns them
            pass
        os.utime(self.root + path, ns=(info.st_atime_ns, info.st_mtime_ns))


def relative(path: str, target: str) -> str:
    """The text of a link at `path` that leads to `target`, both as on a host."""
    return os.path.relpath(target, path.rpartition("/")[0])


class Copy:
    """Copies parts of a host."""

    def __init__(self, host: Host, target: Target) -> None:
        self.source = host
        self.target = target
        self._real: dict[str, str] = {}
        """Folder of each function and mdev instance, all links followed."""

    def folder(self, path: str) -> None:
        """A folder."""
        self.target.folder(path)

    def link(self, path: str, target: str) -> None:
        """A link to `target`, a path as on a host."""
        self.target.link(path, relative(path, target))

    # ---- copying

    def attribute(self, path: str) -> None:
        """Copy a file of sysfs or proc, whose mode and owner do not matter."""
        try:
            data = self.source.read(path)
        except OSError:
            return
        self.target.put(path, data)

    def file(self, path: str, *, with_data: bool = True) -> None:
        """Copy a plain file with its mode and owner, or just as many zero bytes."""
        try:
            info = os.stat(self.source.path(path))
            if not stat.S_ISREG(info.st_mode) and with_data:
                return
            data = self.source.read(path) if with_data else bytes(min(info.st_size, MAX_FILE))
        except OSError:
            return
        self.target.put(path, data, info)

    def tree(self, path: str) -> None:
        """Copy a folder with all in it."""
        try:
            info = os.lstat(self.source.path(path))
        except OSError:
            return
        if stat.S_ISLNK(info.st_mode):
            self.symbolic_link(path)
        elif stat.S_ISDIR(info.st_mode):
            self.folder(path)
            for name in self.source.names(path):
                self.tree(f"{path}/{name}")
            self.target.own(path, info)
        else:
            self.file(path)

    def symbolic_link(self, path: str) -> None:
        """Copy a symbolic link; an absolute one leads to the same place below the copy's root."""
        target = os.readlink(self.source.path(path))
        if target.startswith("/"):
            self.link(path, target)
        else:
            self.target.link(path, target)

    # ---- sysfs

    def real(self, path: str) -> str:
        """The folder that a link in a bus leads to; the path itself if it is no link."""
        if path not in self._real:
            self._real[path] = self.source.resolve(path) or path
        return self._real[path]

    def devices(self) -> None:
        """Copy PCI functions and mediated devices."""
        self.folder(DEVICES)
        for address in self.source.names(DEVICES):
            if is_address(address):
                self._function(address)
        self.folder(MDEVS)
        for uuid in self.source.names(MDEVS):
            self.link(f"{MDEVS}/{uuid}", self.real(f"{MDEVS}/{uuid}"))

    def _function(self, address: str) -> None:
        folder = self.real(f"{DEVICES}/{address}")
        self.folder(folder)
        if folder != f"{DEVICES}/{address}":
            self.link(f"{DEVICES}/{address}", folder)
        for name in self.source.names(folder):
            path = f"{folder}/{name}"
            if name in ATTRIBUTES:
                self.attribute(path)
            elif name in CONTROLS:
                self.target.put(path, b"")
            elif name == "physfn" or (name.startswith("virtfn") and name[6:].isdecimal()):
                other = self.source.link(path)
                if other:
                    self.link(path, self.real(f"{DEVICES}/{other}"))
            elif name in FOLDERS or is_uuid(name):
                self._part(path)
        self._bound(folder, DRIVERS)

    def _bound(self, folder: str, drivers: str) -> None:
        """The links of a function or instance to its driver and IOMMU group."""
        driver = self.source.link(f"{folder}/driver")
        if driver:
            self.link(f"{folder}/driver", f"{drivers}/{driver}")
        group = self.source.link(f"{folder}/iommu_group")
        if group:
            self.link(f"{folder}/iommu_group", f"{GROUPS}/{group}")
            self.link(f"{GROUPS}/{group}/devices/{folder.rpartition('/')[2]}", folder)

    def _part(self, path: str) -> None:
        """What a function has below it: types, vGPU files, mdev instances."""
        name = path.rpartition("/")[2]
        self.folder(path)
        if name == "mdev_supported_types":
            self.link(f"/sys/class/mdev_bus/{path.rsplit('/', 2)[1]}", path.rpartition("/")[0])
            for type_id in self.source.names(path):
                self._files(f"{path}/{type_id}")
                self.folder(f"{path}/{type_id}/devices")
        elif name == "nvidia":
            self._files(path)
        elif name == "vfio-dev":
            for cdev in self.source.names(path):
                self.folder(f"{path}/{cdev}")
                self.link(f"/sys/class/vfio-dev/{cdev}", f"{path}/{cdev}")
        elif is_uuid(name):
            self._instance(path)

    def _instance(self, path: str) -> None:
        parent, _, uuid = path.rpartition("/")
        for name in self.source.names(path):
            if name in CONTROLS:
                self.target.put(f"{path}/{name}", b"")
            elif name == "vfio-dev":
                self._part(f"{path}/{name}")
        type_id = self.source.link(f"{path}/mdev_type")
        if type_id:
            types = f"{parent}/mdev_supported_types/{type_id}"
            self.link(f"{path}/mdev_type", types)
            if self.source.exists(types):
                self.link(f"{types}/devices/{uuid}", path)
        self._bound(path, "/sys/bus/mdev/drivers")

    def _files(self, folder: str) -> None:
        self.folder(folder)
        for name in self.source.names(folder):
            path = f"{folder}/{name}"
            if name in CONTROLS:
                self.target.put(path, b"")
            elif name != "devices":
                self.attribute(path)

    def drivers_and_groups(self) -> None:
        """Copy the folders of drivers, and which IOMMUs there are."""
        for driver in self.source.names(DRIVERS):
            self.folder(f"{DRIVERS}/{driver}")
            for name in self.source.names(f"{DRIVERS}/{driver}"):
                if is_address(name):
                    self.link(f"{DRIVERS}/{driver}/{name}", self.real(f"{DEVICES}/{name}"))
        if self.source.exists("/sys/class/iommu"):
            self.folder("/sys/class/iommu")
        for name in self.source.names("/sys/class/iommu"):
            self.folder(f"/sys/class/iommu/{name}")

    # ---- PVE

    def configs(self, vmids: set[int]) -> None:
        """Copy these VMs' configs on all nodes, and the ROM images that they name."""
        folders = ["/etc/pve/qemu-server"]
        folders += [f"/etc/pve/nodes/{node}/qemu-server" for node in self.source.names("/etc/pve/nodes")]
        paths = []
        for folder in folders:
            real = self.source.resolve(folder)
            if real is None:
                continue
            self.folder(real)
            if real != folder:
                self.link(folder, real)
            for vmid in sorted(vmids):
                path = f"{real}/{vmid}.conf"
                self.file(path)
                paths.append(path)
        self.roms(paths)

    def roms(self, configs: Iterable[str]) -> None:
        """Copy the ROM images that these configs name, and of all others in that folder the size."""
        self._roms(ROMS, {rom for path in configs for rom in self._romfiles(path)})

    def _romfiles(self, path: str) -> set[str]:
        try:
            data = self.source.read(path)
        except OSError:
            return set()
        names = (name.decode("utf-8", "surrogateescape") for name in ROMFILE.findall(data))
        return {self.source.resolve(f"{ROMS}/{name}") or "" for name in names}

    def _roms(self, folder: str, wanted: set[str]) -> None:
        self.folder(folder)
        for name in self.source.names(folder):
            path = f"{folder}/{name}"
            real = self.source.path(path)
            if os.path.islink(real):
                self.symbolic_link(path)
            elif os.path.isdir(real):
                self._roms(path, wanted)
            else:
                self.file(path, with_data=path in wanted)

    # ---- processes

    def processes(self, vmids: set[int], ended: int | None) -> None:
        """Copy running VMs, and who has VFIO devices open, but not the VM `ended`."""
        if self.source.exists("/run/qemu-server"):  # else the snapshot would say that PVE has run here
            self.folder("/run/qemu-server")
        gone = None if ended is None else vms.running_pid(self.source, ended)
        running = {name for name in self.source.names("/run/qemu-server") if name.endswith(".pid")}
        running.discard(f"{ended}.pid")
        pids = set()
        for name in running:
            self.file(f"/run/qemu-server/{name}")
            pids.add((self.source.text(f"/run/qemu-server/{name}") or "").partition("\n")[0].strip())
        for name in (running | {f"{vmid}.pid" for vmid in vmids}) - {f"{ended}.pid"}:
            self.attribute(f"/sys/fs/cgroup/qemu.slice/{name[: -len('.pid')]}.scope/cgroup.procs")
        for pid in self.source.names("/proc"):
            if pid.isdecimal() and int(pid) != gone and self._open_devices(pid) | (pid in pids):
                for name in ("cmdline", "comm", "stat"):
                    self.attribute(f"/proc/{pid}/{name}")

    def _open_devices(self, pid: str) -> bool:
        """Copy the links of a process to nodes of devices; returns whether it has any."""
        found = False
        try:
            descriptors = os.listdir(self.source.path(f"/proc/{pid}/fd"))
        except OSError:  # ended, another user's, or a thread of the kernel
            return False
        for descriptor in descriptors:
            path = f"/proc/{pid}/fd/{descriptor}"
            try:
                target = os.readlink(self.source.path(path))
            except OSError:
                continue
            if target.startswith(OPENED):
                self.target.link(path, target)
                found = True
        return found
