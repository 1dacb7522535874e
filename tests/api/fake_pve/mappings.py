# SPDX-License-Identifier: Apache-2.0
"""The endpoints of cluster/mapping/pci."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.model import mapping as schema
from pvepassthru.model import property_string
from pvepassthru.model.property_string import PropertyError
from tests.api.fake_pve import hardware, marks
from tests.api.fake_pve.mappingtext import Mapping
from tests.api.fake_pve.request import DIGEST, FLAG, TEXT, Died, Param, denied, failed, like

if TYPE_CHECKING:
    from tests.api.fake_pve.request import Call, Json

ANY = ("Mapping.Modify", "Mapping.Use", "Mapping.Audit")
_FLAGS = ("mdev", "live-migration-capable")


def _map_line(text: str) -> str | None:
    try:
        property_string.parse(text, schema.KEYS)
    except PropertyError as error:
        return str(error)
    return None


_OPTIONS = {"description": TEXT, "mdev": FLAG, "live-migration-capable": FLAG}
NEW = {
    **_OPTIONS,
    "id": Param(like(r"[a-zA-Z][a-zA-Z0-9_-]+"), required=True),
    "map": Param(_map_line, required=True, many=True),
}
CHANGED = {**_OPTIONS, "map": Param(_map_line, many=True), "delete": TEXT, "digest": DIGEST}


def listed(call: Call) -> Json:
    """GET: all that the sender may see; `check-node` adds what is wrong with them there."""
    node = call.get("check-node")
    found: list[Json] = []
    for name, mapping in call.state.mappings.items():
        if call.may(f"/mapping/pci/{name}", *ANY):
            row: dict[str, Json] = {"id": name, **_answer(call, mapping)}
            if node:
                faults = hardware.faults(call.state, node, name)
                row["checks"] = [{"severity": severity, "message": message} for severity, message in faults]
            found.append(row)
    return found


def one(call: Call) -> Json:
    """GET of one."""
    name = call.uri["id"]
    if not call.may(f"/mapping/pci/{name}", *ANY):
        raise denied()
    mapping = call.state.mappings.get(name)
    if mapping is None:
        raise failed(f"mapping '{name}' {marks.NOT_FOUND}")
    return _answer(call, mapping)


def create(call: Call) -> Json:
    """POST."""
    mappings, name = call.state.mappings, call.get("id") or ""
    if name in mappings:
        raise failed(f"mapping '{name}' is {marks.DEFINED}")
    mappings[name] = Mapping(list(call.params["map"]), _options(call))
    return _store(call, mappings)


def update(call: Call) -> Json:
    """PUT: the map is replaced as a whole; what else is not named stays."""
    mappings, name = call.state.mappings, call.uri["id"]
    if call.get("digest") and call.get("digest") != call.state.mapping_digest:
        raise failed(f"{marks.STALE_MAPPING}: somebody else wrote")
    if name not in mappings:
        raise failed(f"mapping '{name}' {marks.ABSENT}")
    if "map" not in call.params:
        raise failed("a mapping cannot be changed without its map")
    deletes = [word.strip() for word in (call.get("delete") or "").replace(";", ",").split(",") if word.strip()]
    if "map" in deletes or "id" in deletes:
        raise failed("a mapping cannot be without its map")
    mapping = mappings[name]
    mapping.map = list(call.params["map"])
    mapping.options |= _options(call)
    for key in deletes:
        mapping.options.pop(key, None)
    return _store(call, mappings)


def delete(call: Call) -> Json:
    """DELETE: one that is in use, or that is not there, just as well."""
    mappings = call.state.mappings
    mappings.pop(call.uri["id"], None)
    return _store(call, mappings)


def _store(call: Call, mappings: dict[str, Mapping]) -> Json:
    if call.dies:  # the file is written and renamed, so it is whole or not there at all
        raise Died
    call.state.write_mappings(mappings)
    return None


def _options(call: Call) -> dict[str, str]:
    given = {key: call.get(key) for key in _OPTIONS}
    return {key: str(int(call.flag(key))) if key in _FLAGS else text for key, text in given.items() if text is not None}


def _answer(call: Call, mapping: Mapping) -> dict[str, Json]:
    lines: list[Json] = list(mapping.map)
    flags: dict[str, Json] = {key: int(text) if key in _FLAGS else text for key, text in mapping.options.items()}
    return {"type": "pci", "map": lines, "digest": call.state.mapping_digest, **flags}
