# SPDX-License-Identifier: Apache-2.0
"""A mapping does not lose what VMs of the node need; what they can do without, it may."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pvepassthru.api import mapping_apply, mapping_loss, mapping_plan, mappings, nodes
from pvepassthru.api.mapping_plan import Options
from pvepassthru.model.errors import ApiConflictError, ApiUnreachableError
from tests.api import mapping_cluster
from tests.api.fake_pve.server import FakePve
from tests.api.fake_pve.state import Vm
from tests.api.mapping_cluster import GPU_LINE, client_of, mapping

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.api.client import Client
    from pvepassthru.api.mapping_plan import Plan

VFS = [f"node=pve1,path=0000:03:10.{at},id=8086:10ed,subsystem-id=8086:7a11,iommugroup={20 + at}" for at in (0, 1, 2)]
TWO = "hostpci0: mapping=vfs\nhostpci1: mapping=vfs\n"
ONE = "hostpci0: mapping=vfs\n"


@pytest.fixture
def pve() -> Iterator[FakePve]:
    lines = mapping("gpu", GPU_LINE) + mapping("vfs", *VFS)
    with FakePve(mapping_cluster.cluster(lines), doors=("pve1", "pve2")) as fake:
        yield fake


def without(client: Client, *devices: str) -> Plan:
    """The plan that takes these devices out, and nothing new in."""
    every = tuple(f"pve1:03:10.{at}" for at in (3, 4, 5))
    options = Options(prune=True, exclude=(*devices, *every))
    return mapping_plan.plan("vfs", mappings.read(client), nodes.read(client, ["pve1"]), None, options)


@pytest.mark.parametrize(
    "vms, gone, refused",
    [
        ([("pve1", ONE, False)], 2, False),
        ([("pve1", TWO, False)], 1, False),
        ([("pve1", TWO, False)], 2, True),
        ([("pve1", ONE, False), ("pve1", ONE, False)], 2, False),
        ([("pve1", ONE, True), ("pve1", ONE, True)], 2, True),
        ([("pve1", ONE, True), ("pve1", ONE, True)], 1, False),
        ([("pve1", ONE + "[PENDING]\ndelete: hostpci0\n", True), ("pve1", ONE, True)], 2, True),
        ([("pve1", ONE + "template: 1\n", False), ("pve1", TWO, False)], 2, True),
        ([("pve2", TWO, True)], 2, False),
    ],
    ids=[
        "one is left for the one",
        "two for both entries",
        "one for two entries",
        "they take turns",
        "both run",
        "enough for both that run",
        "until it stops",
        "a template and a VM",
        "elsewhere",
    ],
)
def test_what_is_left_for_vms(pve: FakePve, vms: list[tuple[str, str, bool]], gone: int, *, refused: bool) -> None:
    for at, (node, text, running) in enumerate(vms):
        pve.state.vms[400 + at] = Vm(node, text, running)
    with client_of(pve) as client:
        plan = without(client, *(f"pve1:03:10.{at}" for at in range(gone)))
        assert [line.text for line in plan.after.lines] == VFS[gone:]
        assert mapping_loss.nodes(plan) == ("pve1",)
        if not refused:
            assert mapping_loss.read(client, plan) is None
            assert mapping_apply.apply(client, plan)
            return
        with pytest.raises(ApiConflictError, match=r"node pve1 would be left with 1 device of it, .*VM 400 \(hostpci0"):
            mapping_apply.apply(client, plan)
    assert pve.state.writes == []


def test_mediated_devices_share_what_is_left(pve: FakePve) -> None:
    for vmid in (400, 401):
        pve.state.vms[vmid] = Vm("pve1", "hostpci0: mapping=vfs,mdev=nvidia-35\n", running=True)
    with client_of(pve) as client:
        assert mapping_loss.read(client, without(client, "pve1:03:10.0", "pve1:03:10.1")) is None


def test_a_vm_that_needs_it_since_the_plan(pve: FakePve) -> None:
    with client_of(pve) as client:
        plan = without(client, "pve1:03:10.0", "pve1:03:10.1")
        assert mapping_loss.read(client, plan) is None
        pve.state.vms[400] = Vm("pve1", TWO, running=False)
        with pytest.raises(ApiConflictError, match="VM 400"):
            mapping_apply.apply(client, plan)
    assert pve.state.mappings["vfs"].map == VFS


def test_a_node_that_cannot_be_asked(pve: FakePve) -> None:
    pve.state.vms[400] = Vm("pve1", ONE, running=False)
    with client_of(pve) as client:
        plan = without(client, "pve1:03:10.0")
        pve.faults.answer(596, path="/nodes/pve1/qemu", times=None)
        with pytest.raises(ApiUnreachableError, match="whether a VM uses mapping vfs cannot be told: "):
            mapping_apply.apply(client, plan)
    assert pve.state.writes == []


def test_what_takes_nothing_reads_no_vms(pve: FakePve) -> None:
    with client_of(pve) as client:
        options = Options(exclude=("pve1:03:10.5",))
        plan = mapping_plan.plan("vfs", mappings.read(client), nodes.read(client, ["pve1"]), None, options)
        assert mapping_apply.apply(client, plan)
    assert not [entry.path for entry in pve.state.log if "/qemu" in entry.path]
