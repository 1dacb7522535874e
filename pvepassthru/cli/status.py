# SPDX-License-Identifier: Apache-2.0
"""What this tool holds on this host: each open journal with its VM, its state, and what the hook made for it.

Below stand the hook's runs that failed, if no later run of the same phase has gone well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.cli.words import print_json
from pvepassthru.host import state
from pvepassthru.model.text import one_line
from pvepassthru.report.held import held, runs

if TYPE_CHECKING:
    import argparse

    from pvepassthru.host.host import Host


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")


def run(args: argparse.Namespace, host: Host) -> int:
    """Print every journal, orphan, quarantine and failure; returns 0. Raises PassthruError if they cannot be listed."""
    found = held(host)
    if args.json:
        print_json({**found, "runs": [run._asdict() for run in runs(host)]})
        return 0
    for row in found["journals"]:
        since = "" if row["age"] is None else f"; last written {words_for(row['age'])} ago"
        print(f"VM {row['vmid']}: {one_line(row['words'])}{since}")
        for step in row["steps"]:
            print(f"  {one_line(step['what'])}{'' if step['done'] else ' (begun, perhaps not done)'}")
        for line in row["damaged_lines"]:
            print(f"  line {line} of {state.journal_path(row['vmid'])} is damaged and was passed over")
    for orphan in found["orphans"]:
        print(f"in no journal: {one_line(orphan['what'])}; {one_line(orphan['hint'])}")
    for quarantined in found["quarantines"]:
        print(f"in quarantine: {one_line(quarantined['why'])}; pvepassthru release {quarantined['address']}")
    if not any(found.values()):
        print("nothing held: no journal is open, and nothing looks left behind")
    for last in runs(host):
        if last.code:
            age = words_for(max(0, int(host.now() - last.ended / 1000)))
            print(f"VM {last.vmid}: {last.phase} failed {age} ago (exit code {last.code}); that task's log says why")
    return 0


def words_for(age: int) -> str:
    """Words for a number of seconds, in the largest unit that gives more than one."""
    for name, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if age >= 2 * length:
            return f"{age // length} {name}"
    return f"{age} s"
