# SPDX-License-Identifier: Apache-2.0
"""What a policy says of a VM, a device, a PF: what is nearer wins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.host.host import Host
from pvepassthru.host.inventory import Inventory
from pvepassthru.model.policy import DevicePolicy, Moved, Policies, Policy, VfSettings, merged, selector
from tests import tree

if TYPE_CHECKING:
    from pathlib import Path

GPU, AUDIO, PF = "0000:01:00.0", "0000:01:00.1", "0000:81:00.0"


@pytest.fixture
def hardware(tmp_path: Path) -> Inventory:
    devices: dict[str, Any] = {
        GPU: {"vendor": "0x10de", "device": "0x2204"},
        AUDIO: {"vendor": "0x10de", "device": "0x1aef"},
        PF: {"vendor": "0x8086", "device": "0x1572"},
    }
    root = tree.build(tmp_path, {"devices": devices})
    tree.put(root, f"sys/bus/pci/devices/{PF}/sriov_totalvfs", "64\n")
    return Inventory(Host(root))


@pytest.mark.parametrize(
    "text,expected",
    [
        ("01:00.0", "0000:01:00.0"),
        ("0000:01:00.0", "0000:01:00.0"),
        ("10000:E1:00.0", "10000:e1:00.0"),
        ("01:00", "0000:01:00"),
        ("0000:01:00", "0000:01:00"),
        ("10DE:2204", "10de:2204"),
        ("mapping:gpu", "mapping:gpu"),
        ("mapping:", None),
        ("10de:220", None),
        ("10de:22g4", None),
        ("01:00.8", None),
        ("", None),
        ("*", None),
    ],
)
def test_selectors(text: str, expected: str | None) -> None:
    assert selector(text) == expected


def test_what_is_nearer_wins(hardware: Inventory) -> None:
    document: dict[str, Any] = {
        "defaults": {"give_back": "stay", "seconds": 5},
        "devices": {
            "10de:2204": {"give_back": "nouveau", "console": "release", "rescan": True},
            "mapping:gpu": {"give_back": "former", "reset_method": "flr"},
            "0000:01:00": {"reset_method": "bus", "bars": {"1": "16G", "0": "256M"}},
            GPU: {"d3cold": False},
        },
        "vms": {"100": {"seconds": 60}},
    }
    policies = Policies(document)
    assert policies.device(hardware, GPU, "gpu", 100) == DevicePolicy(
        give_back="former",
        console="release",
        reset_method="bus",
        bars=((0, 256 << 20), (1, 16 << 30)),
        d3cold=False,
        rescan=True,
        seconds=60,
    )
    assert policies.device(hardware, GPU).give_back == "nouveau"
    assert policies.device(hardware, AUDIO, vmid=101) == DevicePolicy(
        give_back="stay", reset_method="bus", bars=((0, 256 << 20), (1, 16 << 30)), seconds=5
    )
    assert policies.device(hardware, PF) == DevicePolicy(give_back="stay", seconds=5)


def test_without_a_policy(hardware: Inventory) -> None:
    policies = Policies()
    assert policies.of(100) == Policy()
    assert policies.device(hardware, GPU, "gpu", 100) == DevicePolicy()
    assert policies.services(hardware, {GPU: None}) == ()
    assert policies.sriov(hardware) == ()
    assert policies.placement("gpu") == "order"
    assert policies.orphans == "report"
    assert policies.moved(hardware) == ()


def test_a_rule_for_another_card_is_not_obeyed(hardware: Inventory) -> None:
    rules = {
        GPU: {"ids": "10DE:2204", "rescan": True},
        "0000:01:00": {"ids": ["10de:1aef", "10de:9999"], "d3cold": True},
    }
    policies = Policies(
        {"devices": {**rules, PF: {"ids": "8086:ffff", "rescan": True}}, "sriov": {PF: {"ids": "1:2", "vfs": 4}}}
    )
    assert policies.device(hardware, GPU) == DevicePolicy(rescan=True)
    assert policies.device(hardware, AUDIO) == DevicePolicy(d3cold=True)
    assert policies.device(hardware, PF) == DevicePolicy()
    assert policies.sriov(hardware) == ()
    assert policies.moved(hardware) == tuple(
        Moved(
            address,
            (section, rule),
            f"the policy's {section}.{rule} is for {wanted}, but {there} lies at {address}: it is not obeyed there",
        )
        for address, section, rule, wanted, there in (
            (GPU, "devices", "0000:01:00", "10de:1aef or 10de:9999", "10de:2204"),
            (PF, "devices", PF, "8086:ffff", "8086:1572"),
            (PF, "sriov", PF, "1:2", "8086:1572"),
        )
    )


def test_services(hardware: Inventory) -> None:
    policies = Policies(
        {
            "services": {
                "a.service": {"devices": ["10de:2204"], "seconds": 5},
                "b.service": {"devices": ["mapping:nic"]},
                "c.service": {"devices": ["*"]},
                "d.service": {"devices": [AUDIO]},
            }
        }
    )
    assert [service.unit for service in policies.services(hardware, {GPU: None})] == ["a.service", "c.service"]
    assert [service.unit for service in policies.services(hardware, {PF: "nic"})] == ["b.service", "c.service"]
    assert policies.services(hardware, {GPU: None})[0].seconds == 5


def test_placement() -> None:
    policies = Policies({"placement": "spread", "mappings": {"a": {"placement": "pack"}, "b": None}})
    assert [policies.placement(name) for name in ("a", "b", "c", None)] == ["pack", "spread", "spread", "spread"]


def test_vfs(hardware: Inventory) -> None:
    section = {
        "8086:1572": {"vfs": 4, "vlan": 7, "in_hook": True},
        PF: {"vfs": 8, "mac": "stable", "vf": {"2": {"vlan": 9}, "0": None}},
        AUDIO: {"vfs": 2},  # no SR-IOV
    }
    (found,) = Policies({"sriov": section}).sriov(hardware)
    assert (found.address, found.vfs, found.in_hook, found.autoprobe) == (PF, 8, True, False)
    assert found.of(2) == VfSettings(mac="stable", vlan=9)
    assert found.of(0) == found.of(1) == VfSettings(mac="stable", vlan=7)


def test_the_node_wins_key_by_key() -> None:
    cluster = {
        "vms": {"100": {"gate": "warn", "seconds": 5}, "101": {"gate": "off"}},
        "placement": "pack",
        "silence": [1],
    }
    node = {"vms": {"100": {"gate": "off"}}, "placement": "spread", "defaults": None, "silence": [2]}
    assert merged(cluster, node) == {
        "vms": {"100": {"gate": "off", "seconds": 5}, "101": {"gate": "off"}},
        "placement": "spread",
        "defaults": None,
        "silence": [2],
    }
