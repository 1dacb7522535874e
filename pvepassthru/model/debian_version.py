# SPDX-License-Identifier: Apache-2.0
"""Debian's package versions and their order. Source: Debian Policy 5.6.12, deb-version(7)."""

from __future__ import annotations

from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIGITS = frozenset("0123456789")
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


def compare(one: str, other: str) -> int:
    """Less than 0, 0, or more than 0, as the version `one` is older than, equal to, or newer than `other`.

    Never raises: any text has its place in the order.
    """
    left, right = _split(one), _split(other)
    if left[0] != right[0]:
        return left[0] - right[0]
    return _compare_part(left[1], right[1]) or _compare_part(left[2], right[2])


def _split(version: str) -> tuple[int, str, str]:
    """Epoch, upstream version and revision."""
    epoch, colon, rest = version.strip().partition(":")
    if not (colon and epoch and _DIGITS.issuperset(epoch)):
        epoch, rest = "0", version.strip()
    upstream, dash, revision = rest.rpartition("-")
    return _number(epoch), upstream if dash else rest, revision if dash else ""


def _compare_part(one: str, other: str) -> int:
    """Compares text and numbers in turn: letters sort before all else, a tilde before the end, numbers by value."""
    left, right = list(_pieces(one)), list(_pieces(other))
    for place in range(max(len(left), len(right))):
        text, digits = left[place] if place < len(left) else ("", "")
        other_text, other_digits = right[place] if place < len(right) else ("", "")
        for at in range(max(len(text), len(other_text))):
            difference = _weight(text[at : at + 1]) - _weight(other_text[at : at + 1])
            if difference:
                return difference
        difference = _number(digits) - _number(other_digits)
        if difference:
            return difference
    return 0


def _pieces(part: str) -> Iterator[tuple[str, str]]:
    """(text, digits) in turn."""
    place = 0
    while place < len(part):
        start = place
        while place < len(part) and part[place] not in _DIGITS:
            place += 1
        middle = place
        while place < len(part) and part[place] in _DIGITS:
            place += 1
        yield part[start:middle], part[middle:place]


def _weight(char: str) -> int:
    if char == "~":
        return -1
    if char in _LETTERS or not char:
        return ord(char) if char else 0
    return ord(char) + 0x110000


def _number(digits: str) -> int:
    """The value of digits, of which no real version has more than a few."""
    return int(digits[-300:] or "0")
