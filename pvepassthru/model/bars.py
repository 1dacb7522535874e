# SPDX-License-Identifier: Apache-2.0
"""Resizable BARs as sysfs has them. Source: Linux Documentation/ABI/testing/sysfs-bus-pci, resourceN_resize."""

from __future__ import annotations

MEGABYTE = 1 << 20


def sizes(text: str) -> tuple[int, ...]:
    """The sizes in bytes that a BAR can have, ascending, of what resourceN_resize reads: a bitmap in hex.

    Bit 0 is 1 MB, bit 1 is 2 MB, and so on. Empty if the text is no bitmap.
    """
    try:
        bitmap = int(text, 16)
    except ValueError:
        return ()
    return tuple([MEGABYTE << bit for bit in range(max(bitmap, 0).bit_length()) if bitmap >> bit & 1])


def number_of(size: int) -> int | None:
    """What resourceN_resize takes for a size in bytes: its bit; None if that is no power of two from 1 MB on."""
    bit = (size // MEGABYTE).bit_length() - 1
    return bit if bit >= 0 and MEGABYTE << bit == size else None


def size_now(resource: str, bar: int) -> int | None:
    """The size in bytes of a BAR, by the file `resource`: a line a region, with first and last address and flags.

    None for a BAR that the function does not have, or that has no address.
    """
    lines = resource.splitlines()
    words = lines[bar].split() if bar < len(lines) else []
    try:
        start, end = int(words[0], 16), int(words[1], 16)
    except (IndexError, ValueError):
        return None
    return end - start + 1 if end > start else None


def words(size: int) -> str:
    """A size in bytes as people write it: 256M, 16G."""
    return f"{size >> 30}G" if size % (1 << 30) == 0 else f"{size >> 20}M"
