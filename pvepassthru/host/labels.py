# SPDX-License-Identifier: Apache-2.0
"""What a block device is a member of: by udev's database, and where udev has nothing of it by the device itself.

Source: systemd's udev database (/run/udev/data/bMAJOR:MINOR; `E:` lines are properties), of which blkid's ID_FS_TYPE,
ID_FS_LABEL and ID_FS_UUID are read.
"""

from __future__ import annotations

from pvepassthru.model.label import Label
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from pvepassthru.host.blocks import Blocks

UDEV = "/run/udev/data"


def of(blocks: Blocks, name: str) -> Label | None:
    """The label of a block device, or None without one."""
    text = blocks.text(f"{UDEV}/b{blocks.number(name)}")
    return _in_udev(text) if text is not None else None


def _in_udev(text: str) -> Label | None:
    """The label as udev's database tells it."""
    values = {}
    for line in text.split("\n"):
        key, equals, value = line.partition("=")
        if equals and key.startswith("E:ID_FS_"):
            values[key.removeprefix("E:ID_FS_")] = value
    kind = values.get("TYPE")
    return Label(kind, values.get("LABEL", ""), values.get("UUID", "")) if kind else None
