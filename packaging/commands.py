# SPDX-License-Identifier: Apache-2.0
"""What the command line has: its commands and their arguments as plain values, read from the argparse parsers."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
"""The source tree in which this file lies."""


class Argument(NamedTuple):
    """An option or a positional argument."""

    options: tuple[str, ...]
    """Its spellings, such as `-o` and `--output`; none for a positional argument."""
    metavar: str
    """The word for its value; empty for an option that takes none."""
    help: str
    choices: tuple[str, ...]
    nargs: str
    """How many values: 0, 1, ?, * or +."""
    again: bool
    """Whether the option may be given several times."""
    group: str
    """The heading that --help has it under; empty under the usual ones."""


class Command(NamedTuple):
    """A command, or one below another."""

    words: tuple[str, ...]
    """As typed after `pvepassthru`; none for that itself."""
    summary: str
    """What the list of commands says of it; may be empty."""
    description: str
    """What its own --help says; may be empty."""
    arguments: tuple[Argument, ...]
    below: tuple[str, ...]
    """The commands below it."""


def read() -> list[Command]:
    """All commands, each before those below it, in the order of --help; from the sources in SOURCE."""
    os.environ.pop("PVEPASSTHRU_ROOT", None)  # --help would name it
    sys.path.insert(0, SOURCE)
    from pvepassthru.cli.main import build_parser  # noqa: PLC0415 - found by the line above only

    return list(_commands(build_parser(), (), ""))


def version() -> str:
    """The version of the sources in SOURCE."""
    sys.path.insert(0, SOURCE)
    import pvepassthru  # noqa: PLC0415 - found by the line above only

    return pvepassthru.__version__


def _commands(parser: argparse.ArgumentParser, words: tuple[str, ...], summary: str) -> Iterator[Command]:
    """Of argparse only names with an underscore tell what a parser has; they are the same in Python 3.11 to 3.14."""
    arguments = []
    subparsers: list[tuple[str, str, argparse.ArgumentParser]] = []
    for group in parser._action_groups:  # noqa: SLF001 - see above
        title = group.title or ""
        for action in group._group_actions:  # noqa: SLF001 - see above
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - see above
                told = {choice.dest: choice.help or "" for choice in action._choices_actions}  # noqa: SLF001 - see above
                subparsers = [(name, told.get(name, ""), below) for name, below in action.choices.items()]
            elif action.help != argparse.SUPPRESS:
                arguments.append(
                    _argument(action, "" if title in {"options", "positional arguments"} else title, parser)
                )
    below = tuple(name for name, _, _ in subparsers)
    yield Command(words, summary, " ".join((parser.description or "").split()), tuple(arguments), below)
    for name, told_of, lower in subparsers:
        yield from _commands(lower, (*words, name), told_of)


def _argument(action: argparse.Action, group: str, parser: argparse.ArgumentParser) -> Argument:
    choices = tuple(str(choice) for choice in action.choices or ())
    values = {**vars(action), "prog": parser.prog, "choices": ", ".join(choices)}
    text = " ".join(((action.help or "") % values).split())
    nargs = "1" if action.nargs is None else str(action.nargs)
    metavar = "" if nargs == "0" else str(action.metavar or "|".join(choices) or action.dest.upper())
    again = isinstance(action, argparse._AppendAction | argparse._ExtendAction)  # noqa: SLF001 - as in _commands
    return Argument(tuple(action.option_strings), metavar, text, choices, nargs, again, group)
