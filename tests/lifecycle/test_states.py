# SPDX-License-Identifier: Apache-2.0
"""The scenarios of what a policy sets on devices; the hook killed at many points of a start and stop with all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.scenarios import crashes, states

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.scenarios.world import SimWorld


@pytest.mark.parametrize("scenario", [*states.EVERYWHERE, *states.SIMULATED], ids=lambda case: case.__name__)
def test_states(scenario: Callable[[SimWorld], None], world: SimWorld) -> None:
    scenario(world)


@pytest.mark.parametrize("phase", ["pre-start", "post-stop"])
@pytest.mark.parametrize("how", crashes.WAYS)
def test_killed_with_everything(world: SimWorld, phase: str, how: str) -> None:
    states.furnish(world)
    with world.pve._locked(100):  # makes PVE's lock file, which stays
        pass
    assert crashes.sweep(world, states.EVERYTHING, phase, how, every=False, stride=6) >= 4
