# SPDX-License-Identifier: Apache-2.0
"""What is free on the nodes of a cluster: virtual functions, mediated devices, devices of mappings; and what fits a VM.

By the API alone: what running VMs have in force is used, what is pending there and what the configs of the others name
is claimed, templates count for nothing. Whether a mediated device fits is the driver's word for now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import cluster as answers
from pvepassthru.api import mappings, placing, survey
from pvepassthru.api import nodes as places
from pvepassthru.api.hardware import parents
from pvepassthru.api.occupancy import Occupancy
from pvepassthru.model import placement
from pvepassthru.model.errors import ApiMissingError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Literal

    from pvepassthru.api.client import Client
    from pvepassthru.api.hardware import NodeHardware
    from pvepassthru.api.placing import Fit
    from pvepassthru.api.survey import Failure, NodeVms
    from pvepassthru.model.errors import ApiDeniedError
    from pvepassthru.model.placement import Gpu

    Kind = Literal["vf", "device", "mdev", "mapping"]


class Wanted(NamedTuple):
    """What is asked for; everything if nothing is said, but no plain devices."""

    mdev: str | None = None
    """A type, such as nvidia-63."""
    device: str | None = None
    """`vendor:device` in hex digits."""
    mapping: str | None = None


class Room(NamedTuple):
    """What one node has of one kind of thing."""

    node: str
    kind: Kind
    """`vf`: virtual functions of one card; `device`: functions of one model; `mdev`: a type; `mapping`: its devices
    here."""
    name: str
    """`vendor:device`, a type or a mapping."""
    where: tuple[str, ...]
    """The physical function, the GPUs, or the devices."""
    total: int | None
    """None where that cannot be told: of a type whose driver does not say how many a GPU takes at most."""
    used: int
    """By VMs that run."""
    free: int
    """Now."""
    claimed: int
    """By VMs that do not run, and by pending changes of those that do."""
    left: int
    """What is free when all VMs of the node have started, also those that want another type of the same GPUs; less than
    0 if it does not do for all."""
    mdev: str | None = None
    """The type, where a mapping's devices are for mediated devices: there is one room for each type then."""
    sure: bool = True
    """Whether it is known what all VMs of the node have; else more may be used or claimed, and less be free."""


class Capacity(NamedTuple):
    """What is free on the nodes."""

    rooms: tuple[Room, ...]
    """By node, kind and name."""
    failures: tuple[Failure, ...]


class Fits(NamedTuple):
    """Which nodes fit a VM."""

    vmid: int
    node: str
    """Where it is."""
    fits: tuple[Fit, ...]
    """By node."""
    failures: tuple[Failure, ...]


def rooms(
    client: Client,
    wanted: Wanted = Wanted(),  # noqa: B008 - an immutable value
    nodes: Iterable[str] = (),
    *,
    jobs: int = survey.JOBS,
    progress: Callable[[int, int], None] | None = None,
) -> Capacity:
    """What is free on these nodes, or on all.

    Asks for each VM's config once, and for the types of each function with mediated devices where these are wanted.
    Raises ApiError when the cluster cannot be read, ApiMissingError for a node or a mapping that is none, UsageError
    for a number of jobs that cannot be.
    """
    known = survey.overview(client)
    hidden = survey.unseen(client)
    names = places.chosen(known.nodes, nodes)
    if wanted.mapping is not None:
        mappings.need(sorted(known.mappings.by_name), wanted.mapping)
    mapping = known.mappings.by_name.get(wanted.mapping or "")
    with_types = wanted.mdev is not None or wanted == Wanted() or (mapping is not None and mapping.mdev)

    def visit(vms: NodeVms) -> list[Room]:
        functions = answers.node_hardware(client, vms.name, parents if with_types else _no_parents)
        found = Occupancy(functions, known.mappings, vms.presents, vms.running)
        return sorted(_rooms(found, wanted), key=lambda room: (room.kind, room.name, room.mdev or "", room.where))

    found = survey.walk(
        client,
        known.some(names),
        known.vms.values(),
        visit,
        matters=survey.passes,
        held=True,
        jobs=jobs,
        progress=progress,
    )
    return Capacity(
        tuple(
            room._replace(sure=hidden is None and room.node not in found.unread) for one in found.found for room in one
        ),
        _all_failures(hidden, found.failures),
    )


def fits(
    client: Client,
    vmid: int,
    nodes: Iterable[str] = (),
    *,
    jobs: int = survey.JOBS,
    progress: Callable[[int, int], None] | None = None,
) -> Fits:
    """Which of these nodes, or of all, fit a VM, by its devices and by HA's rules.

    Raises as `rooms`, ApiMissingError also when this user sees no such VM, UsageError for a template.
    """
    known = survey.overview(client)
    hidden = survey.unseen(client)
    names = places.chosen(known.nodes, nodes)
    if vmid not in known.vms:
        raise ApiMissingError(f"{client.user} sees no VM {vmid} in the cluster", "seeing a VM needs VM.Audit on it")
    vm = known.vms[vmid]
    if vm.template:
        raise UsageError(f"VM {vmid} is a template, which never starts", "ask for one of its clones")
    guest = placing.guest(client, known, vm)

    def asked(hardware: NodeHardware) -> tuple[str, ...]:  # of all, since where others go decides what is left
        return parents(hardware) if guest.parents(hardware) else ()

    def visit(vms: NodeVms) -> placing.Fit:
        functions = answers.node_hardware(client, vms.name, asked)
        others = [present for present in vms.presents if present.vmid != vmid]
        return guest.fit(Occupancy(functions, known.mappings, others, vms.running))

    found = survey.walk(
        client,
        known.some(names),
        known.vms.values(),
        visit,
        matters=survey.passes,
        held=True,
        jobs=jobs,
        progress=progress,
    )
    told = []
    for fit in found.found:
        unread = [number for number in found.unread.get(fit.node, ()) if number != vmid]
        told.append(guest.doubt(fit, unread, hidden=hidden is not None))
    return Fits(vmid, vm.node, tuple(told), _all_failures(hidden, found.failures))


def _all_failures(hidden: ApiDeniedError | None, failures: tuple[Failure, ...]) -> tuple[Failure, ...]:
    """What could not be looked at, that which this user may not see among it."""
    return failures if hidden is None else (survey.Failure(None, None, hidden), *failures)


def _no_parents(_: NodeHardware) -> tuple[str, ...]:
    return ()


# ---- rooms


def _rooms(found: Occupancy, wanted: Wanted) -> Iterator[Room]:
    every = wanted == Wanted()
    if every:
        yield from _vfs(found)
    if wanted.device is not None:
        yield from _devices(found, wanted.device.lower())
    if wanted.mdev is not None or every:
        yield from _types(found, wanted.mdev)
    if wanted.mapping is not None or every:
        yield from _mappings(found, wanted.mapping)


def _vfs(found: Occupancy) -> Iterator[Room]:
    """The VFs of each card."""
    cards: dict[tuple[str, str], list[str]] = {}
    for function in found.hardware.functions.values():
        if function.physfn:
            cards.setdefault((function.physfn, function.ids), []).append(function.address)
    for (card, ids), functions in cards.items():
        yield _of_functions(found, "vf", ids, (card,), functions)


def _devices(found: Occupancy, ids: str) -> Iterator[Room]:
    """The functions of one model."""
    functions = [one.address for one in found.hardware.functions.values() if one.ids.lower() == ids]
    if functions:
        yield _of_functions(found, "device", ids, tuple(functions), functions)


def _of_functions(found: Occupancy, kind: Kind, name: str, where: tuple[str, ...], functions: list[str]) -> Room:
    used = sum(address in found.held for address in functions)
    claimed = sum(address in found.claimed for address in functions)
    free = len(functions) - used
    return Room(found.hardware.node, kind, name, where, len(functions), used, free, claimed, free - claimed)


def _types(found: Occupancy, only: str | None) -> Iterator[Room]:
    """The mediated device types of the node."""
    gpus = found.gpus()
    later, lacking = found.started(gpus)
    asked = [(claim.mdev, claim.runs) for claim in found.claims if claim.mdev]
    for kind in sorted({kind for gpu in gpus for kind in gpu.profiles}):
        if only in {None, kind}:
            having = [gpu for gpu in gpus if kind in gpu.profiles]
            used, free = asked.count((kind, True)), sum(placement.room(gpus, kind))
            where = tuple(gpu.address for gpu in having)
            total, claimed = _total(having, kind), asked.count((kind, False))
            left = sum(placement.room(later, kind)) - sum(claim.mdev == kind for claim in lacking)
            yield Room(found.hardware.node, "mdev", kind, where, total, used, free, claimed, left)


def _total(gpus: list[Gpu], kind: str) -> int | None:
    """What these GPUs can have of a type at most, None if their driver does not say."""
    most = [gpu.profiles[kind].most for gpu in gpus]
    return None if None in most else sum(number or 0 for number in most)


def _mappings(found: Occupancy, only: str | None) -> Iterator[Room]:
    """The devices of each mapping on the node, and of one for mediated devices their types."""
    for name, mapping in sorted(found.mappings.by_name.items()):
        here = [found.hardware.resolved(entry.paths) for entry in mapping.on(found.hardware.node)]
        there = [functions for functions in here if functions]
        if only not in {None, name} or not here:
            continue
        if mapping.mdev and any(_shared(found, one[0]) for one in there):
            yield from _types_of_mapping(found, name, tuple(functions[0] for functions in there))
            continue
        used = sum(any(address in found.held for address in functions) for functions in there)
        lacking = sum(claim.mapping == name and not claim.functions for claim in found.claims if not claim.runs)
        claimed = sum(
            any(address in found.claimed for address in functions)
            and not any(address in found.held for address in functions)
            for functions in there
        )
        where = tuple(functions[0] for functions in there)
        free, claimed = len(there) - used, claimed + lacking
        yield Room(found.hardware.node, "mapping", name, where, len(there), used, free, claimed, free - claimed)


def _types_of_mapping(found: Occupancy, name: str, parents: tuple[str, ...]) -> Iterator[Room]:
    """The mediated device types of a mapping's devices; one room without a type where they offer none."""
    every = found.gpus()
    gpus, (later, lacking) = _only(every, parents), found.started(every)
    later = _only(later, parents)
    theirs = [claim for claim in found.claims if claim.mdev and not set(parents).isdisjoint(claim.parents)]
    asked = [(claim.mdev, claim.runs) for claim in theirs]
    without = [claim.mdev for claim in lacking if claim in theirs]
    kinds = sorted({kind for gpu in gpus for kind in gpu.profiles})
    for kind in kinds:
        used, free = asked.count((kind, True)), sum(placement.room(gpus, kind))
        left = sum(placement.room(later, kind)) - without.count(kind)
        having = [gpu for gpu in gpus if kind in gpu.profiles]
        where = tuple(place.address for gpu in having for place in gpu.places)
        total, claimed = _total(having, kind), asked.count((kind, False))
        yield Room(found.hardware.node, "mapping", name, where, total, used, free, claimed, left, kind)
    if not kinds:
        running = sum(claim.runs for claim in theirs)
        waiting = len(theirs) - running
        yield Room(found.hardware.node, "mapping", name, parents, None, running, 0, waiting, -waiting)


def _only(gpus: Iterable[Gpu], functions: tuple[str, ...]) -> tuple[Gpu, ...]:
    """The GPUs with those of their functions alone."""
    some = (gpu._replace(places=tuple(one for one in gpu.places if one.address in functions)) for gpu in gpus)
    return tuple(gpu for gpu in some if gpu.places)


def _shared(found: Occupancy, address: str) -> bool:
    """Whether several VMs can have mediated devices on a function."""
    function = found.hardware.functions[address]
    return function.mdev_parent and function.physfn is None
