# SPDX-License-Identifier: Apache-2.0
"""All rules, with their codes. A code is never reused.

PVP1xx host, PVP2xx device, PVP3xx VM config, PVP4xx across VMs and cluster. Those that the hook asks stand in gate.py.
"""

from __future__ import annotations

from pvepassthru.model.finding import Finding
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.rules import gate, gpus, guests, memory, roms
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
    # ---- GPUs on their host (rules/gpus.py, rules/memory.py)
    Rule("PVP273", "warning", "own", gpus.boot_gpu, "no"),
    Rule("PVP274", "warning", "own", gpus.framebuffer, "no", gpus.framebuffer_of_host, "GPU"),
    Rule("PVP275", "info", "own", gpus.companions, "no"),
    Rule("PVP276", "warning", "own", memory.large_bars, "no"),
    Rule("PVP277", "warning", "own", gpus.mixed_vgpus, "no"),
    # ---- VM configs: advice (rules/gpus.py, rules/guests.py, rules/memory.py)
    Rule("PVP340", "info", "own", gpus.on_i440fx, "no"),
    Rule("PVP341", "info", "own", gpus.without_pcie, "no"),
    Rule("PVP342", "info", "own", gpus.old_q35, "no"),
    Rule("PVP343", "warning", "own", gpus.x_vga_twice, "no"),
    Rule("PVP344", "warning", "own", gpus.x_vga_with_display, "no"),
    Rule("PVP345", "error", "own", gpus.x_vga_without_vga, "no"),
    Rule("PVP346", "warning", "own", gpus.gpu_not_first, "no"),
    Rule("PVP347", "info", "own", gpus.no_firmware_picture, "no"),
    Rule("PVP348", "warning", "own", guests.blind, "no"),
    Rule("PVP349", "warning", "own", guests.no_efidisk, "no"),
    Rule("PVP350", "warning", "own", guests.passed_by_args, "no"),
    Rule("PVP351", "info", "own", guests.cpu_by_args, "no"),
    Rule("PVP352", "info", "own", guests.template, "no"),
    Rule("PVP353", "warning", "own", guests.usb_below, "no"),
    Rule("PVP354", "error", "own", guests.disk_below, "no"),
    Rule("PVP360", "warning", "own", memory.balloon, "no"),
    Rule("PVP361", "error", "own", memory.too_much, "no"),
    Rule("PVP362", "warning", "own", memory.tight, "no"),
    Rule("PVP363", "error", "pve", memory.hugepages_without_numa, "no"),
    Rule("PVP364", "warning", "own", memory.hugepages_missing, "no"),
    Rule("PVP365", "info", "own", memory.remote_node, "no"),
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
