# SPDX-License-Identifier: Apache-2.0
"""A page of the documentation, taken apart: its blocks, the words to the tests in its comments, headings and links.

Blocks are of these kinds, by the word behind the fence:

- `console`: lines with `$ ` before them are commands, of root on the host of the page; what follows each is what it
  prints, on both streams. `…` alone on a line stands for one line or more, in a line for any text. A last line
  `(exit code N)` tells of another end than 0.
- `sh`: every line is a command, and what it prints is not shown; it has to end with 0.
- `yaml`, `ini`, `text`: files and what people see elsewhere; a comment before them says what is to be done with them.
- `python`: a program.

A comment `<!-- test: WORDS -->` is for the tests (tests/docs/page.py); it is before the block that it means.
"""

from __future__ import annotations

import functools
import os
import re
from typing import NamedTuple

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_FENCE = re.compile(r"^( *)```(\S*) *$")
_STRANGE = re.compile(r"^[ >\t]*(?:[-*+]|\d+[.)])?[ >\t]*(?:```|~~~)")
"""What begins a block on the web, and is not what _FENCE knows: with `~`, in a quote, with words behind the kind."""
_LIST = re.compile(r" *(?:[-*+]|\d+[.)]) ")
_COMMENT = re.compile(r"^<!-- test: (.+?) -->$")
_HEADING = re.compile(r"^(#{1,6}) +(.+?) *$")
_LINK = re.compile(r"(?<!\\)\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^()\s]+(?:\([^()]*\))?)\)")
_CODE = re.compile(r"(`+)(?:(?!\1).)+?\1")
_MARKS = re.compile(r"\[([^\]]*)\]\([^)]*\)|[`*]")


class Block(NamedTuple):
    """A fenced block."""

    line: int
    """Where its fence is, from 1."""
    kind: str
    lines: tuple[str, ...]


class Comment(NamedTuple):
    """A word to the tests."""

    line: int
    words: str


class Link(NamedTuple):
    """A link."""

    line: int
    target: str


class Page(NamedTuple):
    """A page."""

    path: str
    """Below the project's folder."""
    parts: tuple[Block | Comment, ...]
    """In their order."""
    anchors: tuple[str, ...]
    """Of its headings, as they are made on the web."""
    links: tuple[Link, ...]
    strange: tuple[int, ...]
    """The lines of blocks that are written in a way that the tests do not know, and so do not run."""


@functools.cache
def read(path: str) -> Page:
    """A page of the project. Raises ValueError for a block without an end."""
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return parse(path, file.read())


def parse(path: str, text: str) -> Page:
    """A page by its text. Raises ValueError for a block without an end."""
    parts: list[Block | Comment] = []
    anchors: list[str] = []
    seen: dict[str, int] = {}
    links: list[Link] = []
    fence: tuple[int, str, str] | None = None
    inside: list[str] = []
    outside: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        found = _FENCE.match(line)
        if fence is not None:
            if found and not found[2]:
                parts.append(Block(fence[0], fence[1], tuple(inside)))
                fence = None
            else:
                inside.append(line.removeprefix(fence[2]))
        elif found:
            fence, inside = (number, found[2], found[1]), []
        elif comment := _COMMENT.match(line):
            parts.append(Comment(number, comment[1]))
        else:
            if heading := _HEADING.match(line):
                anchors.append(_anchor(heading[2], seen))
            plain = _CODE.sub(lambda code: "`" * len(code[0]), line)
            links += [Link(number, target) for target in _LINK.findall(plain)]
            outside.append((number, line))
    if fence is not None:
        raise ValueError(f"{path}:{fence[0]}: this block has no end")
    return Page(path, tuple(parts), tuple(anchors), tuple(links), _strange(parts, outside))


def _strange(parts: list[Block | Comment], outside: list[tuple[int, str]]) -> tuple[int, ...]:
    """The lines of blocks without a kind, and of those in other forms among the lines outside of blocks."""
    found = [part.line for part in parts if isinstance(part, Block) and not part.kind.isalpha()]
    in_list, after_blank = False, True
    for number, line in outside:
        if _STRANGE.match(line) or (after_blank and not in_list and line.startswith(("    ", "\t"))):
            found.append(number)
        if line.strip():
            in_list = bool(_LIST.match(line)) or (in_list and line[0] in " \t")
        after_blank = not line.strip()
    return tuple(sorted(found))


def _anchor(heading: str, seen: dict[str, int]) -> str:
    """What a heading's anchor is on the web: small letters, blanks as `-`, no other signs; a second one gets `-1`."""
    words = _MARKS.sub(lambda found: found[1] or "", heading).lower()
    plain = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
    seen[plain] = seen.get(plain, -1) + 1
    return f"{plain}-{seen[plain]}" if seen[plain] else plain


class Command(NamedTuple):
    """A command of a block and what it is to print."""

    line: int
    words: str
    end: int
    """The line that its words end on; what is shown follows."""
    shown: tuple[str, ...] | None
    """None: not shown."""
    code: int
    """What it is to end with."""


_ENDS = re.compile(r"\(exit code (\d+)\)")


def commands(block: Block) -> list[Command]:
    """The commands of a block of the kind console or sh. Raises ValueError for lines that belong to none."""
    found: list[Command] = []
    number = block.line
    lines = list(block.lines)
    while lines:
        number += 1
        line = lines.pop(0)
        at = number
        if block.kind == "console" and not line.startswith("$ "):
            if not found:
                raise ValueError(f"line {at}: what is printed stands before any command")
            found[-1] = found[-1]._replace(shown=(*(found[-1].shown or ()), line))
            continue
        words = line.removeprefix("$ ") if block.kind == "console" else line
        while words.endswith("\\") and lines:
            words = words[:-1].rstrip() + " " + lines.pop(0).strip()
            number += 1
        if words.strip() and not words.lstrip().startswith("#"):
            found.append(Command(at, words, number, () if block.kind == "console" else None, 0))
    return [_with_code(command) for command in found]


def _with_code(command: Command) -> Command:
    ends = _ENDS.fullmatch(command.shown[-1]) if command.shown else None
    if ends is None or command.shown is None:
        return command
    return command._replace(shown=command.shown[:-1], code=int(ends[1]))


def fits(shown: tuple[str, ...], printed: str) -> bool:
    """Whether what a page shows is what was printed."""
    pattern = "".join(r"(?:[^\n]*\n)+?" if line.strip() == "…" else _line(line) for line in shown)
    text = "".join(f"{line.rstrip()}\n" for line in printed.splitlines())
    return re.fullmatch(pattern, text) is not None


def _line(line: str) -> str:
    return r"[^\n]*?".join(re.escape(part) for part in line.rstrip().split("…")) + r"\n"
