# SPDX-License-Identifier: Apache-2.0
"""How a mapping holds functions of a node as one device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.api.reach import Reach
from pvepassthru.model import mapped, mapping, pci
from pvepassthru.model.errors import DeviceError
from pvepassthru.model.mapping import MapEntry
from pvepassthru.model.problem import is_mdev_capable, plain_id
from pvepassthru.model.text import listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pvepassthru.api.hardware import NodeHardware


def entry_for(hardware: NodeHardware, selectors: Sequence[str]) -> tuple[MapEntry, tuple[str, ...]]:
    """How a mapping holds these functions of a node as one device, with all that PVE compares, and the functions.

    PVE compares the ids of every function that is named, so different ones must be the whole slot. Raises NotFoundError
    for what is not there, DeviceError when PVE would not take it.
    """
    functions = Reach((), hardware, mapping.EMPTY, {}).present(tuple(selectors))
    slots = dict.fromkeys(pci.slot(address) for address in functions)
    ways = [tuple(selectors)]
    if functions == tuple(address for slot in slots for address in hardware.in_slot(slot)):
        ways.append(tuple(slots))
    problems = []
    for paths in dict.fromkeys(ways):
        entry = _entry(hardware, paths)
        whole = mapping.Mapping("", 0, is_mdev_capable(hardware, functions[0]), (entry,))
        problems = mapped.check(whole, entry, hardware, "", None)
        if not problems:
            return entry, functions
    words = problems[0].message.partition(": ")[2]
    message = f"a mapping cannot hold {listed(functions)} of node {hardware.node} as one device: {words}"
    raise DeviceError(message, "PVE compares the ids of every function that is named; map them one by one")


def _entry(hardware: NodeHardware, paths: tuple[str, ...]) -> MapEntry:
    first = paths[0] if "." in paths[0] else f"{paths[0]}.0"
    group = hardware.group(first)
    return MapEntry(
        0,
        hardware.node,
        paths,
        plain_id(hardware, first, "vendor", "device") or "",
        plain_id(hardware, first, "subsystem_vendor", "subsystem_device"),
        None if group is None else str(group),
    )
