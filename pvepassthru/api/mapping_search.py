# SPDX-License-Identifier: Apache-2.0
"""The same kind of device on every node: by vendor, device and subsystem ids, VFs by the model of their PF.

Pure: hardware comes in as values. What fits and cannot be taken is said, with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import likeness, mapping_entry
from pvepassthru.api.hardware import KIND_WORDS, KINDS
from pvepassthru.api.likeness import Likeness
from pvepassthru.api.mapping_wish import IDS
from pvepassthru.api.reach import Reach
from pvepassthru.model import mapping, pci
from pvepassthru.model.errors import DeviceError, NotFoundError, UsageError
from pvepassthru.model.mapping import MapEntry
from pvepassthru.model.problem import is_mdev_capable
from pvepassthru.model.text import counted, listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pvepassthru.api.hardware import Function, NodeHardware
    from pvepassthru.api.mapping_wish import Sought
    from pvepassthru.model.mapping import MapEntry


class Found(NamedTuple):
    """One device on one node, as a mapping would hold it."""

    entry: MapEntry
    functions: tuple[str, ...]
    mdev: bool
    """Whether PVE takes it for one with mediated devices."""
    words: str
    """What it is, and what PVE takes with it."""


class Search(NamedTuple):
    """What was found."""

    found: dict[str, tuple[Found, ...]]
    """By node; a node without any is not in it."""
    notes: tuple[str, ...]
    """What fits and was left out, and what else is to be known."""


def search(sought: Sought, hardware: Mapping[str, NodeHardware], without: Sequence[tuple[str, str]] = ()) -> Search:
    """The devices of this kind on these nodes, `without` those that `mapping_wish.excluded` tells of.

    Raises UsageError when several kinds fit, or only what is to be named by its address since the host may use it;
    NotFoundError when there is nothing that can be taken.
    """
    return _Searcher(sought, hardware, without).search()


class _Searcher:
    """One search over some nodes."""

    def __init__(
        self, sought: Sought, hardware: Mapping[str, NodeHardware], without: Sequence[tuple[str, str]]
    ) -> None:
        self.sought = sought
        self.hardware = hardware
        self.without = without
        self.notes: dict[str, None] = {}
        self.left_out: list[str] = []
        self.doubtful: dict[tuple[str, str], Function] = {}
        """By node and address what would be taken if it were known that the host does not use it."""

    def search(self) -> Search:
        found = {node: tuple(self._on(one)) for node, one in sorted(self.hardware.items())}
        there = {node: devices for node, devices in found.items() if devices}
        if not there:
            if self.doubtful and not self.sought.own:
                raise self._in_doubt()
            message = f"no node of {listed(sorted(self.hardware))} has {self.sought.words}"
            hint = listed(self.left_out, 6) or "lspci -nn on a node lists its devices"
            raise NotFoundError(message + (" that can be taken" if self.left_out else ""), hint)
        return Search(there, (*(f"left out: {words}" for words in self.left_out), *self.notes))

    def _in_doubt(self) -> UsageError:
        """What to say when nothing is left but what hosts may use themselves."""
        words = [f"{function.words} of node {node}" for (node, _), function in self.doubtful.items()]
        node, address = next(iter(self.doubtful))
        message = "the API does not tell what the nodes use themselves, so none is chosen that is"
        hint = f"name what no node uses by its address, one after the other: --device {address} --node {node}"
        return UsageError(f"{message} {self.sought.words}: {listed(words, 12)}", hint)

    def _on(self, hardware: NodeHardware) -> Iterator[Found]:
        for selectors in self._devices(hardware):
            if self._is_excluded(hardware, selectors):
                continue
            try:
                entry, functions = mapping_entry.entry_for(hardware, selectors)
            except DeviceError as error:
                self.left_out.append(f"{selectors[0]} of node {hardware.node}: {error.message}")
                continue
            self.notes |= dict.fromkeys(
                f"{address} of node {hardware.node} has {counted(len(vfs), 'VF')}, which vanish when it is passed: "
                f"VMs that have one lose it"
                for address in functions
                if (vfs := hardware.functions[address].vfs)
            )
            first = hardware.functions[functions[0]]
            mates = hardware.mates(functions)
            words = first.name or first.ids
            words += f" with {counted(len(functions) - 1, 'more function')}" if len(functions) > 1 else ""
            if mates:
                others = listed(mate.address for mate in mates)
                words += f"; PVE takes {others} from the host with it, which is in the same IOMMU group"
            yield Found(entry, functions, is_mdev_capable(hardware, functions[0]), words)

    def _is_excluded(self, hardware: NodeHardware, selectors: Sequence[str]) -> bool:
        functions = hardware.reached(selectors)
        return any(
            node in {"", hardware.node} and any(address.startswith(selector) for address in functions)
            for node, selector in self.without
        )

    def _devices(self, hardware: NodeHardware) -> Iterator[tuple[str, ...]]:
        """The selectors of each device of a node."""
        if self.sought.vf_of:
            yield from self._vfs(hardware, self._pf())
        elif self.sought.device.addresses:
            yield from self._shaped(hardware, self._shape())
        else:
            yield from self._of_ids(hardware)

    # ---- VFs

    def _pf(self) -> Likeness:
        """The model of the PF whose VFs are sought."""
        word = self.sought.vf_of
        if IDS.fullmatch(word):
            return Likeness(word, None, virtual=False)
        models: dict[tuple[Likeness, ...], list[str]] = {}
        for node, one in sorted(self.hardware.items()):
            function = one.functions.get(word)
            if function and not function.physfn:
                models.setdefault((likeness.of(function),), []).append(node)
        return self._only(models, word)[0]

    def _vfs(self, hardware: NodeHardware, model: Likeness) -> Iterator[tuple[str, ...]]:
        fitting = [
            one
            for one in hardware.functions.values()
            if one.ids == model.ids and not one.physfn and model.subsystem in {None, likeness.of(one).subsystem}
        ]
        for physical in fitting:
            vfs = [one for one in hardware.functions.values() if one.physfn == physical.address]
            if not vfs:
                self.left_out.append(f"{physical.words} of node {hardware.node} has no VFs now: pvepassthru sriov set")
            for vf in vfs:
                if self._wanted(hardware, vf):
                    yield (vf.address,)

    # ---- by address

    def _shape(self) -> tuple[Likeness, ...]:
        """What the device at the address is, function by function."""
        selectors = self.sought.device.addresses
        shapes: dict[tuple[Likeness, ...], list[str]] = {}
        for node, one in sorted(self.hardware.items()):
            matching = [one.matching(selector) for selector in selectors]
            functions = [function for found in matching for function in found]
            if all(matching) and functions:
                alone = len(functions) == 1
                shape = tuple(likeness.of(function, numbered=not alone) for function in functions)
                shapes.setdefault(shape, []).append(node)
        return self._only(shapes, ";".join(selectors))

    def _shaped(self, hardware: NodeHardware, shape: tuple[Likeness, ...]) -> Iterator[tuple[str, ...]]:
        if len(shape) == 1:
            selector = self.sought.device.addresses[0]
            for one in hardware.functions.values():
                if self.sought.only and not one.address.startswith(selector):
                    continue
                if likeness.of(one) == shape[0] and self._wanted(hardware, one, named=one.address.startswith(selector)):
                    yield (one.address,)
                elif one.ids == shape[0].ids and likeness.of(one) != shape[0] and bool(one.physfn) == shape[0].virtual:
                    self._say_subsystem(hardware, one)
            return
        whole = all("." not in selector for selector in self.sought.device.addresses)
        for slot, addresses in sorted(hardware.slots.items()):
            functions = [hardware.functions[address] for address in addresses]
            by_number = {one.number: one for one in (likeness.of(function, numbered=True) for function in functions)}
            if any(by_number.get(one.number) != one for one in shape) or (whole and len(functions) != len(shape)):
                continue
            named = slot == pci.slot(self.sought.device.addresses[0])
            if self.sought.only and not named:
                continue
            members = [hardware.functions[f"{slot}.{one.number}"] for one in shape]
            if all(self._wanted(hardware, one, named=named) for one in members):
                yield (slot,) if whole else tuple(one.address for one in members)

    def _say_subsystem(self, hardware: NodeHardware, function: Function) -> None:
        words = (
            f"{function.words} of node {hardware.node} has subsystem {likeness.of(function).subsystem or 'ids of none'}"
        )
        self.left_out.append(f"{words}; --device {function.ids} takes it as well")

    # ---- by ids or class

    def _of_ids(self, hardware: NodeHardware) -> Iterator[tuple[str, ...]]:
        ids = self.sought.device.ids or self._of_class()
        if not ids:  # nothing of the class can be taken: why, is said of each
            for one in hardware.functions.values():
                if self._is_of_class(one):
                    self._wanted(hardware, one)
            return
        subsystems = {}
        for one in hardware.functions.values():
            reach = Reach((), hardware, mapping.EMPTY, {})
            fits = reach.is_of_ids(one, ids) if self.sought.mdev else one.ids == ids
            if fits and self._is_of_class(one) and self._wanted(hardware, one):
                subsystems[likeness.of(one).subsystem] = one
                yield self._card(hardware, one)
        if len(subsystems) > 1:
            words = listed(sorted(name or "none" for name in subsystems))
            self.notes[
                f"node {hardware.node}: the devices have several subsystem ids ({words}); --subsystem names one"
            ] = None

    def _of_class(self) -> str:
        """The ids of the only model of a class."""
        models: dict[str, list[str]] = {}
        for node, hardware in sorted(self.hardware.items()):
            for one in hardware.functions.values():
                if self._is_of_class(one) and not self._why_not(hardware, one):
                    words = f"{one.address} of {node}"
                    models.setdefault(one.ids, []).append(words)
        if len(models) > 1:
            words = listed(f"{ids} ({listed(places, 3)})" for ids, places in models.items())
            what = KIND_WORDS[self.sought.device.kind]
            hint = f"name one of them, such as --device {next(iter(models))}"
            raise UsageError(f"the nodes have {len(models)} models of {what}: {words}", hint)
        return next(iter(models), "")

    def _is_of_class(self, function: Function) -> bool:
        kind = self.sought.device.kind
        virtual = bool(function.physfn) and not self.sought.mdev and not self.sought.device.ids
        return not virtual and (not kind or function.pci_class.startswith(KINDS[kind]))

    def _card(self, hardware: NodeHardware, function: Function) -> tuple[str, ...]:
        """The functions of a graphics card that are passed together, as its whole slot; of all else the one."""
        if (
            not function.pci_class.startswith(KINDS["gpu"])
            or function.physfn
            or is_mdev_capable(hardware, function.address)
        ):
            return (function.address,)
        card = Reach((), hardware, mapping.EMPTY, {}).card(function, ())
        slot = pci.slot(function.address)
        if len(card) > 1 and set(card) == set(hardware.in_slot(slot)) and function.address.endswith(".0"):
            return (slot,)
        return (function.address,)

    # ---- what all have in common

    def _wanted(self, hardware: NodeHardware, function: Function, *, named: bool = False) -> bool:
        """Whether a function that fits is taken; why not is said, once."""
        why = self._why_not(hardware, function, named=named)
        if why:
            self.left_out.append(f"{function.words} of node {hardware.node}: {why}")
        return not why

    def _why_not(self, hardware: NodeHardware, function: Function, *, named: bool = False) -> str:
        subsystem = likeness.of(function).subsystem
        if self.sought.subsystem not in {"", subsystem}:
            return f"its subsystem is {subsystem or 'not told'}"
        capable = is_mdev_capable(hardware, function.address)
        if self.sought.mdev and not capable:
            return "it has no mediated devices now: is its driver loaded?"
        if function.bridge:
            return "a bridge"
        if named or (capable and not function.physfn):
            return ""
        why = Reach((), hardware, mapping.EMPTY, {}).why_not(function, (), self.sought.device.kind)
        known = self._is_own(hardware, function) or self._is_excluded(hardware, (function.address,))
        if why or known or not hardware.in_doubt(function):
            return why
        self.doubtful[hardware.node, function.address] = function
        return "the host may use it, which the API does not tell: name it by its address"

    def _is_own(self, hardware: NodeHardware, function: Function) -> bool:
        return any(node == hardware.node and function.address.startswith(path) for node, path in self.sought.own)

    def _only(self, kinds: Mapping[tuple[Likeness, ...], list[str]], word: str) -> tuple[Likeness, ...]:
        """The only kind of device at an address. Raises NotFoundError and UsageError."""
        if not kinds:
            what = "a physical function at" if self.sought.vf_of else "a device at"
            message = f"none of {listed(sorted(self.hardware))} has {what} {word}"
            raise NotFoundError(message, "lspci -D on a node lists its devices; name them by vendor:device")
        if len(kinds) > 1:
            words = listed(f"{likeness.words(kind)} on {listed(nodes, 4)}" for kind, nodes in kinds.items())
            hint = f"name the model, such as {next(iter(kinds))[0].ids}, or the node: --node"
            raise UsageError(f"{word} is not the same device on all nodes: {words}", hint)
        return next(iter(kinds))
