# SPDX-License-Identifier: Apache-2.0
"""Which device of a node serves each one that a VM is to have: an entry that is there, or a function that is free.

What is ambiguous is an error that names the candidates. Existing entries are kept, and serve the most definite wish
first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api.hardware import KIND_WORDS
from pvepassthru.api.mediated import Mediated
from pvepassthru.api.wish import BEST, IGD, Device
from pvepassthru.model import mapped, pci
from pvepassthru.model.errors import DeviceError, NotFoundError, UsageError
from pvepassthru.model.text import counted, listed, nearest, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pvepassthru.api.hardware import Function
    from pvepassthru.api.reach import Reach, Taken
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


class Chooser:
    """Chooses for one VM."""

    def __init__(self, reach: Reach) -> None:
        self.reach = reach
        self.hardware = reach.hardware
        self.notes: list[str] = []
        self._unclaimed = list(reach.entries)
        self._wanted: set[str] = set()
        """The functions that this wish takes whole, or by NVIDIA's vendor interface."""
        self._single: set[str] = set()
        """Those of them that it takes for sure, by no mapping of several."""
        self._pools: dict[str, int] = {}
        """How often it takes one of a mapping of several, by the mapping's name."""
        self._parents: set[str] = set()
        """The functions on which it takes mediated devices."""
        self._mediated = Mediated(reach.hardware, self.notes)
        self._mapped: set[str] = set()
        """The functions of mappings, where devices are chosen by these: who made them has named the addresses."""

    def choose(self, devices: Sequence[Device], *, by_mapping: bool) -> list[Choice]:
        """What serves each device, in their order.

        Raises UsageError for what is ambiguous or contradicts an entry, NotFoundError for what is not there, and
        DeviceError for what cannot be had.
        """
        found: dict[int, Choice] = {}
        if by_mapping:
            self._mapped = {address for name in self._right() for one in self.reach.pool(name) for address in one}
        ranked = sorted(range(len(devices)), key=lambda at: (_rank(devices[at]), -_demands(devices[at])))
        for as_it_is in (True, False):  # first the entries that need no change
            for at in ranked:
                served = None if at in found else self._claim(devices[at], as_it_is=as_it_is)
                if served:
                    found[at] = served
        left = [devices[at] for at in ranked if at not in found]
        for at in ranked:
            if at not in found:
                alike = sum(_alike(devices[at], other) for other in left)
                pooled = self._pooled(devices[at]) if by_mapping else None
                found[at] = pooled or self._pick(devices[at], alike)
                left.remove(devices[at])
        choices = [found[at] for at in range(len(devices))]
        return [self._through_mapping(choice) for choice in choices] if by_mapping else choices

    # ---- entries that are there

    def _claim(self, device: Device, *, as_it_is: bool) -> Choice | None:
        for taken in self._unclaimed:
            entry = taken.entry
            if entry.host and entry.mapping:
                continue
            if (not as_it_is or _has_all(device, entry)) and self._serves(device, taken):
                self._unclaimed.remove(taken)
                functions = taken.alternatives[0] if taken.alternatives else ()
                kind = (entry.mdev or "") if entry.wants_mdev else ""
                (self._parents if kind else self._wanted).update(functions)
                return Choice(device, functions, entry.host or "", entry.mapping or "", kind, entry)
        return None

    def _serves(self, device: Device, taken: Taken) -> bool:
        if bool(device.mdev) != taken.entry.wants_mdev:
            return False
        if device.mapping:
            return taken.entry.mapping == device.mapping and self._fits(device, taken)
        if not taken.alternatives:
            return False
        if device.addresses:
            wanted, has = set(self.reach.functions(device.addresses)), set(taken.alternatives[0])
            covered = bool(has & wanted) if device.mdev else has >= wanted
            return bool(wanted) and len(taken.alternatives) == 1 and covered and self._fits(device, taken)
        every = all(
            any(self._is_one(device, self.hardware.functions[address]) for address in functions)
            for functions in taken.alternatives
        )
        return every and self._fits(device, taken)

    def _fits(self, device: Device, taken: Taken) -> bool:
        """Whether the mdev type of an entry is as it is wanted."""
        return not device.mdev or self._mediated.fits(device, taken.entry.mdev or "")

    def _is_one(self, device: Device, function: Function) -> bool:
        """Whether a function is one that a device names by its PF, ids or class."""
        if device.vf_of:
            return function.physfn == device.vf_of
        if device.mdev:
            return (not device.kind or function.kind == device.kind) and (
                not device.ids or self.reach.is_of_ids(function, device.ids)
            )
        if device.ids:
            return function.ids == device.ids
        return function.kind == device.kind and not function.physfn and (function.has_outputs or not _shows(device))

    # ---- functions that are free

    def _pick(self, device: Device, alike: int) -> Choice:
        if device.mapping:
            return self._of_mapping(device)
        if device.mdev:
            return self._mdev(device)
        if device.addresses:
            return self._whole(device)
        if device.vf_of:
            return self._taking(device, (self._vf(device.vf_of),))
        return self._of_class(device, alike)

    def _taking(
        self, device: Device, functions: tuple[str, ...], host: str = "", entry: HostpciEntry | None = None
    ) -> Choice:
        self._wanted.update(functions)
        self._single.update(functions)
        return Choice(device, functions, host or ";".join(functions), entry=entry)

    def _whole(self, device: Device) -> Choice:
        """A device that is named by its addresses and passed whole."""
        functions = self.reach.present(device.addresses)
        for address in functions:
            function = self.hardware.functions[address]
            if function.bridge:
                raise DeviceError(f"{function.words} is a bridge, which cannot be passed", "name what is behind it")
            if function.vfs:
                self.notes.append(f"{address} has {counted(len(function.vfs), 'VF')}, which vanish when it is passed")
            if address in self.reach.taken:
                self.notes.append(
                    f"{address} is also of {self.reach.taken[address]}; only one of the two can run at a time"
                )
        overlap = [
            taken
            for taken in self.reach.entries
            if not taken.entry.wants_mdev and len(taken.alternatives) == 1 and set(functions) & set(taken.functions)
        ]
        if not overlap and self._wanted.isdisjoint(functions):
            return self._taking(device, functions, ";".join(device.addresses))
        first = overlap[0] if len(overlap) == 1 and overlap[0] in self._unclaimed else None
        if first is None or first.entry.mapping:
            where = listed(taken.entry.key for taken in overlap) or "another device that is wanted"
            hint = "name each function once" if not overlap else f"remove {where} first, or name what it does not have"
            raise UsageError(f"{device.words} is wanted, and {where} has part of it already", hint)
        self._unclaimed.remove(first)
        return self._taking(device, functions, ";".join(device.addresses), first.entry)

    def _of_class(self, device: Device, alike: int) -> Choice:
        """A device by its class or ids: the only one that is free, or so many as are wanted alike."""
        fitting = [one for one in self.hardware.functions.values() if self._is_one(device, one)]
        occupied = self._wanted | self._parents
        reasons = {one.address: self.reach.why_not(one, occupied, device.kind) for one in fitting}
        free = [one for one in fitting if not reasons[one.address]]
        what, node = KIND_WORDS.get(device.kind, f"device {device.ids}"), self.hardware.node
        what += " with outputs" if _shows(device) else ""
        if not free:
            whys = listed((f"{one.words}: {reasons[one.address]}" for one in fitting), 6)
            message = f"there is no {what} on node {node}" + (" that is free" if fitting else "")
            theirs = next((one.address for one in fitting if one.address in self.reach.taken), "")
            whys += f"; name its address ({theirs}) to have what another VM has too" if theirs else ""
            raise NotFoundError(message, whys or self._nearest(device))
        doubtful = [one for one in free if self.hardware.in_doubt(one) and one.address not in self._mapped]
        free = [one for one in free if one not in doubtful]
        if not free:
            message = f"the API does not tell which {what} node {node} uses itself, so none is chosen"
            hint = f"name the one that is wanted by its address, such as {doubtful[0].address}"
            raise UsageError(f"{message}: {listed(one.words for one in doubtful)}", f"{hint}, or do this on the node")
        physical = {one.physfn for one in free}
        vfs_of_one = len(physical) == 1 and None not in physical
        if len(free) > alike and not vfs_of_one:
            hint = f"name the one that is wanted by its address, such as {free[0].address}"
            words = listed(one.words for one in free)
            raise UsageError(f"more than one {what} is free on node {node}: {words}", hint)
        function = free[0]
        if not function.pci_class.startswith("03") or function.physfn:
            return self._taking(device, (function.address,))
        card, slot = self.reach.card(function, self._wanted), pci.slot(function.address)
        whole = len(card) > 1 and set(card) == set(self.hardware.in_slot(slot))
        return self._taking(device, card, slot if whole else "")

    def _nearest(self, device: Device) -> str:
        known = {one.ids for one in self.hardware.functions.values() if not one.bridge}
        near = nearest(device.ids, known) if device.ids else None
        return f"is {near} meant?" if near else "lspci -nn on the node lists its devices"

    def _vf(self, address: str) -> str:
        """The first VF of a PF that is free."""
        vfs = self.reach.vfs(address)
        occupied = self._wanted | self._parents
        reasons = {vf: self.reach.why_not(self.hardware.functions[vf], occupied) for vf in vfs}
        free = [vf for vf in vfs if not reasons[vf]]
        if not free:
            why = listed((f"{vf}: {reasons[vf]}" for vf in vfs), 6)
            raise DeviceError(f"no VF of {address} is free on node {self.hardware.node}", f"make more VFs ({why})")
        return free[0]

    # ---- mediated devices and mappings

    def _mdev(self, device: Device) -> Choice:
        if device.addresses:
            parents = self.reach.present(device.addresses)
        elif device.vf_of:
            parents = self.reach.vfs(device.vf_of)
        else:
            functions = self.hardware.functions.values()
            parents = tuple(one.address for one in functions if self._is_one(device, one))
        usable = [one for one in parents if not self._blocked(one)] or list(parents)
        if parents and self._blocked(usable[0]) and any(self.hardware.functions[one].offers() for one in parents):
            hint = f"{listed(parents, 6)} are taken, or passed whole; a mapping with more devices may help"
            raise DeviceError(f"nothing on node {self.hardware.node} is free for {device.words}", hint)
        parent, kind = self._mediated.choose(device, usable, self.reach.mdevs())
        self._parents.add(parent)
        if self.hardware.functions[parent].physfn:
            self._single.add(parent)
        self._mediated.used.append((parent, kind))
        return Choice(device, (parent,), parent, mdev=kind)

    def _blocked(self, address: str) -> bool:
        """Whether a function is not to be chosen for a vGPU: somebody has it whole, or its one vGPU is somebody's."""
        entries = self.reach.entries
        function = self.hardware.functions[address]
        if function.vendor_vgpu or function.physfn:
            named = any(address in taken.functions for taken in entries)
            return named or address in self.reach.taken or address in self._wanted | self._parents
        whole = any(address in taken.functions and not taken.entry.wants_mdev for taken in entries)
        return whole or address in self._wanted

    def _of_mapping(self, device: Device) -> Choice:
        name, node = device.mapping, self.hardware.node
        known = self.reach.mappings.by_name
        mapping = known.get(name)
        if mapping is None:
            near = nearest(name, known)
            hint = f"is {near} meant?" if near else f"the mappings are: {listed(known) or 'none'}"
            raise NotFoundError(f"there is no mapping {shown(name)}", hint)
        here = mapping.on(node)
        if not here:
            others = listed(sorted({other.node for other in mapping.entries})) or "no node"
            hint = f"it has devices on {others}; add one of {node}: pvepassthru mapping plan"
            raise NotFoundError(f"mapping {name} has no device on node {node}", hint)
        problems = [problem for one in here for problem in mapped.check(mapping, one, self.hardware, name, None)]
        if problems:
            raise DeviceError(problems[0].message, problems[0].hint)
        pool = self.reach.pool(name)
        functions = pool[0]
        if device.mdev:
            parents = [alternative[0] for alternative in pool]
            _, kind = self._mediated.choose(device, parents, self.reach.mdevs(), pooled=True)
            return Choice(device, functions, mapping=name, mdev=kind)
        if mapping.mdev:
            self.notes.append(f"mapping {name} has mediated devices, and without mdev= its device is passed whole")
        same = [
            one for one in self._unclaimed if one.alternatives == pool and one.entry.host and not one.entry.wants_mdev
        ]
        self._wanted.update(address for alternative in pool for address in alternative)
        if len(pool) == 1 and same:  # the same device by its address: through the mapping from now on
            self._unclaimed.remove(same[0])
            return Choice(device, functions, mapping=name, entry=same[0].entry)
        return Choice(device, functions, mapping=name)

    # ---- by mappings only

    def _right(self) -> list[str]:
        """The mappings that fit this node, each with all of its devices there, by name."""
        node = self.hardware.node
        return [
            name
            for name, mapping in sorted(self.reach.mappings.by_name.items())
            if mapping.on(node)
            and not any(mapped.check(mapping, here, self.hardware, name, None) for here in mapping.on(node))
        ]

    def _pooled(self, device: Device) -> Choice | None:
        """A mapping of several devices that all serve and of which one is left, so that PVE may take any of them."""
        if device.addresses or device.mapping:
            return None
        fitting = [name for name in self._right() if self._is_pool(device, name)]
        if not fitting:
            return None
        name = _only(fitting, f"devices for {device.words}")
        pool = self.reach.pool(name)
        kind = ""
        if device.mdev:
            parents = [functions[0] for functions in pool]
            kind = self._mediated.choose(device, parents, self.reach.mdevs(), pooled=True)[1]
        self._pools[name] = self._pools.get(name, 0) + 1
        self._wanted.update(functions[0] for functions in pool)
        return Choice(device, pool[0], mapping=name, mdev=kind)

    def _is_pool(self, device: Device, name: str) -> bool:
        pool = self.reach.pool(name)
        firsts = [self.hardware.functions[functions[0]] for functions in pool if len(functions) == 1]
        if len(firsts) != len(pool) or len(pool) < 2 or self.reach.mappings.by_name[name].mdev != bool(device.mdev):
            return False
        if device.mdev not in {"", BEST} and not all(device.mdev in one.offers() for one in firsts):
            return False
        entries = [taken for taken in self.reach.entries if taken.entry.mapping == name]
        alone = self._single.union(*(taken.functions for taken in self.reach.entries if len(taken.alternatives) == 1))
        left = len({one.address for one in firsts} - alone) - len(entries) - self._pools.get(name, 0)
        shared = device.mdev and not any(one.vendor_vgpu or one.physfn for one in firsts)
        return all(self._is_one(device, one) for one in firsts) and (bool(shared) or left > 0)

    def _through_mapping(self, choice: Choice) -> Choice:
        """The same choice by a mapping that has just that device here. Raises NotFoundError and UsageError."""
        if choice.mapping:
            return choice
        fitting = [name for name in self._right() if self.reach.pool(name) == (choice.functions,)]
        what = listed(choice.functions)
        if not fitting:
            hint = "only root@pam can name a device by its address; have a mapping made: pvepassthru mapping plan"
            raise NotFoundError(f"no mapping has just {what} of node {self.hardware.node}", hint)
        return choice._replace(host="", mapping=_only(fitting, what))


def _only(names: list[str], what: str) -> str:
    """The only name. Raises UsageError when there are several."""
    if len(names) > 1:
        raise UsageError(f"several mappings have {what}: {listed(names)}", "name one of them")
    return names[0]


def igd_among(devices: Sequence[Device], reach: Reach) -> tuple[Device, ...]:
    """The devices with the Intel GPU in legacy mode: the one of them at 00:02.0, or one more."""
    for at, one in enumerate(devices):
        pool = reach.pool(one.mapping) if one.mapping else (reach.functions(one.addresses),)
        if not one.mdev and pool and IGD in pool[0]:
            return (*devices[:at], one._replace(igd=True), *devices[at + 1 :])
    return (*devices, Device(addresses=(IGD,), igd=True))


def _rank(device: Device) -> int:
    """The most definite first."""
    ways = (device.addresses, device.mapping, device.vf_of, device.mdev, device.ids, device.kind)
    return next(at for at, way in enumerate(ways) if way)


def _demands(device: Device) -> int:
    """How much is said of a device beyond which one it is."""
    return sum(map(bool, (device.rom, device.primary, device.igd, device.pcie is not None)))


def _has_all(device: Device, entry: HostpciEntry) -> bool:
    """Whether an entry has all that is said of a device, so that it need not be changed."""
    return (
        (device.pcie is None or device.pcie == entry.pcie)
        and (not device.rom or device.rom == entry.romfile)
        and (entry.x_vga or not device.primary)
        and (entry.legacy_igd or not device.igd)
    )


def _shows(device: Device) -> bool:
    """Whether a GPU is wanted as the display."""
    return device.primary and device.kind == "gpu"


def _alike(one: Device, other: Device) -> bool:
    """Whether two devices are named by the same class or ids."""
    definite = other.addresses or other.mapping or other.vf_of or other.mdev
    return (one.kind, one.ids) == (other.kind, other.ids) and not definite
