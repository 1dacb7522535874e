# SPDX-License-Identifier: Apache-2.0
"""Examples of the rules on modules, vfio-pci's ids=, blacklists and modprobe.d."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tests import tree
from tests.rules.healthy import DEP, INTEL, MODPROBE, RELEASE, both, host, link, without

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.rules.example import Tree

GOOD = host()
NVME = "144d:a80a"
"""0000:02:00.0 of the examples, an NVMe that nothing uses."""
ON_VFIO = {"0000:02:00.0": {"driver": "vfio-pci"}}
SECOND = {"vendor": "0x144d", "device": "0xa80a", "class": "0x010802", "iommu_group": 5, "driver": "vfio-pci"}
VM = "hostpci0: 02:00.0\n"


def modprobe(text: str) -> dict[str, str | bytes]:
    return {MODPROBE: text}


def ids(text: str, more: str = "") -> dict[str, str | bytes]:
    return modprobe(f"options vfio-pci ids={text}\n{more}")


def mounted(address: str) -> Callable[[str], object]:
    """Let the host have its root file system on a disk of this function."""

    def change(root: str) -> None:
        disk = f"sys/bus/pci/devices/{address}/nvme/nvme0/nvme0n1"
        tree.put(root, f"{disk}/dev", "259:0\n")
        tree.link(root, "sys/class/block/nvme0n1", disk)
        tree.put(root, "proc/self/mountinfo", "22 1 259:0 / / rw,relatime shared:1 - ext4 /dev/nvme0n1 rw\n")
        tree.put(root, "proc/mounts", "/dev/nvme0n1 / ext4 rw,relatime 0 0\n")

    return change


IN_NVME = link("sys/bus/pci/drivers/nvme/module", "sys/module/nvme")
NOT_LISTED = {"etc/modules": "vfio\n"}
TYPO = {"etc/modules": "vfio\nvfio_iommu_typ1\n"}

HOST_EXAMPLES: dict[str, tuple[Tree, Tree]] = {
    "PVP102": (
        host(
            {DEP: str(INTEL[DEP]).replace("kernel/drivers/vfio_pci/vfio-pci.ko:\n", ""), "etc/modules": "vfio\n"},
            base=without(INTEL, "sys/module/vfio_pci"),
            change=lambda root: shutil.rmtree(f"{root}/sys/bus/pci/drivers/vfio-pci"),
        ),
        GOOD,
    ),
    "PVP125": (
        host(
            {DEP: str(INTEL[DEP]).replace("vfio-iommu-type1.ko", "other.ko"), "etc/modules": "vfio\n"},
            base=without(INTEL, "sys/module/vfio_iommu_type1"),
        ),
        GOOD,
    ),
    "PVP126": (host({**ids(NVME), **NOT_LISTED}, devices=ON_VFIO), host(ids(NVME), devices=ON_VFIO)),
    "PVP127": (host({"etc/modules": "vfio\nvfio_virqfd\n"}), GOOD),
    "PVP128": (host(TYPO), GOOD),
    "PVP129": (host(ids(f"{NVME},10de-2204"), devices=ON_VFIO), host(ids(f"{NVME},"), devices=ON_VFIO)),
    "PVP130": (host(ids(f"{NVME},10de:ffff"), devices=ON_VFIO), host(ids(NVME), devices=ON_VFIO)),
    "PVP131": (
        host(ids(NVME), change=mounted("0000:02:00.0")),
        host(ids(NVME), devices=ON_VFIO, change=mounted("0000:41:00.0")),
    ),
    "PVP132": (host(ids(NVME)), host(ids(NVME, "softdep nvme pre: vfio-pci\n"), devices=ON_VFIO)),
    "PVP133": (
        host(ids(NVME), config=VM, devices={**ON_VFIO, "0000:05:00.0": SECOND}),
        host(ids(NVME), config=f"{VM}hostpci1: 05:00.0\n", devices={**ON_VFIO, "0000:05:00.0": SECOND}),
    ),
    "PVP134": (
        host(modprobe("blacklist nvme\n"), change=both(IN_NVME, mounted("0000:02:00.0"))),
        host(
            {**modprobe("blacklist nvme\n"), f"lib/modules/{RELEASE}/modules.builtin": "kernel/nvme/nvme.ko\n"},
            change=both(IN_NVME, mounted("0000:02:00.0")),
        ),
    ),
    "PVP135": (host(modprobe("blacklist nouveau\n")), host(modprobe("blacklist radeon\n"))),
    "PVP136": (
        host(ids(NVME, "options vfio_pci ids=10de:1aef\n"), devices={"0000:01:00.1": {"driver": "vfio-pci"}}),
        host(ids("10de:1aef", f"options vfio_pci ids=10de:1aef,{NVME}\n"), devices=ON_VFIO),
    ),
    "PVP137": (
        host({"etc/modprobe.d/vfio": "options vfio-pci ids=10de:2204\n"}),
        host({"etc/modprobe.d/vfio": "# nothing\n", "etc/modprobe.d/vfio.conf.bak": "blacklist nvme\n"}),
    ),
    "PVP138": (host(modprobe("Blacklist nouveau\n")), host(modprobe("# Blacklist nouveau\nblacklist \\\n  radeon\n"))),
    "PVP139": (
        host(modprobe("options vfio_iommu_type1 disable_hugepage=1\n")),
        host(modprobe("options vfio_iommu_type1 disable_hugepages=1\n")),
    ),
    "PVP140": (
        host(
            {**modprobe("install vfio-pci /bin/false\n"), **NOT_LISTED},
            base=without(INTEL, "sys/module/vfio_pci"),
        ),
        host(modprobe("blacklist vfio-pci\n")),
    ),
    "PVP141": (host(modprobe("options vfio enable_unsafe_noiommu_mode=1\n")), GOOD),
}
