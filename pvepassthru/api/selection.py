# SPDX-License-Identifier: Apache-2.0
"""What the hostpci entries of a VM mean on one node: the functions that their selectors, and their mappings', name.

Of an entry with both, which PVE refuses, the mapping counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pvepassthru.api.hardware import NodeHardware
    from pvepassthru.model.hostpci import HostpciEntry
    from pvepassthru.model.mapping import Mappings


def selectors(entry: HostpciEntry, node: str, mappings: Mappings) -> tuple[tuple[str, ...], ...]:
    """The selectors of each alternative that an entry has on a node, there or not."""
    if entry.mapping:
        mapping = mappings.by_name.get(entry.mapping)
        return tuple(other.paths for other in mapping.on(node)) if mapping else ()
    return (tuple(entry.host.split(";")),) if entry.host else ()


def alternatives(entry: HostpciEntry, hardware: NodeHardware, mappings: Mappings) -> tuple[tuple[str, ...], ...]:
    """The functions of each alternative that an entry has on a node, of those that are there."""
    found = (hardware.resolved(each) for each in selectors(entry, hardware.node, mappings))
    return tuple(functions for functions in found if functions)


def parents(entries: Iterable[HostpciEntry], hardware: NodeHardware, mappings: Mappings) -> tuple[str, ...]:
    """The functions on which entries want mediated devices, as far as they are there; each once."""
    chosen = [each for entry in entries if entry.wants_mdev for each in selectors(entry, hardware.node, mappings)]
    return tuple(dict.fromkeys(address for each in chosen for address in hardware.reached(each)))
