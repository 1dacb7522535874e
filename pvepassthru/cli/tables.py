# SPDX-License-Identifier: Apache-2.0
"""Tables and trees, fitted to the terminal.

Where the output is no terminal nothing is cut or left out, so that columns stay what they are for the programs that
read them; `--json` is better for these. On a terminal the columns that matter least go first, then long cells are cut;
an address never is. Colour is on a terminal only, and not with NO_COLOR (https://no-color.org) or TERM=dumb.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.model.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

GAP = "  "
ELLIPSIS = "…"
BOLD, DIM, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


class Column(NamedTuple):
    """One column of a table."""

    title: str
    drop: int = 0
    """Which columns go first where there is no room: those with the highest number; with 0 it never goes."""
    least: int = 0
    """The characters to which a cell may be cut; 0 for never."""


class Node(NamedTuple):
    """One line of a tree with what is below it."""

    text: str
    below: tuple[Node, ...] = ()


def width() -> int | None:
    """The characters of a line of the terminal that is written to, or None if that is no terminal."""
    return max(20, shutil.get_terminal_size().columns) if _terminal() else None


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under their columns' titles; what a host's files say is made safe to print."""
    texts = [[one_line(cell) for cell in row] for row in rows]
    room = width()
    shown = list(range(len(columns)))
    widths = [max([len(column.title), *(len(row[place]) for row in texts)]) for place, column in enumerate(columns)]
    if room is not None:
        shown, widths = _fit(columns, widths, room)
    titles = [column.title for column in columns]
    for number, row in enumerate([titles, *texts]):
        cells = (_cut(row[place], widths[place]).ljust(widths[place]) for place in shown)
        line = GAP.join(cells).rstrip()
        print(_styled(line, BOLD) if number == 0 else line)


def print_tree(nodes: Iterable[Node]) -> None:
    """Print trees, a line a node, cut to the terminal."""
    room = width()
    branch, last, bar, blank = ("├─ ", "└─ ", "│  ", "   ") if _unicode() else ("|- ", "`- ", "|  ", "   ")
    for root in nodes:
        for depth, line in _lines(root, branch, last, bar, blank):
            text = line if room is None else _cut(line, room)
            print(_styled(text, BOLD) if depth == 0 else text)


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print names with their values below each other, a value's further lines indented under its first."""
    pairs = [(name, value.split("\n")) for name, value in fields]
    indent = max((len(name) for name, _ in pairs), default=0)
    for name, values in pairs:
        print(f"{_styled(name, BOLD)}{' ' * (indent - len(name))}{GAP}{one_line(values[0])}".rstrip())
        for value in values[1:]:
            print(f"{' ' * indent}{GAP}{one_line(value)}".rstrip())


def _fit(columns: Sequence[Column], natural: Sequence[int], room: int) -> tuple[list[int], list[int]]:
    """The places of the columns that are shown, and the widths of all: fitted to `room` as far as they can be."""
    least = [min(wide, column.least or wide) for column, wide in zip(columns, natural, strict=True)]
    shown = list(range(len(columns)))
    while _total(shown, least) > room:
        ranked = [place for place in shown if columns[place].drop]
        if not ranked:
            break
        shown.remove(max(ranked, key=lambda place: columns[place].drop))
    widths = list(natural)
    while (over := _total(shown, widths) - room) > 0:
        widest = max(shown, key=lambda place: widths[place] - least[place])
        if widths[widest] <= least[widest]:
            break
        others = [widths[place] for place in shown if place != widest and widths[place] > least[place]]
        step = max(1, min(over, widths[widest] - max(others, default=0)))
        widths[widest] = max(least[widest], widths[widest] - step)
    return shown, widths


def _total(shown: Sequence[int], widths: Sequence[int]) -> int:
    return sum(widths[place] for place in shown) + len(GAP) * (len(shown) - 1)


def _cut(text: str, room: int) -> str:
    if len(text) <= room:
        return text
    return text[: room - 1] + (ELLIPSIS if _unicode() else "~")


def _lines(root: Node, branch: str, last: str, bar: str, blank: str) -> Iterator[tuple[int, str]]:
    """(depth, line) of a tree, without recursion: buses can be deep, and a host's files are what they are."""
    pending = [(0, "", "", root)]
    while pending:
        depth, lead, mark, node = pending.pop()
        yield depth, lead + mark + one_line(node.text)
        inner = lead + ("" if depth == 0 else blank if mark == last else bar)
        for number, child in enumerate(reversed(node.below)):
            pending.append((depth + 1, inner, branch if number else last, child))


def _styled(text: str, style: str) -> str:
    return f"{style}{text}{PLAIN}" if _colour() else text


def _colour() -> bool:
    return _terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _terminal() -> bool:
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError):  # closed
        return False


def _unicode() -> bool:
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return encoding.lower().replace("-", "") in {"utf8", "utf16", "utf32"}
