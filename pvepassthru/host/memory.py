# SPDX-License-Identifier: Apache-2.0
"""A host whose files are all in memory, to be looked at and never written."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from pvepassthru.host.host import MAX_FILE, Host

if TYPE_CHECKING:
    from collections.abc import Mapping

NOWHERE = "/dev/null"
"""The root of what has none: the kernel answers of any path below it that it is not there."""
MOST_LINKS = 40
"""So many are followed on one path, as Linux does."""


class Link(NamedTuple):
    """A symbolic link."""

    target: str
    """The whole path that it leads to, as on a host."""


Node: TypeAlias = "bytes | Link | dict[str, Node]"
"""A file by its bytes, a link, or a folder by what is in it."""


class MemoryHost(Host):
    """The files, by their paths, and nothing besides. Folders are those that the paths go through."""

    def __init__(self, node: str, files: Mapping[str, bytes | Link | None]) -> None:
        """`files` has None for a folder that may be empty. Raises OSError (ENOTDIR) for a path through a file."""
        super().__init__(NOWHERE, node)
        self._top: dict[str, Node] = {}
        self._resolved: dict[str, str | None] = {}
        for path, content in files.items():
            self._put(path, content)

    def _put(self, path: str, content: bytes | Link | None) -> None:
        folder = self._top
        *above, name = path.strip("/").split("/")
        for part in above:
            below = folder.setdefault(part, {})
            if not isinstance(below, dict):
                raise _error(errno.ENOTDIR, path)
            folder = below
        if content is None:
            folder.setdefault(name, {})
        else:
            folder[name] = content

    # ---- reading

    def at_once(self, path: str, limit: int = MAX_FILE) -> bytes:
        """As Host.at_once."""
        node, _ = self._find(path)
        if not isinstance(node, bytes):
            raise _error(errno.EISDIR, path)
        if len(node) > limit:
            raise _error(errno.EFBIG, path)
        return node

    def head(self, path: str, size: int) -> bytes:
        """As Host.head."""
        return self.at_once(path)[:size]

    def names(self, path: str) -> list[str]:
        """As Host.names."""
        try:
            node, _ = self._find(path)
        except OSError:
            return []
        return sorted(node) if isinstance(node, dict) else []

    def target(self, path: str) -> str | None:
        """As Host.target; a whole path."""
        try:
            node, _ = self._find(path, last=False)
        except OSError:
            return None
        return node.target if isinstance(node, Link) else None

    def resolve(self, path: str) -> str | None:
        """As Host.resolve."""
        if path not in self._resolved:
            try:
                self._resolved[path] = self._find(path)[1]
            except OSError:
                self._resolved[path] = None
        return self._resolved[path]

    def exists(self, path: str) -> bool:
        """As Host.exists."""
        return self.resolve(path) is not None

    def mode(self, path: str) -> int | None:
        """As Host.mode; everybody may read what is there, and nobody run it."""
        try:
            node, _ = self._find(path)
        except OSError:
            return None
        return stat.S_IFREG | 0o444 if isinstance(node, bytes) else stat.S_IFDIR | 0o555

    def may_wait(self, path: str) -> bool:  # noqa: ARG002 - of none
        """Whether a read may have to wait: never."""
        return False

    def _find(self, path: str, *, last: bool = True) -> tuple[Node, str]:
        """What lies at a path, with the path without links. Raises OSError: ENOENT, ENOTDIR or ELOOP.

        The last link is followed only if `last` says so.
        """
        left = path.strip("/").split("/")[::-1]
        here: list[str] = []
        node: Node = self._top
        followed = 0
        while left:
            name = left.pop()
            if name in {"", "."}:
                continue
            if name == "..":
                node, here = self._at(here[:-1]), here[:-1]
                continue
            if not isinstance(node, dict):
                raise _error(errno.ENOTDIR, path)
            if name not in node:
                raise _error(errno.ENOENT, path)
            node = node[name]
            here = [*here, name]
            if isinstance(node, Link) and (left or last):
                followed += 1
                if followed > MOST_LINKS:
                    raise _error(errno.ELOOP, path)
                left += node.target.strip("/").split("/")[::-1]
                node, here = self._top, []
        return node, "/" + "/".join(here)

    def _at(self, parts: list[str]) -> Node:
        node: Node = self._top
        for part in parts:
            if isinstance(node, dict):
                node = node[part]
        return node

    # ---- writing

    def write(self, path: str, value: str) -> None:  # noqa: ARG002 - it is refused whatever it is
        """Raise OSError (EROFS)."""
        raise _error(errno.EROFS, path)

    def append(self, path: str, line: str) -> None:  # noqa: ARG002 - as above
        """Raise OSError (EROFS)."""
        raise _error(errno.EROFS, path)

    def replace(self, path: str, data: bytes, mode: int = 0o600, *, sync: bool = False) -> None:  # noqa: ARG002 - as above
        """Raise OSError (EROFS)."""
        raise _error(errno.EROFS, path)

    def remove(self, path: str) -> None:
        """Raise OSError (EROFS)."""
        raise _error(errno.EROFS, path)


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
