# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pvepassthru.model import shell

NAMES = ("A", "B")


def value(text: str, name: str = "A") -> shell.Value:
    return shell.evaluate((shell.parse("/f", text),), name, NAMES)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", ""),
        ("A=quiet", "quiet"),
        ('A="quiet splash"', "quiet splash"),
        ("A='quiet $B'", "quiet $B"),
        ("A=quiet\\ splash", "quiet splash"),
        ('A="a \\"b\\" \\$c \\d"', 'a "b" $c \\d'),
        ('A="one \\\ntwo"', "one two"),
        ('A="one\ntwo"', "one\ntwo"),
        ("A=1; A=2", "2"),
        ("A=1 B=2", "1"),
        ("export A=1", "1"),
        ("export A", ""),
        ("#A=1\nA=2 # A=3", "2"),
        ("A=a#b", "a#b"),
        ('B=x\nA="$B y"\nB=z', "x y"),
        ('A=x\nA="${A} y"', "x y"),
        ("A=x\nA+=y", "xy"),
        ("A=1 true", ""),
        ("A=1\r", "1\r"),
        ("A=a$", "a$"),
        ("f=`date`\nA=1", "1"),
        ("if true; then\n C=1\nfi\nA=1", "1"),
        ("f() { C=1; }\nA=1", "1"),
        ("case x in\n a) C=1 ;;\nesac\nA=1", "1"),
        ("A", ""),
        ("A=\n", ""),
    ],
)
def test_plain_assignments(text: str, expected: str) -> None:
    found = value(text)
    assert (found.text, found.unknown) == (expected, "")


@pytest.mark.parametrize(
    "text",
    [
        "A=$(date)",
        "A=`date`",
        "A=${B:-x}",
        'A="x $HOME"',
        "A=~",
        "A='x",
        'A="x',
        "A=$1",
        "if true; then\nA=1\nfi",
        "true && A=1",
        "true ||\nA=1",
        "true | A=1",
        "f() { A=1; }",
        "case x in\n a) A=1 ;;\nesac",
        ". /etc/other",
        "eval A=1",
        "unset A",
        "$X A=1",
        "B=$(date)\nA=$B",
        "cat <<EOF\nA=1\nEOF",
    ],
)
def test_what_needs_a_shell_is_unknown(text: str) -> None:
    assert value(text).unknown.startswith("/f:"), value(text)


def test_an_assignment_that_is_sure_ends_the_doubt() -> None:
    assert value(". /etc/other\nA=1").unknown == ""


def test_pieces_say_where_they_come_from() -> None:
    one = shell.parse("/one", '# x\nA="quiet"\n')
    two = shell.parse("/two", 'A="$A\n splash"\n')
    assert shell.evaluate((one, two), "A", NAMES).pieces == (
        shell.Piece("quiet", "/one", 2),
        shell.Piece("\n", "/two", 1),
        shell.Piece(" splash", "/two", 2),
    )


ATOMS = st.sampled_from(
    ["A", "B", "=", "x", " ", "\n", '"', "'", "\\", "$A", "${B}", ";", "#", "true", "&&", "if", "then", "fi", "+", "$"]
)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=150)
@given(st.lists(ATOMS, max_size=12).map("".join))
def test_what_is_told_is_what_a_shell_says(text: str) -> None:
    """Of scripts that sh accepts; those that it does not make update-grub fail."""
    found = value(text)
    if found.unknown or "+" in text:
        return
    script = f'{text}\nprintf "%s" "-$A"'
    told = subprocess.run(["sh", "-ec", script], capture_output=True, check=False, env={}, cwd="/")
    if told.returncode == 0 and told.stdout.startswith(b"-"):
        assert told.stdout.decode() == f"-{found.text}"


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    for one in shell.parse("/f", text).assignments:
        assert text[one.start - 1] == "="


@pytest.mark.parametrize(
    "text",
    [
        "A=" + "a" * 400_000,
        "A='" + "a" * 400_000 + "'",
        "A=x\n" + 'A="$A$A"\n' * 40,
        "A=x\n" + 'A+=" x"\n' * 9000,
        "A=x\nA=" + "$A" * 9000,
    ],
    ids=["long", "quoted", "doubled", "appended", "repeated"],
)
def test_no_file_is_too_much(text: str) -> None:
    """What no kernel takes as a command line is unknown, and soon said so."""
    assert "longer than" in shell.evaluate((shell.parse("/x", text),), "A").unknown
