# SPDX-License-Identifier: Apache-2.0
"""A simulated world for scenarios."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.host.machine import memory_folder
from tests.scenarios.world import SimWorld

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A hook that runs in the process of the tests leaves it deaf to signals, as its own: not so the next test."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@pytest.fixture
def world() -> Iterator[SimWorld]:
    with memory_folder() as folder:
        made = SimWorld(Path(folder))
        try:
            yield made
        finally:
            made.close()
