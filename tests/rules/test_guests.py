# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import tree
from tests.rules.example import Tree
from tests.rules.examples.guests import COMPUTE, SLOT, SSD, _at, _nvme

if TYPE_CHECKING:
    from pathlib import Path

Q35 = f"machine: q35\n{SLOT}"


def codes(host: Tree, tmp_path: Path) -> list[str]:
    """The codes of these modules' rules; others have tests of their own."""
    found = [finding.code for finding in host.findings(tmp_path)]
    return [code for code in found if "PVP260" <= code < "PVP280" or "PVP340" <= code < "PVP380"]


@pytest.mark.parametrize(
    "config, expected",
    [
        (f"{SSD}vga: none\n", ["PVP348"]),
        (f"{SSD}vga: none\nserial2: socket\n", []),
        (f"{SSD}vga: none\nagent: 1\n", []),
        (f"{SSD}vga: none\nagent: 0\n", ["PVP348"]),
        (f"{SSD}vga: none\nagent: enabled=no,type=isa\n", ["PVP348"]),
        (f"{SSD}vga: serial0\n", []),
        (SSD, []),
        (f"{Q35}\nvga: none\n", []),
        ("machine: q35\nhostpci0: 03:00.0,pcie=1\nvga: none\n", ["PVP348"]),
        ("hostpci0: 41:00.0,mdev=nvidia-63\nvga: none\n", ["PVP348"]),
        ("vga: none\nmemory: 512\n", []),
    ],
)
def test_who_can_see_it(config: str, expected: list[str], tmp_path: Path) -> None:
    assert codes(Tree(config, COMPUTE), tmp_path) == expected


def test_a_device_whose_class_nobody_knows_may_be_a_display(tmp_path: Path) -> None:
    assert codes(Tree(f"{SSD}vga: none\n", {"0000:02:00.0": {"class": "?"}}), tmp_path) == []


def test_the_way_to_see_it(tmp_path: Path) -> None:
    (finding,) = [one for one in Tree(f"{SSD}vga: none\n").findings(tmp_path) if one.code == "PVP348"]
    assert finding.hint.startswith("qm set 100 --delete vga gives it a display; or qm set 100 --serial0 socket")


def test_the_display_that_x_vga_takes_away(tmp_path: Path) -> None:
    config = "bios: ovmf\nefidisk0: a:b\nmachine: q35\nhostpci0: 03:00.0,pcie=1,x-vga=1\n"
    (finding,) = Tree(config, COMPUTE).findings(tmp_path)
    assert (finding.code, finding.where) == ("PVP348", "/etc/pve/qemu-server/100.conf:4 hostpci0")
    assert "neither the display that x-vga=1 takes away nor" in finding.message


@pytest.mark.parametrize(
    "line, expected",
    [
        ("bios: ovmf", ["PVP349"]),
        ("bios: seabios", []),
        ("bios: OVMF", []),
        ("args: -device vfio-pci,host=02:00.0", ["PVP350"]),
        ("args: -nodefaults --device vfio-pci-nohotplug,sysfsdev=/sys/x", ["PVP350"]),
        ("args: -device", []),
        ("args: -device virtio-rng-pci", []),
        ("args: -global vfio-pci.x-no-mmap=on", []),
        ("args: -cpu 'host,kvm=off'", ["PVP351"]),
        ("args: -cpu", []),
        ("args: -smbios type=1,version=-cpu", []),
    ],
)
def test_firmware_and_args(line: str, expected: list[str], tmp_path: Path) -> None:
    assert codes(Tree(f"{SSD}{line}\n"), tmp_path) == expected


def test_a_vm_without_devices_may_do_as_it_likes(tmp_path: Path) -> None:
    assert codes(Tree("bios: ovmf\nargs: -cpu host\nvga: none\nhugepages: 2\n"), tmp_path) == []


def _keyboard(root: str) -> None:
    _at("0000:02:00.0", "usb1/1-2", "sys/bus/usb/devices/1-2")(root)
    tree.put(root, "sys/devices/pci0000:00/0000:02:00.0/usb1/1-2/idVendor", "046d\n")
    tree.put(root, "sys/devices/pci0000:00/0000:02:00.0/usb1/1-2/idProduct", "00c5\n")
    _at("0000:02:00.0", "usb1", "sys/bus/usb/devices/usb1")(root)


def _two_keyboards(root: str) -> None:
    _keyboard(root)
    _at("0000:04:00.0", "usb2/2-1", "sys/bus/usb/devices/2-1")(root)
    tree.put(root, "sys/devices/pci0000:00/0000:04:00.0/usb2/2-1/idVendor", "046d\n")
    tree.put(root, "sys/devices/pci0000:00/0000:04:00.0/usb2/2-1/idProduct", "00c5\n")


@pytest.mark.parametrize(
    "value, expected",
    [
        ("host=1-2", ["PVP353"]),
        ("1-2,usb3=1", ["PVP353"]),
        ("host=1-7", ["PVP353"]),
        ("host=046d:00c5", ["PVP353"]),
        ("host=0x046D:0xC5", ["PVP353"]),
        ("host=046d:c534", []),
        ("host=2-1", []),
        ("spice", []),
        ("mapping=keyboard", []),
        ("host=1-2,host=1-2", []),
    ],
)
def test_usb_devices(value: str, expected: list[str], tmp_path: Path) -> None:
    config = f"{SSD}usb3: {value}\n"
    assert codes(Tree(config, change=_keyboard), tmp_path / "passed") == expected
    assert codes(Tree(config.replace("02:00.0", "01:00.1"), change=_keyboard), tmp_path / "other") == []


def test_the_same_keyboard_elsewhere_is_left_to_usb(tmp_path: Path) -> None:
    assert codes(Tree(f"{SSD}usb0: host=046d:00c5\n", change=_two_keyboards), tmp_path) == []


@pytest.mark.parametrize(
    "line, expected",
    [
        ("scsi30: /dev/nvme0n1", ["PVP354"]),
        ("virtio15: file=/dev/disk/by-id/nvme-x,cache=none", ["PVP354"]),
        ("scsi31: /dev/nvme0n1", []),
        ("scsi0: /dev/disk/by-id/absent", []),
        ("scsi0: local-lvm:vm-100-disk-0", []),
        ("unused0: /dev/nvme0n1", []),
    ],
)
def test_disks(line: str, expected: list[str], tmp_path: Path) -> None:
    assert codes(Tree(f"{SSD}{line}\n", change=_nvme("0000:02:00.0")), tmp_path / "passed") == expected
    kept = f"hostpci0: 01:00.1\n{line}\n"
    assert codes(Tree(kept, change=_nvme("0000:02:00.0")), tmp_path / "kept") == []


def test_templates(tmp_path: Path) -> None:
    """Only one clone gets a device, and each a mediated device of its own."""
    config = "template: 1\nhostpci0: 09:00.0\nhostpci1: mapping=gpu\nhostpci2: 41:00.0,mdev=nvidia-63\n"
    found = Tree(config).findings(tmp_path)
    assert [(finding.code, finding.where) for finding in found] == [
        ("PVP352", "/etc/pve/qemu-server/100.conf:2 hostpci0")
    ]
