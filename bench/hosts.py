# SPDX-License-Identifier: Apache-2.0
"""The simulated hosts that the benchmark runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests import tree

if TYPE_CHECKING:
    from collections.abc import Iterable

FUNCTIONS = 4096
UNUSED = "0x0000000000000000 0x0000000000000000 0x0000000000000000"
"""The line of a function's `resource` for a region that it does not have."""
AER = (
    "Undefined",
    "DLP",
    "SDES",
    "TLP",
    "FCP",
    "CmpltTO",
    "CmpltAbrt",
    "UnxCmplt",
    "RxOF",
    "MalfTLP",
    "TOTAL_ERR_FATAL",
)
PARENT = "0000:08:00.0"
MDEV_TYPE = "nvidia-63"
MDEV_UUID = "00000000-0000-0000-0000-000000000101"
"""PVE's own for hostpci0 of VM 101."""

REGIONS = "0x00000000fee00000 0x00000000feefffff msi\n"
"""The `reserved_regions` of an IOMMU group."""


GPU = {"0000:01:00.0": "nouveau", "0000:01:00.1": "snd_hda_intel"}
"""Display and audio of one slot, with their drivers."""


def hook_host(root: str) -> None:
    """A host with VM 100, that passes nothing through, VM 101 with one mdev, and VM 102 with a GPU."""
    kinds = {MDEV_TYPE: {"available": 4, "name": "GRID P4-1Q"}}
    parent = {"vendor": "0x10de", "device": "0x1bb3", "class": "0x030200", "iommu_group": 8, "driver": "nvidia"}
    plain = "cores: 4\nmachine: q35\nmemory: 8192\nname: plain\nnet0: virtio=BC:24:11:00:00:01,bridge=vmbr0\nvga: std\n"
    configs = {
        100: plain,
        101: f"{plain}hostpci0: {PARENT},mdev={MDEV_TYPE}\n",
        102: f"{plain}hostpci0: 0000:01:00,pcie=1,x-vga=1\n",
    }
    gpu = {"vendor": "0x10de", "device": "0x1c03", "class": "0x030000", "iommu_group": 9, "driver": "nouveau"}
    audio = {**gpu, "device": "0x10f1", "class": "0x040300", "driver": "snd_hda_intel"}
    devices = {PARENT: {**parent, "mdev": {"types": kinds}}, **dict(zip(GPU, (gpu, audio), strict=True))}
    tree.build(root, {"devices": devices}, configs=configs)


def race_host(root: str, vms: int) -> list[int]:
    """A host with a GPU that has an mdev for each of so many VMs; returns their VMIDs."""
    kinds = {MDEV_TYPE: {"available": vms, "name": "GRID P4-1Q"}}
    parent = {"vendor": "0x10de", "device": "0x1bb3", "class": "0x030200", "iommu_group": 8, "driver": "nvidia"}
    config = f"cores: 4\nmachine: q35\nmemory: 8192\nhostpci0: {PARENT},mdev={MDEV_TYPE}\n"
    vmids = list(range(101, 101 + vms))
    tree.build(root, {"devices": {PARENT: {**parent, "mdev": {"types": kinds}}}}, configs=dict.fromkeys(vmids, config))
    return vmids


def addresses(count: int) -> list[str]:
    """The addresses of so many functions."""
    return [f"{index >> 16:04x}:{index >> 8 & 255:02x}:{index >> 3 & 31:02x}.{index & 7}" for index in range(count)]


def devices(count: int) -> dict[str, Any]:
    """So many network functions, each in a group of its own and with a driver."""
    common = {
        "vendor": "0x8086",
        "device": "0x154c",
        "class": "0x020000",
        "subsystem_vendor": "0x8086",
        "subsystem_device": "0x0001",
        "driver": "vfio-pci",
        "reset": True,
        "files": {
            "config": bytes.fromhex("86804c15") + bytes(60),
            "reset_method": "flr bus\n",
            "resource": "0x00000000f0000000 0x00000000f07fffff 0x000000000014220c\n" + f"{UNUSED}\n" * 12,
            "aer_dev_fatal": "".join(f"{name} 0\n" for name in AER),
            "current_link_width": "8\n",
            "max_link_width": "8\n",
        },
    }
    return {address: {**common, "iommu_group": group} for group, address in enumerate(addresses(count))}


def validate_host(root: str, vms: int, functions: int | None = None) -> None:
    """A host with so many functions (FUNCTIONS, if not given) and VMs, from 1000 on, of four functions each."""
    count = FUNCTIONS if functions is None else functions
    free = iter(addresses(count))
    configs = {vmid: _config(vmid, [next(free) for _ in range(4)]) for vmid in range(1000, 1000 + vms)}
    tree.build(root, {"devices": devices(count)}, configs=configs)
    for group in range(count):
        tree.put(root, f"sys/kernel/iommu_groups/{group}/reserved_regions", REGIONS)


def _config(vmid: int, functions: Iterable[str]) -> str:
    entries = [f"hostpci{index}: {function},pcie=1\n" for index, function in enumerate(functions)]
    net = f"net0: virtio=BC:24:11:00:{vmid >> 8 & 255:02X}:{vmid & 255:02X},bridge=vmbr0\n"
    return f"cores: 4\n{''.join(entries)}machine: q35\nmemory: 8192\nname: vm{vmid}\n{net}ostype: l26\n"
