# SPDX-License-Identifier: Apache-2.0
"""What is to become of one mapping: the devices that were found, merged into what it has. Pure: nothing is asked.

What fits its node stays, whoever wrote it, and so does what cannot be judged: the lines of other nodes, and of nodes
that did not answer. A line that fits its node no more is named, and removed only where that is wanted; it is made
right where its own device is among those that were found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import mapping_order, mapping_search, mapping_wish, mappings
from pvepassthru.api import nodes as places
from pvepassthru.api.hardware import API_CANNOT_TELL
from pvepassthru.api.mappings import Line, Stored
from pvepassthru.model import mapped, pci, property_string
from pvepassthru.model.errors import DeviceError, NotFoundError, UsageError
from pvepassthru.model.mapping import KEYS
from pvepassthru.model.text import counted, listed, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pvepassthru.api.hardware import NodeHardware
    from pvepassthru.api.mapping_search import Found, Search
    from pvepassthru.api.mapping_wish import Sought
    from pvepassthru.api.nodes import Nodes


class Options(NamedTuple):
    """How a mapping is to be made."""

    order: str = ""
    """One of mapping_order.ORDERS; empty leaves the order as it is, with new devices at the end."""
    live_migration: bool = False
    """Whether the mapping says that its devices can be migrated live; else that stays as it is."""
    prune: bool = False
    """Whether lines that fit their node no more are removed, and those of devices that are excluded."""
    exclude: tuple[str, ...] = ()
    """Devices that are not to be taken: addresses or slots, with `NODE:` before where one node's is meant."""


AS_IT_IS = Options()


class LineChange(NamedTuple):
    """What is to become of one line."""

    node: str
    old: str | None
    new: str | None
    reason: str


class Stale(NamedTuple):
    """A line that fits its node no more, and stays."""

    node: str
    text: str
    why: str


class Plan(NamedTuple):
    """What is to become of one mapping."""

    name: str
    before: Stored | None
    """None for a new one."""
    after: Stored
    lines: tuple[LineChange, ...]
    """Lines that are added, made right or removed."""
    moved: tuple[str, ...]
    """Nodes whose lines that stay are put into another order."""
    stale: tuple[Stale, ...]
    notes: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        return not self.after.same(self.before)


def plan(
    name: str, known: Mapping[str, Stored], seen: Nodes, sought: Sought | None = None, options: Options = AS_IT_IS
) -> Plan:
    """The mapping of this name with the devices that are sought, by default those of the model that it has already.

    Raises UsageError for what is ambiguous or contradicts the mapping, ApiMissingError for an unknown node, or mapping
    where nothing is sought, NotFoundError when what is sought is nowhere, DeviceError when nothing would be left.
    """
    mapping_wish.name(name)
    before = known.get(name)
    own = sought is None
    if sought is None:
        mappings.need(known, name)
        sought = mapping_wish.of_mapping(known[name].mapping)
    without = [mapping_wish.excluded(word) for word in options.exclude]
    places.chosen(seen.known, [node for node, _ in without if node])
    try:
        found = mapping_search.search(sought, seen.hardware, without)
    except NotFoundError as error:
        if not own:
            raise _with_unread(error, seen) from error
        found = mapping_search.Search({}, (str(error),))  # what it has is looked at all the same
    planner = _Planner(name, before, seen, options, mdev=_flag(name, before, found, sought), without=without)
    made = planner.plan(found, known)
    new = any(change.old is None for change in made.lines)
    return made._replace(notes=(*made.notes, API_CANNOT_TELL)) if new else made


def _with_unread(error: NotFoundError, seen: Nodes) -> NotFoundError:
    """The same error with the nodes that were not looked at, where it may be."""
    if not seen.unread:
        return error
    words = "; ".join(f"node {node} was not looked at: {why.message}" for node, why in sorted(seen.unread.items()))
    return NotFoundError(f"{error.message}; {words}", error.hint)


def with_device(name: str, known: Mapping[str, Stored], seen: Nodes, found: Found) -> Plan:
    """The mapping of this name with just this one device more. Raises UsageError as `plan`."""
    alone = mapping_search.Search({found.entry.node: (found,)}, ())
    return _Planner(name, known.get(name), seen, AS_IT_IS, mdev=found.mdev).plan(alone, known)


def _flag(name: str, before: Stored | None, found: Search, sought: Sought) -> bool:
    """What the mapping says of mediated devices: PVE wants just what its devices are. Raises UsageError."""
    kinds = {one.mdev for devices in found.found.values() for one in devices}
    if len(kinds) == 1:
        return kinds.pop()
    if before is not None and not sought.mdev:
        return before.mdev
    hint = "--mdev takes those that have; load the driver on the others, or exclude them"
    raise UsageError(f"some of the devices for mapping {name} have mediated devices, and others have not", hint)


class _Planner:
    """One mapping on its way."""

    def __init__(  # noqa: PLR0913 - what varies is by keyword
        self,
        name: str,
        before: Stored | None,
        seen: Nodes,
        options: Options,
        *,
        mdev: bool,
        without: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.name = name
        self.without = without
        self.before = before
        self.seen = seen
        self.options = options
        live = options.live_migration or bool(before and before.live_migration)
        self.empty = Stored(name, (), mdev, live, before.digest if before else None)
        self.changes: list[LineChange] = []
        self.stale: list[Stale] = []
        self.notes: dict[str, None] = {}

    def plan(self, search: Search, known: Mapping[str, Stored]) -> Plan:
        self.notes |= dict.fromkeys(search.notes)
        self._check_flag()
        self._check_class(search)
        lines = self.before.lines if self.before else ()
        rows = {node: [line for line in lines if line.node == node] for node in self.seen.hardware}
        new = {
            node: self._of_node(hardware, rows[node], search.found.get(node, ()))
            for node, hardware in sorted(self.seen.hardware.items())
        }
        moved = [node for node, found in new.items() if _is_moved(rows[node], found)]
        after = self.empty._replace(lines=self._merged(lines, new))
        if not after.lines:
            hint = f"if that is meant: pvepassthru mapping remove {self.name}"
            raise DeviceError(f"nothing would be left in mapping {self.name}", hint)
        self._say(search, known, after)
        return Plan(
            self.name,
            self.before,
            after,
            tuple(self.changes),
            tuple(moved),
            tuple(self.stale),
            tuple(self.notes),
        )

    def _check_flag(self) -> None:
        """Raise UsageError when the mapping says the contrary of mediated devices for lines that stay."""
        before = self.before
        if before is None or before.mdev == self.empty.mdev:
            return
        others = sorted({line.node for line in before.lines if line.node and line.node not in self.seen.hardware})
        fitting = sorted(
            node
            for node, hardware in self.seen.hardware.items()
            for line in before.lines
            if line.node == node and line.entry and not mapped.check(before.mapping, line.entry, hardware, "", None)
        )
        if others or fitting:
            says = "mdev 1" if before.mdev else "no mdev 1"
            message = f"mapping {self.name} says {says}, and the devices that were found are otherwise"
            where = listed(dict.fromkeys(fitting or others))
            hint = f"make another mapping for them, since it has devices on {where}, and PVE compares this everywhere"
            raise UsageError(message, hint)
        self.notes[f"mapping {self.name} says mdev {int(self.empty.mdev)} from now on, as its devices are"] = None

    def _check_class(self, search: Search) -> None:
        """Raise UsageError when all that was found is of another class than what the mapping has."""
        has: dict[str, str] = {}
        for line in self.before.lines if self.before else ():
            hardware = self.seen.hardware.get(line.node or "")
            if hardware is not None:
                for address in _functions(hardware, line)[:1]:
                    has.setdefault(hardware.functions[address].pci_class[:2], hardware.functions[address].words)
        found = {
            self.seen.hardware[node].functions[one.functions[0]].pci_class[:2]: one.functions[0]
            for node, devices in search.found.items()
            for one in devices
        }
        if has and found and has.keys().isdisjoint(found):
            new, old = next(iter(found.values())), next(iter(has.values()))
            message = f"mapping {self.name} has {old}, and {new} is a device of another class"
            raise UsageError(
                message, "make another mapping for it, since a VM with a mapping may get any of its devices"
            )

    # ---- the lines of one node that answered

    def _of_node(self, hardware: NodeHardware, lines: Sequence[Line], found: Sequence[Found]) -> list[Line]:
        """The lines of a node as they are to be, in their order."""
        devices = [one for one in found if one.mdev == self.empty.mdev]
        self.notes |= dict.fromkeys(
            f"left out: {one.entry.paths[0]} of node {hardware.node} has "
            f"{'mediated devices' if one.mdev else 'no mediated devices now'}, unlike the mapping's others"
            for one in found
            if one.mdev != self.empty.mdev
        )
        fitting, unfit = self._judged(hardware, lines)
        taken = {address for line in fitting for address in _functions(hardware, line)}
        free = [one for one in devices if taken.isdisjoint(one.functions)]
        result: list[Line] = []
        for line in lines:
            if _is_excluded(hardware, line, self.without):
                if self.options.prune:
                    self.changes.append(LineChange(hardware.node, line.text, None, "it is excluded"))
                    continue
                words = f"{_first(hardware, line)} of node {hardware.node} is excluded and in the mapping already"
                self.notes[f"{words}: it stays, unless --prune removes it"] = None
            if line in fitting:
                result.append(line)
                continue
            own = next((one for one in free if line.entry and one.entry.paths == line.entry.paths), None)
            if own and line.entry:
                free.remove(own)
                result.append(self._mended(line, own, unfit[line]))
            elif self.options.prune:
                self.changes.append(LineChange(hardware.node, line.text, None, unfit[line]))
            else:
                self.stale.append(Stale(hardware.node, line.text, unfit[line]))
                result.append(line)
        for one in free:
            result.append(mappings.line(mappings.text_of(one.entry)))
            self.changes.append(LineChange(hardware.node, None, result[-1].text, one.words))
        return self._ordered(hardware, result) if self.options.order else result

    def _judged(self, hardware: NodeHardware, lines: Iterable[Line]) -> tuple[list[Line], dict[Line, str]]:
        """The lines that fit the node, and the others with the reason."""
        fitting, unfit = [], {}
        for line in lines:
            problems = mapped.check(self.empty.mapping, line.entry, hardware, "", None) if line.entry else []
            if problems:
                unfit[line] = "; ".join(problem.message.partition(": ")[2] for problem in problems)
            else:
                fitting.append(line)
        return fitting, unfit

    def _mended(self, line: Line, found: Found, why: str) -> Line:
        """A line with what PVE compares as it is now; its other words stay."""
        values = property_string.parse(line.text, KEYS)
        compared = property_string.parse(mappings.text_of(found.entry), KEYS)
        kept = {key: text for key, text in values.items() if key == "description"}
        new = mappings.line(property_string.write(compared | kept, KEYS))
        self.changes.append(LineChange(found.entry.node, line.text, new.text, why))
        return new

    def _ordered(self, hardware: NodeHardware, lines: Sequence[Line]) -> list[Line]:
        """The lines in the order that is wanted; what is not there comes last."""
        places: dict[str, list[Line]] = {}
        for line in lines:
            places.setdefault(_first(hardware, line), []).append(line)
        firsts = [_first(hardware, line) for line in lines]
        said = mapping_order.effect(hardware, firsts, self.options.order)
        if said:
            self.notes[said] = None
        return [places[first].pop(0) for first in mapping_order.ordered(hardware, firsts, self.options.order)]

    # ---- all together

    def _merged(self, lines: Sequence[Line], new: Mapping[str, Sequence[Line]]) -> tuple[Line, ...]:
        """All lines: those of a node stand where its lines stood, and new ones behind its last."""
        left = {node: list(rows) for node, rows in new.items()}
        last = {line.node: at for at, line in enumerate(lines)}
        result: list[Line] = []
        for at, line in enumerate(lines):
            node = line.node
            if node in left:
                many = len(left[node]) if last[node] == at else 1
                result += left[node][:many]
                del left[node][:many]
            elif self._is_foreign(node) and self.options.prune:
                self.changes.append(LineChange(str(node), line.text, None, _foreign(str(node))))
            else:
                if self._is_foreign(node):
                    self.stale.append(Stale(str(node), line.text, _foreign(str(node))))
                result.append(line)
        return (*result, *(line for node in sorted(left) for line in left[node]))

    def _is_foreign(self, node: str | None) -> bool:
        """Whether a line is of a node that the cluster has not."""
        return node is not None and self.seen.everywhere and node not in self.seen.known

    def _say(self, search: Search, known: Mapping[str, Stored], after: Stored) -> None:
        """Note what follows."""
        for node, error in sorted(self.seen.unread.items()):
            count = sum(line.node == node for line in after.lines)
            keeps = f"keeps its {counted(count, 'line')}" if count else "its devices are not in the plan"
            self.notes[f"node {node} was not looked at, and {keeps}: {error.message}"] = None
        broken = sorted({stale.node for stale in self.stale if stale.node in self.seen.hardware})
        if broken:
            message = f"PVE refuses to start any VM with mapping {self.name} on {listed(broken)}"
            self.notes[f"{message} until the lines that do not fit are removed (--prune)"] = None
        without = [node for node in sorted(self.seen.hardware) if all(line.node != node for line in after.lines)]
        if without and len(self.seen.hardware) > 1:
            self.notes[f"no such device on {listed(without)}: no VM with the mapping can start there"] = None
        added = [line for change in self.changes if change.new for line in (mappings.line(change.new),)]
        for other in known.values():
            both = sorted(
                {f"{line.entry.paths[0]} of node {line.node}" for line in added if line.entry and _shares(line, other)}
            )
            if both and other.name != self.name:
                words = f"mapping {other.name} has {listed(both, 4)} too (PVP413)"
                self.notes[f"{words}: VMs with either compete for it"] = None
        if self.empty.mdev and any(search.found.values()) and not (self.before and self.before.mdev):
            self.notes["its devices have mediated devices: a hostpci entry says which type with mdev="] = None


def _functions(hardware: NodeHardware, line: Line) -> tuple[str, ...]:
    return hardware.reached(line.entry.paths) if line.entry else ()


def _is_excluded(hardware: NodeHardware, line: Line, without: Sequence[tuple[str, str]]) -> bool:
    """Whether a device that is not to be taken has a line already."""
    return any(
        node in {"", hardware.node} and address.startswith(selector)
        for node, selector in without
        for address in _functions(hardware, line)
    )


def _first(hardware: NodeHardware, line: Line) -> str:
    """The first function of a line, or its path where there is none."""
    found = _functions(hardware, line)
    return found[0] if found else line.entry.paths[0] if line.entry else line.text


def _is_moved(before: Sequence[Line], after: Sequence[Line]) -> bool:
    """Whether lines that stay stand in another order."""
    texts = [line.text for line in after]
    stay = [line.text for line in before if line.text in texts]
    return stay != [text for text in texts if text in stay]


def _shares(line: Line, other: Stored) -> bool:
    """Whether a mapping has the device of a line, or a part of it."""
    return any(
        one.entry and line.entry and one.node == line.node and pci.overlap(mine, path)
        for one in other.lines
        for path in (one.entry.paths if one.entry else ())
        for mine in (line.entry.paths if line.entry else ())
    )


def _foreign(node: str) -> str:
    return f"the cluster has no node {shown(node)}"
