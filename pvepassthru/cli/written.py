# SPDX-License-Identifier: Apache-2.0
"""What `report`, `metrics` and `snapshot` write for people: to a file, in one piece, or to standard output."""

from __future__ import annotations

import os
import stat
import sys
import tempfile

STDOUT = "-"
"""As FILE: standard output."""
OWNER_ONLY = 0o600
TEMPORARY = ".tmp"
"""Ending of the file while it is being written; node_exporter passes over it."""


def kind(path: str) -> str:
    """What is at a path: `nothing`, `file`, `link` (to a plain file, or to nothing), or `other`. Raises OSError.

    Other is what a file must never be put in place of: a folder, a device, a pipe, and a link to one.
    """
    try:
        is_link = stat.S_ISLNK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return "nothing"
    try:
        plain = stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        plain = True  # a link that leads nowhere
    return ("link" if is_link else "file") if plain else "other"


def replace(path: str, data: bytes, mode: int | None = None) -> None:
    """Write a file beside its place, then put it there. Raises OSError, and then all is as before.

    Without a mode a plain file keeps that of the one before it, and a new one is its owner's alone.
    """
    if mode is None:
        mode = stat.S_IMODE(os.lstat(path).st_mode) & 0o666 if kind(path) == "file" else OWNER_ONLY
    fd, temporary = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix=".pvepassthru-", suffix=TEMPORARY)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def say(text: str, otherwise: str) -> None:
    """Write text to standard output; `otherwise` names the codecs error handler for one that is not UTF-8."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    sys.stdout.write(text if encoding == "utf8" else text.encode("ascii", otherwise).decode("ascii"))
