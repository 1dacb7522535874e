# SPDX-License-Identifier: Apache-2.0
"""The hook killed at any point, on a simulated host: afterwards all is as before the start."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.host.machine import memory_folder
from tests.kernel import killed
from tests.kernel.checks import check
from tests.scenarios import crashes, rounds
from tests.scenarios.counts import counts, full
from tests.scenarios.crashes import NEIGHBOUR, SITUATIONS
from tests.scenarios.forked import VMID, forked, hook, ran, recover
from tests.scenarios.world import OTHER, PARENT, PARENTS, VFS, SimWorld, mdev, uuid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.scenarios.crashes import Situation

WAYS = ("recover", "next")
SWEEPS = [
    pytest.param(name, phase, how, id=f"{name}-{phase}-{how}")
    for name, situation in SITUATIONS.items()
    for phase in (("pre-start",) if situation.fails else ("pre-start", "post-stop"))
    for how in crashes.WAYS
]
THOROUGH = ("mdev", "vgpu")
"""The situations in which the hook is killed at every change that the simulated kernel makes for it, too."""
STRIDES = {"nic": 2, "gpu": 5}
"""Those whose hooks make many changes are killed at each of so many; the rounds at random, and the soak, at others."""


@pytest.mark.parametrize("name,phase,how", SWEEPS)
def test_killed_at_every_change(world: SimWorld, name: str, phase: str, how: str) -> None:
    situation = SITUATIONS[name]
    crashes.furnish(world, situation.config)
    stride = 1 if full() else STRIDES.get(name, 1)
    assert crashes.sweep(world, situation, phase, how, every=name in THOROUGH, stride=stride) >= 4


@pytest.mark.parametrize("how", crashes.WAYS)
def test_of_a_hook_that_places_by_policy(world: SimWorld, how: str) -> None:
    """The second parent has less on it, so the instance goes there; killed anywhere, nothing of it is left."""
    made = uuid(0, VMID)
    crashes.furnish(world, "hostpci0: mapping=vgpu,mdev=tbmdev-1\n")
    world.create(1, "f0f0f0f0-0000-0000-0000-000000000009", PARENT)
    world.map("vgpu", PARENTS)
    world.pve.cluster.put("/etc/pvepassthru.yaml", "placement: spread\n")
    check("exit code", world.hook(VMID, "pre-start").code, 0)
    check("place", world.mdevs()[made], f"{OTHER} tbmdev-1")
    check("exit code", world.hook(VMID, "post-stop").code, 0)
    placed = crashes.Situation("hostpci0: mapping=vgpu,mdev=tbmdev-1\n", (made,))
    assert crashes.sweep(world, placed, "pre-start", how, every=False) > 3


@pytest.mark.parametrize("name", ["mdev", "vgpu"])
@pytest.mark.parametrize("how", ["before", "after"])
def test_recover_killed_at_every_change(world: SimWorld, name: str, how: str) -> None:
    crashes.furnish(world, SITUATIONS[name].config)
    assert crashes.sweep(world, SITUATIONS[name], "recover", how, every=False) > 5


def test_killed_at_random(world: SimWorld) -> None:
    wanted = counts()
    assert rounds.play(world, 3 * wanted.rounds, wanted.seed).total() > 0


# ---- torn and damaged journals


def journal(world: SimWorld, vmid: int = VMID) -> str:
    return f"{world.root}/run/pvepassthru/{vmid}.journal"


@pytest.mark.parametrize("name,phase", [("mdevs", "pre-start"), ("mdevs", "post-stop"), ("vgpu", "pre-start")])
def test_killed_while_it_writes_its_journal(world: SimWorld, name: str, phase: str) -> None:
    crashes.furnish(world, SITUATIONS[name].config)
    assert crashes.torn_writes(world, name, phase, sizes=(1, 20)) >= (10 if phase == "pre-start" else 4)


def test_a_journal_made_but_not_written(world: SimWorld) -> None:
    situation = SITUATIONS["mdev"]
    crashes.furnish(world, situation.config)
    before = crashes.warm_up(world, situation)
    for way in WAYS:
        os.close(os.open(journal(world), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        crashes.go_on(world, situation, way)
        crashes.as_before(world, before, way)


def neighbours(world: SimWorld) -> dict[str, Any]:
    """What is not VM 100's: instances, vGPU types, reservations, journals of others."""
    state = world.state()
    return {
        "mdevs": {name: kind for name, kind in state["mdevs"].items() if not name.endswith(f"{VMID:012d}")},
        "vGPUs": {vf: kind for vf, kind in state["vGPUs"].items() if vf != VFS[0]},
        "reservations": [line for line in state["reservations"].splitlines() if f" {VMID} " not in line],
        "journal": Path(journal(world, NEIGHBOUR)).read_text(encoding="utf-8"),
        "drivers": state["drivers"],
    }


@pytest.fixture(scope="module", name="damaged")
def make_damaged() -> Iterator[tuple[SimWorld, bytes, dict[str, Any]]]:
    """A world in which VM 100 and a neighbour were prepared, the journal of VM 100, and what is the neighbours'."""
    with memory_folder() as folder:
        world = SimWorld(Path(folder))
        crashes.furnish(world, SITUATIONS["mdevs"].config + f"hostpci2: {VFS[0]},mdev=nvidia-100\n")
        world.pve.define(NEIGHBOUR, f"hostpci0: {OTHER},mdev=tbmdev-1\nhostpci1: {VFS[1]},mdev=nvidia-101\n")
        ran(forked(hook(world, "pre-start", NEIGHBOUR)))
        ran(forked(hook(world, "pre-start")))
        ran(forked(hook(world, "post-start")))
        yield world, Path(journal(world)).read_bytes(), neighbours(world)
        world.close()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_damaged_journal_harms_nobody_else(
    damaged: tuple[SimWorld, bytes, dict[str, Any]], data: st.DataObject
) -> None:
    world, whole, theirs = damaged
    cut = data.draw(st.integers(0, len(whole)), label="cut")
    kind = data.draw(st.sampled_from(["end", "start", "hole", "bytes"]), label="damage")
    rest = data.draw(st.integers(1, 60), label="length")
    text = {
        "end": whole[:cut],
        "start": whole[cut:],
        "hole": whole[:cut] + whole[cut + rest :],
        "bytes": whole[:cut] + data.draw(st.binary(min_size=1, max_size=rest), label="bytes") + whole[cut + rest :],
    }[kind]
    Path(journal(world)).write_bytes(text)
    phase = data.draw(st.sampled_from(["recover", "recover --dry-run", "post-stop", "pre-start", "post-start"]))
    if phase.startswith("recover"):
        done = forked(recover(world, str(VMID), *phase.split()[1:]))
    else:
        done = forked(hook(world, phase))
    assert "Traceback" not in done.output
    assert done.code in {0, 1, 3, 5}, done
    assert neighbours(world) == theirs


def test_a_journal_that_names_what_is_anothers(world: SimWorld) -> None:
    crashes.furnish(world, mdev(1))
    world.pve.define(NEIGHBOUR, f"hostpci0: {OTHER},mdev=tbmdev-1\n")
    ran(forked(hook(world, "pre-start", NEIGHBOUR)))
    ran(forked(hook(world, "pre-start")))
    theirs = neighbours(world)
    steps = [
        {"n": 5, "do": "mdev", "target": f"{OTHER}/{uuid(0, NEIGHBOUR)}", "before": None, "after": "tbmdev-1"},
        {"n": 6, "do": "vgpu", "target": VFS[1], "before": "0", "after": "101"},
        {"n": 7, "do": "reserve", "target": VFS[1], "before": None, "after": str(VMID)},
    ]
    with open(journal(world), "a", encoding="utf-8") as file:
        file.writelines(json.dumps(step) + "\n" for step in steps)
    done = ran(forked(recover(world, str(VMID))), 1)
    assert "kept" in done.output
    assert neighbours(world) == theirs
    assert uuid(0, VMID) not in world.mdevs()


# ---- the writer outlives its hook


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["mdev", "mdevs"])
@pytest.mark.parametrize("phase", ["pre-start", "post-stop"])
def test_a_slow_write_outlives_its_hook(world: SimWorld, name: str, phase: str, way: str) -> None:
    crashes.furnish(world, SITUATIONS[name].config)
    crashes.slow_write(world, name, phase, way)


LATE = [(name, phase) for name in ("mdev", "mdevs", "vgpu") for phase in ("pre-start", "post-stop")]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name,phase", LATE)
def test_a_late_write_outlives_its_hook(world: SimWorld, name: str, phase: str, way: str) -> None:
    """The hook's child, about to write, comes to it only when recover or the next start is at work."""
    situation = SITUATIONS[name]
    crashes.furnish(world, situation.config)
    before = crashes.warm_up(world, situation)
    makers = crashes.changes(world, situation, phase).changes
    number = max(place for place, maker in enumerate(makers, 1) if maker == "child" and makers[place - 2] != "child")
    crashes.lead_up(world, situation, phase)
    done = forked(hook(world, phase), killed.At(before=number, spare_child=True), pause=0.7)
    assert done.code == -9, done
    crashes.go_on(world, situation, way)
    time.sleep(1.0)  # a write that nobody waited for would come now
    crashes.as_before(world, before, f"{phase}, {way}")


# ---- any VM, any point


def entries() -> st.SearchStrategy[list[tuple[str, int]]]:
    return st.lists(st.tuples(st.sampled_from(PARENTS), st.sampled_from([1, 1, 2, 4])), min_size=1, max_size=4)


def prepared(folder: str, others: list[tuple[str, int]], config: str) -> SimWorld:
    world = SimWorld(Path(folder))
    for number, (parent, units) in enumerate(others):
        try:
            world.create(units, f"f0f0f0f0-0000-0000-0000-00000000000{number}", parent)
        except OSError:
            pass  # no room for it
    world.pve.define(VMID, config)
    with world.pve._locked(VMID):
        pass
    return world


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_crash_then_as_before(data: st.DataObject) -> None:
    """Whatever the VM has, whatever else is there, wherever a phase is killed: what follows leaves all as before."""
    wanted = data.draw(entries(), label="entries")
    others = data.draw(
        st.lists(st.tuples(st.sampled_from(PARENTS), st.sampled_from([1, 2])), max_size=3), label="others"
    )
    phase = data.draw(st.sampled_from(["pre-start", "post-stop", "recover"]), label="phase")
    after, spare_child = data.draw(st.sampled_from([(False, False), (True, False), (False, True)]), label="how")
    way = data.draw(st.sampled_from(["recover", "next", "post-stop"]), label="way")
    config = "".join(f"hostpci{index}: {parent},mdev=tbmdev-{units}\n" for index, (parent, units) in enumerate(wanted))
    with memory_folder() as folder:
        world = prepared(folder, others, config)
        starts = any_start(world)
        crashes.stop(world)
        situation = crashes.Situation(
            config, tuple(uuid(index, VMID) for index in range(len(wanted))), fails=not starts
        )
        before = crashes.seen(world)
        crashes.lead_up(world, situation, phase)
        count = len(forked(crashes.call_of(world, phase)).changes)
        crashes.stop(world)
        crashes.as_before(world, before, "without a crash")
        if count:
            crashes.lead_up(world, situation, phase)
            number = data.draw(st.integers(1, count), label="change")
            at = killed.At(None if after else number, number if after else None, spare_child)
            done = forked(crashes.call_of(world, phase), at)
            assert "Traceback" not in done.output
            follow(world, situation, way)
            crashes.as_before(world, before, f"{phase} killed at change {number} of {count}, then {way}")
        world.close()


def any_start(world: SimWorld) -> bool:
    """Start the VM, and return whether it went; a start that fails says why."""
    done = forked(hook(world, "pre-start"))
    if done.code:
        ran(done, crashes.DEVICE_ERROR)
        assert "error: " in done.output
    return done.code == 0


def follow(world: SimWorld, situation: Situation, way: str) -> None:
    if way == "post-stop":
        crashes.stop(world)
    elif way == "recover":
        ran(forked(recover(world)))
    else:
        assert any_start(world) != situation.fails
        crashes.stop(world)
