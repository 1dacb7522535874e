# SPDX-License-Identifier: Apache-2.0
"""What is free on each node: virtual functions, mediated devices, devices of mappings; or which node fits a VM.

USED is what VMs that run have by their configs, FREE what is free now, CLAIMED what the other VMs of the node want, and
LEFT what is free when all of them have started. Templates count for nothing. `>=` and `<=` stand
before numbers of nodes where it is not known what all VMs have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.api import capacity
from pvepassthru.api.capacity import Wanted
from pvepassthru.cli import connection, reach
from pvepassthru.cli.progress import Bar
from pvepassthru.cli.tables import Column, print_table
from pvepassthru.cli.words import print_json, vmid
from pvepassthru.model.errors import EXIT_FINDINGS, EXIT_FINE, ApiMissingError, UsageError
from pvepassthru.model.pattern import ASCII, Pattern
from pvepassthru.model.text import listed, one_line, shown

if TYPE_CHECKING:
    import argparse
    from typing import Any

    from pvepassthru.api.capacity import Capacity, Fits, Room
    from pvepassthru.api.placing import Fit

_IDS = Pattern("[0-9a-fA-F]{4}:[0-9a-fA-F]{4}", ASCII)
ROOMS = (
    Column("NODE"),
    Column("KIND", drop=3),
    Column("NAME", least=12),
    Column("WHERE", drop=2, least=12),
    Column("TOTAL"),
    Column("USED"),
    Column("FREE"),
    Column("CLAIMED", drop=1),
    Column("LEFT"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    reach.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--vm", type=vmid, metavar="VMID", help="which node fits this VM, and why not the others")
    what.add_argument("--mdev", metavar="TYPE", help="instances of a type, such as nvidia-63")
    what.add_argument("--device", metavar="IDS", help="functions of a model by vendor:device, such as 10de:2231")
    what.add_argument("--mapping", metavar="NAME", help="the devices of a mapping")


def run(args: argparse.Namespace) -> int:
    """Print what is free; returns 0, or 1 when nothing of what was asked for is, or no node fits.

    Raises PassthruError.
    """
    if args.device is not None and not _IDS.fits(args.device):
        raise UsageError(f"--device {shown(args.device)} is no model", "write vendor:device, such as 10de:2231")
    with connection.connect(args) as client, Bar("VMs", quiet=args.json) as bar:
        if args.vm is not None:
            return _fits(args, capacity.fits(client, args.vm, args.nodes, jobs=args.jobs, progress=bar))
        wanted = Wanted(args.mdev, args.device, args.mapping)
        return _rooms(args, wanted, capacity.rooms(client, wanted, args.nodes, jobs=args.jobs, progress=bar))


def _rooms(args: argparse.Namespace, wanted: Wanted, found: Capacity) -> int:
    reach.say_failures(found.failures)
    named = listed(word for word in wanted if word)
    if named and not found.rooms and not found.failures:
        what = f"a device of mapping {named}" if wanted.mapping else named
        raise ApiMissingError(f"no node has {what}", "see what there is: pvepassthru fleet capacity")
    if args.json:
        shapes = [room._asdict() for room in found.rooms]
        print_json({"rooms": shapes, "failures": reach.failure_shapes(found.failures)})
    elif found.rooms:
        print_table(ROOMS, map(_cells, found.rooms))
    else:
        print("no node has virtual functions, mediated devices or devices of mappings")
    if found.failures:
        return found.failures[0].error.exit_code
    return EXIT_FINDINGS if named and not any(room.free > 0 for room in found.rooms) else EXIT_FINE


def _cells(room: Room) -> list[str]:
    """The cells of a room; what may be more or less is said so."""
    least, most = ("", "") if room.sure else (">=", "<=")
    counts = (f"{least}{room.used}", f"{most}{room.free}", f"{least}{room.claimed}", f"{most}{room.left}")
    name = f"{room.name} {room.mdev}" if room.mdev else room.name
    return [*map(_cell, (room.node, room.kind, name, room.where, room.total)), *counts]


def _cell(value: Any) -> str:  # noqa: ANN401 - a field of a room
    if isinstance(value, tuple):
        return listed(value, 2)
    return "?" if value is None else str(value)


def _fits(args: argparse.Namespace, found: Fits) -> int:
    reach.say_failures(found.failures)
    if args.json:
        nodes = [{**fit._asdict(), "now": fit.now, "always": fit.always} for fit in found.fits]
        shape = {"vmid": found.vmid, "node": found.node, "nodes": nodes}
        print_json({**shape, "failures": reach.failure_shapes(found.failures)})
    else:
        for fit in found.fits:
            notes = f" ({listed(fit.notes)})" if fit.notes else ""
            print(one_line(f"node {fit.node} {_verdict(fit)}{notes}"))
            for reason in (*fit.reasons, *fit.unsure):
                print(one_line(f"  {reason}"))
            for reason in fit.later:
                if reason not in fit.reasons:
                    print(one_line(f"  when the others have started: {reason}"))
    if found.failures:
        return found.failures[0].error.exit_code
    return EXIT_FINE if any(fit.now for fit in found.fits) else EXIT_FINDINGS


def _verdict(fit: Fit) -> str:
    if fit.reasons:
        return "does not fit"
    if not fit.now:
        return "may fit, which cannot be told for sure"
    return "fits" if fit.always else "fits now, and no more when the other VMs of that node have started"
