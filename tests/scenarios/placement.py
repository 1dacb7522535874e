# SPDX-License-Identifier: Apache-2.0
"""Where the hook makes an instance when a mapping has several mdev parents: order, pack and spread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.host import locks, state
from pvepassthru.host.deadline import Deadline
from tests.kernel.checks import check, holds
from tests.scenarios import races
from tests.scenarios.world import OTHER, PARENT, PARENTS, failed, refused, said, uuid, went

if TYPE_CHECKING:
    from tests.scenarios.world import World

POLICY = "/etc/pvepassthru.yaml"
FIRST = 200
POOL = 8
"""Instances of tbmdev-1 that the two parents have together."""


def _pool(world: World, strategy: str, count: int, units: int = 1, first: int = FIRST) -> list[int]:
    """Define VMs that all want an instance of one type on the two parents, placed by this strategy.

    Python is slow in the guest, so that many starts at once need more than the usual minute.
    """
    world.map("vgpu", PARENTS)
    slow = "" if world.simulated else "defaults: {pre_start_seconds: 600}\n"
    world.pve.cluster.put(POLICY, f"{slow}mappings: {{vgpu: {{placement: {strategy}}}}}\n")
    vmids = list(range(first, first + count))
    for vmid in vmids:
        world.pve.define(vmid, f"hostpci0: mapping=vgpu,mdev=tbmdev-{units}\n")
    return vmids


def _start(world: World, vmid: int) -> str:
    """Start a VM, and return on which parent its instance is; PVE finds it there, and makes none itself."""
    log = went(world.pve.start(vmid))
    holds(f"PVE takes ours: {log}", any("used as it is" in warning for warning in log.warnings))
    mine = [place for name, place in world.mdevs().items() if name == uuid(0, vmid)]
    check(f"instances of VM {vmid}", len(mine), 1)
    return mine[0].split()[0]


def _beside(world: World, units: int = 1, parent: str = OTHER) -> None:
    """An instance of somebody else on one parent."""
    world.create(units, "f0f0f0f0-1111-2222-3333-444444444444", parent)


def pack_goes_where_something_is(world: World) -> None:
    """The second parent is in use: pack keeps the first one free, until the other is full."""
    _beside(world)
    vmids = _pool(world, "pack", 5)
    before = world.state()
    check("places", [_start(world, vmid) for vmid in vmids], [OTHER] * 3 + [PARENT] * 2)
    for vmid in vmids:
        went(world.pve.stop(vmid))
    check("as before", world.state(), before)


def spread_takes_turns(world: World) -> None:
    """Each goes where the load is then the least; of equal ones to the first."""
    _beside(world, parent=PARENT)
    vmids = _pool(world, "spread", 5)
    before = world.state()
    expected = [OTHER, PARENT, OTHER, PARENT, OTHER]
    check("places", [_start(world, vmid) for vmid in vmids], expected)
    for vmid in vmids:
        went(world.pve.stop(vmid))
    check("as before", world.state(), before)


def order_is_pves_own(world: World) -> None:
    """Without a policy, or with `order`, the first with room."""
    _beside(world)
    vmids = _pool(world, "order", 2)
    check("by policy", _start(world, vmids[0]), PARENT)
    world.host.remove(POLICY)
    check("without", _start(world, vmids[1]), PARENT)


def a_policy_for_all_mappings(world: World) -> None:
    """What is said of the mapping itself wins."""
    _beside(world)
    vmids = _pool(world, "order", 2)
    world.pve.cluster.put(POLICY, "placement: pack\n")
    check("by the general one", _start(world, vmids[0]), OTHER)
    world.pve.cluster.put(POLICY, "placement: pack\nmappings: {vgpu: {placement: order}}\n")
    check("by its own", _start(world, vmids[1]), PARENT)


def a_pool_of_eight(world: World) -> None:
    """As many as there is room for start, whatever the strategy; one more does not, and room that comes is used."""
    for strategy in ("pack", "spread"):
        before = world.state()
        vmids = _pool(world, strategy, POOL + 1)
        places = [_start(world, vmid) for vmid in vmids[:POOL]]
        check(f"{strategy}: all units are used", sorted(places), sorted(PARENTS * 4))
        said(failed(world.pve.start(vmids[POOL]), "hook-failed"), "no instance of tbmdev-1 is left")
        went(world.pve.stop(vmids[2]))
        check(f"{strategy}: the room of VM {vmids[2]}", _start(world, vmids[POOL]), places[2])
        for vmid in (*vmids[:2], *vmids[3:]):
            went(world.pve.stop(vmid))
        world.host.remove(POLICY)
        check("as before", world.state(), before)


def pack_keeps_room_for_the_large(world: World) -> None:
    """After four small ones a large one still fits, which would not be so if they were spread."""
    _pool(world, "pack", 4)
    small = [_start(world, vmid) for vmid in range(FIRST, FIRST + 4)]
    check("on one parent", small, [PARENT] * 4)
    world.pve.define(300, "hostpci0: mapping=vgpu,mdev=tbmdev-4\n")
    check("the large one", _start(world, 300), OTHER)


def exclusive_types(world: World) -> None:
    """One type at a time on a parent: the driver offers no room for others, and its word counts."""
    world.configure(exclusive=1)
    for strategy in ("pack", "spread"):
        before = world.state()
        small = _pool(world, strategy, 2)
        large = _pool(world, strategy, 3, units=2, first=300)
        places = [_start(world, vmid) for vmid in (small[0], large[0], small[1], large[1])]
        check(f"{strategy}: a parent for each type", places, [PARENT, OTHER, PARENT, OTHER])
        said(failed(world.pve.start(large[2]), "hook-failed"), "no instance of tbmdev-2 is left")
        for vmid in (*small, *large[:2]):
            went(world.pve.stop(vmid))
        world.host.remove(POLICY)
        check("as before", world.state(), before)


def an_instance_that_is_there_is_adopted(world: World) -> None:
    """A start that failed left its instance where it was best then; the next takes it, wherever others are by now."""
    (vmid,) = _pool(world, "pack", 1)
    failed(world.pve.start(vmid, fail="command"), "injected-command")
    check("made", world.mdevs(), {uuid(0, vmid): f"{PARENT} tbmdev-1"})
    _beside(world)
    check("adopted", _start(world, vmid), PARENT)
    check("one step", world.kept(vmid), [f"mdev {PARENT}/{uuid(0, vmid)} tbmdev-1"])
    went(world.pve.stop(vmid))
    check("gone", list(world.mdevs()), ["f0f0f0f0-1111-2222-3333-444444444444"])


def a_failing_start_leaves_nothing(world: World) -> None:
    """The second entry has no room anywhere: what the first got is given back, on whichever parent it was."""
    _beside(world)
    (vmid,) = _pool(world, "pack", 1)
    world.pve.define(vmid, "hostpci0: mapping=vgpu,mdev=tbmdev-1\nhostpci1: mapping=vgpu,mdev=tbmdev-4\n")
    check("both fit", _start(world, vmid), OTHER)
    check("the large one", world.mdevs()[uuid(1, vmid)], f"{PARENT} tbmdev-4")
    went(world.pve.stop(vmid))
    world.pve.cluster.put(POLICY, "defaults: {gate: off}\nplacement: pack\n")  # then the create finds it
    world.pve.define(vmid, "hostpci0: mapping=vgpu,mdev=tbmdev-4\nhostpci1: mapping=vgpu,mdev=tbmdev-4\n")
    refused(world, vmid, "cannot create mdev tbmdev-4 for hostpci1", PARENT, OTHER)


def opened_after_pre_start(world: World) -> None:
    """An instance made on the other parent is opened for real; what is open is never taken away."""
    _beside(world)
    (vmid,) = _pool(world, "pack", 1)
    check("exit code", world.hook(vmid, "pre-start").code, 0)
    mine = uuid(0, vmid)
    check("made", world.mdevs()[mine], f"{OTHER} tbmdev-1")
    with world.held(mine) as pid, world.impatient():
        run = world.hook(vmid, "post-stop")
        said(run, f"kept mdev tbmdev-1 {OTHER}/{mine}", f"process {pid} (")
        holds("still there", mine in world.mdevs())
    check("undone", world.hook(vmid, "post-stop").code, 0)
    holds("gone", mine not in world.mdevs())


def a_stuck_parent_is_left_out(world: World) -> None:
    """Another start is busy with the parent that is best, and does not end: there is room on the other one."""
    _beside(world)
    (vmid,) = _pool(world, "pack", 1)
    state.prepare(world.host)
    with world.impatient(), locks.take(world.host, state.device_lock_path(OTHER), Deadline(1), OTHER):
        check("made on the other", _start(world, vmid), PARENT)
    went(world.pve.stop(vmid))


# ---- many at once


def packed_at_once(world: World, delay: int = 0) -> None:
    """Four VMs that start at once fill one parent, and leave the other free."""
    world.configure(delay_ms=delay)
    _together(world, "pack", 4, [PARENT] * 4)


def spread_at_once(world: World, delay: int = 0) -> None:
    """Four VMs that start at once are two on each parent."""
    world.configure(delay_ms=delay)
    _together(world, "spread", 4, [PARENT] * 2 + [OTHER] * 2)


def packed_at_once_by_a_slow_driver(world: World) -> None:
    packed_at_once(world, 60)


def spread_at_once_by_a_slow_driver(world: World) -> None:
    spread_at_once(world, 60)


def pool_at_once(world: World, count: int = POOL) -> None:
    """Nobody who comes while there is room goes away without; who comes later says so."""
    for strategy in ("pack", "spread"):
        _together(world, strategy, count, sorted(PARENTS * 4))


def _together(world: World, strategy: str, count: int, places: list[str]) -> None:
    vmids = _pool(world, strategy, count)
    before = world.state()
    ended = races.at_once(world, [(vmid, "pre-start") for vmid in vmids])
    have = [vmid for vmid, end in zip(vmids, ended, strict=True) if end.code == 0]
    check(f"{strategy}: VMs with an instance: {ended}", len(have), min(count, len(places)))
    for end in ended:
        holds(f"{strategy}: why not: {end}", end.code == 0 or "no instance" in end.output)
    check(f"{strategy}: instances", sorted(world.mdevs()), sorted(uuid(0, vmid) for vmid in have))
    check(f"{strategy}: places", sorted(place.split()[0] for place in world.mdevs().values()), places)
    for end in races.at_once(world, [(vmid, "post-stop") for vmid in vmids]):
        check(f"post-stop: {end.output}", end.code, 0)
    check("as before", world.state(), before)
