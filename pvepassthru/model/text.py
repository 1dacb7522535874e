# SPDX-License-Identifier: Apache-2.0
"""Foreign text made safe to print, or a number; and words for messages: lists, and the nearest known word."""

from __future__ import annotations

from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

BLANKS = " \t\n\r\f\v"
"""What Perl's \\s matches in bytes; Python's str.strip() would take more (NBSP, the ASCII separators)."""

DIGITS = 18
"""No number of a host that we read has more."""
LONGEST = 80
"""Characters of foreign text in a message."""


def number(text: str | None) -> int | None:
    """The number that a text is, all of it ASCII digits and no more than any host has; else None."""
    if text is None or len(text) > DIGITS or not (text.isascii() and text.isdecimal()):
        return None
    return int(text)


def shown(text: str) -> str:
    """Foreign text on one line: control characters and broken bytes escaped, cut after 80 characters."""
    cut = text[:LONGEST]
    safe = one_line(cut)
    return safe if cut == text else f"{safe}... ({len(text)} characters)"


def one_line(text: str) -> str:
    """Text, a whole sentence, with control characters and broken bytes made visible."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def listed(words: Iterable[object], most: int = 12) -> str:
    """`a, b, c`, at most `most` words and then how many more there are."""
    texts = [str(word) for word in words]
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {more} more" if more > 0 else "")


def counted(many: int, word: str) -> str:
    """`1 VF`, `2 VFs`: a number with its word."""
    return f"{many} {word}" if many == 1 else f"{many} {word}s"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word with the least edits from `word`, case, `-` and `_` aside; None if none is near."""
    if len(word) > LONGEST:
        return None
    plain = _plain(word)
    ranked = sorted((_edits(plain, _plain(other)), not other.startswith(word), other) for other in known)
    if not ranked or ranked[0][0] > max(1, len(plain) // 3):
        return None
    return ranked[0][2]


def _plain(word: str) -> str:
    return word.strip(BLANKS).lower().replace("_", "").replace("-", "")


def _edits(one: str, other: str) -> int:
    """The edits between two short words: a letter more, less, another, or two neighbours exchanged."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for number, left in enumerate(one, 1):
        before, last, row = row, before, [number]
        for place, right in enumerate(other, 1):
            fewest = min(before[place] + 1, row[-1] + 1, before[place - 1] + (left != right))
            if number > 1 and place > 1 and left == other[place - 2] and right == one[number - 2]:
                fewest = min(fewest, last[place - 2] + 1)
            row.append(fewest)
    return row[-1]
