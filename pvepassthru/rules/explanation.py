# SPDX-License-Identifier: Apache-2.0
"""A rule's explanation, for people and for programs: what its docstring says, in parts."""

from __future__ import annotations

from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

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


def title(rule: Rule, *, of_host: bool = False) -> str:
    """What a rule checks, to stand behind "whether": the first sentence of its explanation, without its full stop.

    `of_host`: as the rule asks it of the host; one that is on VMs too may say it in the docstring of `on_host`.
    """
    own = (rule.on_host.__doc__ if of_host and rule.on_host else None) or ""
    told = own if own.startswith("Whether ") else parts(rule.explanation)["checks"]
    first = " ".join(told.split()).partition(". ")[0].removesuffix(".")
    return first.removeprefix("whether ").removeprefix("Whether ")
