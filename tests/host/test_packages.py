# SPDX-License-Identifier: Apache-2.0
"""dpkg's status file."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import packages
from pvepassthru.host.host import Host
from pvepassthru.host.packages import Package
from tests import tree

if TYPE_CHECKING:
    from pathlib import Path

STATUS = """Package: libqemu-server
Status: install ok installed
Version: 1

Package: qemu-server
Status: install ok half-configured
Depends: pve-qemu-kvm (>= 7)
Version: 9.0.25
Description: Qemu Server Tools
 Version: 0.1

Package: pve-manager
Version: 9.0.11
Status: deinstall ok config-files"""


def test_packages_of_interest(tmp_path: Path) -> None:
    tree.put(tmp_path, packages.STATUS, STATUS)
    found = packages.read(Host(str(tmp_path)))
    assert found == {
        "qemu-server": Package("qemu-server", "9.0.25", "half-configured"),
        "pve-manager": Package("pve-manager", "9.0.11", "config-files"),
    }
    assert not found["qemu-server"].installed


def test_absent_and_unreadable(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    assert packages.read(host) == {}
    assert host.unreadable == {}
    tree.folder(tmp_path, packages.STATUS)
    assert packages.read(host) == {}
    assert host.unreadable == {packages.STATUS: errno.EISDIR}


@pytest.mark.parametrize(
    "junk", [b"\xff" * 9999, b"Package: qemu-server\n", b"Package: qemu-server\nVersion\n: \n\n\n"]
)
def test_junk(junk: bytes, tmp_path: Path) -> None:
    tree.put(tmp_path, packages.STATUS, junk)
    for package in packages.read(Host(str(tmp_path))).values():
        assert (package.version, package.state, package.installed) == ("", "", False)
