# SPDX-License-Identifier: Apache-2.0
"""Mappings planned from the hardware of three nodes: what is found, merged, ordered and left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pvepassthru.api import mapping_order, mapping_plan, mapping_render, mapping_search, mapping_wish, mappings
from pvepassthru.api import nodes as places
from pvepassthru.api.hardware import Function, build
from pvepassthru.api.mapping_plan import Options
from pvepassthru.model.errors import (
    ApiDeniedError,
    ApiMissingError,
    ApiUnreachableError,
    DeviceError,
    NotFoundError,
    UsageError,
)
from tests.api import mapping_cluster
from tests.api.fake_pve.server import FakePve
from tests.api.mapping_cluster import GPU_LINE, GPU_LINE2, client_of, mapping

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pvepassthru.api.client import Client
    from pvepassthru.api.mapping_plan import Plan
    from pvepassthru.api.mapping_wish import Sought

NVME = "id=144d:a808,subsystem-id=144d:a801"
NVME1 = f"node=pve1,path=0000:04:00.0,{NVME},iommugroup=15"
NVME2 = f"node=pve2,path=0000:06:00.0,{NVME},iommugroup=36"
NVME3 = f"node=pve2,path=0000:07:00.0,{NVME},iommugroup=37"
VMD = f"node=pve2,path=10000:e1:00.0,{NVME},iommugroup=50"


class Scene:
    """A cluster, and somebody who plans there."""

    def __init__(self, pve: FakePve, client: Client) -> None:
        self.pve = pve
        self.client = client

    def store(self, text: str) -> None:
        self.pve.state.mapping_text = text

    def plan(
        self,
        name: str,
        sought: Sought | str | None = None,
        options: Options = mapping_plan.AS_IT_IS,
        nodes: Sequence[str] = (),
    ) -> Plan:
        wanted = mapping_wish.of_arguments(sought) if isinstance(sought, str) else sought
        known = mappings.read(self.client)
        return mapping_plan.plan(name, known, places.read(self.client, nodes), wanted, options)


@pytest.fixture
def scene() -> Iterator[Scene]:
    with FakePve(mapping_cluster.cluster()) as pve, client_of(pve) as client:
        yield Scene(pve, client)


def vfs_of(word: str) -> Sought:
    return mapping_wish.of_arguments(vf_of=word)


def mediated(word: str) -> Sought:
    return mapping_wish.of_arguments(word, mdev=True)


MSI = mapping_wish.of_arguments("10de:1b80", subsystem="1462:3362")


def texts(plan: Plan) -> list[str]:
    return [line.text for line in plan.after.lines]


def paths(plan: Plan, node: str) -> list[str]:
    return [";".join(entry.paths) for entry in plan.after.mapping.on(node)]


# ---- what is found


def test_the_same_card_elsewhere_with_all_that_pve_compares(scene: Scene) -> None:
    plan = scene.plan("gpu", MSI)
    assert texts(plan) == [GPU_LINE, GPU_LINE2]
    assert "0000:82:00.0 (NVIDIA) of node pve2: its subsystem is 1043:8591" in " ".join(plan.notes)
    assert any(note.startswith("no such device on pve3") for note in plan.notes)


def test_cards_of_other_makers_too_and_said(scene: Scene) -> None:
    plan = scene.plan("gpu", "10de:1b80")
    assert paths(plan, "pve2") == ["0000:81:00", "0000:82:00"]
    assert any("several subsystem ids (1043:8591, 1462:3362)" in note for note in plan.notes)


def test_an_address_means_its_kind(scene: Scene) -> None:
    assert paths(scene.plan("vf", "0000:03:10.0"), "pve1") == [f"0000:03:10.{at}" for at in range(6)]
    assert texts(scene.plan("gpu", "0000:81:00")) == [GPU_LINE, GPU_LINE2]


def test_an_address_and_nothing_else_of_its_kind(scene: Scene) -> None:
    def only(word: str) -> Sought:
        return mapping_wish.of_arguments(word, only=True)

    assert paths(scene.plan("vf", only("0000:03:10.0")), "pve1") == ["0000:03:10.0"]
    assert texts(scene.plan("gpu", only("0000:81:00"))) == [GPU_LINE2]
    assert texts(scene.plan("gpu", only("0000:01:00.0;0000:01:00.1"), nodes=["pve1"])) == [GPU_LINE]
    for device, pf in (("gpu", ""), ("10de:1b80", ""), ("", "0000:03:00.0")):
        with pytest.raises(UsageError, match="--only is for the device at an address"):
            mapping_wish.of_arguments(device, pf, only=True)


# ---- what hosts may live on


def test_a_disk_is_taken_by_its_address_only(scene: Scene) -> None:
    plan = scene.plan("nvme", "0000:04:00.0")
    assert texts(plan) == [NVME1]
    assert any("0000:06:00.0" in note and "name it by its address" in note for note in plan.notes)
    scene.store(mapping("nvme", *texts(plan)))
    assert texts(scene.plan("nvme", "0000:07:00.0")) == [NVME1, NVME3], "one after the other"


def test_a_port_is_taken_by_its_address_only(scene: Scene) -> None:
    assert texts(scene.plan("ports", "0000:08:00.0"))[0].startswith("node=pve3,path=0000:08:00.0")
    pair = scene.plan("ports", "0000:03:00.0;0000:03:00.1", nodes=["pve1"])
    assert paths(pair, "pve1") == ["0000:03:00.0;0000:03:00.1"]


@pytest.mark.parametrize(
    "word, addresses",
    [
        ("nvme", ["0000:04:00.0", "0000:06:00.0", "0000:07:00.0", "10000:e1:00.0"]),
        ("144d:a808", ["0000:04:00.0", "0000:06:00.0", "0000:07:00.0", "10000:e1:00.0"]),
        ("nic", ["0000:08:00.0"]),
        ("8086:10fb", ["0000:08:00.0"]),
    ],
)
def test_disks_and_network_cards_are_never_taken_by_class_or_model(
    scene: Scene, word: str, addresses: list[str]
) -> None:
    with pytest.raises(UsageError, match="the API does not tell what the nodes use themselves") as error:
        scene.plan("some", word)
    assert all(f"{address} (" in error.value.message for address in addresses)
    assert f"--device {addresses[0]} --node" in error.value.hint
    if len(addresses) > 1:
        with pytest.raises(UsageError, match=addresses[1]) as error:
            scene.plan("some", word, options=Options(exclude=(addresses[0],)))
        assert addresses[0] not in str(error.value), "what is excluded is no candidate"


def test_what_the_mapping_has_already_is_made_right(scene: Scene) -> None:
    """Its own devices were named by their addresses once; others of the model are not taken."""
    scene.store(mapping("nvme", NVME1.replace("=15", "=99"), NVME3))
    plan = scene.plan("nvme")
    assert texts(plan) == [NVME1, NVME3]
    assert any("0000:06:00.0" in note and "name it by its address" in note for note in plan.notes)
    scene.store(mapping("nvme", NVME1.replace("04:00.0", "77:00.0")))
    assert not scene.plan("nvme").changed, "and where it has none any more, that is no error"


# ---- more that is found


def test_an_address_that_is_another_device_elsewhere(scene: Scene) -> None:
    with pytest.raises(UsageError, match=r"not the same device.*10de:1b80.*on pve1.*10de:2204.*on pve3") as error:
        scene.plan("gpu", "01:00")
    assert "--device" not in error.value.message
    assert "10de:1b80" in error.value.hint
    assert texts(scene.plan("gpu", "01:00", nodes=["pve1"])) == [GPU_LINE]


def test_a_single_function_with_another_subsystem_is_left_out(scene: Scene) -> None:
    plan = scene.plan("gpu", "0000:81:00.0")
    assert (paths(plan, "pve1"), paths(plan, "pve2")) == (["0000:01:00.0"], ["0000:81:00.0"])
    assert any("0000:82:00.0" in note and "--device 10de:1b80" in note for note in plan.notes)
    (reason,) = [change.reason for change in plan.lines if change.node == "pve1"]
    assert "PVE takes 0000:01:00.1 from the host" in reason


def test_several_functions_of_a_slot_have_several_paths(scene: Scene) -> None:
    plan = scene.plan("ports", "0000:03:00.0;0000:03:00.1", nodes=["pve1"])
    assert paths(plan, "pve1") == ["0000:03:00.0;0000:03:00.1"]
    entry = plan.after.mapping.entries[0]
    assert (entry.id, entry.iommugroup) == ("8086:10fb", "10")


def test_functions_with_different_ids_are_the_whole_slot(scene: Scene) -> None:
    assert paths(scene.plan("gpu", "81:00.0;81:00.1"), "pve2") == ["0000:81:00"]


def test_functions_of_several_slots_are_refused(scene: Scene) -> None:
    with pytest.raises(UsageError, match="several slots"):
        scene.plan("nvme", "06:00.0;07:00.0")


def test_a_class_of_one_model(scene: Scene) -> None:
    assert texts(scene.plan("gpu", "gpu", nodes=["pve2"], options=Options(exclude=("82:00",)))) == [GPU_LINE2]
    with pytest.raises(UsageError, match=r"3 models of GPU: 8086:5912.*10de:1b80.*10de:2204"):
        scene.plan("gpu", "gpu")


def test_where_the_hosts_use_is_known_classes_are_taken(scene: Scene) -> None:
    told = places.read(scene.client).hardware
    known = {node: hardware._replace(unknown="") for node, hardware in told.items()}
    found = mapping_search.search(mapping_wish.of_arguments("nvme"), known)
    assert [len(devices) for devices in found.found.values()] == [1, 3]
    nics = mapping_search.search(mapping_wish.of_arguments("nic"), known)
    assert [one.functions for one in nics.found["pve3"]] == [("0000:08:00.0",)]
    assert sum("VFs, which would vanish" in note for note in nics.notes) == 3


@pytest.mark.parametrize("pf", ["8086:10fb", "0000:05:00.0"])
def test_vfs_of_the_same_model_of_pf(scene: Scene, pf: str) -> None:
    plan = scene.plan("vfs", vfs_of(pf))
    assert len(paths(plan, "pve1")) == 6
    assert paths(plan, "pve2") == ["0000:05:10.0", "0000:05:10.2"]
    assert any("0000:08:00.0" in note and "has no VFs now" in note for note in plan.notes)


def test_mediated_devices_bring_the_flag(scene: Scene) -> None:
    assert scene.plan("igd", "8086:5912").after.mdev
    plan = scene.plan("a16", vfs_of("a1:00.0"), options=Options(live_migration=True))
    assert (plan.after.mdev, plan.after.live_migration) == (True, True)
    assert scene.plan("igd", mediated("8086:5912")).after.lines[0].text.startswith("node=pve1,path=0000:00:02.0")


def test_without_a_driver_there_are_no_mediated_devices(scene: Scene) -> None:
    with pytest.raises(NotFoundError, match="that can be taken") as error:
        scene.plan("gpu", mediated("10de:1b80"))
    assert "is its driver loaded?" in error.value.hint


@pytest.mark.parametrize(
    "sought",
    ["dead:beef", "0000:77:00.0", vfs_of("0000:04:00.0"), vfs_of("dead:beef")],
    ids=["ids", "address", "VFs", "no"],
)
def test_what_nobody_has(scene: Scene, sought: Sought | str) -> None:
    with pytest.raises(NotFoundError):
        scene.plan("some", sought)


def test_a_class_of_which_nothing_can_be_taken_says_why(scene: Scene) -> None:
    with pytest.raises(NotFoundError, match="has a nic that can be taken") as error:
        scene.plan("some", "nic", nodes=["pve1", "pve2"])
    assert "0000:03:00.0 (" in error.value.hint
    assert "of node pve1: it has 3 VFs, which would vanish" in error.value.hint
    assert "of node pve2: it has 2 VFs, which would vanish" in error.value.hint


def test_what_nobody_has_names_nodes_that_were_not_looked_at(scene: Scene) -> None:
    scene.pve.take_down("pve3")
    with pytest.raises(
        NotFoundError, match=r"none of pve1, pve2 has a device at 0000:a1:00.0; node pve3 was not looked at"
    ):
        scene.plan("some", "0000:a1:00.0")


def test_vfs_that_vanish_with_their_port_are_told(scene: Scene) -> None:
    plan = scene.plan("ports", "0000:03:00.0", nodes=["pve1"])
    vanish = "0000:03:00.0 of node pve1 has 3 VFs, which vanish when it is passed: VMs that have one lose it"
    assert vanish in plan.notes
    assert not any("vanish when" in note for note in scene.plan("ports", "0000:08:00.0").notes)


def test_excluded_devices(scene: Scene) -> None:
    exclude = ("03:10.2", "pve1:0000:03:10.4", "pve2:03:10", "pve2:05:10.0")
    plan = scene.plan("vfs", vfs_of("8086:10fb"), options=Options(exclude=exclude))
    assert [path[-1] for path in paths(plan, "pve1")] == ["0", "1", "3", "5"]
    assert paths(plan, "pve2") == ["0000:05:10.2"]
    with pytest.raises(UsageError, match="is no device"):
        scene.plan("nvme", "nvme", options=Options(exclude=("pve2:x",)))
    with pytest.raises(ApiMissingError, match="the cluster has no node pve22"):
        scene.plan("nvme", "nvme", options=Options(exclude=("pve22:07:00",)))
    assert scene.plan("gpu", MSI, Options(exclude=("pve2:07:00",)), ["pve1"]).changed, "of a node not asked"


def test_excluded_devices_that_are_there_already(scene: Scene) -> None:
    plan = scene.plan("vfs", vfs_of("8086:10fb"))
    known = {"vfs": plan.after}
    seen = places.read(scene.client)
    stays = mapping_plan.plan("vfs", known, seen, None, Options(exclude=("pve1:03:10.4",)))
    assert not stays.changed
    assert any("0000:03:10.4 of node pve1 is excluded and in the mapping already" in note for note in stays.notes)
    gone = mapping_plan.plan("vfs", known, seen, None, Options(exclude=("pve1:03:10.4",), prune=True))
    assert [(change.node, change.new, change.reason) for change in gone.lines] == [("pve1", None, "it is excluded")]
    assert "0000:03:10.4" not in paths(gone, "pve1")


def test_devices_of_another_class(scene: Scene) -> None:
    """A VM could get a network card for its GPU."""
    gpus = {"gpu": scene.plan("gpu", MSI).after}
    with pytest.raises(UsageError, match=r"mapping gpu has .*, and 0000:05:10.2 is a device of another class"):
        mapping_plan.plan("gpu", gpus, places.read(scene.client), vfs_of("8086:10fb"))


@pytest.mark.parametrize("name", ["g", "1gpu", "a b", ""])
def test_names_that_pve_refuses(scene: Scene, name: str) -> None:
    with pytest.raises(UsageError, match="is no name of a mapping"):
        scene.plan(name, "nvme")


def test_bridges_are_never_taken(scene: Scene) -> None:
    with pytest.raises(NotFoundError, match="can be taken"):
        scene.plan("bridge", "0000:00:01.0")


# ---- merging


def test_planning_twice_changes_nothing(scene: Scene) -> None:
    scene.store(mapping("nvme", NVME1, NVME2, NVME3, VMD))
    plan = scene.plan("nvme", "10000:e1:00.0")
    assert (plan.changed, plan.lines, plan.stale) == (False, (), ())
    assert not scene.plan("nvme").changed, "nor what it has already, sought by its own model"


def test_hand_written_entries_that_fit_stay_as_they_are(scene: Scene) -> None:
    own = "iommugroup=2,node=pve1,path=0000:01:00.0,id=10de:1b80,subsystem-id=1462:3362,description=mine"
    scene.store(mapping("gpu", own, description=1))
    plan = scene.plan("gpu", MSI)
    assert texts(plan) == [own, GPU_LINE2]


def test_entries_of_other_nodes_are_never_dropped(scene: Scene) -> None:
    scene.store(mapping("gpu", GPU_LINE2, GPU_LINE))
    plan = scene.plan("gpu", "0000:01:00", nodes=["pve1"], options=Options(prune=True))
    assert not plan.changed
    other = GPU_LINE2.replace("=40", "=99")
    scene.store(mapping("gpu", other))
    plan = scene.plan("gpu", "0000:01:00", nodes=["pve1"], options=Options(prune=True))
    assert texts(plan) == [other, GPU_LINE]


def test_a_node_that_is_down_keeps_its_entries(scene: Scene) -> None:
    scene.store(mapping("gpu", GPU_LINE.replace("=2", "=99"), GPU_LINE2.replace("=40", "=99")))
    scene.pve.take_down("pve2")
    plan = scene.plan("gpu", "10de:1b80", options=Options(prune=True))
    assert texts(plan) == [GPU_LINE, GPU_LINE2.replace("=40", "=99")]
    assert any("node pve2 was not looked at, and keeps its 1 line: node pve2 is offline" in note for note in plan.notes)


@pytest.mark.parametrize("status", [595, 596, 503])
def test_a_node_that_cannot_be_asked_keeps_its_entries(scene: Scene, status: int) -> None:
    scene.store(mapping("gpu", GPU_LINE2.replace("=40", "=99")))
    scene.pve.faults.answer(status, path="/nodes/pve2/hardware", times=None)
    plan = scene.plan("gpu", "10de:1b80", options=Options(prune=True))
    assert texts(plan) == [GPU_LINE2.replace("=40", "=99"), GPU_LINE]


def test_an_answer_that_is_no_json_is_no_hardware(scene: Scene) -> None:
    scene.store(mapping("gpu", GPU_LINE2.replace("=40", "=99")))
    scene.pve.faults.not_json(path="/nodes/pve2/hardware", times=None)
    assert texts(scene.plan("gpu", "10de:1b80"))[0] == GPU_LINE2.replace("=40", "=99")


def test_no_node_can_be_asked(scene: Scene) -> None:
    scene.pve.faults.answer(596, path="/hardware/pci", times=None)
    with pytest.raises(ApiUnreachableError):
        scene.plan("gpu", "10de:1b80")


def test_a_user_who_may_not_see_hardware(scene: Scene) -> None:
    scene.pve.state.users["mapper@pve"].acl = {"/mapping": "PVEMappingAdmin"}
    with client_of(scene.pve, "mapper@pve", "word") as client, pytest.raises(ApiDeniedError):
        places.read(client)


def test_a_changed_group_is_made_right(scene: Scene) -> None:
    old = f"{GPU_LINE.replace('=2', '=99')},description=the left one"
    scene.store(mapping("gpu", old))
    plan = scene.plan("gpu", "10de:1b80", nodes=["pve1"])
    assert texts(plan) == [f"{GPU_LINE},description=the left one"]
    (change,) = plan.lines
    assert (change.old, change.reason) == (old, "iommugroup is 99, and 0000:01:00.0 has 2")


def test_a_stale_entry_is_named_and_removed_only_with_prune(scene: Scene) -> None:
    gone = GPU_LINE.replace("0000:01:00", "0000:02:00")
    scene.store(mapping("gpu", gone, GPU_LINE2))
    plan = scene.plan("gpu", MSI)
    assert texts(plan) == [gone, GPU_LINE, GPU_LINE2]
    assert [(stale.text, stale.why) for stale in plan.stale] == [(gone, "there is no PCI device 0000:02:00.0")]
    assert any(
        "PVE refuses to start any VM with mapping gpu on pve1" in note and "--prune" in note for note in plan.notes
    )
    pruned = scene.plan("gpu", MSI, options=Options(prune=True))
    assert sorted(texts(pruned)) == sorted([GPU_LINE, GPU_LINE2])
    assert (gone, None) in [(change.old, change.new) for change in pruned.lines]


def test_a_node_that_the_cluster_has_not(scene: Scene) -> None:
    foreign = GPU_LINE.replace("pve1", "pve9")
    scene.store(mapping("gpu", foreign, GPU_LINE, GPU_LINE2))
    plan = scene.plan(
        "gpu",
    )
    assert [stale.why for stale in plan.stale] == ["the cluster has no node pve9"]
    assert foreign in texts(plan)
    assert foreign not in texts(scene.plan("gpu", options=Options(prune=True)))
    limited = scene.plan("gpu", "10de:1b80", nodes=["pve1"], options=Options(prune=True))
    assert foreign in texts(limited), "who looks at one node does not judge others"


def test_unknown_mapping_and_node(scene: Scene) -> None:
    scene.store(mapping("gpu", GPU_LINE))
    with pytest.raises(ApiMissingError, match="there is no mapping gup; is gpu meant"):
        scene.plan("gup")
    with pytest.raises(ApiMissingError, match="the cluster has no node pve4; is pve1 meant"):
        scene.plan("gpu", "nvme", nodes=["pve4"])


def test_a_mapping_of_several_models_must_be_told(scene: Scene) -> None:
    scene.store(mapping("mixed", GPU_LINE, NVME1))
    with pytest.raises(UsageError, match="devices of 2 models"):
        scene.plan("mixed")


def test_the_flag_of_a_mapping_that_is_in_use_is_not_turned(scene: Scene) -> None:
    scene.store(mapping("gpu", GPU_LINE2))
    with pytest.raises(UsageError, match="mapping gpu says no mdev 1, and the devices that were found are otherwise"):
        scene.plan("gpu", "8086:5912")
    scene.pve.state.mapping_text = mapping(
        "igd", "node=pve1,path=0000:00:02.0,id=8086:5912,subsystem-id=1849:5912,iommugroup=0"
    )
    plan = scene.plan("igd", "8086:5912")
    assert (plan.after.mdev, plan.changed, plan.lines) == (True, True, ())
    assert "+ mdev 1\n" in mapping_render.diff(plan)


def test_nothing_would_be_left(scene: Scene) -> None:
    scene.store(mapping("igd", "node=pve1,path=0000:00:02.0,id=8086:5912,subsystem-id=1849:5912,iommugroup=0", mdev=1))
    scene.pve.state.nodes["pve1"].pci = [
        device for device in scene.pve.state.nodes["pve1"].pci if device.id != "0000:00:02.0"
    ]
    with pytest.raises(DeviceError, match="nothing would be left in mapping igd"):
        scene.plan("igd", options=Options(prune=True))
    plan = scene.plan("igd")
    assert (plan.changed, len(plan.stale)) == (False, 1)
    assert any(" has 8086:5912" in note for note in plan.notes)


def test_what_would_not_be_taken_anew_may_stay(scene: Scene) -> None:
    port = "node=pve2,path=0000:05:00.0,id=8086:10fb,subsystem-id=8086:7a11,iommugroup=30"
    scene.store(mapping("port", port))
    plan = scene.plan("port", nodes=["pve2"], options=Options(prune=True))
    assert (plan.changed, plan.stale) == (False, ())


def test_what_competes_is_said(scene: Scene) -> None:
    scene.store(mapping("other", GPU_LINE.replace("01:00,", "01:00.0,")))
    plan = scene.plan("gpu", "01:00", nodes=["pve1"])
    assert any("mapping other has 0000:01:00 of node pve1 too" in note for note in plan.notes)


# ---- order


def test_pack_and_spread(scene: Scene) -> None:
    packed = scene.plan("vfs", vfs_of("8086:10fb"), options=Options("pack"))
    assert [path[-1] for path in paths(packed, "pve1")] == ["0", "2", "4", "1", "3", "5"]
    spread = scene.plan("vfs", vfs_of("8086:10fb"), options=Options("spread"))
    assert [path[-1] for path in paths(spread, "pve1")] == ["0", "1", "2", "3", "4", "5"]
    assert any("2 physical functions with 6 devices take turns" in note for note in spread.notes)
    scene.store(mapping("vfs", *texts(packed)))
    again = scene.plan("vfs", vfs_of("8086:10fb"), options=Options("spread"))
    assert (again.moved, again.lines, again.changed) == (("pve1",), (), True)
    assert sorted(texts(again)) == sorted(texts(packed))
    assert not scene.plan("vfs", vfs_of("8086:10fb")).changed, "without --order the order stays"


def test_order_of_whole_devices_says_that_it_changes_nothing(scene: Scene) -> None:
    scene.store(mapping("nvme", NVME1, NVME2, NVME3, VMD))
    plan = scene.plan("nvme", options=Options("spread"))
    assert texts(plan) == [NVME1, NVME2, NVME3, VMD]
    assert any("spread changes nothing, since each is a card of its own" in note for note in plan.notes)


def test_order_of_mediated_devices_is_the_hooks(scene: Scene) -> None:
    devices = [Function(f"0000:0{at}:00.0", {}, mdev_parent=True) for at in (1, 2)]
    assert "the first function that has room" in mapping_order.effect(
        build("n", devices), ["0000:01:00.0", "0000:02:00.0"], "spread"
    )
    assert scene.plan("igd", "8086:5912", options=Options("spread")).after.lines


def test_spread_goes_over_numa_nodes_cards_and_functions() -> None:
    functions = [
        Function(f"0000:0{bus}:00.{port}", {}, numa_node=numa)
        for bus, numa in ((1, 0), (2, 0), (3, 1))
        for port in (0, 1)
    ]
    vfs = [
        Function(f"0000:0{bus}:1{port}.{number}", {}, physfn=f"0000:0{bus}:00.{port}", numa_node=numa)
        for bus, numa in ((1, 0), (2, 0), (3, 1))
        for port in (0, 1)
        for number in (0, 1)
    ]
    hardware = build("n", [*functions, *vfs])
    names = [vf.address for vf in vfs]
    turns = mapping_order.ordered(hardware, [*reversed(names), "0000:77:00.0"], "spread")
    assert [name[5:] for name in turns[:6]] == ["01:10.0", "03:10.0", "02:10.0", "03:11.0", "01:11.0", "02:11.0"]
    assert turns[-1] == "0000:77:00.0"
    assert sorted(turns[:-1]) == sorted(names)
    assert list(mapping_order.ordered(hardware, names, "pack")) == names
    assert mapping_order.ordered(hardware, [names[0], names[0]], "pack") == (names[0], names[0])


# ---- as values and words


def test_shapes(scene: Scene) -> None:
    scene.store(mapping("gpu", GPU_LINE))
    plan = scene.plan("gpu", MSI)
    shape = mapping_render.shape(plan)
    assert (shape["mapping"], shape["changed"], shape["digest"]) == ("gpu", True, scene.pve.state.mapping_digest)
    assert shape["before"] == {"mdev": False, "live_migration_capable": False, "map": [GPU_LINE]}
    assert shape["after"]["map"] == [GPU_LINE, GPU_LINE2]
    assert [(one["node"], one["old"], one["new"]) for one in shape["changes"]] == [("pve2", None, GPU_LINE2)]
    text = mapping_render.diff(plan)
    assert text.startswith("mapping gpu: changed, 2 devices on 2 nodes\n")
    assert f"+ map {GPU_LINE2}\n" in text
    assert GPU_LINE not in text.replace(GPU_LINE2, "")


def test_one_request_a_node_and_no_write(scene: Scene) -> None:
    before = len(scene.pve.state.log)
    scene.plan("gpu", "10de:1b80")
    asked = [entry.path for entry in list(scene.pve.state.log)[before:]]
    assert sorted(asked) == sorted(
        ["/nodes", "/cluster/mapping/pci", *(f"/nodes/pve{at}/hardware/pci" for at in (1, 2, 3))]
    )
    assert scene.pve.state.writes == []


def test_lines_that_pve_would_skip_stay(scene: Scene) -> None:
    known = mappings.of_api([{"id": "gpu", "map": "node=pve1", "digest": "d"}])
    plan = mapping_plan.plan("gpu", known, places.read(scene.client), MSI, Options(prune=True))
    assert texts(plan)[0] == "node=pve1"
