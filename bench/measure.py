# SPDX-License-Identifier: Apache-2.0
"""Timing programs against one another, and the limits that the project sets itself.

Programs to compare run in turns, so that a slow moment of the machine hits both; medians are compared.
"""

from __future__ import annotations

import functools
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
    limit: float | None
    """The highest ratio that is still fine; None: it is told, and not judged."""

    @property
    def ratio(self) -> float:
        """Ours by the baseline."""
        return self.ours_ms / self.baseline_ms

    @property
    def ok(self) -> bool:
        """Whether the limit is kept."""
        return self.limit is None or self.ratio <= self.limit


class Program(NamedTuple):
    """A program to time."""

    argv: list[str]
    environment: Mapping[str, str] = {}
    after: Callable[[], None] | None = None
    """Called after each run, not timed: checks what was done and takes it back. Raises BenchError."""


def once(program: Program) -> float:
    """Run a program, its output thrown away, and return the seconds it took. Raises BenchError if it fails."""
    start = time.perf_counter()
    pid = _begin(program)
    _, status = os.waitpid(pid, 0)
    seconds = time.perf_counter() - start
    _need_success(program, status)
    if program.after:
        program.after()
    return seconds


def in_order(programs: Sequence[Program]) -> float:
    """Run programs one after the other and return the seconds of all. Raises BenchError if one fails."""
    return sum(map(once, programs))


def together(programs: Sequence[Program]) -> float:
    """Run programs at once and return the seconds until the last has ended. Raises BenchError if one fails."""
    start = time.perf_counter()
    begun = [(program, _begin(program)) for program in programs]
    ended = [(program, os.waitpid(pid, 0)[1]) for program, pid in begun]
    seconds = time.perf_counter() - start
    for program, status in ended:
        _need_success(program, status)
    return seconds


def _begin(program: Program) -> int:
    """Start a program; returns its process."""
    streams = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    environment = {"PATH": "/sbin:/bin:/usr/sbin:/usr/bin", "LC_ALL": "C", **program.environment}
    return os.posix_spawn(program.argv[0], program.argv, environment, file_actions=streams)


def _need_success(program: Program, status: int) -> None:
    if status:
        raise BenchError(
            f"`{' '.join(program.argv)}` failed with {os.waitstatus_to_exitcode(status)}; run it to see why"
        )


def in_turns(programs: Sequence[Program], rounds: int) -> list[float]:
    """The median milliseconds of each program, run in turns; the first round, which warms caches, does not count."""
    return compared([functools.partial(once, program) for program in programs], rounds)


def compared(ways: Sequence[Callable[[], float]], rounds: int, after: Callable[[], None] | None = None) -> list[float]:
    """The median milliseconds of each way, taken in turns, `after` after each; the first round does not count."""
    times: list[list[float]] = [[] for _ in ways]
    for turn in range(rounds + 1):
        order = range(len(ways)) if turn % 2 else reversed(range(len(ways)))
        for index in order:
            seconds = ways[index]()
            if after:
                after()
            if turn:
                times[index].append(seconds)
    return [statistics.median(found) * 1000 for found in times]
