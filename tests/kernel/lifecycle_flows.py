# SPDX-License-Identifier: Apache-2.0
"""The flows of PVE through the installed hookscript on a real kernel; QEMU's stand-in opens the devices."""

from __future__ import annotations

from tests.scenarios import flows
from tests.scenarios.world import GuestWorld, prepare_guest, reset_guest

prepare, setup = prepare_guest, reset_guest


def test_start_and_stop() -> None:
    flows.start_and_stop(GuestWorld())


def test_reboot() -> None:
    flows.reboot(GuestWorld())
