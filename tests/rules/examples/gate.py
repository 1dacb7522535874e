# SPDX-License-Identifier: Apache-2.0
"""Examples of the rules that the hook asks (rules/gate.py)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tests import rom_images, tree
from tests.rules.example import GPU, OFFERS, SSD, SSD_TWICE, TYPES, VFS, Tree

if TYPE_CHECKING:
    from collections.abc import Callable


def _rom(content: bytes) -> Callable[[str], object]:
    return lambda root: tree.put(root, "usr/share/kvm/rom.bin", content)


def _policy(text: str) -> Callable[[str], object]:
    return lambda root: tree.put(root, "etc/pvepassthru.yaml", text)


def _folder(path: str) -> Callable[[str], object]:
    """Put a folder where a file should be: it is there, and cannot be read."""
    return lambda root: tree.folder(root, path)


def _open(node: str) -> Callable[[str], object]:
    """Let process 4711 have a device node open."""
    return lambda root: tree.hold(root, 4711, node)


def _loadable(root: str) -> None:
    tree.put(root, "proc/sys/kernel/osrelease", "6.8.12-1-pve\n")
    tree.put(root, "lib/modules/6.8.12-1-pve/modules.dep", "kernel/drivers/vfio/pci/vfio-pci.ko: kernel/x.ko\n")


def _config_loop(root: str) -> None:
    path = os.path.join(root, "etc/pve/nodes/pve/qemu-server/100.conf")
    os.unlink(path)
    os.symlink("100.conf", path)


def _available_is_folder(root: str) -> None:
    path = os.path.join(root, "sys/bus/pci/devices/0000:41:00.0/mdev_supported_types/nvidia-63/available_instances")
    os.unlink(path)
    os.mkdir(path)


def _instances(**types: str) -> dict[str, dict[str, Any]]:
    """Instances on 0000:41:00.0 by the last digits of a UUID of hostpci0."""
    uuids = {f"00000000-0000-0000-0000-000000000{number[1:]}": name for number, name in types.items()}
    return {"0000:41:00.0": {"mdev": {"types": TYPES, "instances": uuids}}}


KEPT: dict[str, dict[str, Any]] = {"0000:02:00.0": {"driver": "nvme-vfio-pci"}}
QUARANTINE = "run/pvepassthru/0000:02:00.0.quarantine"
NOTED = '{"vmid": 101, "since": 1700000000, "why": "0000:02:00.0 fell off the bus"}\n'
CONFIG = "sys/bus/pci/devices/0000:02:00.0/config"
PLAIN = Tree("hostpci0: 02:00.0\n")
MDEV = Tree("hostpci0: 41:00.0,mdev=nvidia-63\n")
IGD = "vga: none\nhostpci0: 00:02.0,legacy-igd=1"
UEFI = "bios: ovmf\nefidisk0: local-lvm:vm-100-disk-0,efitype=4m,size=4M\nmachine: q35\n"
ROM = f"{UEFI}hostpci0: 01:00,pcie=1,romfile=rom.bin\n"

EXAMPLES: dict[str, tuple[Tree, Tree]] = {
    "PVP101": (Tree("hostpci0: 02:00.0\n", host={"iommu": False}), PLAIN),
    "PVP102": (
        Tree("hostpci0: 02:00.0\n", host={"vfio_pci": False}),
        Tree("hostpci0: 02:00.0\n", host={"vfio_pci": False}, change=_loadable),
    ),
    "PVP103": (Tree("hostpci0: 02:00.0\n", change=_folder("run/qemu-server/pci-id-reservations")), PLAIN),
    "PVP105": (
        Tree("hostpci0: 02:00.0\n", change=_policy("defaults: {gate: wran}\n")),
        Tree("hostpci0: 02:00.0\n", change=_policy("defaults: {gate: warn}\n")),
    ),
    "PVP253": (
        Tree("hostpci0: 02:00.0\n", change=_policy("devices: {02:00.0: {ids: 10de:2204}}\n")),
        Tree("hostpci0: 02:00.0\n", change=_policy("devices: {02:00.0: {d3cold: true}, 01:00: {ids: 10de:2204}}\n")),
    ),
    "PVP104": (Tree("hostpci0: 41:00.0,mdev=nvidia-63\n", change=_available_is_folder), MDEV),
    "PVP201": (Tree("hostpci0: 03:00.0\n"), PLAIN),
    "PVP202": (Tree("hostpci0: 02:00.0\nhostpci1: 02:00\n"), Tree("hostpci0: 02:00.0\nhostpci1: 01:00.1\n")),
    "PVP203": (
        Tree("hostpci0: mapping=ssd\nhostpci1: mapping=ssd\n", mapping=SSD_TWICE),
        Tree("hostpci0: mapping=ssd\n", mapping=SSD_TWICE),
    ),
    "PVP204": (Tree("hostpci0: 02:00.0\n", {"0000:02:00.0": {"irq": "none"}}), PLAIN),
    "PVP205": (
        Tree("hostpci0: 02:00.0\n", {"0000:02:00.0": {"iommu_group": None}}),
        Tree("hostpci0: 02:00.0,driver=keep\n", {"0000:02:00.0": {"iommu_group": None, "driver": "nvme-vfio-pci"}}),
    ),
    "PVP210": (Tree("hostpci0: 02:00.0,mdev=nvidia-63\n"), MDEV),
    "PVP211": (Tree("hostpci0: 41:00.0,mdev=nvidia-36\n"), MDEV),
    "PVP212": (
        Tree("hostpci0: 41:00.0,mdev=nvidia-64\n"),
        Tree("hostpci0: 41:00.0,mdev=nvidia-64\n", _instances(_100="nvidia-64")),
    ),
    "PVP213": (
        Tree("hostpci0: 41:00.0,mdev=nvidia-63\n", _instances(_100="nvidia-65")),
        Tree("hostpci0: 41:00.0,mdev=nvidia-63\n", _instances(_100="nvidia-63")),
    ),
    "PVP214": (Tree("hostpci0: 41:00.0,mdev=nvidia-63,driver=keep\n"), Tree("hostpci0: 02:00.0,driver=keep\n", KEPT)),
    "PVP215": (
        Tree("hostpci0: 41:00.0,mdev=nvidia-63\nhostpci1: 41:00.0\n", {"0000:41:00.0": {"class": "0x030200"}}),
        Tree("hostpci0: 41:00.0,mdev=nvidia-63\nhostpci1: 02:00.0\n"),
    ),
    "PVP220": (Tree("hostpci0: a1:00.0,mdev=nvidia-35\n"), Tree("hostpci0: a1:00.4,mdev=nvidia-35\n")),
    "PVP221": (Tree("hostpci0: a1:00.4,mdev=nvidia-99\n"), Tree("hostpci0: a1:00.4,mdev=nvidia-558\n")),
    "PVP222": (
        Tree("hostpci0: mapping=vgpu,mdev=nvidia-99\n", mapping=VFS),
        Tree("hostpci0: mapping=vgpu,mdev=nvidia-35\nhostpci1: mapping=vgpu,mdev=nvidia-35\n", mapping=VFS),
    ),
    "PVP223": (
        Tree("hostpci0: a1:00.4,mdev=nvidia-35\n", {"0000:a1:00.4": {"nvidia": {**OFFERS, "current": "558"}}}),
        Tree("hostpci0: a1:00.4,mdev=nvidia-35\n", {"0000:a1:00.4": {"nvidia": {**OFFERS, "current": "35"}}}),
    ),
    "PVP230": (
        Tree(ROM.replace("rom.bin", "../../../etc/hostname")),
        Tree(ROM.replace("rom.bin", "../kvm/rom.bin"), change=_rom(rom_images.both())),
    ),
    "PVP231": (Tree(ROM), Tree(ROM, change=_rom(rom_images.both()))),
    "PVP232": (Tree(ROM.replace("rom.bin", ".")), Tree(ROM, change=_rom(rom_images.both()))),
    "PVP233": (Tree(ROM, change=_rom(b"")), Tree(ROM, change=_rom(rom_images.both()))),
    "PVP256": (
        Tree("hostpci0: 02:00.0\n", files={QUARANTINE: NOTED, CONFIG: b"\xff" * 64}),
        Tree("hostpci0: 02:00.0\n", files={QUARANTINE: NOTED, CONFIG: b"\x4d\x14" * 32}),
    ),
    "PVP301": (Tree("hostpci0: 0A:00.0\n"), PLAIN),
    "PVP302": (Tree("hostpci0: mapping=9pu\n"), Tree("hostpci0: mapping=ssd\n", mapping=SSD)),
    "PVP303": (Tree("machine: q35\nhostpci0: 02:00.0,pcie\n"), Tree("machine: q35\nhostpci0: 02:00.0,pcie=1\n")),
    "PVP304": (Tree("hostpci0: 02:00.0,rombar=\n"), Tree("hostpci0: 02:00.0,rombar=0\n")),
    "PVP305": (Tree("hostpci0: 02:00.0,x_vga=1\n"), Tree("hostpci0: 02:00.0,x-vga=0\n")),
    "PVP306": (Tree("hostpci0: 02:00.0,rombar=2\n"), Tree("hostpci0: 02:00.0,rombar=Off\n")),
    "PVP307": (Tree("hostpci0: 02:00.0,driver=Keep\n"), Tree("hostpci0: 02:00.0,driver=keep\n", KEPT)),
    "PVP308": (Tree("hostpci16: 02:00.0\n"), Tree("hostpci15: 02:00.0\n")),
    "PVP309": (Tree(" hostpci0: 02:00.0\n"), Tree("# hostpci0: 02:00.0\n")),
    "PVP310": (Tree("hostpci0: 02:00.0,pcie=1\n"), Tree("machine: pc-q35-9.0\nhostpci0: 02:00.0,pcie=1\n")),
    "PVP311": (Tree("machine: pc,viommu=intel\n"), Tree("machine: q35,viommu=intel\n")),
    "PVP312": (Tree("machine: Q35\nhostpci0: 02:00.0\n"), Tree("machine: q35\nhostpci0: 02:00.0\n")),
    "PVP313": (
        Tree("hostpci0: 02:00.0\n[PENDING]\nhostpci0: zz\n"),
        Tree("hostpci0: 02:00.0\n[PENDING]\nhostpci0: 01:00.1\n"),
    ),
    "PVP314": (Tree("hostpci0: rombar=0\n"), PLAIN),
    "PVP315": (
        Tree("hostpci0: 02:00.0,mapping=ssd\n", mapping=SSD),
        Tree("hostpci0: mapping=ssd\n", mapping=SSD),
    ),
    "PVP316": (Tree("hostpci0: 01:00,mdev=nvidia-63\n"), Tree("hostpci0: 41:00,mdev=nvidia-63\n")),
    "PVP320": (
        Tree(f"{IGD}\nhostpci1: 03:02.0,legacy-igd=1\n", {"0000:03:02.0": {**GPU, "iommu_group": 3}}),
        Tree(f"{IGD}\nhostpci1: 02:00.0,legacy-igd=0\n"),
    ),
    "PVP321": (Tree("vga: std\nhostpci0: 00:02.0,legacy-igd=1\n"), Tree(f"{IGD}\n")),
    "PVP322": (Tree(f"{IGD},rombar=0\n"), Tree(f"{IGD},rombar=1\n")),
    "PVP323": (Tree(f"{IGD},x-vga=1\n"), Tree(f"{IGD},x-vga=0\n")),
    "PVP324": (
        Tree(f"{IGD},mdev=i915-GVTg\n", {"0000:00:02.0": {"mdev": {"types": {"i915-GVTg": {"available": "1"}}}}}),
        Tree(f"{IGD},mdev=0\n"),
    ),
    "PVP325": (Tree(f"machine: q35\n{IGD}\n"), Tree(f"machine: pc\n{IGD}\n")),
    "PVP326": (Tree("vga: none\nhostpci0: 01:00,legacy-igd=1\n"), Tree("vga: none\nhostpci0: 00:02,legacy-igd=1\n")),
    "PVP327": (
        Tree("vga: none\nhostpci0: mapping=ssd,legacy-igd=1\n", mapping=SSD_TWICE),
        Tree("vga: none\nserial0: socket\nhostpci0: mapping=ssd,legacy-igd=0\n", mapping=SSD_TWICE),
    ),
    "PVP328": (Tree("vga: none\nhostpci0: 02:00.0,legacy-igd=1\n"), Tree(f"{IGD}\n")),
    "PVP330": (Tree("hostpci0: 02:00.0\n", change=_config_loop), PLAIN),
    "PVP332": (
        Tree("hostpci0: 01:00\nhostpci0: 02:00.0\n"),
        Tree("hostpci0: 02:00.0\nhostpci0: 02:00.0\n[PENDING]\nhostpci0: 0000:02:00.0\n"),
    ),
    "PVP331": (Tree("this is no config\n"), Tree("name: a\nthis is no config\n")),
    "PVP401": (Tree("hostpci0: mapping=sdd\n", mapping=SSD), Tree("hostpci0: mapping=ssd\n", mapping=SSD)),
    "PVP402": (
        Tree("hostpci0: mapping=ssd\n", mapping=SSD.replace("node=pve", "node=other")),
        Tree("hostpci0: mapping=ssd\n", mapping=SSD + SSD.split("\n")[1].replace("node=pve", "node=other") + "\n"),
    ),
    "PVP403": (
        Tree("hostpci0: mapping=ssd\n", mapping=SSD.replace("02:00.0", "03:00.0")),
        Tree("hostpci0: mapping=ssd\n", mapping=SSD),
    ),
    "PVP404": (
        Tree("hostpci0: mapping=ssd\n", mapping=SSD.replace("144d:a80a", "144D:A80A")),
        Tree("hostpci0: mapping=ssd\n", mapping=SSD),
    ),
    "PVP405": (
        Tree(
            "machine: q35\nhostpci0: mapping=gpu,pcie=1\n",
            mapping="gpu\n\tmap id=10de:2204,iommugroup=1,node=pve,path=0000:01:00,subsystem-id=1043:0000\n",
        ),
        Tree(
            "machine: q35\nhostpci0: mapping=gpu,pcie=1\n",
            mapping="gpu\n\tmap id=10de:2204,iommugroup=1,node=pve,path=0000:01:00,subsystem-id=1043:87b5\n",
        ),
    ),
    "PVP406": (
        Tree("hostpci0: mapping=ssd\n", mapping=SSD.replace("iommugroup=4", "iommugroup=04")),
        Tree("hostpci0: mapping=ssd\n", mapping=SSD),
    ),
    "PVP407": (
        Tree("hostpci0: mapping=vgpu,mdev=nvidia-35\n", mapping=VFS.replace("\tmdev 1\n", "")),
        Tree("hostpci0: mapping=vgpu,mdev=nvidia-35\n", mapping=VFS),
    ),
    "PVP408": (
        Tree("hostpci0: mapping=ssd\n", mapping=SSD.replace(",iommugroup=4", "")),
        Tree("hostpci0: mapping=ssd\n", mapping=SSD),
    ),
    "PVP409": (
        Tree("hostpci0: mapping=ssd\n", mapping=SSD.replace("path", "subsystem-id=144d:a801,path")),
        Tree("hostpci0: mapping=ssd\n", mapping=SSD),
    ),
    "PVP410": (
        Tree("hostpci0: mapping=ssd\n", mapping=SSD + "\tmap zz\n"),
        Tree("hostpci0: mapping=ssd\n", mapping=SSD + "\nother\n\tmap zz\n"),
    ),
    "PVP411": (
        Tree("hostpci0: mapping=ssd\n", change=_folder("etc/pve/mapping/pci.cfg")),
        Tree("hostpci0: 02:00.0\n", change=_folder("etc/pve/mapping/pci.cfg")),
    ),
    "PVP420": (
        Tree("hostpci0: 02:00.0\n", reservations="0000:02:00.0 200 pid:42\n", running={200: 42}),
        Tree("hostpci0: 02:00.0\n", reservations="0000:02:00.0 200 pid:42\n", running={200: 43}),
    ),
    "PVP421": (
        Tree("hostpci0: 02:00.0\n", reservations="0000:02:00.0 200 time:99999999999\n"),
        Tree("hostpci0: 02:00.0\n", reservations="0000:02:00.0 200 time:1700000000\n"),
    ),
    "PVP422": (
        Tree(
            "hostpci0: mapping=vgpu,mdev=nvidia-35\n",
            mapping=VFS,
            reservations="0000:a1:00.4 200 pid:42\n0000:a1:00.5 201 time:99999999999\n",
            running={200: 42},
        ),
        Tree(
            "hostpci0: mapping=vgpu,mdev=nvidia-35\n",
            mapping=VFS,
            reservations="0000:a1:00.4 200 pid:42\n",
            running={200: 42},
        ),
    ),
    "PVP423": (
        Tree("hostpci0: 01:00.1\n", reservations="0000:01:00.0 200 pid:42\n", running={200: 42}),
        Tree("hostpci0: 01:00.1\n", reservations="0000:01:00.0 100 pid:42\n", running={100: 42}),
    ),
    "PVP424": (
        Tree("hostpci0: 02:00.0\n", change=_open("/dev/vfio/4")),
        Tree("hostpci0: 02:00.0\n", running={100: 4711}, change=_open("/dev/vfio/4")),
    ),
}
