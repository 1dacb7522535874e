# SPDX-License-Identifier: Apache-2.0
"""A mapping, or its devices of some nodes, is removed or stays as it was; never while a VM needs it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import pytest

from pvepassthru.api import mapping_apply, mapping_removal
from pvepassthru.model.errors import (
    ApiConflictError,
    ApiDeniedError,
    ApiError,
    ApiMissingError,
    ApiUnreachableError,
    ApiUnsureError,
    NotFoundError,
    UsageError,
)
from tests.api import mapping_cluster
from tests.api.fake_pve.data import User
from tests.api.fake_pve.faults import Moment
from tests.api.fake_pve.mappingtext import Mapping
from tests.api.fake_pve.server import FakePve
from tests.api.fake_pve.state import Vm
from tests.api.mapping_cluster import GPU_LINE, GPU_LINE2, client_of, mapping

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.api.fake_pve.state import State

OTHER_LINE = "node=pve2,path=0000:06:00.0,id=144d:a808"
SECOND = "node=pve2,path=0000:82:00,id=10de:1b80,subsystem-id=1043:8591,iommugroup=41"
LINES = [GPU_LINE, GPU_LINE2, SECOND]
TEXT = mapping("gpu", *LINES, description=7) + mapping("other", OTHER_LINE)
WHOLE: tuple[str, ...] = ()
PART = ("pve2",)
"""Of these nodes; the one is a DELETE, the other a PUT."""
WAYS = {WHOLE: None, PART: [GPU_LINE]}
"""What is left."""
both = pytest.mark.parametrize("nodes", [WHOLE, PART], ids=["whole", "node"])


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping_apply, "SETTLE", (0.01,))
    monkeypatch.setattr("pvepassthru.api.client.BACKOFF", (0.01,))


@pytest.fixture
def pve() -> Iterator[FakePve]:
    with FakePve(mapping_cluster.cluster(TEXT), doors=("pve1", "pve2")) as fake:
        yield fake


def left(pve: FakePve) -> list[str] | None:
    """What the mapping has; the other one is never touched."""
    assert pve.state.mappings["other"] == Mapping([OTHER_LINE])
    found = pve.state.mappings.get("gpu")
    return found.map if found else None


def use(pve: FakePve, vmid: int, node: str, text: str = "hostpci2: mapping=gpu\n", *, running: bool = False) -> None:
    pve.state.vms[vmid] = Vm(node, text, running)


@both
def test_removed_and_read_back(pve: FakePve, nodes: tuple[str, ...]) -> None:
    with client_of(pve) as client:
        removal = mapping_removal.read(client, "gpu", nodes)
        assert (removal.refusal, removal.users) == (None, ())
        assert pve.state.writes == []
        assert mapping_removal.apply(client, removal) == ""
        assert left(pve) == WAYS[nodes]
        if nodes:
            assert pve.state.mappings["gpu"].options["description"] == "7"
        with pytest.raises(NotFoundError):
            mapping_removal.read(client, "gpu", nodes)
    assert len(pve.state.writes) == 1


@pytest.mark.parametrize(
    "nodes, devices, stays",
    [
        ((), ("82:00",), [GPU_LINE, GPU_LINE2]),
        ((), ("82:00.1",), [GPU_LINE, GPU_LINE2]),
        (("pve2",), ("0000:81:00",), [GPU_LINE, SECOND]),
        ((), ("pve1:01:00", "pve2:82:00"), [GPU_LINE2]),
        ((), ("01:00", "81:00", "82:00"), None),
        (("pve1", "pve2"), (), None),
    ],
)
def test_which_devices(pve: FakePve, nodes: tuple[str, ...], devices: tuple[str, ...], stays: list[str] | None) -> None:
    with client_of(pve) as client:
        mapping_removal.apply(client, mapping_removal.read(client, "gpu", nodes, devices))
    assert left(pve) == stays


@pytest.mark.parametrize(
    "nodes, devices, error, message",
    [
        (("pve3",), (), NotFoundError, "mapping gpu has no device on node pve3; it has devices on pve1, pve2"),
        ((), ("pve1:82:00",), NotFoundError, "mapping gpu has no device pve1:82:00; it has 0000:01:00 of node pve1"),
        ((), ("garbage",), UsageError, "garbage is no device"),
    ],
)
def test_what_is_not_there(
    pve: FakePve, nodes: tuple[str, ...], devices: tuple[str, ...], error: type[Exception], message: str
) -> None:
    with client_of(pve) as client:
        with pytest.raises(error) as raised:
            mapping_removal.read(client, "gpu", nodes, devices)
        assert str(raised.value).startswith(message)
        with pytest.raises(ApiMissingError, match="there is no mapping gpus; is gpu meant"):
            mapping_removal.read(client, "gpus")


# ---- who uses it


@pytest.mark.parametrize(
    "text, more",
    [
        ("hostpci2: mapping=gpu\n", {}),
        ("hostpci2: mapping=gpu\n[PENDING]\ndelete: hostpci2\n", {"running": True}),
        ("memory: 512\n[PENDING]\nhostpci2: mapping=gpu\n", {"running": True}),
        ("hostpci2: mapping=gpu\ntemplate: 1\n", {}),
    ],
    ids=["stopped", "until it stops", "from its next start", "template"],
)
@both
def test_not_while_a_vm_uses_it(pve: FakePve, nodes: tuple[str, ...], text: str, more: dict[str, bool]) -> None:
    use(pve, 205, "pve2", text, **more)
    with client_of(pve) as client:
        removal = mapping_removal.read(client, "gpu", nodes)
        assert [(one.vmid, one.node, one.key) for one in removal.users] == [(205, "pve2", "hostpci2")]
        with pytest.raises(ApiConflictError, match=r"in use: VM 205 \(hostpci2.*\) on node pve2") as raised:
            mapping_removal.apply(client, removal)
    leaving = "delete: hostpci2" in text
    assert ("pvepassthru config 205 --remove hostpci2" in raised.value.hint) == (not leaving)
    assert ("stop VM 205 first, whose next start does without it" in raised.value.hint) == leaving
    assert pve.state.writes == []


def test_a_node_where_nobody_uses_it(pve: FakePve) -> None:
    use(pve, 105, "pve1")
    with client_of(pve) as client:
        removal = mapping_removal.read(client, "gpu", PART)
        assert removal.refusal is None
        message = "no VM with mapping gpu can start on node pve2, or be migrated there, any more: VM 105 of other nodes"
        assert removal.notes == (f"{message} uses it",)
        mapping_removal.apply(client, removal)
        assert left(pve) == [GPU_LINE]
        assert mapping_removal.read(client, "gpu", ("pve1",)).refusal, "that would be the last of it"


def test_one_of_several_devices(pve: FakePve) -> None:
    use(pve, 205, "pve2")
    with client_of(pve) as client:
        removal = mapping_removal.read(client, "gpu", (), ("82:00",))
    assert removal.refusal is not None
    assert "mapping apply gpu --prune --exclude pve2:ADDRESS takes one device" in removal.refusal.hint


def test_snapshots_that_use_it_are_told(pve: FakePve) -> None:
    text = "memory: 512\nparent: new\n\n[old]\nhostpci2: mapping=gpu\n\n[new]\nhostpci0: mapping=other\n"
    use(pve, 205, "pve2", text)
    note = "snapshot old of VM 205 on node pve2 uses it: after a rollback the VM does not start there"
    with client_of(pve) as client:
        assert mapping_removal.read(client, "gpu").notes == (note,)
        assert mapping_removal.read(client, "gpu", ("pve2",)).notes == (note,)
        assert mapping_removal.read(client, "gpu", ("pve1",)).notes == ()
        assert mapping_removal.read(client, "gpu", (), ("82:00",)).notes == (), "it may have the other device"
        pve.faults.answer(500, path="/qemu/205/snapshot", times=None)
        (unread,) = mapping_removal.read(client, "gpu").notes
        assert unread.startswith("whether a snapshot of VM 205 on node pve2 uses it cannot be told: ")


@both
def test_a_vm_that_uses_it_since_it_was_read(pve: FakePve, nodes: tuple[str, ...]) -> None:
    with client_of(pve) as client:
        removal = mapping_removal.read(client, "gpu", nodes)
        use(pve, 205, "pve2")
        with pytest.raises(ApiConflictError, match="in use: VM 205"):
            mapping_removal.apply(client, removal)
    assert left(pve) == LINES


@both
def test_a_vm_that_takes_it_just_before_the_write(pve: FakePve, nodes: tuple[str, ...]) -> None:
    """PVE does not look, so it is told afterwards, with the way back."""
    with client_of(pve) as client:
        removal = mapping_removal.read(client, "gpu", nodes)
        pve.faults.meddle(lambda _: use(pve, 205, "pve2"), write=1)
        note = mapping_removal.apply(client, removal)
    assert left(pve) == WAYS[nodes]
    assert note.startswith("mapping gpu is needed by VM 205 (hostpci2) on node pve2, which came meanwhile: ")
    assert "pvepassthru config 205 --remove hostpci2" in note
    assert f"'{SECOND}'" in note


@both
def test_vms_that_cannot_be_read_after_the_write(pve: FakePve, nodes: tuple[str, ...]) -> None:
    use(pve, 205, "pve2", "memory: 512\n")
    with client_of(pve) as client:
        removal = mapping_removal.read(client, "gpu", nodes)
        pve.faults.meddle(lambda _: pve.take_down("pve2"), write=1)
        note = mapping_removal.apply(client, removal)
        assert note.startswith("whether a VM has taken mapping gpu meanwhile cannot be told: node pve2")
    assert left(pve) == WAYS[nodes]


def test_a_vm_that_moves_while_it_is_read(pve: FakePve) -> None:
    """It may be on a node that loses what it needs, whichever it was on."""
    use(pve, 205, "pve1")
    with client_of(pve) as client:
        removal = mapping_removal.read(client, "gpu", PART)
        assert removal.refusal is None
        pve.faults.meddle(lambda state: setattr(state.vm(205), "node", "pve2"), path="/qemu/205/")
        with pytest.raises(ApiConflictError, match="cannot be told: VM 205 on node pve1: it has gone to node pve2"):
            mapping_removal.apply(client, removal)
    assert left(pve) == LINES


def test_a_vm_that_has_gone_where_nobody_can_tell(pve: FakePve) -> None:
    use(pve, 205, "pve1")
    with client_of(pve) as client:
        removal = mapping_removal.read(client, "gpu", PART)
        pve.faults.meddle(lambda state: setattr(state.vm(205), "node", "pve2"), path="/qemu/205/")
        pve.faults.answer(500, path="/cluster/resources", request=2, times=None)
        with pytest.raises(ApiMissingError, match="cannot be told: VM 205 on node pve1"):
            mapping_removal.apply(client, removal)
    assert left(pve) == LINES


@both
def test_a_vm_of_a_node_that_is_not_listed(pve: FakePve, nodes: tuple[str, ...]) -> None:
    """It may be that of a node that joins just now."""
    use(pve, 905, "pve9")
    with client_of(pve) as client:
        removal = mapping_removal.read(client, "gpu", nodes)
        with pytest.raises(ApiError, match="cannot be told: VM 905 on node pve9: that node is not among"):
            mapping_removal.apply(client, removal)
    assert left(pve) == LINES


def test_a_node_that_cannot_be_asked(pve: FakePve) -> None:
    use(pve, 305, "pve3", "memory: 512\n")
    use(pve, 105, "pve1", "memory: 512\n")
    with client_of(pve) as client:
        pve.take_down("pve3")
        removal = mapping_removal.read(client, "gpu")
        assert removal.refusal is not None, "the preview says so too"
        assert "whether a VM uses mapping gpu cannot be told: node pve3" in removal.refusal.message
        with pytest.raises(ApiUnreachableError, match="whether a VM uses mapping gpu cannot be told: node pve3"):
            mapping_removal.apply(client, removal)
        assert left(pve) == LINES
        mapping_removal.apply(client, mapping_removal.read(client, "gpu", ("pve1",)))
    assert left(pve) == [GPU_LINE2, SECOND]


def test_a_user_who_does_not_see_all_vms() -> None:
    half = User("word", {"/": "PVEAuditor", "/vms": "PVEMappingUser", "/mapping": "PVEMappingAdmin"})
    cluster = replace(mapping_cluster.cluster(TEXT), users={"half@pve": half})
    with FakePve(cluster) as pve, client_of(pve, "half@pve", "word") as client:
        removal = mapping_removal.read(client, "gpu")
        with pytest.raises(ApiDeniedError, match="cannot be told: half@pve may not see all VMs") as raised:
            mapping_removal.apply(client, removal)
        assert "VM.Audit on /vms" in raised.value.hint
        assert left(pve) == LINES


def test_the_privilege_is_checked_before_the_write(pve: FakePve) -> None:
    with client_of(pve, "auditor@pve", "word") as client:
        for nodes in (WHOLE, PART):
            with pytest.raises(ApiDeniedError, match=r"auditor@pve may not .* Mapping.Modify on /mapping/pci"):
                mapping_removal.apply(client, mapping_removal.read(client, "gpu", nodes))
    assert pve.state.writes == []
    with client_of(pve, "mapper@pve", "word") as client:
        mapping_removal.apply(client, mapping_removal.read(client, "gpu"))
    assert left(pve) is None


# ---- faults


@both
@pytest.mark.parametrize("moment", get_args(Moment))
def test_cut(pve: FakePve, moment: Moment, nodes: tuple[str, ...]) -> None:
    before = pve.state.mapping_text
    with client_of(pve) as client:
        removal = mapping_removal.read(client, "gpu", nodes)
        fault = pve.faults.cut(moment, write=1)
        if moment in {"after", "answer"}:
            assert "the answer was lost" in mapping_removal.apply(client, removal)
            assert left(pve) == WAYS[nodes]
        else:
            with pytest.raises(ApiUnreachableError, match=r"mapping gpu was not .* and it is as it was"):
                mapping_removal.apply(client, removal)
            assert pve.state.mapping_text == before
    assert fault.happened


@both
@pytest.mark.parametrize("status", [401, 403, 500, 501, 503, 595, 596])
def test_refused_or_lost_on_the_way(pve: FakePve, status: int, nodes: tuple[str, ...]) -> None:
    before = pve.state.mapping_text
    with client_of(pve) as client:
        removal = mapping_removal.read(client, "gpu", nodes)
        fault = pve.faults.answer(status, write=1, times=None)
        with pytest.raises(ApiError, match=r"as it was|not changed"):
            mapping_removal.apply(client, removal)
    assert fault.happened
    assert pve.state.mapping_text == before


@both
def test_lost_and_not_to_be_read(pve: FakePve, nodes: tuple[str, ...]) -> None:
    with client_of(pve) as client:
        removal = mapping_removal.read(client, "gpu", nodes)
        reads = 3 if not nodes else 2  # the overview of the VMs; and of what goes as a whole, what it is just before
        pve.faults.cut("after", write=1)
        pve.faults.answer(503, path="/cluster/mapping/pci", request=reads + 1, times=None)
        with pytest.raises(ApiUnsureError, match=r"cannot be told whether mapping gpu was"):
            mapping_removal.apply(client, removal)
    assert left(pve) == WAYS[nodes]


def test_refused_and_not_to_be_read(pve: FakePve) -> None:
    with client_of(pve) as client:
        removal = mapping_removal.read(client, "gpu")
        pve.faults.answer(403, write=1)
        pve.faults.answer(503, path="/cluster/mapping/pci", request=4, times=None)
        with pytest.raises(ApiDeniedError):
            mapping_removal.apply(client, removal)
    assert left(pve) == LINES


def _meddle(state: State, lines: list[str] | None) -> None:
    found = state.mappings
    found.pop("gpu", None)
    if lines is not None:
        found["gpu"] = Mapping(lines)
    state.write_mappings(found)


@both
def test_changed_since_it_was_read(pve: FakePve, nodes: tuple[str, ...]) -> None:
    with client_of(pve) as client:
        removal = mapping_removal.read(client, "gpu", nodes)
        _meddle(pve.state, [GPU_LINE])
        if nodes:  # it is as it was to become
            assert "somebody else did the same" in mapping_removal.apply(client, removal)
        else:
            with pytest.raises(ApiConflictError, match="has been changed since it was read; nothing was changed"):
                mapping_removal.apply(client, removal)
        assert left(pve) == [GPU_LINE]
        _meddle(pve.state, None)
        with pytest.raises(ApiError, match=r"gone by now|somebody else"):
            mapping_removal.apply(client, removal)
    assert left(pve) is None


def test_changed_during_the_write(pve: FakePve) -> None:
    with client_of(pve) as client:
        removal = mapping_removal.read(client, "gpu")
        pve.faults.meddle(lambda state: _meddle(state, [SECOND]), write=1)
        pve.faults.answer(500, write=1)
        with pytest.raises(ApiConflictError, match="was not removed: somebody else has changed it meanwhile"):
            mapping_removal.apply(client, removal)
    assert left(pve) == [SECOND]


def test_somebody_else_makes_it_again(pve: FakePve) -> None:
    with client_of(pve) as client:
        removal = mapping_removal.read(client, "gpu")
        again = pve.faults.meddle(lambda state: _meddle(state, [SECOND]), path="/cluster/mapping/pci", request=4)
        with pytest.raises(ApiConflictError, match="was removed, and is there again: somebody else made it"):
            mapping_removal.apply(client, removal)
    assert again.happened
    assert left(pve) == [SECOND]


def test_somebody_else_removes_it_too(pve: FakePve) -> None:
    with client_of(pve) as client:
        removal = mapping_removal.read(client, "gpu")
        pve.faults.meddle(lambda state: _meddle(state, None), write=1)
        pve.faults.answer(500, write=1)
        assert "somebody else has removed it meanwhile" in mapping_removal.apply(client, removal)
    assert left(pve) is None
