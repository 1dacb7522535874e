# SPDX-License-Identifier: Apache-2.0
"""The host's PCI functions: as a table, as a tree of IOMMU groups or of buses, or one of them in full.

LINK is what a PCIe link runs at and what it can, in GT/s and lanes; VFS the virtual functions that exist of those that
are possible. VMs are those whose config means the function, `(runs)` behind the one that has it now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvepassthru.cli import tables
from pvepassthru.cli.details import detail, print_detail
from pvepassthru.cli.tables import Column, Node
from pvepassthru.cli.words import print_error, print_json, vmid
from pvepassthru.host import vms
from pvepassthru.host.functions import KINDS
from pvepassthru.host.inventory import DEVICES
from pvepassthru.model.errors import EXIT_FINE, NotFoundError, UsageError
from pvepassthru.model.pci import is_address, is_selector, with_domain
from pvepassthru.model.text import listed, shown
from pvepassthru.report.functions import Functions
from pvepassthru.rules.subject import Surroundings, read_config

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from pvepassthru.host.functions import Function
    from pvepassthru.host.host import Host

COLUMNS = (
    Column("ADDRESS"),
    Column("NAME", least=24),
    Column("CLASS", drop=8, least=12),
    Column("DRIVER", least=8),
    Column("GROUP"),
    Column("RESET", drop=6, least=8),
    Column("NUMA", drop=9),
    Column("LINK", drop=7),
    Column("VFS", drop=4),
    Column("MDEV", drop=5),
    Column("VM", least=8),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    what = "only this function, in full, such as 0000:01:00.0 or 01:00.0; or all of a slot, such as 01:00"
    parser.add_argument("address", metavar="ADDRESS", nargs="?", help=what)
    views = parser.add_mutually_exclusive_group()
    views.add_argument("--groups", action="store_true", help="as a tree of IOMMU groups")
    views.add_argument("--tree", action="store_true", help="as a tree of buses: root ports, bridges, functions, VFs")
    kinds = "only functions of this kind: %(choices)s"
    parser.add_argument("--class", dest="kind", metavar="KIND", choices=(*KINDS, "other"), help=kinds)
    parser.add_argument(
        "--driver", metavar="NAME", help="only functions that this driver has; `none` for those without"
    )
    parser.add_argument("--vm", metavar="VMID", type=vmid, help="only functions that belong to this VM")
    parser.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")


def run(args: argparse.Namespace, host: Host) -> int:
    """Print the functions; returns 0.

    Raises UsageError, NotFoundError for a function or VM that is not there, InputError for a VM whose config cannot be
    read.
    """
    if args.address and (args.groups or args.tree or args.kind or args.driver or args.vm):
        raise UsageError("an ADDRESS goes with --json only", "leave the other options out")
    view = Functions(Surroundings(host))
    for note in _unread(host):
        print_error(f"pvepassthru: note: {note}")
    if args.vm:
        read_config(host, args.vm, vms.config_path(args.vm))  # raises what is wrong with it
    if args.address:
        return _full(view, args)
    found = [view.function(address) for address in view.around.inventory.addresses() if _wanted(view, address, args)]
    if args.json:
        print_json(view.groups(found) if args.groups else view.tree_shape(found) if args.tree else view.shapes(found))
    elif not found:
        print("no PCI function on this host" if not host.names(DEVICES) else "no PCI function is of that kind")
    elif args.groups:
        tables.print_tree(_group_nodes(view, found))
    elif args.tree:
        tables.print_tree(_bus_nodes(view, found))
    else:
        tables.print_table(COLUMNS, (_cells(view, found_one) for found_one in found))
    return EXIT_FINE


def _unread(host: Host) -> list[str]:
    """What is said of VM configs that could not be read: without them nobody can tell whose a function is."""
    unread = sorted(path for path in host.unreadable if path == vms.CONFIGS or path.startswith(f"{vms.CONFIGS}/"))
    if not unread:
        return []
    return [f"cannot read {listed(unread, 4)}: VMs may be missing here; run this as root"]


def _full(view: Functions, args: argparse.Namespace) -> int:
    """Print one function in full, or each of a slot."""
    selector = with_domain(args.address.lower())
    if not is_selector(selector):
        hint = "write it as lspci does: 0000:01:00.0, 01:00.0 or 01:00"
        raise UsageError(f"{shown(args.address)} is no PCI address", hint)
    inventory = view.around.inventory
    addresses = [selector] if is_address(selector) else list(inventory.in_slot(selector))
    if not addresses or addresses[0] not in inventory.addresses():
        raise NotFoundError(f"no PCI function {selector} on this host", "pvepassthru devices lists them")
    details = [detail(view.around, view.ids, view.shape(view.function(address))) for address in addresses]
    if args.json:
        print_json(details[0] if is_address(selector) else details)
        return EXIT_FINE
    for place, one in enumerate(details):
        if place:
            print()
        print_detail(one)
    return EXIT_FINE


def _wanted(view: Functions, address: str, args: argparse.Namespace) -> bool:
    one = view.function(address)
    return (
        (args.kind is None or one.kind == args.kind or (one.kind == "nvme" and args.kind == "storage"))
        and (args.driver is None or (one.driver or "none") == args.driver)
        and (args.vm is None or any(owner.vmid == args.vm for owner in view.owners(address)))
    )


def _cells(view: Functions, one: Function) -> tuple[str, ...]:
    methods = one.reset_methods
    return (
        one.address,
        view.ids.name(one.vendor, one.device),
        _class(view, one),
        one.driver or "-",
        "-" if one.group is None else str(one.group),
        "-" if methods is None else " ".join(methods) or "none",
        "-" if one.numa_node is None else str(one.numa_node),
        "asleep" if one.asleep else str(one.link or "-"),
        "-" if one.total_vfs is None else f"{one.vfs or 0}/{one.total_vfs}",
        _mdev(one),
        ", ".join(map(str, view.owners(one.address))) or "-",
    )


def _class(view: Functions, one: Function) -> str:
    return view.ids.subclass(one.pci_class) or one.pci_class or "-"


def _line(view: Functions, one: Function, *, group: bool = True) -> str:
    """One function as a line of a tree."""
    words = [one.address, view.ids.name(one.vendor, one.device), f"[{_class(view, one)}]"]
    words += [f"driver {one.driver}"] if one.driver else []
    words += [f"group {one.group}"] if group and one.group is not None else []
    words += [f"VF of {one.physical_function}"] if one.physical_function and not group else []
    words += [f"VFs {one.vfs or 0}/{one.total_vfs}"] if one.total_vfs else []
    mdev = _mdev(one)
    words += [f"mdev {mdev}"] if mdev != "-" else []
    owners = ", ".join(map(str, view.owners(one.address)))
    return "  ".join([*words, f"VM {owners}"] if owners else words)


def _group_nodes(view: Functions, found: Iterable[Function]) -> list[Node]:
    """A tree for each group that has one of these functions, with all of its members."""
    return [
        Node(
            f"group {number}{_group_kind(view.around.host, number)}" if number is not None else "without a group",
            tuple(Node(_line(view, view.function(address), group=False)) for address in members),
        )
        for number, members in view.grouped(found)
    ]


def _bus_nodes(view: Functions, found: Iterable[Function]) -> list[Node]:
    """A tree for each root bus."""

    def node(branch: dict[str, Any]) -> Node:
        return Node(_line(view, view.function(branch["address"])), tuple(map(node, branch["children"])))

    return [Node(f"bus {root['bus']}", tuple(map(node, root["functions"]))) for root in view.buses(found)]


def _mdev(one: Function) -> str:
    """What a table says of a function's mediated devices."""
    if one.vgpu:
        return one.vgpu
    if one.mdevs:
        return f"{len(one.mdevs)} used"
    return f"{one.mdev_types} types" if one.mdev_types else "-"


def _group_kind(host: Host, number: int) -> str:
    """How a group is translated, where the kernel says it: DMA, DMA-FQ or identity."""
    kind = host.text(f"/sys/kernel/iommu_groups/{number}/type")
    return f" ({kind})" if kind else ""
