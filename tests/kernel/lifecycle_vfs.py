# SPDX-License-Identifier: Apache-2.0
"""Virtual functions on a real kernel: `pvepassthru sriov`, and VFs that a start makes."""

from __future__ import annotations

import os

from tests.scenarios import handover, vfs
from tests.scenarios.forking_world import ForkingWorld, prepare_forks
from tests.scenarios.world import reset_guest

prepare = prepare_forks
TEST_LIMIT = 300.0
KERNELS = ("6.12",)  # enough with one: sysfs_pci.py shows on both what it needs of a kernel
SUITE_LIMIT = 1200.0


def setup() -> None:
    """As for all suites, and without a policy."""
    if os.path.exists(vfs.POLICY):
        os.unlink(vfs.POLICY)
    reset_guest()


def test_up_and_down() -> None:
    vfs.up_and_down(ForkingWorld())


def test_open_without_a_vm() -> None:
    vfs.open_without_a_vm(ForkingWorld())


def test_applied_twice() -> None:
    vfs.applied_twice(ForkingWorld())


def test_applied_while_in_use() -> None:
    vfs.applied_while_in_use(ForkingWorld())


def test_while_another_writes() -> None:
    vfs.while_another_writes(ForkingWorld())


def test_removal_that_hangs() -> None:
    vfs.removal_that_hangs(ForkingWorld())


def test_made_by_the_start() -> None:
    vfs.made_by_the_start(ForkingWorld())


def test_handed_over_and_given_back() -> None:
    handover.vfs(ForkingWorld())


def test_not_made_by_the_start() -> None:
    vfs.not_made_by_the_start(ForkingWorld())


def test_apply_killed_before() -> None:
    vfs.apply_killed_before(ForkingWorld())


def test_start_killed_while_its_child_goes_on() -> None:
    vfs.start_killed_while_its_child_goes_on(ForkingWorld())
