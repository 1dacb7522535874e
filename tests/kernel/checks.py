# SPDX-License-Identifier: Apache-2.0
"""One way to compare what was seen with what is expected, for tests that also run where pytest is not."""

from __future__ import annotations

done: list[str] = []
"""What was compared so far in this process, one line each."""


def check(what: str, seen: object, expected: object) -> None:
    """Note the comparison, and raise AssertionError with both values when they differ."""
    if seen != expected:
        raise AssertionError(f"{what}: seen {seen!r}, expected {expected!r}")
    done.append(f"{what}: {seen!r}")


def holds(what: str, condition: object) -> None:
    """Note that something holds, or raise AssertionError."""
    if not condition:
        raise AssertionError(what)
    done.append(what)
