# SPDX-License-Identifier: Apache-2.0
"""A change is made as a whole, and what stands in its way is said before the first write."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pvepassthru.api import reading
from pvepassthru.api.apply import Applied, apply, apply_all
from pvepassthru.model.errors import ApiConflictError, ApiDeniedError, ApiError, ApiMissingError, ApiUnreachableError
from tests.api.applying import (
    BY_MAPPING,
    EFI,
    MAPPINGS,
    TEXT,
    WANTED,
    WRITES,
    change_of,
    client_by_ca,
    fake_cluster,
    held,
)
from tests.api.fake_pve.data import User
from tests.api.fake_pve.server import FakePve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.api.client import Client


@pytest.fixture
def pve() -> Iterator[FakePve]:
    with FakePve(fake_cluster()) as fake:
        yield fake


@pytest.fixture
def root(pve: FakePve) -> Iterator[Client]:
    with client_by_ca(pve) as client:
        yield client


def writes(pve: FakePve) -> list[dict[str, list[str]]]:
    """What was sent to be changed."""
    return [entry.params for entry in pve.state.writes]


# ---- it is made


def test_the_whole_change(pve: FakePve, root: Client) -> None:
    change = change_of(root, WANTED)
    done = apply(root, change)
    now = held(pve)
    assert done == Applied(100, "pve1", tuple(one.key for one in change.keys), (), ())
    assert (now.pending, now.deletes) == ({}, [])
    assert now.main == {
        "description": "kept as it is",
        "cores": "2",
        "hostpci3": "0000:04:00.0",
        "memory": "2048",
        "name": "one",
        "scsi0": "local-lvm:vm-100-disk-0,size=8G",
        **{key: text for key, text in WANTED.items() if text is not None},
        "efidisk0": EFI,
    }


def test_each_write_has_one_privilege_and_the_digest_before_it(pve: FakePve, root: Client) -> None:
    apply(root, change_of(root, WANTED))
    sent = writes(pve)
    assert len(sent) == WRITES
    assert len({params["digest"][0] for params in sent}) == WRITES
    assert [sorted(params.keys() - {"digest"}) for params in sent] == [
        ["hookscript"],
        ["hostpci0"],
        ["hostpci1"],
        ["machine", "vga"],
        ["bios"],
        ["delete"],
        ["cpu"],
        ["efidisk0"],
    ]


def test_twice_sends_nothing_more(pve: FakePve, root: Client) -> None:
    wanted = {key: text for key, text in WANTED.items() if key != "efidisk0"}
    apply(root, change_of(root, wanted))
    before = held(pve).text
    assert apply(root, change_of(root, wanted)) == Applied(100, "pve1", (), (), ())
    assert len(writes(pve)) == WRITES - 1
    assert held(pve).text == before


def test_nothing_to_change_asks_nothing(pve: FakePve, root: Client) -> None:
    change = change_of(root, {})
    asked = len(pve.state.log)
    apply(root, change)
    assert len(pve.state.log) == asked


def test_a_running_vm_has_it_pending() -> None:
    with FakePve(fake_cluster(running=True)) as pve, client_by_ca(pve) as root:
        before = held(pve)
        done = apply(root, change_of(root, WANTED))
        now = held(pve)
    assert done.written == ("hookscript", "balloon")
    assert set(done.pending) == WANTED.keys() - set(done.written)
    kept = {key: text for key, text in before.main.items() if key != "balloon"}
    new = {key: text for key, text in WANTED.items() if text is not None} | {"efidisk0": EFI}
    assert now.main == kept | {"hookscript": new["hookscript"]}
    assert now.effective == kept | new


def test_by_a_user_with_the_privileges(pve: FakePve) -> None:
    for token in (None, ("all", "s3cret")):
        with client_by_ca(pve, "op@pve", token=token) as client:
            change = change_of(client, BY_MAPPING)
            apply(client, change)
    assert {key: held(pve).main[key] for key in BY_MAPPING} == BY_MAPPING


# ---- it is refused before the first write


def refused(pve: FakePve, client: Client, values: dict[str, str | None], kind: type[ApiError]) -> ApiError:
    """The error of a change of which nothing is sent, and which leaves the VM as it is."""
    change = change_of(client, values)
    before = held(pve)
    with pytest.raises(kind) as info:
        apply(client, change)
    assert type(info.value) is kind
    assert held(pve) == before
    assert not pve.state.writes
    assert "nothing was sent" in info.value.message
    assert info.value.hint
    return info.value


def test_all_that_a_user_may_not_is_said(pve: FakePve) -> None:
    pve.state.users["op@pve"] = User(acl={"/vms/100": "PVEAuditor", "/mapping/pci": "PVEMappingAuditor"})
    with client_by_ca(pve, "op@pve") as client:
        error = refused(pve, client, {**BY_MAPPING, "efidisk0": "local-lvm:1"}, ApiDeniedError)
    assert "hostpci1 needs Mapping.Use on /mapping/pci/nic and VM.Config.HWType on /vms/100" in error.message
    assert "machine needs VM.Config.HWType on /vms/100; bios needs VM.Config.Options on /vms/100" in error.message
    assert "VM.Config.Disk on /vms/100 and Datastore.AllocateSpace on /storage/local-lvm" in error.message


def test_a_token_has_less_than_its_user(pve: FakePve) -> None:
    pve.state.users["op@pve"].tokens["some"].acl["/vms"] = "PVEAuditor"  # type: ignore[index]  # a dict here
    with client_by_ca(pve, "op@pve", token=("some", "s3cret")) as client:
        error = refused(pve, client, {"machine": "q35"}, ApiDeniedError)
    assert "op@pve!some may not" in error.message
    assert "privilege separation" in error.hint


@pytest.mark.parametrize("who", [("root@pam", ("full", "s3cret")), ("op@pve", None)])
def test_what_is_roots_alone(pve: FakePve, who: tuple[str, tuple[str, str] | None]) -> None:
    with client_by_ca(pve, who[0], token=who[1]) as client:
        values = {"hostpci0": "0000:01:00,pcie=1", "hookscript": "local:snippets/pvepassthru", "machine": "q35"}
        error = refused(pve, client, dict(values), ApiDeniedError)
    assert "hostpci0, hookscript can be set by root@pam with its password only" in error.message
    assert "mapping gpu has the device of hostpci0" in error.hint
    assert "qm set 100 --hostpci0 0000:01:00,pcie=1 --hookscript local:snippets/pvepassthru --machine q35" in error.hint


def test_an_address_that_is_replaced_is_roots_too(pve: FakePve) -> None:
    pve.state.vm(100).change(hostpci0="0000:04:00.0")
    with client_by_ca(pve, "op@pve") as client:
        error = refused(pve, client, {"hostpci0": "mapping=gpu"}, ApiDeniedError)
    words = "hostpci0 has 0000:04:00.0 now, and an address or ROM file can be replaced, by a mapping too, by root@pam"
    assert words in error.message
    assert error.hint.startswith("as root on node pve1: qm set 100 --hostpci0 mapping=gpu")
    assert "qm set 100 --delete hostpci0), and then the same can be done without root" in error.hint
    assert "another device could have hostpci1, which is free and needs no root" in error.hint


def test_no_mapping_is_offered_where_none_helps(pve: FakePve) -> None:
    with client_by_ca(pve, "op@pve") as client:
        error = refused(pve, client, {"hostpci3": "0000:02:00.0", "hostpci4": "0000:01:00.0"}, ApiDeniedError)
        assert "mapping" not in error.hint.partition("as root")[0], "the present entry is root's, and gpu is the whole"
        error = refused(pve, client, {"hostpci5": "0000:02:00.0,romfile=x.rom"}, ApiDeniedError)
        assert "mapping" not in error.hint.partition("as root")[0]


@pytest.mark.parametrize("lock", ["backup", "suspended", "something"])
def test_a_locked_vm(pve: FakePve, root: Client, lock: str) -> None:
    pve.state.vm(100).change(lock=lock)
    error = refused(pve, root, WANTED, ApiConflictError)
    assert f"is locked ({lock})" in error.message
    assert "qm unlock 100" in error.hint


def test_all_hindrances_at_once(pve: FakePve) -> None:
    with client_by_ca(pve, "op@pve") as client:
        change = change_of(client, {"hostpci0": "0000:01:00"})
        pve.state.vm(100).change(lock="backup", hostpci0="0000:04:00.0")
        with pytest.raises(ApiConflictError) as info:
            apply(client, change)
    for part in ("changed since it was read (hostpci0)", "locked (backup)", "hostpci0 can be set by root@pam"):
        assert part in info.value.message
    assert not pve.state.writes


def test_changed_since_it_was_read(pve: FakePve, root: Client) -> None:
    change = change_of(root, WANTED)
    pve.state.vm(100).change(cores="4")
    before = held(pve)
    with pytest.raises(ApiConflictError, match=r"changed since it was read; nothing was sent"):
        apply(root, change)
    assert held(pve) == before


def test_without_a_digest_the_values_are_compared(pve: FakePve, root: Client) -> None:
    change = change_of(root, WANTED)
    change = change._replace(before=change.before._replace(digest=None))
    pve.state.vm(100).change(cores="4")
    apply(root, change)
    pve.state.vm(100).change(vga="qxl")
    with pytest.raises(ApiConflictError, match=r"changed since it was read \(.*vga"):
        apply(root, change)
    assert held(pve).main["vga"] == "qxl"


def test_a_vm_that_has_moved_or_is_gone(pve: FakePve, root: Client) -> None:
    change = change_of(root, WANTED)
    pve.state.vm(100).node = "pve2"
    with pytest.raises(ApiConflictError, match=r"VM 100 is on node pve2 by now"):
        apply(root, change)
    del pve.state.vms[100]
    with pytest.raises(ApiMissingError):
        apply(root, change)
    assert not pve.state.writes


def test_a_node_that_is_down(root: Client, pve: FakePve) -> None:
    change = change_of(root, {"cores": None}, 200)
    change = change._replace(keys=change_of(root, WANTED).keys)
    pve.take_down("pve2")
    with pytest.raises(ApiUnreachableError):
        apply(root, change)
    assert not pve.state.writes


def test_what_is_in_force_needs_permission_too(pve: FakePve) -> None:
    """A mapping that waits hides nothing: PVE looks at the address that it is to replace."""
    vm = pve.state.vm(100)
    vm.running = True
    vm.text = f"{TEXT}\n[PENDING]\nhostpci3: mapping=nic\n"
    with client_by_ca(pve, "op@pve", ("all", "s3cret")) as client:
        for new in (None, "mapping=nic,pcie=1"):
            error = refused(pve, client, {"machine": "q35", "hostpci3": new}, ApiDeniedError)
            assert "hostpci3 has 0000:04:00.0 now" in error.message


# ---- pending values of others

PENDING = "\n[PENDING]\ncores: 4\ndelete: name\nvga: qxl\n"


def test_pending_values_of_others_on_a_stopped_vm(pve: FakePve, root: Client) -> None:
    pve.state.vm(100).text = TEXT + PENDING
    error = refused(pve, root, WANTED, ApiConflictError)
    assert "pending changes of others (cores: 4, name deleted)" in error.message, "vga is ours to change"
    assert "qm set 100 --revert cores,name" in error.hint
    done = apply(root, change_of(root, WANTED), take_pending=True)
    assert done.taken == ("cores", "name")
    now = held(pve)
    assert (now.main["cores"], now.main["vga"], "name" in now.main) == ("4", "none", False)
    assert (now.pending, now.deletes) == ({}, [])


def test_pending_values_of_others_on_a_running_vm() -> None:
    with FakePve(fake_cluster(TEXT + PENDING, running=True)) as pve, client_by_ca(pve) as root:
        done = apply(root, change_of(root, WANTED))
        now = held(pve)
    assert done.taken == ("name",), "that one can change while the VM runs, and PVE does it with any write"
    assert now.main["cores"] == "2"
    assert (now.pending["cores"], now.pending["vga"]) == ("4", "none")


# ---- many VMs


def test_one_that_fails_does_not_stop_the_others(pve: FakePve, root: Client) -> None:
    changes = [change_of(root, {"hostpci0": "mapping=nic"}, vmid) for vmid in (100, 101, 102)]
    pve.state.vm(101).change(lock="backup")
    results = list(apply_all(root, changes))
    assert [(result.change.vmid, result.applied is not None) for result in results] == [
        (100, True),
        (101, False),
        (102, True),
    ]
    assert isinstance(results[1].error, ApiConflictError)
    assert "hostpci0" in held(pve, 102).main


def test_it_stops_at_the_first_if_that_is_asked(pve: FakePve, root: Client) -> None:
    changes = [change_of(root, {"hostpci0": "mapping=nic"}, vmid) for vmid in (101, 102)]
    pve.state.vm(101).change(lock="backup")
    assert [result.change.vmid for result in apply_all(root, changes, stop_at_first=True)] == [101]
    assert "hostpci0" not in held(pve, 102).main


def test_the_mappings_of_these_tests_are_read() -> None:
    assert MAPPINGS.count("map node=pve1") == 2
    assert reading.PATIENCE >= 10, "PVE waits that long for a VM's lock"
