# SPDX-License-Identifier: Apache-2.0
"""The lock that a cluster's nodes share, on a plain folder; what pmxcfs does with an old one a test does."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import cluster_lock
from pvepassthru.host.host import Host
from pvepassthru.model.errors import BusyError, PassthruError
from tests import tree

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def host(tmp_path: Path) -> Host:
    tree.folder(tmp_path, "etc/pve")
    return Host(str(tmp_path))


def test_it_is_there_while_it_is_held(host: Host) -> None:
    own = host.path(f"{cluster_lock.FOLDER}/x")
    with cluster_lock.hold(host, "x", "it"):
        assert os.path.isdir(own)
        with cluster_lock.hold(host, "y", "another"):
            pass
    assert not os.path.exists(own)
    with pytest.raises(ZeroDivisionError), cluster_lock.hold(host, "x", "it"):
        _ = 1 // 0
    assert not os.path.exists(own)


def test_somebody_else_has_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_lock, "PATIENCE", 0.0)
    message = "cannot lock it within 0 s: /etc/pve/priv/lock/x is there"
    with (
        cluster_lock.hold(host, "x", "it"),
        pytest.raises(BusyError, match=message),
        cluster_lock.hold(host, "x", "it"),
    ):
        pass


def test_an_old_one_is_removed_when_it_is_asked(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """As pmxcfs does: who sets its times to 0 has it removed if it is older than 120 s."""
    own = tree.folder(host.root, f"{cluster_lock.FOLDER}/x")
    asked = []
    utime = os.utime

    def ask(path: str, times: tuple[int, int]) -> None:
        utime(path, times)
        asked.append((path, os.stat(path).st_mtime))
        os.rmdir(path)

    monkeypatch.setattr(os, "utime", ask)
    with cluster_lock.hold(host, "x", "it"):
        pass
    assert asked == [(own, 0.0)]


def test_one_that_is_gone_meanwhile(host: Host) -> None:
    """pmxcfs took it for an old one."""
    with cluster_lock.hold(host, "x", "it"):
        os.rmdir(host.path(f"{cluster_lock.FOLDER}/x"))


def test_a_cluster_file_system_that_cannot_be_written(tmp_path: Path) -> None:
    with (
        pytest.raises(PassthruError, match=r"cannot lock it: /etc/pve/priv/lock/x: .*; is this a PVE node\?"),
        cluster_lock.hold(Host(str(tmp_path)), "x", "it"),
    ):
        pass


def test_no_quorum(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, _mode: int = 0o777) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "mkdir", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(PassthruError, match=r"has the cluster quorum"), cluster_lock.hold(host, "x", "it"):
        pass
