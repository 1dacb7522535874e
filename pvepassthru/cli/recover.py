# SPDX-License-Identifier: Apache-2.0
"""Undo what the hooks of dead VMs left behind; report what looks left behind but was not made by this tool.

A VM counts as dead only while PVE's own lock on its config is held by this command, no process of it lives and nobody
has its devices open. A VM that runs or that PVE works on is skipped. Exit code 1 when something had to be kept, or a
VM's journal or locks cannot be used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.cli.words import print_error, print_json, vmid
from pvepassthru.host import state
from pvepassthru.lifecycle import recover
from pvepassthru.lifecycle.orphans import orphans as look
from pvepassthru.model.errors import EXIT_FINDINGS, EXIT_FINE
from pvepassthru.model.text import one_line

if TYPE_CHECKING:
    import argparse

    from pvepassthru.host.host import Host


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("vmid", metavar="VMID", type=vmid, nargs="?", help="only this VM (default: every open journal)")
    dry_run = "say what would be undone, and undo nothing; only lock files may be made"
    parser.add_argument("--dry-run", action="store_true", help=dry_run)
    parser.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")


def run(args: argparse.Namespace, host: Host) -> int:
    """Recover and print what was done; 1 if something was kept or failed. Raises UnsafeError."""
    open_journals = state.journals(host)
    wanted = open_journals if args.vmid is None else [number for number in open_journals if number == args.vmid]
    warnings: list[str] = []
    outcomes = [recover.recover(host, number, dry_run=args.dry_run, warn=warnings.append) for number in wanted]
    orphans = [orphan for orphan in look(host) if args.vmid in {None, orphan.vmid}]
    failed = any(outcome.state in {"kept", "failed"} for outcome in outcomes)
    if args.json:
        print_json(
            {
                "dry_run": args.dry_run,
                "vms": [outcome._asdict() for outcome in outcomes],
                "orphans": [orphan._asdict() for orphan in orphans],
                "warnings": warnings,
            }
        )
        return EXIT_FINDINGS if failed else EXIT_FINE
    for outcome in outcomes:
        _print(outcome, dry_run=args.dry_run)
    for orphan in orphans:
        print(f"not ours, left alone: {one_line(orphan.what)}; {one_line(orphan.hint)}")
    for warning in warnings:
        print_error(f"warning: {warning}")
    if not outcomes and not orphans:
        print(
            "nothing to recover" if args.vmid is None else f"nothing to recover for VM {args.vmid}: it has no journal"
        )
    return EXIT_FINDINGS if failed else EXIT_FINE


def _print(outcome: recover.Outcome, *, dry_run: bool) -> None:
    if outcome.reason:
        print(f"VM {outcome.vmid}: {'failed' if outcome.state == 'failed' else 'skipped'}, {one_line(outcome.reason)}")
        return
    print(f"VM {outcome.vmid}: {'would undo' if dry_run else outcome.state}")
    for words in outcome.undone:
        print(f"  {one_line(words)}")
    for words in outcome.kept:
        print(f"  kept {one_line(words)}")
