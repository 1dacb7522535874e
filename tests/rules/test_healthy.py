# SPDX-License-Identifier: Apache-2.0
"""A host with which nothing is wrong gives no finding, and nearly every rule on the host has judged it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pvepassthru.host.host import Host
from pvepassthru.rules.catalogue import host_states
from pvepassthru.rules.subject import Surroundings
from tests import tree
from tests.rules import healthy

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("base", [healthy.INTEL, healthy.AMD], ids=["Intel", "AMD"])
def test_a_healthy_host_gives_no_finding(base: dict[str, str | bytes], tmp_path: Path) -> None:
    host = healthy.host(base=base, config="machine: q35\nhostpci0: 02:00.0,pcie=1\n").build(tmp_path)
    states = host_states(Surroundings(host))
    assert [state for state in states if state.findings] == []
    own = [state for state in states if "PVP106" <= state.rule.code < "PVP170"]
    unknown = {state.rule.code: state.why for state in own if state.state == "unknown"}
    assert set(unknown) <= {"PVP107"}, unknown  # PVE's file of reservations comes with the first start
    assert sum(state.state == "fine" for state in own) > 30


def test_an_empty_host_is_unknown_and_not_wrong(tmp_path: Path) -> None:
    tree.folder(tmp_path, "sys")
    states = host_states(Surroundings(Host(str(tmp_path))))
    assert [state for state in states if state.findings] == []


@pytest.mark.parametrize("kind", ["junk", "folder", "half"])
def test_files_that_cannot_be_read_raise_nothing(kind: str, tmp_path: Path) -> None:
    """Each file in turn is binary junk, a folder, or ends in the middle."""
    config = "hostpci0: 02:00.0\nhostpci1: 00:02.0,mdev=i915-GVTg_V5_4\nhostpci2: a1:00.4,mdev=nvidia-35\n"
    more: dict[str, str | bytes] = {healthy.MODPROBE: "options vfio-pci ids=10de:2204\n", "etc/sysfs.conf": "a = b\n"}
    host = healthy.host(more, config=config).build(tmp_path)
    for path in sorted({**healthy.INTEL, **more}):
        real = tmp_path / path
        content = real.read_bytes()
        real.unlink()
        if kind == "folder":
            real.mkdir()
        else:
            real.write_bytes(content[: len(content) // 2] if kind == "half" else b"\xff\0\x80=\n:[\n\x1b" * 9)
        for state in host_states(Surroundings(Host(host.root))):
            assert all(finding.message and finding.where.startswith("/") for finding in state.findings)
        real.rmdir() if kind == "folder" else real.unlink()
        real.write_bytes(content)
