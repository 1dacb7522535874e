# SPDX-License-Identifier: Apache-2.0
"""The cluster's PCI mappings, /etc/pve/mapping/pci.cfg, as PVE reads them.

A section is a header line with the mapping's name, then indented lines; an empty line ends it. A line that PVE does
not accept is skipped with a warning. Source: behaviour of pve-guest-common and pve-cluster.
"""

from __future__ import annotations

from pvepassthru.model import property_string
from pvepassthru.model.pattern import ASCII, Pattern
from pvepassthru.model.property_string import Key, PropertyError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import BLANKS, listed, nearest, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

NODE_NAME = Pattern(r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?", ASCII)
# The dot before the function is not escaped in PVE's own pattern, so any character passes there.
_PATH = r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}(?:.[0-9a-f])?"
_IDS = Key(fits=Pattern(r"[0-9a-fA-F]{4}:[0-9a-fA-F]{4}", ASCII).fits, form="vendor:device, such as 10de:2204")
KEYS: dict[str, Key] = {
    "node": Key(
        fits=NODE_NAME.fits,
        reason="bad-format",
        form="a node's name",
        required=True,
    ),
    "path": Key(
        fits=Pattern(f"{_PATH}(?:;{_PATH})*", ASCII).fits,
        form="a PCI address with domain, in lower-case hex, such as 0000:01:00",
        required=True,
    ),
    "id": _IDS._replace(required=True),
    "subsystem-id": _IDS,
    "iommugroup": Key("integer"),
    "description": Key(longest=4096),
}

_HEADER = Pattern(r"(\S+)\s*", ASCII)
_NAME = Pattern(r"[a-zA-Z][a-zA-Z0-9_-]+", ASCII)
_WORD = Pattern(r"\s+(\S+)", ASCII)
_FLAGS = ("mdev", "live-migration-capable")


class MapEntry(NamedTuple):
    """One `map` line: the device or devices on one node."""

    line: int
    """Line of the file, from 1; 0 of what the API told."""
    node: str
    paths: tuple[str, ...]
    """Selectors with domain; several are one multifunction device."""
    id: str
    subsystem_id: str | None
    iommugroup: str | None
    """As written: PVE compares it as text."""


class Mapping(NamedTuple):
    """One mapping."""

    name: str
    line: int
    mdev: bool
    entries: tuple[MapEntry, ...]
    live_migration: bool = False
    """Whether it says `live-migration-capable 1`."""

    def on(self, node: str) -> tuple[MapEntry, ...]:
        """The alternatives on a node, in order."""
        return tuple(entry for entry in self.entries if entry.node == node)


class BadLine(NamedTuple):
    """A line that PVE skips, and so do we."""

    line: int
    name: str | None
    """The mapping that it stands in."""
    message: str
    hint: str


class Mappings(NamedTuple):
    """All mappings by name."""

    by_name: dict[str, Mapping]
    bad_lines: tuple[BadLine, ...]


EMPTY = Mappings({}, ())


def is_name(text: str) -> bool:
    """Whether PVE takes this for a mapping's name."""
    return _NAME.fits(text)


NONE_YET = "pvepassthru mapping apply NAME --device DEVICE makes one"


def instead(name: str, known: Iterable[str]) -> str:
    """What may be meant by the name of a mapping that is not there."""
    names = list(known)
    near = nearest(name, names)
    if near:
        return f"is {near} meant?"
    return f"the mappings are: {listed(names)}" if names else NONE_YET


class _Section:
    """Collects the lines of one mapping."""

    def __init__(self, name: str, line: int) -> None:
        self.name = name
        self.line = line
        self.flags: dict[str, bool] = {}
        self.described = False
        self.entries: list[MapEntry] = []

    def take(self, line: str, number: int) -> BadLine | None:
        """Take one indented line over; what is wrong with it, if PVE skips it."""
        match = _WORD.match(line)
        if match is None:
            if line[0] in BLANKS:  # blanks only
                return None
            return self._bad(number, f"{shown(line)} is no line of a mapping", "indent it, or remove it")
        word, value = match[1], line[match.end() :].strip(BLANKS)
        if word == "map":
            return self._take_map(value, number)
        if word in _FLAGS:
            return self._take_flag(word, value, number)
        if word == "description" and not self.described:
            self.described = True
            return None
        return self._bad(number, f"{shown(word)} is no property here", f"the properties are map, {listed(_FLAGS)}")

    def _take_flag(self, word: str, value: str, number: int) -> BadLine | None:
        if word in self.flags:
            return self._bad(number, f"{word} is given twice", "the first counts; remove this one")
        if value not in {"", "0", "1"}:
            return self._bad(number, f'{word} is "{shown(value)}"', f"write {word} 1 or {word} 0")
        self.flags[word] = value != "0"
        return None

    def _take_map(self, value: str, number: int) -> BadLine | None:
        try:
            values = property_string.parse(value, KEYS)
        except PropertyError as error:
            return self._bad(number, f"map {shown(value)}: {error}", "; ".join(fault.hint for fault in error.faults))
        self.entries.append(
            MapEntry(
                number,
                values["node"],
                tuple(values["path"].split(";")),
                values["id"],
                values.get("subsystem-id"),
                values.get("iommugroup"),
            )
        )
        return None

    def _bad(self, number: int, message: str, hint: str) -> BadLine:
        return BadLine(number, self.name, message, hint)

    def mapping(self) -> Mapping:
        """What was collected."""
        live = self.flags.get("live-migration-capable", False)
        return Mapping(self.name, self.line, self.flags.get("mdev", False), tuple(self.entries), live)


def parse(data: bytes) -> Mappings:
    """The mappings in these bytes, whatever they are. Never raises."""
    found: dict[str, _Section] = {}
    bad: list[BadLine] = []
    section: _Section | None = None
    skipping = False
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        if line.lstrip(BLANKS).startswith("#"):
            continue
        if line in {"", "0"}:  # PVE's reader takes a line "0" for an empty one
            section, skipping = None, False
        elif section:
            if problem := section.take(line, number):
                bad.append(problem)
        elif skipping:
            continue
        elif header := _HEADER.fullmatch(line):
            if _NAME.fullmatch(header[1]):  # a later section of the same name replaces the earlier
                found[header[1]] = section = _Section(header[1], number)
            else:
                skipping = True
                hint = "a name is a letter, then letters, digits, - and _"
                bad.append(BadLine(number, None, f"{shown(header[1])} is no name of a mapping", hint))
        elif line.strip(BLANKS):
            hint = "a section starts with the mapping's name alone on a line"
            bad.append(BadLine(number, None, f"{shown(line)} stands in no section", hint))
    return Mappings({name: section.mapping() for name, section in found.items()}, tuple(bad))
