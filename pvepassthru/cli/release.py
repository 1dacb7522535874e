# SPDX-License-Identifier: Apache-2.0
"""Give back by hand what a VM that does not run still holds, or end the quarantine of a function.

That is all that its journal has, its mediated devices by PVE's UUIDs, and the vGPU types on VFs that PVE's reservation
file names for it last, whether or not its config is on this node. A VM that lives is refused, as it is one that PVE
works on; an instance that mdevctl defines is kept. Exit code 1 when something had to be kept.

With an address: the function fell off the bus after a stop, and answers again; one that does not is refused.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pvepassthru.cli.recover import print_outcome
from pvepassthru.cli.words import print_error, print_json
from pvepassthru.host import quarantine, state
from pvepassthru.host.vms import vmid_of
from pvepassthru.lifecycle import recover
from pvepassthru.model import pci
from pvepassthru.model.errors import EXIT_FINDINGS, EXIT_FINE

if TYPE_CHECKING:
    from pvepassthru.host.host import Host


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("what", metavar="VMID|ADDRESS", type=_what, help="the VM, or a PCI function in quarantine")
    dry_run = "say what would be given back, and change nothing; only lock files may be made"
    parser.add_argument("--dry-run", action="store_true", help=dry_run)
    parser.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")


def run(args: argparse.Namespace, host: Host) -> int:
    """Release a VM's devices, or a function, and print what was done; 1 if something was kept.

    Raises as recover.release and quarantine.lift.
    """
    if isinstance(args.what, str):
        return _release_function(args, host)
    warnings: list[str] = []
    outcome = recover.release(host, args.what, dry_run=args.dry_run, warn=warnings.append)
    if args.json:
        print_json({"dry_run": args.dry_run, "vms": [outcome._asdict()], "warnings": warnings})
    else:
        print_outcome(outcome, dry_run=args.dry_run)
        for warning in warnings:
            print_error(f"warning: {warning}")
    return EXIT_FINDINGS if outcome.state == "kept" else EXIT_FINE


def _what(word: str) -> int | str:
    """A VMID, or the address of a function, of a word of the command line; argparse reports what is neither."""
    number = vmid_of(word)
    if number is not None:
        return number
    address = pci.with_domain(word.lower())
    if pci.is_address(address):
        return address
    raise argparse.ArgumentTypeError(f"{word!r} is no VMID and no PCI address such as 0000:01:00.0")


def _release_function(args: argparse.Namespace, host: Host) -> int:
    state.check(host)
    found = quarantine.lift(host, args.what, dry_run=args.dry_run)
    if args.json:
        print_json({"dry_run": args.dry_run, "quarantine": found._asdict()})
        return EXIT_FINE
    ends = "would end" if args.dry_run else "has ended"
    print(f"{found.address} answers again: its quarantine {ends}")
    if host.exists(state.journal_path(found.vmid)):
        print(f"VM {found.vmid} left a journal; give the device back to the host: pvepassthru release {found.vmid}")
    return EXIT_FINE
