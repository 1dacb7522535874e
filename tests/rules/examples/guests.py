# SPDX-License-Identifier: Apache-2.0
"""Examples of the advice on GPUs, memory and the rest of a VM's config (rules/gpus.py, memory.py, guests.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests import tree
from tests.rules.example import GPU, VFS, Tree

if TYPE_CHECKING:
    from collections.abc import Callable

UEFI = "bios: ovmf\nefidisk0: local-lvm:vm-100-disk-0,efitype=4m,size=4M\nmachine: q35\n"
SLOT = "hostpci0: 01:00,pcie=1"
Q35 = f"machine: q35\n{SLOT}\n"
SSD = "hostpci0: 02:00.0\n"
MEMINFO = "/proc/meminfo"
ARCSTATS = "/proc/spl/kstat/zfs/arcstats"
FREE_PAGES = "/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages"
HUGE = f"{SSD}memory: 16384\nhugepages: 1024\nnuma: 1\n"
COMPUTE = {"0000:03:00.0": {**GPU, "class": "0x030200", "iommu_group": 3}}
SECOND = {"0000:03:00.0": {**GPU, "iommu_group": 3}}
BAR = f"0x{0x38000000000:016x} 0x{0x387FFFFFFFF:016x} 0x000000000014220c\n"
INTEL: dict[str, str | bytes] = {"/proc/cpuinfo": "processor\t: 0\nvendor_id\t: GenuineIntel\n"}
IOMEM = """\
00000000-00000000 : Reserved
00000000-00000000 : PCI Bus 0000:00
  00000000-00000000 : PCI Bus 0000:01
    00000000-00000000 : 0000:01:00.0
      00000000-00000000 : {}
    00000000-00000000 : 0000:01:00.1
"""


def _memory(total: int, free: int) -> str:
    return f"MemTotal: {total << 10} kB\nMemFree: 0 kB\nMemAvailable:{free << 10} kB\nHugePages_Total: 0\n"


def _nodes(device: int) -> Tree:
    files: dict[str, str | bytes] = {
        "/sys/devices/system/node/node0/cpulist": "0-5,12-17\n",
        "/sys/devices/system/node/node1/cpulist": "6-11,18-23\n",
        "/sys/devices/system/node/online": "0-1\n",
    }
    return Tree(f"{SSD}affinity: 6-8\n", {"0000:02:00.0": {"files": {"numa_node": f"{device}\n"}}}, files=files)


def _at(controller: str, path: str, link: str) -> Callable[[str], object]:
    """Put a device below a controller, as sysfs shows it, with the link to it."""

    def change(root: str) -> None:
        here = f"sys/devices/pci0000:00/{controller}/{path}"
        tree.folder(root, here)
        tree.link(root, link, here)

    return change


def _nvme(controller: str) -> Callable[[str], object]:
    def change(root: str) -> None:
        _at(controller, "nvme/nvme0/nvme0n1", "sys/class/block/nvme0n1")(root)
        tree.put(root, "dev/nvme0n1")
        tree.link(root, "dev/disk/by-id/nvme-x", "dev/nvme0n1")

    return change


DISK = f"{SSD}scsi0: /dev/nvme0n1,size=1T\n"
USB = f"{SSD}usb0: host=1-2,usb3=1\n"

EXAMPLES: dict[str, tuple[Tree, Tree]] = {
    "PVP273": (
        Tree(Q35, {"0000:01:00.0": {"files": {"boot_vga": "1\n"}}}),
        Tree(Q35, {"0000:01:00.0": {"files": {"boot_vga": "1\n"}, "driver": "vfio-pci"}}),
    ),
    "PVP274": (
        Tree(Q35, files={"/proc/iomem": IOMEM.format("BOOTFB"), "/proc/sys/kernel/osrelease": "5.15.158-2-pve\n"}),
        Tree(Q35, files={"/proc/iomem": IOMEM.format("BOOTFB"), "/proc/sys/kernel/osrelease": "6.8.12-4-pve\n"}),
    ),
    "PVP275": (Tree("machine: q35\nhostpci0: 01:00.0,pcie=1\n"), Tree("machine: q35\nhostpci0: 01:00,pcie=1\n")),
    "PVP276": (
        Tree(f"{UEFI}{SLOT}\n", {"0000:01:00.0": {"files": {"resource": BAR}}}, files=INTEL),
        Tree(f"{UEFI}{SLOT}\ncpu: host\n", {"0000:01:00.0": {"files": {"resource": BAR}}}, files=INTEL),
    ),
    "PVP277": (
        Tree("hostpci0: a1:00.4,mdev=nvidia-35\nhostpci1: a1:00.5,mdev=nvidia-558\n"),
        Tree("hostpci0: a1:00.4,mdev=nvidia-35\nhostpci1: a1:00.5,mdev=nvidia-35\n"),
    ),
    "PVP340": (Tree("hostpci0: 01:00\n"), Tree(Q35)),
    "PVP341": (Tree("machine: q35\nhostpci0: 01:00\n"), Tree(Q35)),
    "PVP342": (Tree(f"machine: pc-q35-3.1\n{SLOT}\n"), Tree(f"machine: pc-q35-4.0\n{SLOT}\n")),
    "PVP343": (
        Tree(f"{Q35[:-1]},x-vga=1\nhostpci1: 03:00.0,pcie=1,x-vga=1\n", SECOND),
        Tree(f"{Q35[:-1]},x-vga=1\nhostpci1: 03:00.0,pcie=1\n", SECOND),
    ),
    "PVP344": (Tree(f"{Q35[:-1]},x-vga=1\nvga: std\n"), Tree(f"{Q35[:-1]},x-vga=1\nvga: serial0\n")),
    "PVP345": (
        Tree("machine: q35\nserial0: socket\nhostpci0: 03:00.0,pcie=1,x-vga=1\n", COMPUTE),
        Tree(f"{UEFI}serial0: socket\nhostpci0: 03:00.0,pcie=1,x-vga=1\n", COMPUTE),
    ),
    "PVP346": (
        Tree(f"{UEFI}hostpci0: 01:00.1;01:00.0,pcie=1,x-vga=1\n"),
        Tree(f"{UEFI}hostpci0: 01:00.0;01:00.1,pcie=1,x-vga=1\n"),
    ),
    "PVP347": (Tree(f"{Q35[:-1]},rombar=0\nvga: none\n"), Tree(f"{Q35[:-1]},rombar=0\nvga: std\n")),
    "PVP348": (Tree(f"{SSD}vga: none\n"), Tree(f"{SSD}vga: none\nagent: enabled=1,fstrim_cloned_disks=1\n")),
    "PVP349": (Tree(f"{SSD}bios: ovmf\n"), Tree(f"{SSD}bios: ovmf\nefidisk0: local:vm-100-disk-0\n")),
    "PVP350": (
        Tree("args: -device vfio-pci,host=0000:02:00.0\n"),
        Tree(f"{SSD}args: -set device.hostpci0.x-no-mmap=on -global vfio-pci.x-no-vfio-ioeventfd=on\n"),
    ),
    "PVP351": (Tree(f"{SSD}args: -cpu host,kvm=off\n"), Tree(f"{SSD}args: -smbios type=1\n")),
    "PVP352": (Tree(f"{SSD}template: 1\n"), Tree("hostpci0: mapping=vgpu\ntemplate: 1\n", mapping=VFS)),
    "PVP353": (
        Tree(USB, change=_at("0000:02:00.0", "usb1/1-2", "sys/bus/usb/devices/1-2")),
        Tree(USB, change=_at("0000:00:14.0", "usb1/1-2", "sys/bus/usb/devices/1-2")),
    ),
    "PVP354": (Tree(DISK, change=_nvme("0000:02:00.0")), Tree(DISK, change=_nvme("0000:04:00.0"))),
    "PVP360": (
        Tree(f"{SSD}memory: 8192\nballoon: 2048\n"),
        Tree(f"{SSD}memory: 8192\nballoon: 0\n"),
    ),
    "PVP361": (
        Tree(f"{SSD}memory: 65536\n", files={MEMINFO: _memory(64000, 60000)}),
        Tree(f"{SSD}memory: 32768\n", files={MEMINFO: _memory(64000, 60000)}),
    ),
    "PVP362": (
        Tree(f"{SSD}memory: current=32768\n", files={MEMINFO: _memory(64000, 30000)}),
        Tree(
            f"{SSD}memory: 32768\n",
            files={MEMINFO: _memory(64000, 30000), ARCSTATS: f"size 4 {4 << 30}\nc_min 4 {1 << 30}\n"},
        ),
    ),
    "PVP363": (Tree(f"{SSD}hugepages: 2\n"), Tree(f"{SSD}hugepages: 2\nnuma: 1\n")),
    "PVP364": (Tree(HUGE, files={FREE_PAGES: "15\n"}), Tree(HUGE, files={FREE_PAGES: "16\n"})),
    "PVP365": (_nodes(0), _nodes(1)),
}

BOUND = {"0000:01:00.0": {"driver": "vfio-pci"}}
HOST_EXAMPLES: dict[str, tuple[Tree, Tree]] = {
    "PVP274": (
        Tree(devices=BOUND, files={"/proc/iomem": IOMEM.format("BOOTFB")}),
        Tree(devices=BOUND, files={"/proc/iomem": IOMEM.format("vfio-pci")}),
    ),
}
