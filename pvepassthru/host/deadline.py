# SPDX-License-Identifier: Apache-2.0
"""A point in time that a whole phase shares, so that its waits add up to one limit."""

from __future__ import annotations

import time


class Deadline:
    """`seconds` from now on, by the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def raised(self, seconds: float) -> Deadline:
        """One from the same moment on, for at least `seconds`."""
        later = Deadline(max(seconds, self.seconds))
        later._end = self._end - self.seconds + later.seconds
        return later

    def left(self, most: float | None = None) -> float:
        """Seconds until the deadline, at most `most`; 0 when it has passed."""
        rest = max(0.0, self._end - time.monotonic())
        return rest if most is None else min(rest, most)

    def __bool__(self) -> bool:
        """Whether there is time left."""
        return self.left() > 0


def pause(deadline: Deadline, seconds: float) -> bool:
    """Sleep for `seconds`, not past the deadline; returns whether there was time left."""
    left = deadline.left(seconds)
    if left > 0:
        time.sleep(left)
    return left > 0
