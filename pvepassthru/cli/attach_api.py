# SPDX-License-Identifier: Apache-2.0
"""`attach` by the API, for VMs of any node (cli/attach.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.api import apply, attachment
from pvepassthru.api.permission import qm_set
from pvepassthru.cli import attachment as results
from pvepassthru.cli import config, connection
from pvepassthru.lifecycle.attachment import Done
from pvepassthru.model.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from pvepassthru.api.client import Client


def run(args: argparse.Namespace) -> int:
    """Attach the VMs and print what was done; 0, or the exit code of the first VM that could not be attached.

    Raises UsageError for what only a node can do, and ApiError.
    """
    if args.shim_only or args.all_passthrough:
        option = "--shim-only" if args.shim_only else "--all-passthrough"
        raise UsageError(f"{option} is for a node itself, and this goes by the API", "run it as root on the node")
    with connection.connect(args) as client, config.undoing():
        attachment.need_root(client)
        done = results.each(args.vmids, lambda number: _attach(args, client, number))
        return results.tell(args, done, {"dry_run": args.dry_run, "shim": None})


def _attach(args: argparse.Namespace, client: Client, number: int) -> Done:
    change = attachment.plan(client, number, args.storage, everywhere=not args.this_node_only)
    volume = change.after.get(attachment.KEY)
    if not change.keys:
        return Done(number, "already", volume, None)
    if not args.dry_run:
        apply.apply(client, change, take_pending=args.with_pending)
    return Done(number, "attached", volume, None, (qm_set(number, {attachment.KEY: volume}),))
