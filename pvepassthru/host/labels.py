# SPDX-License-Identifier: Apache-2.0
"""What a block device is a member of: by udev's database, and where udev has nothing of it by the device itself.

Source: systemd's udev database (/run/udev/data/bMAJOR:MINOR; `E:` lines are properties), of which blkid's ID_FS_TYPE,
ID_FS_LABEL and ID_FS_UUID are read.
"""

from __future__ import annotations

import errno

from pvepassthru.host import slow
from pvepassthru.host.deadline import Deadline
from pvepassthru.host.host import ABSENT
from pvepassthru.model import label
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from pvepassthru.host.blocks import Blocks
    from pvepassthru.model.label import Label

UDEV = "/run/udev/data"
LIMIT = 2.0
"""Seconds that one disk gets to answer."""
LIMIT_OF_ALL = 6.0
"""Seconds that all disks of one judgement get."""
AMBIGUOUS = "AMBIVALENT"
"""ID_FS_AMBIVALENT: blkid found several signatures and does not say which is right."""


class Labels:
    """The labels of block devices, each read when it is asked for."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._deadline: Deadline | None = None

    def of(self, name: str) -> Label | None:
        """The label of a block device, or None without one; one that cannot be read is noted in Host.unreadable."""
        number = self._blocks.number(name)
        text = self._blocks.text(f"{UDEV}/b{number}") if number else None
        values = _values(text or "")
        if text is not None and AMBIGUOUS not in values:
            kind = values.get("TYPE")
            return label.Label(kind, values.get("LABEL", ""), values.get("UUID", "")) if kind else None
        if self._blocks.text(f"{self._blocks.folder(name)}/size") == "0":  # no medium in it
            return None
        return self._on_disk(name)

    def _on_disk(self, name: str) -> Label | None:
        node = f"/dev/{name.replace('!', '/')}"
        host = self._blocks.host
        self._blocks.asked.add(node)
        self._deadline = self._deadline or Deadline(LIMIT_OF_ALL)
        try:
            return label.parse(slow.read(host.path(node), label.BYTES, self._deadline.left(LIMIT)))
        except OSError as error:
            if error.errno not in ABSENT and error.errno != errno.ENOMEDIUM:
                host.unreadable[node] = error.errno or errno.EIO
            return None


def _values(text: str) -> dict[str, str]:
    """What udev's database has of blkid: ID_FS_TYPE as TYPE, and so on."""
    pairs = (line.removeprefix("E:ID_FS_").split("=", 1) for line in text.split("\n") if line.startswith("E:ID_FS_"))
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
