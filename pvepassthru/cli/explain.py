# SPDX-License-Identifier: Apache-2.0
"""What a finding's code means: what the rule checks, why it matters, and how to fix it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvepassthru.cli.words import print_json
from pvepassthru.model.errors import NotFoundError, UsageError
from pvepassthru.model.text import nearest, shown
from pvepassthru.rules.catalogue import BY_CODE

if TYPE_CHECKING:
    import argparse

    from pvepassthru.host.host import Host
    from pvepassthru.rules.catalogue import Rule

ORIGINS = {"pve": "PVE itself refuses or drops it", "own": "this tool's own judgement"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("code", nargs="*", metavar="CODE", help="a code such as PVP201")
    parser.add_argument("--all", action="store_true", help="every code")
    parser.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")


def run(args: argparse.Namespace, host: Host) -> int:  # noqa: ARG001 - every command is called alike
    """Print the rules behind codes; returns 0. Raises NotFoundError for an unknown code, UsageError without one."""
    if args.all == bool(args.code):
        raise UsageError("explain needs one or more codes, or --all", "pvepassthru explain PVP201")
    codes = sorted(BY_CODE) if args.all else [_known(word) for word in args.code]
    rules = [BY_CODE[code] for code in codes]
    if args.json:
        print_json([_shape(rule) for rule in rules])
    else:
        print("\n\n".join(text(rule) for rule in rules))
    return 0


def text(rule: Rule) -> str:
    """A rule's whole explanation."""
    gate = "; the hook refuses the start" if rule.gate else ""
    return f"{rule.code}: {rule.severity}; {ORIGINS[rule.origin]}{gate}\n\n{rule.explanation}"


def _shape(rule: Rule) -> dict[str, Any]:
    values = {name: value for name, value in rule._asdict().items() if name != "check"}
    return {**values, "explanation": rule.explanation}


def _known(word: str) -> str:
    code = word.upper()
    if code not in BY_CODE:
        near = nearest(code, sorted(BY_CODE))
        hint = f"the nearest is {near}" if near else "pvepassthru explain --all lists all"
        raise NotFoundError(f"there is no code {shown(word)}", hint)
    return code
