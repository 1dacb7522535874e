# SPDX-License-Identifier: Apache-2.0
"""In which order a mapping's devices of one node stand: PVE takes the first that is free.

`pack` fills one card before the next is begun, `spread` lets NUMA nodes, cards and their functions take turns. The
order of the VFs themselves is that of model/placement.py, as for the devices that the hook prepares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.model import pci, placement
from pvepassthru.model.placement import Gpu, Place
from pvepassthru.model.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pvepassthru.api.hardware import Function, NodeHardware

ORDERS = ("pack", "spread")


class _Owner(NamedTuple):
    """What the devices of one turn have in common: the PF of VFs, or the slot of whole functions."""

    numa: int
    """-1 where that cannot be told."""
    card: tuple[int, ...]
    name: str


def ordered(hardware: NodeHardware, firsts: Sequence[str], order: str) -> tuple[str, ...]:
    """The first functions of a node's devices in this order, `pack` or `spread`; each comes as often as it is given.

    What is not there comes last, as it stood.
    """
    there = [address for address in firsts if address in hardware.functions]
    owners = {address: _owner(hardware, hardware.functions[address]) for address in there}
    members: dict[_Owner, list[str]] = {}
    for address in sorted(dict.fromkeys(there), key=_number):
        members.setdefault(owners[address], []).append(address)
    turns = _alternating(members) if order == "spread" else sorted(members)
    gpus = [
        Gpu(owner.name, tuple(Place(address, at, {}) for at, address in enumerate(members[owner])), {}, {}, "shared")
        for owner in turns
    ]
    found = placement.order_of(gpus, order)
    return (
        *(address for address in found for _ in range(there.count(address))),
        *(address for address in firsts if address not in hardware.functions),
    )


def effect(hardware: NodeHardware, firsts: Iterable[str], order: str) -> str:
    """What the order does for these devices of a node, in a sentence; empty where there is nothing to choose."""
    functions = [hardware.functions[address] for address in dict.fromkeys(firsts) if address in hardware.functions]
    if len(functions) < 2:
        return ""
    owners = {_owner(hardware, function) for function in functions}
    if any(function.mdev_parent and not function.physfn for function in functions):
        return (
            f"node {hardware.node}: of mediated devices PVE takes the first function that has room, whatever the order "
            f"but for its beginning; a placement in the hook's policy decides by load"
        )
    whole = not any(function.physfn for function in functions)
    if len(owners) in {1, len(functions)} and len({owner.numa for owner in owners}) == 1:
        what = "one card has all of them" if len(owners) == 1 else "each is a card of its own"
        return f"node {hardware.node}: {order} changes nothing, since {what}, and of these PVE takes the first free one"
    cards = counted(len(owners), "card" if whole else "physical function")
    does = "are given out one after the other" if order == "pack" else "take turns"
    return f"node {hardware.node}: {cards} with {counted(len(functions), 'device')} {does}, as VMs start"


def _owner(hardware: NodeHardware, function: Function) -> _Owner:
    physical = hardware.functions.get(function.physfn or "", function)
    numa = physical.numa_node if physical.numa_node is not None else -1
    name = function.physfn or pci.slot(function.address)
    return _Owner(numa, _number(pci.slot(function.physfn or function.address)), name)


def _alternating(members: Iterable[_Owner]) -> list[_Owner]:
    """The owners so that NUMA nodes take turns, in each its cards, and of each card its functions."""
    by_numa: dict[int, dict[tuple[int, ...], list[_Owner]]] = {}
    for owner in sorted(members):
        by_numa.setdefault(owner.numa, {}).setdefault(owner.card, []).append(owner)
    return _turns([_turns(list(cards.values())) for cards in by_numa.values()])


def _turns(rows: Sequence[Sequence[_Owner]]) -> list[_Owner]:
    """The first of each row, then the second of each, and so on."""
    longest = max((len(row) for row in rows), default=0)
    return [row[at] for at in range(longest) for row in rows if at < len(row)]


def _number(address: str) -> tuple[int, ...]:
    """What addresses and slots are sorted by: domains have four digits or more."""
    slot, _, function = address.partition(".")
    return (*(int(part, 16) for part in slot.split(":")), int(function or "0", 16))
