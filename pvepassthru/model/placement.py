# SPDX-License-Identifier: Apache-2.0
"""Where mediated devices and vGPUs of one type go when several GPUs could take them.

What there is room for now is the driver's own word (available_instances, creatable_vgpu_types), which is advice: only a
create says. The rest is foresight, by the rule that a GPU follows:

- `equal`: NVIDIA's default for time-sliced vGPUs: the first one fixes the framebuffer's size for the whole GPU; types
  of other series and the same size may stand beside it;
- `mixed`: NVIDIA's mixed-size mode, seen by sizes that are side by side, or on offer beside one that is in use;
- `slices`: MIG: what fits is what GPU instances were made for, and types of different slices do not meet;
- `exclusive`: one type at a time;
- `shared`: types share the GPU as their parts of it add up: GVT-g by its weights, and what is not known better.
"""

from __future__ import annotations

from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pvepassthru.model.profile import Profile

    _Value = tuple[int, int, int, int]

STRATEGIES = ("order", "pack", "spread")


class Place(NamedTuple):
    """A function on which instances are made: an mdev parent, or a VF with NVIDIA's vendor interface."""

    address: str
    position: int
    """Its place in PVE's order, from 0."""
    room: dict[str, int]
    """How many more its driver offers there, by type."""


class Gpu(NamedTuple):
    """One GPU with those of its functions that come into question."""

    address: str
    """Of the physical function, or of the parent itself."""
    places: tuple[Place, ...]
    """In PVE's order."""
    used: dict[str, int]
    """Instances by type on all of its functions; those of which the type cannot be told are under an empty one."""
    profiles: dict[str, Profile]
    """The types that it knows."""
    rule: str

    @property
    def free(self) -> bool:
        """Whether there is nothing on it."""
        return not any(self.used.values())


class Plan(NamedTuple):
    """Where instances go."""

    placed: tuple[str, ...]
    """The function of each one; fewer than were asked for if there is no room for all."""
    left: int
    """How many more would fit."""


def rule_of(places: Iterable[Place], used: dict[str, int], profiles: dict[str, Profile]) -> str:
    """The rule that a GPU follows, as far as what is on it and what it offers beside that shows it."""
    offered = {kind for place in places for kind, room in place.room.items() if room}
    present = {kind for kind, count in used.items() if count and kind}
    known = [profiles[kind] for kind in sorted(offered | present) if kind in profiles]
    if any(profile.slices for profile in known):
        return "slices"
    if any(profile.time_sliced for profile in known or profiles.values()):
        sizes = {profiles[kind].framebuffer for kind in present if kind in profiles}
        beside = {profiles[kind].framebuffer for kind in offered if kind in profiles}
        return "mixed" if len(sizes) > 1 or (sizes and beside - sizes) else "equal"
    others = [profile for kind, profile in profiles.items() if kind not in present]
    if len(present) != 1 or not others or offered - present:
        return "shared"
    (kind,) = present
    mosts = {name: profile.most for name, profile in profiles.items() if profile.most}
    whole = _product(mosts.values())
    taken = used[kind] * whole // mosts[kind] if kind in mosts else whole
    return "exclusive" if any(other.most and taken + whole // other.most <= whole for other in others) else "shared"


def plan(gpus: Sequence[Gpu], kind: str, count: int, strategy: str) -> Plan:
    """The best places for `count` instances of a type, as many as fit.

    Best is, by strategy:

    - order: as PVE does, each on the first function with room;
    - pack: the most GPUs stay free; then the most instances of the largest type still fit on all GPUs together; then
      the fewest go on GPUs that were free; then the fewest GPUs get any of these instances;
    - spread: the highest load of a GPU (the part of it that is in use) is the least, then the second highest, and so
      on;

    and of what is equal, that with more instances on the GPU that comes first in PVE's order, then on the second, and
    so on. The largest type is that of which an empty GPU takes the fewest; GPUs of another kind have their own.
    """
    view = _View(gpus, kind)
    wanted = min(max(0, count), sum(view.rooms))
    if strategy == "order":
        placed = _in_order(view, wanted)
    elif strategy == "pack":
        counts = _packed(view, wanted)
        placed = [name for gpu, number in zip(gpus, counts, strict=True) for name in _functions(gpu, kind)[:number]]
    else:
        placed = _spread(view, wanted)
    return Plan(tuple(placed), sum(view.rooms) - wanted)


def room(gpus: Sequence[Gpu], kind: str) -> tuple[int, ...]:
    """How many more instances of a type each GPU takes."""
    return tuple(_View(gpus, kind).rooms)


def most(gpus: Sequence[Gpu], kind: str) -> tuple[int | None, ...]:
    """How many of a type each GPU takes when it is empty, as far as that can be told."""
    learned = _learn(gpus)
    return tuple(learned.get((at, kind)) for at in range(len(gpus)))


def after(gpus: Sequence[Gpu], address: str, kind: str) -> tuple[Gpu, ...]:
    """The GPUs once one more instance of a type is on a function of theirs, as far as the GPU's rule foretells that.

    What is learned of the GPUs now is kept in their profiles, since a GPU tells less when something is on it.
    """
    view = _View(gpus, kind)
    found = []
    for at, gpu in enumerate(gpus):
        profiles = {name: one._replace(most=view.most.get((at, name))) for name, one in gpu.profiles.items()}
        known = gpu._replace(profiles=profiles)
        if any(place.address == address for place in gpu.places):
            places = tuple(Place(one.address, one.position, view.left_on(at, one, address)) for one in gpu.places)
            known = known._replace(places=places, used={**gpu.used, kind: gpu.used.get(kind, 0) + 1})
        found.append(known)
    return tuple(found)


def certain(gpus: Sequence[Gpu], kind: str) -> tuple[bool, ...]:
    """Of each GPU whether `room` is its driver's word, or what it has memory for.

    Else it is only how many of its functions offer the type: there may be less memory than functions.
    """
    view = _View(gpus, kind)
    return tuple(
        len(gpu.places) == 1 or view.rooms[at] < 2 or gpu.rule == "slices" or (at, kind) in view.most
        for at, gpu in enumerate(gpus)
    )


def ranked(gpus: Sequence[Gpu], kind: str, strategy: str) -> tuple[str, ...]:
    """All functions in the order in which to try them for one more instance: the first is where `plan` puts it.

    Functions that offer none now come last, in PVE's order: what drivers offer is advice.
    """
    if strategy == "order":
        places = sorted((place for gpu in gpus for place in gpu.places), key=_position)
        return tuple(place.address for place in places)
    view = _View(gpus, kind)
    able = [at for at in range(len(gpus)) if view.rooms[at]]
    able.sort(key=lambda at: (_cost(view, at) if strategy == "pack" else _burden(view, at, 0), at))
    first = [name for at in able for name in dict.fromkeys(_functions(gpus[at], kind))]
    rest = sorted((place for gpu in gpus for place in gpu.places if place.address not in first), key=_position)
    return (*first, *(place.address for place in rest))


def order_of(gpus: Sequence[Gpu], strategy: str, kind: str | None = None) -> tuple[str, ...]:
    """The order in which to write a mapping's entries, where PVE takes the first that it can reserve.

    For `pack` all functions of one GPU stand together, so that a GPU is full before the next is begun; for `spread`
    they take turns, each GPU as often as it holds instances of `kind` (or has functions, if no type is given). Starts
    fill them in this order; a stop makes room anywhere, and the next start takes the first of that.
    """
    if strategy == "order":
        return ranked(gpus, kind or "", "order")
    if strategy == "pack":
        return tuple(place.address for gpu in gpus for place in gpu.places)
    turns = []
    learned = _learn(gpus)
    for at, gpu in enumerate(gpus):
        most = learned.get((at, kind or "")) or len(gpu.places)
        turns += [(number, most, at, place.address) for number, place in enumerate(gpu.places, 1)]
    whole = _product(most for _, most, _, _ in turns)
    turns.sort(key=lambda turn: (turn[0] * whole // turn[1], turn[2]))
    return tuple(address for _, _, _, address in turns)


class _View:
    """The GPUs as one type sees them. Parts of a GPU are integers of `whole`, so that equal loads are equal."""

    def __init__(self, gpus: Sequence[Gpu], kind: str) -> None:
        self.gpus = gpus
        self.kind = kind
        self.most = _learn(gpus)
        self.whole = _product(self.most.values())
        self.rooms = [self.room(at, kind) for at in range(len(gpus))]
        self.biggest = [self._largest(at) for at in range(len(gpus))]
        if not all(self.most.get((at, kind)) for at, room in enumerate(self.rooms) if room):
            # what one takes is not known everywhere: then by number, of those that are there and still fit
            counts = [sum(gpu.used.values()) + room for gpu, room in zip(gpus, self.rooms, strict=True)]
            self.whole = _product(counts)
            self.shares = [self.whole // count if count else 0 for count in counts]
            self.loads = [sum(gpu.used.values()) * share for gpu, share in zip(self.gpus, self.shares, strict=True)]
        else:
            self.shares = [self._share(at, kind) for at in range(len(gpus))]
            self.loads = [self._load(at) for at in range(len(gpus))]

    def room(self, at: int, kind: str) -> int:
        """How many more of a type a GPU takes: what its functions offer, of several no more than it has parts for."""
        gpu = self.gpus[at]
        offered = sum(place.room.get(kind, 0) for place in gpu.places)
        if len(gpu.places) == 1 or not self.most.get((at, kind)) or gpu.rule == "slices":
            return offered
        return max(0, min(offered, (self.whole - self._load(at)) // self._share(at, kind)))

    def largest_after(self, at: int, count: int) -> int:
        """How many of the largest type a GPU still takes after so many of this one."""
        largest, now = self.biggest[at]
        return self.after(at, count, largest, now)

    def after(self, at: int, count: int, name: str, now: int) -> int:
        """How many of a type a GPU, or one function, still takes of `now` after so many of this one."""
        gpu = self.gpus[at]
        if not count or not now:
            return now
        if name == self.kind:
            return now - count
        mine, other = gpu.profiles.get(self.kind), gpu.profiles.get(name)
        if gpu.rule == "exclusive" or mine is None or other is None:
            return 0
        if gpu.rule == "equal" and mine.framebuffer != other.framebuffer:
            return 0
        if gpu.rule == "slices" and (mine.slices, mine.framebuffer) != (other.slices, other.framebuffer):
            return now
        share = self._share(at, name)
        parts = self.whole - self._load(at) - count * self._share(at, self.kind)
        return max(0, min(now, parts // share)) if share else max(0, now - count)

    def left_on(self, at: int, place: Place, address: str) -> dict[str, int]:
        """What a function of a GPU offers, by type, after one of this type on the function of that address."""
        if place.address == address and len(self.gpus[at].places) > 1 and place.room.get(self.kind, 0) < 2:
            return {}  # a virtual function has one instance
        here = place.address == address
        return {
            name: now if name == self.kind and not here else self.after(at, 1, name, now)
            for name, now in place.room.items()
        }

    def _largest(self, at: int) -> tuple[str, int]:
        """The largest type of a GPU with how many more of it fit; an empty name if that cannot be told.

        A GPU that is in use may offer less than it knows, so what GPUs with types in common with it offer counts too.
        """
        mine = self.gpus[at].profiles.keys()
        alike = {place for place, gpu in enumerate(self.gpus) if not mine.isdisjoint(gpu.profiles)}
        known = [(most, kind) for (gpu, kind), most in self.most.items() if gpu in alike]
        if not known:
            return "", 0
        fewest = min(most for most, _ in known)
        names = [kind for most, kind in known if most == fewest]
        kind = self.kind if self.kind in names else max(names, key=lambda name: (self.room(at, name), name))
        return kind, self.room(at, kind)

    def _share(self, at: int, kind: str) -> int:
        most = self.most.get((at, kind)) or self.most.get((at, self.kind))
        return self.whole // most if most else 0

    def _load(self, at: int) -> int:
        return sum(count * self._share(at, kind) for kind, count in self.gpus[at].used.items())


def _learn(gpus: Sequence[Gpu]) -> dict[tuple[int, str], int]:
    """How many of each type an empty GPU takes, by the GPU's number and type, as far as it can be told.

    By the type's description; for a time-sliced type by the largest size of its board that an unused GPU offers; else
    by what a GPU with nothing, or nothing else, on it offers now.
    """
    memory: dict[str | None, int] = {}
    seen: dict[str, int] = {}
    for gpu in gpus:
        for kind, profile in gpu.profiles.items():
            offered = sum(place.room.get(kind, 0) for place in gpu.places)
            if gpu.free and offered and profile.time_sliced:
                memory[profile.board] = max(memory.get(profile.board, 0), profile.framebuffer or 0)
            alone = sum(gpu.used.values()) == gpu.used.get(kind, 0)
            if alone and len(gpu.places) == 1:
                seen[kind] = max(seen.get(kind, 0), offered + gpu.used.get(kind, 0))
    found = {}
    for at, gpu in enumerate(gpus):
        for kind, profile in gpu.profiles.items():
            most = profile.most
            if most is None and profile.time_sliced and profile.board in memory:
                most = memory[profile.board] // (profile.framebuffer or 1)
            most = most or seen.get(kind)
            if most:
                found[at, kind] = most
    return found


def _product(numbers: Iterable[int]) -> int:
    """A number that each of these divides."""
    whole = 1
    for number in numbers:
        if number and whole % number:
            whole *= number
    return whole


def _position(place: Place) -> int:
    return place.position


def _functions(gpu: Gpu, kind: str) -> list[str]:
    """The functions of a GPU that offer a type, each as often as it does."""
    return [place.address for place in gpu.places for _ in range(place.room.get(kind, 0))]


def _in_order(view: _View, wanted: int) -> list[str]:
    places = sorted(
        ((place.position, place, at) for at, gpu in enumerate(view.gpus) for place in gpu.places),
        key=lambda found: found[0],
    )
    left = list(view.rooms)
    placed: list[str] = []
    for _, place, at in places:
        number = min(place.room.get(view.kind, 0), left[at], wanted - len(placed))
        left[at] -= number
        placed += [place.address] * number
    return placed


def _value(view: _View, at: int, count: int) -> _Value:
    """What `pack` thinks of so many instances on a GPU; values add up, and more is better."""
    begun = -1 if count else 0
    free = view.gpus[at].free
    return begun if free else 0, view.largest_after(at, count), -count if free else 0, begun


def _cost(view: _View, at: int) -> _Value:
    """What one instance on a GPU costs `pack`."""
    free, largest, new, begun = _value(view, at, 1)
    return -free, view.largest_after(at, 0) - largest, -new, -begun


def _packed(view: _View, wanted: int) -> list[int]:
    """How many go on each GPU, by dynamic programming over the GPUs from the last to the first."""
    best: list[tuple[_Value, tuple[int, ...]] | None] = [((0, 0, 0, 0), ()), *[None] * wanted]
    for at in reversed(range(len(view.gpus))):
        values = [_value(view, at, count) for count in range(min(view.rooms[at], wanted) + 1)]
        row: list[tuple[_Value, tuple[int, ...]] | None] = []
        for total in range(wanted + 1):
            chosen: tuple[_Value, tuple[int, ...]] | None = None
            for count in range(min(total, len(values) - 1), -1, -1):  # more on the earlier GPU comes first
                rest = best[total - count]
                if rest is None:
                    continue
                free, largest, new, begun = values[count]
                sums = (rest[0][0] + free, rest[0][1] + largest, rest[0][2] + new, rest[0][3] + begun)
                if chosen is None or sums > chosen[0]:
                    chosen = (sums, (count, *rest[1]))
            row.append(chosen)
        best = row
    last = best[wanted]
    return list(last[1]) if last else [0] * len(view.gpus)


def _burden(view: _View, at: int, placed: int) -> tuple[int, int]:
    """The load of a GPU with one more instance, then how little it had before: that which is less comes first."""
    before = view.loads[at] + placed * view.shares[at]
    return before + view.shares[at], -before


def _spread(view: _View, wanted: int) -> list[str]:
    """One after the other, each where the load is then the least."""
    functions = [_functions(gpu, view.kind) for gpu in view.gpus]
    counts = [0] * len(view.gpus)
    placed = []
    for _ in range(wanted):
        able = (at for at, count in enumerate(counts) if count < view.rooms[at])
        at = min(able, key=lambda at: (_burden(view, at, counts[at]), at))
        placed.append(functions[at][counts[at]])
        counts[at] += 1
    return placed
