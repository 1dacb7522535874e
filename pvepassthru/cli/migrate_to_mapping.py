# SPDX-License-Identifier: Apache-2.0
"""Make hostpci entries that name a device by its address into entries by a mapping; the same device is passed.

A mapping that has just that device on the VM's node is taken, or one is made. Without --apply nothing is changed; with
it the mappings are made first, then each VM is changed, as a whole or not at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.api import mapping_render, migration, migration_apply, render
from pvepassthru.cli import changes, connection, consent
from pvepassthru.cli.config import undoing
from pvepassthru.cli.words import print_error, print_json, vmid
from pvepassthru.model.errors import EXIT_FINDINGS, EXIT_FINE, PassthruError, UsageError
from pvepassthru.model.text import listed

if TYPE_CHECKING:
    import argparse

    from pvepassthru.api.client import Client
    from pvepassthru.api.migration import Migration
    from pvepassthru.api.migration_apply import Outcome
    from pvepassthru.host.host import Host


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("vmid", nargs="+", type=vmid, metavar="VMID", help="a VM of the cluster")
    parser.add_argument("--name", metavar="NAME", default="", help="the mapping for the one device that is meant")
    parser.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")
    consent.add_arguments(parser, "make the mappings, then change the VMs", of_vms=True)
    connection.add_arguments(parser)


def run(args: argparse.Namespace, host: Host) -> int:  # noqa: ARG001 - it is the cluster that is looked at
    """Show what changes, and with --apply make it; returns 0, or 1 for a no to the question.

    A VM that fails does not stop the others; the first one's exit code is returned. Raises what api.migration raises,
    and UsageError where it cannot ask.
    """
    if args.apply and args.json and not args.yes:
        raise UsageError("--apply with --json asks nothing, so it needs --yes", "add --yes")
    with connection.connect(args) as client:
        planned = migration.read(client, args.vmid, args.name)
        if not args.json:
            _show(planned)
        outcome = None
        if args.apply and any(one.keys for one in planned.changes):
            try:
                migration_apply.check(client, planned)
                names = listed(one.vmid for one in planned.changes if one.keys)
                if not consent.given(f"Change VM {names} so?", yes=args.yes):
                    print_error("pvepassthru: nothing is changed, since the answer was no")
                    return EXIT_FINDINGS
                outcome = _apply(args, client, planned)
            except PassthruError as error:
                if args.json:
                    print_json(_shape(planned, None) | {"error": error.message})
                raise
    if args.json:
        print_json(_shape(planned, outcome))
    elif args.apply and outcome is None:
        print("nothing was changed")
    errors = [result.error for result in outcome.results if result.error] if outcome else []
    return errors[0].exit_code if errors else EXIT_FINE


def _show(planned: Migration) -> None:
    for plan in planned.plans:
        print(mapping_render.diff(plan), end="")
    for one in planned.changes:
        print(render.diff(one), end="", flush=True)


def _apply(args: argparse.Namespace, client: Client, planned: Migration) -> Outcome:
    form = "json" if args.json else "diff"
    with undoing():
        outcome = migration_apply.apply(
            client, planned, take_pending=args.with_pending, tell=lambda result: changes.tell(form, result, way=False)
        )
    for result in outcome.results:
        entries = result.change.after.section.entries.values()
        if not any(entry.mapping in outcome.gone for entry in entries):  # else the command would name what is not there
            changes.tell_root(form, result)
    told = {result.change.vmid for result in outcome.results}
    left = [one.vmid for one in planned.changes if one.keys and one.vmid not in told]
    if left:
        print_error(f"pvepassthru: VM {listed(left)} not changed, since one before failed")
    for note in outcome.notes:
        print_error(f"pvepassthru: note: {note}")
    return outcome


def _shape(planned: Migration, outcome: Outcome | None) -> dict[str, object]:
    done = {result.change.vmid: result for result in outcome.results} if outcome else {}
    vms = []
    for one in planned.changes:
        result = done.get(one.vmid)
        applied = result.applied._asdict() if result and result.applied else None
        error = result.error.message if result and result.error else None
        vms.append({**render.shape(one), "applied": applied, "error": error})
    return {
        "mappings": [mapping_render.shape(plan) for plan in planned.plans],
        "vms": vms,
        "notes": list(outcome.notes) if outcome else [],
        "error": None,
    }
