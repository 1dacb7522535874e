# SPDX-License-Identifier: Apache-2.0
"""From addresses to mappings: hostpci entries with `host=` become entries with `mapping=` and pass the same functions.

All else of an entry stays, its index too, so that the guest sees the same device at the same place. What the config
resolves to is compared before and after (model/resolve.py) before anything is returned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import (
    cluster,
    mapping_entry,
    mapping_plan,
    mapping_wish,
    mappings,
    nodes,
    permission,
)
from pvepassthru.api.draft import Draft
from pvepassthru.api.mapping_search import Found
from pvepassthru.model import hostpci, mapped, pci, resolve
from pvepassthru.model.errors import (
    ApiMissingError,
    DeviceError,
    PassthruError,
    UsageError,
)
from pvepassthru.model.problem import is_mdev_capable
from pvepassthru.model.text import listed, shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pvepassthru.api.change import Change
    from pvepassthru.api.client import Client
    from pvepassthru.api.hardware import NodeHardware
    from pvepassthru.api.mapping_plan import Plan
    from pvepassthru.api.mappings import Stored
    from pvepassthru.api.nodes import Nodes
    from pvepassthru.api.present import Present
    from pvepassthru.model.hostpci import HostpciEntry


class Migration(NamedTuple):
    """What is to become of some VMs, and of the mappings that they need."""

    plans: tuple[Plan, ...]
    """The mappings that are made, or get a device more."""
    changes: tuple[Change, ...]
    """One a VM; one without keys has no entry by an address."""


def read(client: Client, vmids: Sequence[int], name: str = "") -> Migration:
    """What is to become of these VMs, by what the API tells. Raises ApiError and as `plan`.

    The configs of the other VMs on their nodes are read too, one request a VM.
    """
    vms = cluster.vms(client)
    ids = list(dict.fromkeys(vmids))
    places = {vmid: vms[vmid] if vmid in vms else cluster.vm(client, vmid) for vmid in ids}
    found = nodes.read(client, [vm.node for vm in places.values()])
    for vm in places.values():
        if vm.node in found.unread:
            raise found.unread[vm.node]
    presents = [cluster.config(client, vmid, vm.node) for vmid, vm in places.items()]
    others = []
    for vm in vms.values():
        if vm.vmid not in places and vm.node in found.hardware:
            try:
                others.append(cluster.next_config(client, vm.vmid, vm.node))
            except ApiMissingError:  # removed or migrated since it was listed
                continue
    return plan(presents, mappings.read(client), found, others, name)


def plan(
    presents: Sequence[Present],
    known: Mapping[str, Stored],
    found: Nodes,
    others: Sequence[Present] = (),
    name: str = "",
) -> Migration:
    """The mappings and changes that these VMs need; `others` are VMs of which is told that they use the same device.

    `name` is for the one device that they have by an address. Raises NotFoundError when a device is not there,
    DeviceError when PVE's mappings cannot hold it, UsageError when `name` does not fit.
    """
    if name:
        mapping_wish.name(name)
    return _Migrator(known, found, name).plan(presents, others)


class _Migrator:
    """Some VMs on their way."""

    def __init__(self, known: Mapping[str, Stored], found: Nodes, name: str) -> None:
        self.known = dict(known)
        self.before = known
        self.seen = found
        self.name = name
        self.plans: dict[str, Plan] = {}
        self.devices: dict[tuple[str, tuple[str, ...]], str] = {}
        """The mapping of each device, by its node and its functions."""

    def plan(self, presents: Sequence[Present], others: Sequence[Present]) -> Migration:
        changes = [self._change(present, others) for present in presents]
        for change in changes:
            self._check(change)
        return Migration(tuple(self.plans.values()), tuple(changes))

    def _change(self, present: Present, others: Sequence[Present]) -> Change:
        hardware = self.seen.hardware[present.node]
        draft = Draft(present, hardware)
        functions: list[str] = []
        for _, entry in sorted(present.section.entries.items()):
            if not entry.host or entry.mapping:
                continue
            try:
                found = self._found(hardware, entry)
            except PassthruError as error:
                message = f"VM {present.vmid} {entry.key} ({shown(entry.host)}): {error.message}"
                raise type(error)(message, error.hint) from error
            name = self._mapping(present.node, found)
            functions += found.functions
            what = f"{listed(found.functions)} of node {present.node}"
            made = "which is made for it" if name not in self.before else "which has just that"
            made = "which gets it" if name in self.before and name in self.plans else made
            text = hostpci.write(entry._replace(host=None, mapping=name))
            draft.set(entry.key, text, f"{what} is mapping {name}, {made}")
            for other_name in self._overlapping(name, present.node, found):
                draft.note(self._instead(present, entry, other_name, found))
            if entry.romfile is not None:
                draft.note(f"{entry.key} keeps romfile={shown(entry.romfile)}: root@pam alone may change that entry")
            for other in others:
                self._say(draft, hardware, other, found)
        if not draft.empty:
            draft.note("root@pam with its password makes this change; those who have Mapping.Use can change it later")
        return draft.change(tuple(dict.fromkeys(functions)))

    def _found(self, hardware: NodeHardware, entry: HostpciEntry) -> Found:
        selectors = [pci.with_domain(selector) for selector in (entry.host or "").split(";")]
        line, functions = mapping_entry.entry_for(hardware, selectors)
        words = hardware.functions[functions[0]].words
        return Found(line, functions, is_mdev_capable(hardware, functions[0]), words)

    def _say(self, draft: Draft, hardware: NodeHardware, other: Present, found: Found) -> None:
        """Note that another VM names a device by its address, too."""
        if other.node != hardware.node:
            return
        for entry in other.section.entries.values():
            taken = hardware.resolved(entry.host.split(";")) if entry.host else ()
            both = [address for address in taken if address in found.functions]
            if both:
                words = f"VM {other.vmid} ({entry.key}) names {listed(both)} by its address, too"
                draft.note(f"{words}: pvepassthru migrate-to-mapping {other.vmid}")

    # ---- which mapping

    def _mapping(self, node: str, found: Found) -> str:
        """The mapping for a device, which is made or gets it if there is none."""
        device = (node, found.functions)
        if device not in self.devices:
            fitting = [name for name in sorted(self.known) if self._is_just(name, node, found.functions)]
            if self.name:
                self._check_name([*self.devices, device])
                name = self.name
            elif fitting:
                name = fitting[0]
            else:
                name = self._new_name(node, found)
            if name not in fitting:
                self._add(name, node, found)
            self.devices[device] = name
        return self.devices[device]

    def _is_just(self, name: str, node: str, functions: tuple[str, ...]) -> bool:
        """Whether a mapping has just these functions as its one device on a node, and PVE takes it there."""
        hardware = self.seen.hardware[node]
        mapping = self.known[name].mapping
        here = mapping.on(node)
        return (
            len(here) == 1
            and hardware.resolved(here[0].paths) == functions
            and not mapped.check(mapping, here[0], hardware, "", None)
        )

    def _add(self, name: str, node: str, found: Found) -> None:
        """Plan a device for a mapping that has none on this node. Raises UsageError."""
        present = self.known.get(name)
        here = present.mapping.on(node) if present else ()
        if here:
            paths = listed(";".join(entry.paths) for entry in here)
            message = f"mapping {name} has {paths} on node {node}, and is to have just {';'.join(found.entry.paths)}"
            raise UsageError(message, "take another name; PVE gives a VM the first device that is free")
        self.plans[name] = self._joined(mapping_plan.with_device(name, self.known, self.seen, found))
        self.known[name] = self.plans[name].after

    def _joined(self, new: Plan) -> Plan:
        """A plan with what was planned for the same mapping already."""
        old = self.plans.get(new.name)
        if old is None:
            return new
        notes = tuple(dict.fromkeys((*old.notes, *new.notes)))
        return new._replace(before=old.before, lines=(*old.lines, *new.lines), notes=notes)

    def _overlapping(self, name: str, node: str, found: Found) -> list[str]:
        """The other mappings that have a function of the device for which a mapping is made, or which it gets."""
        if name not in self.plans:
            return []
        hardware = self.seen.hardware[node]
        return [
            other
            for other, one in sorted(self.known.items())
            if other != name
            and any(set(hardware.reached(entry.paths)) & set(found.functions) for entry in one.mapping.on(node))
        ]

    def _instead(self, present: Present, entry: HostpciEntry, name: str, found: Found) -> str:
        """How to do with a mapping that has the device already, and what the VM gets by it, in words."""
        hardware, mapping = self.seen.hardware[present.node], self.known[name].mapping
        here = mapping.on(present.node)
        if any(mapped.check(mapping, one, hardware, "", None) for one in here):
            return (
                f"mapping {name} has what {entry.key} has, and does not fit the node: pvepassthru mapping check {name}"
            )
        devices = [hardware.resolved(one.paths) for one in here]
        if devices == [found.functions]:
            return f"mapping {name} has just what {entry.key} has: leave out --name, and no device is in two mappings"
        gets = f"VM {present.vmid} gets {listed(devices[0])} by it"
        if len(devices) > 1:
            gets = f"VM {present.vmid} gets the first of its {len(devices)} devices on {present.node} that is free"
        text = hostpci.write(entry._replace(host=None, mapping=name))
        way = permission.qm_set(present.vmid, {entry.key: text})
        return f"{entry.key} can do with mapping {name}, so that no device is in two mappings; {gets}: {way}"

    def _new_name(self, node: str, found: Found) -> str:
        """A name that no mapping has, after what the device is and where."""
        kind = self.seen.hardware[node].functions[found.functions[0]].kind or "pci"
        place = found.entry.paths[0].removeprefix("0000:")
        base = f"{kind}-{node}-{place}".replace(":", "-").replace(".", "-")
        names = (base, *(f"{base}-{number}" for number in range(2, len(self.known) + 3)))
        return next(name for name in names if name not in self.known)

    def _check_name(self, devices: Sequence[tuple[str, tuple[str, ...]]]) -> None:
        """Raise UsageError when one name was given for several devices of a node, or different ones of several."""
        nodes = [node for node, _ in devices]
        models = {self.seen.hardware[node].functions[functions[0]].ids for node, functions in devices}
        if len(nodes) > len(set(nodes)) or len(models) > 1:
            words = listed(f"{listed(functions)} of {node}" for node, functions in devices)
            what = (
                "one device of a node" if len(nodes) > len(set(nodes)) else "one device, of the same model on each node"
            )
            raise UsageError(f"--name is for {what}, and there are several: {words}", "leave it out")

    # ---- the same devices as before

    def _check(self, change: Change) -> None:
        """Raise DeviceError unless PVE passes the same functions, and refuses nothing that it did not refuse."""
        hardware = self.seen.hardware[change.node]
        old, new = mappings.plain(self.before), mappings.plain(self.known)
        was = resolve.resolve(change.before.section, old, hardware, change.node, change.vmid)
        becomes = resolve.resolve(change.after.section, new, hardware, change.node, change.vmid)
        known = {(problem.code, problem.key) for problem in was.problems}
        worse = [problem for problem in becomes.problems if (problem.code, problem.key) not in known]
        if worse:
            message = f"PVE would refuse to start VM {change.vmid} with {worse[0].key}: {worse[0].message}"
            raise DeviceError(message, worse[0].hint)
        if [(one.index, one.addresses, one.mdev, one.nvidia) for one in was.passed] != [
            (one.index, one.addresses, one.mdev, one.nvidia) for one in becomes.passed
        ]:
            message = f"VM {change.vmid} would get other functions than now by mappings"
            raise DeviceError(message, "keep the addresses, or name each function by an entry of its own")
