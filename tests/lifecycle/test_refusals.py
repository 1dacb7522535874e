# SPDX-License-Identifier: Apache-2.0
"""The scenarios of what the hook refuses, on a simulated kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.scenarios import refusals
from tests.scenarios.world import scenarios

if TYPE_CHECKING:
    from tests.scenarios.world import Scenario, World

CASES = [case for case in scenarios(refusals) if case is not refusals.run_cannot_be_written]


@pytest.mark.parametrize("scenario", CASES, ids=lambda case: case.__name__)
def test_refusal(scenario: Scenario, world: World) -> None:
    scenario(world)
