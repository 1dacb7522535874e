# SPDX-License-Identifier: Apache-2.0
"""A real server's sysfs, made a whole host: what was recorded, and beside it what such a server has.

The capture is not in the project. It is looked for beside the checkout, or beside the checkout that this one is a clone
of. What is added to it, and why, stands in README.md.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

from tests import tree
from tests.captured.configs import MAPPING, ROMS, configs

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CAPTURE = "../shared/hosts/vgpu-node.tar.xz"
NEEDED = ("sys/bus", "sys/kernel", "sys/devices/pci", "sys/devices/virtual/iommu", "sys/devices/virtual/net")
NODE = "pve"
GPU = "0000:08:0"
TYPES = {
    "nvidia-742": ("NVIDIA A2-1B", 16),
    "nvidia-744": ("NVIDIA A2-1Q", 16),
    "nvidia-745": ("NVIDIA A2-2Q", 8),
    "nvidia-746": ("NVIDIA A2-4Q", 4),
    "nvidia-747": ("NVIDIA A2-8Q", 2),
    "nvidia-751": ("NVIDIA A2-4A", 4),
    "nvidia-754": ("NVIDIA A2-4C", 4),
}
"""Some types of the GPU, with how many of them it takes; the last two and nvidia-746 are those of its live mdevs."""
RUNNING = {1000: 4000, 1044: 4044}
"""Pids of running VMs: one with a function of its own, and one with a virtual function."""


def capture() -> str | None:
    """Where the capture lies, or None."""
    asked = subprocess.run(
        ["git", "config", "--get", "remote.origin.url"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    for base in (ROOT, asked.stdout.strip().removeprefix("file://")):
        path = os.path.normpath(os.path.join(base, CAPTURE))
        if os.path.isabs(base) and os.path.isfile(path):
            return path
    return None


def unpack(archive: str, root: str) -> None:
    """Unpack what a host's rules read of a capture."""
    with tarfile.open(archive) as members:
        members.extraction_filter = getattr(tarfile, "tar_filter", None)  # Debian 12's Python has none
        members.extractall(root, [member for member in members if member.name.removeprefix("./").startswith(NEEDED)])  # noqa: S202 - our own data


def build(archive: str, root: str, *, vendor: bool) -> None:
    """Make the host: with classic mdevs on the GPU's VFs, as captured, or with NVIDIA's `vendor` interface there."""
    unpack(archive, root)
    _add_classes(root)
    _add_drivers(root)
    (_add_vendor_interface if vendor else _add_types)(root)
    tree.guests(
        root,
        node=NODE,
        configs=configs(),
        mapping=MAPPING,
        running=RUNNING,
        reservations="0000:00:04.0 1000 pid:4000\n0000:08:00.5 1044 pid:4044\n",
    )
    _add_proc(root)
    for name, content in ROMS.items():
        tree.put(root, f"/usr/share/kvm/{name}", content)


def _add_classes(root: str) -> None:
    """/sys/class, which is only links to the devices that were captured."""
    for folder in ("net", "block", "iommu"):
        tree.folder(root, f"/sys/class/{folder}")
    for folder, names in _folders(f"{root}/sys/devices"):
        here = folder[len(root) :]
        kind = os.path.basename(folder)
        if kind in {"net", "block", "iommu"}:
            for name in names:
                tree.link(root, f"/sys/class/{kind}/{name}", f"{here}/{name}")
        for name in names:
            inside = f"{folder}/{name}"
            if os.path.isfile(f"{inside}/partition") or (name.startswith("nvme") and os.path.isdir(f"{inside}/queue")):
                tree.link(root, f"/sys/class/block/{name}", f"{here}/{name}")


def _folders(top: str) -> Iterator[tuple[str, list[str]]]:
    for folder, names, _ in os.walk(top):
        names.sort()
        yield folder, [name for name in names if not os.path.islink(f"{folder}/{name}")]


def _add_drivers(root: str) -> None:
    """The folders of the drivers that the captured links name, and vfio-pci."""
    tree.driver(root, "vfio-pci")
    devices = f"{root}/{tree.DEVICES}"
    for address in sorted(os.listdir(devices)):
        link = f"{devices}/{address}/driver"
        if os.path.islink(link):
            name = os.path.basename(os.readlink(link))
            if not os.path.isdir(f"{root}/{tree.DRIVERS}/{name}"):
                tree.driver(root, name)
            tree.link(root, f"{tree.DRIVERS}/{name}/{address}", f"{tree.DEVICES}/{address}")


def _vfs(root: str) -> list[str]:
    devices = f"{root}/{tree.DEVICES}"
    return [
        address
        for address in sorted(os.listdir(devices))
        if address.startswith(GPU) and os.path.islink(f"{devices}/{address}/physfn")
    ]


def _instances(root: str, address: str) -> dict[str, str]:
    """The type of each captured mdev on a function, by UUID."""
    here = f"{root}/{tree.DEVICES}/{address}"
    links = {name: f"{here}/{name}/mdev_type" for name in os.listdir(here) if len(name) == 36}
    return {uuid: os.path.basename(os.readlink(link)) for uuid, link in links.items()}


def _add_types(root: str) -> None:
    """mdev_supported_types, which was not captured: a VF with an instance has no room, the others have."""
    for address in _vfs(root):
        held = _instances(root, address)
        for name, (title, _) in TYPES.items():
            kind = f"{tree.DEVICES}/{address}/mdev_supported_types/{name}"
            tree.put(root, f"{kind}/create")
            tree.folder(root, f"{kind}/devices")
            tree.put(root, f"{kind}/device_api", "vfio-pci\n")
            tree.put(root, f"{kind}/name", f"{title}\n")
            tree.put(root, f"{kind}/available_instances", "0\n" if held or name == "nvidia-747" else "1\n")
        for uuid, name in held.items():
            here = f"{tree.DEVICES}/{address}"
            tree.link(root, f"{here}/mdev_supported_types/{name}/devices/{uuid}", f"{here}/{uuid}")


def _add_vendor_interface(root: str) -> None:
    """What a newer driver has instead of mdevs: the captured ones go."""
    for uuid in sorted(os.listdir(f"{root}/sys/bus/mdev/devices")):
        os.unlink(f"{root}/sys/bus/mdev/devices/{uuid}")
    lines = "".join(f"{name[7:]:<5} : {title}\n" for name, (title, _) in TYPES.items() if name != "nvidia-747")
    for number, address in enumerate(_vfs(root)):
        here = f"{tree.DEVICES}/{address}"
        for uuid in _instances(root, address):
            shutil.rmtree(f"{root}/{here}/{uuid}")
        current = "744" if number == 2 else "0"
        tree.put(root, f"{here}/nvidia/creatable_vgpu_types", "ID    : vGPU Name\n" + ("" if number == 2 else lines))
        tree.put(root, f"{here}/nvidia/current_vgpu_type", f"{current}\n")


def _add_proc(root: str) -> None:
    """What the capture has nothing of: file systems on the disk of the RAID controller, the route over the bridge."""
    mounts = (
        "25 1 8:3 / / rw,relatime shared:1 - ext4 /dev/sda3 rw\n26 25 8:2 / /boot/efi rw - vfat /dev/sda2 rw\n"
        "27 25 0:22 / /sys rw - sysfs sysfs rw\n28 25 0:21 / /proc rw - proc proc rw\n"
    )
    plain = "/dev/sda3 / ext4 rw,relatime 0 0\n/dev/sda2 /boot/efi vfat rw 0 0\nsysfs /sys sysfs rw 0 0\n"
    swaps = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/dev/sda5\tpartition\t8388604\t0\t-2\n"
    head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
    routes = "mgmt-br\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
    for path, text in {
        "/proc/self/mountinfo": mounts,
        "/proc/mounts": plain,
        "/proc/swaps": swaps,
        "/proc/net/route": head + routes,
        "/proc/net/ipv6_route": "",
        "/proc/mdstat": "Personalities : \nunused devices: <none>\n",
    }.items():
        tree.put(root, path, text)
