# SPDX-License-Identifier: Apache-2.0
"""How far something that takes a while has come: one line on a terminal, and nothing elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self, TextIO

EVERY = 0.1
"""Seconds between two looks of the line."""
LONGEST = 40
"""Characters of the bar."""


class Bar:
    """A bar on standard error, gone at the end; none with `quiet`, without a terminal, or on a dumb one.

    It has no colour, so NO_COLOR needs nothing more.
    """

    def __init__(self, what: str, *, quiet: bool = False) -> None:
        self._what = what
        self._stream = None if quiet else _terminal()
        self._next = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._next:
            self._put("\r\x1b[K")

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        now = time.monotonic()
        if self._stream is None or (now < self._next and done < total):
            return
        self._next = now + EVERY
        words = f" {done} of {total} {self._what}"
        room = min(LONGEST, shutil.get_terminal_size().columns - len(words) - 3)
        full = room * done // total if total else room
        bar = f"[{'#' * full}{'.' * (room - full)}]" if room > 0 else ""
        self._put(f"\r{bar}{words}")

    def _put(self, text: str) -> None:
        try:
            if self._stream is not None:
                self._stream.write(text)
                self._stream.flush()
        except (OSError, ValueError):  # nobody looks any more
            self._stream = None


def _terminal() -> TextIO | None:
    """Standard error, if that is a terminal that can go back to the start of a line."""
    try:
        return sys.stderr if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else None
    except (AttributeError, ValueError):  # closed
        return None
