# SPDX-License-Identifier: Apache-2.0
"""What the inventory makes of a host's sysfs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.host.host import Host
from pvepassthru.host.inventory import DEVICES, MANY, Inventory, Mdev, MdevType
from tests import tree
from tests.host.machine import AUDIO, BEHIND, BESIDE, BRIDGE, GPU, PARENT, PF, UUIDS, VFS, create

if TYPE_CHECKING:
    from pathlib import Path

    from pvepassthru.host.sim import SimHost


def inventory(root: Path, devices: dict[str, Any], **host: Any) -> Inventory:  # noqa: ANN401 - a HOST is JSON
    tree.build(root, {"devices": devices, **host})
    return Inventory(Host(str(root)))


def test_functions(tmp_path: Path) -> None:
    found = inventory(tmp_path, {"0000:02:00.0": {"vendor": "0x10de"}, "10000:01:00.0": {}, "0000:01:00.1": {}})
    for name in ("0000:01:00", "0000:01:00.8", "0000:01:00.0x", "0000:0G:00.0", "pci0000:00"):
        tree.folder(tmp_path, f"{DEVICES}/{name}")
    assert found.addresses() == ("0000:01:00.1", "0000:02:00.0", "10000:01:00.0")
    assert found.attribute("0000:02:00.0", "vendor") == "0x10de"
    assert found.attribute("0000:02:00.0", "class") is None
    assert found.attribute("0000:0f:00.0", "vendor") is None


def test_an_attribute_is_read_once(tmp_path: Path) -> None:
    found = inventory(tmp_path, {GPU: {"vendor": "0x10de"}})
    assert found.attribute(GPU, "vendor") == "0x10de"
    tree.put(tmp_path, f"{DEVICES}/{GPU}/vendor", "0xffff\n")
    assert found.attribute(GPU, "vendor") == "0x10de"
    assert Inventory(found.host).attribute(GPU, "vendor") == "0xffff"


def test_machine(host: SimHost) -> None:
    found = Inventory(host)
    assert found.driver(GPU) == "bochs"
    assert found.driver(AUDIO) is None
    assert found.in_slot("0000:01:00") == (GPU, AUDIO)
    assert found.in_slot("0000:0f:00") == ()
    assert found.group(GPU) == 10
    assert found.group_members(AUDIO) == (GPU, AUDIO)
    assert found.group_members(BRIDGE) == (BRIDGE, BEHIND, BESIDE)
    assert found.iommu_present()
    assert found.has(GPU, "reset")
    assert not found.has(AUDIO, "reset")
    assert found.physical_function(PF) is None


def test_vfs(host: SimHost) -> None:
    host.write(f"{DEVICES}/{PF}/sriov_numvfs", "2")
    found = Inventory(host)
    assert found.physical_function(VFS[1]) == PF
    assert found.addresses().count(VFS[1]) == 1


@pytest.mark.parametrize("link", ["x", "1x", "-1", "\u0661"])
def test_a_group_that_is_no_number(tmp_path: Path, link: str) -> None:
    found = inventory(tmp_path, {GPU: {}})
    os.symlink(f"../{link}", f"{tmp_path}/{DEVICES}/{GPU}/iommu_group")
    assert found.group(GPU) is None
    assert found.group_members(GPU) == ()


def test_group_members_of_a_capture_without_groups(tmp_path: Path) -> None:
    found = inventory(tmp_path, {GPU: {}, AUDIO: {}, PF: {}})
    for address, group in ((GPU, 7), (AUDIO, 7), (PF, 8)):
        os.symlink(f"../../../../kernel/iommu_groups/{group}", f"{tmp_path}/{DEVICES}/{address}/iommu_group")
    assert found.group_members(GPU) == (GPU, AUDIO)


@pytest.mark.parametrize("present", [False, True])
def test_iommu(tmp_path: Path, *, present: bool) -> None:
    assert inventory(tmp_path, {}, iommu=present).iommu_present() is present


def test_iommu_of_a_kernel_without_the_class(tmp_path: Path) -> None:
    assert Inventory(Host(str(tmp_path))).iommu_present() is None


def test_mdev_types(tmp_path: Path) -> None:
    types = {
        "nvidia-63": {"available": 4, "name": "GRID T4-1Q", "description": "num_heads=4"},
        "nvidia-64": {"available": "junk", "device_api": "vfio-pci"},
        "nvidia-65": {"available": None},
    }
    found = inventory(tmp_path, {GPU: {"mdev": {"types": types}}, AUDIO: {}})
    assert found.mdev_types(AUDIO) == ()
    assert found.mdev_types(GPU) == (
        MdevType("nvidia-63", "GRID T4-1Q", 4, "num_heads=4"),
        MdevType("nvidia-64", None, None, None),
        MdevType("nvidia-65", None, None, None),
    )
    assert found.mdev_type(GPU, "nvidia-1") == MdevType("nvidia-1", None, None, None)


def test_room_for_mdevs_takes_one_read_a_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start waits for it, and asks for nothing else."""
    types = {"nvidia-63": {"available": 4, "name": "GRID T4-1Q"}, "nvidia-64": {"available": "junk"}}
    found = inventory(tmp_path, {GPU: {"mdev": {"types": types}}, AUDIO: {}})
    reads: list[str] = []
    text = found.host.text

    def read(path: str) -> str | None:
        reads.append(path)
        return text(path)

    monkeypatch.setattr(found.host, "text", read)
    assert found.mdev_room(AUDIO) == {}
    assert found.mdev_room(GPU) == {"nvidia-63": 4, "nvidia-64": None}
    assert len(reads) == 2
    assert found.mdev_available(GPU, "nvidia-1") is None


def test_mdevs(host: SimHost) -> None:
    assert Inventory(host).mdevs() == ()
    create(host, UUIDS[0], "tbmdev-2")
    assert Inventory(host).mdevs() == (Mdev(UUIDS[0], PARENT, "tbmdev-2"),)
    assert Inventory(host).mdev(UUIDS[1]) == Mdev(UUIDS[1], None, None)


def test_mdev_that_is_being_created(tmp_path: Path) -> None:
    mdev = {"types": {"nvidia-63": {"available": 4}}, "instances": {UUIDS[0]: None}}
    assert inventory(tmp_path, {GPU: {"mdev": mdev}}).mdev(UUIDS[0]) == Mdev(UUIDS[0], GPU, None)


def test_mdev_whose_parent_is_no_function(tmp_path: Path) -> None:
    found = inventory(tmp_path, {})
    tree.folder(tmp_path, f"/sys/devices/virtual/mtty/mtty/{UUIDS[0]}")
    tree.link(tmp_path, f"/sys/bus/mdev/devices/{UUIDS[0]}", f"/sys/devices/virtual/mtty/mtty/{UUIDS[0]}")
    assert found.mdev(UUIDS[0]).parent is None


def test_vendor_vgpu(tmp_path: Path) -> None:
    kinds = [{"id": "557", "name": "NVIDIA A2-2B"}, {"id": "558", "name": "NVIDIA A2: odd"}]
    devices = {GPU: {"nvidia": {"creatable": kinds, "current": "0"}}, AUDIO: {"nvidia": {}}, PF: {}}
    found = inventory(tmp_path, devices)
    assert found.vgpu_creatable(GPU) == {"557": "NVIDIA A2-2B", "558": "NVIDIA A2: odd"}
    assert found.vgpu_current(GPU) == "0"
    for address in (AUDIO, PF):
        assert found.vgpu_creatable(address) == {}
        assert found.vgpu_current(address) is None
    assert found.has(AUDIO, "nvidia")
    assert not found.has(PF, "nvidia")


def test_vendor_vgpu_list_without_a_header(tmp_path: Path) -> None:
    found = inventory(tmp_path, {GPU: {"nvidia": {}}})
    tree.put(tmp_path, f"{DEVICES}/{GPU}/nvidia/creatable_vgpu_types", "557 : A\n\nnonsense\n  558:B\n")
    assert found.vgpu_creatable(GPU) == {"557": "A", "558": "B"}


def test_driver_available(tmp_path: Path) -> None:
    found = inventory(tmp_path, {})
    assert found.driver_available("vfio-pci")
    assert not found.driver_available("nvidia")
    tree.put(tmp_path, "/proc/sys/kernel/osrelease", "6.8.12-1-pve\n")
    tree.put(tmp_path, "/lib/modules/6.8.12-1-pve/modules.dep", "x/nvidia.ko.zst:\nx/snd-hda-intel.ko:\n")
    tree.put(tmp_path, "/lib/modules/6.8.12-1-pve/modules.builtin", "kernel/drivers/net/e1000e.ko\n")
    found = Inventory(found.host)
    assert found.driver_available("nvidia")
    assert found.driver_available("e1000e")
    assert found.driver_available("snd_hda_intel")
    assert not found.driver_available("e1000")


@pytest.mark.parametrize("digits", ["9" * 5000, "\u0661", "-1", ""], ids=["5,000 digits", "not ASCII", "sign", "empty"])
def test_what_is_no_number(digits: str, tmp_path: Path) -> None:
    """Python refuses to make a number of 5,000 digits."""
    types = {"nvidia-63": {"available": digits}}
    found = inventory(tmp_path, {PARENT: {"mdev": {"types": types}}})
    os.symlink(digits[:4000] or ".", f"{tree.folder(tmp_path, f'{DEVICES}/{PARENT}')}/iommu_group")
    assert found.mdev_type(PARENT, "nvidia-63").available is None
    assert found.group(PARENT) is None


def test_overrides_of_many_functions(tmp_path: Path) -> None:
    """One by one, then those of all others; a function that is not there has none."""
    addresses = [f"0000:{bus:02x}:00.0" for bus in range(1, MANY + 4)]
    found = inventory(tmp_path, {address: {} for address in addresses})
    for address in addresses:
        tree.put(tmp_path, f"{DEVICES[1:]}/{address}/driver_override", f"driver-{address}\n")
    for number, address in enumerate(addresses, 1):
        assert found.attribute(address, "driver_override") == f"driver-{address}"
        assert len(found._text) == (number if number <= MANY else len(addresses))
    assert found.attribute("0000:7f:00.0", "driver_override") is None
