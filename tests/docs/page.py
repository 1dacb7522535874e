# SPDX-License-Identifier: Apache-2.0
"""Runs the blocks of a page in their order, on the host that the page names, and compares what they print.

What stands in a comment `<!-- test: ... -->`:

- `host NAME`: from here on a host of tests/docs/boards.py, as new; `cluster` is a machine from which one reaches a
  cluster by its API;
- `file PATH`: the next block is this file of the host (`~` is the home of who reads), and is put there;
- `policy`: the next block is a policy, and `policy check` has nothing to say of it;
- `config VMID`: the lines of the next block stand in the VM's config now.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from tests import tree
from tests.docs import boards, markdown
from tests.docs.machine import Machine, NoSuchProgramError, Workstation
from tests.docs.markdown import Block, Comment
from tests.docs.words import BadWordsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

    from tests.docs.markdown import Command


class Ran(NamedTuple):
    """A command that was run."""

    command: Command
    printed: str
    code: int

    def fault(self) -> str:
        """What is wrong with what came; empty if nothing is."""
        if self.code != self.command.code:
            return f"it ended with {self.code}, not {self.command.code}"
        if self.command.shown is not None and not markdown.fits(self.command.shown, self.printed):
            return "it printed something else"
        return ""


class Runner:
    """Runs a page."""

    def __init__(self, page: markdown.Page, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.page = page
        self.ran: list[Ran] = []
        self._folder = folder
        self._monkeypatch = monkeypatch
        self._machine: Machine | None = None
        self._count = 0

    def run(self) -> Iterator[str]:
        """Run all blocks; yields what is wrong, with its line."""
        comment: Comment | None = None
        for number in self.page.strange:
            yield f"{self.page.path}:{number}: write this block between two lines of ``` with its kind behind the first"
        try:
            for part in self.page.parts:
                if isinstance(part, Comment):
                    comment = part
                    if part.words.startswith("host "):
                        self._begin(part.words.removeprefix("host "))
                        comment = None
                    continue
                for line, fault in self._block(part, comment.words if comment else ""):
                    yield f"{self.page.path}:{line}: {fault}"
                comment = None
        finally:
            if self._machine:
                self._machine.close()

    def _begin(self, name: str) -> None:
        if self._machine:
            self._machine.close()
        self._count += 1
        folder = self._folder / str(self._count)
        make = Workstation if name == "cluster" else Machine
        self._machine = make(folder, boards.BOARDS[name], self._monkeypatch)

    def _block(self, block: Block, comment: str) -> Iterator[tuple[int, str]]:
        kind, _, words = comment.partition(" ")
        machine = self._machine
        if machine is None:
            yield block.line, "there is no comment before it that names a host"
        elif block.kind in {"console", "sh"} and not comment:
            yield from self._commands(block, machine)
        elif kind == "file":
            machine.put(words, "".join(f"{line}\n" for line in block.lines))
        elif kind == "policy":
            path = tree.put(machine.folder, "policy.yaml", "".join(f"{line}\n" for line in block.lines))
            os.chmod(path, 0o644)
            done = machine.run("pvepassthru policy check policy.yaml")
            if done.code:
                yield block.line, f"this policy has slips:\n{done.printed}"
        elif kind == "config":
            there = machine.run(f"qm config {words}").printed.splitlines()
            yield from ((block.line, f"VM {words} has no {line}") for line in block.lines if line not in there)
        else:
            yield block.line, f"nobody knows what to do with this block {comment!r}"

    def _commands(self, block: Block, machine: Machine) -> Iterator[tuple[int, str]]:
        for command in markdown.commands(block):
            try:
                done = machine.run(command.words)
            except (BadWordsError, NoSuchProgramError, OSError, ValueError) as error:
                yield command.line, f"{command.words}: {error}"
                continue
            ran = Ran(command, done.printed, done.code)
            self.ran.append(ran)
            if fault := ran.fault():
                yield command.line, f"{command.words}: {fault}:\n{done.printed}"


def rewritten(text: str, ran: list[Ran]) -> str:
    """A page's text in which every command that is shown with its output shows what came."""
    lines = text.splitlines()
    for one in reversed(ran):
        if one.command.shown is None or not one.fault():
            continue
        begin = one.command.end
        end = begin + len(one.command.shown) + (1 if one.command.code else 0)
        new = [line.rstrip() for line in one.printed.splitlines()]
        lines[begin:end] = [*new, *([f"(exit code {one.code})"] if one.code else [])]
    return "".join(f"{line}\n" for line in lines)
