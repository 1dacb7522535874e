# SPDX-License-Identifier: Apache-2.0
"""The host's PCI functions with their names and VMs, as `devices` has them: one by one, by IOMMU group, by bus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvepassthru.host.functions import Function, function
from pvepassthru.host.inventory import DEVICES
from pvepassthru.host.pciids import PciIds
from pvepassthru.model.pci import is_address
from pvepassthru.rules.owners import Owner, Owners

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pvepassthru.rules.subject import Surroundings


class Functions:
    """A host's functions as they are shown."""

    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self.ids = PciIds(around.host)
        self.all_owners = Owners(around)
        self._functions: dict[str, Function] = {}
        self._owned: dict[str, tuple[Owner, ...]] = {}
        self._known = frozenset(self.around.inventory.addresses())

    def function(self, address: str) -> Function:
        """What sysfs says of a function."""
        if address not in self._functions:
            self._functions[address] = function(self.around.inventory, address)
        return self._functions[address]

    def owners(self, address: str) -> tuple[Owner, ...]:
        """The VMs that a function belongs to, by VMID."""
        if address not in self._owned:
            self._owned[address] = self.all_owners.of(address)
        return self._owned[address]

    # ---- for programs

    def shape(self, one: Function) -> dict[str, Any]:
        """A function in the shape of docs/json.md."""
        shape = one._asdict()
        shape["class"] = shape.pop("pci_class")
        shape["link"] = one.link._asdict() if one.link else None
        shape["kind"] = one.kind
        shape["vendor_name"] = self.ids.vendor(one.vendor)
        shape["device_name"] = self.ids.device(one.vendor, one.device)
        shape["class_name"] = self.ids.subclass(one.pci_class)
        shape["vms"] = [owner._asdict() for owner in self.owners(one.address)]
        return shape

    def shapes(self, found: Iterable[Function]) -> list[dict[str, Any]]:
        """Functions in the shape of docs/json.md."""
        return [self.shape(one) for one in found]

    def groups(self, found: Iterable[Function]) -> list[dict[str, Any]]:
        """Groups in the shape of docs/json.md."""
        return [
            {
                "group": number,
                "type": None if number is None else self.around.host.text(f"/sys/kernel/iommu_groups/{number}/type"),
                "functions": self.shapes(self.function(address) for address in members),
            }
            for number, members in self.grouped(found)
        ]

    def tree_shape(self, found: Iterable[Function]) -> list[dict[str, Any]]:
        """Buses in the shape of docs/json.md."""

        def full(branch: dict[str, Any]) -> dict[str, Any]:
            children = [full(child) for child in branch["children"]]
            return {**self.shape(self.function(branch["address"])), "children": children}

        return [{"bus": root["bus"], "functions": [*map(full, root["functions"])]} for root in self.buses(found)]

    # ---- structure

    def grouped(self, found: Iterable[Function]) -> list[tuple[int | None, tuple[str, ...]]]:
        """Groups by number with their members, those without a group last."""
        members: dict[int | None, tuple[str, ...]] = {}
        for one in found:
            if one.group is None:
                members[None] = (*members.get(None, ()), one.address)
            elif one.group not in members:
                members[one.group] = self.around.inventory.group_members(one.address)
        return sorted(members.items(), key=lambda item: (item[0] is None, item[0] or 0))

    def buses(self, found: Iterable[Function]) -> list[dict[str, Any]]:
        """Root buses with their functions, each with those behind it and, of a PF, its VFs.

        Of filtered functions also the bridges above them. The kernel nests a function's folder in its bridge's.
        """
        roots: dict[str, list[dict[str, Any]]] = {}
        known: dict[str, dict[str, Any]] = {}

        def branch(address: str) -> dict[str, Any]:
            if address in known:
                return known[address]
            known[address] = made = {"address": address, "children": []}
            one = self.function(address)
            above, root = self._above(address)
            if one.physical_function and one.physical_function != address and one.physical_function not in above:
                branch(one.physical_function)["children"].append(made)
            elif above:
                branch(above[-1])["children"].append(made)
            else:
                roots.setdefault(root, []).append(made)
            return made

        for one in found:
            branch(one.address)
        for made in (*known.values(),):
            made["children"].sort(key=lambda child: str(child["address"]))
        return [
            {"bus": root, "functions": sorted(roots[root], key=lambda child: str(child["address"]))}
            for root in sorted(roots)
        ]

    def _above(self, address: str) -> tuple[list[str], str]:
        """The bridges above a function, from the root, and the root bus as `0000:00`."""
        parts = (self.around.host.resolve(f"{DEVICES}/{address}") or "").split("/")
        above = [part for part in parts[:-1] if is_address(part) and part in self._known]
        root = next((part.removeprefix("pci") for part in parts if part.startswith("pci") and ":" in part), "")
        return above, root or address.rpartition(":")[0]
