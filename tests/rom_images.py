# SPDX-License-Identifier: Apache-2.0
"""Builds PCI expansion ROMs for tests: images with the headers that firmware reads, and filling."""

from __future__ import annotations

import struct

BLOCK = 512
LEGACY = 0
EFI = 3
X64 = 0x8664
DEVICE = 0x10DE, 0x2204
"""Vendor and device of the GPU in tests/rules/example.py."""


def image(  # noqa: PLR0913 - the fields of an image, each by keyword
    code_type: int = LEGACY,
    *,
    ids: tuple[int, int] = DEVICE,
    devices: tuple[int, ...] = (),
    blocks: int = 2,
    last: bool = True,
    machine: int = X64,
    signature: int = 0x0EF1,
    packed: int = 1,
    bad_sum: bool = False,
    revision: int = 3,
    says: int | None = None,
) -> bytes:
    """One image of so many blocks; `says` is the number of blocks that its PCI data structure has instead."""
    data = bytearray(blocks * BLOCK)
    data[:3] = b"\x55\xaa" + bytes([blocks & 0xFF])
    if code_type == EFI:
        struct.pack_into("<HIHHH", data, 2, blocks, signature, 0x0B, machine, packed)
        struct.pack_into("<H", data, 0x16, 0x60)
    struct.pack_into("<H", data, 0x18, 0x1C)
    length = blocks if says is None else says
    fields = (*ids, 0x1C if devices else 0, 0x1C, revision, 0, 0x0300, length, 0, code_type, 0x80 if last else 0)
    struct.pack_into("<4sHHHHBBHHHBB", data, 0x1C, b"PCIR", *fields)
    if devices:
        struct.pack_into(f"<{len(devices) + 1}H", data, 0x1C + 0x1C, *devices, 0)
    if code_type == LEGACY:
        data[-1] = -sum(data) & 0xFF
        data[-1] ^= bad_sum
    return bytes(data)


def both(ids: tuple[int, int] = DEVICE) -> bytes:
    """What a GPU of today has: a legacy image, then one for EFI."""
    return image(LEGACY, ids=ids, last=False) + image(EFI, ids=ids)
