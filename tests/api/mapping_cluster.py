# SPDX-License-Identifier: Apache-2.0
"""Three nodes with different hardware, for the tests of mappings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pvepassthru.api.client import connect
from pvepassthru.api.profile import Endpoint
from tests.api import fake_client
from tests.api.fake_pve import hardware
from tests.api.fake_pve.data import Cluster, Device, MdevType, Node, User

if TYPE_CHECKING:
    from pvepassthru.api.client import Client
    from pvepassthru.api.profile import Profile
    from tests.api.fake_pve.server import FakePve

GPU = {"vendor": "10de", "device": "1b80", "subsystem": "1462:3362", "names": {"vendor_name": "NVIDIA"}}
SOUND = {"vendor": "10de", "device": "10f0", "subsystem": "1462:3362", "class_": "040300"}
X520 = {"vendor": "8086", "device": "10fb", "subsystem": "8086:7a11", "class_": "020000"}
VF = {"vendor": "8086", "device": "10ed", "subsystem": "8086:7a11", "class_": "020000"}
NVME = {"vendor": "144d", "device": "a808", "subsystem": "144d:a801", "class_": "010802"}
A16 = {"vendor": "10de", "device": "25b6", "subsystem": "10de:14a9", "class_": "030200"}
GVT = [MdevType("i915-GVTg_V5_4", 1)]
A16_TYPES = [MdevType("nvidia-35", 1, "", "A16-1Q")]


def _device(address: str, group: int, model: dict[str, Any], **more: Any) -> Device:  # noqa: ANN401 - fields of a device
    return Device(address, group=group, **{**model, **more})


PVE1 = (
    _device("0000:00:01.0", 1, {"vendor": "8086", "device": "1901", "class_": "060400"}),
    _device("0000:00:02.0", 0, {"vendor": "8086", "device": "5912", "subsystem": "1849:5912"}, mdev=GVT),
    _device("0000:01:00.0", 2, GPU),
    _device("0000:01:00.1", 2, SOUND),
    _device("0000:03:00.0", 10, X520),
    _device("0000:03:00.1", 11, X520),
    *(_device(f"0000:03:10.{at}", 20 + at, VF, physfn=f"0000:03:00.{at % 2}") for at in range(6)),
    _device("0000:04:00.0", 15, NVME),
    _device("0000:09:00.0", 16, {"vendor": "1a03", "device": "2000"}),
)
PVE2 = (
    _device("0000:05:00.0", 30, X520),
    *(_device(f"0000:05:10.{at}", 31 + at, VF, physfn="0000:05:00.0") for at in (0, 2)),
    _device("0000:06:00.0", 36, NVME),
    _device("0000:07:00.0", 37, NVME),
    _device("0000:81:00.0", 40, GPU),
    _device("0000:81:00.1", 40, SOUND),
    _device("0000:82:00.0", 41, GPU, subsystem="1043:8591"),
    _device("0000:82:00.1", 41, SOUND, subsystem="1043:8591"),
    _device("10000:e1:00.0", 50, NVME),
)
PVE3 = (
    _device("0000:01:00.0", 7, {"vendor": "10de", "device": "2204", "subsystem": "10de:147d"}),
    _device("0000:08:00.0", 8, X520),
    _device("0000:a1:00.0", 60, A16),
    *(
        _device(f"0000:a1:00.{at}", 57 + at, A16, subsystem="10de:0000", physfn="0000:a1:00.0", mdev=A16_TYPES)
        for at in (4, 5)
    ),
)
VMS1 = {
    100: "machine: q35\nhostpci0: 01:00,pcie=1,x-vga=1\nmemory: 4096\n",
    101: "hostpci1: 0000:03:10.0\nhostpci3: 03:10.1,rombar=0\n",
    102: "hostpci0: 0000:01:00.0\n",
}
GPU_LINE = "node=pve1,path=0000:01:00,id=10de:1b80,subsystem-id=1462:3362,iommugroup=2"
GPU_LINE2 = "node=pve2,path=0000:81:00,id=10de:1b80,subsystem-id=1462:3362,iommugroup=40"
USERS = {
    "mapper@pve": User("word", {"/mapping": "PVEMappingAdmin", "/": "PVEAuditor"}),
    "auditor@pve": User("word", {"/": "PVEAuditor"}),
}


def cluster(mappings: str = "", **more: Any) -> Cluster:  # noqa: ANN401 - whatever a cluster takes
    nodes = {"pve1": Node(PVE1, VMS1), "pve2": Node(PVE2), "pve3": Node(PVE3)}
    return Cluster(nodes, USERS, mappings=mappings, **more)


def mapping(name: str, *lines: str, **flags: int) -> str:
    """A mapping as the cluster's file has it; `_` in a flag stands for `-`."""
    words = [f"\t{flag.replace('_', '-')} {value}\n" for flag, value in flags.items()]
    return f"{name}\n{''.join(words)}" + "".join(f"\tmap {line}\n" for line in lines) + "\n"


def profile_of(pve: FakePve, *who: Any) -> Profile:  # noqa: ANN401 - as fake_client has them
    """A profile that trusts the fake's CA: a pinned one loads those of the system for each connection."""
    endpoints = tuple(Endpoint(pve.host, port) for port in pve.ports.values())
    return replace(fake_client.profile_of(pve, *who), endpoints=endpoints, ca_file=pve.ca_file)


def client_of(pve: FakePve, *who: Any) -> Client:  # noqa: ANN401 - as above
    """A client that has logged in."""
    return connect(profile_of(pve, *who))


def faults(pve: FakePve, name: str) -> dict[str, str]:
    """What the fake's own check finds wrong with a mapping, by node; nodes without a device are not in it."""
    found = {}
    for node in pve.state.nodes:
        for severity, message in hardware.faults(pve.state, node, name):
            if severity == "error":
                found[node] = message
    return found
