# SPDX-License-Identifier: Apache-2.0
"""/etc/pve/mapping/pci.cfg as text, and its mappings. Its SHA-1 is the digest of every mapping."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_LINE = re.compile(r"\s+(\S+)(?:\s+(.*?))?\s*")


@dataclass
class Mapping:
    """One mapping: its `map` lines, and its other properties as text."""

    map: list[str] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    """description, mdev, live-migration-capable."""


def parse(text: str) -> dict[str, Mapping]:
    """The mappings by name."""
    found: dict[str, Mapping] = {}
    mapping: Mapping | None = None
    for line in text.split("\n"):
        if not line:
            mapping = None
        elif match := _LINE.fullmatch(line):
            if mapping and match[1] == "map":
                mapping.map.append(match[2])
            elif mapping:
                mapping.options[match[1]] = match[2] or "1"
        elif not line.startswith("#"):
            found[line.strip()] = mapping = Mapping()
    return found


def write(mappings: dict[str, Mapping]) -> str:
    """The text of the file."""
    text = ""
    for name in sorted(mappings):
        mapping = mappings[name]
        lines = [f"\t{key} {mapping.options[key]}\n" for key in sorted(mapping.options)]
        text += f"{name}\n{''.join(lines)}" + "".join(f"\tmap {line}\n" for line in mapping.map) + "\n"
    return text
