# SPDX-License-Identifier: Apache-2.0
"""Give VMs this tool's hookscript: put it on a storage for snippets, and set it. One that a VM has is run with it.

As root on the VMs' node. With --profile or PVE_HOST in the environment, or where there is no PVE, by the API, as
root@pam with its password: then the hookscript has to lie on every node that a VM may reach. Run again it changes
nothing, but renews an older hookscript of this tool.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pvepassthru.cli import attachment as results
from pvepassthru.cli import connection
from pvepassthru.cli.words import vmid
from pvepassthru.host import vms
from pvepassthru.lifecycle import attachment, shim_file
from pvepassthru.lifecycle.attachment import Done, How
from pvepassthru.lifecycle.elsewhere import Elsewhere
from pvepassthru.model import reachable
from pvepassthru.model.errors import DeviceError, PassthruError, UsageError
from pvepassthru.model.text import counted
from pvepassthru.report.judgement import judge
from pvepassthru.rules.subject import Surroundings

if TYPE_CHECKING:
    import argparse

    from pvepassthru.host.host import Host

ANYWAY = "--this-node-only"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    which = parser.add_argument_group("which VMs")
    which.add_argument("vmids", nargs="*", type=vmid, metavar="VMID", help="a VM of this node")
    which.add_argument("--all-passthrough", action="store_true", help="all VMs of this node that have hostpci entries")
    which.add_argument(
        "--shim-only", action="store_true", help="no VM: only put the hookscript on the storage, or renew it there"
    )
    storage = "where it lies (default: the first for snippets; in a cluster the first of these that is shared)"
    parser.add_argument("--storage", metavar="STORAGE", help=storage)
    parser.add_argument(
        ANYWAY,
        action="store_true",
        help="though other nodes that a VM may reach do not have it: it does not start there",
    )
    pending = "of a VM that does not run: let pending changes take effect with it"
    parser.add_argument("--with-pending", action="store_true", help=pending)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")
    connection.add_arguments(parser)


def run(args: argparse.Namespace, host: Host) -> int:
    """Attach the VMs and print what was done; 0, or the exit code of the first VM that could not be attached.

    Raises UsageError, NotFoundError, InputError, DeviceError, BusyError, ApiError.
    """
    _check(args)
    if args.profile or os.environ.get("PVE_HOST") or (args.root == "/" and not host.names(vms.PVE)):
        from pvepassthru.cli import attach_api  # noqa: PLC0415 - it loads what the API needs

        return attach_api.run(args)
    vms.need_pve(host)
    results.need_own(args, host)
    place = shim_file.choose(host, args.storage)
    if not host.root:
        attachment.need_package(host)
    vmids = attachment.with_passthrough(host) if args.all_passthrough else args.vmids
    put = shim_file.put(host, place, dry_run=args.dry_run)
    how = How(args.dry_run, args.storage is not None, args.with_pending)
    elsewhere = Elsewhere(host, place, is_put=put != "put" or not args.dry_run)
    around = Surroundings(host)
    command = f"pvepassthru attach --shim-only --storage {place.storage.id}"

    def attach(number: int) -> Done:
        has = attachment.already(host, number, place, how)
        missing = {} if args.this_node_only else elsewhere.missing(number)
        if missing and has is None:
            raise DeviceError(
                reachable.lacking(number, missing), f"there: {command}; or leave it at that with {ANYWAY}"
            )
        if has is not None:
            return has._replace(warnings=(reachable.lacking(number, missing),)) if missing else has
        done = attachment.attach(host, number, place, how)
        return done._replace(warnings=(*done.warnings, *_ahead(around, number)))

    if not args.json and (put != "nothing" or args.shim_only):
        print(f"{place.path}: {_put_words(put, dry_run=args.dry_run)}", flush=True)
    if not args.json and args.all_passthrough and not vmids:
        print("no VM of this node has hostpci entries")
    shim = {"volume": place.volume, "path": place.path, "state": put}
    return results.tell(args, results.each(vmids, attach), {"dry_run": args.dry_run, "shim": shim})


def _ahead(around: Surroundings, vmid: int) -> tuple[str, ...]:
    """What is to be said of a VM's next start, which the hookscript judges from now on."""
    try:
        _, found = judge(around, vmid, lenient=True)
    except PassthruError:  # then validate says it
        return ()
    errors = sum(one.severity == "error" and one.silenced is None for one in found)
    what = f"validate finds {counted(errors, 'error')}, so the next start may be refused: pvepassthru validate {vmid}"
    return (what,) if errors else ()


def _check(args: argparse.Namespace) -> None:
    """Raise UsageError when the arguments do not say which VMs."""
    said = [bool(args.vmids), args.all_passthrough, args.shim_only]
    if sum(said) != 1:
        message = "attach needs VMIDs, --all-passthrough or --shim-only" + (
            ", and only one of them" if any(said) else ""
        )
        raise UsageError(message, "pvepassthru attach 100")


def _put_words(put: str, *, dry_run: bool) -> str:
    if put == "nothing":
        return "there already"
    return f"would be {put}" if dry_run else put
