# SPDX-License-Identifier: Apache-2.0
"""Hooks of many VMs, or of one, at the same time, on a real kernel; those of very many are forks."""

from __future__ import annotations

from tests.scenarios import races
from tests.scenarios.counts import counts, note
from tests.scenarios.forking_world import ForkingWorld, prepare_forks
from tests.scenarios.world import GuestWorld, reset_guest

prepare, setup = prepare_forks, reset_guest
SUITE_LIMIT = 1500.0
TEST_LIMIT = 600.0


def test_many_vms_want_four_instances() -> None:
    wanted = counts()
    note("VMs", wanted.vms)
    races.many_vms(ForkingWorld(), wanted.vms)


def test_hooks_of_one_vm_at_once() -> None:
    races.one_vm(GuestWorld())


def test_pve_edits_reservations_too() -> None:
    races.edits(GuestWorld(), 10)
