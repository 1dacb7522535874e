# SPDX-License-Identifier: Apache-2.0
"""What the simulated hosts of the pages have in common: PVE on a disk, and how that disk boots.

All have their root file system on the NVMe 0000:02:00.0, and the bridge vmbr0 on the network card 0000:03:00.0.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from pvepassthru.host.sim_settings import SETTINGS
from tests import tree
from tests.rules import healthy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NODE = "pve"
DISK_FOLDERS = ("etc", "boot", "lib", "var", "usr")
NEXT_BOOT = "boot/next"
"""What update-grub has taken of /etc/default/grub."""
BUS = "/sys/bus/pci/devices"
DISK = "/sys/bus/pci/devices/0000:02:00.0/nvme/nvme0"
NET = "/sys/bus/pci/devices/0000:03:00.0/net/enp3s0"
PORT = {"vendor": "0x8086", "class": "0x060400", "driver": "pcieport", "pci_bus": True, "irq": "120"}
RESETS = {"reset": True, "files": {"reset_method": "flr bus\n", "numa_node": "-1\n"}}
BASE: dict[str, dict[str, Any]] = {
    "0000:00:01.0": {**PORT, "device": "0x460d", "iommu_group": 1},
    "0000:00:06.0": {**PORT, "device": "0x464d", "iommu_group": 5},
    "0000:02:00.0": {
        "vendor": "0x144d",
        "device": "0xa808",
        "class": "0x010802",
        "subsystem_vendor": "0x144d",
        "subsystem_device": "0xa801",
        "iommu_group": 12,
        "driver": "nvme",
        **RESETS,
    },
    "0000:03:00.0": {
        "vendor": "0x8086",
        "device": "0x1533",
        "class": "0x020000",
        "subsystem_vendor": "0x1849",
        "subsystem_device": "0x1533",
        "iommu_group": 13,
        "driver": "igb",
        **RESETS,
    },
}
NAMES = """\
10de  NVIDIA Corporation
\t1aef  GA102 High Definition Audio Controller
\t1bb3  GP104GL [Tesla P4]
\t2204  GA102 [GeForce RTX 3090]
\t25b6  GA107GL [A2 / A16]
1000  Broadcom / LSI
\t0097  SAS3008 PCI-Express Fusion-MPT SAS-3
144d  Samsung Electronics Co Ltd
\ta808  NVMe SSD Controller SM981/PM981/PM983
8086  Intel Corporation
\t154c  Ethernet Virtual Function 700 Series
\t1533  I210 Gigabit Network Connection
\t1572  Ethernet Controller X710 for 10GbE SFP+
\t1912  HD Graphics 530
\t460d  12th Gen Core Processor PCI Express x16 Controller #1
\t464d  12th Gen Core Processor PCI Express x4 Controller #0
\t4680  AlderLake-S GT1
C 01  Mass storage controller
\t07  Serial Attached SCSI controller
\t08  Non-Volatile memory controller
C 02  Network controller
\t00  Ethernet controller
C 03  Display controller
\t00  VGA compatible controller
\t02  3D controller
C 04  Multimedia controller
\t03  Audio device
C 06  Bridge
\t04  PCI bridge
"""
STATUS = "".join(
    f"Package: {name}\nStatus: install ok installed\nVersion: {version}\n\n"
    for name, version in (("pve-manager", "8.3.0"), ("pve-qemu-kvm", "9.0.2-4"), ("qemu-server", "8.3.0"))
)
FILES: dict[str, str | bytes] = {
    **healthy.without(healthy.INTEL, "sys/kernel/iommu_groups", "sys/module/nvme/", "sys/class/iommu", "proc/cmdline"),
    "proc/fb": "0 simpledrmdrmfb\n",
    "proc/self/mountinfo": "29 1 259:3 / / rw,relatime - ext4 /dev/nvme0n1p3 rw\n",
    "proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
    "proc/net/route": "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
    "vmbr0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n",
    "proc/net/ipv6_route": "",
    "proc/mdstat": "Personalities : \nunused devices: <none>\n",
    "proc/meminfo": "MemTotal:       65725184 kB\nMemFree:        60000000 kB\nMemAvailable:   61000000 kB\n",
    "proc/sys/kernel/random/boot_id": "6f2c1d1e-7a0b-4c55-9f4e-0a1b2c3d4e5f\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    f"{DISK}/nvme0n1/dev": "259:0\n",
    f"{DISK}/nvme0n1/nvme0n1p3/dev": "259:3\n",
    f"{DISK}/nvme0n1/nvme0n1p3/partition": "3\n",
    f"{NET}/address": "52:54:00:12:34:56\n",
    f"{NET}/addr_assign_type": "0\n",
    f"{NET}/brport/state": "3\n",
    "sys/devices/virtual/net/vmbr0/bridge/bridge_id": "8000.525400123456\n",
    "sys/devices/virtual/net/vmbr0/brif/enp3s0/state": "3\n",
    "etc/pve/storage.cfg": "dir: local\n\tpath /var/lib/vz\n\tcontent iso,vztmpl,backup,snippets\n\n"
    "lvmthin: local-lvm\n\tthinpool data\n\tvgname pve\n\tcontent rootdir,images\n",
    "usr/share/misc/pci.ids": NAMES,
    "var/lib/dpkg/status": STATUS,
    "etc/network/interfaces": "auto lo\niface lo inet loopback\n\niface enp3s0 inet manual\n\nauto vmbr0\n"
    "iface vmbr0 inet static\n\taddress 192.0.2.10/24\n\tgateway 192.0.2.1\n\tbridge-ports enp3s0\n",
}
UNITS = {"pvepassthru-recover.timer": "timers.target", "pvepassthru-sriov.service": "multi-user.target"}
"""What the Debian package enables."""
LINKS = {
    "/sys/class/block/nvme0n1": f"{DISK}/nvme0n1",
    "/sys/class/block/nvme0n1p3": f"{DISK}/nvme0n1/nvme0n1p3",
    "/sys/class/net/enp3s0": NET,
    f"{NET}/master": "/sys/devices/virtual/net/vmbr0",
    f"{NET}/upper_vmbr0": "/sys/devices/virtual/net/vmbr0",
    "/sys/class/net/vmbr0": "/sys/devices/virtual/net/vmbr0",
    "/sys/devices/virtual/net/vmbr0/lower_enp3s0": NET,
}


class Board(NamedTuple):
    """A machine with PVE on it, before its first boot on a page."""

    devices: dict[str, dict[str, Any]]
    """As in tests/tree.py, beside those of BASE."""
    vms: dict[int, str]
    kernel: str = "6.8.12-4-pve"
    parameters: str = "quiet"
    files: Mapping[str, str | bytes] = {}
    mapping: str | None = None
    settings: Mapping[str, Any] = {}
    """Of the simulated kernel (host/sim_settings.py)."""
    drivers: tuple[str, ...] = ()
    """Drivers that are loaded without a device."""
    at_boot: Callable[[dict[str, dict[str, Any]], Boot], dict[str, str]] = lambda _devices, _boot: {}
    """What the host's configuration makes of the devices of this board beyond what all hosts do; returns more files."""


class Boot(NamedTuple):
    """What counts at a boot of what lies on the disk."""

    parameters: tuple[str, ...]
    """The kernel's command line."""
    modules: frozenset[str]
    """Those of /etc/modules and /etc/modules-load.d."""
    options: dict[str, str]
    """`DRIVER OPTION` to its value, of /etc/modprobe.d."""
    blacklist: frozenset[str]


def install(root: str, board: Board) -> None:
    """Put PVE on the disk of a board, and boot it for the first time."""
    files = {**FILES, **healthy.booted(board.parameters), **board.files}
    on_disk = {path: text for path, text in files.items() if path.startswith(DISK_FOLDERS)}
    for path, content in on_disk.items():
        place = path.replace(healthy.RELEASE, board.kernel)
        tree.put(root, place, content.replace(healthy.RELEASE, board.kernel) if isinstance(content, str) else content)
    tree.guests(root, node=NODE, configs=board.vms, mapping=board.mapping)
    for path, content in board.files.items():
        if path.startswith("etc/pve"):
            tree.put(root, path, content)
    tree.put(root, "etc/pve/storage.cfg", files["etc/pve/storage.cfg"])
    for unit, target in UNITS.items():
        tree.put(root, f"usr/lib/systemd/system/{unit}", "")
        tree.link(root, f"etc/systemd/system/{target}.wants/{unit}", f"usr/lib/systemd/system/{unit}")
    tree.folder(root, "var/lib/vz/snippets")
    tree.folder(root, "usr/share/kvm")
    for folder, _, names in os.walk(f"{root}/etc"):
        for name in names:
            if not os.path.islink(f"{folder}/{name}"):
                os.utime(f"{folder}/{name}", (time.time() - 500,) * 2)
    update_grub(root)
    boot(root, board)


def update_grub(root: str) -> None:
    """Take what /etc/default/grub says for the next boot."""
    with open(f"{root}/etc/default/grub", encoding="utf-8") as file:
        said = re.findall(r'^GRUB_CMDLINE_LINUX(?:_DEFAULT)?="(.*)"$', file.read(), re.MULTILINE)
    tree.put(root, NEXT_BOOT, " ".join(words for words in said if words))


def update_initramfs(root: str) -> None:
    """Make the initramfs of all kernels anew."""
    for name in os.listdir(f"{root}/boot"):
        if name.startswith("initrd.img-"):
            os.utime(f"{root}/boot/{name}", (time.time() + 1,) * 2)


def boot(root: str, board: Board) -> None:
    """Boot the host: /sys, /proc and /run are made anew, as the disk says."""
    for folder in ("sys", "proc", "run", ".sim"):
        shutil.rmtree(f"{root}/{folder}", ignore_errors=True)
    tree.folder(root, "run/qemu-server")
    now = _configured(root)
    parameters = " ".join(now.parameters)
    major, minor = (int(part) for part in board.kernel.split(".")[:2])
    iommu = "intel_iommu=on" in now.parameters or (major, minor) >= (6, 8)
    devices = {address: dict(device) for address, device in {**BASE, **board.devices}.items()}
    for device in devices.values():
        _drive(device, now)
        if not iommu:
            device.pop("iommu_group", None)
    more = board.at_boot(devices, now)
    tree.hardware(root, {"devices": devices, "iommu": iommu})
    for driver in ("nouveau", "snd_hda_intel", "nvme", "igb", *board.drivers):
        tree.driver(root, driver)
    _put_files(root, board, {**FILES, **board.files, **more})
    tree.put(root, "proc/cmdline", f"BOOT_IMAGE=/boot/vmlinuz-{board.kernel} {healthy.ROOT} {parameters}\n")
    if iommu:
        tree.put(root, "sys/class/iommu/dmar0/intel-iommu/ecap", "f020df\n")
    for device in devices.values():
        if "iommu_group" in device:
            regions = "0x00000000fee00000 0x00000000feefffff msi\n"
            tree.put(root, f"sys/kernel/iommu_groups/{device['iommu_group']}/reserved_regions", regions)


def _drive(device: dict[str, Any], now: Boot) -> None:
    """Give a device the driver that it has after this boot."""
    if device.get("driver") in now.blacklist:
        del device["driver"]
    if f"{device['vendor'][2:]}:{device['device'][2:]}" in now.options.get("vfio-pci ids", "").split(","):
        device["driver"] = "vfio-pci"


def _put_files(root: str, board: Board, files: Mapping[str, str | bytes]) -> None:
    """Put what the kernel shows beside the devices, and the links to it."""
    for path, content in files.items():
        if not path.startswith((*DISK_FOLDERS, "etc/pve")):
            tree.put(root, path.replace(healthy.RELEASE, board.kernel), content)
    tree.put(root, "proc/sys/kernel/osrelease", f"{board.kernel}\n")
    for path, target in LINKS.items():
        tree.link(root, path, target)
    for path in board.files:
        folder, name = os.path.split(os.path.dirname(path))
        kind = os.path.basename(folder)
        if kind in {"net", "block", "graphics"} and path.startswith(BUS):
            tree.link(root, f"/sys/class/{kind}/{name}", f"{folder}/{name}")
            if kind == "graphics":
                tree.link(root, f"{folder}/{name}/device", os.path.dirname(folder))
    tree.put(root, SETTINGS, json.dumps(board.settings))


def _configured(root: str) -> Boot:
    with open(f"{root}/{NEXT_BOOT}", encoding="utf-8") as file:
        parameters = tuple(file.read().split())
    modules: set[str] = set()
    options: dict[str, str] = {}
    blacklist: set[str] = set()
    for path in ("etc/modules", *_conf(root, "etc/modules-load.d")):
        modules |= {words[0].replace("-", "_") for words in _lines(root, path)}
    for path in _conf(root, "etc/modprobe.d"):
        for words in _lines(root, path):
            if words[0] == "options":
                options |= {f"{words[1]} {name}": value for name, _, value in (w.partition("=") for w in words[2:])}
            elif words[0] == "blacklist":
                blacklist.add(words[1])
    return Boot(parameters, frozenset(modules), options, frozenset(blacklist))


def _conf(root: str, folder: str) -> list[str]:
    real = f"{root}/{folder}"
    names = sorted(os.listdir(real)) if os.path.isdir(real) else []
    return [f"{folder}/{name}" for name in names if name.endswith(".conf")]


def _lines(root: str, path: str) -> list[list[str]]:
    with open(f"{root}/{path}", encoding="utf-8") as file:
        return [words for line in file if (words := line.partition("#")[0].split())]
