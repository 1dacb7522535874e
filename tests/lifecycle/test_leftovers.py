# SPDX-License-Identifier: Apache-2.0
"""The scenarios of what VMs leave behind, on a simulated kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.scenarios import leftover_functions, leftovers
from tests.scenarios.world import scenarios

if TYPE_CHECKING:
    from tests.scenarios.world import Scenario, World


@pytest.mark.parametrize(
    "scenario", [*scenarios(leftovers), *scenarios(leftover_functions)], ids=lambda case: case.__name__
)
def test_leftovers(scenario: Scenario, world: World) -> None:
    scenario(world)


def test_function_beside_recover(world: World) -> None:
    leftover_functions.function_beside_recover(world)
