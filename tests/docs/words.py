# SPDX-License-Identifier: Apache-2.0
"""What the stand-ins of programs have in common: their words, and what they print."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class BadWordsError(Exception):
    """A page, or the tool, gives a program words that it does not take."""


def say(words: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{words}\n")


def options(words: Sequence[str]) -> dict[str, str]:
    """`--name value` pairs, one `-` being as good."""
    names = [word.lstrip("-") for word in words[::2]]
    if len(words) % 2 or not all(word.startswith("-") for word in words[::2]) or len({*names}) != len(names):
        raise BadWordsError(f"these are no options with values: {' '.join(words)}")
    return dict(zip(names, words[1::2], strict=True))
