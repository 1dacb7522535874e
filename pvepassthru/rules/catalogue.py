# SPDX-License-Identifier: Apache-2.0
"""All rules, with their codes. A code is never reused.

PVP1xx host, PVP2xx device, PVP3xx VM config, PVP4xx across VMs and cluster. Those that the hook asks stand in gate.py.
"""

from __future__ import annotations

from pvepassthru.model.finding import Finding
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.rules import gate, roms
from pvepassthru.rules.rule import NotApplicable, Rule, Unknown, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Literal

    from pvepassthru.rules.subject import Hit, Subject, Surroundings

RULES: tuple[Rule, ...] = (
    *gate.RULES,
    # ---- the host: IOMMU, kernel, modules, services (rules/kernel.py and its fellows)
    # ---- devices: state, reset, SR-IOV (rules/functions.py)
    # ---- ROM images (rules/roms.py)
    Rule("PVP260", "warning", "own", roms.not_a_rom, "no"),
    Rule("PVP261", "warning", "own", roms.vendor_header, "no"),
    Rule("PVP262", "warning", "own", roms.malformed, "no"),
    Rule("PVP263", "warning", "own", roms.truncated, "no"),
    Rule("PVP264", "warning", "own", roms.no_last, "no"),
    Rule("PVP265", "warning", "own", roms.other_device, "no"),
    Rule("PVP266", "warning", "own", roms.no_efi_image, "no"),
    Rule("PVP267", "warning", "own", roms.no_legacy_image, "no"),
    Rule("PVP268", "warning", "own", roms.bad_checksum, "no"),
    Rule("PVP269", "warning", "own", roms.hidden, "no"),
    Rule("PVP270", "warning", "own", roms.too_large, "no"),
    Rule("PVP271", "warning", "own", roms.wrong_machine, "no"),
    # ---- VM configs: advice (rules/guests.py)
    # ---- versions of PVE (rules/versions.py)
    # ---- across VMs (rules/competition.py)
    # ---- the cluster's files (rules/mappings.py)
    gate.LAST,
)
BY_CODE = {rule.code: rule for rule in RULES}


def findings(subject: Subject) -> list[Finding]:
    """What the rules find of a VM, in the order of RULES."""
    return judge(RULES, subject)


class HostState(NamedTuple):
    """What one rule says of the host."""

    rule: Rule
    state: Literal["fine", "findings", "unknown", "not applicable"]
    findings: tuple[Finding, ...]
    why: str
    """Of unknown and not applicable: why."""


def host_states(around: Surroundings) -> list[HostState]:
    """What each rule on the host says, in the order of RULES."""
    return [_host_state(rule, rule.on_host, around) for rule in RULES if rule.on_host]


def _host_state(rule: Rule, check: Callable[[Surroundings], Iterator[Hit]], around: Surroundings) -> HostState:
    found: list[Finding] = []
    try:
        found.extend(Finding(rule.code, rule.severity, rule.origin, *hit) for hit in check(around))
    except (Unknown, NotApplicable) as reason:
        if not found:
            return HostState(rule, "unknown" if isinstance(reason, Unknown) else "not applicable", (), str(reason))
    return HostState(rule, "findings" if found else "fine", tuple(found), "")
