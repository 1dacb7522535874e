# SPDX-License-Identifier: Apache-2.0
"""The scenarios of what goes wrong around a hook, on a simulated kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pvepassthru.lifecycle import hook
from pvepassthru.lifecycle.phases import Start
from pvepassthru.lifecycle.work import Voice
from pvepassthru.model.errors import EndedError
from tests.kernel.checks import check
from tests.scenarios import mishaps
from tests.scenarios.world import mdev, scenarios

if TYPE_CHECKING:
    from tests.scenarios.world import Scenario, SimWorld, World


@pytest.mark.parametrize("scenario", scenarios(mishaps), ids=lambda case: case.__name__)
def test_mishap(scenario: Scenario, world: World) -> None:
    scenario(world)


def test_a_signal_at_the_last_moment(world: SimWorld) -> None:
    """One that comes while signals are being switched off has all undone, as one that came before."""

    def ended() -> None:
        raise EndedError("SIGTERM")

    world.pve.define(100, mdev(1))
    before = world.state()
    said: list[str] = []
    with pytest.raises(EndedError):
        hook.run_phase(
            world.host, 100, "pre-start", Start({}, finish=ended), Voice(said.append, said.append, said.append)
        )
    check("it was made", [words for words in said if "created mdev" in words] != [], expected=True)
    check("as before", world.state(), before)
