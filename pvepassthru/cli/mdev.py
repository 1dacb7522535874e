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
from pvepassthru.host.inventory import Inventory
from pvepassthru.lifecycle import instances as by_hand
from pvepassthru.model.errors import NotFoundError, UsageError
from pvepassthru.report.instances import capacity, instances

if TYPE_CHECKING:
    import argparse

    from pvepassthru.host.host import Host


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
    listing = commands.add_parser("list", help="the instances and set vGPU types, with their VMs")
    listing.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")
    planning.add_arguments(
        commands.add_parser("plan", help="how many more of a type fit, and where", description=planning.__doc__)
    )
    make = commands.add_parser("create", help="make an instance by hand, which no VM owns")
    make.add_argument("type", metavar="TYPE", help="such as nvidia-63 or i915-GVTg_V5_4")
    make.add_argument("parent", metavar="PARENT", help="the PCI address of its parent")
    make.add_argument("--uuid", metavar="UUID", help="its UUID (default: a random one)")
    make.set_defaults(writes=True)
    remove = commands.add_parser("remove", help="remove an instance that no VM owns")
    remove.add_argument("uuid", metavar="UUID", help="the instance, as `mdev list` shows it")
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
        rows = instances(host, inventory)
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


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value).replace("\n", ", ")
