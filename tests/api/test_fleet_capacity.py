# SPDX-License-Identifier: Apache-2.0
"""What is free on the nodes of a cluster, and which of them fit a VM."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.api import capacity, fleet, proposal, survey
from pvepassthru.api.capacity import Room, Wanted
from pvepassthru.api.wish import Device as WishedDevice
from pvepassthru.api.wish import Wish
from pvepassthru.cli.main import main
from pvepassthru.model.errors import ApiMissingError, UsageError
from tests.api.fake_client import client_of
from tests.api.fake_pve import data
from tests.api.fake_pve.data import PASSWORD, ROOT, Cluster, Device, MdevType, User
from tests.api.fake_pve.server import FakePve

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pvepassthru.api.placing import Fit
    from tests.api.fake_pve.state import State

CARD = Device("0000:81:00.0", "8086", "1592", group=100, class_="020000")
VFS = [Device(f"0000:81:01.{n}", "8086", "1889", group=101 + n, class_="020000", physfn=CARD.id) for n in range(3)]
A16 = Device("0000:a1:00.0", "10de", "25b6", group=60, class_="030200", mdev=[])
IDS = "8086:1889"


def vgpu(number: int, *, free: bool) -> Device:
    """A VF with NVIDIA's own interface, which offers nothing while it has a type."""
    types = [MdevType("nvidia-558", 1, "", "NVIDIA A16-4C")] if free else []
    return Device(
        f"0000:a1:00.{4 + number}", "10de", "25b6", group=61 + number, class_="030200", mdev=types, physfn=A16.id
    )


def p4(left: int) -> Device:
    """A GPU that has room for so many of 8 of the small type."""
    large = MdevType("nvidia-64", left // 2, "max_instance=4", "GRID P4-2Q")
    types = [MdevType("nvidia-63", left, "max_instance=8", "GRID P4-1Q"), large]
    return Device("0000:41:00.0", "10de", "1bb3", group=50, class_="030200", mdev=types)


def node(vms: Mapping[int, str], running: Collection[int] = (), *, left: int = 8, vgpus: int = 2) -> data.Node:
    """A node with three VFs, a P4 with room for `left` small vGPUs, and an A16 of which `vgpus` VFs are free."""
    vendor = [vgpu(number, free=number >= 2 - vgpus) for number in range(2)]
    return data.Node([CARD, *VFS, p4(left), A16, *vendor], vms, running)


NAMES = ("pve1", "pve2")
MAPPINGS = "\n".join(
    (
        "vfs",
        *(f"\tmap node={name},path={vf.id},id={IDS},iommugroup={vf.group}" for name in NAMES for vf in VFS),
        "",
        "vgpu",
        "\tmdev 1",
        *(
            f"\tmap node={name},path=0000:a1:00.{4 + n},id=10de:25b6,iommugroup={61 + n}"
            for name in NAMES
            for n in (0, 1)
        ),
        "",
        "p4",
        "\tmdev 1",
        *(f"\tmap node={name},path=0000:41:00.0,id=10de:1bb3,iommugroup=50" for name in NAMES),
        "",
    )
)
TWO = "hostpci0: mapping=vfs\nhostpci1: mapping=vfs\n"


def rooms(cluster: Cluster, **wanted: str) -> dict[tuple[str, str], Room]:
    with FakePve(cluster) as pve, client_of(pve) as client:
        found = capacity.rooms(client, Wanted(**wanted))
    assert found.failures == ()
    order = [(room.node, room.kind, room.name, room.mdev or "") for room in found.rooms]
    assert order == sorted(order)
    return {(room.node, room.name): room for room in found.rooms}


def fits(cluster: Cluster, vmid: int) -> dict[str, Fit]:
    with FakePve(cluster) as pve, client_of(pve) as client:
        return {fit.node: fit for fit in capacity.fits(client, vmid).fits}


def of(*nodes: data.Node, **more: Any) -> Cluster:  # noqa: ANN401 - what a cluster takes
    return Cluster(dict(zip(("pve1", "pve2", "pve3"), nodes, strict=False)), **{"mappings": MAPPINGS, **more})


# ---- what is free


def test_vfs_of_running_and_other_vms() -> None:
    """100 runs; 101 wants two and gets one of them, since 102 has the second by its address; 103 is a template."""
    vms = {
        100: "hostpci0: mapping=vfs\n",
        101: TWO,
        102: "hostpci0: 81:01.1\n",
        103: "template: 1\nhostpci0: mapping=vfs\n",
    }
    found = rooms(of(node(vms, [100, 102]), node({})))
    numbers = {key: (room.total, room.used, room.free, room.claimed, room.left) for key, room in found.items()}
    assert numbers["pve1", IDS] == (3, 2, 1, 1, 0)
    assert numbers["pve1", "vfs"] == (3, 2, 1, 2, -1)
    assert numbers["pve2", IDS] == numbers["pve2", "vfs"] == (3, 0, 3, 0, 3)
    assert found["pve1", IDS].where == (CARD.id,)
    assert found["pve1", "vfs"].where == tuple(vf.id for vf in VFS)


def test_what_takes_turns_is_claimed_once() -> None:
    vms = {
        100: "hostpci0: 81:01.0\n",
        101: "hostpci0: 81:01.0\n",
        102: "hostpci0: 81:01.1\n",
        103: "hostpci0: 81:01.1\n",
    }
    found = rooms(of(node(vms, [100])), device=IDS.upper())
    assert found["pve1", IDS][4:8] == (3, 1, 2, 1)


def test_instances_of_a_type() -> None:
    """What is free is the driver's word; VMs that do not run want more of it than there is."""
    one = "hostpci0: mapping=p4,mdev=nvidia-63\n"
    vms = {100: one, 101: one, **{102 + number: "hostpci0: 41:00.0,mdev=nvidia-63\n" for number in range(7)}}
    found = rooms(of(node(vms, [100, 101], left=6), node({})), mdev="nvidia-63")
    assert found["pve1", "nvidia-63"] == Room("pve1", "mdev", "nvidia-63", ("0000:41:00.0",), 8, 2, 6, 7, -1)
    assert found["pve1", "nvidia-63"].left == -1
    assert found["pve2", "nvidia-63"][4:8] == (8, 0, 8, 0)


def test_vgpus_of_vfs() -> None:
    """A VF with a vGPU offers no other; the driver does not say how many a GPU takes."""
    vms = {100: "hostpci0: mapping=vgpu,mdev=nvidia-558\n", 101: "hostpci0: mapping=vgpu,mdev=nvidia-558\n"}
    found = rooms(of(node(vms, [100], vgpus=1)))
    assert found["pve1", "nvidia-558"][3:8] == (("0000:a1:00.0",), None, 1, 1, 1)
    assert found["pve1", "vgpu"][4:8] == (2, 1, 1, 1)
    assert found["pve1", "10de:25b6"][4:8] == (2, 1, 1, 1)


def test_types_of_a_mapping_for_mediated_devices() -> None:
    """What others have of the same devices, by their addresses, counts; of other devices not."""
    vms = {
        100: "hostpci0: mapping=p4,mdev=nvidia-63\n",
        101: "hostpci0: 41:00.0,mdev=nvidia-63\n",
        102: "hostpci0: mapping=p4,mdev=nvidia-63\n",
        103: "hostpci0: mapping=vgpu,mdev=nvidia-558\n",
    }
    with FakePve(of(node(vms, [100, 101], left=6), node({}), data.Node([CARD]))) as pve, client_of(pve) as client:
        every = [one for one in capacity.rooms(client).rooms if one.name == "p4"]
        found = capacity.rooms(client, Wanted(mapping="p4")).rooms
    assert list(found) == every
    assert {one.node for one in found} == {"pve1", "pve2"}
    small = next(one for one in found if (one.node, one.mdev) == ("pve1", "nvidia-63"))
    assert small == Room("pve1", "mapping", "p4", ("0000:41:00.0",), 8, 2, 6, 1, 5, "nvidia-63")
    large = next(one for one in found if (one.node, one.mdev) == ("pve1", "nvidia-64"))
    assert (large.used, large.claimed) == (0, 0)


def test_a_mapping_for_mediated_devices_that_offers_none_now() -> None:
    bare = data.Node([replace(p4(8), mdev=[])], {}, [])
    found = rooms(of(bare), mapping="p4")
    assert found["pve1", "p4"] == Room("pve1", "mapping", "p4", ("0000:41:00.0",), None, 0, 0, 0, 0)


def pending(main: str, later: str) -> str:
    """A config with pending changes, as PVE keeps them."""
    return f"{main}[PENDING]\n{later}"


def test_what_is_pending_takes_nothing_away_from_who_runs() -> None:
    """100 loses its VF, 101 changes another one's options, 102 gets one more: at their next starts. 103 reads nothing
    of it, since it does not run: its pending changes count."""
    vms = {
        100: pending("hostpci0: 81:01.0\n", "delete: hostpci0\n"),
        101: pending("hostpci0: mapping=p4,mdev=nvidia-63\n", "hostpci0: mapping=p4,mdev=nvidia-63,pcie=1\n"),
        102: pending("hostpci0: mapping=vfs\n", "hostpci0: mapping=vfs,pcie=1\nhostpci1: mapping=vfs\n"),
        103: pending("hostpci0: 81:01.0\n", "delete: hostpci0\n"),
    }
    cluster = of(node(vms, [100, 101, 102], left=7))
    with FakePve(cluster) as pve, client_of(pve) as client:
        found = {room.name: room for room in capacity.rooms(client).rooms}
        asked = [entry.path.rpartition("/qemu/")[2] for entry in pve.state.log if "/qemu/" in entry.path]
    assert sorted(asked) == ["100/pending", "101/pending", "102/pending", "103/config"], "one request a VM"
    assert found[IDS][4:8] == (3, 2, 1, 1)
    assert found["nvidia-63"][4:8] == (8, 1, 7, 0), "the same instance serves again"
    other = {**vms, 104: "hostpci0: mapping=vfs\n", 105: TWO}
    assert fits(of(node(other, [100, 101, 102])), 104)["pve1"].now
    assert fits(of(node(other, [100, 101, 102])), 104)["pve1"].later == (
        "hostpci0: all 3 devices of mapping vfs are wanted by VM 100, 102",
    )
    assert not fits(of(node(other, [100, 101, 102])), 105)["pve1"].now


def test_who_may_run_has_its_devices() -> None:
    """The status service of a node hangs: PVE says unknown of its VMs."""
    with FakePve(of(node({100: "hostpci0: mapping=vfs\n"}))) as pve, client_of(pve) as client:
        pve.state.stale.add("pve1")
        (room,) = capacity.rooms(client, Wanted(device=IDS)).rooms
    assert (room.used, room.free) == (1, 2)


# ---- what is not known


def test_a_vm_that_cannot_be_read_makes_its_node_unsure() -> None:
    """It may have anything: no fits, and numbers that are bounds."""
    cluster = of(node({100: "hostpci0: mapping=vfs\n", 101: "hostpci0: 81:01.0\n"}), node({200: "memory: 512\n"}))
    with FakePve(cluster) as pve, client_of(pve) as client:
        pve.faults.answer(500, "some trouble", path="/qemu/101/", times=None)
        found = capacity.rooms(client, Wanted(device=IDS))
        assert {room.node: room.sure for room in found.rooms} == {"pve1": False, "pve2": True}
        first, second = capacity.fits(client, 100).fits
        assert (first.now, first.always, first.reasons) == (False, False, ())
        assert first.unsure == ("VM 101, whose config could not be read, may have devices there",)
        assert (second.now, second.unsure) == (True, ())
        pve.state.vm(100).running = True
        assert capacity.fits(client, 100).fits[0].always, "it has its devices"


def test_a_vm_that_moves_makes_its_new_node_unsure() -> None:
    cluster = of(node({100: "hostpci0: mapping=vfs\n", 101: "hostpci0: 81:01.0\n"}), node({}))

    def move(state: State) -> None:
        state.vms[101].node = "pve2"

    with FakePve(cluster) as pve, client_of(pve) as client:
        pve.faults.meddle(move, path="/nodes/pve1/qemu/101/")
        found = capacity.rooms(client, Wanted(device=IDS))
    assert {room.node: room.sure for room in found.rooms} == {"pve1": True, "pve2": False}
    assert [(one.node, one.vmid) for one in found.failures] == [("pve1", 101)]


SEES = User("word", {"/": "PVEAuditor"})
BLIND = User("word", {"/": "PVEAuditor", "/vms": "NoAccess", "/vms/100": "PVEAuditor"})


def test_vms_that_are_not_to_be_seen_are_no_free_devices() -> None:
    cluster = of(node({100: "hostpci0: mapping=vfs\n", 101: TWO}, [101]), users={"a@pve": SEES, "b@pve": BLIND})
    with FakePve(cluster) as pve:
        with client_of(pve, "a@pve", "word") as client:
            found = capacity.rooms(client, Wanted(device=IDS))
            assert (found.failures, found.rooms[0].sure, found.rooms[0].used) == ((), True, 2)
            assert capacity.fits(client, 100).fits[0].now
            assert fleet.validate(client).notes == ()
        with client_of(pve, "b@pve", "word") as client:
            found = capacity.rooms(client, Wanted(device=IDS))
            assert [(one.node, one.error.exit_code) for one in found.failures] == [(None, 12)]
            assert str(found.failures[0]).startswith("b@pve may not see all VMs")
            assert (found.rooms[0].sure, found.rooms[0].used) == (False, 0)
            fitting = capacity.fits(client, 100)
            assert [(one.node, one.error.exit_code) for one in fitting.failures] == [(None, 12)]
            assert fitting.fits[0].unsure == ("VMs that this user may not see may have devices there",)
            assert not fitting.fits[0].now
            (note,) = fleet.validate(client).notes
            assert note.endswith("which are not checked; seeing all VMs needs VM.Audit on /vms")
            said: list[str] = []
            proposal.by_api(client, {100: Wish((WishedDevice(addresses=("81:01.1",)),))}, said.append)
            assert [words for words in said if "may not see all VMs" in words]


@pytest.mark.parametrize("told", [b'{"data": {"/vms": {"VM.Audit": 0}}}', b'{"data": {}}'])
def test_a_privilege_that_is_not_passed_on_shows_no_vm(told: bytes) -> None:
    with FakePve(of(node({}), users={"a@pve": SEES})) as pve, client_of(pve, "a@pve", "word") as client:
        pve.faults.not_json(told, path="/access/permissions")
        assert survey.unseen(client) is not None


# ---- one thing alone


def test_one_thing_alone() -> None:
    cluster = of(node({}), node({}), data.Node([CARD]))
    assert set(rooms(cluster, mapping="vfs")) == {("pve1", "vfs"), ("pve2", "vfs")}
    assert set(rooms(cluster, device="8086:1592")) == {(name, "8086:1592") for name in ("pve1", "pve2", "pve3")}
    assert set(rooms(cluster, mdev="nvidia-64")) == {("pve1", "nvidia-64"), ("pve2", "nvidia-64")}
    with FakePve(cluster) as pve, client_of(pve) as client:
        with pytest.raises(ApiMissingError, match="no mapping nope; the mappings are: p4, vfs, vgpu"):
            capacity.rooms(client, Wanted(mapping="nope"))
        capacity.rooms(client, Wanted(device=IDS))
        assert not [entry for entry in pve.state.log if entry.path.endswith("/mdev")], "types are not asked for"


# ---- what fits


def test_all_entries_at_once() -> None:
    """On pve1 one of three is left; on pve2 two, of which another VM wants one."""
    first = node({100: TWO, 101: "hostpci0: 81:01.0\n", 102: "hostpci0: 81:01.2\n"}, [101, 102])
    second = node({200: "hostpci0: 81:01.0\n", 201: "hostpci0: 81:01.1\n"}, [200])
    found = fits(of(first, second, data.Node([CARD])), 100)
    assert found["pve1"].reasons == (
        "hostpci1: all 3 devices of mapping vfs are taken by VM 101, 102 and this VM's hostpci0",
    )
    assert found["pve1"].notes == ("this VM is here",)
    assert (found["pve2"].now, found["pve2"].always) == (True, False)
    assert found["pve2"].later == (
        "hostpci1: all 3 devices of mapping vfs are wanted by VM 200, 201 and this VM's hostpci0",
    )
    assert found["pve3"].reasons[0] == "hostpci0: mapping vfs has no device on node pve3"


BY_MAPPING = "by a mapping it could have one of another node: pvepassthru migrate-to-mapping 100"


def test_where_it_runs_it_fits() -> None:
    vms = {100: "hostpci0: 81:01.0\n", 101: "hostpci0: 81:01.0\n", 102: "hostpci0: mapping=p4,mdev=nvidia-63\n"}
    found = fits(of(node(vms, [100, 102], left=0), node({})), 100)
    assert found["pve1"] == ("pve1", (), (), ("this VM runs here",), ())
    assert found["pve2"].reasons == (f"hostpci0 names 81:01.0, the address of a device of node pve1; {BY_MAPPING}",)
    assert fits(of(node(vms, [100, 102], left=0), node({})), 102)["pve1"].always
    assert fits(of(node(vms, [100])), 101)["pve1"].reasons == ("hostpci0: 0000:81:01.0 is taken by VM 100",)


def test_a_group_is_shared() -> None:
    """A device whose group has what another VM uses is no device."""
    pair = [Device(f"0000:05:00.{n}", "8086", "1533", group=5, class_="020000") for n in (0, 1)]
    mapping = "nic\n\tmap node=pve1,path=0000:05:00.1,id=8086:1533,iommugroup=5\n"
    vms = {100: "hostpci0: 05:00.0\n", 101: "hostpci0: mapping=nic\n"}
    found = fits(of(data.Node(pair, vms, [100]), mappings=mapping), 101)
    assert found["pve1"].reasons == ("hostpci0: mapping nic is taken by VM 100",)


def test_instances_of_mediated_devices() -> None:
    one, two = "hostpci0: mapping=p4,mdev=nvidia-63\n", "hostpci1: mapping=p4,mdev=nvidia-63\n"
    first = node({100: one + two, 101: one, 102: one}, [102], left=1)
    second = node({200: one}, left=2)
    found = fits(of(first, second), 100)
    assert found["pve1"].reasons[0].startswith("hostpci1: no instance of nvidia-63 is left")
    assert (found["pve2"].now, found["pve2"].later) == (
        True,
        ("this VM wants 2 of nvidia-63; 2 can be had now, of which VM 200 wants 1",),
    )


SMALL, LARGE = "mapping=p4,mdev=nvidia-63\n", "mapping=p4,mdev=nvidia-64\n"
BESIDE = "hostpci0: no GPU there has room for nvidia-63 beside what VM 200 wants"


def test_a_size_of_vgpu_excludes_the_others_of_its_gpu() -> None:
    """By default the first one fixes the framebuffer's size for the whole GPU; VM 200 wants the larger one."""
    cluster = of(node({100: f"hostpci0: {SMALL}"}), node({200: f"hostpci0: {LARGE}"}))
    found = fits(cluster, 100)
    assert found["pve1"].always
    assert (found["pve2"].now, found["pve2"].later) == (True, (BESIDE,))
    here = rooms(cluster, mdev="nvidia-63")
    assert [here[name, "nvidia-63"][5:9] for name in NAMES] == [(0, 8, 1, 7), (0, 8, 0, 0)]
    there = rooms(cluster, mdev="nvidia-64")
    assert [there[name, "nvidia-64"][5:9] for name in NAMES] == [(0, 4, 0, 0), (0, 4, 1, 3)]


def test_sizes_of_one_vm_exclude_each_other_too() -> None:
    found = fits(of(node({100: f"hostpci0: {SMALL}hostpci1: {LARGE}"}), node({})), 100)
    assert found["pve2"].reasons == (
        "hostpci1: no GPU there has room for nvidia-64 beside what this VM's other entries take",
    )


def test_sizes_side_by_side_share_the_memory() -> None:
    """A GPU in mixed-size mode offers the larger type beside a small one that runs: then the parts add up."""
    vms = {200: f"hostpci0: {SMALL}", **{201 + number: f"hostpci0: {LARGE}" for number in range(3)}}
    cluster = of(node({100: f"hostpci0: {SMALL}hostpci1: {SMALL}"}), node(vms, [200], left=7))
    assert rooms(cluster, mdev="nvidia-63")["pve2", "nvidia-63"][5:9] == (1, 7, 0, 1)
    found = fits(cluster, 100)["pve2"]
    words = "hostpci1: no GPU there has room for nvidia-63 beside what VM 201, 202, 203 wants"
    assert (found.now, found.later) == (True, (words,))


def test_sizes_on_virtual_functions() -> None:
    """VM 200 and 201 want two sizes, which takes both GPUs; a third size has none left, the first one has."""
    kinds = [MdevType(f"nvidia-{size}", 1, "", f"NVIDIA A16-{size}C") for size in (4, 8, 16)]
    gpus = [Device(f"0000:a{n}:00.0", "10de", "25b6", group=60 + n, class_="030200", mdev=[]) for n in (1, 2)]
    functions = [
        Device(
            gpu.id.replace("00.0", f"00.{number}"),
            "10de",
            "25b6",
            group=10 * number + at,
            class_="030200",
            mdev=kinds,
            physfn=gpu.id,
        )
        for at, gpu in enumerate(gpus)
        for number in (4, 5)
    ]
    lines = [f"\tmap node=pve2,path={one.id},id=10de:25b6,iommugroup={one.group}\n" for one in functions]
    mapping = f"both\n\tmdev 1\n{''.join(lines)}"
    vms = {200: "hostpci0: mapping=both,mdev=nvidia-4\n", 201: "hostpci0: mapping=both,mdev=nvidia-8\n"}
    for wanted, fitting in ((4, True), (8, True), (16, False)):
        first = data.Node([], {100: f"hostpci0: mapping=both,mdev=nvidia-{wanted}\n"})
        found = fits(of(first, data.Node([*gpus, *functions], vms), mappings=mapping), 100)["pve2"]
        assert (found.now, found.always) == (True, fitting), (wanted, found)
    both = "hostpci0: mapping=both,mdev=nvidia-4\nhostpci1: mapping=both,mdev=nvidia-2\n"
    kinds.append(MdevType("nvidia-2", 1, "", "NVIDIA A16-4Q"))
    mixed = fits(of(data.Node([], {100: both}), data.Node([*gpus, *functions]), mappings=mapping), 100)["pve2"]
    assert mixed.always, "one size"
    assert mixed.notes == (
        "hostpci1 takes a vGPU NVIDIA A16-4Q beside NVIDIA A16-4C, of another board or series (PVP277)",
    )
    kinds.pop()
    left = rooms(of(data.Node([]), data.Node([*gpus, *functions], vms), mappings=mapping))
    assert [left["pve2", f"nvidia-{size}"].left for size in (4, 8, 16)] == [1, 1, 0]


def test_vgpus_of_a_mapping() -> None:
    one = "hostpci0: mapping=vgpu,mdev=nvidia-558\n"
    other = node({200: one, 201: one}, [200, 201], vgpus=0)
    found = fits(of(node({100: one}), other), 100)
    assert (found["pve1"].always, found["pve2"].now) == (True, False)
    assert found["pve2"].reasons == ("hostpci0: all 2 devices of mapping vgpu are taken by VM 200, 201",)
    wrong = fits(of(node({100: "hostpci0: mapping=vgpu,mdev=nvidia-9\n"})), 100)
    assert wrong["pve1"].reasons == ("hostpci0: no free device of mapping vgpu offers nvidia-9 now",)


RULE = {"rule": "r", "type": "resource-affinity", "resources": "vm:100,vm:200,ct:300"}
STARTED = ({"sid": "vm:100", "state": "started"}, {"sid": "vm:200", "state": "started"})
STOPPED = (STARTED[0], {"sid": "vm:200", "state": "stopped"})
AFFINE = {"rule": "n", "type": "node-affinity", "resources": "vm:100", "nodes": "pve2:1", "strict": 1}
APART = "HA rule r keeps this VM apart from VM 200, which is there"
TOGETHER = "HA rule r keeps this VM together with VM 200 on pve2"


@pytest.mark.parametrize(
    "more, first, second",
    [
        ({}, (), ()),
        ({"ha_rules": [{**RULE, "affinity": "negative"}]}, (), ()),  # HA does not manage them
        ({"ha_resources": STARTED, "ha_rules": [{**RULE, "affinity": "negative"}]}, (), (APART,)),
        ({"ha_resources": STARTED, "ha_rules": [{**RULE, "affinity": "positive"}]}, (TOGETHER,), ()),
        ({"ha_resources": STOPPED, "ha_rules": [{**RULE, "affinity": "positive"}]}, (), ()),
        ({"ha_resources": STARTED, "ha_rules": [{**RULE, "affinity": "negative", "disable": 1}]}, (), ()),
        ({"ha_resources": STARTED, "ha_rules": [AFFINE]}, ("node affinity rule n keeps this VM to pve2",), ()),
        ({"ha_resources": STARTED, "ha_rules": [{**AFFINE, "strict": 0}]}, (), ()),
        (
            {"ha_resources": STARTED, "ha_rules": [{**AFFINE, "affinity": "negative"}]},
            (),
            ("node affinity rule n keeps this VM to pve1",),
        ),
        (
            {
                "version": "8.4.1",
                "ha_resources": [{**STARTED[0], "group": "g"}],
                "ha_groups": [{"group": "g", "nodes": "pve2", "restricted": 1}],
            },
            ("HA group g keeps this VM to pve2",),
            (),
        ),
    ],
)
def test_rules_of_ha(more: dict[str, Any], first: tuple[str, ...], second: tuple[str, ...]) -> None:
    found = fits(of(node({100: "hostpci0: mapping=vfs\n"}), node({200: "memory: 512\n"}), **more), 100)
    assert (found["pve1"].reasons, found["pve2"].reasons) == (first, second)


def test_a_preference_of_ha_is_a_note() -> None:
    more: dict[str, Any] = {"ha_resources": STARTED, "ha_rules": [{**AFFINE, "strict": 0}]}
    found = fits(of(node({100: "hostpci0: mapping=vfs\n"}), node({}), **more), 100)
    assert found["pve1"].notes == ("this VM is here", "node affinity rule n prefers pve2")


def test_what_is_no_question() -> None:
    with FakePve(of(node({100: "template: 1\nhostpci0: mapping=vfs\n"}))) as pve, client_of(pve) as client:
        with pytest.raises(ApiMissingError, match="sees no VM 555"):
            capacity.fits(client, 555)
        with pytest.raises(UsageError, match="a template"):
            capacity.fits(client, 100)


# ---- the command


def test_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    vms = {100: TWO, 101: "hostpci0: 81:01.0\n", 102: "hostpci0: 81:01.2\n"}
    with FakePve(of(node(vms, [101, 102]), node({}), data.Node())) as pve:
        values = {"PVE_HOST": f"{pve.host}:{pve.port}", "PVE_USER": ROOT, "PVE_PASSWORD": PASSWORD}
        for name, value in {**values, "PVE_FINGERPRINT": pve.fingerprint}.items():
            monkeypatch.setenv(name, value)
        assert main(["fleet", "capacity", "--device", IDS]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["NODE", "KIND", "NAME", "WHERE", "TOTAL", "USED", "FREE", "CLAIMED", "LEFT"]
        assert lines[1].split()[-5:] == ["3", "2", "1", "1", "0"]
        assert main(["fleet", "capacity", "--vm", "100", "--node", "pve1", "--node", "pve2"]) == 0
        assert capsys.readouterr().out == (
            "node pve1 does not fit (this VM is here)\n"
            "  hostpci1: all 3 devices of mapping vfs are taken by VM 101, 102 and this VM's hostpci0\n"
            "node pve2 fits\n"
        )
        assert main(["fleet", "capacity", "--vm", "100", "--node", "pve3"]) == 1, "no node fits"
        assert main(["fleet", "capacity", "--device", "dead:beef"]) == 3
        assert "no node has dead:beef" in capsys.readouterr().err
        assert main(["fleet", "capacity", "--device", "0x10de"]) == 2
        assert main(["fleet", "capacity", "--mdev", "nvidia-63", "--json"]) == 0
        shape = json.loads(capsys.readouterr().out.partition("no model")[0])
        assert list(shape) == ["rooms", "failures"]
        assert list(shape["rooms"][0]) == [
            *("node", "kind", "name", "where", "total", "used", "free", "claimed", "left", "mdev", "sure"),
        ]
        assert main(["fleet", "capacity", "--vm", "100", "--json"]) == 0
        shape = json.loads(capsys.readouterr().out)
        assert list(shape) == ["vmid", "node", "nodes", "failures"]
        assert list(shape["nodes"][0]) == ["node", "reasons", "later", "notes", "unsure", "now", "always"]
        pve.faults.answer(500, "some trouble", path="/qemu/101/", times=None)
        assert main(["fleet", "capacity", "--device", IDS]) == 9
        assert capsys.readouterr().out.splitlines()[1].split()[-5:] == ["3", ">=1", "<=2", ">=2", "<=0"]
        assert main(["fleet", "capacity", "--vm", "100", "--node", "pve1"]) == 9
        assert capsys.readouterr().out == (
            "node pve1 may fit, which cannot be told for sure (this VM is here)\n"
            "  VM 101, whose config could not be read, may have devices there\n"
        )
        pve.faults.clear()
        pve.take_down("pve2")
        assert main(["fleet", "capacity"]) == 10
        out, err = capsys.readouterr()
        assert "node pve2: it is offline" in err
        assert "pve1" in out


def test_nothing_is_free(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    vms = {100 + number: f"hostpci0: 81:01.{number}\n" for number in range(3)}
    with FakePve(of(node(vms, list(vms)))) as pve:
        values = {"PVE_HOST": f"{pve.host}:{pve.port}", "PVE_USER": ROOT, "PVE_PASSWORD": PASSWORD}
        for name, value in {**values, "PVE_FINGERPRINT": pve.fingerprint}.items():
            monkeypatch.setenv(name, value)
        assert main(["fleet", "capacity", "--mapping", "vfs"]) == 1
        assert capsys.readouterr().out.splitlines()[1].split()[-4:] == ["3", "0", "0", "0"]
