# SPDX-License-Identifier: Apache-2.0
"""Tables on terminals of any width, and where there is none."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from pvepassthru.cli import tables
from pvepassthru.cli.tables import Column, Node

if TYPE_CHECKING:
    import pytest

COLUMNS = (Column("ADDRESS"), Column("NAME", least=8), Column("CLASS", drop=2, least=4), Column("NUMA", drop=1))
ROWS = [("0000:01:00.0", "A long name of a device", "VGA controller", "0"), ("0000:02:00.0", "b", "c", "-")]


class Terminal:
    """Standard output of this width."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, columns: int | None) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: columns is not None, raising=False)
        size = os.terminal_size((columns or 80, 24))
        monkeypatch.setattr(shutil, "get_terminal_size", lambda: size)


def shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int | None, *, colour: bool = False
) -> list[str]:
    Terminal(monkeypatch, columns)
    monkeypatch.setenv("TERM", "xterm")
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    tables.print_table(COLUMNS, ROWS)
    return capsys.readouterr().out.splitlines()


def test_whole_without_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(monkeypatch, capsys, None, colour=True) == [
        "ADDRESS       NAME                     CLASS           NUMA",
        "0000:01:00.0  A long name of a device  VGA controller  0",
        "0000:02:00.0  b                        c               -",
    ]


def test_long_cells_are_cut_first(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(monkeypatch, capsys, 50)
    assert lines[1] == "0000:01:00.0  A long name o…  VGA controller  0"


def test_then_columns_go(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(monkeypatch, capsys, 30)[:2] == ["ADDRESS       NAME        NUMA", "0000:01:00.0  A long na…  0"]
    assert shown(monkeypatch, capsys, 24)[1] == "0000:01:00.0  A long na…"


def test_addresses_are_never_cut(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(monkeypatch, capsys, 1)[1] == "0000:01:00.0  A long …"


def test_colour_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(monkeypatch, capsys, 100, colour=True)[0].startswith("\x1b[1mADDRESS")
    monkeypatch.setenv("NO_COLOR", "1")
    assert shown(monkeypatch, capsys, 100)[0].startswith("ADDRESS")


def test_a_file_of_a_host_prints_no_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_table((Column("A"),), [("\x1b[31m\n",)])
    assert capsys.readouterr().out == "A\n\\x1b[31m\\n\n"


def test_tree(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_tree([Node("bus", (Node("a", (Node("b", (Node("c"),)), Node("d"))), Node("e")))])
    assert capsys.readouterr().out == "bus\n├─ a\n│  ├─ b\n│  │  └─ c\n│  └─ d\n└─ e\n"


def test_deep_trees() -> None:
    node = Node("leaf")
    for depth in range(5000):
        node = Node(str(depth), (node,))
    tables.print_tree([node])


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 10), st.integers(1, 60)), min_size=1, max_size=8),
    st.integers(20, 200),
)
def test_any_table_fits_or_is_as_narrow_as_it_gets(shape: list[tuple[int, int, int]], room: int) -> None:
    columns = [Column("C", drop, least) for drop, least, _ in shape]
    natural = [wide for *_, wide in shape]
    places, widths = tables._fit(columns, natural, room)
    total = tables._total(places, widths)
    least = [min(wide, column.least or wide) for column, wide in zip(columns, natural, strict=True)]
    assert {place for place, column in enumerate(columns) if not column.drop} <= set(places)
    assert all(least[place] <= widths[place] <= natural[place] for place in places)
    assert total <= room or (
        all(not columns[place].drop for place in places) and all(widths[place] == least[place] for place in places)
    )
