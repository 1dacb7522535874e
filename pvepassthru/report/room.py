# SPDX-License-Identifier: Apache-2.0
"""What each GPU has of its mdev and vGPU types: used, still available, and blocked by what else is on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvepassthru.host import capacity
from pvepassthru.model import placement
from pvepassthru.report import instances

if TYPE_CHECKING:
    from pvepassthru.host.host import Host
    from pvepassthru.host.inventory import Inventory
    from pvepassthru.model.placement import Gpu


def rooms(host: Host, inventory: Inventory) -> list[dict[str, Any]]:
    """The GPUs with their types, in the shape of docs/json.md.

    What is available is what `mdev plan` says. Raises InputError when PVE's reservations cannot be read.
    """
    parents = capacity.parents(inventory)
    gpus = capacity.gpus(inventory, parents, instances.taken(host) if parents else ())
    kinds = sorted({kind for gpu in gpus for kind in (*gpu.profiles, *gpu.used) if kind})
    available = {kind: placement.room(gpus, kind) for kind in kinds}
    most = {kind: placement.most(gpus, kind) for kind in kinds}
    owners = _owners(host, inventory, parents)
    return [
        {
            "address": gpu.address,
            "rule": gpu.rule,
            "functions": len(gpu.places),
            "types": sorted(
                (
                    _type(gpu, kind, available[kind][at], most[kind][at], owners)
                    for kind in kinds
                    if kind in gpu.profiles or gpu.used.get(kind)
                ),
                key=lambda row: (row["framebuffer"] or 0, row["type"]),
            ),
        }
        for at, gpu in enumerate(gpus)
    ]


def _type(
    gpu: Gpu, kind: str, available: int, most: int | None, owners: dict[tuple[str, str], set[int]]
) -> dict[str, Any]:
    known = gpu.profiles.get(kind)
    used = gpu.used.get(kind, 0)
    several = len(gpu.places) > 1  # virtual functions, each of which takes one instance
    total = min(most, len(gpu.places)) if most and several else most
    if total is None and not several and sum(gpu.used.values()) == used:
        total = used + available
    functions = [gpu.address, *(place.address for place in gpu.places)]
    return {
        "type": kind,
        "name": known.name if known else None,
        "framebuffer": known.framebuffer if known else None,
        "used": used,
        "available": available,
        "total": None if total is None else max(total, used + available),
        "blocked": None if total is None else max(0, total - used - available),
        "vmids": sorted(set().union(*(owners.get((address, kind), set()) for address in functions))),
    }


def _owners(host: Host, inventory: Inventory, parents: tuple[str, ...]) -> dict[tuple[str, str], set[int]]:
    """The VMs that have instances, by function and type, as `mdev types` says."""
    found: dict[tuple[str, str], set[int]] = {}
    for row in instances.capacity(host, inventory, parents):
        vmids = row["vmids"]
        if isinstance(vmids, list) and vmids:
            found.setdefault((str(row["address"]), str(row["type"])), set()).update(vmids)
    return found
