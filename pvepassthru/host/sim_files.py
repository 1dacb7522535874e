# SPDX-License-Identifier: Apache-2.0
"""Which operation of the simulated kernel a write to a file of its sysfs is."""

from __future__ import annotations

import errno
import os

from pvepassthru.host import sim_bind, sim_display, sim_mdev, sim_pci, sim_sriov
from pvepassthru.host.sim_number import parse_switch
from pvepassthru.host.sim_tree import DRIVERS, fail
from pvepassthru.model.pci import is_address, is_uuid
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from pvepassthru.host.sim_tree import Entry, Tree

BUS = "/sys/bus/pci"
READ_ONLY = frozenset(
    {
        "available_instances", "ari_enabled", "boot_vga", "class", "consistent_dma_mask_bits", "creatable_vgpu_types",
        "current_link_speed", "current_link_width", "description", "device", "device_api", "dma_mask_bits", "irq",
        "local_cpulist", "local_cpus", "max_link_speed", "max_link_width", "modalias", "name", "power_state",
        "resource", "revision", "sriov_offset", "sriov_stride", "sriov_totalvfs", "sriov_vf_device",
        "sriov_vf_total_msix", "subsystem_device", "subsystem_vendor", "vendor",
    }
)  # fmt: skip
"""Attributes that nobody may write, whatever their mode is in a tree that a test or a capture made."""


def write(tree: Tree, path: str, value: str) -> Entry | None:
    """Plan a write of `value`; returns what must go on, if it is a write that can take time. Raises OSError."""
    head, _, name = path.rpartition("/")
    if head == BUS and name in {"drivers_probe", "rescan"}:
        if value and name == "rescan":
            sim_pci.rescan(tree, value, path)
        elif value:
            sim_pci.drivers_probe(tree, value)
        return None
    driver = _driver(tree, head)
    if driver is not None and name in sim_bind.CONTROLS:
        return _write_driver(tree, driver, name, value)
    if sim_display.write(tree, head, name, value):
        return None
    folder = tree.disk.resolve(head)
    if folder is None:
        fail(errno.ENOENT, path)
    if _is_function(tree, folder):
        return _write_function(tree, folder, name, value)
    return _write_below(tree, folder, name, value)


def _is_function(tree: Tree, folder: str) -> bool:
    """Whether this is the folder of a PCI function, with all links followed."""
    name = folder.rpartition("/")[2]
    return is_address(name) and tree.device(name) == folder


def _driver(tree: Tree, head: str) -> str | None:
    """The PCI driver whose folder `head` is, or None; a function's link to it may dangle in a captured tree."""
    if head.startswith(DRIVERS + "/") and "/" not in head[len(DRIVERS) + 1 :]:
        name = head[len(DRIVERS) + 1 :]
        return name if sim_bind.is_loaded(tree, name) else None
    if head.endswith("/driver"):
        folder = tree.disk.resolve(head[: -len("/driver")])
        if folder and _is_function(tree, folder):
            return tree.driver(folder)
    return None


def _write_driver(tree: Tree, driver: str, name: str, value: str) -> Entry | None:
    if not value:
        return None
    if name == "unbind":
        return sim_pci.unbind(tree, driver, value)
    operations = {"bind": sim_pci.bind, "new_id": sim_pci.new_id, "remove_id": sim_pci.remove_id}
    operations[name](tree, driver, value)
    return None


def _write_function(tree: Tree, folder: str, name: str, value: str) -> Entry | None:
    path = f"{folder}/{name}"
    if name == "remove":
        return sim_pci.vanish(tree, folder, value)
    implied = name == "driver_override" or (name == "rescan" and not tree.is_virtual(folder))
    if name in {"sriov_numvfs", "sriov_drivers_autoprobe"}:
        implied = tree.exists(f"{folder}/sriov_totalvfs")
    if not implied and not tree.exists(path):
        fail(errno.ENOENT, path)
    if name == "sriov_numvfs":
        return sim_sriov.set_numvfs(tree, folder, value)
    if name == "rescan":
        if value:
            sim_pci.rescan(tree, value, path, folder.rpartition("/")[0] + "/")
        return None
    operations = {
        "d3cold_allowed": sim_pci.set_d3cold,
        "driver_override": sim_pci.set_override,
        "reset": sim_pci.reset,
        "reset_method": sim_pci.set_reset_method,
        "sriov_drivers_autoprobe": sim_sriov.set_autoprobe,
    }
    if name.startswith("resource") and name.endswith("_resize"):
        sim_pci.resize(tree, folder, name, value)
    elif name not in operations:
        store(tree, path, value)
    elif value:
        operations[name](tree, folder, value)
    return None


def _write_below(tree: Tree, folder: str, name: str, value: str) -> Entry | None:
    """Write to a file of a folder that is no function's own."""
    parent, _, own = folder.rpartition("/")
    if _is_function(tree, parent):
        return _write_below_function(tree, folder, name, value)
    function, _, types = parent.rpartition("/")
    if name == "create" and types == sim_mdev.TYPES and _is_function(tree, function):
        return sim_mdev.create(tree, function, own, value)
    store(tree, f"{folder}/{name}", value)
    return None


def _write_below_function(tree: Tree, folder: str, name: str, value: str) -> Entry | None:
    function, _, own = folder.rpartition("/")
    if name == "remove" and is_uuid(own):
        return sim_mdev.remove(tree, folder, value)
    if name == "current_vgpu_type" and own == sim_mdev.VENDOR:
        sim_mdev.set_vgpu(tree, function, value)
    elif name == "control" and own == "power":
        sim_pci.set_power(tree, function, value)
    else:
        store(tree, f"{folder}/{name}", value)
    return None


def store(tree: Tree, path: str, value: str) -> None:
    """Plan a write without a meaning to the simulation: the file holds the value. Raises OSError."""
    real = tree.disk.path(path)
    if os.path.isdir(real):
        fail(errno.EISDIR, path)
    mode = os.stat(real).st_mode
    if path.rpartition("/")[2] in READ_ONLY or not mode & 0o222:
        fail(errno.EACCES, path)
    if not value:
        return
    if path.startswith("/sys/module/") and tree.text(path) in {"Y", "N"}:
        value = "Y" if parse_switch(value, path) else "N"
    tree.file(path, value.removesuffix("\n"))
