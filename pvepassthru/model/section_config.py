# SPDX-License-Identifier: Apache-2.0
"""PVE's section configs: storage.cfg, jobs.cfg and the files of ha/, as PVE reads them.

A section is a header `type: id`, then indented lines `key value`; an empty line ends it. What PVE does not understand
it skips with a warning, and so does this. Source: behaviour of pve-common's section config code.
"""

from __future__ import annotations

from pvepassthru.model import property_string
from pvepassthru.model.pattern import ASCII, Pattern
from pvepassthru.model.record import NamedTuple
from pvepassthru.model.text import BLANKS

_HEADER = Pattern(r"(\S+):\s*(\S+)\s*", ASCII)
_PROPERTY = Pattern(r"\s+(\S+)(?:\s+(.*\S))?\s*", ASCII)
_SEPARATORS = Pattern(r"[\s,;\0]+", ASCII)


class Property(NamedTuple):
    """A property's value, empty for a bare key, and its line, from 1."""

    text: str
    line: int


class Section(NamedTuple):
    """One section. Treat it as frozen."""

    type: str
    id: str
    line: int
    """Line of its header, from 1."""
    properties: dict[str, Property]

    def get(self, key: str) -> str | None:
        """A property's value, empty for a bare key, or None."""
        found = self.properties.get(key)
        return found.text if found else None

    def at(self, key: str) -> int:
        """The line of a property, or of the header without it."""
        found = self.properties.get(key)
        return found.line if found else self.line

    def flag(self, key: str, *, default: bool = False) -> bool:
        """A boolean property; a bare key is true, and what is no boolean the default."""
        text = self.get(key)
        if text is None:
            return default
        said = property_string.boolean(text) if text else True
        return default if said is None else said

    def words(self, key: str) -> tuple[str, ...]:
        """The words of a list property, in order."""
        return words(self.get(key) or "")


def words(text: str) -> tuple[str, ...]:
    """The words of one of PVE's lists, which commas, semicolons or blanks separate."""
    return tuple(word for word in _SEPARATORS.split(text) if word)


def parse(data: bytes) -> tuple[Section, ...]:
    """The sections in these bytes, whatever they are, in order. Never raises.

    A later section of the same id replaces an earlier one; of a key that is given twice the first counts.
    """
    found: dict[str, Section] = {}
    section: Section | None = None
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        if line.lstrip(BLANKS).startswith("#"):
            continue
        if line in {"", "0"}:  # PVE's reader takes a line "0" for an empty one
            section = None
        elif section is None:
            header = _HEADER.fullmatch(line)
            if header:
                section = Section(header[1].lower(), header[2], number, {})
                found.pop(section.id, None)
                found[section.id] = section
        elif match := _PROPERTY.fullmatch(line):
            section.properties.setdefault(match[1], Property(match[2] or "", number))
    return tuple(found.values())
