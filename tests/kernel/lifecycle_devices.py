# SPDX-License-Identifier: Apache-2.0
"""Mediated devices and vendor vGPUs through the installed hookscript on a real kernel."""

from __future__ import annotations

from tests.scenarios import devices, vgpus
from tests.scenarios.world import GuestWorld, prepare_guest, reset_guest

prepare, setup = prepare_guest, reset_guest
TEST_LIMIT = 120.0
SUITE_LIMIT = 600.0


def test_first_alternative_is_full() -> None:
    devices.first_alternative_is_full(GuestWorld())


def test_adopted_on_a_later_alternative() -> None:
    devices.adopted_on_a_later_alternative(GuestWorld())


def test_ours_of_another_type() -> None:
    devices.ours_of_another_type(GuestWorld())


def test_room_of_the_core() -> None:
    devices.room_of_the_core(GuestWorld())


def test_parent_loses_driver_while_running() -> None:
    devices.parent_loses_driver_while_running(GuestWorld())


def test_types_vanish_after_a_start_that_failed() -> None:
    devices.types_vanish_after_a_start_that_failed(GuestWorld())


def test_advice_is_wrong() -> None:
    devices.advice_is_wrong(GuestWorld())


def test_held_while_torn_down() -> None:
    devices.held_while_torn_down(GuestWorld())


def test_removal_blocks() -> None:
    devices.removal_blocks(GuestWorld())


def test_half_created() -> None:
    devices.half_created(GuestWorld())


def test_create_is_interrupted() -> None:
    devices.create_is_interrupted(GuestWorld())


def test_vgpu_life() -> None:
    vgpus.vgpu_life(GuestWorld())


def test_vgpu_went_to_another_vm() -> None:
    vgpus.vgpu_went_to_another_vm(GuestWorld())


def test_vgpu_alternatives() -> None:
    vgpus.vgpu_alternatives(GuestWorld())


def test_vgpu_second_entry_fails() -> None:
    vgpus.vgpu_second_entry_fails(GuestWorld())
