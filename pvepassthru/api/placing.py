# SPDX-License-Identifier: Apache-2.0
"""Which nodes fit a VM: whether all of its devices are to be had there at once, and what HA says of it.

Of HA: node affinity rules (PVE 9) and groups (before), those only that are strict, and resource affinity rules, which
keep VMs together or apart. Nothing else is looked at: neither storage, memory, nor network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import cluster as answers
from pvepassthru.api import hardware as functions_of
from pvepassthru.api import mirror, selection
from pvepassthru.host import cluster as files
from pvepassthru.model import pci, placement, resolve, section_config
from pvepassthru.model.text import listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.api.client import Client
    from pvepassthru.api.cluster import Vm
    from pvepassthru.api.hardware import Answer, NodeHardware
    from pvepassthru.api.occupancy import Occupancy
    from pvepassthru.api.present import Present
    from pvepassthru.api.survey import Overview
    from pvepassthru.host.cluster import Resource
    from pvepassthru.model.passed import Passed


_OF_TYPES = frozenset({"mdev-unsupported", "mdev-type-unknown", "mdev-no-instance"})


class Fit(NamedTuple):
    """Whether a node fits a VM."""

    node: str
    reasons: tuple[str, ...]
    """Why it does not fit now; none: it fits."""
    later: tuple[str, ...]
    """Why it does not when all other VMs of the node have started; `reasons` among them."""
    notes: tuple[str, ...]
    unsure: tuple[str, ...] = ()
    """What is not known of the node, so that nobody can say that it fits."""

    @property
    def now(self) -> bool:
        """Whether it surely fits now."""
        return not self.reasons and not self.unsure

    @property
    def always(self) -> bool:
        """Whether it surely fits also when all other VMs of the node run."""
        return not self.later and not self.unsure


def guest(client: Client, known: Overview, vm: Vm) -> Guest:
    """A VM that is to be placed. Raises ApiError."""
    return Guest(known, vm, answers.next_config(client, vm.vmid, vm.node))


class Guest:
    """A VM that is to be placed."""

    def __init__(self, known: Overview, vm: Vm, present: Present) -> None:
        self.known = known
        self.vm = vm
        self.present = present
        name = min(known.nodes, default=vm.node)
        ha = mirror.host(functions_of.build(name, ()), known.mappings, (), cluster=known.cluster)
        self.resources = files.ha_resources(ha)
        self.resource: Resource | None = self.resources.get(vm.vmid)

    def parents(self, hardware: NodeHardware) -> tuple[str, ...]:
        """The functions of a node whose mdev types decide."""
        found = selection.parents(self.present.section.entries.values(), hardware, self.known.mappings)
        return tuple(address for address in found if hardware.functions[address].is_askable)

    def fit(self, found: Occupancy) -> Fit:
        """Whether it fits a node, whose other VMs have what they have."""
        node = found.hardware.node
        reasons = [*self._by_ha(node)]
        later: list[str] = []
        notes = list(self._notes(node))
        if node != self.vm.node or not self.vm.running:  # else it has its devices, and keeps them
            fixed, passed = self._by_devices(found)
            reasons += fixed
            reasons += self._taken(found, passed, everybody=False)
            told = {reason.partition(":")[0] for reason in reasons}
            reasons += self._beside(found, passed, told)
            told = {reason.partition(":")[0] for reason in reasons}
            later = [one for one in self._taken(found, passed, everybody=True) if one.partition(":")[0] not in told]
            told |= {reason.partition(":")[0] for reason in later}
            notes += _mixed(found, passed)
            later += self._short(found, passed, told)
        both = dict.fromkeys([*reasons, *later])
        return Fit(node, tuple(reasons), tuple(both), tuple(notes))

    def doubt(self, fit: Fit, unread: list[int], *, hidden: bool) -> Fit:
        """The same, with what is not known: VMs of the node whose configs could not be read, and VMs not to be seen."""
        if not self.present.section.entries or (fit.node == self.vm.node and self.vm.running):
            return fit
        unsure = [f"VM {listed(unread)}, whose config could not be read, may have devices there"] if unread else []
        if hidden:
            unsure.append("VMs that this user may not see may have devices there")
        return fit._replace(unsure=tuple(unsure))

    # ---- devices

    def _by_devices(self, found: Occupancy) -> tuple[list[str], tuple[Passed, ...]]:
        """Why PVE would refuse the start there, whoever has the devices; and the devices."""
        node = found.hardware.node
        reasons = []
        if node != self.vm.node:
            for _, entry in sorted(self.present.section.entries.items()):
                if entry.host and not entry.mapping:
                    words = f"{entry.key} names {entry.host}, the address of a device of node {self.vm.node}"
                    way = f"pvepassthru migrate-to-mapping {self.vm.vmid}"
                    reasons.append(f"{words}; by a mapping it could have one of another node: {way}")
        if reasons:
            return reasons, ()
        solved = resolve.resolve(self.present.section, self.known.mappings, found.hardware, node, self.vm.vmid)
        elsewhere = {device.entry.key for device in solved.passed if device.mdev and not _told(found, device)}
        told = [one for one in solved.problems if one.code not in _OF_TYPES or one.key not in elsewhere]
        return [f"{problem.key}: {problem.message}" for problem in told], solved.passed

    def _taken(self, found: Occupancy, passed: tuple[Passed, ...], *, everybody: bool) -> list[str]:
        """The entries for which other VMs leave nothing: those that run, or everybody."""
        taken = {**found.claimed, **found.held} if everybody else found.held
        mine: dict[str, str] = {}
        """The functions of the VM's earlier entries, each with that entry."""
        reasons = []
        for device in passed:
            if device.mdev and not _vendor(found, device):
                continue
            free = [one for one in device.alternatives if mine.keys().isdisjoint(one) and not _users(found, one, taken)]
            fitting = [one for one in free if not device.mdev or _offers(found, one[0], device.mdev)]
            if fitting:
                mine.update(dict.fromkeys(fitting[0], device.entry.key))
                continue
            users = sorted({vmid for one in device.alternatives for vmid in _users(found, one, taken)})
            many = len(device.alternatives)
            name = f"mapping {device.entry.mapping}" if device.entry.mapping else listed(device.alternatives[0])
            what = f"all {many} devices of {name} are" if many > 1 else f"{name} is"
            if free:
                reasons.append(f"{device.entry.key}: no free device of {name} offers {device.mdev} now")
            else:
                own = dict.fromkeys(mine[address] for one in device.alternatives for address in one if address in mine)
                by = [f"VM {listed(users)}"] if users else []
                by += [f"this VM's {listed(own)}"] if own else []
                verb = "wanted" if everybody else "taken"
                reasons.append(f"{device.entry.key}: {what} {verb} by {' and '.join(by)}")
        return reasons

    def _beside(self, found: Occupancy, passed: tuple[Passed, ...], told: set[str]) -> list[str]:
        """The entries whose mdev type has no place beside those of the VM's other entries."""
        wanted = [(device, device.mdev) for device in passed if device.mdev]
        _, missing = found.place(found.gpus(), [(mdev, _places(device)) for device, mdev in wanted])
        lacking = [wanted[number] for number in missing]
        return [
            f"{device.entry.key}: no GPU there has room for {mdev} beside what this VM's other entries take"
            for device, mdev in lacking
            if device.entry.key not in told and _is_on_offer(found, device, mdev)
        ]

    def _short(self, found: Occupancy, passed: tuple[Passed, ...], told: set[str]) -> list[str]:
        """The entries whose mdev type has no place when the other VMs of the node have started."""
        gpus = found.gpus()
        wanted = [(device, device.mdev) for device in passed if device.mdev]
        after, _ = found.started(gpus)
        _, missing = found.place(after, [(mdev, _places(device)) for device, mdev in wanted])
        claims = [claim for claim in found.claims if claim.mdev and not claim.runs]
        reasons = []
        for number in missing:
            device, kind = wanted[number]
            same = [claim.vmid for claim in claims if claim.mdev == kind]
            near = {claim.vmid for claim in claims if set(claim.parents) & _siblings(found, _places(device))}
            free = sum(placement.room(gpus, kind))
            if device.entry.key in told or not near or not _is_on_offer(found, device, kind):
                continue
            own = sum(mdev == kind for _, mdev in wanted)
            if same and free - len(same) < own:
                who = listed(sorted(set(same)))
                reasons.append(
                    f"this VM wants {own} of {kind}; {free} can be had now, of which VM {who} wants {len(same)}"
                )
            else:
                who = listed(sorted(near))
                reasons.append(f"{device.entry.key}: no GPU there has room for {kind} beside what VM {who} wants")
        return list(dict.fromkeys(reasons))

    # ---- HA

    def _by_ha(self, node: str) -> Iterator[str]:
        """Why HA does not run it there."""
        if self.resource is None:
            return
        if self.resource.strict and self.resource.nodes and node not in self.resource.nodes:
            yield f"{self.resource.said_by} keeps this VM to {listed(self.resource.nodes)}"
        for rule in self.known.cluster.rules:
            members = self._members(rule)
            if self.vm.vmid not in members:
                continue
            others = {vmid: vm.node for vmid, vm in self.known.vms.items() if vmid in members and self._counts(vmid)}
            there = [vmid for vmid, where in others.items() if where == node]
            elsewhere = {vmid: where for vmid, where in others.items() if where != node}
            if rule.get("affinity") == "negative" and there:
                yield f"HA rule {rule.get('rule')} keeps this VM apart from VM {listed(there)}, which is there"
            elif rule.get("affinity") == "positive" and elsewhere:
                words = listed(f"VM {vmid} on {where}" for vmid, where in elsewhere.items())
                yield f"HA rule {rule.get('rule')} keeps this VM together with {words}"

    def _members(self, rule: Answer) -> set[int]:
        """The VMs of a resource affinity rule that is in force."""
        if rule.get("type") != "resource-affinity" or str(rule.get("disable", 0)) not in {"0", "", "False"}:
            return set()
        words = section_config.words(str(rule.get("resources", "")))
        numbers = (word.removeprefix("vm:") for word in words)
        return {int(number) for number in numbers if number.isascii() and number.isdecimal()}

    def _counts(self, vmid: int) -> bool:
        """Whether HA keeps another VM running, so that its place matters."""
        other = self.resources.get(vmid)
        return vmid != self.vm.vmid and other is not None and other.started

    def _notes(self, node: str) -> Iterator[str]:
        if node == self.vm.node:
            yield "this VM runs here" if self.vm.running else "this VM is here"
        resource = self.resource
        if resource and resource.nodes and not resource.strict and node not in resource.nodes:
            yield f"{resource.said_by} prefers {listed(resource.nodes)}"


def _vendor(found: Occupancy, device: Passed) -> bool:
    """Whether a device is a vGPU of a VF of its own."""
    return found.vendor.issuperset(one[0] for one in device.alternatives)


def _told(found: Occupancy, device: Passed) -> bool:
    """Whether the API tells the types of a device as they are for a start."""
    return not _vendor(found, device) and all(pci.has_short_domain(one[0]) for one in device.alternatives)


def _mixed(found: Occupancy, passed: tuple[Passed, ...]) -> Iterator[str]:
    """What PVP277 finds of a VM: vGPUs of several boards or series, which NVIDIA's driver may not give one VM."""
    profiles = {kind: profile for gpu in found.gpus() for kind, profile in gpu.profiles.items()}
    wanted = [(device.entry.key, profiles[device.mdev]) for device in passed if device.mdev in profiles]
    known = [(key, profile) for key, profile in wanted if profile.board]
    for key, profile in known[1:]:
        first = known[0][1]
        if (profile.board, profile.series) != (first.board, first.series):
            yield f"{key} takes a vGPU {profile.name} beside {first.name}, of another board or series (PVP277)"


def _places(device: Passed) -> tuple[str, ...]:
    """Where the mediated device of an entry may be, in PVE's order."""
    return tuple(one[0] for one in device.alternatives)


def _siblings(found: Occupancy, addresses: tuple[str, ...]) -> set[str]:
    """The functions of the GPUs of these."""
    functions = found.hardware.functions
    gpus = {functions[address].physfn or address for address in addresses}
    return {address for address, one in functions.items() if (one.physfn or address) in gpus}


def _is_on_offer(found: Occupancy, device: Passed, kind: str) -> bool:
    """Whether the API tells of a place for the type at all; what it does not tell is no reason."""
    return any(_offers(found, address, kind) for address in _places(device))


def _offers(found: Occupancy, address: str, kind: str) -> bool:
    return any(one.id == kind for one in found.hardware.functions[address].types)


def _users(found: Occupancy, functions: tuple[str, ...], taken: dict[str, int]) -> set[int]:
    """The VMs that have one of these functions, or something in their IOMMU groups."""
    mates = [mate.address for mate in found.hardware.mates(functions)]
    return {taken[address] for address in (*functions, *mates) if address in taken}
