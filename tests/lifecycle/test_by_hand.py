# SPDX-License-Identifier: Apache-2.0
"""Instances by hand, on a simulated kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.scenarios import by_hand
from tests.scenarios.world import scenarios

if TYPE_CHECKING:
    from tests.scenarios.world import Scenario, World


@pytest.mark.parametrize("scenario", scenarios(by_hand), ids=lambda case: case.__name__)
def test_by_hand(scenario: Scenario, world: World) -> None:
    scenario(world)
