# SPDX-License-Identifier: Apache-2.0
"""The Debian package, built once for all workers."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

import pytest

from tests.packaging import package as packages

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's file."""
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    into = shared / "deb"
    with (shared / "deb.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = list(into.glob("*.deb"))
        return made[0] if made else packages.build(into)


@pytest.fixture(scope="session")
def unpacked(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the package."""
    folder = tmp_path_factory.mktemp("unpacked")
    packages.said("dpkg-deb", "--extract", package, folder)
    return folder
