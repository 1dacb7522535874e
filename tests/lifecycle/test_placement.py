# SPDX-License-Identifier: Apache-2.0
"""The scenarios of placement, on a simulated kernel."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import locks, state
from pvepassthru.host.deadline import Deadline
from pvepassthru.lifecycle import mdev
from pvepassthru.lifecycle.journal import Journal
from pvepassthru.lifecycle.work import Voice, Want, Work
from tests.scenarios import placement
from tests.scenarios.world import PARENT, scenarios, uuid

if TYPE_CHECKING:
    from tests.scenarios.world import Scenario, SimWorld, World

UUID = uuid(0, 100)


@pytest.mark.parametrize("scenario", scenarios(placement), ids=lambda case: case.__name__)
def test_placement(scenario: Scenario, world: World) -> None:
    scenario(world)


def test_many_stuck_parents_cost_one_wait(world: SimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one wait each, which would use up a start's time although there is room on another."""
    monkeypatch.setattr(mdev, "PARENT_WAIT", 1.0)
    host = world.host
    state.prepare(host)
    stuck = [f"0000:{bus}:00.0" for bus in ("00", "0a", "0b", "0c")]
    work = Work(host, 100, Journal(host, 100), Deadline(3.0), 0.0, Voice(*[lambda _: None] * 3))
    want = Want(0, mdev.KIND, "tbmdev-1", (*stuck, PARENT), UUID)
    with contextlib.ExitStack() as held:
        for parent in stuck:
            held.enter_context(locks.take(host, state.device_lock_path(parent), Deadline(1), parent))
        mdev.create(work, want, "pack")
    assert world.mdevs()[UUID].startswith(PARENT)
