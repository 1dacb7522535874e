# SPDX-License-Identifier: Apache-2.0
"""The hook killed before and after every change that it makes, on a real kernel: afterwards all is as before."""

from __future__ import annotations

import sys

from tests.kernel import killed
from tests.kernel.checks import check, holds
from tests.scenarios import crashes
from tests.scenarios.counts import counts
from tests.scenarios.crashes import SITUATIONS, VMID
from tests.scenarios.world import GuestWorld, prepare_guest, reset_guest, uuid

prepare, setup = prepare_guest, reset_guest
SUITE_LIMIT = 1500.0
TEST_LIMIT = 1200.0


def _sweep(name: str, phase: str, *hows: str) -> None:
    world = GuestWorld()
    crashes.furnish(world, SITUATIONS[name].config)
    for how in hows or crashes.WAYS:
        number = crashes.sweep(world, SITUATIONS[name], phase, how)
        check(f"{name}, {phase}: crashes {how}", number, number)


def test_mdev_pre_start() -> None:
    _sweep("mdev", "pre-start")


def test_mdev_post_stop() -> None:
    _sweep("mdev", "post-stop")


def test_vgpu_pre_start() -> None:
    _sweep("vgpu", "pre-start")


def test_vgpu_post_stop() -> None:
    _sweep("vgpu", "post-stop")


def test_a_failing_start() -> None:
    _sweep("fails", "pre-start", "before")


def test_at_random() -> None:
    wanted = counts()
    check("seed", wanted.seed, wanted.seed)
    for kind, number in sorted(crashes.rounds(GuestWorld(), wanted.rounds, wanted.seed).items()):
        check(kind, number, number)
