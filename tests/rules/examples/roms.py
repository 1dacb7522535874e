# SPDX-License-Identifier: Apache-2.0
"""Examples of the rules on ROM files (rules/roms.py)."""

from __future__ import annotations

from pvepassthru.model.rom import LARGEST
from tests.rom_images import EFI, LEGACY, both, image
from tests.rules.example import Tree

FILE = "/usr/share/kvm/rom.bin"
UEFI = "bios: ovmf\nefidisk0: local-lvm:vm-100-disk-0,efitype=4m,size=4M\nmachine: q35\n"
ENTRY = "hostpci0: 01:00,pcie=1,romfile=rom.bin\n"
BIOS = f"machine: q35\n{ENTRY}"


def _rom(content: bytes, config: str = UEFI + ENTRY) -> Tree:
    return Tree(config, files={FILE: content})


GOOD = _rom(both())
EXAMPLES: dict[str, tuple[Tree, Tree]] = {
    "PVP260": (_rom(b"\xff" * 65536), GOOD),
    "PVP261": (_rom(b"NVGI" + bytes(1532) + both()), GOOD),
    "PVP262": (_rom(both().replace(b"PCIR", b"RICP", 1)), GOOD),
    "PVP263": (_rom(both()[:-100]), _rom(both() + b"\xff" * 100)),
    "PVP264": (_rom(image(LEGACY, last=False) + image(EFI, last=False)), GOOD),
    "PVP265": (_rom(both((0x10DE, 0x2206))), _rom(image(EFI, ids=(0x10DE, 0x2206), devices=(0x1234, 0x2204)))),
    "PVP266": (_rom(image(LEGACY)), _rom(image(LEGACY), BIOS)),
    "PVP267": (_rom(image(EFI), BIOS), _rom(image(EFI))),
    "PVP268": (_rom(image(LEGACY, bad_sum=True), BIOS), _rom(image(LEGACY, bad_sum=True, last=False) + image(EFI))),
    "PVP269": (_rom(both(), UEFI + ENTRY.replace(",romfile", ",rombar=0,romfile")), GOOD),
    "PVP270": (_rom(both().ljust(LARGEST + 1, b"\xff")), _rom(both().ljust(LARGEST, b"\xff"))),
    "PVP271": (_rom(image(EFI, machine=0xAA64)), _rom(image(EFI, machine=0xAA64, last=False) + image(EFI))),
}
