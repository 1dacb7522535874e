# SPDX-License-Identifier: Apache-2.0
"""Where the hook makes instances on two mdev parents, and instances by hand, on a real kernel."""

from __future__ import annotations

from tests.scenarios import by_hand, placement
from tests.scenarios.counts import counts, full, note
from tests.scenarios.forking_world import ForkingWorld, prepare_forks
from tests.scenarios.world import reset_guest

prepare, setup = prepare_forks, reset_guest
TEST_LIMIT = 900.0
KERNELS = ("6.12",)  # enough with one: sysfs_mdev.py shows on both what it needs of a kernel
SUITE_LIMIT = 2400.0


def test_pack() -> None:
    placement.pack_goes_where_something_is(ForkingWorld())


def test_spread() -> None:
    placement.spread_takes_turns(ForkingWorld())


def test_exclusive_types() -> None:
    placement.exclusive_types(ForkingWorld())


def test_opened_after_pre_start() -> None:
    placement.opened_after_pre_start(ForkingWorld())


def test_adopted() -> None:
    placement.an_instance_that_is_there_is_adopted(ForkingWorld())


def test_packed_at_once() -> None:
    placement.packed_at_once(ForkingWorld())


def test_spread_at_once_by_a_slow_driver() -> None:
    placement.spread_at_once_by_a_slow_driver(ForkingWorld())


def test_pool() -> None:
    """Eight VMs, in the soak as many as race there."""
    many = counts().vms if full() else placement.POOL
    note("VMs that want eight instances", many)
    placement.pool_at_once(ForkingWorld(), many)


def test_by_hand() -> None:
    by_hand.made_and_removed(ForkingWorld())


def test_by_hand_in_use() -> None:
    by_hand.in_use(ForkingWorld())
