# SPDX-License-Identifier: Apache-2.0
"""What this tool holds on this host: each open journal with its VM, its state, and what the hook made for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvepassthru.cli.words import one_line, print_json
from pvepassthru.host import state, vms
from pvepassthru.lifecycle import recover
from pvepassthru.lifecycle.journal import Journal
from pvepassthru.lifecycle.undo import describe

if TYPE_CHECKING:
    import argparse

    from pvepassthru.host.host import Host


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")


def run(args: argparse.Namespace, host: Host) -> int:
    """Print every journal and every orphan; returns 0. Raises UnsafeError, InputError."""
    rows = [_row(host, vmid) for vmid in state.journals(host)]
    orphans = recover.orphans(host)
    if args.json:
        print_json({"journals": rows, "orphans": [orphan._asdict() for orphan in orphans]})
        return 0
    for row in rows:
        print(f"VM {row['vmid']}: {row['state']}")
        for step in row["steps"]:
            print(f"  {one_line(step['what'])}{'' if step['done'] else ' (begun, perhaps not done)'}")
    for orphan in orphans:
        print(f"not ours: {one_line(orphan.what)}; {one_line(orphan.hint)}")
    if not rows and not orphans:
        print("nothing held: no journal is open, and nothing looks left behind")
    return 0


def _row(host: Host, vmid: int) -> dict[str, Any]:
    journal = Journal(host, vmid)
    pid = vms.running_pid(host, vmid)
    if pid is not None:
        words = f"running (process {pid})"
    elif journal.state == "running":
        words = "has run and stopped without being cleaned up; pvepassthru recover"
    else:
        words = "prepared: starting now, or its start failed; pvepassthru recover tells"
    return {
        "vmid": vmid,
        "state": words,
        "pid": pid,
        "damaged_lines": journal.damaged,
        "steps": [{**step._asdict(), "what": describe(step)} for step in journal.steps],
    }
