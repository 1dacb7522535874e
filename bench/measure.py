# SPDX-License-Identifier: Apache-2.0
"""Timing programs against one another, and the limits that the project sets itself.

Programs to compare run in turns, so that a slow moment of the machine hits both; medians are compared.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class BenchError(Exception):
    """A measurement would not mean anything: a program failed, or did not do its work."""


class Row(NamedTuple):
    """One comparison. Its JSON shape is these fields by name, with `ratio` and `ok`."""

    what: str
    interpreter: str
    ours_ms: float
    """Median."""
    baseline: str
    baseline_ms: float
    limit: float
    """The highest ratio that is still fine."""

    @property
    def ratio(self) -> float:
        """Ours by the baseline."""
        return self.ours_ms / self.baseline_ms

    @property
    def ok(self) -> bool:
        """Whether the limit is kept."""
        return self.ratio <= self.limit


class Program(NamedTuple):
    """A program to time."""

    argv: list[str]
    environment: Mapping[str, str] = {}
    after: Callable[[], None] | None = None
    """Called after each run, not timed: checks what was done and takes it back. Raises BenchError."""


def once(program: Program) -> float:
    """Run a program, its output thrown away, and return the seconds it took. Raises BenchError if it fails."""
    streams = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    environment = {"PATH": "/sbin:/bin:/usr/sbin:/usr/bin", "LC_ALL": "C", **program.environment}
    start = time.perf_counter()
    pid = os.posix_spawn(program.argv[0], program.argv, environment, file_actions=streams)
    _, status = os.waitpid(pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise BenchError(
            f"`{' '.join(program.argv)}` failed with {os.waitstatus_to_exitcode(status)}; run it to see why"
        )
    if program.after:
        program.after()
    return seconds


def in_turns(programs: Sequence[Program], rounds: int) -> list[float]:
    """The median milliseconds of each program, run in turns; the first round, which warms caches, does not count."""
    times: list[list[float]] = [[] for _ in programs]
    for turn in range(rounds + 1):
        order = range(len(programs)) if turn % 2 else reversed(range(len(programs)))
        for index in order:
            seconds = once(programs[index])
            if turn:
                times[index].append(seconds)
    return [statistics.median(found) * 1000 for found in times]
