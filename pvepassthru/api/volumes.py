# SPDX-License-Identifier: Apache-2.0
"""Whether the storages and the hookscript that a change names are there on the VM's node, as far as its user sees.

Sources: nodes/N/storage, which leaves out what a user has no privilege on, and nodes/N/storage/S/content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.api import cluster, permission
from pvepassthru.model.errors import ApiError, ApiMissingError
from pvepassthru.model.text import listed, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.api.change import Change
    from pvepassthru.api.client import Client

SNIPPETS = "snippets"
READERS = frozenset({"Datastore.Audit", "Datastore.AllocateSpace"})
"""Who has one of these on a storage sees it; PVE leaves out the others without a word."""


def absent(client: Client, change: Change) -> tuple[ApiMissingError, ...]:
    """What of the volumes that a change names is not there; nothing of what this user cannot see. Never raises."""
    disks = [one.new for one in change.keys if one.allocates and one.new]
    hooks = [one.new for one in change.keys if one.key == "hookscript" and one.new]
    if not disks and not hooks:
        return ()
    try:
        return tuple(_absent(client, change.node, disks, hooks))
    except ApiError:  # that this cannot be read says nothing of the change
        return ()


def _absent(client: Client, node: str, disks: list[str], hooks: list[str]) -> Iterator[ApiMissingError]:
    rows = cluster.rows(client, f"nodes/{node}/storage")
    takes = {str(row.get("storage")): str(row.get("content", "")).split(",") for row in rows}
    for volume, kind in (*((disk, "images") for disk in disks), *((hook, SNIPPETS) for hook in hooks)):
        storage = volume.partition(":")[0]
        fitting = listed(name for name, kinds in takes.items() if kind in kinds) or "none that this user sees"
        hint = f"of its storages these take {kind}: {fitting}"
        if storage not in takes:
            if _sees(client, storage):
                yield ApiMissingError(f"there is no storage {shown(storage)} on node {node}", hint)
        elif kind not in takes[storage]:
            yield ApiMissingError(f"storage {shown(storage)} on node {node} takes no {kind}", hint)
        elif kind == SNIPPETS:
            yield from _no_snippet(client, node, volume)


def _sees(client: Client, storage: str) -> bool:
    """Whether this user would see a storage if it were there. Raises ApiError."""
    return client.is_root or not READERS.isdisjoint(permission.privileges(client, f"/storage/{storage}"))


def _no_snippet(client: Client, node: str, volume: str) -> Iterator[ApiMissingError]:
    storage = volume.partition(":")[0]
    rows = cluster.rows(client, f"nodes/{node}/storage/{storage}/content", content=SNIPPETS)
    names = [str(row.get("volid")) for row in rows]
    if volume not in names:
        hint = f"copy it into the snippets of {storage} on each node where the VM may run"
        hint += f"; there are {listed(map(shown, names), 6)}" if names else ""
        yield ApiMissingError(f"there is no {shown(volume)} on node {node}", hint)
