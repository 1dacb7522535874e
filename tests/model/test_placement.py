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
from pvepassthru.model.placement import Gpu, Place, certain, plan, ranked, room, rule_of
from pvepassthru.model.profile import Profile, read

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
        new = sum(count for gpu, count in zip(gpus, counts, strict=True) if not gpu.instances)
        return -free, -sum(gpu.largest() for gpu in then), new, sum(map(bool, counts)), first
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


def test_what_is_left_after_others() -> None:
    """As the truth has it, of every type and after several of different ones."""
    random_ = random.Random(20241)  # noqa: S311 - the same cases each time
    compared = 0
    for _ in range(500):
        truth, _, _ = a_case(random_)
        view = seen(truth, random_.choice([1, 16]))
        owner = {place.address: at for at, gpu in enumerate(view) for place in gpu.places}
        for _ in range(random_.randint(1, 5)):
            kind = random_.choice(["nvidia-1", "nvidia-2", "nvidia-4", "nvidia-12"])
            placed = plan(view, kind, 1, "order").placed
            if not placed:
                assert not any(gpu.room(kind) for gpu in truth)
                continue
            truth[owner[placed[0]]].instances.append(kind)
            view = placement.after(view, placed[0], kind)
            for other in ("nvidia-1", "nvidia-2", "nvidia-4", "nvidia-12"):
                assert room(view, other) == tuple(gpu.room(other) for gpu in truth), (kind, other, view)
                compared += 1
    assert compared > 1000


# ---- what sysfs shows of the rule


def profiles(*names: str) -> dict[str, Profile]:
    """NVIDIA types by their names, `2Q` being the type nvidia-2Q."""
    return {f"nvidia-{name}": read(f"nvidia-{name}", f"NVIDIA A16-{name}", None) for name in names}


def one(room_: dict[str, int], address: str = "0000:01:00.0") -> list[Place]:
    return [Place(address, 0, room_)]


@pytest.mark.parametrize(
    "room_, used, expected",
    [
        ({"nvidia-2Q": 8, "nvidia-4Q": 4}, {}, "equal"),
        ({"nvidia-2Q": 7, "nvidia-4Q": 0, "nvidia-2A": 7}, {"nvidia-2Q": 1}, "equal"),
        ({"nvidia-2Q": 7, "nvidia-4Q": 3}, {"nvidia-2Q": 1}, "mixed"),
        ({"nvidia-2Q": 0, "nvidia-4Q": 0}, {"nvidia-2Q": 1, "nvidia-4Q": 1}, "mixed"),
        ({"nvidia-1-4Q": 1}, {}, "slices"),
        ({}, {}, "equal"),
    ],
)
def test_the_rule_of_nvidia(room_: dict[str, int], used: dict[str, int], expected: str) -> None:
    assert rule_of(one(room_), used, profiles("2Q", "2A", "4Q", "1-4Q")) == expected


def test_the_rule_of_a_plain_driver() -> None:
    kinds = {f"t-{units}": Profile(f"t-{units}", None, None, 4 // units) for units in (1, 2, 4)}
    assert rule_of(one({"t-1": 4, "t-2": 2, "t-4": 1}), {}, kinds) == "shared"
    assert rule_of(one({"t-1": 3, "t-2": 1, "t-4": 0}), {"t-1": 1}, kinds) == "shared"
    assert rule_of(one({"t-1": 3, "t-2": 0, "t-4": 0}), {"t-1": 1}, kinds) == "exclusive"
    assert rule_of(one({"t-1": 1, "t-2": 0, "t-4": 0}), {"t-1": 3}, kinds) == "shared", "there is no room for others"
    assert rule_of(one({"t-1": 0}), {"": 1}, kinds) == "shared", "nobody knows what that is"


# ---- NVIDIA's equal sizes, as the drivers show them


def vfs(gpu: int, offers: dict[str, list[str]], used: dict[str, int], names: list[str]) -> Gpu:
    """A GPU with the vendor interface: what each of its VFs offers, and what is set on them."""
    kinds = profiles(*names)
    places = tuple(
        Place(address, 100 * gpu + at, {f"nvidia-{name}": 1 for name in some})
        for at, (address, some) in enumerate(offers.items())
    )
    return Gpu(f"0000:{gpu:02x}:00.0", places, used, kinds, rule_of(places, used, kinds))


ALL = ["2Q", "2A", "4Q", "8Q", "16Q"]


def sixteen(gpu: int, some: list[str], count: int = 16) -> dict[str, list[str]]:
    return {f"0000:{gpu:02x}:00.{at:x}": some for at in range(count)}


def test_pack_prefers_a_gpu_of_this_size() -> None:
    """The one that is in use offers its own size only; another size goes to a free one, and keeps the third free."""
    begun = vfs(2, sixteen(2, ["2Q", "2A"], 15), {"nvidia-2Q": 1}, ["2Q", "2A"])
    gpus = (vfs(1, sixteen(1, ALL), {}, ALL), begun, vfs(3, sixteen(3, ALL), {}, ALL))
    assert room(gpus, "nvidia-2A") == (8, 7, 8), "by the memory, not the VFs: a free one of its board shows 16 GB"
    assert plan(gpus, "nvidia-2A", 7, "pack").placed == tuple(f"0000:02:00.{at:x}" for at in range(7))
    assert [name[5:7] for name in plan(gpus, "nvidia-2A", 9, "pack").placed] == ["01"] * 2 + ["02"] * 7
    assert room(gpus, "nvidia-4Q") == (4, 0, 4)
    done = plan(gpus, "nvidia-4Q", 5, "pack")
    assert [name[5:7] for name in done.placed] == ["01"] * 4 + ["03"]
    assert done.left == 3
    assert [name[5:7] for name in plan(gpus, "nvidia-4Q", 4, "spread").placed] == ["01", "03", "01", "03"]
    assert [name[5:7] for name in plan(gpus, "nvidia-2Q", 3, "spread").placed] == ["01", "03", "01"]


def test_what_is_not_certain() -> None:
    """With no free GPU of the board nobody knows its memory: then it is what the VFs offer."""
    begun = vfs(2, sixteen(2, ["2Q"], 15), {"nvidia-2Q": 1}, ["2Q"])
    assert room((begun,), "nvidia-2Q") == (15,)
    assert certain((begun,), "nvidia-2Q") == (False,)
    free = vfs(1, sixteen(1, ALL), {}, ALL)
    assert certain((free, begun), "nvidia-2Q") == (True, True)


def test_slices_do_not_meet() -> None:
    """MIG: a slice for each; another type's slices stay, and go on counting as room for the largest."""
    names = ["1-4Q", "1-4A", "4-16Q"]
    offers = {"0000:01:00.4": names, "0000:01:00.5": ["1-4Q", "1-4A"]}
    gpus = (vfs(1, offers, {}, names), vfs(2, {"0000:02:00.4": names}, {"nvidia-4-16Q": 1}, names))
    assert room(gpus, "nvidia-1-4Q") == (2, 1)
    assert plan(gpus, "nvidia-1-4Q", 1, "pack").placed == ("0000:02:00.4",)
    assert plan(gpus, "nvidia-1-4Q", 9, "pack").left == 0


def test_only_available_instances_are_known() -> None:
    """A plain driver that says nothing else: what is free shows what a GPU takes."""
    kinds = {name: Profile(name, None, None, None) for name in ("a", "b")}
    free = Gpu("0000:01:00.0", (Place("0000:01:00.0", 0, {"a": 4, "b": 1}),), {}, kinds, "shared")
    begun = Gpu("0000:02:00.0", (Place("0000:02:00.0", 1, {"a": 2, "b": 0}),), {"a": 2}, kinds, "shared")
    assert plan((free, begun), "a", 3, "pack").placed == ("0000:01:00.0", *["0000:02:00.0"] * 2)
    assert plan((free, begun), "a", 3, "spread").placed == ("0000:01:00.0",) * 2 + ("0000:01:00.0",)
    nothing = Gpu("0000:03:00.0", (Place("0000:03:00.0", 0, {"a": 2}),), {"": 1}, kinds, "shared")
    assert plan((nothing, begun), "a", 1, "spread").placed == ("0000:03:00.0",)


def test_gvt_weights() -> None:
    kinds = {f"i915-GVTg_V5_{nth}": read(f"i915-GVTg_V5_{nth}", None, None) for nth in (1, 2, 4, 8)}
    rooms = {"i915-GVTg_V5_1": 0, "i915-GVTg_V5_2": 1, "i915-GVTg_V5_4": 2, "i915-GVTg_V5_8": 4}
    first = Gpu("0000:00:02.0", (Place("0000:00:02.0", 0, rooms),), {"i915-GVTg_V5_2": 1}, kinds, "shared")
    second = first._replace(
        address="0000:80:02.0", places=(Place("0000:80:02.0", 1, rooms),), used={"i915-GVTg_V5_8": 3}
    )
    assert plan((first, second), "i915-GVTg_V5_4", 1, "spread").placed == ("0000:80:02.0",), "3/8 and 1/2 are in use"


def test_nothing_at_all() -> None:
    for strategy in placement.STRATEGIES:
        assert plan((), "a", 3, strategy) == ((), 0)
        assert ranked((), "a", strategy) == ()
        assert placement.order_of((), strategy) == ()
    full = Gpu("0000:01:00.0", (Place("0000:01:00.0", 0, {}),), {}, {}, "shared")
    assert ranked((full,), "a", "pack") == ("0000:01:00.0",), "it may have room by then"


# ---- the order of a mapping's entries


def test_order_of() -> None:
    one_, two = vfs(1, sixteen(1, ALL, 4), {}, ALL), vfs(2, sixteen(2, ALL, 4), {}, ALL)
    names = {gpu.address[5:7]: [place.address for place in gpu.places] for gpu in (one_, two)}
    pairs = [name for both in zip(names["01"], names["02"], strict=True) for name in both]
    assert placement.order_of((one_, two), "pack") == (*names["01"], *names["02"])
    assert placement.order_of((one_, two), "spread") == tuple(pairs)
    assert placement.order_of((one_, two), "order") == (*names["01"], *names["02"])


def test_order_of_unlike_gpus() -> None:
    """A GPU that holds twice as many comes twice as often."""
    small = Gpu("0000:01:00.0", tuple(Place(f"s{at}", at, {}) for at in range(2)), {}, {}, "equal")
    large = Gpu("0000:02:00.0", tuple(Place(f"l{at}", 9 + at, {}) for at in range(4)), {}, {}, "equal")
    assert placement.order_of((small, large), "spread") == ("l0", "s0", "l1", "l2", "s1", "l3")
