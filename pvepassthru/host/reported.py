# SPDX-License-Identifier: Apache-2.0
"""What a timer has reported since the host booted, so that its log says each thing once and not every five minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.host import filelocks, state
from pvepassthru.model.errors import PassthruError
from pvepassthru.model.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pvepassthru.host.host import Host

FILE = f"{state.FOLDER}/reported"
LOCK = f"{FILE}.lock"
LOCK_WAIT = 5.0


def new(host: Host, sentences: Iterable[str]) -> list[str]:
    """Those of these sentences that were not reported before; from now on they were, and those that are gone were not.

    A thing that goes and comes back is new. Raises UnsafeError when the tool's folder cannot be trusted, BusyError, and
    PassthruError when the file cannot be written.
    """
    wanted = list(sentences)
    if not wanted and not host.exists(FILE):
        return []
    state.prepare(host)
    with filelocks.hold(host, LOCK, LOCK_WAIT, "what was reported"):
        before = (host.text(FILE) or "").split("\n")
        try:
            host.replace(FILE, "".join(f"{one_line(words)}\n" for words in wanted).encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise PassthruError(f"cannot write {FILE}: {error.strerror}", "check that /run is not full") from error
    return [words for words in wanted if one_line(words) not in before]
