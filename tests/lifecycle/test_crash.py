# SPDX-License-Identifier: Apache-2.0
"""The hook killed at every change that it makes, on a simulated host: afterwards all is as before the start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.scenarios import crashes
from tests.scenarios.crashes import SITUATIONS

if TYPE_CHECKING:
    from tests.scenarios.world import SimWorld

SWEEPS = [
    (name, phase, how, ways)
    for name, situation in SITUATIONS.items()
    for phase in (("pre-start",) if situation.fails else ("pre-start", "post-stop"))
    for how, ways in (("before", ("recover",)), ("after", ("next",)), ("spared", ("recover", "next")))
]


THOROUGH = ("mdev", "vgpu")
"""The situations in which the hook is killed at every change that the simulated kernel makes for it, too."""


@pytest.mark.parametrize("name,phase,how,ways", SWEEPS, ids=lambda value: value if isinstance(value, str) else "")
def test_killed_at_every_change(world: SimWorld, name: str, phase: str, how: str, ways: tuple[str, ...]) -> None:
    situation = SITUATIONS[name]
    crashes.furnish(world, situation.config)
    assert crashes.sweep(world, situation, phase, how, ways, every=name in THOROUGH) > 3
