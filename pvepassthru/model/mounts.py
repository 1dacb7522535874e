# SPDX-License-Identifier: Apache-2.0
"""What is mounted and what is swapped to, as the kernel lists it.

Sources: Linux Documentation/filesystems/proc.rst (mountinfo), fstab(5) (the older form of /proc/mounts), the kernel's
mm/swapfile.c (/proc/swaps).
"""

from __future__ import annotations

from pvepassthru.model.record import NamedTuple

_ESCAPES = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\043": "#", "\\134": "\\"}
"""How the kernel writes these characters; the backslash is last, so that what it brings is not read again."""


class Mount(NamedTuple):
    """One mounted file system."""

    number: str
    """`major:minor` of what is mounted; major 0 is anonymous (btrfs, ZFS, tmpfs). Empty if it is not known."""
    point: str
    """Where it is mounted."""
    kind: str
    """The file system's type."""
    source: str
    """What it was mounted from: a device's path, or a dataset; may be `none`."""
    noexec: bool = False
    """Whether nothing that lies there can be run as a program."""


class Swap(NamedTuple):
    """One swap space in use."""

    path: str
    """A device's path, or a file's."""
    kind: str
    """`partition` or `file`."""


def mountinfo(text: str) -> tuple[tuple[Mount, ...], int | None]:
    """The mounts of /proc/PID/mountinfo, and the number of the first line that is none, or None."""
    found: list[Mount] = []
    bad = None
    for count, line in enumerate(text.split("\n"), 1):
        left, dash, right = line.partition(" - ")
        before, after = left.split(" "), right.split(" ")
        if dash and len(before) >= 6 and len(after) >= 3 and ":" in before[2]:
            found.append(Mount(before[2], _plain(before[4]), after[0], _plain(after[1]), _noexec(before[5])))
        elif line and bad is None:
            bad = count
    return tuple(found), bad


def mounts(text: str) -> tuple[tuple[Mount, ...], int | None]:
    """The mounts of /proc/mounts, which has no numbers, and the number of the first line that is none, or None."""
    found: list[Mount] = []
    bad = None
    for count, line in enumerate(text.split("\n"), 1):
        words = line.split(" ")
        if len(words) >= 4:
            found.append(Mount("", _plain(words[1]), words[2], _plain(words[0]), _noexec(words[3])))
        elif line and bad is None:
            bad = count
    return tuple(found), bad


def swaps(text: str) -> tuple[tuple[Swap, ...], int | None]:
    """The swap spaces of /proc/swaps without its header, and the number of the first line that is none, or None."""
    found: list[Swap] = []
    bad = None
    for count, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if count == 1 and (words[:1], words[-1:]) == (["Filename"], ["Priority"]):
            continue
        if len(words) >= 5 and count > 1:
            found.append(Swap(_plain(words[0]), words[1]))
        elif words and bad is None:
            bad = count
    return tuple(found), bad


def mounted_at(path: str, among: tuple[Mount, ...]) -> Mount | None:
    """The mount that a file lies on: of those with the longest mount point above it the last, or None."""
    above = [mount for mount in among if path.startswith(mount.point.rstrip("/") + "/")]
    longest = max((len(mount.point) for mount in above), default=0)
    return next((mount for mount in reversed(above) if len(mount.point) == longest), None)


def _noexec(options: str) -> bool:
    return "noexec" in options.split(",")


def _plain(text: str) -> str:
    if "\\" in text:
        for escape, char in _ESCAPES.items():
            text = text.replace(escape, char)
    return text
