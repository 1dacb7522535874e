# SPDX-License-Identifier: Apache-2.0
"""Console, reset methods and d3cold_allowed by the policy, through the installed hook on a real kernel.

The console is on the frame buffer of bochs-drm. No device here has a resizable BAR or can be made to fall off the bus.
"""

from __future__ import annotations

from tests.scenarios import crashes, states
from tests.scenarios.counts import note
from tests.scenarios.forking_world import ForkingWorld, prepare_forks
from tests.scenarios.world import reset_guest

prepare, setup = prepare_forks, reset_guest
KERNELS = ("6.12",)  # enough with one: sysfs_display.py and sysfs_settings.py show on both what it needs of a kernel
SUITE_LIMIT = 900.0
TEST_LIMIT = 500.0


def test_everything() -> None:
    states.everything(ForkingWorld())


def test_console_comes_back_when_the_start_fails() -> None:
    states.console_comes_back_when_the_start_fails(ForkingWorld())


def test_reset_method_that_is_not_offered() -> None:
    states.reset_method_that_is_not_offered(ForkingWorld())


def test_nothing_without_a_policy() -> None:
    states.nothing_without_a_policy(ForkingWorld())


def test_killed() -> None:
    """At a few of the changes of a start and a stop: one takes half a minute here; SimHost has many more."""
    world = ForkingWorld()
    states.furnish(world)
    with world.pve._locked(100):  # makes PVE's lock file, which stays
        pass
    for phase, how in (("pre-start", "before"), ("post-stop", "after")):
        note(f"{phase} killed {how}", crashes.sweep(world, states.EVERYTHING, phase, how, most=3))
