# SPDX-License-Identifier: Apache-2.0
"""Whether the user agrees to a change that was shown: by --yes, or by a word at the terminal."""

from __future__ import annotations

import sys

from pvepassthru.model.errors import UsageError

AGREED = frozenset({"y", "yes"})


def given(question: str, *, yes: bool) -> bool:
    """Whether the user agrees. Raises UsageError where nobody can be asked and --yes was not given."""
    if yes:
        return True
    if not sys.stdin or not sys.stdin.isatty():
        raise UsageError("nothing was changed: there is no terminal to ask at", "add --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in AGREED
