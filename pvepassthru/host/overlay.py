# SPDX-License-Identifier: Apache-2.0
"""A host as it would be with other contents in some of its files, to be looked at and never written."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from pvepassthru.host.host import MAX_FILE, Host

if TYPE_CHECKING:
    from collections.abc import Mapping


class Overlay(Host):
    """`under` with `files` by path in the place of its own; these must be there below it already."""

    def __init__(self, under: Host, files: Mapping[str, bytes]) -> None:
        super().__init__(under.root or "/", under.node)
        self.simulated = under.simulated
        self.partial = under.partial
        self.unreadable = under.unreadable
        self.copy_of = under.copy_of
        self._under = under
        self._files = dict(files)

    def now(self) -> float:
        """Seconds since the epoch, as `under` has it."""
        return self._under.now()

    def read(self, path: str, limit: int = MAX_FILE) -> bytes:
        """The bytes of a file. Raises OSError as Host.read."""
        data = self._files.get(path)
        return self._under.read(path, limit) if data is None else data

    def names(self, path: str) -> list[str]:
        """The sorted names in a folder, as `under` has them."""
        return self._under.names(path)

    def target(self, path: str) -> str | None:
        """Where a symbolic link points, as `under` has it."""
        return self._under.target(path)

    def link(self, path: str) -> str | None:
        """The last component of where a symbolic link points, as `under` has it."""
        return self._under.link(path)

    def resolve(self, path: str) -> str | None:
        """The path that `path` leads to, as `under` has it."""
        return self._under.resolve(path)

    def exists(self, path: str) -> bool:
        """Whether the path exists, as `under` has it."""
        return self._under.exists(path)

    def mode(self, path: str) -> int | None:
        """The type and permission bits of a file, as `under` has it."""
        return self._under.mode(path)

    def write(self, path: str, value: str) -> None:  # noqa: ARG002 - it is refused whatever it is
        """Raise OSError (EROFS): nothing is written through a view of what would be."""
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), self.path(path))
