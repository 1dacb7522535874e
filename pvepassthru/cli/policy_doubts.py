# SPDX-License-Identifier: Apache-2.0
"""What is odd in a policy on this host, though every file is right: names of what is not there, or should not be named.

The cluster's file may mean devices, units and mappings of other nodes; what is certainly wrong here is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.host import vms
from pvepassthru.host.inventory import Inventory
from pvepassthru.model import mapping, pci
from pvepassthru.model.policy import EVERY, MAPPING
from pvepassthru.model.text import shown
from pvepassthru.rules.subject import MAPPINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.host.host import Host
    from pvepassthru.model.policy import Place, Policies

UNITS = ("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system")
"""Where systemd looks for units. Source: systemd.unit(5)."""
LIFELINES = ("ssh", "sshd", "pve", "corosync", "networking", "systemd-", "dbus")
"""How the names of units begin without which nobody reaches the host, or PVE does not run."""
DRIVERLESS = frozenset({"auto", "former", "stay"})


class Doubt(NamedTuple):
    """Something odd."""

    place: Place
    """The keys where it stands; none of any file for what stands in none."""
    severity: str
    message: str
    hint: str


def doubts(host: Host, policies: Policies) -> Iterator[Doubt]:
    """All that is odd in a policy, section by section."""
    inventory = Inventory(host)
    if not host.names(vms.PVE):
        message = f"{vms.PVE} is empty, so what the cluster's policy says is not known"
        yield Doubt(("",), "warning", message, "see systemctl status pve-cluster")
    for moved in policies.moved(inventory):
        hint = "look what card is there now, and correct the rule"
        yield Doubt(moved.place, "warning", moved.message, hint)
    yield from _devices(inventory, policies)
    yield from pfs(inventory, policies)
    yield from _mappings(host, policies)
    yield from _services(host, policies)


def _devices(inventory: Inventory, policies: Policies) -> Iterator[Doubt]:
    for section in ("defaults", "devices", "vms"):
        group = policies.document.get(section) or {}
        for place, settings in [((), group)] if section == "defaults" else [((key,), group[key]) for key in group]:
            wanted = (settings or {}).get("give_back", "auto")
            if wanted not in DRIVERLESS and inventory.driver_available(wanted) is False:
                where = (section, *place, "give_back")
                message = f"{' '.join(where)} is {wanted}, and this host has no driver of that name"
                yield Doubt(where, "warning", message, "write the driver as lspci -k shows it, or former")


def pfs(inventory: Inventory, policies: Policies) -> Iterator[Doubt]:
    """What is odd in `sriov`: functions that are not there, or no PFs, and numbers that cannot be."""
    for name, settings in (policies.document.get("sriov") or {}).items():
        place = ("sriov", name)
        there = [name] if pci.is_address(name) else inventory.in_slot(name) if name.count(":") > 1 else None
        if there is None:
            continue
        known = [address for address in there if inventory.attribute(address, "vendor")]
        totals = [total for address in known if (total := inventory.attribute(address, "sriov_totalvfs"))]
        if not known:
            yield Doubt(place, "warning", f"sriov.{name}: there is no such function on this host", "see lspci -D")
        elif not totals:
            hint = "name the physical function; SR-IOV may have to be enabled in the card's firmware or the host's"
            yield Doubt(place, "error", f"sriov.{name}: that function has no SR-IOV", hint)
        elif all(total.isdecimal() and int(total) < settings["vfs"] for total in totals):
            message = f"sriov.{name}: vfs is {settings['vfs']}, and the card can have {' or '.join(totals)}"
            yield Doubt((*place, "vfs"), "error", message, "ask for no more")


def _mappings(host: Host, policies: Policies) -> Iterator[Doubt]:
    try:
        known = mapping.parse(host.read(MAPPINGS)).by_name
    except OSError:
        return
    names = [(("mappings", name), name) for name in policies.document.get("mappings") or {}]
    names += [
        (("devices", name), name.removeprefix(MAPPING))
        for name in policies.document.get("devices") or {}
        if name.startswith(MAPPING)
    ]
    for place, name in names:
        if name not in known:
            message = f"{' '.join(place)}: there is no mapping {shown(name)}"
            yield Doubt(place, "warning", message, mapping.instead(name, known))


def _services(host: Host, policies: Policies) -> Iterator[Doubt]:
    folders = [folder for folder in UNITS if host.exists(folder)]
    for unit, settings in (policies.document.get("services") or {}).items():
        place = ("services", unit)
        template = f"{unit.partition('@')[0]}@.{unit.rpartition('.')[2]}" if "@" in unit else unit
        if folders and not any(host.exists(f"{folder}/{name}") for folder in folders for name in (unit, template)):
            yield Doubt(place, "warning", f"services.{unit}: this host has no such unit", "see systemctl list-units")
        if unit.startswith(LIFELINES):
            devices = "any device" if EVERY in settings["devices"] else "such a device"
            message = f"services.{unit} is stopped for every VM with {devices}, and the host may be out of reach then"
            yield Doubt(place, "warning", message, "take it out, unless that is meant")
