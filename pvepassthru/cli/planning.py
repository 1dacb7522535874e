# SPDX-License-Identifier: Apache-2.0
"""How many more instances of a type fit and where (`mdev plan`); and the choice of a type by what is required.

What drivers offer now is their word; what a GPU takes beyond is foreseen by its rule: `equal` (one framebuffer size at
a time), `mixed`, `slices` (MIG), `exclusive` (one type at a time) or `shared`. Exit code 1 if not all fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvepassthru.cli.tables import Column, print_table
from pvepassthru.cli.words import function_address, print_json
from pvepassthru.host import capacity, policy
from pvepassthru.host.inventory import Inventory
from pvepassthru.model import mapping, placement, profile
from pvepassthru.model.errors import EXIT_FINDINGS, EXIT_FINE, InputError, NotFoundError, UsageError
from pvepassthru.model.text import listed, shown
from pvepassthru.report.instances import taken
from pvepassthru.rules.subject import MAPPINGS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from pvepassthru.host.host import Host
    from pvepassthru.model.placement import Gpu
    from pvepassthru.model.profile import Offer

PLAN = (
    Column("GPU"),
    Column("RULE", drop=2),
    Column("IN USE", drop=1, least=10),
    Column("FITS"),
    Column("PLANNED"),
    Column("ON", least=12),
)
NO_TYPES = "see that the vendor's driver is loaded and set up for them"
"""What to do where no types are."""
OFFERS = (Column("TYPE"), Column("NAME", drop=1, least=12), Column("FRAMEBUFFER"), Column("FITS"), Column("GPUS"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mdev plan`."""
    parser.add_argument("type", metavar="TYPE", help="as in mdev=, such as nvidia-63 or i915-GVTg_V5_4")
    parser.add_argument("count", metavar="COUNT", type=int, help="how many more instances are wanted")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--mapping", metavar="NAME", help="on the devices of this mapping, in its order")
    where.add_argument(
        "--parent", metavar="ADDRESS", action="append", help="on this function; may be given again (default: all)"
    )
    parser.add_argument(
        "--strategy", choices=placement.STRATEGIES, help="how GPUs are chosen (default: the policy's, else order)"
    )
    parser.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")


def run(args: argparse.Namespace, host: Host) -> int:
    """Print the plan; 1 if not all fit. Raises UsageError, NotFoundError, InputError, UnsafeError."""
    if args.count < 1:
        raise UsageError(f"{args.count} is no number of instances", "write 1 or more")
    inventory = Inventory(host)
    addresses = _addresses(host, inventory, args)
    gpus = capacity.gpus(inventory, addresses, taken(host))
    if not (args.parent or args.mapping):
        gpus = tuple(gpu for gpu in gpus if args.type in gpu.profiles or args.type in gpu.used) or gpus
    known = {kind for gpu in gpus for kind in gpu.profiles} | {kind for gpu in gpus for kind in gpu.used if kind}
    if not known:
        raise NotFoundError("none of these devices offers mdev or vGPU types", NO_TYPES)
    if args.type not in known:
        hint = f"the types are {listed(sorted(known))}"
        raise NotFoundError(f"none of these devices has the type {shown(args.type)}", hint)
    strategy = args.strategy or policy.read(host).placement(args.mapping)
    made = placement.plan(gpus, args.type, args.count, strategy)
    order = _order(inventory, gpus, args.type, strategy)
    rooms = zip(gpus, placement.room(gpus, args.type), placement.certain(gpus, args.type), strict=True)
    rows = [_row(gpu, room, made.placed, certain=certain) for gpu, room, certain in rooms]
    if args.json:
        print_json(
            {
                "type": args.type,
                "count": args.count,
                "strategy": strategy,
                "placed": list(made.placed),
                "left": made.left,
                "gpus": rows,
                "order": None if order is None else list(order),
            }
        )
    else:
        print_table(PLAN, (_cells(row) for row in rows))
        print(f"{len(made.placed)} of {args.count} fit by strategy {strategy}; {made.left} more would")
        if order is not None and strategy != "order":
            print(f"PVE takes the first VF that is free: for {strategy} let the mapping have them in this order:")
            print(f"  {' '.join(order)}")
    return EXIT_FINE if len(made.placed) == args.count else EXIT_FINDINGS


def print_offers(inventory: Inventory, addresses: Sequence[str], args: argparse.Namespace) -> int:
    """Print the types with at least so much memory of which enough instances fit, the best one first; 1 if none."""
    wanted = profile.megabytes(args.min_framebuffer)
    if wanted and args.min_framebuffer.strip().isdecimal():
        word = shown(args.min_framebuffer.strip())
        raise UsageError(f"--min-framebuffer {word}: of what?", f"say {word}G or {word}M, as is meant")
    if not wanted:
        hint = "write whole units, such as 4G, 4096M or 512M"
        raise UsageError(f"--min-framebuffer '{shown(args.min_framebuffer)}' is no amount of memory", hint)
    instances = 1 if args.min_instances is None else args.min_instances
    if instances < 1:
        raise UsageError(f"--min-instances {instances} is no number of instances", "write 1 or more")
    gpus = capacity.gpus(inventory, addresses, taken(inventory.host))
    offers = profile.choose(capacity.offers(gpus), wanted, instances)
    if args.json:
        print_json([_offer(offer, gpus) for offer in offers])
    elif offers:
        rows = (_offer(offer, gpus) for offer in offers)
        print_table(
            OFFERS,
            (
                [
                    row["type"],
                    row["name"] or "-",
                    f"{row['framebuffer']} MiB",
                    str(row["available"]),
                    ", ".join(row["gpus"]),
                ]
                for row in rows
            ),
        )
    else:
        print(f"no type with {wanted} MiB or more has room for {instances} more")
    return EXIT_FINE if offers else EXIT_FINDINGS


def _offer(offer: Offer, gpus: tuple[Gpu, ...]) -> dict[str, Any]:
    rooms = placement.room(gpus, offer.profile.id)
    return {
        "type": offer.profile.id,
        "name": offer.profile.name,
        "framebuffer": offer.profile.framebuffer,
        "available": offer.room,
        "gpus": [gpu.address for gpu, room in zip(gpus, rooms, strict=True) if room],
    }


def _addresses(host: Host, inventory: Inventory, args: argparse.Namespace) -> tuple[str, ...]:
    if args.parent:
        found = tuple(dict.fromkeys(function_address(word) for word in args.parent))
        for address in found:
            if address not in inventory.addresses():
                raise NotFoundError(f"no PCI function {address} on this host", "see lspci -D")
        return found
    return capacity.parents(inventory) if args.mapping is None else _of_mapping(host, inventory, args.mapping)


def _of_mapping(host: Host, inventory: Inventory, name: str) -> tuple[str, ...]:
    """The first function of each of a mapping's devices on this node that is there, in PVE's order."""
    try:
        mappings = mapping.parse(host.read(MAPPINGS))
    except FileNotFoundError:
        mappings = mapping.EMPTY
    except OSError as error:
        raise InputError(f"cannot read {MAPPINGS}: {error.strerror}", "run this as root on a node of PVE") from error
    found = mappings.by_name.get(name)
    if found is None:
        raise NotFoundError(f"there is no mapping {shown(name)}", mapping.instead(name, mappings.by_name))
    paths = [entry.paths[0] for entry in found.on(host.node)]
    addresses = [path if "." in path else f"{path}.0" for path in paths]
    there = tuple(address for address in addresses if address in inventory.addresses())
    if not there:
        raise NotFoundError(f"mapping {name} has no device on node {host.node}", "add one, or name another mapping")
    return there


def _order(inventory: Inventory, gpus: tuple[Gpu, ...], kind: str, strategy: str) -> tuple[str, ...] | None:
    """The order for a mapping's entries, where PVE chooses among VFs with the vendor interface; else None."""
    vendor = all(inventory.vgpu_current(place.address) is not None for gpu in gpus for place in gpu.places)
    return placement.order_of(gpus, strategy, kind) if vendor else None


def _row(gpu: Gpu, room: int, placed: tuple[str, ...], *, certain: bool) -> dict[str, Any]:
    functions = [place.address for place in gpu.places]
    on = {address: placed.count(address) for address in functions if address in placed}
    return {
        "address": gpu.address,
        "rule": gpu.rule,
        "used": {kind or "unknown": count for kind, count in sorted(gpu.used.items())},
        "room": room,
        "certain": certain,
        "planned": sum(on.values()),
        "functions": on,
    }


def _cells(row: dict[str, Any]) -> list[str]:
    used = ", ".join(f"{count} {kind}" for kind, count in row["used"].items())
    many = [f"{address} {count}x" if count > 1 else address for address, count in row["functions"].items()]
    fits = f"{'' if row['certain'] else 'at most '}{row['room']}"
    return [row["address"], row["rule"], used or "-", fits, str(row["planned"]), ", ".join(many) or "-"]
