# SPDX-License-Identifier: Apache-2.0
"""Take this tool's hookscript off VMs of this node: each has its former hookscript again, or none.

What hooks of a VM have prepared and not given back stays in its journal, for `pvepassthru recover`. The hookscript's
file stays where it is; other VMs may have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.cli import attachment as results
from pvepassthru.cli.words import vmid
from pvepassthru.host import vms
from pvepassthru.lifecycle import attachment
from pvepassthru.lifecycle.attachment import How
from pvepassthru.model.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from pvepassthru.host.host import Host


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("vmids", nargs="*", type=vmid, metavar="VMID", help="a VM of this node")
    parser.add_argument("--all", action="store_true", help="all VMs of this node that have the hookscript")
    pending = "of a VM that does not run: let pending changes take effect with it"
    parser.add_argument("--with-pending", action="store_true", help=pending)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")


def run(args: argparse.Namespace, host: Host) -> int:
    """Detach the VMs and print what was done; 0, or the exit code of the first VM that could not be detached.

    Raises UsageError, NotFoundError, InputError.
    """
    if bool(args.vmids) == args.all:
        raise UsageError("detach needs VMIDs, or --all" + (", not both" if args.all else ""), "pvepassthru detach 100")
    vms.need_pve(host)
    results.need_own(args, host)
    how = How(dry_run=args.dry_run, with_pending=args.with_pending)
    vmids = attachment.attached(host) if args.all else args.vmids
    if not vmids and not args.json:
        print("no VM of this node has the hookscript")
    done = results.each(vmids, lambda number: attachment.detach(host, number, how))
    return results.tell(args, done, {"dry_run": args.dry_run})
