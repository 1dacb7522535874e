# SPDX-License-Identifier: Apache-2.0
"""Whether the host is ready for passthrough, step by step; and what makes it ready.

Without an option it says what every rule on the host finds, also what is fine. With --fix it shows what is to be
changed in the host's files, and with --yes changes it; --undo takes the newest such change back, and with --dry-run
only shows that. Exit code: 0, 1 when an error is among the findings.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from pvepassthru.cli import fix
from pvepassthru.cli.words import print_json
from pvepassthru.host import vms
from pvepassthru.host.keeping import METHODS
from pvepassthru.model.errors import EXIT_FINDINGS, EXIT_FINE, UsageError
from pvepassthru.model.text import number, one_line
from pvepassthru.report.readiness import has_error, shape, state_of
from pvepassthru.rules import catalogue
from pvepassthru.rules.explanation import title
from pvepassthru.rules.rule import STEPS
from pvepassthru.rules.subject import Surroundings

if TYPE_CHECKING:
    from pvepassthru.host.host import Host
    from pvepassthru.model.finding import Finding
    from pvepassthru.rules.catalogue import HostState

COLOURS = {
    "fine": "32",
    "error": "31;1",
    "warning": "33",
    "info": "36",
    "silenced": "2",
    "unknown": "2",
    "not applicable": "2",
}
"""State to what a terminal is told (ECMA-48, SGR)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--fix", action="store_true", help="show what makes the host ready, file by file")
    what.add_argument("--undo", action="store_true", help="take the newest change of --fix back")
    parser.add_argument("--dry-run", action="store_true", help="with --undo: only show what it would do")
    group = parser.add_argument_group("with --fix")
    group.add_argument("--yes", action="store_true", help="make the changes that are shown")
    device = "prepare these devices: 0000:01:00.0, or 01:00 for all its functions"
    group.add_argument("--for", dest="devices", nargs="+", action="extend", default=[], metavar="ADDRESS", help=device)
    method = "how (default: override where an identical device stays with the host, else vfio-ids)"
    group.add_argument("--method", choices=METHODS, help=method)
    unsafe = "pass devices without interrupt remapping, at the risk of the host: allow_unsafe_interrupts"
    group.add_argument("--unsafe-interrupts", action="store_true", help=unsafe)
    vfs = "let a driver with the option max_vfs make N VFs of each device"
    group.add_argument("--max-vfs", type=_max_vfs, action="append", default=[], metavar="DRIVER=N", help=vfs)
    chroot = "with --root: run the programs of that tree, as root, by chroot, which is no jail; also with --undo"
    group.add_argument("--chroot", action="store_true", help=chroot)
    group.add_argument("--gvt", action="store_true", help="GVT-g: kvmgt, and enable_gvt of i915")


def _max_vfs(word: str) -> tuple[str, int]:
    driver, _, count = word.partition("=")
    found = number(count)
    if not driver.replace("_", "").replace("-", "").isalnum() or not driver.isascii() or not found:
        raise argparse.ArgumentTypeError(f"{word!r} is no driver with a number of VFs, such as igb=4")
    return driver, found


def run(args: argparse.Namespace, host: Host) -> int:
    """Say how the host is, or make it ready; returns 0, or 1 when an error is among the findings.

    Raises UsageError for options that do not go together, and what fix.fix and fix.undo raise.
    """
    if args.chroot and not ((args.fix or args.undo) and host.root):
        raise UsageError("--chroot goes with --root DIR and --fix or --undo", "leave it out")
    if args.dry_run and not args.undo:
        raise UsageError("--dry-run of doctor goes with --undo", "leave it out: --fix shows first what it does")
    if args.fix:
        return fix.fix(args, host)
    if args.yes or args.devices or args.method or args.unsafe_interrupts or args.max_vfs or args.gvt:
        raise UsageError("these options of doctor go with --fix", "pvepassthru doctor --fix ...")
    if args.undo:
        return fix.undo(args, host)
    states = catalogue.host_states(Surroundings(host))
    if args.json:
        print_json(shape(host, states))
    else:
        _print(host, states)
    return EXIT_FINDINGS if has_error(states) else EXIT_FINE


def _print(host: Host, states: list[HostState]) -> None:
    print(f"node {one_line(host.node)}")
    if not host.names(vms.PVE):
        print(f"no Proxmox VE here ({vms.PVE} is absent or empty), so most checks can tell nothing")
    for step in STEPS:
        here = [state for state in states if state.rule.step == step]
        if here:
            print(f"\n{step}")
        for state in here:
            word = state_of(state)
            why = f" ({one_line(state.why)})" if state.why else ""
            print(f"  {paint(word.ljust(14), word)}  {state.rule.code}  whether {title(state.rule, of_host=True)}{why}")
            _print_findings(state.findings)
    words = [state_of(state) for state in states]
    plural = {"error": "errors", "warning": "warnings"}
    counts = [
        f"{count} {plural.get(word, word) if count > 1 else word}" for word in COLOURS if (count := words.count(word))
    ]
    print(f"\n{', '.join(counts) or 'no rule on the host'}; `pvepassthru explain CODE` says more of a code")


def _print_findings(findings: tuple[Finding, ...]) -> None:
    for finding in findings:
        print(f"      {one_line(finding.where)}: {one_line(finding.message)}")
        if finding.silenced is not None:
            print(f"        silenced: {one_line(finding.silenced)}")
        elif finding.hint:
            print(f"        {one_line(finding.hint)}")


def paint(text: str, state: str) -> str:
    """The text in the colour of a state where that goes to a terminal and NO_COLOR is not set (no-color.org)."""
    if os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        return text
    return f"\x1b[{COLOURS[state]}m{text}\x1b[0m"
