# SPDX-License-Identifier: Apache-2.0
"""A VM config, /etc/pve/qemu-server/VMID.conf, as PVE reads it: leniently.

A line that PVE does not understand is ignored; a value that fails its schema is dropped with a warning, and an earlier
valid line of the same key stays in force. Only the keys that this tool judges are validated; others are kept as they
are. Source: behaviour of qemu-server's config parser.
"""

from __future__ import annotations

from pvepassthru.model import hostpci, machine, property_string
from pvepassthru.model.pattern import ASCII, IGNORECASE, Pattern
from pvepassthru.model.pci import MAX_INDEX
from pvepassthru.model.property_string import Fault, PropertyError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import BLANKS

if TYPE_CHECKING:
    from pvepassthru.model.hostpci import HostpciEntry

_HEADER = Pattern(r"\[([^\]]*)\]\s*", ASCII)
_PENDING = Pattern("pending", ASCII | IGNORECASE)
_SNAPSTATE = Pattern(r"snapstate:\s*(?:prepare|delete)\s*\Z", ASCII)
_IN_KEYS = frozenset("abcdefghijklmnopqrstuvwxyz_-")
_HOSTPCI = {f"hostpci{index}" for index in range(MAX_INDEX + 1)}
BOM = "\ufeff"
"""A byte order mark, which some editors put before the first line."""
_LIKE_HOSTPCI = Pattern(f"[{BOM} \t\v\f\r]*(host[-_ ]?pci[^:=#]{{0,8}})[:=]", ASCII | IGNORECASE)
_SEPARATORS = Pattern(r"[\s,;\0]+", ASCII)


class Value(NamedTuple):
    """A value in force and its line, from 1."""

    text: str
    line: int


class Dropped(NamedTuple):
    """A line whose value PVE discards with a warning."""

    key: str
    line: int
    value: str
    faults: tuple[Fault, ...]

    @property
    def why(self) -> tuple[str, ...]:
        """The reasons: bad-pattern, bad-format, duplicate-key, missing-key, unknown-key, bad-boolean, bad-enum, ..."""
        return tuple(sorted({fault.reason for fault in self.faults}))


class Ignored(NamedTuple):
    """A line that looks like a hostpci entry, and that PVE reads as nothing at all."""

    line: int
    key: str
    """What stands before its colon or `=`."""
    text: str
    """The whole line."""


class Replaced(NamedTuple):
    """A valid hostpci line that counts for nothing, since a later one of the same key has another value."""

    key: str
    line: int
    value: str
    by: int
    """The later line."""


class Section(NamedTuple):
    """The values of one section in force. Treat it as frozen."""

    values: dict[str, Value]
    entries: dict[int, HostpciEntry]
    """The hostpci entries in force, by index."""
    dropped: tuple[Dropped, ...]
    ignored: tuple[Ignored, ...]
    replaced: tuple[Replaced, ...]

    def get(self, key: str) -> str | None:
        """The value in force, or None."""
        value = self.values.get(key)
        return value.text if value else None

    def line(self, key: str) -> int | None:
        """The line of the value in force, from 1, or None."""
        value = self.values.get(key)
        return value.line if value else None

    @property
    def machine(self) -> machine.Machine:
        """The machine property in force."""
        text = self.get("machine")
        return machine.Machine() if text is None else machine.parse(text)


class VmConfig(NamedTuple):
    """A whole config. Snapshots and special sections play no part in a start and are left out."""

    main: Section
    pending: Section
    deletes: tuple[str, ...]
    """Keys that pending changes delete."""
    foreign: bool
    """Whether the file holds something, but not one line that PVE takes for a line of a VM config."""

    @property
    def template(self) -> bool:
        """Whether this is a template; hostpci entries of templates are ignored."""
        return property_string.boolean(self.main.get("template") or "0") is True

    @property
    def has_pending(self) -> bool:
        """Whether pending changes would alter the main section."""
        return bool(self.pending.values or self.deletes)

    def effective(self) -> Section:
        """The main section with the pending changes applied, deletions first, as a start applies them."""
        if not self.has_pending:
            return self.main
        gone = set(self.deletes)
        changed = gone | self.pending.values.keys()
        values = {key: value for key, value in self.main.values.items() if key not in gone}
        entries = {index: entry for index, entry in self.main.entries.items() if entry.key not in gone}
        return Section(
            values | self.pending.values,
            entries | self.pending.entries,
            tuple(dropped for dropped in self.main.dropped if dropped.key not in changed),
            self.main.ignored,
            tuple(replaced for replaced in self.main.replaced if replaced.key not in changed),
        )


class _Reader:
    """Collects one section's lines."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.entries: dict[int, HostpciEntry] = {}
        self.dropped: list[Dropped] = []
        self.ignored: list[Ignored] = []
        self.replaced: list[Replaced] = []

    def set(self, key: str, text: str, line: int) -> None:
        """Take one `key: text` line over, or drop it."""
        try:
            self._check(key, text, line)
        except PropertyError as error:
            self.dropped.append(Dropped(key, line, text, error.faults))
        else:
            before = self.values.get(key)
            if before and before.text != text and key in _HOSTPCI:
                self.replaced.append(Replaced(key, before.line, before.text, line))
            self.values[key] = Value(text, line)

    def _check(self, key: str, text: str, line: int) -> None:
        """Judge the value of a key that matters here. Raises PropertyError."""
        if "\r" in text:
            raise PropertyError(Fault("bad-format", "there is a carriage return in the value", "remove it"))
        if key.startswith("hostpci"):
            if not is_hostpci(key):
                raise PropertyError(
                    Fault("bad-format", f"{key} is no key of PVE", f"use hostpci0 to hostpci{MAX_INDEX}")
                )
            index = int(key.removeprefix("hostpci"))
            self.entries[index] = hostpci.parse(index, text, line)
        elif key == "machine":
            machine.parse(text)
        elif key == "vga":
            machine.check_vga(text)
        elif key == "template" and property_string.boolean(text) is None:
            raise PropertyError(Fault("bad-boolean", "template is no boolean", "write template: 1 or remove it"))

    def section(self) -> Section:
        """What was collected."""
        return Section(self.values, self.entries, tuple(self.dropped), tuple(self.ignored), tuple(self.replaced))


def is_hostpci(key: str) -> bool:
    """Whether a key is one of hostpci0 to hostpci15."""
    return key in _HOSTPCI


def parse(data: bytes) -> VmConfig:
    """The config in these bytes, whatever they are. Never raises."""
    main = _Reader()
    pending = _Reader()
    deletes = ""
    reader: _Reader | None = main
    holds = understood = False
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        if line[:1] == "[" and (header := _HEADER.fullmatch(line)):
            if _PENDING.fullmatch(header[1]):  # a second [PENDING] replaces the first
                reader, deletes = (pending := _Reader()), ""
            else:  # a snapshot, a special section, or one that PVE skips
                reader = None
            holds = True
            continue
        if reader is None or not line or line[0] == "#":
            continue
        key, colon, rest = line.partition(":")
        text = _value(rest) if colon and _is_key(key) else None
        if text is None:
            holds = holds or bool(line.strip(BLANKS))
            if like := _LIKE_HOSTPCI.match(line):
                reader.ignored.append(Ignored(number, like[1], line))
                understood = True  # by people, who are told of it
            continue
        understood = True
        if "snapstate:" in line and _SNAPSTATE.search(line):
            continue
        if key == "delete":
            if reader is pending:
                deletes = text
        else:
            reader.set(key, text, number)
    keys = tuple(key.removeprefix("!") for key in _SEPARATORS.split(deletes) if key) if deletes else ()
    return VmConfig(main.section(), pending.section(), keys, holds and not understood)


def _is_key(word: str) -> bool:
    """Whether this is how PVE writes a key: small letters, `_` and `-`, a letter first, and digits at the end."""
    letters = word.rstrip("0123456789")
    return _IN_KEYS.issuperset(letters) and letters[:1].isalpha()


def _value(rest: str) -> str | None:
    """What stands after the colon; of blanks only, the last one is the value; None when there is nothing."""
    return rest.strip(BLANKS) or rest[-1:] or None
