# SPDX-License-Identifier: Apache-2.0
"""What VMs leave behind and who takes it away, and recover beside starts and stops, on a real kernel."""

from __future__ import annotations

import os
import shutil

from tests.pve.flows import Pve
from tests.scenarios import leftover_functions, leftovers, races
from tests.scenarios.counts import counts, note
from tests.scenarios.forking_world import ForkingWorld, prepare_forks
from tests.scenarios.world import reset_guest

prepare = prepare_forks
KERNELS = ("6.12",)  # enough with one: sysfs_mdev.py and sysfs_pci.py show on both what it needs of a kernel
SUITE_LIMIT = 1200.0
TEST_LIMIT = 600.0


def setup() -> None:
    """As before each test, and without what these tests add to the host."""
    reset_guest()
    for path in (leftovers.POLICY, "/etc/mdevctl.d", "/etc/pve/nodes/other"):
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif os.path.exists(path):
            os.unlink(path)


def test_migrated_away() -> None:
    leftovers.migrated_away(ForkingWorld())


def test_comes_back_meanwhile() -> None:
    leftovers.comes_back_meanwhile(ForkingWorld())


def test_orphans_of_this_node() -> None:
    leftovers.orphans_of_this_node(ForkingWorld())


def test_orphan_being_created() -> None:
    leftovers.orphan_being_created(ForkingWorld())


def test_orphaned_vgpu_types() -> None:
    leftovers.orphaned_vgpu_types(ForkingWorld())


def test_stale_override() -> None:
    leftovers.stale_override(ForkingWorld())


def test_release_by_hand() -> None:
    leftovers.release_by_hand(ForkingWorld())


def test_recover_disturbs_no_start() -> None:
    world = ForkingWorld()
    number = max(6, counts().rounds // 2)
    note("VMs beside recover", number)

    def make_pve() -> Pve:
        return Pve("/", node=world.node, hook=world.pve.hook, patience=1.0)

    races.lives(world, make_pve, range(races.FIRST, races.FIRST + number), 2, watchers=1)


def test_function_of_a_migrated_vm() -> None:
    leftover_functions.function_of_a_migrated_vm(ForkingWorld())
