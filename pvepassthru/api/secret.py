# SPDX-License-Identifier: Apache-2.0
"""A password or token value that does not show itself, and texts without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterable

MASK = "***"
SHORTEST = 4
"""Characters; shorter secrets are not looked for in texts, of which they would be part by chance."""


class Secret:
    """A text that repr, str, format, pickle and JSON do not show; `reveal` does."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the one place that sends it."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, form: str) -> str:
        return format(MASK, form)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _: object) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not written anywhere")


def without(text: str, secrets: Iterable[Secret]) -> str:
    """The text with every secret in it masked."""
    for secret in secrets:
        plain = secret.reveal()
        if len(plain) >= SHORTEST:
            text = text.replace(plain, MASK)
    return text
