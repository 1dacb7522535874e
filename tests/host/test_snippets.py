# SPDX-License-Identifier: Apache-2.0
"""Where PVE finds a hookscript's file, and on which storages one can lie."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import cluster, snippets
from pvepassthru.host.host import Host
from tests import tree

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """dir: files
\tpath /srv/files/
\tcontent snippets,iso
\tcontent-dirs iso=isos,snippets=hooks/vm

nfs: nas
\tserver 192.0.2.1
\texport /x
\tcontent images snippets

cifs: share
\tserver 192.0.2.1
\tshare x
\tpath /mnt/elsewhere
\tcontent snippets
\tnodes other,third

cephfs: ceph
\tcontent backup

btrfs: pool
\tpath /pool
\tdisable
\tcontent snippets

zfspool: zfs
\tpool rpool
\tcontent snippets

dir: plain
\tpath /plain
"""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    tree.put(tmp_path, "etc/pve/storage.cfg", CONFIG)
    return Host(str(tmp_path), "pve")


@pytest.mark.parametrize(
    "volume, path",
    [
        ("local:snippets/x", "/var/lib/vz/snippets/x"),
        ("files:snippets/x.pl", "/srv/files/hooks/vm/x.pl"),
        ("nas:snippets/x", "/mnt/pve/nas/snippets/x"),
        ("share:snippets/x", "/mnt/elsewhere/snippets/x"),
        ("ceph:snippets/x", "/mnt/pve/ceph/snippets/x"),
        ("pool:snippets/a b", "/pool/snippets/a b"),
    ],
)
def test_files(volume: str, path: str, host: Host) -> None:
    found = snippets.locate(cluster.storages(host) or {}, volume)
    assert isinstance(found, snippets.Snippet)
    assert (found.volume, found.path) == (volume, path)


def test_storages_that_a_node_can_use(host: Host) -> None:
    """In the order of storage.cfg; `local` has no line of its own there, and is for everything then."""
    storages = cluster.storages(host) or {}
    assert [storage.id for storage in snippets.holding(storages, "pve")] == ["local", "files", "nas"]
    assert [storage.id for storage in snippets.holding(storages, "third")] == ["local", "files", "nas", "share"]


def test_what_storages_are_for(host: Host) -> None:
    storages = cluster.storages(host) or {}
    assert snippets.content(storages["nas"]) == ("images", "snippets")
    assert snippets.content(storages["plain"]) == ("images", "rootdir")
    assert "snippets" in snippets.content(storages["local"])


def test_scripts_that_pve_would_not_run(host: Host) -> None:
    script = tree.put(host.root, "x/script")
    tree.folder(host.root, "x/folder")
    os.symlink("script", f"{host.root}/x/link")
    assert snippets.fault(host, "/x/none") == "there is no /x/none"
    assert snippets.fault(host, "/x/folder") == "/x/folder is no file"
    assert snippets.fault(host, "/x/script") == "/x/script is not executable"
    os.chmod(script, 0o755)
    assert snippets.fault(host, "/x/script") == ""
    assert snippets.fault(host, "/x/link") == ""


def mount(host: Host, *lines: str) -> None:
    """Let these be all mounts: `/mnt/pve/nas nfs4 rw` each."""
    rows = [line.split(" ") for line in lines]
    text = "".join(f"29 1 0:45 / {point} {options} - {kind} x rw\n" for point, kind, options in rows)
    tree.put(host.root, "proc/self/mountinfo", text)


def test_a_script_where_nothing_can_be_run(host: Host) -> None:
    """What a tree's own mounts say; nothing without them."""
    os.chmod(tree.put(host.root, "srv/files/x"), 0o755)
    tree.link(host.root, "short", "srv/files")
    for mounts, why in (
        (None, ""),
        (("/ ext4 rw", "/srv/files ext4 rw,noexec,relatime"), "lies on a file system that is mounted with noexec"),
        (("/srv ext4 rw,noexec", "/srv/files ext4 rw"), ""),
        (("/srv/files/deeper ext4 rw,noexec",), ""),
    ):
        if mounts:
            mount(host, *mounts)
        for path in ("/srv/files/x", "/short/x"):
            assert snippets.fault(host, path) == (f"{path} {why}" if why else "")


def test_a_script_of_this_host_where_nothing_can_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By statvfs(3)."""
    script = tree.put(tmp_path, "x")
    os.chmod(script, 0o755)
    real = os.statvfs(script)
    flags = real.f_flag & ~os.ST_NOEXEC

    def statvfs(path: str) -> os.statvfs_result:
        assert path == script
        return os.statvfs_result([*real[:8], flags, real[9]])

    monkeypatch.setattr(os, "statvfs", statvfs)
    assert snippets.fault(Host(), script) == ""
    flags |= os.ST_NOEXEC
    assert snippets.fault(Host(), script) == f"{script} lies on a file system that is mounted with noexec"


@pytest.mark.parametrize(
    "storage, mounts, point",
    [
        ("nfs: x\n", ("/mnt/pve/x nfs4 rw",), None),
        ("nfs: x\n", ("/mnt/pve/xy nfs4 rw", "/mnt/pve ext4 rw"), "/mnt/pve/x"),
        ("nfs: x\n", ("/mnt/pve/x autofs rw",), "/mnt/pve/x"),
        ("nfs: x\n\tpath /x\n", ("/x nfs rw",), None),
        ("cifs: x\n", ("/mnt/pve/x cifs rw",), None),
        ("cifs: x\n", (), "/mnt/pve/x"),
        ("cephfs: x\n", ("/mnt/pve/x fuse.ceph-fuse rw",), None),
        ("glusterfs: x\n", ("/mnt/pve/x ceph rw",), "/mnt/pve/x"),
        ("dir: x\n\tpath /x\n", (), None),
        ("dir: x\n\tpath /x\n\tis_mountpoint no\n", (), None),
        ("dir: x\n\tpath /x/\n\tis_mountpoint 1\n", ("/x xfs rw",), None),
        ("dir: x\n\tpath /x\n\tis_mountpoint yes\n", ("/ ext4 rw",), "/x"),
        ("btrfs: x\n\tpath /x/y\n\tis_mountpoint /x/\n", ("/x btrfs rw",), None),
        ("btrfs: x\n\tpath /x/y\n\tis_mountpoint /x\n", ("/x/y btrfs rw",), "/x"),
        ("dir: x\n\tpath /link\n\tis_mountpoint 1\n", ("/there xfs rw",), None),
    ],
)
def test_storages_that_have_to_be_mounted(storage: str, mounts: tuple[str, ...], point: str | None, host: Host) -> None:
    tree.folder(host.root, "there")
    tree.link(host.root, "link", "there")
    tree.put(host.root, "etc/pve/storage.cfg", storage)
    section = (cluster.storages(host) or {})["x"]
    assert snippets.unmounted(host, section) is None, "no list of mounts"
    mount(host, *mounts)
    assert snippets.unmounted(host, section) == point
    os.unlink(f"{host.root}/proc/self/mountinfo")
    tree.put(host.root, "proc/mounts", "".join(f"x {line} 0 0\n" for line in mounts))
    assert snippets.unmounted(host, section) == point, "by the older list"


def test_ours_is_told_by_its_name() -> None:
    assert snippets.is_ours("nas:snippets/pvepassthru")
    assert not any(map(snippets.is_ours, (None, "", "local:snippets/pvepassthru.pl", "local:iso/pvepassthru")))
