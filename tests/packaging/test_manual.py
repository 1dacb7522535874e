# SPDX-License-Identifier: Apache-2.0
"""The manual pages: they say what --help and the policy's schema say, and man and mandoc have nothing against them."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pvepassthru.cli.main import build_parser
from tests.packaging.package import PROJECT, need, said

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMAND, POLICY = "pvepassthru.1", "pvepassthru.yaml.5"
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")


def write(folder: Path, **variables: str) -> dict[str, str]:
    said(sys.executable, PROJECT / "packaging" / "manual.py", folder, **variables)
    return {path.name: path.read_text("utf-8") for path in folder.iterdir()}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write(tmp_path_factory.mktemp("pages"))


def plain(source: str) -> str:
    """Roff without its marks."""
    text = re.sub(r"\\f[BIR]|\\&", "", source).replace("\\-", "-").replace("\\e", "\\").replace("\\(aq", "'")
    return text.replace("\\(ga", "`").replace("\\(ti", "~").replace("\\(ha", "^")


def parts(page: str, level: str) -> dict[str, str]:
    """The parts of a page, .SH or .SS, by their titles."""
    found = re.split(rf'^\.{level} "?(.*?)"?$', page, flags=re.MULTILINE)
    return {plain(title): plain(text) for title, text in zip(found[1::2], found[2::2], strict=True)}


def parsers(parser: argparse.ArgumentParser, words: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield words, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from parsers(below, f"{words} {name}".strip())


def listed(text: str) -> set[str]:
    """The options that have a line of their own, in --help or behind .TP."""
    lines = re.findall(r"^(?: {2}|\.TP\n)(-.*)$", text, re.MULTILINE)
    return {word for line in lines for word in OPTION.findall(re.split(r"\s{2,}", line)[0])}


# ---- they say what the program says


def test_the_page_has_every_command_and_no_other(pages: dict[str, str]) -> None:
    chapter = parts(pages[COMMAND], "SH")["COMMANDS"]
    assert list(parts(pages[COMMAND].partition(".SH COMMANDS")[2].partition(".SH ")[0], "SS")) == [
        words for words, _ in parsers(build_parser()) if words
    ]
    assert "pvepassthru mdev types [option ...] [ADDRESS]" in chapter


def test_the_page_has_every_option_of_help_and_no_other(pages: dict[str, str]) -> None:
    told = parts(pages[COMMAND].partition(".SH COMMANDS")[2].partition(".SH ")[0], "SS")
    told[""] = parts(pages[COMMAND], "SH")["OPTIONS"]
    for words, parser in parsers(build_parser()):
        helped = listed(parser.format_help())
        assert "--help" in helped
        assert listed(told[words]) == helped - ({"-h", "--help"} if words else set()), words


def test_the_page_says_of_an_option_what_help_says(pages: dict[str, str]) -> None:
    flat = " ".join(plain(pages[COMMAND]).split()).replace("`", "").lower()
    for words, parser in parsers(build_parser()):
        for action in parser._actions:
            if action.help and not isinstance(action, argparse._SubParsersAction):
                formatter = parser._get_formatter()
                wanted = " ".join(formatter._expand_help(action).split()).replace("`", "").lower()
                assert wanted in flat, f"{words}: {wanted}"


def test_the_page_has_every_exit_code(pages: dict[str, str]) -> None:
    codes = re.findall(r"^\| (\d+) \|", (PROJECT / "docs/exit-codes.md").read_text("utf-8"), re.MULTILINE)
    told = parts(pages[COMMAND], "SH")["EXIT STATUS"]
    assert re.findall(r"^\.TP\n(\d+)$", told, re.MULTILINE) == list(dict.fromkeys(codes))
    assert "what was named does not exist; what was asked of the PVE API does not exist." in " ".join(told.split())


def test_the_page_names_variables_and_files_that_there_are(pages: dict[str, str]) -> None:
    sources = "".join(path.read_text("utf-8") for path in (PROJECT / "pvepassthru").rglob("*.py"))
    sections = parts(pages[COMMAND], "SH")
    for name in re.findall(r"\b[A-Z]+_[A-Z_]+\b", sections["ENVIRONMENT"]):
        prefix, _, rest = name.partition("_")
        assert name in sources or (prefix == "PVE" and rest.lower() in sources), name
    for name in re.findall(r"/(?:etc|run|var)/[\w./-]+", sections["FILES"]):
        assert name.rstrip("/") in sources, name
    assert all(
        (PROJECT / "packaging/systemd" / name).exists()
        for name in re.findall(r"pve[a-z-]+\.(?:timer|service)", pages[COMMAND])
    )


def test_the_policys_page_has_every_setting_with_its_default(pages: dict[str, str]) -> None:
    schema = json.loads((PROJECT / "pvepassthru/host/policy.schema.json").read_text("utf-8"))
    chapters = pages[POLICY].partition(".SH SECTIONS")[2]
    sections = parts(chapters.partition(".SH ")[0], "SS")
    assert list(sections) == list(schema["properties"])
    settings = parts(pages[POLICY], "SH")["SETTINGS"]
    assert re.findall(r"^\.TP\n(\w+)$", settings, re.MULTILINE) == list(schema["definitions"])
    flat = " ".join(plain(pages[POLICY]).split())

    def walk(node: dict[str, object]) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(value)
            elif key == "default":
                assert f"Default: {json.dumps(value).strip(chr(34))}." in flat
            elif key == "description" and node is not schema:
                assert " ".join(str(value).replace("`", "").split()) in flat

    walk(schema)
    for name, section in schema["properties"].items():
        inner = section.get("additionalProperties") or section.get("items") or section
        for setting in inner.get("properties", {}) if isinstance(inner, dict) else section["properties"]:
            assert re.search(rf"\b{setting}\b", sections[name]), f"{name}.{setting}"


def test_the_policys_page_has_the_example_as_it_is(pages: dict[str, str]) -> None:
    lines = parts(pages[POLICY], "SH")["EXAMPLE"].splitlines()
    first, last = lines.index(".nf"), lines.index(".fi")
    example = (PROJECT / "packaging/policy.example.yaml").read_text("utf-8")
    assert lines[first + 1 : last] == example.splitlines()


# ---- programs take them


@pytest.mark.parametrize("name", [COMMAND, POLICY])
def test_man_and_mandoc_have_nothing_against_it(name: str, pages: dict[str, str], tmp_path: Path) -> None:
    need("man", "mandoc", "groff")
    (tmp_path / name).write_text(pages[name], encoding="utf-8")
    for words in (["man", "--warnings", "-E", "UTF-8", "-Tutf8", "-Z", "-l"], ["mandoc", "-T", "lint", "-W", "style"]):
        done = subprocess.run([*words, str(tmp_path / name)], capture_output=True, text=True, check=False)
        complaints = done.stdout if words[0] == "mandoc" else done.stderr
        assert not complaints, complaints


def test_man_would_complain(tmp_path: Path) -> None:
    """Else the test above could not fail."""
    need("man", "mandoc", "groff")
    (tmp_path / "a.1").write_text(".TH A 1\n.SH NAME\n.nonsense\n", encoding="utf-8")
    words = ["man", "--warnings", "-E", "UTF-8", "-Tutf8", "-Z", "-l", str(tmp_path / "a.1")]
    assert "nonsense" in subprocess.run(words, capture_output=True, text=True, check=False).stderr


# ---- the same sources make the same pages


def test_the_date_is_that_of_the_sources(pages: dict[str, str], tmp_path: Path) -> None:
    again = write(tmp_path, SOURCE_DATE_EPOCH="86399", TZ="Asia/Kathmandu", PVEPASSTHRU_ROOT="/elsewhere", COLUMNS="40")
    dated = {
        name: re.sub(r'^(\.TH \S+ \d) 1970-01-01 "', r'\1 DATE "', text, flags=re.MULTILINE)
        for name, text in again.items()
    }
    changelog = (PROJECT / "packaging/debian/changelog").read_text("utf-8")
    assert dated == {
        name: re.sub(r'^(\.TH \S+ \d) \d{4}-\d\d-\d\d "', r'\1 DATE "', text, flags=re.MULTILINE)
        for name, text in pages.items()
    }
    (day, year) = re.findall(r"^ -- .*, (\d+) \w+ (\d+) ", changelog, re.MULTILINE)[0]
    assert re.search(rf"^\.TH PVEPASSTHRU 1 {year}-\d\d-{day:>02} ", pages[COMMAND], re.MULTILINE)
