# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests import tree
from tests.rom_images import EFI, LEGACY, both, image
from tests.rules.example import Tree
from tests.rules.examples.roms import BIOS, ENTRY, FILE, UEFI

if TYPE_CHECKING:
    from pathlib import Path

NO_EFI = "romfile rom.bin has no EFI image (legacy), and the VM's firmware is OVMF"
OTHER = (0x1002, 0x73BF)
TWO = (
    "gpu\n\tmap id=10de:2204,iommugroup=1,node=pve,path=0000:01:00,subsystem-id=1043:87b5\n"
    "\tmap id=10de:1db4,iommugroup=3,node=pve,path=0000:03:00\n"
)
V100 = {"0000:03:00.0": {"vendor": "0x10de", "device": "0x1db4", "class": "0x030200", "iommu_group": 3}}


def told(tmp_path: Path, content: bytes, config: str = UEFI + ENTRY, **tree_of: object) -> list[tuple[str, str]]:
    """(code, message) of what is found with this ROM."""
    host = Tree(config, files={FILE: content}, **tree_of)  # type: ignore[arg-type]  # fields of Tree
    return [(finding.code, finding.message) for finding in host.findings(tmp_path)]


def test_the_hint_cuts_the_header_off(tmp_path: Path) -> None:
    name = "it's a rom"
    config = UEFI + ENTRY.replace("rom.bin", name)
    host = Tree(config, files={f"/usr/share/kvm/{name}": b"NVGI" + bytes(600) + both()})
    (finding,) = host.findings(tmp_path)
    assert 'a header "NVGI" of 604 bytes' in finding.message
    command = finding.hint.partition(", then ")[0].replace("/usr/share/kvm", f"{tmp_path}/usr/share/kvm")
    subprocess.run(["sh", "-c", command], check=True)
    assert (tmp_path / f"usr/share/kvm/{name}.cut").read_bytes() == both()


@pytest.mark.parametrize(
    "content, config, expected",
    [
        (b"\0" * 512, UEFI + ENTRY, "romfile rom.bin holds nothing but the byte 00"),
        (b"<html>", UEFI + ENTRY, "romfile rom.bin has no image: it starts with 3c 68 instead of 55 aa"),
        (both(OTHER), UEFI + ENTRY, "romfile rom.bin is for 1002:73bf, and 0000:01:00.0 is 10de:2204"),
        (image(LEGACY), UEFI + ENTRY, NO_EFI),
        (
            image(LEGACY) + image(EFI),
            UEFI + ENTRY,
            f"{NO_EFI}: the one behind its last image is never found",
        ),
        (image(EFI), BIOS, "romfile rom.bin has no legacy image (EFI), and the VM's firmware is SeaBIOS"),
        (
            image(EFI, machine=0x1234),
            UEFI + ENTRY,
            "romfile rom.bin has EFI images for machine 0x1234 only, and OVMF runs those for x64",
        ),
        (image(EFI, signature=0), UEFI + ENTRY, "romfile rom.bin has an EFI image at 0x0 without the signature 0x0ef1"),
        (
            both(),
            UEFI + ENTRY.replace("romfile", "rombar=0,romfile"),
            "romfile rom.bin goes with rombar=0, which hides it from OVMF and the guest's drivers",
        ),
        (
            both(),
            BIOS.replace("romfile", "rombar=0,romfile"),
            "romfile rom.bin goes with rombar=0, which hides it from the guest's drivers",
        ),
    ],
)
def test_messages(content: bytes, config: str, expected: str, tmp_path: Path) -> None:
    assert [message for _, message in told(tmp_path, content, config)] == [expected]


@pytest.mark.parametrize(
    "content",
    [
        both(),
        both() + b"\xff" * 10000,
        image(EFI, ids=(0x10DE, 0xFFFF)),
        image(EFI, ids=(0x10DE, 1), devices=(2, 0x2204)),
        image(EFI, machine=0x0EBC),
        image(LEGACY, ids=OTHER, last=False) + image(EFI),
    ],
)
def test_fine(content: bytes, tmp_path: Path) -> None:
    assert told(tmp_path, content) == []


def test_ids_that_the_guest_sees_count_too(tmp_path: Path) -> None:
    config = UEFI + ENTRY.replace("romfile", "vendor-id=0x1002,device-id=0x73BF,romfile")
    assert told(tmp_path, both(OTHER), config) == []
    assert told(tmp_path, both(), config) == []


def test_a_broken_chain_says_nothing_of_images_that_nobody_saw(tmp_path: Path) -> None:
    assert [code for code, _ in told(tmp_path, image(LEGACY, last=False))] == ["PVP264"]
    assert [code for code, _ in told(tmp_path, image(LEGACY, last=False) + image(EFI)[:600])] == ["PVP263"]


def test_a_mapping_of_two_models_needs_two_roms(tmp_path: Path) -> None:
    config = f"{UEFI}hostpci0: mapping=gpu,pcie=1,romfile=rom.bin\n"
    ((code, message),) = told(tmp_path, both(), config, mapping=TWO, devices=V100)
    assert code == "PVP265"
    assert message.endswith("and 0000:03:00.0 is 10de:1db4")


def test_a_mediated_device_has_ids_of_its_own(tmp_path: Path) -> None:
    config = f"{UEFI}hostpci0: 41:00.0,mdev=nvidia-63,pcie=1,romfile=rom.bin\n"
    assert told(tmp_path, both(OTHER), config) == []


def test_two_entries_with_one_file_are_both_told(tmp_path: Path) -> None:
    config = f"{BIOS}hostpci1: 02:00.0,romfile=rom.bin\n"
    assert [code for code, _ in told(tmp_path, b"\xff" * 512, config)] == ["PVP260", "PVP260"]


def test_an_unreadable_vendor_is_no_other_device(tmp_path: Path) -> None:
    def gone(root: str) -> None:
        os.unlink(os.path.join(root, "sys/bus/pci/devices/0000:01:00.0/vendor"))

    assert "PVP265" not in [code for code, _ in told(tmp_path, both(OTHER), change=gone)]


def test_what_cannot_be_read_is_told_once(tmp_path: Path) -> None:
    config = UEFI + ENTRY
    found = Tree(config, change=lambda root: tree.folder(root, "usr/share/kvm/rom.bin")).findings(tmp_path)
    assert [finding.code for finding in found] == ["PVP232"]


def test_a_template_is_not_judged(tmp_path: Path) -> None:
    assert told(tmp_path, b"\xff" * 512, "template: 1\nhostpci0: mapping=gpu,romfile=rom.bin\n") == []
