# SPDX-License-Identifier: Apache-2.0
"""The hookscripts that VMs had before this tool's, as /etc/pve/pvepassthru-hooks.json has them: they are run with ours.

The file is `{"version": 1, "chained": {"100": {"volume": "local:snippets/x", "path": "/var/lib/vz/snippets/x"}}}`.
"""

from __future__ import annotations

from pvepassthru.model import jsontext
from pvepassthru.model.errors import InputError
from pvepassthru.model.pci import MAX_VMID, MIN_VMID
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import number, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE = "/etc/pve/pvepassthru-hooks.json"
VERSION = 1
_HINT = f"see {FILE}; pvepassthru attach and detach write it"


class Link(NamedTuple):
    """A hookscript that is run besides ours."""

    volume: str
    """As the VM's config had it: local:snippets/x."""
    path: str
    """Where its file was when it was noted. What counts is where the volume is now; this is for the shim, which has
    nothing else to go by where the package is not installed."""


def parse(data: bytes) -> dict[int, Link]:
    """What the file's bytes say, by VMID. Raises InputError when they are not what this tool writes."""
    try:
        found = jsontext.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{FILE} is no JSON: {error}", _HINT) from error
    version = found.get("version") if isinstance(found, dict) else None
    if type(version) is not int:
        raise InputError(f"{FILE} names no version", _HINT)
    if version > VERSION:
        raise InputError(f"{FILE} has version {version}, and this pvepassthru knows {VERSION}", "upgrade it here")
    entries = found.get("chained")
    if not isinstance(entries, dict):
        raise InputError(f"{FILE} has no list of chained hookscripts", _HINT)
    return {_vmid(key): _link(key, entry) for key, entry in entries.items()}


def document(links: Mapping[int, Link]) -> dict[str, object]:
    """The file's content, for JSON; its VMs in order."""
    return {"version": VERSION, "chained": {str(vmid): links[vmid]._asdict() for vmid in sorted(links)}}


def _vmid(key: str) -> int:
    vmid = number(key)
    if vmid is None or not MIN_VMID <= vmid <= MAX_VMID or key[0] == "0":
        raise InputError(f"{FILE}: {shown(key)} is no VMID", _HINT)
    return vmid


def _link(key: str, entry: object) -> Link:
    volume = entry.get("volume") if isinstance(entry, dict) else None
    path = entry.get("path") if isinstance(entry, dict) else None
    if not isinstance(volume, str) or not isinstance(path, str) or not volume or not path.startswith("/"):
        raise InputError(f"{FILE}: VM {key} has no hookscript there", _HINT)
    return Link(volume, path)
