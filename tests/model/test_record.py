# SPDX-License-Identifier: Apache-2.0
"""The cheap NamedTuple behaves as typing's."""

from __future__ import annotations

import copy
import typing
from typing import Any

import pytest

from pvepassthru.model import record


def classes() -> list[Any]:
    """The same class by typing and by us; the class statements are evaluated with each base."""
    text = '''
class Point(Base):
    """A point."""
    x: int
    """Its x."""
    y: "str | None"
    z: tuple[int, ...] = ()

    @property
    def double(self):
        return self.x * 2

    def __str__(self):
        return f"<{self.x}>"
'''
    found = []
    for base in (typing.NamedTuple, record.NamedTuple):
        names: dict[str, Any] = {"Base": base, "__name__": __name__}
        exec(text, names)  # noqa: S102 - our own text, twice
        found.append(names["Point"])
    return found


@pytest.mark.parametrize(
    "call",
    [
        "P(1, 'a')",
        "P(1, 'a', (3,))",
        "P(1, y='a')",
        "P(y=None, x=2, z=(1,))",
        "P(1)",
        "P()",
        "P(1, 2, 3, 4)",
        "P(1, 2, x=3)",
        "P(1, 2, w=3)",
        "P(1, 2)._replace(y=5)",
        "P(1, 2)._replace(w=5)",
        "P(1, 2)._asdict()",
        "P(1, 2).double",
        "P(1, 2).x, P(1, 2).y, P(1, 2).z",
        "repr(P(1, 'a'))",
        "str(P(1, 'a'))",
        "P(1, 2) == (1, 2, ()), hash(P(1, 2)) == hash((1, 2, ()))",
        "sorted([P(2, 1), P(1, 2)])",
        "tuple(P(1, 2)), list(P(1, 2)), len(P(1, 2)), P(1, 2)[1]",
        "P._fields, P.__match_args__, P._field_defaults, P.__doc__, P.__name__",
        "P(1, 2).__class__ is P, isinstance(P(1, 2), tuple)",
        "setattr(P(1, 2), 'x', 3)",
        "setattr(P(1, 2), 'new', 3)",
        "copy.copy(P(1, 2))",
        "copy.deepcopy(P(1, [2]))",
        "[x for x, y, z in [P(1, 2)]]",
    ],
)
def test_as_typing_does(call: str) -> None:
    seen = []
    for point in classes():
        try:
            seen.append(("value", repr(eval(call, {"P": point, "copy": copy}))))  # noqa: S307 - our own texts
        except (TypeError, ValueError, AttributeError) as error:
            kind = TypeError if "_replace" in call else type(error)  # typing's was a ValueError before Python 3.13
            seen.append(("error", kind.__name__))
    assert seen[0] == seen[1]


def test_match_statement() -> None:
    for point in classes():
        match point(1, "a"):
            case point(x, y):
                assert (x, y) == (1, "a")
