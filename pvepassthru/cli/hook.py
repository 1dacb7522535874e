# SPDX-License-Identifier: Apache-2.0
"""Run a hook phase of a VM, as the hookscript does. Exit code: that of the phase; only pre-start can fail."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pvepassthru.cli.words import vmid
from pvepassthru.host import signals
from pvepassthru.lifecycle import hook, quick
from pvepassthru.model.errors import EXIT_FINE

if TYPE_CHECKING:
    import argparse

    from pvepassthru.host.host import Host


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("vmid", metavar="VMID", type=vmid, help="a VM of this node")
    parser.add_argument("phase", metavar="PHASE", choices=quick.PHASES, help="one of %(choices)s")


def run(args: argparse.Namespace, host: Host) -> int:
    """Run the phase and return its exit code. Most phases of most VMs have nothing to do, and end at once."""
    source = os.environ.get("PVE_MIGRATED_FROM", "")
    if quick.nothing_to_do(host.root, str(args.vmid), args.phase, source):
        return EXIT_FINE
    code = hook.run_on(host, args.vmid, args.phase, os.environ)
    if args.phase == "pre-start":  # what it did is done, and its exit code must say so
        signals.ignore_to_the_end()
    return code
