# SPDX-License-Identifier: Apache-2.0
"""A simulated world for scenarios."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.host.machine import memory_folder
from tests.scenarios.world import SimWorld

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def world() -> Iterator[SimWorld]:
    with memory_folder() as folder:
        made = SimWorld(Path(folder))
        try:
            yield made
        finally:
            made.close()
