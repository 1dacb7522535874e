# SPDX-License-Identifier: Apache-2.0
"""Whose hook runs count."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import state
from pvepassthru.host.host import open_host
from pvepassthru.report import held
from pvepassthru.report.contents import gather
from tests import tree

if TYPE_CHECKING:
    from pathlib import Path

    from pvepassthru.host.host import Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    built = tree.build(tmp_path / "host", {"devices": {}}, configs={100: "memory: 512\n"})
    tree.put(built, "etc/pve/nodes/other/qemu-server/200.conf", "memory: 512\n")
    found = open_host(built)
    state.prepare(found)
    return found


def test_runs_of_the_clusters_vms_count(host: Host) -> None:
    for vmid in (100, 200, 300):
        state.note_run(host, state.Run(vmid, "pre-start", 1, 1, 0, 0))
    state.note_run(host, state.Run(100, "no-phase", 1, 1, 0, 0))
    assert [(run.vmid, run.phase) for run in held.runs(host)] == [(100, "pre-start"), (200, "pre-start")]


def test_a_folder_that_is_not_trusted(host: Host) -> None:
    """There are no runs then, and the report says that something is missing."""
    state.note_run(host, state.Run(100, "pre-start", 1, 1, 0, 0))
    os.chmod(host.path(state.FOLDER), 0o777)
    assert held.runs(host) == []
    assert gather(host, 0)["about"]["notes"]
