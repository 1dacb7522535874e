# SPDX-License-Identifier: Apache-2.0
"""Mediated device types with what is left of them (`types`), and instances with their owners (`list`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.cli.words import print_json, print_table
from pvepassthru.host import holders, reservations, vms
from pvepassthru.host.inventory import MDEVS, Inventory
from pvepassthru.model import pci, reservation
from pvepassthru.model.errors import NotFoundError, UsageError
from pvepassthru.model.pci import is_address

if TYPE_CHECKING:
    import argparse

    from pvepassthru.host.host import Host


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    commands = parser.add_subparsers(dest="action", metavar="types|list", required=True)
    types = commands.add_parser("types", help="the types that parents and VFs offer, and how many more fit")
    types.add_argument(
        "address", metavar="ADDRESS", nargs="?", help="only this function, such as 0000:01:00.0 or 01:00.0"
    )
    types.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")
    instances = commands.add_parser("list", help="the instances and set vGPU types, with their VMs")
    instances.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")


def run(args: argparse.Namespace, host: Host) -> int:
    """Print types or instances; returns 0. Raises UsageError, NotFoundError, InputError."""
    inventory = Inventory(host)
    if args.action == "types":
        rows = [row for address in _functions(inventory, args.address) for row in _types(inventory, address)]
        columns = ["address", "type", "name", "available", "description"]
        empty = "no function offers mdev or vGPU types: see that the vendor's driver is loaded and set up for them"
    else:
        rows = [*_instances(host, inventory), *_vgpus(host, inventory)]
        columns = ["parent", "type", "uuid", "vmid", "index", "state"]
        empty = "no mediated device instance exists"
    if args.json:
        print_json(rows)
    elif rows:
        print_table([name.upper() for name in columns], ([_cell(row[name]) for name in columns] for row in rows))
    else:
        print(empty)
    return 0


def _functions(inventory: Inventory, address: str | None) -> tuple[str, ...]:
    if address is None:
        return inventory.addresses()
    full = address if address.count(":") == 2 else f"0000:{address}"
    if not is_address(full):
        raise UsageError(f"{address!r} is no PCI address", "write it as lspci does: 0000:01:00.0 or 01:00.0")
    if full not in inventory.addresses():
        raise NotFoundError(f"no PCI function {full} on this host", "see lspci -D")
    return (full,)


def _types(inventory: Inventory, address: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [
        {"address": address, "type": t.id, "name": t.name, "available": t.available, "description": t.description}
        for t in inventory.mdev_types(address)
    ]
    for number, name in inventory.vgpu_creatable(address).items():
        # a VF takes one vGPU: what it offers fits once
        rows.append({"address": address, "type": f"nvidia-{number}", "name": name, "available": 1, "description": None})
    return rows


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
    return "-" if value is None else str(value).replace("\n", ", ")
