# SPDX-License-Identifier: Apache-2.0
"""Rules on the cluster's files: mappings against this node's hardware, and HA, PVP412 to PVP419, PVP450 to PVP499.

And the order of a mapping's entries, where that decides which GPU a VM gets: PVP335.
"""

from __future__ import annotations

from pvepassthru.host import capacity, cluster
from pvepassthru.model import mapped, pci, placement
from pvepassthru.model.errors import InputError, UnsafeError
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import listed, shown
from pvepassthru.rules import vfs
from pvepassthru.rules.demand import ha_resources
from pvepassthru.rules.rule import NotApplicable, Unknown
from pvepassthru.rules.subject import MAPPINGS, Hit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pvepassthru.host.cluster import Resource
    from pvepassthru.model.hostpci import HostpciEntry
    from pvepassthru.model.mapping import MapEntry, Mapping
    from pvepassthru.model.placement import Gpu
    from pvepassthru.rules.subject import Subject, Surroundings


# ---- mappings, seen from the host


def drifted(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether every mapping still describes the hardware of this node.

    Ids, subsystem ids, IOMMU group and mediated devices of every entry are compared, as PVE does it.

    Why it matters: PVE refuses to start a VM here that uses the mapping, even when the VM would get another device of
    it.

    How to fix: see which address the device has now (`lspci -D`), then update the mapping (Datacenter, Resource
    Mappings).
    """
    node = around.host.node
    for mapping, entry in _entries(_mappings(around)):
        if entry.node == node:
            for problem in mapped.check(mapping, entry, around.inventory, mapping.name, entry.line):
                if vfs.untold(around, problem):
                    continue
                promise = vfs.of_problem(around, problem)
                hint = promise.hint() if promise else problem.hint
                if hint is not None:
                    yield Hit(_at(mapping, entry.line), f"{problem.message}; node {node}", hint)


def in_two_mappings(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether a device of a node is in one mapping only.

    `0000:01:00` holds `0000:01:00.1`.

    Why it matters: VMs that use different mappings then compete for it, which neither mapping shows; the one that comes
    second does not start.

    How to fix: remove the device from one of the two mappings.
    """
    yield from shared_devices(_mappings(around))


def shared_devices(mappings: Sequence[Mapping]) -> Iterator[Hit]:
    """The same of any mappings, in the order of the file; what the API told has no lines."""
    for hit, _ in shared_by(mappings):
        yield hit


def shared_by(mappings: Sequence[Mapping]) -> Iterator[tuple[Hit, tuple[str, ...]]]:
    """The same, each with all mappings that have the device; the one that the finding is said of comes first."""
    places = _places(mappings)
    for at, (mapping, entry, path) in enumerate(_paths(mappings)):
        others = {
            f"{name} (line {there.line})" if there.line else name: name
            for (name, other), (before, there) in places[entry.node, path.partition(".")[0]].items()
            if name != mapping.name and (there.line, before) < (entry.line, at) and pci.overlap(path, other)
        }
        if others:
            message = f"{shown(path)} of node {entry.node} is in mapping {mapping.name} and in {listed(others)}"
            way = f"pvepassthru mapping remove {mapping.name} --device {entry.node}:{shown(path)}"
            hit = Hit(_at(mapping, entry.line), message, f"remove it from one of them, such as {way}")
            yield hit, tuple(dict.fromkeys((mapping.name, *others.values())))


def twice_in_mapping(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether a mapping has each device of a node once.

    Why it matters: the mapping looks as if it had more devices than there are, and a VM that is to get the second one
    does not start.

    How to fix: remove one of the two lines.
    """
    yield from repeated_devices(_mappings(around))


def repeated_devices(mappings: Sequence[Mapping]) -> Iterator[Hit]:
    """The same of any mappings."""
    places = _places(mappings)
    for at, (mapping, entry, path) in enumerate(_paths(mappings)):
        others = [
            there
            for (name, other), (before, there) in places[entry.node, path.partition(".")[0]].items()
            if name == mapping.name and there is not entry and before < at and pci.overlap(path, other)
        ]
        if others:
            message = f"mapping {mapping.name} has {shown(path)} of node {entry.node} twice"
            too = f", on line {others[0].line} too" if others[0].line else ""
            hint = f"remove line {entry.line}" if entry.line else "remove one of the two"
            yield Hit(_at(mapping, entry.line), f"{message}{too}", hint)


def mixed_models(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether all devices of a mapping are of one model, by vendor and device id.

    Why it matters: a guest finds other hardware after a start on another node, or with another device of the mapping;
    some guests want another driver then, or another licence.

    How to fix: nothing, if the guests can do with it; else make one mapping for each model.
    """
    yield from models_apart(_mappings(around))


def models_apart(mappings: Iterable[Mapping]) -> Iterator[Hit]:
    """The same of any mappings."""
    for mapping in mappings:
        models: dict[str, dict[str, None]] = {}
        for entry in mapping.entries:
            models.setdefault(entry.id.lower(), {})[entry.node] = None
        if len(models) > 1:
            words = listed(f"{model} on {listed(nodes)}" for model, nodes in models.items())
            message = f"mapping {mapping.name} has devices of {len(models)} models: {words}"
            yield Hit(_at(mapping, mapping.line), message, "make one mapping for each model, if the guests need it")


def unknown_nodes(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether the nodes that mappings name are nodes of the cluster.

    Why it matters: PVE stores any name, and finds no device for the mapping on the node that was meant.

    How to fix: correct the name, or remove what is left of a node that is gone.
    """
    known = around.once(_nodes)
    if not known:
        raise Unknown("there is no /etc/pve/nodes")
    yield from foreign_nodes(_mappings(around), known)


def foreign_nodes(mappings: Iterable[Mapping], known: Sequence[str]) -> Iterator[Hit]:
    """The same of any mappings, by the nodes that the cluster has."""
    for mapping, entry in _entries(mappings):
        if entry.node not in known:
            message = f"mapping {mapping.name} has a device of node {shown(entry.node)}, which the cluster has not"
            yield Hit(_at(mapping, entry.line), message, f"the nodes are {listed(known)}; correct or remove the line")


def _mappings(around: Surroundings) -> list[Mapping]:
    """All mappings by name. Raises Unknown when they cannot be read, NotApplicable when there are none."""
    mappings, why = around.mappings_read
    if why:
        raise Unknown(f"{MAPPINGS} cannot be read")
    if not mappings.by_name:
        raise NotApplicable("there are no PCI mappings")
    return [mapping for _, mapping in sorted(mappings.by_name.items())]


def _entries(mappings: Iterable[Mapping]) -> list[tuple[Mapping, MapEntry]]:
    return [(mapping, entry) for mapping in mappings for entry in mapping.entries]


def _paths(mappings: Iterable[Mapping]) -> list[tuple[Mapping, MapEntry, str]]:
    return [(mapping, entry, path) for mapping, entry in _entries(mappings) for path in entry.paths]


def _places(mappings: Iterable[Mapping]) -> dict[tuple[str, str], dict[tuple[str, str], tuple[int, MapEntry]]]:
    """By node and slot: how many paths come before the one by which a mapping first names each path, and its entry."""
    found: dict[tuple[str, str], dict[tuple[str, str], tuple[int, MapEntry]]] = {}
    for at, (mapping, entry, path) in enumerate(_paths(mappings)):
        found.setdefault((entry.node, path.partition(".")[0]), {}).setdefault((mapping.name, path), (at, entry))
    return found


def _at(mapping: Mapping, line: int) -> str:
    return f"{MAPPINGS}:{line} {mapping.name}" if line else f"{MAPPINGS} {mapping.name}"


def _nodes(around: Surroundings) -> tuple[str, ...]:
    return cluster.nodes(around.host)


# ---- HA, seen from the VM


def ha_without_entry(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the VM's mappings have a device on every node that its HA group or affinity rule names.

    Why it matters: when this node fails, HA starts the VM there, and PVE refuses it.

    How to fix: add a device of that node to the mapping, or take the node out of the group or rule.
    """
    resource = subject.around.once(ha_resources).get(subject.vmid) if _used(subject) else None
    if resource and resource.nodes:
        yield from _lacking(
            subject, resource.nodes, f"which {resource.said_by} names", "add a device of that node to it"
        )


def ha_anywhere(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether HA keeps the VM to the nodes on which its mappings have a device.

    It may start the VM on any node without a group or rule, or with one that is not strict (restricted).

    Why it matters: on a node without a device PVE refuses the start, and HA loses time before it tries another.

    How to fix: make a strict node affinity rule (a restricted group before PVE 9) of the nodes that have a device.
    """
    resource = subject.around.once(ha_resources).get(subject.vmid) if _used(subject) else None
    if resource and not resource.strict:
        others = tuple(name for name in subject.around.once(_nodes) if name not in resource.nodes)
        hint = "keep the VM to the nodes that have a device: a strict node affinity rule, or a restricted group"
        yield from _lacking(subject, others, "where HA may start the VM", hint)


def _lacking(subject: Subject, nodes: tuple[str, ...], why: str, hint: str) -> Iterator[Hit]:
    """Entries whose mapping has no device on one of these nodes of the cluster, this one left out."""
    real = [name for name in subject.around.once(_nodes) if name in nodes and name != subject.node]
    for entry, mapping in _used(subject):
        there = {other.node for other in mapping.entries}
        missing = [name for name in real if name not in there]
        if missing:
            message = f"mapping {mapping.name} has no device on {listed(missing)}, {why}"
            yield Hit(subject.at(entry.key, entry.line), message, hint)


def ha_with_address(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a VM that HA may start on other nodes names its devices by mappings.

    Why it matters: an address is a place in this node. On another it is another device, or none; HA cannot move the VM
    there while it runs.

    How to fix: make a mapping with a device of each node, and write `mapping=NAME` instead of the address.
    """
    resource = subject.around.once(ha_resources).get(subject.vmid) if subject.section.entries else None
    elsewhere = _elsewhere(subject, resource) if resource and not subject.config.template else ()
    for _, entry in sorted(subject.section.entries.items()) if elsewhere else ():
        if entry.host and not entry.mapping:
            message = f"HA may start the VM on {listed(elsewhere)}, where {shown(entry.host)} is another device or none"
            yield Hit(
                subject.at(entry.key, entry.line), message, "make a mapping with a device of each node, and use it"
            )


def ha_without_migration(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether HA can move the VM while it runs.

    For that its mappings must say `live-migration-capable`, which only few devices are.

    Why it matters: before maintenance of the node HA cannot migrate the VM: it must be shut down.

    How to fix: nothing, if that is known; if the device's vfio driver can migrate (mlx5_vfio_pci, NVIDIA vGPU), set
    the flag at the mapping.
    """
    resource = subject.around.once(ha_resources).get(subject.vmid) if _used(subject) else None
    if not resource or not _elsewhere(subject, resource):
        return
    names = dict.fromkeys(mapping.name for _, mapping in _used(subject) if not mapping.live_migration)
    if names:
        entry = next(entry for entry, mapping in _used(subject) if not mapping.live_migration)
        message = f"HA cannot migrate the VM while it runs: mapping {listed(names)} is not live-migration-capable"
        yield Hit(subject.at(entry.key, entry.line), message, "shut the VM down before maintenance of the node")


def cannot_migrate(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a device whose mapping says `live-migration-capable` gets a driver that can migrate.

    Why it matters: PVE binds the device of a plain entry to vfio-pci, which cannot: a live migration starts and fails.

    How to fix: write `driver=keep` and bind the device to its vendor's vfio driver, or clear the flag at the mapping.
    """
    passed = {device.index for device in subject.resolution.passed if device.bound_to_vfio}
    for entry, mapping in _used(subject):
        if mapping.live_migration and entry.index in passed:
            message = f"mapping {mapping.name} says live-migration-capable, and PVE binds its device to vfio-pci"
            hint = "write driver=keep and bind the vendor's vfio driver, or clear the flag at the mapping"
            yield Hit(subject.at(entry.key, entry.line), f"{message}, which cannot migrate", hint)


def order_against_policy(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a mapping's VFs stand in the order that the policy's placement needs.

    For `pack` all VFs of one GPU stand together; for `spread` the GPUs take turns.

    Why it matters: of VFs with NVIDIA's vendor interface PVE takes the first in the mapping's order that is free and
    offers the type. The hook cannot steer it to another, so the policy has no effect there by itself.

    How to fix: write the mapping's entries in the order that `pvepassthru mdev plan TYPE COUNT --mapping NAME` shows,
    or take the placement out of the policy.
    """
    for device in subject.resolution.passed:
        name = device.entry.mapping
        if not device.nvidia or name is None or len(device.alternatives) < 2:
            continue
        try:
            strategy = subject.around.policies.placement(name)
        except (InputError, UnsafeError):  # hosts.policy_unusable tells of that
            return
        kind = f"{capacity.VENDOR}{device.nvidia}"
        gpus = capacity.gpus(subject.inventory, [functions[0] for functions in device.alternatives])
        if strategy == "order" or _turns(gpus, [functions[0] for functions in device.alternatives]) == _turns(
            gpus, placement.order_of(gpus, strategy)
        ):
            continue
        message = f"the policy says {strategy} for mapping {name}, whose VFs PVE takes in another order"
        hint = f"pvepassthru mdev plan {kind} 1 --mapping {name} shows the order that they need"
        yield Hit(subject.at(device.entry.key, device.entry.line), message, hint)


def _turns(gpus: tuple[Gpu, ...], functions: Iterable[str]) -> list[str]:
    """The GPU of each of these functions."""
    owner = {place.address: gpu.address for gpu in gpus for place in gpu.places}
    return [owner[function] for function in functions]


def _used(subject: Subject) -> list[tuple[HostpciEntry, Mapping]]:
    """The entries that use a mapping that is there."""
    if subject.config.template:
        return []
    return [
        (entry, mapping)
        for _, entry in sorted(subject.section.entries.items())
        if entry.mapping and not entry.host and (mapping := subject.mappings.by_name.get(entry.mapping))
    ]


def _elsewhere(subject: Subject, resource: Resource) -> tuple[str, ...]:
    """The other nodes of the cluster on which HA may start the VM."""
    known = subject.around.once(_nodes)
    return tuple(name for name in known if name != subject.node and (not resource.strict or name in resource.nodes))
