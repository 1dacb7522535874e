# SPDX-License-Identifier: Apache-2.0
"""The PCI topology as pictures: where each function, connection and IOMMU group is drawn. No markup (see page.py).

A picture is a list of functions from top to bottom, each below the bridge that it is behind, and indented. So it is as
wide as there is room, without text becoming smaller, and its height grows with the functions. There is one picture for
each bridge of a root bus that has something behind it, and one for what is on the root bus itself. The many virtual
functions of a PF are one node there; a picture of their own has them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pvepassthru.model.text import counted, listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FEW = 4
"""So many virtual functions of a PF are drawn one by one."""
STYLES = 8
"""So many styles of regions (colour and line) take turns."""
DEEPEST = 8
"""No function is indented further."""
LEFT, STEP, GUTTER = 12, 18, 100
"""Where the first function begins, how far each bridge indents, and what is left for the groups' names on the right;
in CSS pixels, as all that follows."""
LINE, PADDING, GAP, APART, EDGE = 17, 6, 6, 14, 10
"""A line of text; above and below the text of a function; between functions; between those of different groups; above
the first function and below the last one."""
BORDER = 5
"""How far a group's region reaches beyond its functions."""


class Node(NamedTuple):
    """One function, or the folded virtual functions of one."""

    address: str
    """Of folded virtual functions that of their PF."""
    depth: int
    y: int
    height: int
    kind: str
    """`bridge`, `device`, `vf`, or `folded`."""
    group: int | None
    driver: str
    lines: tuple[tuple[str, str], ...]
    """What stands below the address: a class for the style (`name`, `vm`, `host`), and the text."""
    parent: int | None
    """The number of the node that it is behind."""


class Region(NamedTuple):
    """Functions of one IOMMU group that stand below each other."""

    group: int
    depth: int
    y: int
    height: int
    style: int | None
    """Which of STYLES; None for the group of a single function, which stands for itself."""
    elsewhere: int
    """How many functions of the group stand elsewhere."""


class Picture(NamedTuple):
    """What is drawn of one bridge with all behind it, or of one PF's virtual functions."""

    id: str
    title: str
    description: str
    height: int
    nodes: tuple[Node, ...]
    regions: tuple[Region, ...]
    folded: tuple[str, ...]
    """The PFs whose virtual functions are one node here."""


class _Row(NamedTuple):
    """A function before its place is known."""

    address: str
    depth: int
    kind: str
    group: int | None
    driver: str
    lines: tuple[tuple[str, str], ...]
    parent: int | None
    members: tuple[str, ...]
    """The functions that it stands for."""


class Topology:
    """All pictures of a host."""

    def __init__(self, devices: list[dict[str, Any]], names: dict[int, str]) -> None:
        """`devices` as in a report's contents; `names` are the VMs' names."""
        self._devices = {row["address"]: row for row in devices}
        self._names = names
        self._size: dict[int, int] = {}
        for row in devices:
            if row["group"] is not None:
                self._size[row["group"]] = self._size.get(row["group"], 0) + 1
        shared = [group for group in sorted(self._size) if self._size[group] > 1]
        self._styles = {group: place % STYLES for place, group in enumerate(shared)}

    def pictures(self, buses: list[dict[str, Any]]) -> Iterator[Picture]:
        """The pictures of a host's root buses."""
        for bus in buses:
            alone = [top for top in bus["functions"] if not top["children"] or not self._device(top)["bridge"]]
            if alone:
                yield self._picture(f"bus {bus['bus']}", f"t-{word(bus['bus'])}", self._rows(alone))
            for top in bus["functions"]:
                if top not in alone:
                    what = "root port" if str(self._device(top)["class"]).startswith("0x0604") else "bridge"
                    yield self._picture(f"{what} {top['address']}", f"t-{word(top['address'])}", self._rows([top]))

    def unfolded(self, physical_function: str, children: list[dict[str, Any]]) -> Picture:
        """The picture of all virtual functions of a PF."""
        rows = [self._row(child, 0, None) for child in children]
        return self._picture(f"virtual functions of {physical_function}", f"u-{word(physical_function)}", rows)

    # ---- rows

    def _device(self, branch: dict[str, Any]) -> dict[str, Any]:
        return self._devices[branch["address"]]

    def _rows(self, tops: list[dict[str, Any]]) -> list[_Row]:
        rows: list[_Row] = []
        waiting: list[tuple[dict[str, Any], int, int | None]] = [(top, 0, None) for top in reversed(tops)]
        while waiting:  # no recursion: buses can be deep
            branch, depth, parent = waiting.pop()
            here = len(rows)
            rows.append(self._row(branch, depth, parent))
            children = branch["children"]
            vfs = [child for child in children if self._device(child)["physical_function"]]
            if len(vfs) > FEW:
                children = [child for child in children if child not in vfs]
                rows.append(self._fold(branch["address"], vfs, depth + 1, here))
            waiting += [(child, depth + 1, here) for child in reversed(children)]
        return rows

    def _row(self, branch: dict[str, Any], depth: int, parent: int | None) -> _Row:
        row = self._device(branch)
        kind = "bridge" if row["bridge"] else "vf" if row["physical_function"] else "device"
        lines = [] if kind in {"bridge", "vf"} else [("name", row["name"])]
        lines += [("host", f"host: {use['detail']}") for use in row["uses"][:1]]
        lines += [("vm", self._vm(owner)) for owner in row["vms"][:FEW]]
        if len(row["vms"]) > FEW:
            lines.append(("vm", f"and {len(row['vms']) - FEW} more VMs"))
        driver = row["vgpu"] or row["driver"] or ("" if row["bridge"] else "no driver")
        return _Row(branch["address"], depth, kind, row["group"], driver, tuple(lines), parent, (branch["address"],))

    def _vm(self, owner: dict[str, Any]) -> str:
        state = "has it" if owner["has"] else "configured"
        name = self._names.get(owner["vmid"], "")
        return f"{'●' if owner['has'] else '○'} VM {owner['vmid']}{' ' if name else ''}{name}, {state}"

    def _fold(self, address: str, vfs: list[dict[str, Any]], depth: int, parent: int) -> _Row:
        rows = [self._device(vf) for vf in vfs]
        groups = sorted({row["group"] for row in rows if row["group"] is not None})
        used = sum(any(owner["has"] for owner in row["vms"]) for row in rows)
        where = f"in {counted(len(groups), 'IOMMU group')}" if groups else "without IOMMU groups"
        lines = (("name", where), ("vm", f"VMs have {used} of them"))
        members = tuple(row["address"] for row in rows)
        group = groups[0] if len(groups) == 1 else None
        return _Row(address, depth, "folded", group, counted(len(vfs), "VF"), lines, parent, members)

    # ---- places

    def _picture(self, title: str, name: str, rows: list[_Row]) -> Picture:
        nodes: list[Node] = []
        y = EDGE + BORDER
        for place, row in enumerate(rows):
            if place:
                y += GAP if row.group is not None and row.group == rows[place - 1].group else APART
            height = 2 * PADDING + LINE * (1 + len(row.lines))
            depth = min(row.depth, DEEPEST)
            nodes.append(Node(row.address, depth, y, height, row.kind, row.group, row.driver, row.lines, row.parent))
            y += height
        height = y + BORDER + EDGE
        regions = tuple(self._regions(rows, nodes))
        folded = tuple(row.address for row in rows if row.kind == "folded")
        return Picture(name, title, self._words(rows), height, tuple(nodes), regions, folded)

    def _regions(self, rows: list[_Row], nodes: list[Node]) -> Iterator[Region]:
        start = 0
        for place in range(1, len(rows) + 1):
            group = rows[start].group
            if place < len(rows) and rows[place].group == group and group is not None:
                continue
            if group is not None:
                run = nodes[start:place]
                top, bottom = run[0].y - BORDER, run[-1].y + run[-1].height + BORDER
                inside = sum(len(row.members) for row in rows[start:place])
                elsewhere = self._size[group] - inside
                depth = min(node.depth for node in run)
                yield Region(group, depth, top, bottom - top, self._styles.get(group), elsewhere)
            start = place

    def _words(self, rows: list[_Row]) -> str:
        """What a picture shows, for those who do not see it."""
        members = [self._devices[address] for row in rows for address in row.members]
        groups = {row["group"] for row in members if row["group"] is not None}
        shared = sorted(group for group in groups if self._size[group] > 1)
        vmids = sorted({owner["vmid"] for row in members for owner in row["vms"]})
        words = [f"{counted(len(members), 'function')} in {counted(len(groups), 'IOMMU group')}"]
        if shared:
            words.append(f"of several functions {'are the groups' if len(shared) > 1 else 'is group'} {listed(shared)}")
        words.append(f"wanted by VM {listed(vmids)}" if vmids else "wanted by no VM")
        return "; ".join(words) + ". The table of devices says the same."


def branches(buses: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every function of these root buses, each with its children, from top to bottom."""
    waiting = [branch for bus in buses for branch in bus["functions"]][::-1]
    while waiting:
        branch = waiting.pop()
        yield branch
        waiting += reversed(branch["children"])


def word(address: str) -> str:
    """A PCI address, or a bus, as part of an id."""
    return address.replace(":", "-").replace(".", "-")
