# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.rules.catalogue import host_states
from pvepassthru.rules.subject import Surroundings
from tests.rules.example import Tree
from tests.rules.examples.guests import COMPUTE, IOMEM, SLOT, SSD

if TYPE_CHECKING:
    from pathlib import Path

Q35 = f"machine: q35\n{SLOT}"
MAPPED = "gpu\n\tmap id=10de:2204,iommugroup=1,node=pve,path=0000:01:00.0,subsystem-id=1043:87b5\n"
GVT = {"0000:00:02.0": {"mdev": {"types": {"i915-GVTg_V5_4": {"available": "1"}}}}}


def codes(host: Tree, tmp_path: Path) -> list[str]:
    """The codes of these modules' rules; others have tests of their own."""
    found = [finding.code for finding in host.findings(tmp_path)]
    return [code for code in found if "PVP260" <= code < "PVP280" or "PVP340" <= code < "PVP380"]


@pytest.mark.parametrize(
    "config, expected",
    [
        ("hostpci0: 01:00\n", ["PVP340"]),
        ("machine: pc-i440fx-9.0\nhostpci0: 01:00\n", ["PVP340"]),
        ("arch: aarch64\nhostpci0: 01:00\n", []),
        ("machine: virt\nhostpci0: 01:00\n", []),
        ("machine: Q35\nhostpci0: 01:00\n", []),
        ("hostpci0: 01:00.1\n", []),
        ("hostpci0: 03:00.0\n", []),
        ("machine: q35\nhostpci0: 03:00.0\n", ["PVP341"]),
        ("machine: pc-q35-2.12\nhostpci0: 03:00.0,pcie=1\n", ["PVP342"]),
        ("machine: pc-q35-10.0+pve1\nhostpci0: 03:00.0,pcie=1\n", []),
        ("machine: q35\nvga: none\nhostpci0: 00:02.0,legacy-igd=1\n", []),
        ("hostpci0: mapping=none\nhostpci1: 01:00\n", ["PVP340"]),
    ],
)
def test_machines(config: str, expected: list[str], tmp_path: Path) -> None:
    assert codes(Tree(config, COMPUTE), tmp_path) == expected


@pytest.mark.parametrize(
    "config, expected",
    [
        (f"{Q35},x-vga=1\n", []),
        (f"{Q35},x-vga=1\nvga: none\n", []),
        (f"{Q35},x-vga=1\nvga: memory=32\n", []),
        (f"{Q35},x-vga=1\nvga: type=virtio,memory=64\n", ["PVP344"]),
        (f"{Q35},x-vga=1\nbios: ovmf\nefidisk0: a:b\nvga: qxl\n", ["PVP344"]),
        (f"{Q35},x-vga=0\nvga: qxl\n", []),
        (f"template: 1\n{Q35.replace('01:00', 'mapping=none')},x-vga=1\nvga: qxl\n", []),
        (f"{Q35},rombar=0,x-vga=1\n", ["PVP347"]),
        (f"{Q35},rombar=0\n", []),
        (f"{SSD[:-1]},x-vga=1\nserial0: socket\n", ["PVP345"]),
        ("hostpci0: 00:02.0,mdev=i915-GVTg_V5_4,x-vga=1\nserial0: socket\n", ["PVP345"]),
        ("bios: ovmf\nefidisk0: a:b\nhostpci0: 00:02.0,mdev=i915-GVTg_V5_4,x-vga=1\nserial0: socket\n", []),
        ("machine: q35\nhostpci0: 01:00.1;01:00.0,pcie=1\n", []),
    ],
)
def test_pictures(config: str, expected: list[str], tmp_path: Path) -> None:
    assert codes(Tree(config, GVT), tmp_path) == expected


def test_one_vga_among_the_alternatives_is_enough(tmp_path: Path) -> None:
    two = MAPPED + "\tmap id=144d:a80a,iommugroup=4,node=pve,path=0000:02:00.0\n"
    config = "machine: q35\nserial0: socket\nhostpci0: mapping=gpu,pcie=1,x-vga=1\n"
    assert "PVP345" not in codes(Tree(config, mapping=two), tmp_path)


@pytest.mark.parametrize("name", ["BOOTFB", "efifb", "simplefb", "simpledrm"])
def test_the_framebuffer_is_told_with_its_device(name: str, tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"/proc/iomem": IOMEM.format(name), "/proc/sys/kernel/osrelease": "5.15.158-2-pve"}
    (finding,) = Tree(f"{Q35}\n", files=files).findings(tmp_path)
    assert (
        finding.message == f"the kernel holds a BAR of 0000:01:00.0 for the firmware's picture ({name} in /proc/iomem)"
    )


@pytest.mark.parametrize(
    "iomem",
    [
        IOMEM.format("nouveau") + "00000000-00000000 : BOOTFB\n",
        IOMEM.format("x").replace("    00000000-00000000 : 0000:01:00.1", "  00000000-00000000 : BOOTFB"),
        "BOOTFB\n0000:01:00.0\n",
        "\xff\0",
        "",
    ],
)
def test_a_framebuffer_elsewhere_is_not_in_the_way(iomem: str, tmp_path: Path) -> None:
    assert codes(Tree(f"{Q35}\n", files={"/proc/iomem": iomem}), tmp_path) == []


def test_the_framebuffer_of_a_host(tmp_path: Path) -> None:
    """Of a device that is there to be passed; that of the host's own display is as it should be."""
    files: dict[str, str | bytes] = {"/proc/iomem": IOMEM.format("BOOTFB")}
    bound = {"0000:01:00.0": {"driver": "vfio-pci"}}

    def state(name: str, host: Tree) -> str:
        states = {state.rule.code: state.state for state in host_states(Surroundings(host.build(tmp_path / name)))}
        return states["PVP274"]

    assert state("bound", Tree(devices=bound, files=files)) == "findings"
    assert state("own", Tree(files=files)) == "not applicable"
    assert state("absent", Tree(devices=bound)) == "unknown"
    assert state("other", Tree(devices={"0000:02:00.0": {"driver": "vfio-pci"}}, files=files)) == "fine"


@pytest.mark.parametrize(
    "driver, boot_vga, expected",
    [("amdgpu", "1", ["PVP273"]), ("amdgpu", "0", []), ("vfio-pci", "1", []), ("amdgpu", "", [])],
)
def test_the_hosts_own_display(driver: str, boot_vga: str, expected: list[str], tmp_path: Path) -> None:
    device = {"0000:01:00.0": {"driver": driver, "files": {"boot_vga": boot_vga}}}
    assert codes(Tree(f"{Q35}\n", device), tmp_path) == expected


def test_companions_by_mapping(tmp_path: Path) -> None:
    (finding,) = Tree("machine: q35\nhostpci0: mapping=gpu,pcie=1\n", mapping=MAPPED).findings(tmp_path)
    assert (finding.code, finding.hint) == ("PVP275", "give mapping gpu the slot as its path: 0000:01:00")
    assert finding.message.endswith("the other functions of its card: 0000:01:00.1 (audio)")


def test_companions_of_a_gpu_in_the_processor(tmp_path: Path) -> None:
    """Its slot holds the host's USB controllers, too, which a hint must not give away."""
    usb = {"vendor": "0x1022", "device": "0x1639", "class": "0x0c0330", "iommu_group": 7, "driver": "xhci_hcd"}
    apu = {"0000:01:00.3": usb}
    (finding,) = Tree("machine: q35\nhostpci0: 01:00.0,pcie=1\n", apu).findings(tmp_path / "a")
    assert (finding.code, finding.hint) == ("PVP275", "name the functions: 0000:01:00.0;0000:01:00.1")
    (finding,) = Tree("machine: q35\nhostpci0: mapping=gpu,pcie=1\n", apu, mapping=MAPPED).findings(tmp_path / "b")
    assert finding.hint == "give mapping gpu the functions as its path: 0000:01:00.0;0000:01:00.1"
    swapped = Tree("bios: ovmf\nmachine: q35\nhostpci0: 01:00.1;01:00.0,pcie=1,x-vga=1\n", apu)
    hints = [finding.hint for finding in swapped.findings(tmp_path / "c") if finding.code == "PVP346"]
    assert hints == ["name 0000:01:00.0 first"]


@pytest.mark.parametrize(
    "companion",
    [
        {"class": "0x0c0330", "vendor": "0x1106"},
        {"class": "0x020000"},
        {"class": "junk"},
        {"class": "0x040380", "a": 1},
    ],
)
def test_what_is_no_companion(companion: dict[str, Any], tmp_path: Path) -> None:
    """Another maker's chip, another kind of function; but any kind of sound is one."""
    found = codes(Tree("machine: q35\nhostpci0: 01:00.0,pcie=1\n", {"0000:01:00.1": companion}), tmp_path)
    assert found == (["PVP275"] if "a" in companion else [])


def test_companions_in_another_entry(tmp_path: Path) -> None:
    assert codes(Tree("machine: q35\nhostpci0: 01:00.0,pcie=1\nhostpci1: 01:00.1,pcie=1\n"), tmp_path) == []


@pytest.mark.parametrize(
    "one, other, expected",
    [
        ("GRID P4-1Q", "GRID P4-4Q", []),
        ("GRID P4-1Q", "P4-2B4", ["PVP277"]),
        ("NVIDIA A40-48C", "NVIDIA A40-16C", []),
        ("NVIDIA A100-4-20C", "NVIDIA A100-2-10CME", []),
        ("NVIDIA A30-8C", "NVIDIA A16-8C", ["PVP277"]),
        ("NVIDIA RTX Pro 6000 Blackwell DC-1-24Q", "NVIDIA RTX Pro 6000 Blackwell DC-3Q", []),
        ("DC-3A", "DC-3Q", ["PVP277"]),
        ("something else", "DC-3Q", []),
        (None, "DC-3Q", []),
    ],
)
def test_vgpus_of_one_vm(one: str | None, other: str, expected: list[str], tmp_path: Path) -> None:
    kinds = {"nvidia-63": {"available": "2", "name": one}, "nvidia-64": {"available": "2", "name": other}}
    config = "hostpci0: 41:00.0,mdev=nvidia-63\nhostpci1: 41:00.0,mdev=nvidia-64\n"
    assert codes(Tree(config, {"0000:41:00.0": {"mdev": {"types": kinds}}}), tmp_path) == expected


def test_vgpus_by_both_interfaces(tmp_path: Path) -> None:
    (finding,) = Tree("hostpci0: a1:00.4,mdev=nvidia-35\nhostpci1: 41:00.0,mdev=nvidia-63\n").findings(tmp_path)
    assert (finding.code, finding.where) == ("PVP277", "/etc/pve/qemu-server/100.conf:2 hostpci1")
    assert finding.message == "hostpci1 takes a vGPU GRID P4-1Q beside A16-1Q, of another board or series"
