# SPDX-License-Identifier: Apache-2.0
"""The rules that the hook asks at pre-start, in the order of their findings.

Every start of a VM with passthrough waits for them: what they import, and read of a host, is paid then.
"""

from __future__ import annotations

from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.rules import cluster, config, critical, devices, hosts
from pvepassthru.rules.rule import Rule, judge

if TYPE_CHECKING:
    from pvepassthru.model.finding import Finding
    from pvepassthru.rules.subject import Subject

RULES: tuple[Rule, ...] = (
    Rule("PVP101", "error", "pve", hosts.no_iommu),
    Rule("PVP102", "error", "pve", hosts.no_vfio_pci),
    Rule("PVP103", "error", "own", hosts.reservations_unreadable),
    Rule("PVP105", "error", "own", hosts.policy_unusable, hook="itself"),
    Rule("PVP201", "error", "pve", devices.not_found),
    Rule("PVP202", "error", "pve", devices.assigned_twice),
    Rule("PVP203", "error", "pve", devices.none_free),
    Rule("PVP204", "error", "pve", devices.info_unreadable),
    Rule("PVP205", "error", "pve", devices.no_group),
    Rule("PVP210", "error", "pve", devices.mdev_unsupported),
    Rule("PVP211", "error", "pve", devices.mdev_type_unknown),
    Rule("PVP212", "error", "pve", devices.mdev_no_instance),
    Rule("PVP213", "error", "pve", devices.mdev_uuid_taken),
    Rule("PVP214", "warning", "own", devices.mdev_kept_driver, hook="warns"),
    Rule("PVP215", "error", "own", devices.mdev_parent_passed, hook="warns"),
    Rule("PVP220", "error", "pve", devices.vgpu_no_sysfs),
    Rule("PVP221", "error", "pve", devices.vgpu_type_not_on_offer),
    Rule("PVP222", "error", "pve", devices.vgpu_no_alternative),
    Rule("PVP223", "warning", "own", devices.vgpu_other_type, hook="warns"),
    Rule("PVP230", "error", "own", devices.rom_outside),
    Rule("PVP231", "error", "own", devices.rom_absent),
    Rule("PVP232", "error", "own", devices.rom_unreadable),
    Rule("PVP233", "error", "own", devices.rom_empty),
    Rule("PVP240", "error", "own", critical.mounted),
    Rule("PVP241", "error", "own", critical.swapped),
    Rule("PVP242", "error", "own", critical.volumes),
    Rule("PVP243", "error", "own", critical.pools),
    Rule("PVP244", "error", "own", critical.arrays),
    Rule("PVP245", "error", "own", critical.default_route),
    Rule("PVP246", "error", "own", critical.bridge_port),
    Rule("PVP247", "error", "own", critical.functions_in_use),
    Rule("PVP248", "error", "own", critical.cannot_tell),
    Rule("PVP249", "warning", "own", critical.members, hook="warns"),
    Rule("PVP250", "warning", "own", critical.functions_vanish, hook="warns"),
    Rule("PVP251", "warning", "own", critical.mdevs_vanish, hook="warns"),
    Rule("PVP252", "warning", "own", critical.networks, hook="warns"),
    Rule("PVP253", "warning", "own", hosts.policy_moved, hook="warns"),
    Rule("PVP256", "error", "own", devices.in_quarantine),
    Rule("PVP301", "error", "pve", config.bad_pattern),
    Rule("PVP302", "error", "pve", config.bad_format),
    Rule("PVP303", "error", "pve", config.duplicate_key),
    Rule("PVP304", "error", "pve", config.missing_key),
    Rule("PVP305", "error", "pve", config.unknown_key),
    Rule("PVP306", "error", "pve", config.bad_boolean),
    Rule("PVP307", "error", "pve", config.bad_enum),
    Rule("PVP308", "error", "pve", config.no_such_key),
    Rule("PVP309", "warning", "own", config.ignored_line, hook="warns"),
    Rule("PVP310", "error", "pve", config.pcie_needs_q35),
    Rule("PVP311", "error", "pve", config.machine_invalid),
    Rule("PVP312", "warning", "pve", config.other_dropped, hook="warns"),
    Rule("PVP313", "warning", "pve", config.pending_dropped, hook="warns"),
    Rule("PVP314", "error", "pve", config.host_or_mapping),
    Rule("PVP315", "error", "pve", config.host_and_mapping),
    Rule("PVP316", "error", "pve", config.mdev_with_multifunction),
    Rule("PVP320", "error", "pve", config.igd_twice),
    Rule("PVP321", "error", "pve", config.igd_vga),
    Rule("PVP322", "error", "pve", config.igd_rombar),
    Rule("PVP323", "error", "pve", config.igd_x_vga),
    Rule("PVP324", "error", "pve", config.igd_mdev),
    Rule("PVP325", "error", "pve", config.igd_q35),
    Rule("PVP326", "error", "pve", config.igd_multifunction),
    Rule("PVP327", "error", "pve", config.igd_alternatives),
    Rule("PVP328", "error", "pve", config.igd_address),
    Rule("PVP330", "error", "own", config.unreadable, hook="warns"),
    Rule("PVP331", "warning", "own", config.no_config, hook="warns"),
    Rule("PVP401", "error", "pve", cluster.mapping_not_found),
    Rule("PVP402", "error", "pve", cluster.mapping_not_on_node),
    Rule("PVP403", "error", "pve", cluster.mapping_device_not_found),
    Rule("PVP404", "error", "pve", cluster.mapping_id),
    Rule("PVP405", "error", "pve", cluster.mapping_subsystem),
    Rule("PVP406", "error", "pve", cluster.mapping_group),
    Rule("PVP407", "error", "pve", cluster.mapping_mdev),
    Rule("PVP408", "error", "pve", cluster.mapping_missing_property),
    Rule("PVP409", "error", "pve", cluster.mapping_unexpected_property),
    Rule("PVP410", "warning", "pve", cluster.mapping_line_skipped, "warns", cluster.lines_skipped, "cluster"),
    Rule("PVP411", "error", "own", hosts.mappings_unreadable),
    Rule("PVP420", "error", "pve", cluster.in_use),
    Rule("PVP421", "error", "pve", cluster.starting),
    Rule("PVP422", "error", "pve", cluster.all_taken),
    Rule("PVP423", "error", "own", cluster.group_in_use),
    Rule("PVP424", "error", "own", cluster.open_elsewhere),
)
LAST = Rule("PVP104", "warning", "own", hosts.unreadable, hook="warns")
"""Asked after all others: it tells what they could not read."""


ALL = ("PVP",)
"""How the codes of all rules begin."""


def findings(subject: Subject, codes: tuple[str, ...] = ALL) -> list[Finding]:
    """What the hook has to say of a VM, by the rules whose codes begin so: an error refuses its start.

    An error of a rule that only warns becomes a warning.
    """
    asked = tuple([rule for rule in (*RULES, LAST) if rule.hook != "itself" and rule.code.startswith(codes)])
    warns = {rule.code for rule in asked if rule.hook == "warns"}
    return [
        finding._replace(severity="warning") if finding.code in warns and finding.severity == "error" else finding
        for finding in judge(asked, subject)
    ]
