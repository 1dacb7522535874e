# SPDX-License-Identifier: Apache-2.0
"""IOMMU groups and VFIO nodes of a simulated host, and who has them open."""

from __future__ import annotations

import os

from pvepassthru.host.inventory import DEVICES
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from pvepassthru.host.sim_tree import Tree

GROUPS = "/sys/kernel/iommu_groups"
NODES = "/dev/vfio"
CDEVS = "/sys/class/vfio-dev"


def group(tree: Tree, folder: str) -> str | None:
    """The number of a device's or instance's IOMMU group, as text, or None."""
    return tree.link(f"{folder}/iommu_group")


def join_group(tree: Tree, folder: str) -> None:
    """Plan a new IOMMU group, of the lowest free number as in the kernel, with this device or instance in it."""
    if not tree.taken_groups:
        names = tree.names(GROUPS)
        if not names:
            names = [tree.link(f"{DEVICES}/{address}/iommu_group") or "" for address in tree.names(DEVICES)]
        tree.taken_groups = {int(name) for name in names if name.isdecimal()}
    number = next(number for number in range(len(tree.taken_groups) + 1) if number not in tree.taken_groups)
    tree.taken_groups.add(number)
    tree.connect(f"{GROUPS}/{number}/devices/{folder.rpartition('/')[2]}", folder)
    tree.connect(f"{folder}/iommu_group", f"{GROUPS}/{number}")


def leave_group(tree: Tree, folder: str) -> None:
    """Plan that a device or instance leaves its IOMMU group; a group goes with its last member."""
    number = group(tree, folder)
    if number is not None:
        members = f"{GROUPS}/{number}/devices"
        tree.remove(f"{members}/{folder.rpartition('/')[2]}")
        if not tree.names(members):
            tree.remove(f"{GROUPS}/{number}")


def add_nodes(tree: Tree, folder: str) -> None:
    """Plan what VFIO shows of a device or instance: its vfio-dev folder, and its group's node in /dev/vfio."""
    taken = set(tree.names(CDEVS))
    name = next(name for name in (f"vfio{number}" for number in range(len(taken) + 1)) if name not in taken)
    tree.folder(f"{folder}/vfio-dev/{name}")
    tree.connect(f"{CDEVS}/{name}", f"{folder}/vfio-dev/{name}")
    if (number := group(tree, folder)) is not None:
        tree.file(f"{NODES}/{number}", "")


def remove_nodes(tree: Tree, folder: str) -> None:
    """Plan that they go; a group's node goes with the group's last VFIO device."""
    for name in tree.names(f"{folder}/vfio-dev"):
        tree.remove(f"{CDEVS}/{name}")
    tree.remove(f"{folder}/vfio-dev")
    number = group(tree, folder)
    if number is not None and not any(
        _is_open_to_vfio(tree, name) for name in tree.names(f"{GROUPS}/{number}/devices")
    ):
        tree.remove(f"{NODES}/{number}")


def _is_open_to_vfio(tree: Tree, member: str) -> bool:
    folder = tree.device(member)
    return folder is not None and tree.exists(f"{folder}/vfio-dev")


def held(tree: Tree, folder: str) -> bool:
    """Whether a process (a folder in /proc) has a link in its `fd` to the group or the cdev of a device or instance."""
    nodes = {f"{NODES}/devices/{name}" for name in tree.names(f"{folder}/vfio-dev")}
    if (number := group(tree, folder)) is not None:
        nodes.add(f"{NODES}/{number}")
    for pid in tree.disk.names("/proc"):
        if pid.isdecimal():
            for descriptor in tree.disk.names(f"/proc/{pid}/fd"):
                try:
                    target = os.readlink(tree.disk.path(f"/proc/{pid}/fd/{descriptor}"))
                except OSError:  # closed meanwhile
                    continue
                if target.removeprefix(tree.disk.root) in nodes:
                    return True
    return False
