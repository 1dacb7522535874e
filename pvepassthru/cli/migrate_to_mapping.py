# SPDX-License-Identifier: Apache-2.0
"""Make hostpci entries that name a device by its address into entries by a mapping; the same device is passed.

A mapping that has just that device on the VM's node is taken, or one is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.api import mapping_render, migration, render
from pvepassthru.cli import connection
from pvepassthru.cli.words import print_json, vmid
from pvepassthru.model.errors import EXIT_FINE

if TYPE_CHECKING:
    import argparse

    from pvepassthru.host.host import Host


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("vmid", nargs="+", type=vmid, metavar="VMID", help="a VM of the cluster")
    parser.add_argument("--name", metavar="NAME", default="", help="the mapping for the one device that is meant")
    parser.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")
    connection.add_arguments(parser)


def run(args: argparse.Namespace, host: Host) -> int:  # noqa: ARG001 - it is the cluster that is looked at
    """Show what changes; returns 0. Raises what api.migration raises."""
    with connection.connect(args) as client:
        planned = migration.read(client, args.vmid, args.name)
        if not args.json:
            for plan in planned.plans:
                print(mapping_render.diff(plan), end="")
            for one in planned.changes:
                print(render.diff(one), end="", flush=True)
    if args.json:
        shapes = {
            "mappings": [mapping_render.shape(plan) for plan in planned.plans],
            "vms": [render.shape(one) for one in planned.changes],
        }
        print_json(shapes)
    return EXIT_FINE
