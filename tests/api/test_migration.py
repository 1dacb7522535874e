# SPDX-License-Identifier: Apache-2.0
"""From addresses to mappings: the same functions at the same index, and nothing half done."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import pytest

from pvepassthru.api import mapping_apply, mapping_entry, migration, migration_apply, nodes, reading, restore
from pvepassthru.model import hostpci
from pvepassthru.model.errors import (
    ApiConflictError,
    ApiDeniedError,
    ApiError,
    ApiMissingError,
    ApiUnreachableError,
    DeviceError,
    EndedError,
    NotFoundError,
    UsageError,
)
from tests.api import mapping_cluster
from tests.api.fake_pve.data import Token, User
from tests.api.fake_pve.faults import Moment
from tests.api.fake_pve.mappingtext import Mapping
from tests.api.fake_pve.server import FakePve
from tests.api.fake_pve.state import Vm
from tests.api.mapping_cluster import GPU_LINE, GPU_LINE2, client_of, mapping

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.api.client import Client
    from pvepassthru.api.migration import Migration
    from tests.api.fake_pve.state import State

VF0 = "node=pve1,path=0000:03:10.0,id=8086:10ed,subsystem-id=8086:7a11,iommugroup=20"
VF1 = "node=pve1,path=0000:03:10.1,id=8086:10ed,subsystem-id=8086:7a11,iommugroup=21"


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping_apply, "SETTLE", (0.01,))
    monkeypatch.setattr(restore, "SETTLING", 0.03)
    monkeypatch.setattr(reading, "PAUSES", (0.01,))
    monkeypatch.setattr(reading, "PATIENCE", 0.1)


class Scene:
    def __init__(self, pve: FakePve, client: Client) -> None:
        self.pve = pve
        self.client = client

    def vm(self, vmid: int, text: str, node: str = "pve1") -> None:
        self.pve.state.vms[vmid] = Vm(node, text)

    def read(self, *vmids: int, name: str = "") -> Migration:
        return migration.read(self.client, vmids, name)

    def config(self, vmid: int) -> dict[str, str]:
        return self.pve.state.vm(vmid).config.main


@pytest.fixture
def scene() -> Iterator[Scene]:
    with FakePve(mapping_cluster.cluster()) as pve, client_of(pve) as client:
        yield Scene(pve, client)


def new(found: Migration) -> dict[int, list[str | None]]:
    """The new values by VM."""
    return {change.vmid: [one.new for one in change.keys] for change in found.changes}


def made(found: Migration) -> dict[str, list[str]]:
    return {plan.name: [line.text for line in plan.after.lines] for plan in found.plans}


# ---- what is to become of it


def test_a_mapping_that_has_just_the_device_is_taken(scene: Scene) -> None:
    scene.pve.state.mapping_text = mapping("card", GPU_LINE, GPU_LINE2) + mapping(
        "sole", GPU_LINE.replace("00,", "00.0,")
    )
    found = scene.read(100, 102)
    assert made(found) == {}
    assert new(found) == {100: ["mapping=card,pcie=1,x-vga=1"], 102: ["mapping=sole"]}


def test_a_mapping_of_several_is_not_the_same_device(scene: Scene) -> None:
    scene.pve.state.mapping_text = mapping("vfs", VF0, VF1) + mapping("drift", VF0.replace("=20", "=1"))
    assert made(scene.read(101)) == {"nic-pve1-03-10-0": [VF0], "nic-pve1-03-10-1": [VF1]}


def test_a_device_that_comes_into_two_mappings_is_told_before_with_the_way_out(scene: Scene) -> None:
    scene.pve.state.mapping_text = mapping("vfs", VF0, VF1) + mapping("drift", VF0.replace("=20", "=1"))
    found = scene.read(101)
    assert (
        "mapping vfs has 0000:03:10.0 of node pve1 too (PVP413): VMs with either compete for it" in found.plans[0].notes
    )
    notes = [note for note in found.changes[0].notes if "mapping" in note]
    gets = "so that no device is in two mappings; VM 101 gets the first of its 2 devices on pve1 that is free"
    assert notes == [
        "mapping drift has what hostpci1 has, and does not fit the node: pvepassthru mapping check drift",
        f"hostpci1 can do with mapping vfs, {gets}: qm set 101 --hostpci1 mapping=vfs",
        f"hostpci3 can do with mapping vfs, {gets}: qm set 101 --hostpci3 mapping=vfs,rombar=0",
    ]


def test_a_part_of_a_device_that_a_mapping_has(scene: Scene) -> None:
    scene.pve.state.mapping_text = mapping("card", GPU_LINE)
    (change,) = scene.read(102).changes
    assert (
        "hostpci0 can do with mapping card, so that no device is in two mappings; VM 102 gets 0000:01:00.0, "
        "0000:01:00.1 by it: qm set 102 --hostpci0 mapping=card"
    ) in change.notes


def test_a_name_where_there_is_a_mapping_already(scene: Scene) -> None:
    scene.pve.state.mapping_text = mapping("card", GPU_LINE)
    words = "mapping card has just what hostpci0 has: leave out --name, and no device is in two mappings"
    assert words in scene.read(100, name="other").changes[0].notes
    assert words not in scene.read(100).changes[0].notes


def test_vms_with_the_same_device_share_a_mapping(scene: Scene) -> None:
    scene.vm(103, "hostpci4: 01:00,rombar=0\n")
    found = scene.read(100, 103)
    assert made(found) == {"gpu-pve1-01-00": [GPU_LINE]}
    assert new(found) == {
        100: ["mapping=gpu-pve1-01-00,pcie=1,x-vga=1"],
        103: ["mapping=gpu-pve1-01-00,rombar=0"],
    }
    assert [one.key for change in found.changes for one in change.keys] == ["hostpci0", "hostpci4"]


def test_others_with_the_device_are_named(scene: Scene) -> None:
    scene.vm(103, "hostpci4: 01:00.1\n")
    scene.vm(104, "hostpci4: 01:00.1\n", "pve2")
    notes = " ".join(scene.read(100).changes[0].notes)
    assert "VM 102 (hostpci0) names 0000:01:00.0 by its address, too" in notes
    assert "VM 103 (hostpci4) names 0000:01:00.1 by its address, too" in notes
    assert "104" not in notes


def test_all_else_of_an_entry_stays(scene: Scene) -> None:
    options = "driver=keep,pcie=1,rombar=0,romfile=gpu.rom,x-vga=1,vendor-id=0x10de,sub-device-id=0x1234"
    scene.vm(103, f"machine: q35\nhostpci7: 0000:01:00,{options}\nhostpci9: 00:02.0,mdev=i915-GVTg_V5_4\n")
    found = scene.read(103)
    (one, igd) = found.changes[0].keys
    before, after = (hostpci.parse(7, text) for text in (one.old or "", one.new or ""))
    assert after == before._replace(host=None, mapping="gpu-pve1-01-00")
    assert igd.new == "mapping=gpu-pve1-00-02-0,mdev=i915-GVTg_V5_4"
    assert [plan.after.mdev for plan in found.plans] == [False, True]
    assert "hostpci7 keeps romfile=gpu.rom: root@pam alone may change that entry" in found.changes[0].notes


def test_pending_entries_are_those_that_count(scene: Scene) -> None:
    scene.pve.state.vm(102).text += "[PENDING]\nhostpci0: 03:10.1\n"
    (key,) = scene.read(102).changes[0].keys
    assert (key.old, key.new) == ("03:10.1", "mapping=nic-pve1-03-10-1")


def test_several_functions_of_one_kind(scene: Scene) -> None:
    scene.vm(103, "hostpci0: 03:00.0;03:00.1\n")
    ((text,),) = made(scene.read(103)).values()
    assert "path=0000:03:00.0;0000:03:00.1,id=8086:10fb" in text
    scene.pve.state.mapping_text = mapping("ports", text)
    assert mapping_cluster.faults(scene.pve, "ports") == {}, "they are in two groups, and PVE compares the first's"


def test_what_a_mapping_cannot_hold(scene: Scene) -> None:
    scene.vm(103, "hostpci0: 01:00.0;04:00.0\n")
    with pytest.raises(
        DeviceError, match=r"VM 103 hostpci0 .*cannot hold 0000:01:00.0, 0000:04:00.0 .* id is 10de:1b80"
    ):
        scene.read(103)


def test_what_is_not_there(scene: Scene) -> None:
    scene.vm(103, "hostpci0: 77:00.0\n")
    with pytest.raises(NotFoundError, match=r"VM 103 hostpci0 .*there is no PCI device 0000:77:00.0 on node pve1"):
        scene.read(103)
    with pytest.raises(ApiMissingError, match="no VM 999"):
        scene.read(999)


def test_nothing_to_do(scene: Scene) -> None:
    scene.vm(103, "hostpci0: mapping=gpu\nmemory: 512\n")
    (change,) = scene.read(103).changes
    assert (change.keys, change.notes) == ((), ())


def test_a_name(scene: Scene) -> None:
    assert made(scene.read(100, name="mine")) == {"mine": [GPU_LINE]}
    with pytest.raises(UsageError, match="--name is for one device of a node"):
        scene.read(101, name="mine")
    with pytest.raises(UsageError, match="is no name of a mapping"):
        scene.read(100, name="1x")


def test_a_mapping_gets_this_nodes_device_and_keeps_the_others(scene: Scene) -> None:
    scene.pve.state.mapping_text = mapping("card", GPU_LINE2)
    found = scene.read(100, name="card")
    assert made(found) == {"card": [GPU_LINE2, GPU_LINE]}
    scene.pve.state.mapping_text = mapping("card", GPU_LINE2, VF0)
    with pytest.raises(UsageError, match=r"mapping card has 0000:03:10.0 on node pve1"):
        scene.read(100, name="card")


def test_one_name_for_vms_of_two_nodes(scene: Scene) -> None:
    scene.vm(201, "hostpci0: 81:00\n", "pve2")
    found = scene.read(100, 201, name="card")
    assert made(found) == {"card": [GPU_LINE, GPU_LINE2]}
    assert new(found) == {100: ["mapping=card,pcie=1,x-vga=1"], 201: ["mapping=card"]}


def test_one_name_for_different_devices(scene: Scene) -> None:
    scene.vm(201, "hostpci0: 05:10.0\n", "pve2")
    with pytest.raises(
        UsageError, match="--name is for one device, of the same model on each node, and there are"
    ) as error:
        scene.read(100, 201, name="card")
    assert "0000:01:00.0, 0000:01:00.1 of pve1, 0000:05:10.0 of pve2" in error.value.message
    with pytest.raises(UsageError, match="--name is for one device of a node, and there are several"):
        scene.read(101, name="card")


@pytest.mark.parametrize("other, words", [("0000:04:00.0", "would get other functions"), ("00:02.0", "mdev is 0")])
def test_another_device_is_never_passed(scene: Scene, monkeypatch: pytest.MonkeyPatch, other: str, words: str) -> None:
    """What is planned is held to what PVE would make of it, should the search be wrong."""
    real = mapping_entry.entry_for(nodes.read(scene.client).hardware["pve1"], (f"0000:{other}"[-12:],))
    monkeypatch.setattr(mapping_entry, "entry_for", lambda *_: (real[0], ("0000:01:00.0", "0000:01:00.1")))
    with pytest.raises(DeviceError, match=words):
        scene.read(100)


def test_a_node_that_is_down(scene: Scene) -> None:
    scene.vm(201, "hostpci0: 81:00\n", "pve2")
    scene.pve.take_down("pve2")
    with pytest.raises(ApiUnreachableError, match="pve2"):
        scene.read(100, 201)


# ---- doing it


def test_done_and_done_twice(scene: Scene) -> None:
    outcome = migration_apply.apply(scene.client, scene.read(100, 101))
    assert [result.error for result in outcome.results] == [None, None]
    assert scene.config(100)["hostpci0"] == "mapping=gpu-pve1-01-00,pcie=1,x-vga=1"
    assert scene.config(101)["hostpci3"] == "mapping=nic-pve1-03-10-1,rombar=0"
    assert sorted(scene.pve.state.mappings) == ["gpu-pve1-01-00", "nic-pve1-03-10-0", "nic-pve1-03-10-1"]
    assert all(mapping_cluster.faults(scene.pve, name) == {} for name in scene.pve.state.mappings)
    writes = len(scene.pve.state.writes)
    again = scene.read(100, 101)
    assert migration_apply.apply(scene.client, again) == migration_apply.Outcome((), ())
    assert len(scene.pve.state.writes) == writes == 6


def test_two_mappings_that_are_there_are_both_extended(scene: Scene) -> None:
    scene.vm(201, "hostpci0: 81:00\n", "pve2")
    scene.pve.state.mapping_text = mapping("card", GPU_LINE2.replace("pve2", "pve7"))
    outcome = migration_apply.apply(scene.client, scene.read(100, 201, name="card"))
    assert not [result.error for result in outcome.results if result.error]
    assert scene.pve.state.mappings["card"].map == [GPU_LINE2.replace("pve2", "pve7"), GPU_LINE, GPU_LINE2]


def test_a_new_mapping_for_two_nodes_is_made_at_once(scene: Scene) -> None:
    scene.vm(201, "hostpci0: 81:00\n", "pve2")
    outcome = migration_apply.apply(scene.client, scene.read(100, 201, name="card"))
    assert not [result.error for result in outcome.results if result.error]
    assert scene.pve.state.mappings["card"].map == [GPU_LINE, GPU_LINE2]
    assert [entry.method for entry in scene.pve.state.writes] == ["POST", "PUT", "PUT"]


@pytest.mark.parametrize("user, token", [("root@pam", ("full", "secret")), ("admin@pve", None)])
def test_only_root_may(scene: Scene, user: str, token: tuple[str, str] | None) -> None:
    scene.pve.state.users["root@pam"] = User(tokens={"full": Token("secret", separate=False)})
    scene.pve.state.users["admin@pve"] = User("word", {"/": "Administrator"})
    with (
        client_of(scene.pve, user, "word", token) as client,
        pytest.raises(
            ApiDeniedError,
            match="an address or ROM file can be replaced, by a mapping too, by root@pam with its password only",
        ) as info,
    ):
        migration_apply.apply(client, migration.read(client, [100], name="card"))
    assert "as root@pam, which makes card first: pvepassthru migrate-to-mapping 100 --apply" in info.value.hint
    assert "qm set" not in info.value.hint, "a mapping is named that is not there"
    assert scene.pve.state.writes == []


def test_a_locked_vm_is_told_before_anything_is_made(scene: Scene) -> None:
    scene.pve.state.vm(101).text += "lock: backup\n"
    with pytest.raises(ApiConflictError, match="VM 101 on node pve1 is locked"):
        migration_apply.apply(scene.client, scene.read(100, 101))
    assert scene.pve.state.writes == []


def test_a_mapping_that_is_refused_leaves_the_vms_alone(scene: Scene) -> None:
    scene.pve.faults.answer(500, path="/mapping/pci", write=2, times=None)
    with pytest.raises(ApiError):
        migration_apply.apply(scene.client, scene.read(101))
    assert "03:10.1" in scene.config(101)["hostpci3"]
    assert "nic-pve1-03-10-1" not in scene.pve.state.mappings


@pytest.mark.parametrize("moment", get_args(Moment))
@pytest.mark.parametrize("write", [1, 2, 3])
def test_cut(scene: Scene, moment: Moment, write: int) -> None:
    """Each VM is as before or as planned, and there is no mapping that no VM has."""
    before = {vmid: scene.config(vmid)["hostpci0"] for vmid in (100, 102)}
    found = scene.read(100, 102)
    after = {change.vmid: change.keys[0].new for change in found.changes}
    scene.pve.faults.cut(moment, write=write)
    try:
        migration_apply.apply(scene.client, found)
    except ApiError as error:
        assert "was not changed" in error.message, "a mapping that could not be made"  # noqa: PT017 - not always
        assert write <= 2
    for vmid in (100, 102):
        config = scene.pve.state.vm(vmid).config
        assert (config.main["hostpci0"], config.pending) in ((before[vmid], {}), (after[vmid], {}))
    used = {scene.config(vmid)["hostpci0"].partition(",")[0] for vmid in (100, 102)}
    assert {f"mapping={name}" for name in scene.pve.state.mappings} == {
        one for one in used if one.startswith("mapping=")
    }


@pytest.mark.parametrize("status", [401, 403, 596])
def test_a_vm_that_is_refused_leaves_no_mapping_of_its_own(scene: Scene, status: int) -> None:
    before = scene.config(101)
    scene.pve.faults.answer(status, path="/qemu/101/config", write=1, times=None)
    outcome = migration_apply.apply(scene.client, scene.read(100, 101))
    assert [bool(result.error) for result in outcome.results] == [False, True]
    assert list(scene.pve.state.mappings) == ["gpu-pve1-01-00"]
    assert scene.config(101) == before
    assert any("nic-pve1-03-10-0 was removed again" in note for note in outcome.notes)


def test_a_mapping_that_somebody_took_meanwhile_stays(scene: Scene) -> None:
    found = scene.read(102)
    scene.pve.faults.answer(403, path="/qemu/102/config", write=1, times=None)
    scene.pve.faults.meddle(
        lambda state: state.vm(101).change(hostpci1="mapping=gpu-pve1-01-00-0"), path="/qemu/102/config", write=1
    )
    migration_apply.apply(scene.client, found)
    assert list(scene.pve.state.mappings) == ["gpu-pve1-01-00-0"]


def _made_by_another(state: State, name: str, line: str) -> None:
    found = state.mappings
    found[name] = Mapping([line])
    state.write_mappings(found)


def test_an_equal_mapping_that_somebody_else_made_stays(scene: Scene) -> None:
    found = scene.read(100)
    scene.pve.faults.meddle(lambda state: _made_by_another(state, "gpu-pve1-01-00", GPU_LINE), write=1)
    scene.pve.faults.answer(403, path="/qemu/100/config", write=1, times=None)
    outcome = migration_apply.apply(scene.client, found)
    assert [bool(result.error) for result in outcome.results] == [True]
    assert list(scene.pve.state.mappings) == ["gpu-pve1-01-00"]
    assert [entry.method for entry in scene.pve.state.writes if entry.method == "DELETE"] == []
    assert outcome.notes[-1] == "mapping gpu-pve1-01-00 stays, since somebody else made it meanwhile"


def test_what_a_mapping_got_for_a_vm_that_failed_is_told(scene: Scene) -> None:
    scene.pve.state.mapping_text = mapping("card", GPU_LINE2)
    scene.pve.faults.answer(403, path="/qemu/100/config", write=1, times=None)
    outcome = migration_apply.apply(scene.client, scene.read(100, name="card"))
    assert scene.pve.state.mappings["card"].map == [GPU_LINE2, GPU_LINE]
    assert outcome.notes == ("mapping card keeps what it got for pve1, though no VM of these has it now",)


def test_a_new_mapping_of_which_one_node_has_no_vm_after_all(scene: Scene) -> None:
    scene.vm(201, "hostpci0: 81:00\n", "pve2")
    scene.pve.faults.answer(403, path="/qemu/201/config", write=1, times=None)
    outcome = migration_apply.apply(scene.client, scene.read(100, 201, name="card"))
    assert scene.pve.state.mappings["card"].map == [GPU_LINE, GPU_LINE2]
    assert outcome.notes == ("mapping card keeps what it got for pve2, though no VM of these has it now",)


def test_new_mappings_that_stay_are_told(scene: Scene) -> None:
    scene.vm(300, "memory: 512\n", "pve3")
    found = scene.read(101)
    scene.pve.faults.answer(403, path="/qemu/101/config", write=1, times=None)
    scene.pve.faults.answer(500, path="/qemu/300/config", times=None)
    outcome = migration_apply.apply(scene.client, found)
    names = ["nic-pve1-03-10-0", "nic-pve1-03-10-1"]
    assert sorted(scene.pve.state.mappings) == names
    for name, note in zip(names, outcome.notes, strict=True):
        assert note.startswith(f"the new mapping {name} stays: whether a VM has it cannot be told (VM 300 on node pve3")


def test_what_stays_is_told_with_the_error_of_a_mapping(scene: Scene) -> None:
    found = scene.read(101)
    scene.pve.faults.answer(500, path="/mapping/pci", write=2, times=None)
    with pytest.raises(ApiError, match=r"is as it was; the new mapping nic-pve1-03-10-0 stays, though no VM has it"):
        migration_apply.apply(scene.client, found)
    assert list(scene.pve.state.mappings) == ["nic-pve1-03-10-0"]


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), EndedError("ended by SIGTERM")], ids=["ctrl-c", "signal"])
@pytest.mark.parametrize("refused", ["vm", "mapping"])
def test_what_an_interrupt_on_the_way_back_leaves_is_told(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, ending: BaseException, refused: str
) -> None:
    found = scene.read(101)
    if refused == "vm":
        scene.pve.faults.answer(403, path="/qemu/101/config", write=1, times=None)
    else:
        scene.pve.faults.answer(500, path="/mapping/pci", write=2, times=None)

    def end(*_: object) -> None:
        raise ending

    monkeypatch.setattr(mapping_apply, "take_back", end)
    left = "interrupted on the way back, so mapping nic-pve1-03-10-0.* may be left, though no VM may have it"
    with pytest.raises(type(ending), match=left):
        migration_apply.apply(scene.client, found)
    assert "nic-pve1-03-10-0" in scene.pve.state.mappings


def test_a_node_without_vms_that_is_down_keeps_no_mapping(scene: Scene) -> None:
    found = scene.read(100)
    scene.pve.take_down("pve3")
    scene.pve.faults.answer(403, path="/qemu/100/config", write=1, times=None)
    outcome = migration_apply.apply(scene.client, found)
    assert outcome.notes == ("mapping gpu-pve1-01-00 was removed again, since no VM has it",)


def test_vms_are_read_once_however_many_mappings_there_are(scene: Scene) -> None:
    found = scene.read(101)
    scene.pve.faults.answer(403, path="/qemu/101/config", write=1, times=None)
    before = len(scene.pve.state.log)
    outcome = migration_apply.apply(scene.client, found)
    assert [note.endswith("was removed again, since no VM has it") for note in outcome.notes] == [True, True]
    asked = [entry.path for entry in list(scene.pve.state.log)[before:]]
    for vmid in (100, 102):
        assert [path for path in asked if f"/qemu/{vmid}/" in path] == [f"/nodes/pve1/qemu/{vmid}/config"]
