# SPDX-License-Identifier: Apache-2.0
"""/etc/sysfs.conf and /etc/sysfs.d/*.conf, which Debian's sysfsutils applies at boot.

A line is `ATTRIBUTE = VALUE`, the attribute a path below /sys; `mode` or `owner` before it changes these. `#` starts a
comment anywhere.
"""

from __future__ import annotations

from pvepassthru.model.record import NamedTuple


class Line(NamedTuple):
    """A line that sets an attribute."""

    number: int
    attribute: str
    """As written."""
    value: str | None
    """None when the line cannot be read."""

    @property
    def path(self) -> str:
        """The attribute's path on a host."""
        return f"/sys/{self.attribute.lstrip('/')}"


def parse(text: str) -> tuple[Line, ...]:
    """The lines that set attributes, those that cannot be read too. Never raises."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        left, equals, right = line.partition("#")[0].partition("=")
        words = left.split() + ([] if equals else right.split())
        if not words or words[0] in {"mode", "owner"}:
            continue
        values = right.split() if equals else words[1:]
        fits = len(values) == 1 and (len(words) == 1 or not equals)
        found.append(Line(number, words[0], values[0] if fits else None))
    return tuple(found)
