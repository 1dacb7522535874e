# SPDX-License-Identifier: Apache-2.0
"""Whether the cluster's mappings still describe the nodes' hardware, and whether VMs can use them.

What fits is decided as everywhere (model/mapped.py, and the rules on mappings); PVE's own `check-node` is asked beside
it. Sources: cluster/mapping/pci, nodes/N/hardware/pci, the configs of the VMs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import cluster, mapping_use, mappings, survey
from pvepassthru.api import nodes as places
from pvepassthru.api.hardware import build
from pvepassthru.model import mapped
from pvepassthru.model.errors import ApiCertificateError, ApiError
from pvepassthru.model.text import listed, one_line, shown
from pvepassthru.rules import mappings as rules
from pvepassthru.rules.catalogue import BY_CODE

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

    from pvepassthru.api.client import Client
    from pvepassthru.api.hardware import NodeHardware
    from pvepassthru.api.mappings import Stored
    from pvepassthru.api.nodes import Nodes
    from pvepassthru.api.present import Present
    from pvepassthru.model.errors import PassthruError
    from pvepassthru.model.finding import Origin, Severity
    from pvepassthru.model.hostpci import HostpciEntry
    from pvepassthru.model.mapping import MapEntry, Mapping
    from pvepassthru.model.problem import Problem
    from pvepassthru.rules.subject import Hit

CODES = {
    "mapping-not-found": "PVP401",
    "mapping-not-on-node": "PVP402",
}
"""The rules that find of a VM what is found here of all VMs."""
DRIFTED = "PVP412"
SEVERITIES = ("error", "warning", "info")


class Drift(NamedTuple):
    """One finding. Its JSON shape is these fields by name (docs/json.md)."""

    code: str | None
    """The rule that finds the same on a node, for `pvepassthru explain`; None where there is none."""
    severity: Severity
    origin: Origin
    mapping: str
    node: str | None
    vmid: int | None
    message: str
    hint: str


class Report(NamedTuple):
    """What was found."""

    drifts: tuple[Drift, ...]
    """By mapping, the worst first, and node."""
    mappings: tuple[str, ...]
    """Those that were looked at."""
    nodes: tuple[str, ...]
    """Those that answered."""
    unread: dict[str, PassthruError]
    """Why the other nodes, and VMs (`VM 100`), could not be read."""

    @property
    def wrong(self) -> bool:
        """Whether there is an error among it."""
        return any(drift.severity == "error" for drift in self.drifts)


def check(client: Client, names: Sequence[str] = (), nodes: Sequence[str] = (), *, vms: bool = True) -> Report:
    """What is wrong with these mappings, or all, on these nodes, or all.

    With `vms` the config of each VM there is read, one request a VM. Raises ApiMissingError for a mapping or node that
    is not there, and ApiError when no node can be read.
    """
    stored = mappings.read(client)
    for name in names:
        mappings.need(stored, name)
    seen = places.read(client, nodes)
    wanted = {name: stored[name] for name in sorted(names or stored)}
    unread: dict[str, PassthruError] = dict(seen.unread)
    found = list(_of_mappings(wanted, stored, seen))
    for node in seen.hardware:
        found += _by_pve(client, node, wanted, {drift.mapping for drift in found if drift.node == node}, unread)
    if vms:
        presents = _presents(client, seen, unread)
        found += _of_vms(client, presents, stored, wanted, every=not names)
        if seen.everywhere and not unread:
            found += _unused(client, presents, wanted)
    ordered = sorted(
        found, key=lambda one: (one.mapping, SEVERITIES.index(one.severity), one.node or "", one.vmid or 0)
    )
    return Report(tuple(ordered), tuple(wanted), tuple(sorted(seen.hardware)), unread)


# ---- mappings against hardware


def _of_mappings(wanted: dict[str, Stored], stored: dict[str, Stored], seen: Nodes) -> Iterator[Drift]:
    for name, one in wanted.items():
        mapping = one.mapping
        for node, hardware in sorted(seen.hardware.items()):
            here = mapping.on(node)
            for entry in here:
                for problem in mapped.check(mapping, entry, hardware, name, None):
                    hint = _hint(mapping, entry, problem, hardware)
                    yield Drift(DRIFTED, "error", "pve", name, node, None, problem.message, hint)
            if not here and mapping.entries:
                message = f"mapping {name} has no device on node {node}, so no VM with it can start there"
                yield Drift(None, "info", "own", name, node, None, message, _absent(mapping, hardware, stored))
        if not mapping.entries:
            message = f"mapping {name} has no device at all"
            yield Drift(None, "warning", "own", name, None, None, message, f"pvepassthru mapping remove {name}")
    every = [one.mapping for one in stored.values()]
    yield from _by_rule("PVP413", rules.shared_by(every), wanted)
    yield from _by_rule("PVP414", _of_one(rules.repeated_devices(every)), wanted)
    yield from _by_rule("PVP415", _of_one(rules.models_apart(every)), wanted)
    yield from _by_rule("PVP416", _of_one(rules.foreign_nodes(every, seen.known)), wanted)


def _of_one(hits: Iterable[Hit]) -> Iterator[tuple[Hit, tuple[str, ...]]]:
    """What is found of one mapping each, with its name."""
    return ((hit, (hit.where.rpartition(" ")[2],)) for hit in hits)


def _by_rule(code: str, hits: Iterable[tuple[Hit, tuple[str, ...]]], wanted: Container[str]) -> Iterator[Drift]:
    """What a rule on mappings finds of those that are wanted; of several, it is told once, of the first of them."""
    rule = BY_CODE[code]
    for hit, names in hits:
        name = next((one for one in names if one in wanted), None)
        if name is not None:
            yield Drift(code, rule.severity, rule.origin, name, None, None, hit.message, hit.hint)


def _hint(mapping: Mapping, entry: MapEntry, problem: Problem, hardware: NodeHardware) -> str:
    """What to do about an entry that does not fit: where its device is by now, if there is one like it."""
    plan = f"pvepassthru mapping plan {mapping.name} --node {hardware.node} shows the way"
    if problem.code not in {"mapping-device-not-found", "mapping-id-mismatch", "mapping-subsystem-mismatch"}:
        return f"{problem.hint}; {plan}"
    known = {address for other in mapping.on(hardware.node) for address in _described(other, hardware)}
    alike = [
        one.address
        for one in hardware.functions.values()
        if one.ids == entry.id.lower()
        and entry.subsystem_id in {None, _subsystem(one.attributes)}
        and one.address not in known
    ]
    if not alike:
        return f"node {hardware.node} has no other device {entry.id} that the mapping lacks; {problem.hint}"
    plan = f"pvepassthru mapping plan {_selection(mapping, hardware, alike)} --prune shows the way"
    return f"a device {entry.id} that the mapping lacks is at {listed(alike, 4)} of node {hardware.node} now; {plan}"


def _absent(mapping: Mapping, hardware: NodeHardware, stored: dict[str, Stored]) -> str:
    """What to do about a node on which a mapping has no device: how it gets one, if there is one like the others."""
    ids = list(dict.fromkeys(entry.id.lower() for entry in mapping.entries))
    alike = [one.address for one in hardware.functions.values() if one.ids in ids and one.group is not None]
    if not alike:
        return f"node {hardware.node} has no device {listed(ids, 4)}, so such VMs are to stay on the others"
    elsewhere = {
        address: name
        for name, other in stored.items()
        for entry in other.mapping.on(hardware.node)
        for address in hardware.reached(entry.paths)
    }
    free = [address for address in alike if address not in elsewhere]
    if not free:
        names = listed(sorted({elsewhere[address] for address in alike}))
        what = f"the devices {listed(ids, 4)} of node {hardware.node} are in mapping {names}"
        return f"{what}, so such VMs are to stay on the others"
    if len(free) < len(alike):  # the whole model would bring those of the other mapping, too
        return f"pvepassthru mapping plan {mapping.name} --node {hardware.node} --device {free[0]} --only"
    return f"pvepassthru mapping plan {_selection(mapping, hardware, alike)}"


def _selection(mapping: Mapping, hardware: NodeHardware, alike: Sequence[str]) -> str:
    """The words after `mapping plan` that select the first of these functions, with its like where that may be."""
    first = hardware.functions[alike[0]]
    word = first.address if hardware.in_doubt(first) else first.ids
    return f"{mapping.name} --node {hardware.node} --device {word}"


def _described(entry: MapEntry, hardware: NodeHardware) -> tuple[str, ...]:
    """The functions of an entry that are of its model, so that it may be made right where they are."""
    functions = hardware.reached(entry.paths)
    return functions if functions and hardware.functions[functions[0]].ids == entry.id.lower() else ()


def _subsystem(attributes: dict[str, str]) -> str:
    parts = (attributes.get(name, "").removeprefix("0x") for name in ("subsystem_vendor", "subsystem_device"))
    return ":".join(parts)


def _by_pve(
    client: Client, node: str, wanted: Iterable[str], told: set[str], unread: dict[str, PassthruError]
) -> Iterator[Drift]:
    """What PVE's own check says of a node's mappings, where nothing was found that says more."""
    try:
        answer = cluster.rows(client, mappings.PATH, **{"check-node": node})
    except ApiError as error:
        unread.setdefault(node, error)
        return
    for entry in answer:
        name, checks = str(entry.get("id", "")), entry.get("checks")
        for one in checks if isinstance(checks, list) and name in wanted and name not in told else ():
            if isinstance(one, dict):
                severity: Severity = "error" if one.get("severity") == "error" else "warning"
                words = shown(one_line(" ".join(str(one.get("message", "")).split())))
                message = f"PVE says of mapping {name} on node {node}: {words}"
                plan = f"pvepassthru mapping plan {name} --node {node}"
                yield Drift(None, severity, "pve", name, node, None, message, plan)


# ---- mappings against VMs


def _presents(client: Client, seen: Nodes, unread: dict[str, PassthruError]) -> list[Present]:
    """The VMs with devices on the nodes that answered; what could not be read goes to `unread` with the reason."""
    nodes = [cluster.Node(name, online=True) for name in sorted(seen.hardware)]
    vms = cluster.vms(client).values()
    found = survey.walk(client, nodes, vms, lambda vms: vms.presents, matters=survey.passes, held=True)
    for failure in found.failures:
        if isinstance(failure.error, ApiCertificateError):  # nothing of the cluster is to be believed then
            raise failure.error
        unread[f"VM {failure.vmid}" if failure.vmid is not None else str(failure.node)] = failure.error
    return [present for presents in found.found for present in presents]


def _of_vms(
    client: Client, presents: Iterable[Present], stored: dict[str, Stored], wanted: Iterable[str], *, every: bool
) -> Iterator[Drift]:
    """VMs that name a mapping that is not there, or has no device on their node; PVE starts no template."""
    known = mappings.plain(stored)
    all_seen = client.is_root or survey.sees_all_mappings(client)
    for present in presents:
        for entry in () if present.config.template else _mapped(present):
            name = entry.mapping or ""
            there = name in stored
            if (name not in wanted and (there or not every)) or (there and stored[name].mapping.on(present.node)):
                continue
            problems: list[Problem] = []
            mapped.find(known, entry, present.node, build(present.node, ()), problems, set())
            for problem in problems:
                seen = "" if there or all_seen else f", as far as {client.user} sees"
                message = f"VM {present.vmid} {entry.key}: {problem.message}{seen}"
                yield Drift(
                    CODES[problem.code], "error", "pve", name, present.node, present.vmid, message, problem.hint
                )


def _unused(client: Client, presents: Iterable[Present], wanted: Iterable[str]) -> Iterator[Drift]:
    """Mappings that no VM uses from its next start on."""
    uses = [use for present in presents for use in mapping_use.of_vm(present, running=True)]
    for name in wanted:
        theirs = [use for use in uses if use.mapping == name]
        if all(use.leaving for use in theirs):
            until = sorted({use.vmid for use in theirs})
            message = f"no VM that {client.user} sees uses mapping {name}"
            message += f", but VM {listed(until)} until it stops" if until else ""
            hint = f"if nobody needs it: pvepassthru mapping remove {name}"
            hint = f"stop VM {listed(until)} first; then {hint}" if until else hint
            yield Drift(None, "info", "own", name, None, None, message, hint)


def _mapped(present: Present) -> list[HostpciEntry]:
    """The entries by a mapping that a VM has at its next start."""
    return [entry for _, entry in sorted(present.section.entries.items()) if entry.mapping and not entry.host]
