# SPDX-License-Identifier: Apache-2.0
"""A node for the tests of generated configs: as a real tree, and as the API would tell of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvepassthru.api import hardware
from pvepassthru.host.host import Host
from pvepassthru.host.inventory import Inventory
from pvepassthru.model import mapping
from tests import tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pvepassthru.api.hardware import NodeHardware

NODE = "pve1"
GVT = "low_gm_size: {}MB\nhigh_gm_size: {}MB\nfence: 4\nresolution: 1920x1200\nweight: {}\n"
P4 = {"vendor": "0x10de", "device": "0x1bb3", "class": "0x030200", "subsystem_vendor": "0x10de"}
A16 = {"vendor": "0x10de", "device": "0x25b6", "class": "0x030200", "subsystem_vendor": "0x10de"}
OFFERS = {"creatable": [{"id": "35", "name": "A16-1Q"}, {"id": "558", "name": "A16-4C"}], "current": "0"}
X520 = {"vendor": "0x8086", "class": "0x020000", "subsystem_vendor": "0x8086", "subsystem_device": "0x7a11"}


def _p4_type(size: int, available: int) -> dict[str, str]:
    description = (
        f"num_heads=4, frl_config=60, framebuffer={1024 * size}M, max_resolution=4096x2160, max_instance={8 // size}"
    )
    return {"available": str(available), "name": f"GRID P4-{size}Q", "description": f"{description}\n"}


DEVICES: dict[str, dict[str, Any]] = {
    "0000:00:01.0": {"vendor": "0x8086", "device": "0x1901", "class": "0x060400", "iommu_group": 1, "pci_bus": True},
    "0000:00:02.0": {
        "vendor": "0x8086",
        "device": "0x5912",
        "class": "0x030000",
        "iommu_group": 2,
        "driver": "i915",
        "subsystem_vendor": "0x1849",
        "subsystem_device": "0x5912",
        "mdev": {
            "types": {
                "i915-GVTg_V5_4": {"available": "1", "description": GVT.format(128, 512, 4)},
                "i915-GVTg_V5_8": {"available": "2", "description": GVT.format(64, 384, 2)},
            }
        },
    },
    "0000:01:00.0": {
        "vendor": "0x10de",
        "device": "0x1b80",
        "class": "0x030000",
        "iommu_group": 3,
        "driver": "nouveau",
        "subsystem_vendor": "0x1462",
        "subsystem_device": "0x3362",
        "files": {"numa_node": "0\n"},
    },
    "0000:01:00.1": {
        "vendor": "0x10de",
        "device": "0x10f0",
        "class": "0x040300",
        "iommu_group": 3,
        "subsystem_vendor": "0x1462",
        "subsystem_device": "0x3362",
        "files": {"numa_node": "0\n"},
    },
    "0000:02:00.0": {"vendor": "0x1a03", "device": "0x2000", "class": "0x030000", "iommu_group": 4, "driver": "ast"},
    "0000:03:00.0": {**X520, "device": "0x10fb", "iommu_group": 14, "driver": "ixgbe"},
    "0000:03:10.0": {**X520, "device": "0x10ed", "iommu_group": 20, "physfn": "0000:03:00.0"},
    "0000:03:10.2": {**X520, "device": "0x10ed", "iommu_group": 21, "physfn": "0000:03:00.0"},
    "0000:04:00.0": {
        "vendor": "0x144d",
        "device": "0xa808",
        "class": "0x010802",
        "iommu_group": 15,
        "driver": "nvme",
        "subsystem_vendor": "0x144d",
        "subsystem_device": "0xa801",
        "files": {"numa_node": "1\n"},
    },
    "0000:05:00.0": {"vendor": "0x1912", "device": "0x0014", "class": "0x0c0330"},
    "0000:06:00.0": {"vendor": "0x8086", "device": "0x1533", "class": "0x020000", "iommu_group": 16, "driver": "igb"},
    "0000:41:00.0": {
        **P4,
        "subsystem_device": "0x11d8",
        "iommu_group": 50,
        "driver": "nvidia",
        "mdev": {"types": {"nvidia-63": _p4_type(1, 8), "nvidia-64": _p4_type(2, 4), "nvidia-65": _p4_type(4, 0)}},
    },
    "0000:a1:00.0": {**A16, "subsystem_device": "0x14a9", "iommu_group": 60, "driver": "nvidia", "nvidia": {}},
    "0000:a1:00.4": {
        **A16,
        "subsystem_device": "0x0000",
        "iommu_group": 61,
        "nvidia": OFFERS,
        "physfn": "0000:a1:00.0",
    },
    "0000:a1:00.5": {
        **A16,
        "subsystem_device": "0x0000",
        "iommu_group": 62,
        "nvidia": OFFERS,
        "physfn": "0000:a1:00.0",
    },
    "10000:e1:00.0": {
        "vendor": "0x8086",
        "device": "0x0b60",
        "class": "0x010802",
        "iommu_group": 30,
        "subsystem_vendor": "0x8086",
        "subsystem_device": "0x39f6",
    },
}
NAMES = {
    "0x8086": "Intel Corporation",
    "0x10de": "NVIDIA Corporation",
    "0x144d": "Samsung Electronics Co Ltd",
}
MAPPINGS: list[dict[str, Any]] = [
    {"id": "gpu", "map": [f"node={NODE},path=0000:01:00,id=10de:1b80,subsystem-id=1462:3362,iommugroup=3"]},
    {
        "id": "vfs",
        "description": "VFs\nof the X520",
        "digest": "e51c",
        "type": "pci",
        "mdev": 0,
        "map": [
            f"node={NODE},path=0000:03:10.0,id=8086:10ed,subsystem-id=8086:7a11,iommugroup=20",
            f"node={NODE},path=0000:03:10.2,id=8086:10ed,subsystem-id=8086:7a11,iommugroup=21",
            "node=pve2,path=0000:03:10.0,id=8086:10ed,subsystem-id=8086:7a11,iommugroup=7",
        ],
    },
    {"id": "nvme", "map": [f"node={NODE},path=0000:04:00.0,id=144d:a808,subsystem-id=144d:a801,iommugroup=15"]},
    {
        "id": "igd",
        "mdev": 1,
        "map": [f"node={NODE},path=0000:00:02.0,id=8086:5912,subsystem-id=1849:5912,iommugroup=2"],
    },
    {
        "id": "p4",
        "mdev": "1",
        "map": [f"node={NODE},path=0000:41:00.0,id=10de:1bb3,subsystem-id=10de:11d8,iommugroup=50"],
    },
    {"id": "drifted", "map": [f"node={NODE},path=0000:04:00.0,id=dead:beef,subsystem-id=144d:a801,iommugroup=15"]},
    {"id": "elsewhere", "map": ["node=pve2,path=0000:01:00.0,id=10de:1b80"]},
]
NO_MAPPINGS = mapping.EMPTY


def pci_cfg() -> str:
    """The cluster's file of these mappings."""
    sections = []
    for one in MAPPINGS:
        lines = [
            one["id"],
            *(f"\tmap {text}" for text in one["map"]),
            *(["\tmdev 1"] if int(one.get("mdev", 0)) else []),
        ]
        sections.append("\n".join(lines) + "\n")
    return "\n".join(sections)


def build(root: Path | str, configs: Mapping[int, str] | None = None, devices: Mapping[str, Any] = DEVICES) -> Host:
    """The node as a real tree."""
    tree.build(root, {"devices": devices}, node=NODE, configs=configs, mapping=pci_cfg())
    for number, cpus in enumerate(("0-7,16-23", "8-15,24-31")):
        tree.put(root, f"sys/devices/system/node/node{number}/cpulist", f"{cpus}\n")
    tree.put(root, "proc/cpuinfo", "processor\t: 0\nvendor_id\t: GenuineIntel\n")
    for pf in {device["physfn"] for device in devices.values() if "physfn" in device}:
        vfs = [address for address, device in devices.items() if device.get("physfn") == pf]
        for number, address in enumerate(vfs):
            tree.link(root, f"{tree.DEVICES}/{pf}/virtfn{number}", f"{tree.DEVICES}/{address}")
    return Host(str(root))


def mount_root(root: Path | str, address: str) -> None:
    """Let the host's root file system be on an NVMe."""
    disk = f"sys/devices/pci0000:00/{address}"
    tree.folder(root, f"{disk}/nvme/nvme0/nvme0n1")
    tree.put(root, f"{disk}/nvme/nvme0/nvme0n1/dev", "259:0\n")
    tree.link(root, "sys/class/block/nvme0n1", f"{disk}/nvme/nvme0/nvme0n1")
    tree.put(root, "proc/self/mountinfo", "22 1 259:0 / / rw - ext4 /dev/nvme0n1 rw\n")


def on_host(host: Host) -> NodeHardware:
    """The hardware by the host's own inventory."""
    return hardware.of_inventory(Inventory(host))


def answer(devices: Mapping[str, Any] = DEVICES) -> list[dict[str, Any]]:
    """What nodes/N/hardware/pci answers."""
    found = []
    for address, device in devices.items():
        entry = {name: device[name] for name in tree.ATTRIBUTES if name in device}
        entry |= {"id": address, "iommugroup": device.get("iommu_group", -1)}
        if device["vendor"] in NAMES:
            entry |= {"vendor_name": NAMES[device["vendor"]], "device_name": f"device {device['device'][2:]}"}
        if "mdev" in device or "nvidia" in device:
            entry["mdev"] = 1
        if "physfn" in device:
            entry["physfn"] = device["physfn"]
        vfs = [name for name, other in devices.items() if other.get("physfn") == address]
        if vfs:
            entry["virtfns"] = {f"virtfn{number}": name for number, name in reversed(list(enumerate(vfs)))}
        found.append(entry)
    return found


def types(addresses: Iterable[str], devices: Mapping[str, Any] = DEVICES) -> dict[str, list[dict[str, Any]]]:
    """What the mdev lists of these functions answer."""
    found: dict[str, list[dict[str, Any]]] = {}
    for address in addresses:
        device = devices[address]
        lists = [
            {
                "type": kind,
                "available": int(one["available"]),
                **{key: one[key] for key in ("name", "description") if key in one},
            }
            for kind, one in device.get("mdev", {}).get("types", {}).items()
        ]
        free = int(device.get("nvidia", {}).get("current") == "0")
        lists += [
            {"type": f"nvidia-{kind['id']}", "available": free, "name": kind["name"]}
            for kind in device.get("nvidia", {}).get("creatable", ())
        ]
        found[address] = lists
    return found


def by_api(devices: Mapping[str, Any] = DEVICES) -> NodeHardware:
    """The hardware by the API."""
    told = answer(devices)
    return hardware.of_api(NODE, told, types(hardware.parents(hardware.of_api(NODE, told, {})), devices))
