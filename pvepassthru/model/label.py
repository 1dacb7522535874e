# SPDX-License-Identifier: Apache-2.0
"""What a block device says of itself in its first bytes: a member of a ZFS pool, an LVM group or an md array.

Sources: LVM2's lib/format_text/layout.h (LABELONE in one of the first four sectors), Linux
include/uapi/linux/raid/md_p.h (superblock 1.1 at 0, 1.2 at 4096), OpenZFS's vdev_impl.h (a name-value list in XDR form
at 16 KiB of a label) and nvpair.h.
"""

from __future__ import annotations

from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

BYTES = 128 * 1024
"""How much of the start of a device `parse` looks at."""
KINDS = ("zfs_member", "LVM2_member", "linux_raid_member")
"""As udev's database names them in ID_FS_TYPE."""

_LIST = slice(16 * 1024, BYTES)
_UINT64 = 8
_STRING = 9


class Label(NamedTuple):
    """What a block device is a member of."""

    kind: str
    """As udev's ID_FS_TYPE: one of KINDS, or the type of a file system."""
    name: str = ""
    """Of ZFS the pool's name."""
    uuid: str = ""
    """Of ZFS the pool's guid, a decimal number."""


def parse(start: bytes) -> Label | None:
    """The label in the first bytes of a block device, or None without one of these."""
    if any(start[sector : sector + 8] == b"LABELONE" for sector in range(0, 2048, 512)):
        return Label("LVM2_member")
    if any(start[offset : offset + 8] == b"\xfc\x4e\x2b\xa9\x01\0\0\0" for offset in (0, 4096)):
        return Label("linux_raid_member")
    values = dict(_pairs(start[_LIST]))
    guid = values.get("pool_guid")
    if guid is None:
        return None
    return Label("zfs_member", str(values.get("name", "")), str(guid))


def _pairs(data: bytes) -> Iterator[tuple[str, int | str]]:
    """The numbers and texts of a name-value list, the outermost alone; nothing of what is none."""
    if data[:1] != b"\x01":  # no XDR
        return
    place = 12
    while True:
        size = _number(data, place)
        length = _number(data, place + 8)
        if not 0 < size <= len(data) - place or length > size:
            return
        name = data[place + 12 : place + 12 + length].decode("utf-8", "replace")
        value = place + 12 + -(-length // 4) * 4
        kind = _number(data, value)
        if kind == _UINT64:
            yield name, int.from_bytes(data[value + 8 : value + 16], "big")
        elif kind == _STRING:
            text = data[value + 12 : value + 12 + min(_number(data, value + 8), 256)]
            yield name, text.decode("utf-8", "replace")
        place += size


def _number(data: bytes, place: int) -> int:
    return int.from_bytes(data[place : place + 4], "big")
