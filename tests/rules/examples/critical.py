# SPDX-License-Identifier: Apache-2.0
"""Examples of the rules that save the host (rules/critical.py)."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests import storage, tree
from tests.rules.example import TYPES, Tree

if TYPE_CHECKING:
    from collections.abc import Callable

SSD = "0000:02:00.0"
NIC = "0000:05:00.0"
PF = "0000:a1:00.0"
NICS: dict[str, dict[str, Any]] = {
    NIC: {"vendor": "0x8086", "device": "0x10d3", "class": "0x020000", "iommu_group": 5, "driver": "e1000e"}
}
GUID = "7812345678901234567"


def _disk(*changes: Callable[[str], object]) -> Tree:
    """A VM that gets the SSD, on which a disk is, and what else there is to the host."""

    def change(root: str) -> None:
        storage.disk(root, SSD)
        storage.mount(root, "0:5 /proc proc proc")
        storage.swap(root)
        for step in changes:
            step(root)

    return Tree("hostpci0: 02:00.0\n", change=change)


def _nic(*changes: Callable[[str], object]) -> Tree:
    """A VM that gets the network card, which has an interface, and what else there is to the host."""

    def change(root: str) -> None:
        storage.net(root, NIC, "eno1")
        storage.routes(root)
        for step in changes:
            step(root)

    return Tree("hostpci0: 05:00.0\n", NICS, change=change)


def _mount(*lines: str) -> Callable[[str], object]:
    return lambda root: storage.mount(root, *lines)


def _lvm(root: str) -> None:
    storage.mapped(root, "vm-pool", 7, "LVM-abcdef", "nvme0n1p3")


def _udev(**values: str) -> Callable[[str], object]:
    return lambda root: storage.udev(root, "259:3", **values)


def _pool(name: str, guid: str = "") -> Callable[[str], object]:
    return lambda root: storage.pool(root, name, guid)


def _array(state: str) -> Callable[[str], object]:
    return lambda root: storage.array(root, "md0", 0, state, "nvme0n1p3")


def _bridge(root: str) -> None:
    storage.upper(root, "vmbr1", "eno1", bridge=True)


def _vfs(root: str) -> None:
    tree.put(root, f"{tree.DEVICES}/{PF}/sriov_numvfs", "2\n")
    tree.link(root, f"{tree.DEVICES}/{PF}/virtfn0", f"{tree.DEVICES}/0000:a1:00.4")
    tree.link(root, f"{tree.DEVICES}/{PF}/virtfn1", f"{tree.DEVICES}/0000:a1:00.5")


def _no_mountinfo(root: str) -> None:
    path = os.path.join(root, "proc/self/mountinfo")
    os.unlink(path)
    os.mkdir(path)


COMPUTE: dict[str, Any] = {"class": "0x030200"}  # for a GPU with outputs q35 is advised
PF_PASSED = Tree("hostpci0: a1:00.0\n", {"0000:a1:00.0": COMPUTE}, change=_vfs)
ZFS = {"FS_TYPE": "zfs_member", "FS_LABEL": "rpool", "FS_UUID": GUID}

EXAMPLES: dict[str, tuple[Tree, Tree]] = {
    "PVP240": (_disk(_mount("259:2 /boot ext4 /dev/nvme0n1p2")), _disk(_mount("8:2 /boot ext4 /dev/sda2"))),
    "PVP241": (_disk(lambda root: storage.swap(root, "/dev/nvme0n1p2 partition")), _disk()),
    "PVP242": (
        _disk(_lvm),
        replace(_disk(_lvm), config="hostpci0: 02:00.0,driver=keep\n", devices={SSD: {"driver": "nvme-vfio-pci"}}),
    ),
    "PVP243": (
        _disk(_udev(**ZFS), _pool("rpool", GUID)),
        _disk(_udev(**ZFS), _pool("rpool", "4711")),  # the guest's pool has the name of the host's
    ),
    "PVP244": (_disk(_array("clean")), _disk()),
    "PVP245": (
        _nic(lambda root: storage.routes(root, "eno1 00000000 00000000")),
        _nic(lambda root: storage.routes(root, "eno2 00000000 00000000")),
    ),
    "PVP246": (_nic(_bridge), _nic(lambda root: storage.upper(root, "vmbr1", bridge=True))),
    "PVP247": (
        replace(PF_PASSED, reservations="0000:a1:00.4 200 pid:42\n", running={200: 42}),
        Tree("hostpci0: a1:00.4,mdev=nvidia-35\n", change=_vfs),
    ),
    "PVP248": (_disk(_no_mountinfo), _disk()),
    "PVP249": (_disk(_udev(FS_TYPE="LVM2_member")), _disk(_udev(FS_TYPE="ext4"))),
    "PVP250": (PF_PASSED, Tree("hostpci0: a1:00.0\n", {"0000:a1:00.0": COMPUTE})),
    "PVP251": (
        Tree(
            "hostpci0: 41:00.0\n",
            {
                "0000:41:00.0": {
                    **COMPUTE,
                    "mdev": {"types": TYPES, "instances": {"c7b3e5a0-5e2c-4c0e-9a51-0d1f6f1f2a3b": "nvidia-63"}},
                }
            },
        ),
        Tree("hostpci0: 41:00.0\n", {"0000:41:00.0": COMPUTE}),
    ),
    "PVP252": (_nic(lambda root: storage.routes(root, "eno1 0001A8C0 00FFFFFF")), _nic()),
}
