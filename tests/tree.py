# SPDX-License-Identifier: Apache-2.0
"""Builds a real folder tree of a host from a plain description, for tests.

The description is the HOST of tests/conformance/README.md: `{"iommu": bool, "vfio_pci": bool, "devices": {ADDRESS:
DEVICE}}`, a DEVICE having the texts of its files (vendor, device, class, subsystem_vendor, subsystem_device, irq),
`iommu_group`, `driver`, `reset`, `pci_bus`, `physfn`, `mdev` and `nvidia`. Beyond it a device may have:

- `mdev: {"types": {TYPE: {"available", "name", "description", "device_api"}}, "instances": {UUID: TYPE}}`;
  a TYPE of None makes an instance without mdev_type, as one that the kernel is still creating;
- `files: {NAME: TEXT}`, further attributes.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DEVICES = "sys/bus/pci/devices"
DRIVERS = "sys/bus/pci/drivers"
GROUPS = "sys/kernel/iommu_groups"
ATTRIBUTES = ("vendor", "device", "class", "subsystem_vendor", "subsystem_device")


def put(root: str | Path, path: str, content: str | bytes = "") -> str:
    """Write one file below `root`, with its folders; returns its real path."""
    real = os.path.join(root, path.lstrip("/"))
    os.makedirs(os.path.dirname(real), exist_ok=True)
    with open(real, "wb") as file:
        file.write(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)
    return real


def folder(root: str | Path, path: str) -> str:
    """Make one folder below `root`; returns its real path."""
    real = os.path.join(root, path.lstrip("/"))
    os.makedirs(real, exist_ok=True)
    return real


def link(root: str | Path, path: str, target: str) -> None:
    """Make a relative symbolic link from `path` to `target`, both as on a host."""
    real = os.path.join(root, path.lstrip("/"))
    os.makedirs(os.path.dirname(real), exist_ok=True)
    if os.path.islink(real):
        os.unlink(real)
    os.symlink(os.path.relpath(os.path.join(root, target.lstrip("/")), os.path.dirname(real)), real)


def build(  # noqa: PLR0913 - the parts of a host, each by keyword
    root: str | Path,
    host: Mapping[str, Any] | None = None,
    *,
    node: str = "pve",
    configs: Mapping[int, str | bytes] | None = None,
    mapping: str | bytes | None = None,
    reservations: str | bytes | None = None,
    running: Mapping[int, int] | None = None,
) -> str:
    """Build the whole tree below `root` and return it as text.

    `configs` are VM configs by VMID, `mapping` the text of mapping/pci.cfg, `reservations` that of PVE's reservation
    file, `running` the pids of running VMs by VMID.
    """
    hardware(root, host or {"devices": {}})
    guests(root, node=node, configs=configs, mapping=mapping, reservations=reservations, running=running)
    return str(root)


def hardware(root: str | Path, host: Mapping[str, Any]) -> None:
    """Build the hardware's part of the tree: /sys, and the empty folder of ROM files."""
    folder(root, "sys/class/iommu")
    if host.get("iommu", True):
        folder(root, "sys/class/iommu/dmar0")
    for name in (DEVICES, DRIVERS, GROUPS, "usr/share/kvm"):
        folder(root, name)
    if host.get("vfio_pci", True):
        driver(root, "vfio-pci")
    for address, device in host["devices"].items():
        add_device(root, address, device)


def guests(  # noqa: PLR0913 - as build
    root: str | Path,
    *,
    node: str = "pve",
    configs: Mapping[int, str | bytes] | None = None,
    mapping: str | bytes | None = None,
    reservations: str | bytes | None = None,
    running: Mapping[int, int] | None = None,
) -> None:
    """Build PVE's part of the tree: /etc/pve, /run/qemu-server and /proc; what was there before goes."""
    for name in ("etc/pve", "run/qemu-server", "proc"):
        shutil.rmtree(os.path.join(root, name), ignore_errors=True)
    put(root, "etc/hostname", f"{node}\n")
    folder(root, "run/qemu-server")
    folder(root, f"etc/pve/nodes/{node}/qemu-server")
    link(root, "etc/pve/qemu-server", f"etc/pve/nodes/{node}/qemu-server")
    link(root, "etc/pve/local", f"etc/pve/nodes/{node}")
    for vmid, text in (configs or {}).items():
        put(root, f"etc/pve/nodes/{node}/qemu-server/{vmid}.conf", text)
    if mapping is not None:
        put(root, "etc/pve/mapping/pci.cfg", mapping)
    if reservations is not None:
        put(root, "run/qemu-server/pci-id-reservations", reservations)
    for vmid, pid in (running or {}).items():
        run(root, vmid, pid)


def driver(root: str | Path, name: str) -> None:
    """Make a PCI driver's folder with its control files."""
    for attribute in ("bind", "unbind", "new_id", "remove_id"):
        put(root, f"{DRIVERS}/{name}/{attribute}")


def run(root: str | Path, vmid: int, pid: int) -> None:
    """Let a VM run: its pid file and its process as QEMU leaves them."""
    put(root, f"run/qemu-server/{vmid}.pid", f"{pid}\n")
    arguments = ["/usr/bin/kvm", "-id", str(vmid), "-pidfile", f"/var/run/qemu-server/{vmid}.pid", "-daemonize"]
    put(root, f"proc/{pid}/cmdline", "".join(f"{argument}\0" for argument in arguments))


def hold(root: str | Path, pid: int, node: str) -> None:
    """Let a process have a device node open."""
    put(root, f"proc/{pid}/comm", "holder\n")
    os.symlink(node, os.path.join(folder(root, f"proc/{pid}/fd"), node.replace("/", "-")))


def stop(root: str | Path, vmid: int) -> None:
    """Take a VM's pid file and its process away."""
    pid_file = os.path.join(root, f"run/qemu-server/{vmid}.pid")
    with open(pid_file, encoding="ascii") as file:
        pid = file.read().strip()
    os.unlink(pid_file)
    os.unlink(os.path.join(root, f"proc/{pid}/cmdline"))


def add_device(root: str | Path, address: str, device: Mapping[str, Any]) -> None:
    """Make one PCI function."""
    here = f"{DEVICES}/{address}"
    folder(root, here)
    for attribute in ATTRIBUTES:
        if attribute in device:
            put(root, f"{here}/{attribute}", f"{device[attribute]}\n")
    if device.get("irq", "16") is not None:
        put(root, f"{here}/irq", f"{device.get('irq', '16')}\n")
    for attribute, text in device.get("files", {}).items():
        put(root, f"{here}/{attribute}", text)
    put(root, f"{here}/driver_override", "(null)\n")
    if device.get("reset"):
        put(root, f"{here}/reset")
    if device.get("pci_bus"):
        folder(root, f"{here}/pci_bus")
    _add_links(root, address, device)
    if "mdev" in device:
        _add_mdev(root, here, device["mdev"])
    if "nvidia" in device:
        _add_nvidia(root, here, device["nvidia"])


def _add_links(root: str | Path, address: str, device: Mapping[str, Any]) -> None:
    here = f"{DEVICES}/{address}"
    group = device.get("iommu_group")
    if group is not None:
        link(root, f"{GROUPS}/{group}/devices/{address}", here)
        link(root, f"{here}/iommu_group", f"{GROUPS}/{group}")
    if "driver" in device:
        if not os.path.isdir(os.path.join(root, DRIVERS, device["driver"])):
            driver(root, device["driver"])
        link(root, f"{here}/driver", f"{DRIVERS}/{device['driver']}")
        link(root, f"{DRIVERS}/{device['driver']}/{address}", here)
    if "physfn" in device:
        link(root, f"{here}/physfn", f"{DEVICES}/{device['physfn']}")


def _add_mdev(root: str | Path, here: str, mdev: Mapping[str, Any]) -> None:
    folder(root, f"{here}/mdev_supported_types")
    for name, values in mdev["types"].items():
        kind = f"{here}/mdev_supported_types/{name}"
        put(root, f"{kind}/create")
        folder(root, f"{kind}/devices")
        put(root, f"{kind}/device_api", f"{values.get('device_api', 'vfio-pci')}\n")
        if values.get("available") is not None:
            put(root, f"{kind}/available_instances", f"{values['available']}\n")
        for attribute in ("name", "description"):
            if values.get(attribute) is not None:
                put(root, f"{kind}/{attribute}", f"{values[attribute]}\n")
    for uuid, name in mdev.get("instances", {}).items():
        put(root, f"{here}/{uuid}/remove")
        link(root, f"sys/bus/mdev/devices/{uuid}", f"{here}/{uuid}")
        if name is not None:
            link(root, f"{here}/{uuid}/mdev_type", f"{here}/mdev_supported_types/{name}")
            link(root, f"{here}/mdev_supported_types/{name}/devices/{uuid}", f"{here}/{uuid}")


def _add_nvidia(root: str | Path, here: str, nvidia: Mapping[str, Any]) -> None:
    folder(root, f"{here}/nvidia")
    if "creatable" in nvidia:
        lines = "".join(f"{kind['id']:<5} : {kind['name']}\n" for kind in nvidia["creatable"])
        put(root, f"{here}/nvidia/creatable_vgpu_types", "ID    : vGPU Name\n" + lines)
    if "current" in nvidia:
        put(root, f"{here}/nvidia/current_vgpu_type", f"{nvidia['current']}\n")
