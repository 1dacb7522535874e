# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pvepassthru.host.host import Host
from pvepassthru.host.inventory import Inventory
from pvepassthru.host.uses import Uses
from tests import storage, tree

if TYPE_CHECKING:
    from pathlib import Path

NVME = "0000:02:00.0"
NIC = "0000:05:00.0"


@pytest.fixture
def root(tmp_path: Path) -> str:
    tree.hardware(tmp_path, {"devices": {NVME: {}, NIC: {}}})
    return str(tmp_path)


def uses(root: str, address: str = NVME) -> list[tuple[str, str, str]]:
    host = Host(root)
    return [(use.kind, use.name, use.detail) for use in Uses(host, Inventory(host)).of(address)]


def test_a_disk_that_nothing_uses(root: str) -> None:
    storage.disk(root, NVME)
    storage.mount(root, "0:5 /proc proc proc")
    storage.swap(root)
    assert uses(root) == []
    assert uses(root, NIC) == []


def test_mounts(root: str) -> None:
    storage.disk(root, NVME)
    storage.mount(root, "259:2 /boot/a\\040b ext4 /dev/nvme0n1p2", "259:2 /mnt ext4 /dev/nvme0n1p2")
    assert uses(root) == [
        ("mount", "nvme0n1p2", "/dev/nvme0n1p2 is mounted on /boot/a b"),
        ("mount", "nvme0n1p2", "/dev/nvme0n1p2 is mounted on /mnt"),
    ]


def test_root_and_swap_on_lvm(root: str) -> None:
    storage.disk(root, NVME)
    storage.mapped(root, "pve-root", 0, "LVM-abc", "nvme0n1p3")
    storage.mapped(root, "pve-swap", 1, "LVM-def", "nvme0n1p3")
    storage.mount(root, "253:0 / ext4 /dev/mapper/pve-root")
    storage.swap(root, "/dev/dm-1 partition", "/var/swap file")
    assert uses(root) == [
        ("lvm", "nvme0n1p3", "/dev/nvme0n1p3 carries active logical volumes (pve-root, pve-swap)"),
        ("mount", "nvme0n1p3", "/dev/mapper/pve-root on /dev/nvme0n1p3 is mounted on /"),
        ("swap", "nvme0n1p3", "/dev/mapper/pve-root on /dev/nvme0n1p3 has the swap file /var/swap"),
        ("swap", "nvme0n1p3", "/dev/mapper/pve-swap on /dev/nvme0n1p3 is swap space"),
    ]


def test_default_route_by_a_bridge_on_a_vlan_of_a_bond(root: str) -> None:
    storage.net(root, NIC, "eno1")
    storage.upper(root, "bond0", "eno1", master=True)
    storage.upper(root, "bond0.7", "bond0")
    storage.upper(root, "vmbr0", "bond0.7", bridge=True)
    storage.routes(root, "vmbr0 00000000 00000000", "vmbr0 0001A8C0 00FFFFFF")
    assert uses(root, NIC) == [
        ("bridge", "eno1", "eno1 is a port of bridge vmbr0"),
        ("route", "eno1", "eno1 carries the default route by vmbr0"),
    ]
