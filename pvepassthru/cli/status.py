# SPDX-License-Identifier: Apache-2.0
"""What this tool holds on this host: each open journal with its VM, its state, and what the hook made for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pvepassthru.cli.words import print_json
from pvepassthru.host import quarantine, state, vms
from pvepassthru.lifecycle.journal import Journal
from pvepassthru.lifecycle.orphans import orphans as look
from pvepassthru.lifecycle.undo import describe
from pvepassthru.model.errors import PassthruError
from pvepassthru.model.text import one_line

if TYPE_CHECKING:
    import argparse

    from pvepassthru.host.host import Host


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")


def run(args: argparse.Namespace, host: Host) -> int:
    """Print every journal, orphan and quarantine; returns 0. Raises PassthruError when they cannot be listed."""
    rows = [row for vmid in state.journals(host) if (row := _row(host, vmid)) is not None]
    orphans = look(host)
    quarantines = quarantine.listed(host)
    if args.json:
        found = {"journals": rows, "orphans": [orphan._asdict() for orphan in orphans]}
        print_json({**found, "quarantines": [quarantined._asdict() for quarantined in quarantines]})
        return 0
    for row in rows:
        since = "" if row["age"] is None else f"; last written {words_for(row['age'])} ago"
        print(f"VM {row['vmid']}: {one_line(row['words'])}{since}")
        for step in row["steps"]:
            print(f"  {one_line(step['what'])}{'' if step['done'] else ' (begun, perhaps not done)'}")
        for line in row["damaged_lines"]:
            print(f"  line {line} of {state.journal_path(row['vmid'])} is damaged and was passed over")
    for orphan in orphans:
        print(f"in no journal: {one_line(orphan.what)}; {one_line(orphan.hint)}")
    for quarantined in quarantines:
        print(f"in quarantine: {one_line(quarantined.why)}; pvepassthru release {quarantined.address}")
    if not rows and not orphans and not quarantines:
        print("nothing held: no journal is open, and nothing looks left behind")
    return 0


def _row(host: Host, vmid: int) -> dict[str, Any] | None:
    """One journal in the shape of docs/json.md, or None if it has gone since it was listed."""
    pid = vms.running_pid(host, vmid)
    age = _age(host, vmid)
    row: dict[str, Any] = {"vmid": vmid, "pid": pid, "age": age, "damaged_lines": [], "steps": []}
    try:
        journal = Journal(host, vmid)
    except PassthruError as error:
        return {**row, "state": "unreadable", "words": str(error)}
    if not journal.exists:
        return None
    if pid is not None:
        token, words = "running", f"running (process {pid})"
    elif journal.state == "running":
        token, words = "stopped", "has run and stopped without being cleaned up; pvepassthru recover"
    else:
        token, words = "prepared", "prepared: starting now, or its start failed; pvepassthru recover tells"
    steps = [{**step._asdict(), "what": describe(step)} for step in journal.steps]
    return {**row, "state": token, "words": words, "damaged_lines": journal.damaged, "steps": steps}


def _age(host: Host, vmid: int) -> int | None:
    """Seconds since something was written to a journal, or None if it cannot be told."""
    try:
        return max(0, int(host.now() - os.lstat(host.path(state.journal_path(vmid))).st_mtime))
    except OSError:
        return None


def words_for(age: int) -> str:
    """Words for a number of seconds, in the largest unit that gives more than one."""
    for name, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if age >= 2 * length:
            return f"{age // length} {name}"
    return f"{age} s"
