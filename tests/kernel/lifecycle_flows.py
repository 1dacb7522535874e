# SPDX-License-Identifier: Apache-2.0
"""The flows of PVE through the installed hookscript on a real kernel; QEMU's stand-in opens the devices."""

from __future__ import annotations

from tests.scenarios import flows, recovery, refusals
from tests.scenarios.world import GuestWorld, prepare_guest, reset_guest

prepare, setup = prepare_guest, reset_guest
TEST_LIMIT = 120.0
SUITE_LIMIT = 420.0


def test_start_and_stop() -> None:
    flows.start_and_stop(GuestWorld())


def test_reboot() -> None:
    flows.reboot(GuestWorld())


def test_start_fails() -> None:
    flows.start_fails_once(GuestWorld())


def test_aborted_migration() -> None:
    flows.aborted_migration(GuestWorld())


def test_entry_deleted_while_running() -> None:
    flows.entry_deleted_while_running(GuestWorld())


def test_qemu_lingers() -> None:
    flows.qemu_lingers(GuestWorld())


def test_recover() -> None:
    recovery.recover_dead(GuestWorld())


def test_plan() -> None:
    recovery.plan_says_what_happens(GuestWorld())


def test_run_cannot_be_written() -> None:
    refusals.run_cannot_be_written(GuestWorld())
