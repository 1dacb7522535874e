# SPDX-License-Identifier: Apache-2.0
"""Hooks of many VMs, or of one, at the same time, on a simulated host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.pve.flows import Pve
from tests.scenarios import placement, races
from tests.scenarios.counts import counts

if TYPE_CHECKING:
    from tests.scenarios.world import SimWorld

LIVES = 100
"""Starts and stops beside `recover` without a pause."""


def test_many_vms_want_four_instances(world: SimWorld) -> None:
    races.many_vms(world, counts().vms)


def test_many_vms_want_four_functions(world: SimWorld) -> None:
    races.whole_functions(world, 8)


def test_two_vms_want_one_group(world: SimWorld) -> None:
    races.mates(world)


@pytest.mark.parametrize("delay", [0, 100])
def test_hooks_of_one_vm_at_once(world: SimWorld, delay: int) -> None:
    world.configure(delay_ms=delay)
    races.one_vm(world)


def test_pve_edits_reservations_too(world: SimWorld) -> None:
    races.edits(world, 25)


def test_placed_at_once(world: SimWorld) -> None:
    placement.packed_at_once(world)
    placement.spread_at_once(world)


def test_a_pool_of_instances(world: SimWorld) -> None:
    placement.pool_at_once(world)
    placement.pool_at_once(world, counts().vms)


def test_recover_disturbs_no_start(world: SimWorld) -> None:
    def make_pve() -> Pve:
        return Pve(world.root, node=world.node, hook=world.pve.hook, write=world.host.write)

    races.lives(world, make_pve, range(races.FIRST, races.FIRST + LIVES), races.ROOM)
