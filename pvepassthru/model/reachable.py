# SPDX-License-Identifier: Apache-2.0
"""The nodes of a cluster on which a VM may be started: PVE refuses that where its hookscript is missing."""

from __future__ import annotations

from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pvepassthru.model.hostpci import HostpciEntry
    from pvepassthru.model.mapping import Mappings


class Ha(NamedTuple):
    """What HA may do with a VM that it manages: start it on another node when its own dies."""

    only: tuple[str, ...] | None = None
    """The nodes to which a strict rule keeps it."""


def others(
    node: str, nodes: Iterable[str], entries: Iterable[HostpciEntry], mappings: Mappings, ha: Ha | None
) -> tuple[str, ...]:
    """The nodes besides the VM's own, sorted; `ha` is None for a VM that HA does not manage.

    A mapping reaches the nodes that it has devices of. An address keeps a VM where it is, since PVE does not migrate
    it; HA does not mind.
    """
    left = set(nodes) - {node}
    if ha and ha.only is not None:
        left &= set(ha.only)
    for entry in entries:
        if entry.mapping:
            mapping = mappings.by_name.get(entry.mapping)
            left &= {alternative.node for alternative in mapping.entries} if mapping else set()
        elif ha is None:
            return ()
    return tuple(sorted(left))


def lacking(vmid: int, why: Mapping[str, str]) -> str:
    """The sentence on nodes that lack a VM's hookscript, or of which that is not known: why, by node."""
    reasons = "; ".join(f"{node}: {words}" for node, words in why.items())
    where = f"VM {vmid} may be started on {listed(why)} too"
    return f"{where}, where PVE refuses that without its hookscript ({reasons})"
