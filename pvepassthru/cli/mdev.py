# SPDX-License-Identifier: Apache-2.0
"""Mediated devices and vGPUs.

`types` has what is left of each type, `list` the instances with their owners, `plan` how many more fit and where;
`create` and `remove` make and remove instances by hand, only such as no VM owns.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from pvepassthru.cli import planning
from pvepassthru.cli.tables import Column, print_table
from pvepassthru.cli.words import function_address, print_json
from pvepassthru.host import capacity as capacity_of
from pvepassthru.host import holders, reservations, vms
from pvepassthru.host.inventory import MDEVS, Inventory
from pvepassthru.lifecycle import instances as by_hand
from pvepassthru.model import pci, reservation
from pvepassthru.model.errors import NotFoundError, UsageError
from pvepassthru.model.text import number

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from pvepassthru.host.host import Host
    from pvepassthru.model.reservation import Entry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    commands = parser.add_subparsers(dest="action", metavar="types|list|plan|create|remove", required=True)
    types = commands.add_parser("types", help="the types that parents and VFs offer, and how many more fit")
    types.add_argument(
        "address", metavar="ADDRESS", nargs="?", help="only this function, such as 0000:01:00.0 or 01:00.0"
    )
    types.add_argument(
        "--min-framebuffer", metavar="SIZE", help="only types with so much memory, such as 4G, the best one first"
    )
    types.add_argument("--min-instances", metavar="N", type=int, help="with it: of which N more fit (default: 1)")
    types.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")
    instances = commands.add_parser("list", help="the instances and set vGPU types, with their VMs")
    instances.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")
    planning.add_arguments(
        commands.add_parser("plan", help="how many more of a type fit, and where", description=planning.__doc__)
    )
    make = commands.add_parser("create", help="make an instance by hand, which no VM owns")
    make.add_argument("type", metavar="TYPE", help="such as nvidia-63 or i915-GVTg_V5_4")
    make.add_argument("parent", metavar="PARENT", help="the PCI address of its parent")
    make.add_argument("--uuid", metavar="UUID", help="its UUID (default: a random one)")
    make.set_defaults(writes=True)
    remove = commands.add_parser("remove", help="remove an instance that no VM owns")
    remove.add_argument("uuid", metavar="UUID")
    remove.set_defaults(writes=True)


TYPES = (
    Column("ADDRESS"),
    Column("TYPE"),
    Column("NAME", drop=2, least=12),
    Column("AVAILABLE"),
    Column("USED", drop=3),
    Column("TOTAL", drop=4),
    Column("VM", least=8),
    Column("DESCRIPTION", drop=5, least=16),
)
INSTANCES = (
    Column("PARENT"),
    Column("TYPE"),
    Column("UUID", drop=2),
    Column("VMID"),
    Column("INDEX", drop=3),
    Column("STATE", least=8),
)


def run(args: argparse.Namespace, host: Host) -> int:
    """Do what is asked for; returns 0, or 1 when nothing, or not all, fits. Raises PassthruError."""
    if args.action == "plan":
        return planning.run(args, host)
    if args.action in {"create", "remove"}:
        return _by_hand(args, host)
    inventory = Inventory(host)
    if args.action == "types":
        addresses = _functions(inventory, args.address)
        if args.min_instances is not None and args.min_framebuffer is None:
            raise UsageError("--min-instances goes with --min-framebuffer only", "give both, such as 4G and 2")
        if args.address and not _has_types(inventory, addresses[0]):
            raise NotFoundError(f"{addresses[0]} offers no mdev or vGPU types", planning.NO_TYPES)
        if args.min_framebuffer is not None:
            wanted = addresses if args.address else capacity_of.parents(inventory)
            return planning.print_offers(inventory, wanted, args)
        rows = capacity(host, inventory, addresses)
        names = ["address", "type", "name", "available", "used", "total", "vmids", "description"]
        empty = f"no function offers mdev or vGPU types: {planning.NO_TYPES}"
    else:
        rows = [*_instances(host, inventory), *_vgpus(host, inventory)]
        names = ["parent", "type", "uuid", "vmid", "index", "state"]
        empty = "no mediated device instance exists"
    if args.json:
        print_json(rows)
    elif rows:
        columns = TYPES if args.action == "types" else INSTANCES
        print_table(columns, ([_cell(row[name]) for name in names] for row in rows))
    else:
        print(empty)
    return 0


def _by_hand(args: argparse.Namespace, host: Host) -> int:
    if args.action == "remove":
        print(f"removed mdev {by_hand.remove(host, args.uuid.lower())}")
        return 0
    made = args.uuid.lower() if args.uuid is not None else str(uuid.uuid4())
    (parent,) = _functions(Inventory(host), args.parent)
    by_hand.create(host, args.type, parent, made)
    print(made)
    return 0


def _functions(inventory: Inventory, address: str | None) -> tuple[str, ...]:
    if address is None:
        return inventory.addresses()
    full = function_address(address)
    if full not in inventory.addresses():
        raise NotFoundError(f"no PCI function {full} on this host", "see lspci -D")
    return (full,)


def _has_types(inventory: Inventory, address: str) -> bool:
    """Whether a function offers any type, or has a vGPU type set, with which it offers none."""
    current = inventory.vgpu_current(address)
    return bool(inventory.mdev_room(address) or inventory.vgpu_creatable(address) or current not in {None, "0"})


def capacity(host: Host, inventory: Inventory, addresses: Iterable[str]) -> list[dict[str, object]]:
    """The types that these functions offer, with what is used of each and by whom, in the shape of docs/json.md."""
    reserved: dict[str, Entry] | None = None
    rows: list[dict[str, object]] = []
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


def _classic(inventory: Inventory, address: str) -> list[dict[str, object]]:
    """The types of an mdev parent."""
    types = inventory.mdev_types(address)
    if not types:
        return []
    used: dict[str | None, list[str]] = {}
    for name in inventory.mdevs_of(address):
        used.setdefault(inventory.mdev(name).type, []).append(name)
    rows = []
    for one in types:
        instances = used.get(one.id, [])
        most = _most(one.description)
        if most is None and one.available is not None and not set(used) - {one.id}:
            most = one.available + len(instances)  # nothing of another type takes room
        owners = sorted({owner[1] for name in instances if (owner := pci.vmid_of_uuid(name))})
        rows.append(_row(address, one.id, one.name, one.available, len(instances), most, owners, one.description))
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
) -> dict[str, object]:
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


def _instances(host: Host, inventory: Inventory) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
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


def _vgpus(host: Host, inventory: Inventory) -> list[dict[str, object]]:
    currents = {
        address: inventory.vgpu_current(address)
        for address in inventory.addresses()
        if inventory.has(address, "nvidia")
    }
    used = {address: current for address, current in currents.items() if current not in {None, "0"}}
    reserved = reservation.parse(reservations.text(host)) if used else {}
    rows: list[dict[str, object]] = []
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


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value).replace("\n", ", ")
