# SPDX-License-Identifier: Apache-2.0
"""What `./dev bench --write` writes: the plots and the numbers of docs/performance.md."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench import growth, page, plot, races, run
from bench.growth import Curve
from bench.measure import BenchError, Program, Row, in_order, together
from pvepassthru.lifecycle import shim_file

ROOT = Path(__file__).resolve().parent.parent
CURVE = Curve("vms", "Time by VMs", "VMs", (64, 128, 256), {"one <&>": [100.0, 150.0, 300.0], "two": [5.0, 5.0, 5.0]})
ROWS = [Row("ours", "3.11", 12.0, "theirs", 10.0, 1.2), Row("slow", "3.11", 13.0, "theirs", 10.0, 1.2),
        Row("told", "3.13", 30.0, "perl -e 1", 2.0, None)]  # fmt: skip
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


# ---- plots


def luminance(colour: str) -> float:
    """WCAG 2.1, relative luminance."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_the_same_numbers_give_the_same_plot() -> None:
    assert plot.draw(CURVE) == plot.draw(CURVE)
    assert plot.draw(CURVE) != plot.draw(
        CURVE._replace(times={"one <&>": [100.0, 150.0, 301.0], "two": [5.0, 5.0, 5.0]})
    )


def test_a_plot_stands_alone() -> None:
    """No script, nothing of the library's but the drawing, and no other file; but for names of XML name spaces."""
    text = plot.draw(CURVE)
    root = ET.fromstring(text)  # noqa: S314 - made here
    assert {element.tag.rpartition("}")[2] for element in root.iter()} <= {
        *("svg", "defs", "style", "title", "g", "rect", "path", "text", "circle", "line")
    }
    assert not [name for element in root.iter() for name in element.attrib if name.startswith("on") or "href" in name]
    assert not re.search(r"https?://(?!www\.w3\.org/)|<!--|url\(|@import|Copyright", text)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == "Time by VMs: one <&>, two"
    assert len(text) < 20_000


def test_a_plot_has_all_points_and_names() -> None:
    root = ET.fromstring(plot.draw(CURVE))  # noqa: S314 - made here
    words = [element.text for element in root.iter() if element.tag.endswith("}text")]
    assert {"one <&>", "two", "Time by VMs", "VMs", "seconds", "64", "128", "256"} <= set(words)
    assert sum(element.tag.endswith("}circle") for element in root.iter()) == 6
    lines = [element for element in root.iter() if "line" in element.attrib.get("class", "").split()]
    assert sum("color-" in element.attrib["class"] for element in lines) == 2, "in the legend"


def test_a_plot_is_readable_in_light_and_dark() -> None:
    text = plot.css(len(plot.COLOURS))
    assert "@media (prefers-color-scheme: dark)" in text
    assert len(set(plot.DASHES)) == len(plot.COLOURS) >= len(growth.COMMANDS)
    for background in (plot.LIGHT, plot.DARK):
        assert contrast(plot.INK[background], background) >= 4.5
        assert plot.INK[background] in text
        assert all(contrast(colour, background) >= 3 for colour in plot.COLOURS)


# ---- the page


def test_the_numbers_go_between_the_marks_and_the_rest_stays(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    file = tmp_path / page.PAGE
    file.write_text(f"before\n{page.BEGIN}\nof another run\n{page.END}\nafter\n", encoding="utf-8")
    text = ""
    for _ in range(2):
        page.write(str(tmp_path), ["measured on a day"], ROWS, [CURVE])
        text = file.read_text("utf-8")
        assert text.startswith(f"before\n{page.BEGIN}\n\n- measured on a day\n")
        assert text.endswith(f"\n{page.END}\nafter\n")
        assert "of another run" not in text
    assert "| ours | 3.11 | 12.0 | theirs | 10.0 | **1.20** | 1.2 |" in text
    assert "| slow | 3.11 | 13.0 | theirs | 10.0 | **1.30** | 1.2, **broken** |" in text
    assert "| told | 3.13 | 30.0 | perl -e 1 | 2.0 | **15.00** |  |" in text
    assert "| `one <&>` | 100 | 150 | 300 | 2.00 |" in text
    assert "![Time by VMs](performance-vms.svg)" in text
    assert (tmp_path / "docs/performance-vms.svg").read_text("utf-8") == plot.draw(CURVE)


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / page.PAGE).write_text(f"{page.BEGIN}\n", encoding="utf-8")
    with pytest.raises(BenchError, match="marks"):
        page.write(str(tmp_path), [], ROWS, [CURVE])
    assert os.listdir(tmp_path / "docs") == ["performance.md"]


def test_the_page_has_no_numbers_written_by_hand() -> None:
    before, _, rest = (ROOT / page.PAGE).read_text("utf-8").partition(page.BEGIN)
    block, _, after = rest.partition(page.END)
    assert block.strip()
    assert not re.search(r"\d\s*(ms|s|milliseconds|seconds|MiB|times)\b|\d\.\d(?!\d*/)", before + after)


def test_what_was_measured_on_is_said() -> None:
    lines = page.about([(VERSION, sys.executable)], 7, fast=True)
    assert re.fullmatch(r"measured on \d{4}-\d\d-\d\d", lines[0])
    assert lines[1] == f"Python {sys.version.split()[0]}"
    assert lines[2].startswith(f"Linux {os.uname().release}, ")
    assert lines[3].startswith("7 rounds")
    assert lines[3].endswith("(--fast)")


# ---- what is measured


def test_growth_has_a_time_for_each_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "COMMANDS", {"doctor": ["doctor"], "validate --all": ["validate", "--all"]})
    found = growth.measure(run.COMMAND, sys.executable, str(tmp_path), growth.Scale((8, 16), (1, 2), 1))
    assert [(curve.name, curve.sizes) for curve in found] == [("functions", (8, 16)), ("vms", (1, 2))]
    for curve in found:
        assert list(curve.times) == list(growth.COMMANDS)
        assert all(len(times) == 2 and min(times) > 0 for times in curve.times.values())
    assert os.listdir(tmp_path) == []


def test_doubling() -> None:
    assert (CURVE.doubling("one <&>"), CURVE.doubling("two")) == (2.0, 1.0)


def test_races_are_measured_and_their_outcome_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(races, "STARTS", 2)
    (row,) = races.rows(str(tmp_path / "fine"), run.install_hook(str(tmp_path)), 1, [(VERSION, sys.executable)])
    assert row.what == "2 pre-starts at once, one mdev each on one GPU"
    assert min(row.ours_ms, row.baseline_ms) > 0
    idle = tmp_path / "idle.py"
    idle.write_text("")
    with pytest.raises(BenchError, match="0 instances are there after 2 starts or stops at once, expected 2"):
        list(races.rows(str(tmp_path / "bad"), str(idle), 1, [(VERSION, sys.executable)]))


def test_the_hook_that_attach_installs_is_measured(tmp_path: Path) -> None:
    """Its first line, its mode, its code; one line more lets it find the checkout."""
    with open(run.install_hook(str(tmp_path)), "rb") as file:
        lines = file.read().splitlines(keepends=True)
    assert b"sys.path.insert" in lines.pop(1)
    assert b"".join(lines) == shim_file.text()
    (row, *_) = run.hook_rows(str(tmp_path), 1, [(VERSION, sys.executable)])
    assert row.what == "pre-start of a VM without hostpci"


def test_hook_in_perl_is_measured(tmp_path: Path) -> None:
    rows = list(run.perl_rows(str(tmp_path), 1, [(VERSION, sys.executable)]))
    assert [(row.baseline, row.limit) for row in rows] == [
        ("a hookscript in Perl that reads the config", None), ("perl -e 1", None), ("perl -e 1", None)
    ]  # fmt: skip
    assert rows[0].baseline_ms == rows[1].ours_ms


def test_hook_in_perl_reads_the_config(tmp_path: Path) -> None:
    """One that does not would be no peer."""
    list(run.perl_rows(str(tmp_path), 1, []))
    program = Program([run.PERL, run.PLAIN_HOOK, "101", "pre-start"], {"PVEPASSTHRU_ROOT": f"{tmp_path}/perl"})
    with pytest.raises(BenchError, match="failed with"):
        in_order([program])
    assert in_order([program._replace(argv=[*program.argv[:3], "post-stop"])]) > 0


def test_programs_at_once_really_are(tmp_path: Path) -> None:
    """Each waits for the file that the other makes."""
    script = f"cd {tmp_path}; touch $0; while ! [ -e $1 ]; do sleep 0.01; done"
    assert together([Program(["/bin/sh", "-c", script, *names]) for names in (("a", "b"), ("b", "a"))]) > 0
    with pytest.raises(BenchError, match="failed with 3"):
        together([Program(["/bin/true"]), Program(["/bin/sh", "-c", "exit 3"])])
