# SPDX-License-Identifier: Apache-2.0
"""Hosts for the tests of the report, each made and looked at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pvepassthru.host.host import open_host
from pvepassthru.report.contents import gather
from pvepassthru.report.page import page
from tests.report import hosts
from tests.report.made import MADE, Made

if TYPE_CHECKING:
    from collections.abc import Callable


def _make(kind: Callable[[str], str], factory: pytest.TempPathFactory) -> Made:
    folder = factory.mktemp("host")
    root = str(folder / "root")
    kind(root)
    contents = gather(open_host(root), MADE)
    text = page(contents)
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    return Made(root, contents, text, str(path))


@pytest.fixture(scope="session")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A host with one of everything."""
    return _make(hosts.rich, tmp_path_factory)


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A host with 500 functions and 300 VMs."""
    return _make(hosts.many, tmp_path_factory)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A host whose texts are attacks, too long, or secret."""
    return _make(hosts.hostile, tmp_path_factory)
