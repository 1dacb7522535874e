# SPDX-License-Identifier: Apache-2.0
"""What goes wrong, and when: each fault waits for its request, happens, and is gone.

    pve.faults.cut("after", write=2)      the second write from now is done, and its answer never comes
    pve.faults.cut("during", write=1)     the worker is killed in the middle of the next one
    pve.faults.answer(401, request=3)     the third request from now gets this status and is not served
    pve.faults.meddle(lambda state: state.vm(100).change(cores="4"), write=1)   somebody else writes just before
    pve.faults.slow(5, path="/pending")   the next request of such a path is answered 5 seconds late

Writes and requests are counted from 1, from the moment when the fault is set, and only those whose path holds `path`.
A write is a POST, PUT or DELETE but a login. `times` says how many in a row, None: all from there on.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict, Unpack

from tests.api.fake_pve.state import is_write

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.api.fake_pve.state import State

Moment: TypeAlias = Literal["before", "during", "after", "answer"]
"""Cut before it is served; while it is served, which leaves half of a config's keys pending and nothing of a change
of the mappings; when it was served, before the answer; in the middle of the answer."""


class When(TypedDict, total=False):
    """To which requests a fault happens; see Fault."""

    write: int | None
    request: int | None
    path: str
    times: int | None


@dataclass
class Fault:
    """One thing that goes wrong."""

    write: int | None = None
    """Which write from now, from 1."""
    request: int | None = None
    """Which request from now, from 1; the first one if neither is given."""
    path: str = ""
    """What the request's path must hold to count."""
    times: int | None = 1
    cut: Moment | None = None
    status: int | None = None
    reason: str = ""
    body: bytes | None = None
    """What is sent instead of the answer's body."""
    seconds: float = 0
    """How late the answer is."""
    meddle: Callable[[State], None] | None = None
    happened: int = 0
    """How many times it has happened."""
    _seen: int = 0

    def strikes(self, method: str, path: str) -> bool:
        """Whether it happens to this request, which it counts."""
        if self.path not in path or (self.write is not None and not is_write(method, path)):
            return False
        self._seen += 1
        past = self._seen - (self.write or self.request or 1)
        if past < 0 or (self.times is not None and past >= self.times):
            return False
        self.happened += 1
        return True


class Faults:
    """All that is to go wrong."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Set a fault; its `happened` tells later whether it came to pass."""
        with self._lock:
            self._set.append(fault)
        return fault

    def cut(self, moment: Moment, **when: Unpack[When]) -> Fault:
        """Cut the connection at a moment of a write, or of any request."""
        return self.add(Fault(cut=moment, **when))

    def answer(self, status: int, reason: str = "an injected fault", **when: Unpack[When]) -> Fault:
        """Answer with a status, and do nothing: 401, 595, 596, 503, ..., all but 500 with an empty body."""
        return self.add(Fault(status=status, reason=reason, **when))

    def meddle(self, act: Callable[[State], None], **when: Unpack[When]) -> Fault:
        """Let somebody else change something just before a request is served."""
        return self.add(Fault(meddle=act, **when))

    def not_json(self, body: bytes = b"<html>proxy</html>", **when: Unpack[When]) -> Fault:
        """Serve a request, and send a body that is no JSON, with the answer's own status."""
        return self.add(Fault(body=body, **when))

    def slow(self, seconds: float, **when: Unpack[When]) -> Fault:
        """Serve a request at once, and answer late."""
        return self.add(Fault(seconds=seconds, **when))

    def of(self, method: str, path: str) -> list[Fault]:
        """The faults that happen to this request."""
        with self._lock:
            return [fault for fault in self._set if fault.strikes(method, path)]

    def clear(self) -> None:
        """Let nothing go wrong any more."""
        with self._lock:
            self._set.clear()
