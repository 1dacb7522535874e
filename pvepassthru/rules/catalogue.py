# SPDX-License-Identifier: Apache-2.0
"""All rules, with their codes. A code is never reused.

PVP1xx host, PVP2xx device, PVP3xx VM config, PVP4xx across VMs and cluster. Those that the hook asks stand in gate.py.
"""

from __future__ import annotations

from pvepassthru.model.finding import Finding
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.rules import (
    binding,
    competition,
    config,
    disks,
    drivers,
    functions,
    gate,
    gpus,
    groups,
    guests,
    hookscripts,
    initramfs,
    kernel,
    mappings,
    memory,
    modprobe,
    parameters,
    roms,
    services,
    settings,
    sharing,
    silence,
    versions,
    vfs,
    vgpus,
)
from pvepassthru.rules.rule import NotApplicable, Rule, Unknown, judge, of_host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Literal

    from pvepassthru.rules.subject import Hit, Subject, Surroundings

SEEN_FROM_HOST: dict[str, tuple[Callable[[Surroundings], Iterator[Hit]], str]] = {
    "PVP101": (kernel.no_iommu, "firmware"),
    "PVP102": (drivers.no_vfio_pci, "modules"),
    "PVP103": (services.reservations_unreadable, "PVE services"),
    "PVP104": (services.unreadable, "PVE services"),
    "PVP105": (services.policy_unusable, "PVE services"),
    "PVP253": (services.policy_moved, "PVE services"),
    "PVP411": (services.mappings_unreadable, "cluster"),
}
"""What `doctor` asks of the rules of the hook's gate, which itself does not pay for these modules."""


def _whole(rule: Rule) -> Rule:
    on_host, step = SEEN_FROM_HOST.get(rule.code, (None, None))
    return rule._replace(on_host=on_host, step=step) if on_host else rule


RULES: tuple[Rule, ...] = (
    *map(_whole, gate.RULES),
    # ---- the host: IOMMU, kernel, modules, services (rules/kernel.py and its fellows)
    of_host("PVP106", "error", "PVE services", services.no_pmxcfs),
    of_host("PVP107", "info", "PVE services", services.stale_reservations),
    of_host("PVP180", "info", "PVE services", services.no_recover_timer),
    of_host("PVP110", "error", "firmware", kernel.no_virtualization),
    of_host("PVP111", "error", "firmware", kernel.no_kvm),
    of_host("PVP112", "error", "firmware", kernel.no_iommu_table),
    of_host("PVP113", "warning", "firmware", kernel.unsigned_module),
    of_host("PVP114", "error", "kernel command line", parameters.intel_not_on),
    of_host("PVP115", "error", "kernel command line", parameters.switched_off),
    of_host("PVP116", "info", "kernel command line", parameters.without_effect),
    of_host("PVP117", "error", "kernel command line", parameters.wrong_case),
    of_host("PVP118", "warning", "kernel command line", parameters.misspelt),
    of_host("PVP119", "warning", "kernel command line", parameters.not_booted),
    of_host("PVP120", "warning", "kernel command line", parameters.loaders_disagree),
    of_host("PVP121", "warning", "kernel command line", parameters.acs_override),
    of_host("PVP122", "info", "kernel command line", parameters.efifb_off),
    of_host("PVP125", "error", "modules", drivers.no_vfio),
    of_host("PVP126", "info", "modules", modprobe.nothing_loads),
    of_host("PVP127", "info", "modules", drivers.gone_module),
    of_host("PVP128", "warning", "modules", drivers.unknown_module),
    of_host("PVP129", "error", "modules", drivers.ids_malformed),
    of_host("PVP130", "warning", "modules", drivers.ids_without_device),
    of_host("PVP131", "error", "modules", drivers.ids_hit_host),
    of_host("PVP132", "warning", "modules", drivers.ids_not_taken),
    of_host("PVP133", "info", "modules", drivers.ids_take_more),
    of_host("PVP134", "error", "modules", drivers.blacklist_hits_host),
    of_host("PVP135", "warning", "modules", drivers.blacklist_without_effect),
    of_host("PVP136", "warning", "modules", modprobe.ids_overridden),
    of_host("PVP137", "warning", "modules", modprobe.no_conf_suffix),
    of_host("PVP138", "warning", "modules", modprobe.bad_line),
    of_host("PVP139", "warning", "modules", modprobe.unknown_parameter),
    of_host("PVP140", "error", "modules", drivers.vfio_disabled),
    of_host("PVP141", "warning", "modules", modprobe.no_iommu_mode),
    of_host("PVP142", "error", "initramfs", initramfs.no_initramfs),
    of_host("PVP143", "warning", "initramfs", initramfs.stale_initramfs),
    of_host("PVP144", "error", "initramfs", initramfs.modules_gone),
    of_host("PVP145", "warning", "initramfs", initramfs.dkms_missing),
    of_host("PVP146", "info", "initramfs", initramfs.reboot_pending),
    Rule("PVP147", "error", "own", kernel.no_remapping, "no", kernel.host_remapping, "interrupt remapping"),
    of_host("PVP148", "warning", "interrupt remapping", kernel.unsafe_interrupts),
    of_host("PVP149", "info", "groups", groups.shared_group),
    of_host("PVP150", "warning", "groups", groups.vf_groups),
    Rule("PVP151", "error", "own", groups.firmware_memory, "no", groups.host_firmware_memory, "groups"),
    of_host("PVP152", "info", "groups", groups.kept_candidates),
    of_host("PVP154", "info", "GPU", groups.only_gpu),
    of_host("PVP155", "warning", "GPU", groups.two_drivers),
    of_host("PVP156", "warning", "SR-IOV", sharing.not_persistent),
    of_host("PVP157", "warning", "SR-IOV", sharing.two_makers),
    of_host("PVP158", "warning", "SR-IOV", sharing.other_number),
    of_host("PVP159", "warning", "SR-IOV", sharing.no_max_vfs),
    of_host("PVP160", "error", "SR-IOV", sharing.too_many),
    of_host("PVP161", "warning", "SR-IOV", sharing.sysfs_conf_line),
    of_host("PVP174", "warning", "SR-IOV", sharing.policy_not_at_boot),
    of_host("PVP175", "warning", "SR-IOV", sharing.other_than_policy),
    of_host("PVP162", "warning", "mediated devices", vgpus.gvt_off),
    of_host("PVP163", "warning", "mediated devices", vgpus.no_kvmgt),
    of_host("PVP164", "warning", "mediated devices", vgpus.gvt_generation),
    of_host("PVP165", "warning", "mediated devices", vgpus.guest_driver),
    of_host("PVP166", "warning", "mediated devices", vgpus.nvidia_units),
    of_host("PVP167", "warning", "mediated devices", vgpus.nvidia_vfs_off),
    of_host("PVP168", "warning", "mediated devices", vgpus.orphans),
    of_host("PVP169", "info", "mediated devices", vgpus.foreign),
    # ---- devices: state, reset, SR-IOV, drivers (rules/functions.py, rules/binding.py)
    Rule("PVP224", "error", "own", binding.kept_driver, hook="no"),
    Rule("PVP226", "warning", "own", functions.pf_down, hook="no"),
    of_host("PVP227", "warning", "SR-IOV", functions.vfs_missing),
    # ---- what the policy sets on devices (rules/settings.py)
    Rule("PVP257", "error", "own", settings.reset_not_offered, hook="no"),
    Rule("PVP258", "error", "own", settings.bar_not_offered, hook="no"),
    Rule("PVP259", "error", "own", settings.driver_not_usable, hook="no"),
    # ---- devices: state, reset, drivers
    Rule("PVP280", "error", "own", binding.bridge, hook="no"),
    Rule("PVP281", "warning", "own", functions.no_reset, hook="no"),
    Rule("PVP282", "warning", "own", functions.bus_reset_shared, hook="no"),
    Rule("PVP283", "warning", "own", functions.reset_bug, hook="no"),
    Rule("PVP284", "warning", "own", functions.vendor_reset_unused, hook="no"),
    Rule("PVP285", "warning", "own", functions.hanging_method, hook="no"),
    Rule("PVP286", "error", "own", functions.off_the_bus, hook="no"),
    Rule("PVP287", "info", "own", functions.narrow_link, hook="no"),
    Rule("PVP288", "warning", "own", functions.bar_unassigned, hook="no"),
    Rule("PVP289", "warning", "own", functions.fatal_errors, hook="no"),
    Rule("PVP291", "warning", "own", binding.in_use_on_host, hook="no"),
    Rule("PVP292", "info", "own", binding.shaky_driver, hook="no"),
    Rule("PVP294", "warning", "own", binding.group_shared, hook="no"),
    Rule("PVP298", "error", "own", binding.overridden, hook="no"),
    Rule("PVP299", "info", "own", vfs.made_at_start, hook="no"),
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
    # ---- VM configs: text (rules/config.py)
    Rule("PVP332", "warning", "own", config.replaced_line, hook="no"),
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
    Rule("PVP354", "error", "own", disks.disk_below, "no"),
    Rule("PVP360", "warning", "own", memory.balloon, "no"),
    Rule("PVP361", "error", "own", memory.too_much, "no"),
    Rule("PVP362", "warning", "own", memory.tight, "no"),
    Rule("PVP363", "error", "pve", memory.hugepages_without_numa, "no"),
    Rule("PVP364", "warning", "own", memory.hugepages_missing, "no"),
    Rule("PVP365", "info", "own", memory.remote_node, "no"),
    # ---- versions of PVE (rules/versions.py)
    Rule("PVP390", "error", "pve", versions.driver_unknown, hook="no"),
    Rule("PVP391", "error", "pve", versions.mapping_unknown, hook="no"),
    Rule("PVP392", "error", "pve", versions.machine_too_new, hook="no"),
    of_host("PVP393", "warning", "PVE services", versions.half_installed),
    # ---- the VM's hookscript (rules/hookscripts.py)
    Rule("PVP394", "error", "pve", hookscripts.hookscript_unusable, hook="no"),
    Rule("PVP395", "info", "own", hookscripts.hookscript_on_one_node, hook="no"),
    Rule("PVP396", "error", "own", hookscripts.chained_unusable, hook="no"),
    # ---- across VMs (rules/competition.py)
    Rule("PVP425", "error", "own", competition.both_start, hook="no"),
    Rule("PVP426", "info", "own", competition.by_turns, hook="no"),
    Rule("PVP427", "error", "own", competition.group_split_at_boot, hook="no"),
    Rule("PVP428", "warning", "own", competition.group_split, hook="no"),
    Rule("PVP429", "warning", "own", competition.few_instances, hook="no"),
    Rule("PVP430", "warning", "own", competition.few_vgpus, hook="no"),
    Rule("PVP431", "warning", "own", competition.other_size, hook="no"),
    Rule("PVP432", "warning", "own", competition.few_devices, hook="no"),
    Rule("PVP433", "warning", "own", competition.pf_is_passed, hook="no"),
    Rule("PVP434", "warning", "own", competition.parent_is_passed, hook="no"),
    Rule("PVP435", "warning", "own", competition.backup_starts, hook="no"),
    Rule("PVP436", "warning", "own", disks.disk_of_another, hook="no"),
    # ---- the cluster's files (rules/mappings.py)
    Rule("PVP412", "error", "pve", None, "no", mappings.drifted, "cluster"),
    of_host("PVP413", "warning", "cluster", mappings.in_two_mappings),
    of_host("PVP414", "warning", "cluster", mappings.twice_in_mapping),
    of_host("PVP415", "info", "cluster", mappings.mixed_models),
    of_host("PVP416", "warning", "cluster", mappings.unknown_nodes),
    of_host("PVP417", "warning", "cluster", hookscripts.chain_of_nobody),
    Rule("PVP335", "info", "own", mappings.order_against_policy, hook="no"),
    Rule("PVP450", "warning", "own", mappings.ha_without_entry, hook="no"),
    Rule("PVP451", "info", "own", mappings.ha_anywhere, hook="no"),
    Rule("PVP452", "warning", "own", mappings.ha_with_address, hook="no"),
    Rule("PVP453", "info", "own", mappings.ha_without_migration, hook="no"),
    Rule("PVP454", "warning", "own", mappings.cannot_migrate, hook="no"),
    _whole(gate.LAST),
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
    silenced = silence.of_host(silence.silences(around), found) if found else ()
    return HostState(rule, "findings" if found else "fine", silenced, "")
