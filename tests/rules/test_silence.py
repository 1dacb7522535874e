# SPDX-License-Identifier: Apache-2.0
"""What the owner's policy silences, and what it does not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pvepassthru.model import hostpci, mapping
from pvepassthru.model.finding import Finding
from pvepassthru.rules import catalogue, silence
from pvepassthru.rules import subject as subjects
from pvepassthru.rules.subject import Surroundings
from tests import tree
from tests.rules.example import VM, Tree

if TYPE_CHECKING:
    from pathlib import Path

    from pvepassthru.host.host import Host
    from pvepassthru.model.property_string import Key
    from pvepassthru.rules.subject import Subject

TWO = "hostpci0: 01:00,pcie=1\nhostpci1: 02:00.0,pcie=1\n"
"""Two entries with PVP310 each, which names no device."""


def _host(root: Path, entries: str, tree_of: Tree) -> Host:
    host = tree_of.build(root)
    os.chmod(tree.put(root, "etc/pvepassthru.yaml", f"silence:\n{entries}"), 0o644)
    return host


def _silenced(root: Path, entries: str, tree_of: Tree) -> list[tuple[str, str, str | None]]:
    around = Surroundings(_host(root, entries, tree_of))
    subject = subjects.load(around.host, VM, pending=True, around=around)
    found = silence.of_vm(silence.silences(around), subject, catalogue.findings(subject))
    return [(finding.code, finding.where.rpartition(" ")[2], finding.silenced) for finding in found]


@pytest.mark.parametrize(
    "entry,keys",
    [
        ("{code: PVP310, reason: known}", {"hostpci0", "hostpci1"}),
        ("{code: PVP310, vm: 100, reason: known}", {"hostpci0", "hostpci1"}),
        ("{code: PVP310, vm: 101, reason: known}", set()),
        ("{code: PVP310, device: 0000:02:00.0, reason: known}", {"hostpci1"}),
        ("{code: PVP310, device: 0000:01:00.1, reason: known}", {"hostpci0"}),
        ("{code: PVP310, device: 02:00.0, vm: 100, reason: known}", {"hostpci1"}),
        ("{code: PVP310, device: 0000:41:00.0, reason: known}", set()),
        ("{code: PVP301, reason: known}", set()),
    ],
)
def test_silence(entry: str, keys: set[str], tmp_path: Path) -> None:
    found = _silenced(tmp_path, f"- {entry}\n", Tree(TWO))
    assert [(code, key) for code, key, _ in found] == [("PVP310", "hostpci0"), ("PVP310", "hostpci1")]
    assert {key for _, key, reason in found if reason == "known"} == keys
    assert {key for _, key, reason in found if reason is None} == {"hostpci0", "hostpci1"} - keys


def test_the_first_entry_that_fits_gives_the_reason(tmp_path: Path) -> None:
    entries = "- {code: PVP310, vm: 101, reason: a}\n- {code: PVP310, reason: b}\n- {code: PVP310, reason: c}\n"
    assert {reason for _, _, reason in _silenced(tmp_path, entries, Tree(TWO))} == {"b"}


@pytest.mark.parametrize("device,reason", [("0000:01:00.1", "r"), ("0000:01:00.0", None)])
def test_a_finding_that_names_a_device_is_about_that_one(device: str, reason: str | None, tmp_path: Path) -> None:
    """Not about the entry's other functions."""
    odd = Tree("hostpci0: 01:00\n", devices={"0000:01:00.1": {"irq": "none"}})
    found = _silenced(tmp_path, f"- {{code: PVP204, device: {device}, reason: r}}\n", odd)
    assert ("PVP204", "hostpci0", reason) in found


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    host = Tree(TWO.replace("01:00,", "01:00.0,")).build(tmp_path)
    return subjects.load(host, VM, pending=True)


@pytest.mark.parametrize(
    "message,devices",
    [
        ("nothing named", {"0000:01:00.0"}),
        ("0000:01:00.0 holds /", {"0000:01:00.0"}),
        ("0000:01:00.1, of the group of 0000:01:00.0: it is", {"0000:01:00.0", "0000:01:00.1"}),
        ("cannot read ROM image 0000:02:00.0 for it", set()),
        ("cannot read /sys/bus/pci/devices/0000:01:00.0/rom.", {"0000:01:00.0"}),
    ],
)
def test_about(message: str, devices: set[str], subject: Subject) -> None:
    """A device that only a config's words name, outside of what the entry takes, does not count."""
    finding = Finding("PVP231", "error", "own", subject.at("hostpci0", 1), message, "")
    assert silence.about(subject, finding) == devices


@pytest.mark.parametrize("code,devices", [("PVP240", {"0000:01:00.1"}), ("PVP423", {"0000:01:00.0", "0000:01:00.1"})])
def test_what_is_at_stake_is_named_first(code: str, devices: set[str], subject: Subject) -> None:
    """To silence a device that is passed does not silence what another one of its group holds."""
    message = "PVE would take 0000:01:00.1 (in IOMMU group 1 with 0000:01:00.0, which is passed) from the host: /"
    assert silence.about(subject, Finding(code, "error", "own", subject.at("hostpci0", 1), message, "")) == devices


def test_about_of_a_finding_without_an_entry(subject: Subject) -> None:
    finding = Finding("PVP104", "warning", "own", "/sys/bus/pci/devices/0000:02:00.0/irq", "cannot read it", "")
    assert silence.about(subject, finding) == {"0000:02:00.0"}
    other = Finding("PVP311", "error", "pve", subject.at("machine", 3), "no", "")
    assert silence.about(subject, other) == {"0000:01:00.0", "0000:02:00.0"}


def test_findings_of_the_host(tmp_path: Path) -> None:
    entries = (
        "- {code: PVP106, reason: all}\n- {code: PVP110, device: 0000:01:00.0, reason: one}\n"
        "- {code: PVP111, vm: 100, reason: of a VM}\n"
    )
    around = Surroundings(_host(tmp_path, entries, Tree()))
    found = [
        Finding(code, "warning", "own", where, "words", "")
        for code, where in (
            ("PVP106", "/proc/cmdline"),
            ("PVP110", "/sys/bus/pci/devices/0000:01:00.0"),
            ("PVP110", "/sys/bus/pci/devices/0000:02:00.0"),
            ("PVP111", "/sys"),
        )
    ]
    marked = silence.of_host(silence.silences(around), found)
    assert [finding.silenced for finding in marked] == ["all", "one", None, None]
    assert [finding._replace(silenced=None) for finding in marked] == found


def test_a_policy_that_cannot_be_used_silences_nothing(tmp_path: Path) -> None:
    host = _host(tmp_path, "- {code: PVP310, reason: x}\n", Tree(TWO))
    os.chmod(host.path("/etc/pvepassthru.yaml"), 0o666)
    assert silence.silences(Surroundings(host)) == ()


@pytest.mark.parametrize("key", [*hostpci.KEYS.values(), *mapping.KEYS.values()])
def test_an_example_in_a_sentence_is_no_device(key: Key) -> None:
    """What a message says of a value's form would else be taken for the device that it is about."""
    message = f"host is x, which is not {key.form}"
    assert (
        silence.named(Finding("PVP301", "error", "pve", "/etc/pve/qemu-server/100.conf:1 hostpci0", message, "")) == []
    )
