# SPDX-License-Identifier: Apache-2.0
"""Crashes at random: any situation, phase, point and way on, chosen by a seed. Only the standard library."""

from __future__ import annotations

import itertools
import random
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.kernel import killed
from tests.kernel.checks import holds
from tests.scenarios.crashes import (
    SITUATIONS,
    Situation,
    as_before,
    call_of,
    furnish,
    go_on,
    lead_up,
    points,
    stop,
    warm_up,
)
from tests.scenarios.forked import VMID, forked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.scenarios.world import World


class Round(NamedTuple):
    """A crash at random."""

    name: str
    phase: str
    how: str
    """`before`, `after`, `spared`, or `any time`: a kill that does not look what the hook is doing."""
    way: str
    place: float
    """Of the kill in the phase, from 0 to 1."""
    pause: float
    """Seconds after which a spared child goes on."""


def play(world: World, count: int, seed: int) -> Counter[str]:
    """Crash at random and go on, so many times; returns how many of each kind there were."""
    furnish(world, "")
    dice = random.Random(seed)  # noqa: S311 - not for cryptography
    rounds = list(itertools.islice(_chosen(dice), count))
    chosen = {one.name for one in rounds}
    usual = {name: _usual(world, situation) for name, situation in SITUATIONS.items() if name in chosen}
    kinds: Counter[str] = Counter()
    for number, one in enumerate(rounds, 1):
        try:
            code = _play(world, one, usual[one.name])
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, round {number} {one}: {error}") from error
        kinds[f"{one.name} {one.phase}"] += 1
        kinds[f"killed {one.how}"] += code == -signal.SIGKILL
        kinds[f"then {one.way}"] += 1
    return kinds


class _Usual(NamedTuple):
    """A VM without crashes."""

    before: dict[str, Any]
    """What is seen while it is stopped."""
    makers: dict[str, list[str]]
    """By phase who makes each change,"""
    seconds: dict[str, float]
    """and how long the phase takes."""


def _usual(world: World, situation: Situation) -> _Usual:
    world.pve.define(VMID, situation.config)
    usual = _Usual(warm_up(world, situation), {}, {})
    for phase in _phases(situation):
        lead_up(world, situation, phase)
        begin = time.monotonic()
        usual.makers[phase] = forked(call_of(world, phase)).changes
        usual.seconds[phase] = time.monotonic() - begin
        stop(world)
    return usual


def _phases(situation: Situation) -> tuple[str, ...]:
    """The phases to kill, of those that do something."""
    return ("pre-start",) if situation.fails else ("pre-start", "post-stop", "recover")


def _chosen(dice: random.Random) -> Iterator[Round]:
    """Rounds without end."""
    while True:
        name = dice.choice(list(SITUATIONS))
        phase = dice.choice(_phases(SITUATIONS[name]))
        how = dice.choice(["before", "after", "spared", "any time"])
        yield Round(name, phase, how, dice.choice(["recover", "next"]), dice.random(), dice.random() / 5)


def _play(world: World, one: Round, usual: _Usual) -> int:
    situation = SITUATIONS[one.name]
    world.pve.define(VMID, situation.config)
    lead_up(world, situation, one.phase)
    call = call_of(world, one.phase)
    if one.how == "any time":
        end = time.monotonic() + usual.seconds[one.phase] * one.place
        done = forked(call, when=lambda: time.monotonic() >= end)
    else:
        numbers = points(usual.makers[one.phase], one.how, every=True)
        number = numbers[int(one.place * len(numbers))]
        before, after = (None, number) if one.how == "after" else (number, None)
        done = forked(call, killed.At(before, after, one.how == "spared"), pause=one.pause)
        # it makes fewer changes when it waits less, and goes on while the kill comes when its child has answered
        answers = one.how == "after" and usual.makers[one.phase][number - 1] == "child"
        holds(f"killed: {done}", done.code == -signal.SIGKILL or len(done.changes) < number or answers)
    holds(f"no traceback: {done.output}", "Traceback" not in done.output)
    go_on(world, situation, one.way)
    as_before(world, usual.before, "after it")
    return done.code
