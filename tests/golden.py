# SPDX-License-Identifier: Apache-2.0
"""Golden files: what a test saw when somebody last looked at it and found it right."""

from __future__ import annotations


def compare(lines: list[str], path: str, advice: str, *, regenerate: bool) -> None:
    """See that these lines are what the golden file has, or, when asked, write it anew (pytest --regenerate)."""
    if regenerate:
        with open(path, "w", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
    with open(path, encoding="utf-8") as file:
        assert lines == file.read().splitlines(), advice
