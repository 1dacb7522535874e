# SPDX-License-Identifier: Apache-2.0
"""Where hookscripts lie: the snippets of storages, as PVE finds them by a volume such as local:snippets/x.

Source: behaviour of pve-storage's plugins for folders, and of pve-guest-common's check of hookscripts.
"""

from __future__ import annotations

import os
import stat

from pvepassthru.host import cluster
from pvepassthru.model import property_string
from pvepassthru.model.pattern import ASCII, Pattern
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pvepassthru.host.host import Host
    from pvepassthru.model.mounts import Mount
    from pvepassthru.model.section_config import Section

CONTENT = "snippets"
OURS = "pvepassthru"
"""The file name of this tool's hookscript, on whatever storage."""
_MOUNTED_AS = {"nfs": ("nfs",), "cifs": ("cifs",), "cephfs": ("ceph", "fuse.ceph"), "glusterfs": ("fuse.glusterfs",)}
"""How the types of file systems begin that PVE takes for a storage of such a type."""
_FAULTS = {
    "absent": "there is no {}",
    "irregular": "{} is no file",
    "inert": "{} is not executable",
    "noexec": "{} lies on a file system that is mounted with noexec",
}
_SNIPPET = Pattern(r"snippets/([^/]+)", ASCII)
_STORAGE = Pattern(r"[a-z][a-z0-9._-]*[a-z0-9]", ASCII | 2)


class Snippet(NamedTuple):
    """A volume that can be a hookscript."""

    volume: str
    storage: Section
    path: str
    """Where its file is, or would be."""


def locate(storages: Mapping[str, Section], volume: str) -> Snippet | str:
    """Where a volume's file is, or why the volume can be no hookscript."""
    name, colon, rest = volume.partition(":")
    if not colon or not _STORAGE.fullmatch(name):
        return "it is no volume"
    file = _SNIPPET.fullmatch(rest)
    if name not in storages:
        return f"there is no storage {shown(name)}"
    if file is None:
        return "it is not in the snippets of its storage"
    folder = cluster.snippets(storages[name])
    if folder is None:
        return f"storage {name} ({storages[name].type}) holds no files"
    return Snippet(volume, storages[name], f"{folder}/{file[1]}")


def is_ours(volume: str | None) -> bool:
    """Whether a volume is this tool's hookscript, by its name."""
    return volume is not None and volume.endswith(f":{CONTENT}/{OURS}")


def fault(host: Host, path: str) -> str:
    """Why PVE would not run a script of this path; empty if it would."""
    kind = kind_of_fault(host, path)
    return _FAULTS[kind].format(shown(path)) if kind else ""


def kind_of_fault(host: Host, path: str) -> str:
    """As `fault`, as one word: absent, irregular, inert (not executable), noexec (so is its file system); or empty."""
    mode = host.mode(path)
    if mode is None:
        return "absent"
    if not stat.S_ISREG(mode):
        return "irregular"
    if not mode & 0o111:
        return "inert"
    return "noexec" if noexec(host, path) else ""


def noexec(host: Host, path: str) -> bool:
    """Whether nothing can be run that lies at this path, or would; False where that cannot be told."""
    if not host.root:
        try:
            return bool(os.statvfs(path).f_flag & os.ST_NOEXEC)
        except OSError:
            return False
    from pvepassthru.model import mounts  # noqa: PLC0415 - only for another host's tree

    mount = mounts.mounted_at(f"{host.resolve(path) or path}/", _mounts(host) or ())
    return mount is not None and mount.noexec


def unmounted(host: Host, storage: Section) -> str | None:
    """The folder on which nothing of the storage is mounted though it has to be; None if all is well, or unknown.

    What is written there now is hidden later. As PVE has it: its network storages are mounted, and others are where
    is_mountpoint says so, with the storage's own folder or another one.
    """
    point = cluster.storage_path(storage)
    if storage.type not in _MOUNTED_AS:
        said = storage.get("is_mountpoint")
        if said and property_string.boolean(said) is None:
            point = said.rstrip("/")
        elif not storage.flag("is_mountpoint"):
            return None
    mounts = _mounts(host)
    if point is None or mounts is None:
        return None
    kinds = _MOUNTED_AS.get(storage.type, ("",))
    there = {point, host.resolve(point)}
    return None if any(mount.point in there and mount.kind.startswith(kinds) for mount in mounts) else point


def _mounts(host: Host) -> tuple[Mount, ...] | None:
    """All mounts, or None where no file lists them."""
    from pvepassthru.model import mounts  # noqa: PLC0415 - not for a chained hookscript

    for path, parse in (("/proc/self/mountinfo", mounts.mountinfo), ("/proc/mounts", mounts.mounts)):
        text = host.text(path)
        if text is not None:
            return parse(text)[0]
    return None


def holding(storages: Mapping[str, Section], node: str) -> list[Section]:
    """The storages whose snippets a node can use, in the order of storage.cfg."""
    return [
        storage
        for storage in storages.values()
        if CONTENT in content(storage) and is_on(storage, node) and cluster.snippets(storage) is not None
    ]


def content(storage: Section) -> tuple[str, ...]:
    """What a storage is for. `local` without a line of its own is for everything; else PVE's default is for guests."""
    if storage.line == 0:
        return ("backup", "images", "iso", "rootdir", CONTENT, "vztmpl")
    return storage.words("content") or ("images", "rootdir")


def is_on(storage: Section, node: str) -> bool:
    """Whether a storage is enabled on a node."""
    names = storage.words("nodes")
    return not storage.flag("disable") and (not names or node in names)
