# SPDX-License-Identifier: Apache-2.0
"""The simulated machine for the tests of the host layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.host import machine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.host.sim import SimHost


@pytest.fixture
def root() -> Iterator[str]:
    """An empty folder for a host's tree."""
    with machine.memory_folder() as folder:
        yield folder


@pytest.fixture(params=[False, True], ids=["plain", "nested"])
def host(request: pytest.FixtureRequest, root: str) -> SimHost:
    """The machine of tests/host/machine.py, in each of the two layouts."""
    return machine.build(root, nested=request.param)


@pytest.fixture
def plain(root: str) -> SimHost:
    """The machine in the plain layout."""
    return machine.build(root, nested=False)
