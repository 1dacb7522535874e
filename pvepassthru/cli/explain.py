# SPDX-License-Identifier: Apache-2.0
"""What a finding's code means: what the rule checks, why it matters, and how to fix it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvepassthru.cli.words import print_json
from pvepassthru.model.errors import NotFoundError, UsageError
from pvepassthru.model.text import shown
from pvepassthru.rules.catalogue import BY_CODE

if TYPE_CHECKING:
    import argparse

    from pvepassthru.host.host import Host
    from pvepassthru.rules.rule import Rule

ORIGINS = {"pve": "PVE itself refuses or drops it", "own": "this tool's own judgement"}
HOOK = {
    "refuses": "; the hook refuses the start",
    "itself": "; the hook refuses the start",
    "warns": "; the hook warns",
}
"""What the hook does with a rule that it asks, in words."""
PARTS = {"checks": "What it checks: ", "matters": "Why it matters: ", "fix": "How to fix: "}
"""The parts of a rule's explanation in their order: key in JSON to the words that each begins with."""


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


def text(rule: Rule) -> str:
    """A rule's whole explanation."""
    return f"{rule.code}: {rule.severity}; {ORIGINS[rule.origin]}{HOOK.get(rule.hook, '')}\n\n{rule.explanation}"


def shape(rule: Rule) -> dict[str, Any]:
    """The JSON shape of a rule (docs/json.md)."""
    return {
        "code": rule.code,
        "severity": rule.severity,
        "origin": rule.origin,
        "gate": rule.gate,
        "hook": rule.hook,
        "step": rule.step,
        **parts(rule.explanation),
    }


def parts(explanation: str) -> dict[str, str]:
    """The parts of an explanation, without the words that they begin with: a line a paragraph.

    Raises ValueError when one of the parts is missing.
    """
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for paragraph in explanation.split("\n\n"):
        words = paragraph.replace("\n", " ")
        for name, label in PARTS.items():
            if words.startswith(label):
                current = found[name] = []
                words = words.removeprefix(label)
        current.append(words)
    if list(found) != list(PARTS):
        raise ValueError(f"an explanation has the parts {', '.join(found)}, not {', '.join(PARTS)}")
    return {name: "\n".join(paragraphs) for name, paragraphs in found.items()}


def title(rule: Rule) -> str:
    """What a rule checks, to stand behind "whether": the first sentence of its explanation, without its full stop."""
    checks = parts(rule.explanation)["checks"].replace("\n", " ")
    return checks.partition(". ")[0].removesuffix(".").removeprefix("whether ")


def _known(word: str) -> str:
    code = word.strip().upper()
    if code not in BY_CODE:
        raise NotFoundError(f"there is no code {shown(word)}", "pvepassthru explain --all lists all")
    return code
