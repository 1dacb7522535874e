# SPDX-License-Identifier: Apache-2.0
"""One PCI function in full, for `devices ADDRESS`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvepassthru.cli.tables import print_fields
from pvepassthru.host import functions
from pvepassthru.host.inventory import DEVICES
from pvepassthru.model.errors import PassthruError
from pvepassthru.rules import catalogue, silence

if TYPE_CHECKING:
    from pvepassthru.host.host import Host
    from pvepassthru.host.inventory import Inventory
    from pvepassthru.host.pciids import PciIds
    from pvepassthru.rules.subject import Surroundings

UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
CONFIG = {
    True: "answers",
    False: "reads 0xFF everywhere: the device does not answer; it may have fallen off the bus",
    None: "not read",
}


def detail(around: Surroundings, ids: PciIds, row: dict[str, Any]) -> dict[str, Any]:
    """All that is known of a function, in the shape of docs/json.md; `row` is what the table says of it."""
    host, inventory, address = around.host, around.inventory, str(row["address"])
    folder = f"{DEVICES}/{address}"
    subsystem = ids.subsystem(row["vendor"], row["device"], row["subsystem_vendor"], row["subsystem_device"])
    asleep = row["power_state"] == "D3cold"
    override = inventory.attribute(address, "driver_override")
    return {
        **row,
        "subsystem_name": subsystem or ids.vendor(row["subsystem_vendor"]),
        "path": host.resolve(folder),
        "driver_override": None if override in {None, "", "(null)"} else override,
        "runtime_status": inventory.attribute(address, "power/runtime_status"),
        "group_members": inventory.group_members(address),
        "regions": [one._asdict() for one in functions.regions(inventory.attribute(address, "resource"))],
        "rom": inventory.has(address, "rom"),
        "boot_vga": {"1": True, "0": False}.get(inventory.attribute(address, "boot_vga") or ""),
        "aer": functions.errors(inventory, address),
        "answers": None if asleep or _suspended(inventory, address) else functions.answers(host, address),
        "virtual_functions": functions.virtual_functions(host, address),
        "types": _types(inventory, address),
        "interfaces": _interfaces(host, folder),
        "uses": [use._asdict() for use in around.uses.of(address)],
        "findings": _findings(around, address),
    }


def _suspended(inventory: Inventory, address: str) -> bool:
    return inventory.attribute(address, "power/runtime_status") in {"suspended", "suspending"}


def _types(inventory: Inventory, address: str) -> list[dict[str, Any]]:
    types = [{"type": one.id, "name": one.name, "available": one.available} for one in inventory.mdev_types(address)]
    offered = inventory.vgpu_creatable(address)
    return types + [{"type": f"nvidia-{key}", "name": name, "available": 1} for key, name in offered.items()]


def _interfaces(host: Host, folder: str) -> list[str]:
    """What the host's own drivers made of the function: network interfaces, disks, displays."""
    found = [f"net {name}" for name in host.names(f"{folder}/net")]
    found += [f"nvme {name}" for name in host.names(f"{folder}/nvme")]
    found += [f"drm {name}" for name in host.names(f"{folder}/drm") if "-" not in name]
    found += [f"sound {name}" for name in host.names(f"{folder}/sound")]
    return found + [name for name in host.names(folder) if name.startswith(("ata", "usb")) and name[-1:].isdecimal()]


def _findings(around: Surroundings, address: str) -> list[dict[str, Any]]:
    """What the rules on the host find that names the function."""
    try:
        states = catalogue.host_states(around)
    except PassthruError:  # doctor tells of it
        return []
    return [finding._asdict() for state in states for finding in state.findings if address in silence.named(finding)]


def print_detail(one: dict[str, Any]) -> None:
    """Print one function in full."""
    fields = [
        ("address", one["address"]),
        ("name", _named(one["vendor"], one["vendor_name"], one["device"], one["device_name"])),
        ("subsystem", _subsystem(one)),
        ("class", f"{one['class_name'] or 'unknown'} ({one['class'] or '?'})"),
        ("path", one["path"] or "-"),
        ("driver", _driver(one)),
        ("IOMMU group", _group(one)),
        ("reset methods", "not told by this kernel" if one["reset_methods"] is None else _listed(one["reset_methods"])),
        ("NUMA node", _value(one["numa_node"])),
        ("power", " ".join(filter(None, (one["power_state"], one["runtime_status"]))) or "-"),
        ("link", _link(one)),
        ("config space", "not read, since that would wake it" if _sleeps(one) else CONFIG[one["answers"]]),
        ("regions", "\n".join(map(_region, one["regions"])) or "-"),
        ("ROM", ("has one" if one["rom"] else "none") + ("; the host's boot display" if one["boot_vga"] else "")),
        ("PCIe errors", _errors(one["aer"])),
        ("SR-IOV", _sriov(one)),
        ("mdev types", "\n".join(map(_type, one["types"])) or "-"),
        ("mdev instances", "\n".join(one["mdevs"]) or "-"),
        ("vGPU type", one["vgpu"] or "-"),
        ("host has it as", ", ".join(one["interfaces"]) or "-"),
        ("host needs it", "\n".join(use["detail"] for use in one["uses"]) or "-"),
        ("VMs", "\n".join(map(_vm, one["vms"])) or "-"),
        ("findings", "\n".join(f"{hit['severity']} {hit['code']}: {hit['message']}" for hit in one["findings"]) or "-"),
    ]
    always = {"name", "driver", "IOMMU group", "VMs", "findings", "reset methods", "class"}
    print_fields([(name, value) for name, value in fields if value != "-" or name in always])


def _named(vendor: str | None, vendor_name: str | None, device: str | None, device_name: str | None) -> str:
    names = " ".join(filter(None, (vendor_name, device_name))) or "unknown"
    return f"{names} ({(vendor or '?').removeprefix('0x')}:{(device or '?').removeprefix('0x')})"


def _subsystem(one: dict[str, Any]) -> str:
    vendor, device = one["subsystem_vendor"], one["subsystem_device"]
    return _named(vendor, one["subsystem_name"], device, None) if vendor and vendor != "0x0000" else "-"


def _driver(one: dict[str, Any]) -> str:
    override = f" (driver_override {one['driver_override']})" if one["driver_override"] else ""
    return (one["driver"] or "none") + override


def _group(one: dict[str, Any]) -> str:
    if one["group"] is None:
        return "none"
    others = [address for address in one["group_members"] if address != one["address"]]
    return f"{one['group']}, with {' '.join(others)}" if others else f"{one['group']}, alone"


def _sleeps(one: dict[str, Any]) -> bool:
    return one["power_state"] == "D3cold" or one["runtime_status"] in {"suspended", "suspending"}


def _link(one: dict[str, Any]) -> str:
    link = one["link"]
    if link is None:
        return "not read, since that would wake it" if one["power_state"] == "D3cold" else "-"
    most = f"at most {link['max_speed'] or '?'} GT/s x{_value(link['max_width'])}"
    if link["speed"] is None and not link["width"]:
        return most if link["max_speed"] is not None or link["max_width"] else "-"
    now = f"{link['speed'] or '?'} GT/s x{_value(link['width'])}"
    return f"{now}, of {most}"


def _region(one: dict[str, Any]) -> str:
    words = [f"{one['name']}: {size(one['size'])} of {one['kind']} at {one['start']:#x}"]
    words += ["64-bit"] if one["wide"] else []
    words += ["prefetchable"] if one["prefetchable"] else []
    return ", ".join(words)


def size(count: int) -> str:
    """Bytes in words: `16 MiB`."""
    unit = 0
    while count >= 1024 and not count % 1024 and unit + 1 < len(UNITS):
        count //= 1024
        unit += 1
    return f"{count} {UNITS[unit]}"


def _errors(aer: dict[str, dict[str, int]] | None) -> str:
    if aer is None:
        return "-"
    seen = [
        f"{kind}: {', '.join(f'{name} {count}' for name, count in some.items())}" for kind, some in aer.items() if some
    ]
    return "\n".join(seen) or "none since boot"


def _sriov(one: dict[str, Any]) -> str:
    if one["physical_function"]:
        return f"VF of {one['physical_function']}"
    if one["total_vfs"] is None:
        return "-"
    return "\n".join([f"PF with {one['vfs'] or 0} of {one['total_vfs']} VFs", *one["virtual_functions"]])


def _type(one: dict[str, Any]) -> str:
    return f"{one['type']} {one['name'] or ''}: {_value(one['available'])} available".replace(" :", ":")


def _vm(one: dict[str, Any]) -> str:
    state = "has it and runs" if one["has"] and one["runs"] else "has it" if one["has"] else "runs without it"
    if not one["has"] and not one["runs"]:
        state = "stopped"
    return f"{one['vmid']}: {', '.join(one['entries']) or 'not in its config'}; {state}"


def _listed(words: list[str]) -> str:
    return " ".join(words) or "none"


def _value(value: object) -> str:
    return "-" if value is None else str(value)
