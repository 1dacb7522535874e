# SPDX-License-Identifier: Apache-2.0
"""What one wish has got so far, while what is left is still being chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api.mediated import Mediated

if TYPE_CHECKING:
    from pvepassthru.api.hardware import Function
    from pvepassthru.api.reach import Reach
    from pvepassthru.api.wish import Device
    from pvepassthru.model.hostpci import HostpciEntry


class Choice(NamedTuple):
    """What serves one device of a wish."""

    device: Device
    functions: tuple[str, ...]
    """With a mapping those of its first device on this node."""
    host: str = ""
    """The selectors for `host=`; empty with a mapping."""
    mapping: str = ""
    mdev: str = ""
    """The mdev type; empty for a device that is passed whole."""
    entry: HostpciEntry | None = None
    """The entry that is there already and serves, or that is to be changed."""
    pool: int = 1
    """How many devices the mapping has on this node, of which PVE takes one at the start."""


class Chosen:
    """What was chosen for one VM, and what was noted on the way."""

    def __init__(self, reach: Reach) -> None:
        self.reach = reach
        self.hardware = reach.hardware
        self.notes: list[str] = []
        self.unclaimed = list(reach.entries)
        """The VM's entries that serve no wish yet."""
        self.wanted: set[str] = set()
        """The functions that this wish takes whole, or by NVIDIA's vendor interface."""
        self.single: set[str] = set()
        """Those of them that it takes for sure, by no mapping of several."""
        self.pools: dict[str, int] = {}
        """How often it takes one of a mapping of several, by the mapping's name."""
        self.parents: set[str] = set()
        """The functions on which it takes mediated devices."""
        self.mediated = Mediated(reach.hardware, self.notes)
        self.mapped: set[str] = set()
        """The functions of mappings, where devices are chosen by these: who made them has named the addresses."""

    def taking(
        self, device: Device, functions: tuple[str, ...], host: str = "", entry: HostpciEntry | None = None
    ) -> Choice:
        """Functions that are passed whole, from now on taken."""
        self.wanted.update(functions)
        self.single.update(functions)
        return Choice(device, functions, host or ";".join(functions), entry=entry)

    def is_one(self, device: Device, function: Function) -> bool:
        """Whether a function is one that a device names by its PF, ids or class."""
        if device.vf_of:
            return function.physfn == device.vf_of
        if device.mdev:
            return (not device.kind or function.kind == device.kind) and (
                not device.ids or self.reach.is_of_ids(function, device.ids)
            )
        if device.ids:
            return function.ids == device.ids
        return function.kind == device.kind and not function.physfn and (function.has_outputs or not shows(device))


def shows(device: Device) -> bool:
    """Whether a GPU is wanted as the display."""
    return device.primary and device.kind == "gpu"
