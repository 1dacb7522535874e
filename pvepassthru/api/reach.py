# SPDX-License-Identifier: Apache-2.0
"""What the words of a VM's entries and of a wish reach on one node: the functions that they mean, and their company."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import selection
from pvepassthru.model import pci
from pvepassthru.model.errors import DeviceError, NotFoundError
from pvepassthru.model.text import counted, listed

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

    from pvepassthru.api.hardware import Function, NodeHardware
    from pvepassthru.model.hostpci import HostpciEntry
    from pvepassthru.model.mapping import Mappings

_COMPANIONS = ("0403", "0c03", "0c80")
"""Classes of what a graphics card has besides the GPU: sound, USB, USB-C."""
_BMC = {"1a03": "ASPEED", "102b": "Matrox"}
"""Makers of the display of servers' management controllers."""


class Taken(NamedTuple):
    """An entry of the VM with the functions that it means on this node."""

    entry: HostpciEntry
    alternatives: tuple[tuple[str, ...], ...]
    """None of what is not there."""

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions of all its alternatives."""
        return tuple(address for functions in self.alternatives for address in functions)


class Reach:
    """One VM's view of a node; `taken` says of functions that are not to be chosen who has them."""

    def __init__(
        self,
        entries: Iterable[HostpciEntry],
        hardware: NodeHardware,
        mappings: Mappings,
        taken: Mapping[str, str],
        leaving: Iterable[HostpciEntry] = (),
    ) -> None:
        self.hardware = hardware
        self.mappings = mappings
        self.taken = taken
        self.entries = tuple(Taken(entry, selection.alternatives(entry, hardware, mappings)) for entry in entries)
        self.leaving = tuple(Taken(entry, selection.alternatives(entry, hardware, mappings)) for entry in leaving)
        """Entries that the VM is to lose, so that their devices are not chosen for it again."""

    def pool(self, name: str) -> tuple[tuple[str, ...], ...]:
        """The functions of each device that a mapping has on this node, of those that are there."""
        mapping = self.mappings.by_name.get(name)
        here = mapping.on(self.hardware.node) if mapping else ()
        return tuple(functions for other in here if (functions := self.hardware.resolved(other.paths)))

    def present(self, selectors: tuple[str, ...]) -> tuple[str, ...]:
        """The functions that selectors mean. Raises NotFoundError when one means nothing."""
        functions = self.hardware.resolved(selectors)
        if not functions:
            missing = next(selector for selector in selectors if not self.hardware.matching(selector))
            slot = self.hardware.in_slot(pci.slot(missing))
            hint = f"that slot has {listed(slot)}" if slot else f"the devices are: {listed(self.hardware.addresses())}"
            raise NotFoundError(f"there is no PCI device {missing} on node {self.hardware.node}", hint)
        return functions

    def vfs(self, address: str) -> tuple[str, ...]:
        """The VFs of a PF that are there, by number. Raises NotFoundError and DeviceError."""
        function = self.hardware.functions.get(address)
        if function is None:
            with_vfs = [one.address for one in self.hardware.functions.values() if one.vfs]
            hint = f"PFs with VFs are: {listed(with_vfs)}" if with_vfs else "no function of that node has VFs"
            raise NotFoundError(f"there is no PCI device {address} on node {self.hardware.node}", hint)
        if function.physfn:
            message = f"{function.words} is itself a VF"
            raise DeviceError(message, f"its PF is {function.physfn}; to pass this one, name it as a device")
        vfs = tuple(vf for vf in function.vfs if vf in self.hardware.functions)
        if not vfs:
            hint = f"if it can have some, on the node: pvepassthru sriov set {address} N"
            raise DeviceError(f"{function.words} has no VFs on node {self.hardware.node}", hint)
        return vfs

    def card(self, gpu: Function, wanted: Container[str]) -> tuple[str, ...]:
        """A GPU with the other functions of its card, but what is in `wanted`."""
        slot = (self.hardware.functions[address] for address in self.hardware.in_slot(pci.slot(gpu.address)))
        others = [
            one.address
            for one in slot
            if one.address != gpu.address
            and one.vendor == gpu.vendor
            and one.pci_class.startswith(_COMPANIONS)
            and not one.physfn
            and one.address not in wanted
        ]
        return (gpu.address, *others)

    def is_of_ids(self, function: Function, ids: str) -> bool:
        """Whether a function or its PF has these ids."""
        physical = self.hardware.functions.get(function.physfn or "")
        return bool(ids) and (function.ids == ids or (physical is not None and physical.ids == ids))

    def mdevs(self) -> list[tuple[str, str]]:
        """(parent, type) of the mediated devices that the VM's entries with one device take."""
        return [
            (taken.alternatives[0][0], taken.entry.mdev or "")
            for taken in self.entries
            if taken.entry.wants_mdev and len(taken.alternatives) == 1
        ]

    def both_ways(self) -> set[tuple[str, str]]:
        """(entry that passes a function whole, entry with a mediated device on it), by their keys."""
        return {
            (whole.entry.key, other.entry.key)
            for whole in self.entries
            for other in self.entries
            if not whole.entry.wants_mdev
            and other.entry.wants_mdev
            and len(whole.alternatives) == len(other.alternatives) == 1
            and set(whole.functions) & set(other.functions)
        }

    def why_not(self, function: Function, wanted: Container[str], kind: str = "") -> str:
        """Why a function is not to be chosen where several come into question; empty if it may be."""
        return next(self._reasons(function, wanted, kind), "")

    def _reasons(self, function: Function, wanted: Container[str], kind: str) -> Iterator[str]:
        address = function.address
        if address in wanted:
            yield "the VM gets it already"
        yield from self._owners(address)
        if function.bridge:
            yield "a bridge"
        if function.use:
            yield function.use
        if function.vfs:
            yield f"it has {counted(len(function.vfs), 'VF')}, which would vanish; one of these may be wanted instead"
        if self.hardware.mdevs_of(address):
            yield "mediated devices are on it"
        if function.group is None:
            yield "it is in no IOMMU group"
        if kind == "gpu" and function.vendor in _BMC:
            yield f"the display of the server's management controller ({_BMC[function.vendor]})"
        used = (mate for mate in self.hardware.mates((address,)) if mate.use)
        yield from (f"it shares its IOMMU group with {mate.address}: {mate.use}" for mate in used)
        doubts = (mate for mate in self.hardware.mates((address,)) if self.hardware.in_doubt(mate))
        yield from (f"it shares its IOMMU group with {mate.words}, which the host may use itself" for mate in doubts)

    def _owners(self, address: str) -> Iterator[str]:
        """Words for the VM's own entries that have a function, or may take it, and for others that have it."""
        for taken in self.entries:
            if address in taken.functions:
                yield f"{taken.entry.key} has it" + (" among others" if len(taken.alternatives) > 1 else "")
        yield from (
            f"{one.entry.key}, which is to be removed, has it" for one in self.leaving if address in one.functions
        )
        if address in self.taken:
            yield f"{self.taken[address]} has it"
