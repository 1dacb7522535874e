# SPDX-License-Identifier: Apache-2.0
"""The cluster's PCI mappings as PVE stores them, so that what is written back keeps every word that is not changed.

Source: cluster/mapping/pci. A write replaces the whole `map`; what it does not name of the other properties stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import cluster
from pvepassthru.model import mapping, property_string
from pvepassthru.model.errors import ApiMissingError
from pvepassthru.model.mapping import KEYS
from pvepassthru.model.property_string import PropertyError
from pvepassthru.model.text import number, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from pvepassthru.api.client import Client
    from pvepassthru.model.mapping import MapEntry

PATH = "cluster/mapping/pci"
FLAGS = ("mdev", "live-migration-capable")


class Line(NamedTuple):
    """One `map` line."""

    text: str
    """As it is stored."""
    entry: MapEntry | None
    """What it says; None if PVE would skip it."""

    @property
    def node(self) -> str | None:
        """The node whose device it is, or None."""
        return self.entry.node if self.entry else None


class Stored(NamedTuple):
    """One mapping."""

    name: str
    lines: tuple[Line, ...]
    mdev: bool = False
    live_migration: bool = False
    digest: str | None = None
    """Of the file with all mappings; a write with another one is refused."""

    @property
    def mapping(self) -> mapping.Mapping:
        """The mapping as PVE reads it."""
        entries = tuple(line.entry for line in self.lines if line.entry)
        return mapping.Mapping(self.name, 0, self.mdev, entries, self.live_migration)

    def same(self, other: Stored | None) -> bool:
        """Whether the other one means the same, whatever its digest and the order of words in a line."""
        return other is not None and _meaning(self) == _meaning(other)


def line(text: str) -> Line:
    """A `map` line. Never raises."""
    try:
        values = property_string.parse(text, KEYS)
    except PropertyError:
        return Line(text, None)
    paths = tuple(values["path"].split(";"))
    entry = mapping.MapEntry(
        0, values["node"], paths, values["id"], values.get("subsystem-id"), values.get("iommugroup")
    )
    return Line(text, entry)


def text_of(entry: MapEntry) -> str:
    """The `map` line of an entry."""
    values = {
        "node": entry.node,
        "path": ";".join(entry.paths),
        "id": entry.id,
        "subsystem-id": entry.subsystem_id,
        "iommugroup": entry.iommugroup,
    }
    return property_string.write({key: value for key, value in values.items() if value is not None}, KEYS)


def of_api(answer: Iterable[dict[str, Any]]) -> dict[str, Stored]:
    """The mappings by cluster/mapping/pci, by name, sorted. Descriptions are not read."""
    found = [_of_entry(entry) for entry in answer if entry.get("id")]
    return {stored.name: stored for stored in sorted(found, key=lambda stored: stored.name)}


def read(client: Client) -> dict[str, Stored]:
    """The mappings that this user may see, by name, sorted. Raises ApiError."""
    return of_api(cluster.rows(client, PATH))


def plain(known: Mapping[str, Stored]) -> mapping.Mappings:
    """The same as the rest of the program knows mappings; PVE has left out by then what it skips."""
    return mapping.Mappings({name: one.mapping for name, one in known.items() if mapping.is_name(name)}, ())


def need(known: Iterable[str], name: str) -> None:
    """Raise ApiMissingError unless there is a mapping of this name."""
    names = list(known)
    if name not in names:
        seen = "" if names else ", nor any other that this user may see"
        raise ApiMissingError(f"there is no mapping {shown(name)}{seen}", mapping.instead(name, names))


def _of_entry(entry: dict[str, Any]) -> Stored:
    maps = entry.get("map")
    texts = maps if isinstance(maps, list) else [maps] if isinstance(maps, str) else []
    mdev, live = (entry.get(flag) is True or bool(number(str(entry.get(flag, 0)))) for flag in FLAGS)
    digest = entry.get("digest")
    return Stored(str(entry["id"]), tuple(line(str(text)) for text in texts), mdev, live, str(digest or "") or None)


def _meaning(stored: Stored) -> tuple[object, ...]:
    lines = [(one.entry, _description(one.text)) if one.entry else one.text for one in stored.lines]
    return stored.name, stored.mdev, stored.live_migration, lines


def _description(text: str) -> str | None:
    return property_string.parse(text, KEYS).get("description")
