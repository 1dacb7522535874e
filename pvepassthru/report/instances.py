# SPDX-License-Identifier: Apache-2.0
"""The mdev and vGPU types on offer, and the instances that there are, as `mdev types` and `mdev list` have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvepassthru.host import holders, reservations, vms
from pvepassthru.host.inventory import MDEVS
from pvepassthru.model import pci, reservation
from pvepassthru.model.text import number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pvepassthru.host.host import Host
    from pvepassthru.host.inventory import Inventory
    from pvepassthru.model.reservation import Entry


def taken(host: Host) -> frozenset[str]:
    """The functions that a VM runs with, or has reserved for its start."""
    now = int(host.now())
    entries = reservation.parse(reservations.text(host))
    return frozenset(
        address
        for address, entry in entries.items()
        if entry.pending(now) or entry.holder(lambda vmid: vms.running_pid(host, vmid)) is not None
    )


def capacity(host: Host, inventory: Inventory, addresses: Iterable[str]) -> list[dict[str, Any]]:
    """The types that these functions offer, with what is used of each and by whom, in the shape of docs/json.md."""
    reserved: dict[str, Entry] | None = None
    rows: list[dict[str, Any]] = []
    for address in addresses:
        rows += _classic(inventory, address)
        offered = inventory.vgpu_creatable(address)
        current = inventory.vgpu_current(address)
        if current and current != "0":
            if reserved is None:
                reserved = reservation.parse(reservations.text(host))
            entry = reserved.get(address)
            owners = [entry.vmid] if entry else []
            rows.append(_row(address, f"nvidia-{current}", offered.get(current), 0, 1, 1, owners, None))
        for type_id, name in offered.items():
            if type_id != current:  # a VF takes one vGPU: what it offers fits once
                rows.append(_row(address, f"nvidia-{type_id}", name, 1, 0, 1, [], None))
    return rows


def _classic(inventory: Inventory, address: str) -> list[dict[str, Any]]:
    """The types of an mdev parent."""
    types = inventory.mdev_types(address)
    if not types:
        return []
    used: dict[str | None, list[str]] = {}
    for name in inventory.mdevs_of(address):
        used.setdefault(inventory.mdev(name).type, []).append(name)
    rows = []
    for one in types:
        made = used.get(one.id, [])
        most = _most(one.description)
        if most is None and one.available is not None and not set(used) - {one.id}:
            most = one.available + len(made)  # nothing of another type takes room
        owners = sorted({owner[1] for name in made if (owner := pci.vmid_of_uuid(name))})
        rows.append(_row(address, one.id, one.name, one.available, len(made), most, owners, one.description))
    return rows


def _most(description: str | None) -> int | None:
    """What NVIDIA's description of a type says that a GPU can have of it: `..., max_instance=24`."""
    for part in (description or "").replace("\n", ",").split(","):
        name, _, value = part.partition("=")
        if name.strip() == "max_instance":
            return number(value.strip())
    return None


def _row(  # noqa: PLR0913, PLR0917 - the fields of a row, in their order
    address: str,
    type_id: str,
    name: str | None,
    available: int | None,
    used: int,
    total: int | None,
    vmids: list[int],
    description: str | None,
) -> dict[str, Any]:
    return {
        "address": address,
        "type": type_id,
        "name": name,
        "available": available,
        "description": description,
        "used": used,
        "total": total,
        "vmids": vmids,
    }


def instances(host: Host, inventory: Inventory) -> list[dict[str, Any]]:
    """The instances and the set vGPU types, with their VMs, in the shape of docs/json.md."""
    return [*_classic_instances(host, inventory), *_vgpus(host, inventory)]


def _classic_instances(host: Host, inventory: Inventory) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for instance in inventory.mdevs():
        owner = pci.vmid_of_uuid(instance.uuid)
        users = holders.device_holders(host, f"{MDEVS}/{instance.uuid}")
        if users:
            state = f"open in {holders.describe(users)}"
        elif owner and vms.running_pid(host, owner[1]) is not None:
            state = "VM runs"
        else:
            state = "unused" if owner else "foreign"
        rows.append(
            {
                "parent": instance.parent,
                "type": instance.type,
                "uuid": instance.uuid,
                "vmid": owner[1] if owner else None,
                "index": owner[0] if owner else None,
                "state": state,
            }
        )
    return rows


def _vgpus(host: Host, inventory: Inventory) -> list[dict[str, Any]]:
    currents = {
        address: inventory.vgpu_current(address)
        for address in inventory.addresses()
        if inventory.has(address, "nvidia")
    }
    used = {address: current for address, current in currents.items() if current not in {None, "0"}}
    reserved = reservation.parse(reservations.text(host)) if used else {}
    rows: list[dict[str, Any]] = []
    for address, current in used.items():
        entry = reserved.get(address)
        runs = entry is not None and entry.holder(lambda vmid: vms.running_pid(host, vmid)) is not None
        rows.append(
            {
                "parent": address,
                "type": f"nvidia-{current}",
                "uuid": None,
                "vmid": entry.vmid if entry else None,
                "index": None,
                "state": "VM runs" if runs else "set",
            }
        )
    return rows
