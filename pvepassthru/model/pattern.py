# SPDX-License-Identifier: Apache-2.0
"""A regular expression that is compiled when it is first used, and imports `re` only then.

The hook reads one small config and uses a few of the many patterns of these modules, and `re` brings enum and functools
with it (python3 -X importtime). So what every start with a device meets (an address, a selector, a UUID, a line of a
config) is read without patterns.
"""

from __future__ import annotations

from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    import re
    from collections.abc import Callable

ASCII = 256
IGNORECASE = 2
"""As the flags of `re` (tests/model/test_pci.py compares them)."""


class Pattern:
    """As re.Pattern, for text, as far as it is used here."""

    fullmatch: Callable[[str], re.Match[str] | None]
    match: Callable[[str], re.Match[str] | None]
    search: Callable[[str], re.Match[str] | None]
    split: Callable[[str], list[str]]

    def __init__(self, pattern: str, flags: int = 0) -> None:
        self.pattern = pattern
        self.flags = flags

    def fits(self, text: str) -> bool:
        """Whether the whole of a text matches."""
        return self.fullmatch(text) is not None

    def __getattr__(self, name: str) -> object:
        """A method of the compiled pattern; all are kept from then on, so that later calls come straight to them."""
        if name not in {"fullmatch", "match", "search", "split"}:
            raise AttributeError(name)
        import re  # noqa: PLC0415 - see above

        compiled = re.compile(self.pattern, self.flags)
        self.fullmatch, self.match = compiled.fullmatch, compiled.match
        self.search, self.split = compiled.search, compiled.split
        return getattr(compiled, name)
