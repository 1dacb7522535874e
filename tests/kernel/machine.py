# SPDX-License-Identifier: Apache-2.0
"""The guest's PCI machine as a plain description, and a tree of it for a SimHost.

machine.json was taken from the guest, after `prepare` of sysfs.py, and a test in both worlds compares it with what is
there. To renew it after a change of the machine:

    ./dev kernel '/usr/bin/python3 -m tests.kernel.machine' > tests/kernel/machine.json
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from pvepassthru.host.host import Host
from tests.kernel import guest

if TYPE_CHECKING:
    from pathlib import Path

FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "machine.json")
ATTRIBUTES = (
    *("vendor", "device", "class", "revision", "subsystem_vendor", "subsystem_device", "driver_override"),
    *("reset_method", "sriov_totalvfs", "sriov_numvfs", "sriov_offset", "sriov_stride", "sriov_vf_device"),
    *("sriov_drivers_autoprobe", "ari_enabled", "d3cold_allowed"),
)
TYPE_FILES = ("name", "device_api", "description", "available_instances")
DRIVERS = ("e1000e", "nvme", "pcieport", "tbmdev", "tbvgpu", "vfio-pci", "virtio-pci")
"""The drivers that the tests speak of; which others the kernel has built in does not matter."""


def describe(host: Host) -> dict[str, Any]:
    """The PCI functions of a host, each with where it hangs, its group, driver, attributes and mdev types."""
    devices: dict[str, Any] = {}
    for address in host.names(guest.PCI):
        path = f"{guest.PCI}/{address}"
        values = {name: host.text(f"{path}/{name}") for name in ATTRIBUTES}
        device: dict[str, Any] = {
            "path": host.resolve(path),
            "group": host.link(f"{path}/iommu_group"),
            "driver": host.link(f"{path}/driver"),
            "reset": host.exists(f"{path}/reset"),
            "bridge": host.exists(f"{path}/pci_bus"),
            "attributes": {name: value for name, value in values.items() if value is not None},
        }
        types = host.names(f"{path}/mdev_supported_types")
        if types:
            device["types"] = {kind: _type(host, f"{path}/mdev_supported_types/{kind}") for kind in types}
        devices[address] = device
    loaded = host.names(guest.DRIVERS)
    return {"devices": devices, "drivers": [name for name in DRIVERS if name in loaded]}


def _type(host: Host, path: str) -> dict[str, str | None]:
    return {name: host.text(f"{path}/{name}") for name in TYPE_FILES}


def read() -> dict[str, Any]:
    """The committed description of the guest."""
    with open(FILE, encoding="utf-8") as file:
        description: dict[str, Any] = json.load(file)
    return description


def build(root: Path, description: dict[str, Any]) -> None:
    """Make a tree with these devices below `root`, laid out as the kernel does: folders in /sys/devices, and links."""
    sys_folder = root / "sys"
    for folder in ("bus/pci/devices", "bus/pci/drivers", "bus/mdev/devices", "class/mdev_bus", "class/iommu/dmar0"):
        (sys_folder / folder).mkdir(parents=True)
    for name in ("bus/pci/drivers_probe", "bus/pci/rescan"):
        (sys_folder / name).touch()
    console = sys_folder / "class/vtconsole/vtcon0"  # the one that is always there
    console.mkdir(parents=True)
    (console / "name").write_text("(S) dummy device\n", encoding="ascii")
    (console / "bind").write_text("1\n", encoding="ascii")
    for name in ("efi-framebuffer", "simple-framebuffer", "vesa-framebuffer"):
        (sys_folder / "bus/platform/drivers" / name).mkdir(parents=True)
    for name in description["drivers"]:
        folder = sys_folder / "bus/pci/drivers" / name
        folder.mkdir()
        for control in ("bind", "unbind", "new_id", "remove_id"):
            (folder / control).touch()
    for address, device in description["devices"].items():
        _add(root, address, device)


def _add(root: Path, address: str, device: dict[str, Any]) -> None:
    folder = root / device["path"].lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)  # a device behind it may be there already
    for name, value in device["attributes"].items():
        (folder / name).write_text(value + "\n", encoding="utf-8")
    (folder / "remove").touch()
    (folder / "power").mkdir()
    for name, value in (("control", "on"), ("runtime_status", "active")):
        (folder / "power" / name).write_text(value + "\n", encoding="ascii")
    if device["reset"]:
        (folder / "reset").touch()
    if device["bridge"]:
        (folder / "pci_bus").mkdir()
    _link(root / "sys/bus/pci/devices" / address, folder)
    group = root / "sys/kernel/iommu_groups" / device["group"]
    (group / "devices").mkdir(parents=True, exist_ok=True)
    _link(group / "devices" / address, folder)
    _link(folder / "iommu_group", group)
    if device["driver"]:
        driver = root / "sys/bus/pci/drivers" / device["driver"]
        _link(folder / "driver", driver)
        _link(driver / address, folder)
    for kind, files in device.get("types", {}).items():
        types = folder / "mdev_supported_types" / kind
        (types / "devices").mkdir(parents=True)
        (types / "create").touch()
        for name, value in files.items():
            (types / name).write_text(f"{value}\n", encoding="utf-8")
    if "types" in device:
        _link(root / "sys/class/mdev_bus" / address, folder)


def _link(path: Path, target: Path) -> None:
    path.symlink_to(os.path.relpath(target, path.parent))


if __name__ == "__main__":
    guest.load_drivers()
    guest.load_tbmdev()
    json.dump(describe(Host("/")), sys.stdout, indent=1)
    print()
