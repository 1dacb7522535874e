# SPDX-License-Identifier: Apache-2.0
"""A VM's config file as text, and its parts. The text is the truth, as in PVE; its SHA-1 is the digest.

The reader is the fake's own, so that an error of the program's own reader shows. Like PVE it drops what it does not
know and what does not fit, and the next write loses it.
"""

from __future__ import annotations

import hashlib
import re
import urllib.parse
from dataclasses import dataclass, field

from tests.api.fake_pve import options

_LINE = re.compile(r"([a-z][a-z_-]*[0-9]*):\s*(.+?)\s*", re.ASCII)
_HEADER = re.compile(r"\[([^\]]*)\]\s*")
_SPLIT = re.compile(r"[\s,;]+")


@dataclass
class Config:
    """The parts of a config file."""

    main: dict[str, str] = field(default_factory=dict)
    pending: dict[str, str] = field(default_factory=dict)
    deletes: list[str] = field(default_factory=list)
    """Keys that wait for deletion."""
    snapshots: dict[str, dict[str, str]] = field(default_factory=dict)
    foreign: str = ""
    """Special sections, kept as they are."""

    def effective(self) -> dict[str, str]:
        """The main section with what is pending."""
        return {key: value for key, value in self.main.items() if key not in self.deletes} | self.pending

    def set(self, key: str, value: str) -> None:
        """Make a value pending; one that is in force already needs no waiting."""
        self.deletes = [other for other in self.deletes if other != key]
        self.pending.pop(key, None)
        if self.main.get(key) != value:
            self.pending[key] = value

    def delete(self, key: str) -> None:
        """Make a deletion pending."""
        self.pending.pop(key, None)
        if key in self.main and key not in self.deletes:
            self.deletes.append(key)


def digest(text: str) -> str:
    """The digest of a file's text."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def parse(text: str) -> Config:
    """The parts of a config file; lines that are none are left out, and of two lines the later one that fits counts."""
    config = Config()
    section: dict[str, str] | None = config.main
    notes: dict[int, list[str]] = {}
    for line in text.split("\n"):
        if header := _HEADER.fullmatch(line):
            section = _open(config, header[1])
        if section is None:
            config.foreign += f"{line}\n" if line else ""
        elif line.startswith("#"):
            notes.setdefault(id(section), []).append(urllib.parse.unquote(line[1:]))
        elif match := _LINE.fullmatch(line):
            key, value = match[1], match[2]
            if key == "delete" and section is config.pending:
                config.deletes = [word.removeprefix("!") for word in _SPLIT.split(value) if word]
            elif options.option(key) and options.problem(key, value) is None:
                section[key] = value
    for place in (config.main, config.pending, *config.snapshots.values()):
        if id(place) in notes:
            place["description"] = "\n".join(notes[id(place)])
    return config


def write(config: Config) -> str:
    """The text of a config file: the description as comments, then the keys in their order."""
    text = _section(config.main)
    if config.pending or config.deletes:
        deletes = {"delete": ",".join(config.deletes)} if config.deletes else {}
        text += "\n[PENDING]\n" + _section(config.pending | deletes)
    for name, values in config.snapshots.items():
        text += f"\n[{name}]\n" + _section(values)
    return text + ("\n" + config.foreign if config.foreign else "")


def _open(config: Config, name: str) -> dict[str, str] | None:
    """The values of the section that begins, None for a special one."""
    if name.lower() == "pending":
        config.pending, config.deletes = {}, []
        return config.pending
    if name.startswith("special:"):
        return None
    return config.snapshots.setdefault(name, {})


def _section(values: dict[str, str]) -> str:
    notes = values.get("description", "")
    lines = [f"#{_escaped(line)}" for line in notes.split("\n")] if notes else []
    lines += [f"{key}: {values[key]}" for key in sorted(values) if key != "description"]
    return "".join(f"{line}\n" for line in lines)


def _escaped(line: str) -> str:
    """A line of the description; PVE keeps ASCII but % and escapes the rest."""
    return "".join(char if " " <= char <= "~" and char != "%" else urllib.parse.quote(char) for char in line)
