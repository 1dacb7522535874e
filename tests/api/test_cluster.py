# SPDX-License-Identifier: Apache-2.0
"""What the API tells of a cluster, as values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pvepassthru.api import cluster, mappings
from pvepassthru.api.cluster import Node, Vm
from pvepassthru.model.errors import ApiError, ApiMissingError
from tests.api.fake_client import client_of
from tests.api.fake_pve import data
from tests.api.fake_pve.data import Cluster, Device, MdevType, User
from tests.api.fake_pve.server import FakePve

if TYPE_CHECKING:
    from collections.abc import Iterator

GPU = Device("0000:01:00.0", "10de", "1b80", group=2, mdev=[MdevType("nvidia-63", 3)])
BRIDGE = Device("0000:00:01.0", "8086", "1901", group=1, class_="060400")


@pytest.fixture
def pve() -> Iterator[FakePve]:
    nodes = {
        "pve1": data.Node(
            pci=[GPU, BRIDGE], vms={100: "hostpci0: 01:00.0\nmemory: 512\n", 101: "lock: backup\n"}, running=[100]
        ),
        "pve2": data.Node(vms={102: "template: 1\n"}),
    }
    users = {"some@pve": User("word", {"/vms/102": "PVEVMAdmin"})}
    with FakePve(Cluster(nodes=nodes, users=users)) as fake:
        yield fake


def test_nodes_and_vms(pve: FakePve) -> None:
    pve.take_down("pve2")
    with client_of(pve) as client:
        assert cluster.nodes(client) == {"pve1": Node("pve1", online=True), "pve2": Node("pve2", online=False)}
        found = cluster.vms(client)
        assert found[100] == Vm(100, "pve1", running=True, template=False, lock=None)
        assert found[101].lock == "backup"
        assert (found[102].node, found[102].running, found[102].may_run) == ("pve2", False, True)


def test_a_status_that_pve_does_not_know_may_be_running(pve: FakePve) -> None:
    """An online node whose status service hangs: cluster/resources says unknown of its VMs."""
    pve.state.stale.add("pve1")
    with client_of(pve) as client:
        assert cluster.nodes(client)["pve1"].online
        found = cluster.vms(client)
    assert [(vm.running, vm.unknown, vm.may_run) for vm in found.values()] == [
        *[(False, True, True)] * 2,
        (False, False, False),
    ]


def test_what_a_user_does_not_see(pve: FakePve) -> None:
    with client_of(pve, "some@pve", "word") as client:
        assert cluster.vm(client, 102).template
        with pytest.raises(ApiMissingError, match=r"some@pve sees no VM 100 .*102"):
            cluster.vm(client, 100)


def test_a_config_with_what_is_pending(pve: FakePve) -> None:
    with client_of(pve) as client:
        client.put("nodes/pve1/qemu/100/config", memory=1024, delete="hostpci0")
        now = cluster.config(client, 100, "pve1")
        assert (now.get("memory"), now.get("hostpci0")) == ("1024", None)
        assert now.config.main.get("memory") == "512"
        assert now.digest == pve.state.vm(100).digest
        assert cluster.next_config(client, 100, "pve1").values == now.values


def test_hardware_with_bridges_and_types(pve: FakePve) -> None:
    with client_of(pve) as client:
        found = cluster.node_hardware(client, "pve1")
    assert list(found.functions) == ["0000:00:01.0", "0000:01:00.0"]
    (kind,) = found.functions["0000:01:00.0"].types
    assert (kind.id, kind.available) == ("nvidia-63", 3)


def test_mappings(pve: FakePve) -> None:
    with client_of(pve) as client:
        client.post("cluster/mapping/pci", id="gpu", map=["node=pve1,path=0000:01:00.0,id=10de:1b80"])
        assert list(mappings.read(client)) == ["gpu"]


@pytest.mark.parametrize("body", [b'{"data": null}', b'{"data": [1]}', b'{"data": {"a": 1}}'])
def test_an_answer_of_another_shape(pve: FakePve, body: bytes) -> None:
    with client_of(pve) as client:
        pve.faults.not_json(body, path="/nodes")
        with pytest.raises(ApiError, match="something else than PVE does"):
            cluster.nodes(client)
