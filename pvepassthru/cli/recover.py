# SPDX-License-Identifier: Apache-2.0
"""Undo what the hooks of dead VMs left behind; report what looks left behind and is in no journal.

A VM counts as dead only while PVE's own lock on its config is held by this command, no process of it lives and nobody
has its devices open. A VM that runs or that PVE works on is skipped. With `orphans: remove` in the policy, mediated
devices and vGPU types that are provably a dead VM's of this node are removed too. Exit code 1 when something had to be
kept, or a VM's journal or locks, or the policy, cannot be used. The timer pvepassthru-recover.timer runs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.cli.words import print_error, print_json, seconds, vmid
from pvepassthru.host import policy, reported, state
from pvepassthru.host.deadline import Deadline
from pvepassthru.lifecycle import orphans, recover
from pvepassthru.model.errors import EXIT_FINDINGS, EXIT_FINE, PassthruError
from pvepassthru.model.text import one_line

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable

    from pvepassthru.host.host import Host
    from pvepassthru.lifecycle.orphans import Orphan
    from pvepassthru.lifecycle.recover import Outcome

SILENT = frozenset({"alive", "busy", "gone", "postponed"})
"""States of which `--quiet` says nothing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("vmid", metavar="VMID", type=vmid, nargs="?", help="only this VM (default: every open journal)")
    dry_run = "say what would be undone, and undo nothing; only lock files may be made"
    parser.add_argument("--dry-run", action="store_true", help=dry_run)
    quiet = "for a timer: only what was done, what went wrong, and orphans that were not reported before"
    parser.add_argument("--quiet", action="store_true", help=quiet)
    limit = f"begin with no other VM where that could end later than this; one takes up to {recover.MOST:.0f} s"
    parser.add_argument("--limit", metavar="SECONDS", type=seconds, help=limit)
    parser.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")


def run(args: argparse.Namespace, host: Host) -> int:
    """Recover and print what was done; 1 if something was kept or failed. Raises UnsafeError."""
    warnings: list[str] = []
    removes, failed = _removes_orphans(host, warnings.append)
    vmids = set(state.journals(host)) | set(orphans.removable(host) if removes else ())
    wanted = [number for number in sorted(vmids) if args.vmid in {None, number}]
    outcomes = list(_recover(args, host, wanted, warnings.append, removes=removes))
    found = [orphan for orphan in orphans.orphans(host) if args.vmid in {None, orphan.vmid}]
    if args.dry_run:
        found = [orphan for orphan in found if not any(_would_go(orphan, outcome) for outcome in outcomes)]
    failed = failed or any(outcome.state in {"kept", "failed"} for outcome in outcomes)
    if args.json:
        print_json(
            {
                "dry_run": args.dry_run,
                "vms": [outcome._asdict() for outcome in outcomes],
                "orphans": [orphan._asdict() for orphan in found],
                "warnings": warnings,
            }
        )
        return EXIT_FINDINGS if failed else EXIT_FINE
    if args.quiet:
        outcomes = [outcome for outcome in outcomes if outcome.state not in SILENT]
        lines = {one.what: one for one in found if one.kind != "reservation"}
        found = [] if args.dry_run else [lines[what] for what in reported.new(host, lines)]
    for outcome in outcomes:
        print_outcome(outcome, dry_run=args.dry_run)
    for orphan in found:
        print(f"in no journal, left alone: {one_line(orphan.what)}; {one_line(orphan.hint)}")
    for warning in warnings:
        print_error(f"warning: {warning}")
    if not outcomes and not found and not args.quiet:
        print(
            "nothing to recover" if args.vmid is None else f"nothing to recover for VM {args.vmid}: it has no journal"
        )
    return EXIT_FINDINGS if failed else EXIT_FINE


def print_outcome(outcome: Outcome, *, dry_run: bool) -> None:
    """Print what became of one VM."""
    if outcome.reason:
        print(f"VM {outcome.vmid}: {'failed' if outcome.state == 'failed' else 'skipped'}, {one_line(outcome.reason)}")
        return
    if outcome.state == "gone":
        print(f"VM {outcome.vmid}: nothing is left")
        return
    print(f"VM {outcome.vmid}: {'would undo' if dry_run else outcome.state}")
    for words in outcome.undone:
        print(f"  {one_line(words)}")
    for words in outcome.kept:
        print(f"  kept {one_line(words)}")


def _would_go(orphan: Orphan, outcome: Outcome) -> bool:
    """Whether what is an orphan still is among what a VM's outcome says would be undone."""
    return orphan.vmid == outcome.vmid and any(orphan.target in words for words in outcome.undone)


def _recover(
    args: argparse.Namespace, host: Host, vmids: list[int], warn: Callable[[str], None], *, removes: bool
) -> Iterable[Outcome]:
    """Recover these VMs, one after the other, for as long as `--limit` allows."""
    if args.limit is None:
        for number in vmids:
            yield recover.recover(host, number, dry_run=args.dry_run, warn=warn, with_orphans=removes)
        return
    deadline = Deadline(args.limit)
    first = int(host.now()) // 60 % len(vmids) if vmids else 0  # else those at the end would never have their turn
    for number in (*vmids[first:], *vmids[:first]):
        if deadline.left() < recover.MOST:
            yield recover.Outcome(number, "postponed", "no time is left for it in this run", (), ())
        else:
            yield recover.recover(host, number, dry_run=args.dry_run, warn=warn, with_orphans=removes)


def _removes_orphans(host: Host, warn: Callable[[str], None]) -> tuple[bool, bool]:
    """Whether the policy has orphans removed, and whether it cannot be told: then they are not."""
    try:
        return policy.read(host).orphans == "remove", False
    except PassthruError as error:
        warn(f"orphans are only reported: {error}")
        return False, True
