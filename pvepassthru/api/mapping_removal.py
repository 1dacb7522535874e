# SPDX-License-Identifier: Apache-2.0
"""Taking a mapping away, or its devices of some nodes; not while a VM needs them.

PVE itself removes a mapping whoever uses it, and takes no digest for that: so who uses it, and whether it is still what
was read, is looked at just before, and what came of it just after.
Source: cluster/mapping/pci (DELETE of a mapping; PUT with the `map` that is left).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import mapping_apply, mapping_snapshots, mapping_use, mapping_wish, mappings
from pvepassthru.api.mapping_plan import LineChange, Plan
from pvepassthru.model.errors import (
    ApiConflictError,
    ApiError,
    ApiMissingError,
    ApiUnreachableError,
    ApiUnsureError,
    NotFoundError,
)
from pvepassthru.model.text import listed, one_line, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pvepassthru.api.client import Client
    from pvepassthru.api.mapping_use import Use, Uses
    from pvepassthru.api.mappings import Line, Stored
    from pvepassthru.model.errors import PassthruError


class Removal(NamedTuple):
    """What is to go of a mapping."""

    name: str
    before: Stored
    after: Stored | None
    """None when it goes as a whole."""
    lines: tuple[Line, ...]
    """Those that go."""
    users: tuple[Use, ...]
    """The entries of VMs that stand in the way."""
    unread: tuple[PassthruError, ...]
    """Why it cannot be told whether there are more of them; none if it can."""
    notes: tuple[str, ...]

    @property
    def refusal(self) -> ApiError | None:
        """Why it is not to be done; None if nothing stands in the way."""
        return _refusal(self)


def plan(name: str, stored: Stored, uses: Uses, nodes: Sequence[str] = (), devices: Sequence[str] = ()) -> Removal:
    """What is to go: of these nodes, or all, these devices (`[NODE:]ADDRESS`), or all.

    When nothing would be left the mapping goes as a whole. Raises UsageError for a word that is no device and
    NotFoundError for a node or device that the mapping has not.
    """
    gone = _lines(stored, nodes, devices)
    left = tuple(line for line in stored.lines if line not in gone)
    whole = not (nodes or devices) or not any(line.entry for line in left)
    gone = stored.lines if whole else gone
    after = None if whole else stored._replace(lines=left)
    theirs = uses.of(name)
    places = {line.node for line in gone}
    removal = Removal(name, stored, after, gone, (), (), tuple(_notes(name, theirs, after, places)))
    return _used_by(removal, uses)


def read(client: Client, name: str, nodes: Sequence[str] = (), devices: Sequence[str] = ()) -> Removal:
    """As `plan`, by what the API tells, with notes on snapshots that use it.

    Raises ApiMissingError without such a mapping, and ApiError.
    """
    known = mappings.read(client)
    mappings.need(known, name)
    _lines(known[name], nodes, devices)  # a slip is told before all VMs are read
    found = plan(name, known[name], mapping_use.read(client), nodes, devices)
    if found.refusal:
        return found
    bare = None if found.after is None else {line.node or "" for line in found.lines} - _nodes(found.after)
    return found._replace(notes=(*found.notes, *mapping_snapshots.notes(client, name, bare)))


def apply(client: Client, removal: Removal) -> str:
    """Remove it and read back, with what VMs use then; what is to be known of the way there, empty for nothing.

    Raises before anything is written as Removal.refusal, by what the VMs use just then; ApiDeniedError without
    Mapping.Modify; UsageError for a client that cannot write what is left; ApiConflictError when the mapping has been
    changed since it was read; and for what goes wrong at the write as mapping_apply.apply.
    """
    again = _used_by(removal, mapping_use.read(client))
    if again.refusal:
        raise again.refusal
    note = _write(client, removal, removal.after) if removal.after else _remove(client, removal)
    return "; ".join(one for one in (note, _meanwhile(client, removal)) if one)


def _write(client: Client, removal: Removal, after: Stored) -> str:
    """Write what is left."""
    changes = tuple(LineChange(line.node or "", line.text, None, "it is to be removed") for line in removal.lines)
    written = mapping_apply.store(client, Plan(removal.name, removal.before, after, changes, (), (), ()))
    return written.note if written else ""


def _meanwhile(client: Client, removal: Removal) -> str:
    """Which VMs have come to need between the look and the write what is gone now, with the way back; or empty."""
    try:
        now = _used_by(removal, mapping_use.read(client))
    except ApiError as error:
        return f"whether a VM has taken mapping {removal.name} meanwhile cannot be told: {error.message}"
    if now.users:
        who = listed(one.words for one in now.users)
        ways = f"{mapping_use.freeing(now.users)}; or give mapping {removal.name} back what it had"
        had = listed(f"'{line.text}'" for line in removal.lines)
        return f"mapping {removal.name} is needed by {who}, which came meanwhile: {ways} ({had})"
    if now.unread:
        return f"whether a VM has taken mapping {removal.name} meanwhile cannot be told: {now.unread[0].message}"
    return ""


def _used_by(removal: Removal, uses: Uses) -> Removal:
    """The same with who uses what is to go, and why that cannot be told."""
    places = {line.node for line in removal.lines}
    whole = removal.after is None
    return removal._replace(
        users=tuple(one for one in uses.of(removal.name) if whole or one.node in places),
        unread=tuple(error for node, error in uses.unread if whole or node is None or node in places),
    )


# ---- what is meant, and who stands in the way


def _lines(stored: Stored, nodes: Sequence[str], devices: Sequence[str]) -> tuple[Line, ...]:
    """The lines that are meant. Raises UsageError and NotFoundError."""
    having = dict.fromkeys(line.node for line in stored.lines if line.node)
    for node in nodes:
        if node not in having:
            message = f"mapping {stored.name} has no device on node {shown(node)}"
            raise NotFoundError(message, f"it has devices on {listed(having) or 'no node'}")
    here = [line for line in stored.lines if line.entry and (not nodes or line.node in nodes)]
    if not devices:
        return tuple(here)
    found: dict[Line, None] = {}
    for word in devices:
        node, selector = mapping_wish.excluded(word)
        fitting = [line for line in here if node in {"", line.node} and _has(line, selector)]
        if not fitting:
            paths = (f"{';'.join(line.entry.paths)} of node {line.node}" for line in here if line.entry)
            raise NotFoundError(f"mapping {stored.name} has no device {shown(word)}", f"it has {listed(paths)}")
        found |= dict.fromkeys(fitting)
    return tuple(line for line in stored.lines if line in found)


def _nodes(stored: Stored) -> set[str]:
    """The nodes that have a device."""
    return {line.node for line in stored.lines if line.node}


def _has(line: Line, selector: str) -> bool:
    """Whether a line's device is that of a selector, or a part of it."""
    paths = line.entry.paths if line.entry else ()
    return any(path == selector or path.startswith(f"{selector}.") or selector.startswith(f"{path}.") for path in paths)


def _notes(name: str, uses: Iterable[Use], after: Stored | None, places: set[str | None]) -> list[str]:
    """What VMs of other nodes lose."""
    if after is None:
        return []
    bare = sorted(node for node in places if node and all(line.node != node for line in after.lines))
    others = sorted({one.vmid for one in uses if one.node not in places})
    if not bare or not others:
        return []
    vms = f"VM {listed(others)} of other nodes {'uses' if len(others) == 1 else 'use'} it"
    return [f"no VM with mapping {name} can start on node {listed(bare)}, or be migrated there, any more: {vms}"]


def _refusal(removal: Removal) -> ApiError | None:
    name = removal.name
    if removal.users:
        first = removal.users[0]
        message = f"mapping {name} is in use: {listed(one.words for one in removal.users)}; nothing was changed"
        hint = mapping_use.freeing(removal.users)
        if removal.after is not None and any(line.node == first.node for line in removal.after.lines):
            way = f"pvepassthru mapping apply {name} --prune --exclude {first.node}:ADDRESS"
            hint += f"; {way} takes one device from a mapping of several while VMs use it"
        return ApiConflictError(message, hint)
    if not removal.unread:
        return None
    error = removal.unread[0]
    kind = type(error) if isinstance(error, ApiError) else ApiError
    return kind(f"whether a VM uses mapping {name} cannot be told: {error.message}; nothing was changed", error.hint)


# ---- a mapping as a whole


def _remove(client: Client, removal: Removal) -> str:
    name = removal.name
    mapping_apply.need_privilege(client, "remove", name, mapping_apply.PATH)
    now = mapping_apply.read(client, name)
    if now is None:
        raise ApiMissingError(f"mapping {name} is gone by now; nothing was changed", "somebody else has removed it")
    if not removal.before.same(now):
        message = f"mapping {name} has been changed since it was read; nothing was changed"
        raise ApiConflictError(message, "see what it has now, and repeat")
    try:
        client.delete(f"{mappings.PATH}/{name}")
    except ApiError as error:
        return _looked_up(client, removal, error)
    if mapping_apply.read(client, name) is not None:
        message = f"mapping {name} was removed, and is there again: somebody else made it meanwhile"
        raise ApiConflictError(message, "ask who needs it")
    return ""


def _looked_up(client: Client, removal: Removal, error: ApiError) -> str:
    """What came of a removal that failed, or of which nobody knows. Raises ApiError unless the mapping is gone."""
    name, unsure = removal.name, isinstance(error, ApiUnsureError)
    try:
        waits = mapping_apply.SETTLE if unsure else ()
        now = mapping_apply.settled(client, name, waits, lambda stored: stored is not None)
    except ApiError as second:
        if not unsure:
            raise error from second
        message = f"it cannot be told whether mapping {name} was removed: {error.message}; and {second.message}"
        raise ApiUnsureError(message, f"look at it: pvesh get /{mappings.PATH}/{name}") from error
    if now is None:
        why = "the answer was lost, and it is gone" if unsure else "somebody else has removed it meanwhile"
        return f"{why} ({error.message})"
    if not removal.before.same(now):
        message = f"mapping {name} was not removed: somebody else has changed it meanwhile"
        raise ApiConflictError(message, "see what it has now, and repeat") from error
    if unsure:
        message = f"mapping {name} was not removed: PVE gave no clear answer ({one_line(error.message)})"
        raise ApiUnreachableError(f"{message}, and it is as it was", "run the same again") from error
    raise mapping_apply.told(error, f"{error.message}; mapping {name} is as it was") from error
