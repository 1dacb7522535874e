# SPDX-License-Identifier: Apache-2.0
"""The functions of a node that are free for a device of a wish: whole ones, VFs, and parents of mediated devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.api.chosen import Choice, shows
from pvepassthru.api.hardware import KIND_WORDS
from pvepassthru.model import pci
from pvepassthru.model.errors import DeviceError, NotFoundError, UsageError
from pvepassthru.model.text import counted, listed, nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pvepassthru.api.chosen import Chosen
    from pvepassthru.api.wish import Device

TAKE_TURNS = "only one of the two can run at a time"
"""What follows from a device that another VM has too; the rule PVP426 says the same."""


class FreeFunctions:
    """Finds what is free for one VM."""

    def __init__(self, chosen: Chosen) -> None:
        self.chosen = chosen
        self.reach = chosen.reach
        self.hardware = chosen.hardware

    def pick(self, device: Device, alike: int) -> Choice:
        """What serves a device that no mapping is named for; `alike` says how many are wanted by the same words.

        Raises UsageError for what is ambiguous or contradicts an entry, NotFoundError for what is not there, and
        DeviceError for what cannot be had.
        """
        if device.mdev:
            return self._mdev(device)
        if device.addresses:
            return self._whole(device)
        if device.vf_of:
            return self.chosen.taking(device, (self._vf(device.vf_of),))
        return self._of_class(device, alike)

    def _whole(self, device: Device) -> Choice:
        """A device that is named by its addresses and passed whole."""
        functions = self.reach.present(device.addresses)
        for address in functions:
            function = self.hardware.functions[address]
            if function.bridge:
                raise DeviceError(f"{function.words} is a bridge, which cannot be passed", "name what is behind it")
            if function.vfs:
                self.chosen.notes.append(
                    f"{address} has {counted(len(function.vfs), 'VF')}, which vanish when it is passed"
                )
        self._say_shared(functions)
        overlap = [
            taken
            for taken in self.reach.entries
            if not taken.entry.wants_mdev and len(taken.alternatives) == 1 and set(functions) & set(taken.functions)
        ]
        if not overlap and self.chosen.wanted.isdisjoint(functions):
            return self.chosen.taking(device, functions, ";".join(device.addresses))
        first = overlap[0] if len(overlap) == 1 and overlap[0] in self.chosen.unclaimed else None
        if first is None or first.entry.mapping:
            where = listed(taken.entry.key for taken in overlap) or "another device that is wanted"
            hint = "name each function once" if not overlap else f"remove {where} first, or name what it does not have"
            having = self.chosen.wanted.union(*(taken.functions for taken in overlap))
            verb = "have" if len(overlap) > 1 else "has"
            has = f"{verb} it" if having.issuperset(functions) else f"{verb} part of it"
            raise UsageError(f"{device.words} is wanted, and {where} {has} already", hint)
        self.chosen.unclaimed.remove(first)
        return self.chosen.taking(device, functions, ";".join(device.addresses), first.entry)

    def _say_shared(self, functions: Sequence[str]) -> None:
        """Note who else has functions that are named, once for each of them."""
        owners: dict[str, list[str]] = {}
        for address in functions:
            if address in self.reach.taken:
                owners.setdefault(self.reach.taken[address], []).append(address)
        for owner, theirs in owners.items():
            verb = "is" if len(theirs) == 1 else "are"
            self.chosen.notes.append(f"{listed(theirs)} {verb} also of {owner}; {TAKE_TURNS}")

    def _of_class(self, device: Device, alike: int) -> Choice:
        """A device by its class or ids: the only one that is free, or so many as are wanted alike."""
        fitting = [one for one in self.hardware.functions.values() if self.chosen.is_one(device, one)]
        occupied = self.chosen.wanted | self.chosen.parents
        reasons = {one.address: self.reach.why_not(one, occupied, device.kind) for one in fitting}
        free = [one for one in fitting if not reasons[one.address]]
        what, node = KIND_WORDS.get(device.kind, f"device {device.ids}"), self.hardware.node
        what += " with outputs" if shows(device) else ""
        if not free:
            whys = listed((f"{one.words}: {reasons[one.address]}" for one in fitting), 6)
            message = f"there is no {what} on node {node}" + (" that is free" if fitting else "")
            own = occupied.union(*(taken.functions for taken in (*self.reach.entries, *self.reach.leaving)))
            theirs = next(
                (one.address for one in fitting if one.address in self.reach.taken and one.address not in own), ""
            )
            whys += f"; name its address ({theirs}) to have what another VM has too" if theirs else ""
            twice = not theirs and any(one.address in occupied for one in fitting)
            whys += f"; leave out {device.words}, or name a device that the VM does not get yet" if twice else ""
            raise NotFoundError(message, whys or self._nearest(device))
        doubtful = [one for one in free if self.hardware.in_doubt(one) and one.address not in self.chosen.mapped]
        free = [one for one in free if one not in doubtful]
        if not free:
            message = f"the API does not tell which {what} node {node} uses itself, so none is chosen"
            hint = f"name the one that is wanted by its address, such as {doubtful[0].address}"
            raise UsageError(f"{message}: {listed(one.words for one in doubtful)}", f"{hint}, or do this on the node")
        physical = {one.physfn for one in free}
        vfs_of_one = len(physical) == 1 and None not in physical
        if len(free) > alike and not vfs_of_one:
            hint = f"name the one that is wanted by its address, such as {free[0].address}"
            names = self._mappings_of([one.address for one in free if one.address in self.chosen.mapped])
            if names:  # only mappings will do
                hint = f"name a mapping, of which PVE takes what is free: --mapping {' or '.join(names[:4])}"
            words = listed(one.words for one in free)
            raise UsageError(f"more than one {what} is free on node {node}: {words}", hint)
        function = free[0]
        if not function.pci_class.startswith("03") or function.physfn:
            return self.chosen.taking(device, (function.address,))
        card, slot = self.reach.card(function, self.chosen.wanted), pci.slot(function.address)
        whole = len(card) > 1 and set(card) == set(self.hardware.in_slot(slot))
        return self.chosen.taking(device, card, slot if whole else "")

    def _mappings_of(self, addresses: Collection[str]) -> list[str]:
        """The mappings of which a device on this node has one of these functions."""
        return [
            name
            for name in sorted(self.reach.mappings.by_name)
            if any(address in functions for functions in self.reach.pool(name) for address in addresses)
        ]

    def _nearest(self, device: Device) -> str:
        known = {one.ids for one in self.hardware.functions.values() if not one.bridge}
        near = nearest(device.ids, known) if device.ids else None
        return f"is {near} meant?" if near else "lspci -nn on the node lists its devices"

    def _vf(self, address: str) -> str:
        """The first VF of a PF that is free."""
        vfs = self.reach.vfs(address)
        occupied = self.chosen.wanted | self.chosen.parents
        reasons = {vf: self.reach.why_not(self.hardware.functions[vf], occupied) for vf in vfs}
        free = [vf for vf in vfs if not reasons[vf]]
        if not free:
            why = listed((f"{vf}: {reasons[vf]}" for vf in vfs), 6)
            raise DeviceError(f"no VF of {address} is free on node {self.hardware.node}", f"make more VFs ({why})")
        return free[0]

    def _mdev(self, device: Device) -> Choice:
        if device.addresses:
            parents = self.reach.present(device.addresses)
        elif device.vf_of:
            parents = self.reach.vfs(device.vf_of)
        else:
            functions = self.hardware.functions.values()
            parents = tuple(one.address for one in functions if self.chosen.is_one(device, one))
        usable = [one for one in parents if not self._blocked(one)] or list(parents)
        if parents and self._blocked(usable[0]) and any(self.hardware.functions[one].offers() for one in parents):
            hint = f"{listed(parents, 6)} are taken, or passed whole; a mapping with more devices may help"
            raise DeviceError(f"nothing on node {self.hardware.node} is free for {device.words}", hint)
        parent, kind = self.chosen.mediated.choose(device, usable, self.reach.mdevs())
        self.chosen.parents.add(parent)
        if self.hardware.functions[parent].physfn:
            self.chosen.single.add(parent)
        self.chosen.mediated.used.append((parent, kind))
        return Choice(device, (parent,), parent, mdev=kind)

    def _blocked(self, address: str) -> bool:
        """Whether a function is not to be chosen for a vGPU: somebody has it whole, or its one vGPU is somebody's."""
        entries = self.reach.entries
        function = self.hardware.functions[address]
        if function.vendor_vgpu or function.physfn:
            named = any(address in taken.functions for taken in entries)
            return named or address in self.reach.taken or address in self.chosen.wanted | self.chosen.parents
        whole = any(address in taken.functions and not taken.entry.wants_mdev for taken in entries)
        return whole or address in self.chosen.wanted
