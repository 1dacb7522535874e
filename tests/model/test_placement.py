# SPDX-License-Identifier: Apache-2.0
"""The planner against every possible placement, on GPUs of which the truth is known."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from fractions import Fraction
from typing import NamedTuple

import pytest

from pvepassthru.model import placement
from pvepassthru.model.placement import Gpu, Place, plan, ranked, room
from pvepassthru.model.profile import Profile

MIB = 1024


class Kind(NamedTuple):
    """A type, as the truth has it."""

    id: str
    name: str
    parts: int
    """Of what a GPU has."""
    framebuffer: int | None


class Truth:
    """A GPU as its driver sees it, which knows nothing of the planner."""

    def __init__(self, address: str, parts: int, kinds: list[Kind], rule: str) -> None:
        self.address = address
        self.parts = parts
        self.kinds = {kind.id: kind for kind in kinds}
        self.rule = rule
        self.instances: list[str] = []

    def copy(self) -> Truth:
        other = Truth(self.address, self.parts, list(self.kinds.values()), self.rule)
        other.instances = list(self.instances)
        return other

    def room(self, kind: str) -> int:
        """How many more of a type can be created."""
        if kind not in self.kinds:
            return 0
        wanted = self.kinds[kind]
        for there in self.instances:
            if self.rule == "exclusive" and there != kind:
                return 0
            if self.rule == "equal" and self.kinds[there].framebuffer != wanted.framebuffer:
                return 0
        return (self.parts - sum(self.kinds[there].parts for there in self.instances)) // wanted.parts

    @property
    def load(self) -> Fraction:
        return Fraction(sum(self.kinds[there].parts for there in self.instances), self.parts)

    def largest(self) -> int:
        """How many of its largest type can be created."""
        return self.room(max(self.kinds.values(), key=lambda kind: kind.parts).id)


def seen(gpus: list[Truth], functions: int = 1) -> tuple[Gpu, ...]:
    """What sysfs shows of these GPUs, each with so many functions (one that is in use has none of its own)."""
    found = []
    position = itertools.count()
    for gpu in gpus:
        profiles = {
            kind.id: Profile(
                kind.id, kind.name, kind.framebuffer, gpu.parts // kind.parts, "X", "Q" if kind.framebuffer else None
            )
            for kind in gpu.kinds.values()
        }
        names = (
            [gpu.address] if functions == 1 else [f"{gpu.address[:-1]}{number}" for number in range(1, functions + 1)]
        )
        places = []
        for number, name in enumerate(names):
            rooms = {kind: gpu.room(kind) for kind in gpu.kinds}
            if functions > 1:  # a VF takes one, and one that has one takes no other
                rooms = {kind: int(bool(many) and number >= len(gpu.instances)) for kind, many in rooms.items()}
            places.append(Place(name, next(position), rooms))
        found.append(Gpu(gpu.address, tuple(places), dict(Counter(gpu.instances)), profiles, gpu.rule))
    return tuple(found)


def a_case(random_: random.Random) -> tuple[list[Truth], str, int]:
    """One to four GPUs with something on them, a type and how many of it are wanted."""
    rule = random_.choice(["shared", "exclusive", "equal", "mixed"])
    sized = rule in {"equal", "mixed"}
    gpus = []
    for number in range(random_.randint(1, 4)):
        parts = random_.choice([4, 8, 12])
        sizes = [size for size in (1, 2, 4) if random_.random() < 0.8 or size == 4]
        kinds = [Kind(f"nvidia-{size}", f"X-{size}Q", size, size * MIB if sized else None) for size in sizes]
        if sized and random_.random() < 0.5:  # another series of the same size
            kinds.append(Kind("nvidia-12", "X-2A", 2, 2 * MIB))
        gpu = Truth(f"0000:{number + 1:02x}:00.0", parts, kinds, rule)
        for _ in range(random_.choice([0, 0, 0, 1, 1, 2, 3])):
            able = [kind for kind in gpu.kinds if gpu.room(kind)]
            if able:
                gpu.instances.append(random_.choice(able))
        gpus.append(gpu)
    return gpus, f"nvidia-{random_.choice([1, 2, 4])}", random_.randint(0, 10)


def after(gpus: list[Truth], kind: str, counts: tuple[int, ...]) -> list[Truth]:
    """The GPUs with so many more instances on each."""
    copies = [gpu.copy() for gpu in gpus]
    for gpu, count in zip(copies, counts, strict=True):
        gpu.instances += [kind] * count
    return copies


def score(gpus: list[Truth], kind: str, counts: tuple[int, ...], strategy: str) -> tuple[object, ...]:
    """How bad a placement is, as `plan` defines it; the least one is the best."""
    then = after(gpus, kind, counts)
    first = tuple(-count for count in counts)
    if strategy == "pack":
        free = sum(not gpu.instances for gpu in then)
        return -free, -sum(gpu.largest() for gpu in then), sum(map(bool, counts)), first
    if strategy == "spread":
        return sorted((gpu.load for gpu in then), reverse=True), first
    return (first,)


def best(gpus: list[Truth], kind: str, count: int, strategy: str) -> tuple[int, ...]:
    """The best of all placements, by looking at each."""
    rooms = [gpu.room(kind) for gpu in gpus]
    wanted = min(count, sum(rooms))
    every = itertools.product(*(range(room + 1) for room in rooms))
    return min(
        (counts for counts in every if sum(counts) == wanted), key=lambda counts: score(gpus, kind, counts, strategy)
    )


@pytest.mark.parametrize("strategy", placement.STRATEGIES)
def test_as_good_as_the_best_of_all(strategy: str) -> None:
    random_ = random.Random(20240)  # noqa: S311 - the same cases each time
    full = 0
    for _ in range(1000):
        gpus, kind, count = a_case(random_)
        functions = random_.choice([1, 1, 16])
        view = seen(gpus, functions)
        assert room(view, kind) == tuple(gpu.room(kind) for gpu in gpus)
        done = plan(view, kind, count, strategy)
        expected = best(gpus, kind, count, strategy)
        owner = {place.address: gpu.address for gpu in view for place in gpu.places}
        placed = Counter(owner[name] for name in done.placed)
        context = (
            f"{kind} x{count} {strategy} {[(gpu.parts, gpu.rule, sorted(gpu.kinds), gpu.instances) for gpu in gpus]}"
        )
        assert tuple(placed[gpu.address] for gpu in gpus) == expected, context
        assert done.left == sum(gpu.room(kind) for gpu in gpus) - len(done.placed)
        if functions > 1:
            assert len(set(done.placed)) == len(done.placed), context
        full += len(done.placed) < count
        one = plan(view, kind, 1, strategy)
        if strategy != "order" and one.placed:
            assert ranked(view, kind, strategy)[:1] == one.placed, context
        assert sorted(ranked(view, kind, strategy)) == sorted(owner)
    assert 100 < full < 900
