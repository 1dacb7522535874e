# SPDX-License-Identifier: Apache-2.0
"""Mediated devices and vendor vGPUs through the hook on a real kernel; on a simulated host it starts as a program."""

from __future__ import annotations

from tests.scenarios import devices, vgpus
from tests.scenarios.forking_world import ForkingWorld, prepare_forks
from tests.scenarios.world import reset_guest

prepare, setup = prepare_forks, reset_guest
TEST_LIMIT = 120.0
SUITE_LIMIT = 600.0


def test_first_alternative_is_full() -> None:
    devices.first_alternative_is_full(ForkingWorld())


def test_adopted_on_a_later_alternative() -> None:
    devices.adopted_on_a_later_alternative(ForkingWorld())


def test_ours_of_another_type() -> None:
    devices.ours_of_another_type(ForkingWorld())


def test_room_of_the_core() -> None:
    devices.room_of_the_core(ForkingWorld())


def test_parent_loses_driver_while_running() -> None:
    devices.parent_loses_driver_while_running(ForkingWorld())


def test_types_vanish_after_a_start_that_failed() -> None:
    devices.types_vanish_after_a_start_that_failed(ForkingWorld())


def test_advice_is_wrong() -> None:
    devices.advice_is_wrong(ForkingWorld())


def test_held_while_torn_down() -> None:
    devices.held_while_torn_down(ForkingWorld())


def test_removal_blocks() -> None:
    devices.removal_blocks(ForkingWorld())


def test_half_created() -> None:
    devices.half_created(ForkingWorld())


def test_create_is_interrupted() -> None:
    devices.create_is_interrupted(ForkingWorld())


def test_vgpu_life() -> None:
    vgpus.vgpu_life(ForkingWorld())


def test_vgpu_went_to_another_vm() -> None:
    vgpus.vgpu_went_to_another_vm(ForkingWorld())


def test_vgpu_alternatives() -> None:
    vgpus.vgpu_alternatives(ForkingWorld())


def test_vgpu_second_entry_fails() -> None:
    vgpus.vgpu_second_entry_fails(ForkingWorld())
