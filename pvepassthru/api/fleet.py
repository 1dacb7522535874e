# SPDX-License-Identifier: Apache-2.0
"""What the rules say of all VMs of a cluster, each on its own node, and of its mappings; by the API alone.

The rules are those of `validate` on a node, as far as the API tells what they need (api/mirror.py).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import cluster, hardware, mirror, selection, survey
from pvepassthru.api import nodes as places
from pvepassthru.host import vms as vms_of_host
from pvepassthru.model.errors import ApiDeniedError
from pvepassthru.model.finding import Finding
from pvepassthru.model.text import listed
from pvepassthru.rules import catalogue
from pvepassthru.rules import subject as subjects
from pvepassthru.rules.rule import NotApplicable, Unknown
from pvepassthru.rules.subject import Surroundings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pvepassthru.api.client import Client
    from pvepassthru.api.hardware import Answer, NodeHardware
    from pvepassthru.api.present import Present
    from pvepassthru.api.survey import Failure, NodeVms, Overview
    from pvepassthru.host.host import Host
    from pvepassthru.rules.rule import Rule

OF_A_NODE = "PVP412"
"""The rule of the cluster's that is about one node's hardware; the others are about the mappings alone."""
_CLUSTER = tuple(rule for rule in catalogue.RULES if rule.on_host and rule.step == "cluster")


class Judged(NamedTuple):
    """A VM with what the rules find of it at its next start."""

    node: str
    vmid: int
    running: bool
    findings: tuple[Finding, ...]


class OfMappings(NamedTuple):
    """What the rules find of the cluster's mappings."""

    node: str | None
    """Whose hardware it is about; None: of no node's."""
    finding: Finding


class Report(NamedTuple):
    """What the rules say of a cluster."""

    nodes: tuple[str, ...]
    """Those that were asked for, sorted."""
    vms: tuple[Judged, ...]
    """By node, then by VMID; only VMs with something to judge, as a hostpci entry."""
    mappings: tuple[OfMappings, ...]
    failures: tuple[Failure, ...]
    """What could not be looked at, by node; nothing is known of it."""
    read: int
    """VMs that were checked, those with nothing to judge among them."""
    notes: tuple[str, ...] = ()
    """What else may be, and is not known."""


def validate(
    client: Client,
    nodes: Iterable[str] = (),
    *,
    jobs: int = survey.JOBS,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """What the rules find of all VMs of these nodes, or of all nodes, and of the mappings.

    With up to `jobs` requests at a time: one a VM, and few a node. `progress` is told how many VMs of how many were
    looked at. Raises ApiError when the cluster itself cannot be read (that needs Sys.Audit on /), ApiMissingError for a
    node that is none, UsageError for a number of jobs that cannot be; what fails of single nodes and VMs is in the
    report.
    """
    known = survey.overview(client)
    hidden = survey.unseen(client)
    names = places.chosen(known.nodes, nodes)
    judge = _Judge(client, known)
    found = survey.walk(
        client,
        known.some(names),
        known.vms.values(),
        judge.node,
        matters=matters,
        held=True,
        jobs=jobs,
        progress=progress,
    )
    everywhere = [OfMappings(None, finding) for finding in _of_mappings(judge.bare, only=False)]
    failures = sorted([*found.failures, *judge.failures], key=lambda failure: (failure.node or "", failure.vmid or 0))
    return Report(
        names,
        tuple(vm for vms, _ in found.found for vm in vms),
        (*everywhere, *(of_node for _, mappings in found.found for of_node in mappings)),
        tuple(failures),
        found.read,
        (f"{hidden.message}, which are not checked; {hidden.hint}",) if hidden else (),
    )


def matters(options: Answer) -> bool:
    """Whether the rules may have something to say of a VM: it passes devices, or has options that may be at odds."""
    if any(key.startswith("hostpci") for key in options):
        return True
    return "vfio-pci" in str(options.get("args", "")) or "=" in str(options.get("machine", ""))


class _Judge:
    """Judges nodes, each in whatever thread has read the last of its VMs."""

    def __init__(self, client: Client, known: Overview) -> None:
        self.client = client
        self.known = known
        self.common = mirror.cluster_files(known.mappings, known.cluster)
        nothing = hardware.build(min(known.nodes, default="localhost"), ())
        self.bare = Surroundings(mirror.host(nothing, known.mappings, (), common=self.common))
        """A node of which nothing is known but what it has in common with the others."""
        self.mappings = self.bare.mappings_read
        """As the rules read them: all nodes have the same."""
        self.failures: list[Failure] = []
        self._lock = threading.Lock()
        self._sees_all: bool | None = None

    def node(self, vms: NodeVms) -> tuple[tuple[Judged, ...], tuple[OfMappings, ...]]:
        """The findings of a node's VMs, and those of the mappings about its hardware. Raises ApiError."""
        names = self.known.mappings.by_name.values()
        if not vms.presents and not any(mapping.on(vms.name) for mapping in names):
            return (), ()
        presents = [present for present in vms.presents if not self._hidden(present)]
        untold: set[str] = set()

        def parents(functions: NodeHardware) -> tuple[str, ...]:
            entries = [entry for present in presents for entry in present.section.entries.values()]
            told = mirror.asked(functions, selection.parents(entries, functions, self.known.mappings))
            untold.update(functions.functions.keys() - told)
            return told

        functions = cluster.node_hardware(self.client, vms.name, parents)
        host = mirror.host(
            functions,
            self.known.mappings,
            presents,
            running=vms.running,
            untold=untold,
            common=self.common,
        )
        around = Surroundings(host)
        around.mappings_read = self.mappings
        for present in presents:
            if not present.section.dropped and not present.config.has_pending:  # else it was parsed from another text
                around.know(vms_of_host.config_path(present.vmid), present.text, present.config)
        judged = tuple(self._vm(host, around, present, vms) for present in presents if matters(present.values))
        return judged, tuple(OfMappings(vms.name, finding) for finding in _of_mappings(around, only=True))

    def _vm(self, host: Host, around: Surroundings, present: Present, vms: NodeVms) -> Judged:
        subject = subjects.load(host, present.vmid, pending=True, around=around)
        return Judged(vms.name, present.vmid, present.vmid in vms.running, mirror.findings(subject))

    def _hidden(self, present: Present) -> bool:
        """Whether a VM uses a mapping that this user may not see, so that nobody can judge it; a failure then."""
        used = {entry.mapping for entry in present.section.entries.values() if entry.mapping}
        unseen = sorted(used - self.known.mappings.by_name.keys())
        if not unseen:
            return False
        with self._lock:
            if self._sees_all is None:
                self._sees_all = survey.sees_all_mappings(self.client)
            if not self._sees_all:
                error = ApiDeniedError(
                    f"{self.client.user} sees no mapping {listed(unseen)}, which it uses",
                    "seeing all mappings needs Mapping.Audit on /mapping/pci",
                )
                self.failures.append(survey.Failure(present.node, present.vmid, error))
            return not self._sees_all


def _of_mappings(around: Surroundings, *, only: bool) -> Iterable[Finding]:
    """What the rules on the cluster find: only that about this node's hardware, or all else."""
    for rule in _CLUSTER:
        if (rule.code == OF_A_NODE) == only:
            yield from _asked(rule, around)


def _asked(rule: Rule, around: Surroundings) -> list[Finding]:
    if rule.on_host is None:
        return []
    try:
        hits = list(rule.on_host(around))
    except (Unknown, NotApplicable):
        return []
    return [mirror.plain(Finding(rule.code, rule.severity, rule.origin, *hit)) for hit in hits]
