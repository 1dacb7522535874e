# SPDX-License-Identifier: Apache-2.0
"""Files of a host as they are to become: each is read once, edited in memory, and turned into changes at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.host import changes
from pvepassthru.host.backups import Change

if TYPE_CHECKING:
    from pvepassthru.host.host import Host

HEAD = "# Made by pvepassthru doctor --fix; pvepassthru doctor --undo takes it back.\n"
"""How a file that is all ours begins."""


class Draft:
    """What is to become of some files."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._before: dict[str, bytes | None] = {}
        self._after: dict[str, bytes | None] = {}
        self._modes: dict[str, int] = {}
        self._whys: dict[str, list[str]] = {}

    def text(self, path: str) -> str:
        """A file as it is to become, empty if there is none. Raises InputError when it is there and cannot be changed.

        Bytes that are not UTF-8 are kept as surrogates.
        """
        if path not in self._before:
            self._before[path] = self._after[path] = changes.current(self.host, path)
        return (self._after[path] or b"").decode("utf-8", "surrogateescape")

    def put(self, path: str, text: str, why: str, mode: int = 0o644) -> None:
        """Let a file become this text; `mode` is that of a new one. Raises InputError as `text`."""
        if self.text(path) != text or (self._after[path] is None and text):
            self._after[path] = text.encode("utf-8", "surrogateescape")
            self._modes.setdefault(path, mode)
            whys = self._whys.setdefault(path, [])
            if why not in whys:
                whys.append(why)

    def add_line(self, path: str, line: str, why: str, head: str = "") -> None:
        """Add a line at the end of a file, which begins with `head` if it is new. Raises InputError as `text`."""
        text = self.text(path) or head
        gap = "" if text.endswith("\n") or not text else "\n"
        if (text + gap).endswith("\\\n"):  # that line goes on
            gap += "\n"
        self.put(path, f"{text}{gap}{line}\n", why)

    def changes(self) -> tuple[Change, ...]:
        """The changes, sorted by path; none of a file that stays as it is."""
        return tuple(
            Change(path, self._before[path], after, self._modes.get(path, 0o644), "; ".join(self._whys.get(path, [])))
            for path, after in sorted(self._after.items())
            if after != self._before[path]
        )
