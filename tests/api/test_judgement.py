# SPDX-License-Identifier: Apache-2.0
"""A change is judged by the rules on the VM's node as it would be, before anything is written."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from pvepassthru.api import hardware, judgement, present, wish
from pvepassthru.api.generate import generate
from pvepassthru.host import vms
from pvepassthru.host.overlay import Overlay
from pvepassthru.host.sim import SimHost
from pvepassthru.model import mapping
from pvepassthru.rules import catalogue
from pvepassthru.rules import subject as subjects
from pvepassthru.rules.subject import Surroundings
from tests import tree
from tests.api import node

if TYPE_CHECKING:
    from pathlib import Path

    from pvepassthru.api.judgement import Judgement
    from pvepassthru.api.wish import Wish
    from pvepassthru.host.host import Host

MAPPINGS = mapping.parse(node.pci_cfg().encode())
PATH = vms.config_path(100)


def judge(host: Host, asked: Wish) -> Judgement:
    around = Surroundings(host)
    now = present.of_file(100, host.node, host.read(PATH))
    return judgement.judge(host, generate(now, asked, hardware.of_host(around), MAPPINGS))


def codes(found: tuple[object, ...]) -> set[str]:
    return {getattr(finding, "code", "") for finding in found}


def test_what_is_new_what_stays_and_what_goes(tmp_path: Path) -> None:
    """The old entry has no PCIe machine; the new GPU is passed without the rest of its card."""
    config = "hostpci0: 04:00.0,pcie=1\nhostpci1: 01:00.7\nmemory: 512\nballoon: 0\n"
    host = node.build(tmp_path, {100: config})
    found = judge(host, wish.of_arguments(devices=["01:00.0"]))
    assert "PVP310" in codes(found.gone), "pcie=1 has its q35 machine now"
    assert "PVP201" in codes(found.remaining), "01:00.7 is still not there"
    assert "PVP310" not in codes(found.new)
    assert any("0000:01:00.1 (audio)" in finding.message for finding in found.new)
    assert not found.refused
    assert host.read(PATH).decode() == config, "nothing was written"
    assert not any(f"{PATH}:" in finding.where for finding in (*found.new, *found.remaining, *found.gone))


def test_what_has_only_lost_its_reason_is_not_put_right(tmp_path: Path) -> None:
    """The VM has no display afterwards either, and -cpu still replaces what is configured."""
    host = node.build(tmp_path, {100: "hostpci0: 03:10.0\nvga: none\nargs: -cpu host\nmemory: 512\n"})
    found = judge(host, wish.of_arguments(remove=["hostpci0"]))
    assert {"PVP348", "PVP351"} <= codes(found.moot)
    assert not {"PVP348", "PVP351"} & codes((*found.gone, *found.new, *found.remaining))
    host = node.build(tmp_path / "other", {100: "hostpci0: 01:00.7\nvga: none\nmemory: 512\n"})
    found = judge(host, wish.of_arguments(remove=["hostpci0"]))
    assert "PVP201" in codes(found.gone), "the entry that it was about is gone"


def test_it_says_what_validate_says_afterwards(tmp_path: Path) -> None:
    host = node.build(tmp_path, {100: "memory: 2048\nballoon: 512\n", 101: "hostpci0: 01:00\nonboot: 1\n"})
    asked = wish.of_arguments(devices=["01:00", "04:00.0"], primary_gpu=True)._replace(storage="local")
    change = generate(present.of_file(100, node.NODE, host.read(PATH)), asked, node.on_host(host), MAPPINGS)
    before = judgement.judge(host, change)
    tree.put(str(tmp_path), PATH, change.after.text)
    after = catalogue.findings(subjects.load(host, 100, pending=True))
    told = {(finding.code, finding.message) for finding in (*before.new, *before.remaining)}
    assert told == {(finding.code, finding.message) for finding in after}
    assert any("101" in finding.message for finding in before.new), "another VM of the node has the GPU as well"


def test_a_device_that_the_host_needs(tmp_path: Path) -> None:
    host = node.build(tmp_path, {100: ""})
    node.mount_root(tmp_path, "0000:04:00.0")
    on = hardware.of_host(Surroundings(host))
    assert "nvme0n1 is mounted on /" in on.functions["0000:04:00.0"].use
    found = judge(host, wish.of_arguments(devices=["04:00.0"]))
    assert found.refused
    assert "PVP240" in codes(found.new)


def test_a_danger_that_two_entries_bring_is_not_new_when_one_goes(tmp_path: Path) -> None:
    disk, card = "0000:04:00.0", "0000:06:00.0"
    group = {"iommu_group": node.DEVICES[disk]["iommu_group"]}
    host = node.build(
        tmp_path,
        {100: "hostpci0: 04:00.0\nhostpci1: 06:00.0\nballoon: 0\nmemory: 512\n"},
        {**node.DEVICES, card: {**node.DEVICES[card], **group}},
    )
    node.mount_root(tmp_path, disk)
    found = judge(host, wish.of_arguments(remove=["hostpci0"]))
    assert not found.refused
    assert "PVP240" in codes(found.remaining)
    assert "PVP240" not in codes((*found.gone, *found.new))
    assert any(one.where.endswith(" hostpci1") for one in found.remaining if one.code == "PVP240")
    both = judge(host, wish.of_arguments(remove=["hostpci0", "hostpci1"]))
    assert "PVP240" in codes(both.gone)
    other = judge(host, wish.of_arguments(devices=["01:00"], remove=["hostpci0"]))
    assert other.refused, "what brings a device as well is judged as any other change"


def test_an_overlay_is_a_view(tmp_path: Path) -> None:
    node.build(tmp_path, {100: "memory: 512\n"})
    for under in (node.build(tmp_path, {100: "memory: 512\n"}), SimHost(str(tmp_path))):
        over = Overlay(under, {PATH: b"memory: 1024\n"})
        assert over.read(PATH) == b"memory: 1024\n"
        assert over.text(PATH) == "memory: 1024"
        assert under.text(PATH) == "memory: 512"
        assert over.names("/sys/bus/pci/devices") == under.names("/sys/bus/pci/devices")
        assert over.link("/sys/bus/pci/devices/0000:01:00.0/driver") == "nouveau"
        assert over.resolve(PATH) == under.resolve(PATH)
        assert over.exists(PATH)
        assert (over.node, over.root, over.simulated) == (under.node, under.root, under.simulated)
        assert over.text("/nothing") is None
        with pytest.raises(OSError, match="Read-only") as raised:
            over.write("/sys/bus/pci/rescan", "1")
        assert raised.value.errno == errno.EROFS


def test_a_removal_is_not_refused_whatever_is_found(tmp_path: Path) -> None:
    host = node.build(tmp_path, {100: ""})
    node.mount_root(tmp_path, "0000:04:00.0")
    found = judge(host, wish.of_arguments(devices=["04:00.0"]))
    assert found.refused
    assert not found._replace(only_removes=True).refused
