# SPDX-License-Identifier: Apache-2.0
"""Starts at once against the same starts one after the other: what the locks cost, and that nobody gets too much."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from bench import hosts
from bench.measure import BenchError, Program, Row, compared, in_order, together

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STARTS = 8
LIMIT = 1.2
"""At once is no slower than one after the other, even on a machine with one processor; the rest is noise."""


def rows(folder: str, hook: str, rounds: int, pythons: Sequence[tuple[str, str]]) -> Iterator[Row]:
    """STARTS VMs, each with one mdev of the same parent, and as many instances as there are VMs. Raises BenchError."""
    root = f"{folder}/races"
    vmids = hosts.race_host(root, STARTS)
    environment = {"PVEPASSTHRU_ROOT": root}

    def expect(count: int) -> None:
        """Make sure that so many instances are there. Raises BenchError: something else would be measured."""
        folder = f"{root}/sys/bus/mdev/devices"
        found = len(os.listdir(folder)) if os.path.isdir(folder) else 0
        if found != count:
            raise BenchError(f"{found} instances are there after {STARTS} starts or stops at once, expected {count}")

    for version, python in pythons:
        starts = [Program([python, "-I", hook, str(vmid), "pre-start"], environment) for vmid in vmids]
        stops = [Program([python, "-I", hook, str(vmid), "post-stop"], environment) for vmid in vmids]

        def stop(stops: Sequence[Program] = stops) -> None:
            expect(STARTS)
            together(stops)
            expect(0)

        ways = [functools.partial(way, starts) for way in (together, in_order)]
        at_once, one_by_one = compared(ways, rounds, stop)
        what = f"{STARTS} pre-starts at once, one mdev each on one GPU"
        yield Row(what, version, at_once, "one after the other", one_by_one, LIMIT)
