# SPDX-License-Identifier: Apache-2.0
"""A small simulated host for the demo: two GPUs that are mdev parents, a GPU with its audio function, and six VMs.

Its root file system is on an NVMe disk, which VM 105 wants; its kernel's command line has a slip.
"""

from __future__ import annotations

import json
import os

from pvepassthru.host.sim_settings import SETTINGS

NODE = "demo"
GPUS = ("0000:08:00.0", "0000:09:00.0")
TYPES = {"nvidia-63": ("GRID P4-1Q", 1), "nvidia-64": ("GRID P4-2Q", 2), "nvidia-65": ("GRID P4-4Q", 4)}
"""mdev type to its name and the units that it takes of a GPU's four."""
CAPACITY = 4

FUNCTIONS = {
    "0000:01:00.0": ("0x10de", "0x2204", "0x030000", "nouveau", 1),
    "0000:01:00.1": ("0x10de", "0x1aef", "0x040300", "snd_hda_intel", 1),
    "0000:02:00.0": ("0x8086", "0x1521", "0x020000", "igb", 2),
    "0000:03:00.0": ("0x144d", "0xa808", "0x010802", "nvme", 3),
    GPUS[0]: ("0x10de", "0x1bb3", "0x030200", "nvidia", 8),
    GPUS[1]: ("0x10de", "0x1bb3", "0x030200", "nvidia", 9),
}
"""Address to vendor, device, class, driver and IOMMU group."""

MAPPING = """vgpu
\tmdev 1
\tmap id=10de:1bb3,iommugroup=8,node=demo,path=0000:08:00.0
\tmap id=10de:1bb3,iommugroup=9,node=demo,path=0000:09:00.0
"""

CONFIGS = {
    100: "name: cad-1\nmachine: q35\nhostpci0: mapping=vgpu,mdev=nvidia-65,pcie=1\n",
    101: "name: cad-2\nmachine: q35\nhostpci0: mapping=vgpu,mdev=nvidia-65,pcie=1\n",
    102: "name: cad-3\nmachine: q35\nhostpci0: mapping=vgpu,mdev=nvidia-65,pcie=1\n",
    103: "name: game\nhostpci0: 01:00,pcie=1,x-vga=1,romfile=../../etc/shadow\nhostpci1: 0A:00.0\n",
    104: "name: router\nhostpci0: 0000:02:00.0\n",
    105: "name: nas\nhostpci0: 0000:03:00.0\n",
}

DISK = "/sys/bus/pci/devices/0000:03:00.0/nvme/nvme0"
PARAMETERS = "quiet Intel_iommu=on"
FILES = {
    "/proc/cmdline": f"BOOT_IMAGE=/boot/vmlinuz-6.5.13-5-pve root=/dev/nvme0n1p2 ro {PARAMETERS}\n",
    "/proc/cpuinfo": "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vmx\n\n",
    "/proc/sys/kernel/osrelease": "6.5.13-5-pve\n",
    "/proc/self/mountinfo": "29 1 259:2 / / rw,relatime - ext4 /dev/nvme0n1p2 rw\n",
    "/proc/swaps": "Filename Type Size Used Priority\n",
    "/etc/default/grub": f'GRUB_DEFAULT=0\nGRUB_CMDLINE_LINUX_DEFAULT="{PARAMETERS}"\n',
    "/etc/modules": "vfio\nvfio_virqfd\n",
    f"{DISK}/nvme0n1/dev": "259:0\n",
    f"{DISK}/nvme0n1/nvme0n1p2/dev": "259:2\n",
    f"{DISK}/nvme0n1/nvme0n1p2/partition": "2\n",
}
"""Further files of the host: the kernel's, and what doctor looks at."""


def build(root: str) -> None:
    """Make the host's files in the folder `root`."""
    for address, (vendor, device, pci_class, driver, group) in FUNCTIONS.items():
        folder = f"/sys/bus/pci/devices/{address}"
        for name, text in (("vendor", vendor), ("device", device), ("class", pci_class), ("irq", "16")):
            _put(root, f"{folder}/{name}", f"{text}\n")
        _put(root, f"{folder}/driver_override", "(null)\n")
        _link(root, f"{folder}/driver", f"/sys/bus/pci/drivers/{driver}")
        _link(root, f"/sys/bus/pci/drivers/{driver}/{address}", folder)
        _link(root, f"{folder}/iommu_group", f"/sys/kernel/iommu_groups/{group}")
        _link(root, f"/sys/kernel/iommu_groups/{group}/devices/{address}", folder)
    for gpu in GPUS:
        for type_id, (name, units) in TYPES.items():
            folder = f"/sys/bus/pci/devices/{gpu}/mdev_supported_types/{type_id}"
            _put(root, f"{folder}/name", f"{name}\n")
            _put(root, f"{folder}/available_instances", f"{CAPACITY // units}\n")
            _put(root, f"{folder}/device_api", "vfio-pci\n")
            _put(root, f"{folder}/create", "")
    for folder in ("bus/mdev/devices", "bus/pci/drivers/vfio-pci", "class/iommu/dmar0"):
        os.makedirs(f"{root}/sys/{folder}")
    for folder in ("run/qemu-server", "run/lock/qemu-server", "usr/share/kvm", "proc"):
        os.makedirs(f"{root}/{folder}")
    for path, text in FILES.items():
        _put(root, path, text)
    _link(root, "/sys/class/block/nvme0n1", f"{DISK}/nvme0n1")
    _link(root, "/sys/class/block/nvme0n1p2", f"{DISK}/nvme0n1/nvme0n1p2")
    _put(root, "/etc/hostname", f"{NODE}\n")
    _put(root, "/etc/pve/mapping/pci.cfg", MAPPING)
    for vmid, text in CONFIGS.items():
        _put(root, f"/etc/pve/qemu-server/{vmid}.conf", text)
    parent = {"types": {type_id: {"units": units} for type_id, (_, units) in TYPES.items()}, "capacity": CAPACITY}
    _put(root, SETTINGS, json.dumps({"devices": {gpu: {"mdev": parent} for gpu in GPUS}}))


def start_vm(root: str, vmid: int) -> None:
    """Make it look as if QEMU runs for a VM: the pid file and a process, as PVE looks for them."""
    pid = 4000 + vmid
    argv = ("/usr/bin/kvm", "-id", str(vmid), "-pidfile", f"/var/run/qemu-server/{vmid}.pid")
    _put(root, f"/proc/{pid}/cmdline", "\0".join(argv) + "\0")
    _put(root, f"/proc/{pid}/comm", "kvm\n")
    _put(root, f"/run/qemu-server/{vmid}.pid", f"{pid}\n")


def end_vm(root: str, vmid: int) -> None:
    """Let that QEMU be gone."""
    for name in ("cmdline", "comm"):
        os.unlink(f"{root}/proc/{4000 + vmid}/{name}")
    os.rmdir(f"{root}/proc/{4000 + vmid}")
    os.unlink(f"{root}/run/qemu-server/{vmid}.pid")


def _put(root: str, path: str, text: str) -> None:
    os.makedirs(os.path.dirname(root + path), exist_ok=True)
    with open(root + path, "w", encoding="utf-8") as file:
        file.write(text)


def _link(root: str, path: str, target: str) -> None:
    os.makedirs(os.path.dirname(root + path), exist_ok=True)
    os.makedirs(root + target, exist_ok=True)
    os.symlink(os.path.relpath(root + target, os.path.dirname(root + path)), root + path)
