# SPDX-License-Identifier: Apache-2.0
"""Whether a mapping still describes the hardware of this node. Source: behaviour of pve-guest-common's checks.

PVE checks every entry of this node, and refuses all of them when one does not fit.
"""

from __future__ import annotations

from pvepassthru.model.mapping import instead
from pvepassthru.model.problem import Problem, is_mdev_capable, plain_id, readable
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import listed, shown

if TYPE_CHECKING:
    from pvepassthru.model.hostpci import HostpciEntry
    from pvepassthru.model.mapping import MapEntry, Mapping, Mappings
    from pvepassthru.model.problem import Hardware

UPDATE = "see what changed, then update the mapping (Datacenter, Resource Mappings)"
_MISMATCH = {
    "id": "mapping-id-mismatch",
    "iommugroup": "mapping-iommugroup-mismatch",
    "subsystem-id": "mapping-subsystem-mismatch",
}


def find(  # noqa: PLR0913, PLR0917 - what it depends on, and where it tells
    mappings: Mappings,
    entry: HostpciEntry,
    node: str,
    hardware: Hardware,
    problems: list[Problem],
    fitting: set[str],
) -> Mapping | None:
    """The mapping of an entry if it has devices on `node` and all are there; what is wrong goes to `problems`.

    Mappings in `fitting` have been found to fit this hardware; one that does is added.
    """
    name = entry.mapping or ""
    mapping = mappings.by_name.get(name)
    if mapping is None:
        message = f"there is no mapping {shown(name)}"
        problems.append(Problem("mapping-not-found", entry.key, entry.line, message, instead(name, mappings.by_name)))
        return None
    if name in fitting:
        return mapping
    here = mapping.on(node)
    if not here:
        skipped = [bad for bad in mappings.bad_lines if bad.name == name]
        others = sorted({other.node for other in mapping.entries})
        hint = f"it has devices on {listed(others) or 'no node'}; add one of {node}"
        if skipped:
            hint = f"PVE skips line {skipped[0].line} of it: {skipped[0].message}"
        message = f"mapping {name} has no device on node {node}"
        problems.append(Problem("mapping-not-on-node", entry.key, entry.line, message, hint))
        return None
    wrong = [problem for other in here for problem in check(mapping, other, hardware, entry.key, entry.line)]
    problems += wrong
    if not wrong:
        fitting.add(name)
    return None if any(problem.code == "mapping-device-not-found" for problem in wrong) else mapping


def check(mapping: Mapping, here: MapEntry, hardware: Hardware, key: str, line: int | None) -> list[Problem]:
    """What does not fit in one entry of a mapping, said of a VM's key and its line where one asks."""
    found = []

    def refuse(code: str, message: str, hint: str, device: str | None = None) -> None:
        where = f"mapping {mapping.name}" + (f" (line {here.line} of pci.cfg)" if here.line else "")
        found.append(Problem(code, key, line, f"{where}: {message}", hint, device))

    for number, path in enumerate(here.paths):
        address = path if "." in path else f"{path}.0"  # a whole device is checked on its function 0
        known = address in hardware.in_slot(address.partition(".")[0])
        unreadable = readable(hardware, address) if known else None
        if not known:
            refuse("mapping-device-not-found", f"there is no PCI device {shown(address)}", UPDATE, path)
            continue
        if unreadable:
            message = f"{address} has no usable {unreadable} in sysfs, so PVE takes it for absent"
            refuse("mapping-device-not-found", message, "see what the kernel log says of the device")
            continue
        group = hardware.group(address)
        device = {
            "id": plain_id(hardware, address, "vendor", "device"),
            "iommugroup": None if group is None else str(group),
            "subsystem-id": plain_id(hardware, address, "subsystem_vendor", "subsystem_device"),
        }
        configured = {"id": here.id, "iommugroup": here.iommugroup, "subsystem-id": here.subsystem_id}
        for name, code in _MISMATCH.items():
            says, has = configured[name], device[name]
            if says == has or (name == "iommugroup" and number > 0):
                continue
            if says is None:
                refuse("mapping-missing-property", f"{name} is missing, and {address} has {has}", f"add {name}={has}")
            elif has is None:
                message = f"{name}={says} is given, and {address} has none"
                refuse("mapping-unexpected-property", message, f"remove {name}={says}, or see why the device has none")
            else:
                hint = f"write {name}={has}" if says.lower() == has else UPDATE
                refuse(code, f"{name} is {says}, and {address} has {has}", hint)
        capable = is_mdev_capable(hardware, address)
        if capable != mapping.mdev:
            does = "has mediated devices" if capable else "has no mediated devices"
            hint = (
                "add the line: mdev 1" if capable else "remove the line mdev 1, or load the driver that provides them"
            )
            refuse("mapping-mdev-mismatch", f"mdev is {int(mapping.mdev)}, and {address} {does}", hint)
    return found
