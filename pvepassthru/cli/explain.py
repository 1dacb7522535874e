# SPDX-License-Identifier: Apache-2.0
"""What a finding's code means: what the rule checks, why it matters, and how to fix it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.cli.words import print_json
from pvepassthru.model.errors import NotFoundError, UsageError
from pvepassthru.model.text import shown
from pvepassthru.rules.catalogue import BY_CODE
from pvepassthru.rules.explanation import shape, text

if TYPE_CHECKING:
    import argparse

    from pvepassthru.host.host import Host


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("code", nargs="*", metavar="CODE", help="a code such as PVP201")
    parser.add_argument("--all", action="store_true", help="every code")
    parser.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")


def run(args: argparse.Namespace, host: Host) -> int:  # noqa: ARG001 - every command is called alike
    """Print the rules behind codes; returns 0. Raises NotFoundError for an unknown code, UsageError without one."""
    if args.all and args.code:
        raise UsageError("explain takes codes or --all, not both", "leave one of them out")
    if not args.all and not args.code:
        raise UsageError("explain needs one or more codes, or --all", "pvepassthru explain PVP201")
    codes = sorted(BY_CODE) if args.all else list(dict.fromkeys(_known(word) for word in args.code))
    rules = [BY_CODE[code] for code in codes]
    if args.json:
        shapes = [shape(rule) for rule in rules]
        print_json(shapes if args.all or len(shapes) != 1 else shapes[0])
    else:
        print("\n\n".join(text(rule) for rule in rules))
    return 0


def _known(word: str) -> str:
    code = word.strip().upper()
    if code not in BY_CODE:
        raise NotFoundError(f"there is no code {shown(word)}", "pvepassthru explain --all lists all")
    return code
