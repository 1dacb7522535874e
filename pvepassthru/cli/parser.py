# SPDX-License-Identifier: Apache-2.0
"""An argparse parser that knows its words: it names the nearest one, and where an option belongs.

What it cannot make sense of is told by the parser of the command that was meant, with that command's usage.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pvepassthru.model.text import listed, nearest, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any


class _UnknownWordsError(Exception):
    """Words that a parser has no use for."""

    def __init__(self, parser: Parser, words: list[str]) -> None:
        super().__init__(words)
        self.parser = parser
        self.words = words


class _Once(argparse.Action):
    """Keeps an option's value, as argparse does, but does not drop a first one for another one without a word."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - as argparse has them
        super().__init__(*args, **options)
        self._read: argparse.Namespace | None = None
        """What the option was put into last; each reading of a command line has its own."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 - as argparse calls it
        namespace: argparse.Namespace,
        values: Any,  # noqa: ANN401 - as argparse has it
        option_string: str | None = None,
    ) -> None:
        """Raise ArgumentError for a second value that differs."""
        first = getattr(namespace, self.dest, None)
        if option_string is not None and self._read is namespace and values != first:
            both = f"{shown(str(first))} and {shown(str(values))}"
            raise argparse.ArgumentError(self, f"it is given twice, as {both}; keep one of them")
        self._read = namespace
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """The program's parser, and those of its commands and their actions; no option may be shortened."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - as argparse has them
        super().__init__(*args, **{"allow_abbrev": False, **options})
        for name in (None, "store"):
            self.register("action", name, _Once)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: ANN401 - as argparse has it
        """The arguments. Ends the program with exit code 2 and a usage for what makes no sense, as argparse does."""
        try:
            return super().parse_args(args, namespace)
        except _UnknownWordsError as unknown:
            unknown.parser.error(_complaint(self, unknown.parser, unknown.words))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: ANN401 - as argparse has it
        """As argparse, but that no word may be left over: it is this parser that can tell what was meant."""
        found, words = super().parse_known_args(args, namespace)
        if words:
            raise _UnknownWordsError(self, words)
        return found, words

    def _check_value(self, action: argparse.Action, value: Any) -> None:  # noqa: ANN401 - as argparse has it
        """Raise ArgumentError for a word that is none of those that there are."""
        choices = action.choices
        if choices is None or value in choices:
            return
        words = [str(choice) for choice in choices]
        near = nearest(str(value), words)
        hint = f"is {near} meant?" if near else f"there are {listed(words, len(words))}"
        raise argparse.ArgumentError(action, f"{shown(str(value))} is none; {hint}")

    def options(self) -> tuple[str, ...]:
        """Its own options, as they are written."""
        return tuple(option for action in self._actions for option in action.option_strings)

    def below(self) -> Iterator[Parser]:
        """The parsers of its commands or actions, and of theirs."""
        for action in self._actions:
            if isinstance(action.choices, dict):
                for parser in action.choices.values():
                    yield parser
                    yield from parser.below()


def _complaint(top: Parser, parser: Parser, words: Sequence[str]) -> str:
    """What is wrong with words that a parser has no use for, and what may be meant."""
    option = next((word.partition("=")[0] for word in words if word.startswith("-") and word != "-"), None)
    if option is None:
        return f"{shown(words[0])} is one word too many"
    name = f"there is no option {shown(option)}"
    if parser is not top and option in top.options():
        command = parser.prog.removeprefix(f"{top.prog} ")
        return f"{name} of {command}; it stands before the command: {top.prog} {option} ... {command} ..."
    homes = [one for one in parser.below() if option in one.options()]
    if homes:
        home = homes[0].prog.removeprefix(f"{parser.prog} ") if len(homes) == 1 else "the word that says what is done"
        return f"{name} here; it stands behind {home}"
    known = sorted({*parser.options(), *(known for one in parser.below() for known in one.options())})
    longer = [one for one in known if one.startswith(option) and len(option) > len("--")]
    near = longer[0] if len(longer) == 1 else nearest(option, known)
    if near:
        return f"{name}; is {near} meant?"
    return f"{name}; {parser.prog} --help lists all"
