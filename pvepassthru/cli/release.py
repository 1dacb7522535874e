# SPDX-License-Identifier: Apache-2.0
"""Give back by hand what a VM that does not run still holds.

That is all that its journal has, its mediated devices by PVE's UUIDs, and the vGPU types on VFs that PVE's reservation
file names for it last, whether or not its config is on this node. A VM that lives is refused, as it is one that PVE
works on; an instance that mdevctl defines is kept. Exit code 1 when something had to be kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.cli.recover import print_outcome
from pvepassthru.cli.words import print_error, print_json, vmid
from pvepassthru.lifecycle import recover
from pvepassthru.model.errors import EXIT_FINDINGS, EXIT_FINE

if TYPE_CHECKING:
    import argparse

    from pvepassthru.host.host import Host


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("vmid", metavar="VMID", type=vmid, help="the VM")
    dry_run = "say what would be given back, and change nothing; only lock files may be made"
    parser.add_argument("--dry-run", action="store_true", help=dry_run)
    parser.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")


def run(args: argparse.Namespace, host: Host) -> int:
    """Release a VM's devices and print what was done; 1 if something was kept. Raises as recover.release."""
    warnings: list[str] = []
    outcome = recover.release(host, args.vmid, dry_run=args.dry_run, warn=warnings.append)
    if args.json:
        print_json({"dry_run": args.dry_run, "vms": [outcome._asdict()], "warnings": warnings})
    else:
        print_outcome(outcome, dry_run=args.dry_run)
        for warning in warnings:
            print_error(f"warning: {warning}")
    return EXIT_FINDINGS if outcome.state == "kept" else EXIT_FINE
