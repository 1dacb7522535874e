# SPDX-License-Identifier: Apache-2.0
"""A regular expression that is compiled when it is first used.

The hook reads one small config and uses a few of the many patterns of these modules; compiling them all would cost it a
third of its time.
"""

from __future__ import annotations

import re

from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ASCII = re.ASCII
IGNORECASE = re.IGNORECASE


class Pattern:
    """As re.Pattern, for text, as far as it is used here."""

    fullmatch: Callable[[str], re.Match[str] | None]
    match: Callable[[str], re.Match[str] | None]
    search: Callable[[str], re.Match[str] | None]
    split: Callable[[str], list[str]]

    def __init__(self, pattern: str, flags: re.RegexFlag = re.NOFLAG) -> None:
        self.pattern = pattern
        self.flags = flags

    def __getattr__(self, name: str) -> object:
        """A method of the compiled pattern; all are kept from then on, so that later calls come straight to them."""
        if name not in {"fullmatch", "match", "search", "split"}:
            raise AttributeError(name)
        compiled = re.compile(self.pattern, self.flags)
        self.fullmatch, self.match = compiled.fullmatch, compiled.match
        self.search, self.split = compiled.search, compiled.split
        return getattr(compiled, name)
