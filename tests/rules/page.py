# SPDX-License-Identifier: Apache-2.0
"""docs/rules.md, made of the rules' own docstrings: `./dev docs` writes it, test_page.py compares."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from pvepassthru.rules.catalogue import BY_CODE
from pvepassthru.rules.explanation import HOOK, ORIGINS, PARTS, parts, title

if TYPE_CHECKING:
    from pvepassthru.rules.rule import Rule

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "rules.md")
RANGES = {
    "PVP1": "The host",
    "PVP2": "Devices",
    "PVP3": "VM configs",
    "PVP4": "Across VMs, and the cluster",
}
SHORT = {"refuses": "refuses", "itself": "refuses", "warns": "warns", "no": ""}
HEAD = """# Rules

Made of the rules themselves by `./dev docs`; `pvepassthru explain CODE` prints the same. A code is never reused.

- **origin**: `pve`: Proxmox VE itself refuses the start or drops the option; `own`: this tool's own judgement.
- **hook**: what the hook does at `pre-start`: it refuses the start, or warns; where nothing stands, it does not ask.
- **asked of**: a VM (`validate`), the host (`doctor`), or both.
"""


def page() -> str:
    """The whole page."""
    rules = [BY_CODE[code] for code in sorted(BY_CODE)]
    ranges = {name: [rule for rule in rules if rule.code.startswith(start)] for start, name in RANGES.items()}
    tables = [f"## {name}\n\n{_table(found)}" for name, found in ranges.items() if found]
    details = [_detail(rule) for rule in rules]
    return "\n".join([HEAD, f"{len(rules)} rules.\n", *tables, "## Each rule\n", *details])


def _table(rules: list[Rule]) -> str:
    rows = [
        f"| [{rule.code}](#{rule.code.lower()}) | {rule.severity} | {rule.origin} | {SHORT[rule.hook]} | {_of(rule)} "
        f"| whether {_cell(title(rule))} |"
        for rule in rules
    ]
    head = ["| code | severity | origin | hook | asked of | checks |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *rows, ""])


def _detail(rule: Rule) -> str:
    told = parts(rule.explanation)
    words = [f"{ORIGINS[rule.origin]}{HOOK.get(rule.hook, '')}"]
    if rule.step:
        words.append(f"`doctor` shows it under {rule.step}")
    lines = [f"### {rule.code}", "", f"{rule.severity.capitalize()}; {'; '.join(words)}.", ""]
    for name, label in PARTS.items():
        text = told[name].replace("\n", "\n\n")
        lines += [f"**{label.strip()}** {_safe(text)}", ""]
    return "\n".join(lines)


def _of(rule: Rule) -> str:
    return " and ".join([*(["VM"] if rule.check else []), *(["host"] if rule.on_host else [])])


def _safe(text: str) -> str:
    """Text in which `<...>` outside of code is no HTML."""
    pieces = text.split("`")
    pieces[::2] = [piece.replace("<", "&lt;") for piece in pieces[::2]]
    return "`".join(pieces)


def _cell(text: str) -> str:
    return _safe(text).replace("|", "\\|")


if __name__ == "__main__":
    with open(PATH, "w", encoding="utf-8") as file:
        file.write(page())
    sys.stdout.write(f"{os.path.normpath(PATH)} has {len(BY_CODE)} rules\n")
