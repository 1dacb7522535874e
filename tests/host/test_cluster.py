# SPDX-License-Identifier: Apache-2.0
"""The cluster's files, those of PVE 8 and of PVE 9."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import cluster
from pvepassthru.host.host import Host
from tests import tree

if TYPE_CHECKING:
    from pathlib import Path

RESOURCES = "vm: 100\n\tgroup gpu\n\nvm: 101\n\tstate stopped\n\nct: 102\n\tstate started\n\nvm: x\n"
GROUPS = "group: gpu\n\tnodes pve1:2,pve2,pve1\n\trestricted 1\n"
RULES = (
    "node-affinity: a\n\tresources vm:100\n\tnodes pve9\n\tdisable\n\n"
    "node-affinity: b\n\tresources ct:7,vm:100;vm:101\n\tnodes pve3:1\n\n"
    "resource-affinity: c\n\tresources vm:101\n\taffinity negative\n"
)
JOBS = (
    "vzdump: b\n\tall 1\n\texclude 101,102\n\tmode stop\n\nvzdump: a\n\tpool lab\n\tnode pve1\n\n"
    "vzdump: off\n\tvmid 100\n\tenabled 0\n\nrealm-sync: r\n\tvmid 100\n"
)


def test_group_of_pve_8(tmp_path: Path) -> None:
    tree.put(tmp_path, cluster.RESOURCES, RESOURCES)
    tree.put(tmp_path, cluster.GROUPS, GROUPS)
    found = cluster.ha_resources(Host(str(tmp_path)))
    assert list(found) == [100, 101]
    assert found[100] == cluster.Resource(100, 1, True, ("pve1", "pve2"), True, "HA group gpu")  # noqa: FBT003 - fields
    assert (found[101].started, found[101].nodes, found[101].line) == (False, (), 4)


def test_rule_of_pve_9_counts_before_a_group(tmp_path: Path) -> None:
    for path, text in ((cluster.RESOURCES, RESOURCES), (cluster.GROUPS, GROUPS), (cluster.RULES, RULES)):
        tree.put(tmp_path, path, text)
    found = cluster.ha_resources(Host(str(tmp_path)))
    for vmid in (100, 101):
        assert (found[vmid].nodes, found[vmid].strict) == (("pve3",), False)
        assert found[vmid].said_by == "node affinity rule b"


def test_backup_jobs(tmp_path: Path) -> None:
    tree.put(tmp_path, cluster.JOBS, JOBS)
    tree.put(tmp_path, cluster.USERS, "user:root@pam:1:0:::a@b::\npool:lab:a comment:200,201:local:\npool:bad\n")
    jobs = cluster.backup_jobs(Host(str(tmp_path)))
    assert [(job.id, job.line, job.mode) for job in jobs] == [("a", 6, "snapshot"), ("b", 1, "stop")]
    lab, everything = jobs
    assert [vmid for vmid in (100, 101, 200, 201) if lab.includes(vmid, "pve1")] == [200, 201]
    assert not lab.includes(200, "pve2")
    assert [vmid for vmid in (100, 101, 200) if everything.includes(vmid, "pve2")] == [100, 200]


@pytest.mark.parametrize(
    "text, name, folder, shared",
    [
        ("", "local", "/var/lib/vz/snippets", False),
        ("dir: local\n\tpath /srv/\n\tcontent-dirs iso=a,snippets=hooks/mine/\n", "local", "/srv/hooks/mine", False),
        ("nfs: n\n\tserver s\n", "n", "/mnt/pve/n/snippets", True),
        ("dir: d\n\tpath /d\n\tshared 1\n", "d", "/d/snippets", True),
        ("zfspool: z\n\tpool rpool\n", "z", None, False),
    ],
)
def test_storages(text: str, name: str, folder: str | None, shared: bool, tmp_path: Path) -> None:  # noqa: FBT001 - table
    tree.put(tmp_path, cluster.STORAGES, text)
    storages = cluster.storages(Host(str(tmp_path)))
    assert storages
    assert cluster.snippets(storages[name]) == folder
    assert cluster.is_shared(storages[name]) is shared


def test_absent_holds_nothing_and_unreadable_is_noted(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    assert (cluster.nodes(host), cluster.ha_resources(host), cluster.backup_jobs(host)) == ((), {}, ())
    assert list(cluster.storages(host) or {}) == ["local"]
    assert host.unreadable == {}
    for path in (cluster.RESOURCES, cluster.JOBS, cluster.STORAGES):
        tree.folder(tmp_path, path)
    assert (cluster.ha_resources(host), cluster.backup_jobs(host), cluster.storages(host)) == ({}, (), None)
    assert host.unreadable == dict.fromkeys((cluster.RESOURCES, cluster.JOBS, cluster.STORAGES), errno.EISDIR)


@pytest.mark.parametrize("junk", [b"\xff\xfe\0" * 1000, b"vm: 100\n\tgroup", b"\n" * 5000, b"pool:" * 3000])
def test_junk(junk: bytes, tmp_path: Path) -> None:
    for path in (cluster.RESOURCES, cluster.GROUPS, cluster.RULES, cluster.JOBS, cluster.STORAGES, cluster.USERS):
        tree.put(tmp_path, path, junk)
    host = Host(str(tmp_path))
    assert set(cluster.ha_resources(host)) <= {100}
    assert cluster.backup_jobs(host) == ()
    assert "local" in (cluster.storages(host) or {})
