# SPDX-License-Identifier: Apache-2.0
"""The scenarios of virtual functions, on a simulated kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.scenarios import vfs
from tests.scenarios.world import scenarios

if TYPE_CHECKING:
    from tests.scenarios.world import Scenario, World


@pytest.mark.parametrize("scenario", scenarios(vfs), ids=lambda case: case.__name__)
def test_vfs(scenario: Scenario, world: World) -> None:
    scenario(world)
