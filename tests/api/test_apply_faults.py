# SPDX-License-Identifier: Apache-2.0
"""Each write of a change with each fault: it ends with the former config or the whole new one, and a clear sentence."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pvepassthru.api import mapping_apply, reading, restore
from pvepassthru.api.apply import apply
from pvepassthru.model.errors import (
    ApiCertificateError,
    ApiConflictError,
    ApiDeniedError,
    ApiError,
    ApiMissingError,
    ApiPartialError,
    ApiUnreachableError,
    ApiUnsureError,
    EndedError,
    PassthruError,
)
from tests.api.applying import BY_MAPPING, EFI, PART, TEXT, WANTED, change_of, client_by_ca, fake_cluster, held
from tests.api.fake_pve.change import take_effect
from tests.api.fake_pve.server import FakePve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pvepassthru.api.change import Change
    from pvepassthru.api.client import Client
    from tests.api.applying import Held
    from tests.api.fake_pve.faults import Fault
    from tests.api.fake_pve.state import State

TOLD = (restore.SETTLING, mapping_apply.SETTLE)
"""As they are without these tests."""
FIRST_READS = 2
"""Requests to the VM's node before the first write of PART: the reading of its config, and of the node's storages."""
TWO_KEYS = 2
"""Which write of PART has two keys; of the others a worker that dies leaves all that there is pending."""
SLOW = 0.6
"""Seconds until an answer comes; the clients of these tests wait half of it."""


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PAUSES", (0.01,))
    monkeypatch.setattr(reading, "PATIENCE", 0.3)
    monkeypatch.setattr(restore, "SETTLING", 0.03)
    monkeypatch.setattr("pvepassthru.api.client.BACKOFF", (0.01,))


@pytest.fixture(scope="module")
def one() -> Iterator[FakePve]:
    with FakePve(fake_cluster(), doors=("pve1", "pve2")) as fake:
        yield fake


@pytest.fixture(params=[False, True], ids=["stopped", "running"])
def pve(request: pytest.FixtureRequest, one: FakePve) -> Iterator[FakePve]:
    """The cluster as it was at first; many tests share one, since its sockets take their time."""
    vm = one.state.vm(100)
    vm.node, vm.text, vm.running = "pve1", TEXT, request.param
    one.state.volumes.clear()
    one.state.log.clear()
    yield one
    one.faults.clear()


def client_with(pve: FakePve, *, timeout: float = 10.0, token: bool = False) -> Client:
    """root@pam by password, or a user's token."""
    return (
        client_by_ca(pve, "op@pve", ("all", "s3cret"), timeout=timeout) if token else client_by_ca(pve, timeout=timeout)
    )


def whole(before: Held, values: dict[str, str | None]) -> dict[str, str]:
    """The config as the next start takes it, with a change made."""
    new = {key: text for key, text in values.items() if text is not None}
    kept = {key: text for key, text in before.effective.items() if values.get(key, "") is not None}
    return kept | new | ({"efidisk0": EFI} if "efidisk0" in new else {})


def failed(client: Client, change: Change, kind: type[PassthruError], **more: bool) -> PassthruError:
    """The error of a change: a sentence about the VM, without the traces of a program, of just this class."""
    with pytest.raises(PassthruError) as info:
        apply(client, change, **more)
    text = str(info.value)
    assert type(info.value) is kind, text
    assert f"VM {change.vmid}" in text
    assert not re.search(r"Traceback|object at|\n|s3cret|correct horse|PVE:root|CutError|requests\.", text), text
    return info.value


class Case(NamedTuple):
    """A fault at one write, and how the change ends with it."""

    inject: Callable[[FakePve, int], Fault]
    kind: type[ApiError] | None
    """The class of the error when the former config is there again; None: it is made for all that."""


def stop(pve: FakePve, node: str) -> None:
    """Close a node's door from the thread of a request to another one."""
    threading.Thread(target=pve.take_down, args=(node,)).start()


def meddled(state: State) -> None:
    state.vm(100).change(cores="7")


CASES = {
    "cut before": Case(lambda pve, at: pve.faults.cut("before", write=at), None),
    "cut before, twice": Case(lambda pve, at: pve.faults.cut("before", write=at, times=2), ApiUnreachableError),
    "cut during": Case(lambda pve, at: pve.faults.cut("during", write=at), None),
    "cut after": Case(lambda pve, at: pve.faults.cut("after", write=at), None),
    "cut in the answer": Case(lambda pve, at: pve.faults.cut("answer", write=at), None),
    "no JSON": Case(lambda pve, at: pve.faults.not_json(write=at), None),
    "401": Case(lambda pve, at: pve.faults.answer(401, write=at), None),
    "401, twice": Case(lambda pve, at: pve.faults.answer(401, write=at, times=2), ApiDeniedError),
    "403": Case(lambda pve, at: pve.faults.answer(403, write=at), ApiDeniedError),
    "500": Case(lambda pve, at: pve.faults.answer(500, write=at), ApiError),
    "595": Case(lambda pve, at: pve.faults.answer(595, write=at), None),
    "596": Case(lambda pve, at: pve.faults.answer(596, write=at), None),
    "596, twice": Case(lambda pve, at: pve.faults.answer(596, write=at, times=2), ApiUnreachableError),
    "503": Case(lambda pve, at: pve.faults.answer(503, write=at), None),
    "digest conflict": Case(lambda pve, at: pve.faults.meddle(meddled, write=at), ApiConflictError),
}


@pytest.mark.parametrize("at", [1, 2, 3, 4])
@pytest.mark.parametrize("name", CASES)
def test_each_write_with_each_fault(pve: FakePve, name: str, at: int) -> None:
    before = held(pve)
    kind = ApiUnreachableError if (name, at) == ("cut during", TWO_KEYS) else CASES[name].kind
    with client_with(pve) as client:
        change = change_of(client, PART)
        fault = CASES[name].inject(pve, at)
        if kind is None:
            apply(client, change)
        else:
            error = failed(client, change, kind)
            assert "is as it was" in error.message
    assert fault.happened
    now = held(pve)
    meddling = {"cores": "7"} if name == "digest conflict" else {}
    if kind is None:
        assert now.effective == whole(before, PART)
        assert list(now.volumes) == ["local-lvm:vm-100-disk-1"]
        assert pve.state.vm(100).running or (now.pending, now.deletes) == ({}, [])
    elif meddling:
        assert now == before._replace(text=now.text, main=before.main | meddling)
    else:
        assert now == before


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_an_answer_that_comes_too_late(pve: FakePve, at: int) -> None:
    before = held(pve)
    with client_with(pve, timeout=SLOW / 2) as client:
        change = change_of(client, PART)
        fault = pve.faults.slow(SLOW, write=at)
        apply(client, change)
    assert fault.happened
    assert held(pve).effective == whole(before, PART)


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_refused_in_the_middle(pve: FakePve, at: int, status: int) -> None:
    before = held(pve)
    with client_with(pve, token=True) as client:
        change = change_of(client, BY_MAPPING)
        pve.faults.answer(status, write=at)
        error = failed(client, change, ApiDeniedError)
    assert "is as it was" in error.message
    assert held(pve) == before


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_login_that_runs_out_in_the_middle(pve: FakePve, at: int) -> None:
    before = held(pve)
    with client_with(pve) as client:
        change = change_of(client, PART)
        pve.faults.meddle(lambda state: state.expire_tickets(), write=at)
        apply(client, change)
    assert held(pve).effective == whole(before, PART)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_permission_that_is_taken_in_the_middle(pve: FakePve, at: int) -> None:
    """What cannot be undone without it is said with the commands; given back in time it is undone."""
    before = held(pve)
    acl = pve.state.users["op@pve"].acl
    try:
        with client_with(pve, token=True) as client:
            change = change_of(client, BY_MAPPING)
            pve.faults.meddle(lambda state: take(state, {"/vms": "PVEAuditor"}), write=at)
            error = failed(client, change, ApiDeniedError if at == 1 else ApiPartialError)
    finally:
        take(pve.state, acl)
    if at == 1:
        assert held(pve) == before
    else:
        assert "hostpci1 is mapping=nic,pcie=1 (new" in error.message
        assert "to undo it: qm set 100 " in error.hint
        assert "--delete hostpci1" in error.hint
        assert "to finish it: qm set 100" in error.hint
        assert "--bios ovmf" in error.hint


def take(state: State, acl: Mapping[str, str]) -> None:
    state.users["op@pve"] = replace(state.users["op@pve"], acl=acl)


def test_the_way_back_is_the_way_there_reversed(pve: FakePve) -> None:
    """So that nothing in between is what PVE would start with a device and without what it needs."""
    with client_with(pve) as client:
        change = change_of(client, PART)
        pve.faults.answer(500, write=4)
        failed(client, change, ApiError)
    sent = [sorted(entry.params.keys() - {"digest"}) for entry in pve.state.writes]
    assert sent[4:] == [["balloon"], ["delete", "machine"], ["delete"]]
    assert pve.state.writes[-1].params["delete"] == ["hostpci0"]


# ---- nodes and certificates


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_host_that_goes_down_while_another_is_there(pve: FakePve, at: int) -> None:
    """The profile has both; requests to the VM's node go through the other one, and come to nothing then."""
    before = held(pve)
    with client_with(pve) as client:
        change = change_of(client, PART)
        pve.faults.meddle(lambda _: stop(pve, "pve2"), write=at)
        apply(client, change)
    pve.bring_up("pve2")
    assert held(pve).effective == whole(before, PART)


@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_node_that_goes_down_for_good(pve: FakePve, at: int) -> None:
    before = held(pve)
    with client_with(pve) as client:
        change = change_of(client, PART)
        pve.faults.answer(596, path="/nodes/pve1/", request=FIRST_READS + 2 * at, times=None)
        error = failed(client, change, ApiUnsureError if at == 1 else ApiPartialError)
    assert "it is not known how VM 100 on node pve1 is" in error.message
    if at > 1:
        assert "hostpci0 is 0000:01:00,pcie=1,x-vga=1 (new" in error.message
        assert "to undo it: qm set 100 " in error.hint
    now = held(pve).effective
    done = [key for key in PART if now.get(key) != before.effective.get(key)]
    assert len(done) == {1: 1, 2: 3, 4: 5}[at]


@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_node_that_comes_back_in_time(pve: FakePve, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PATIENCE", 20.0)
    before = held(pve)
    with client_with(pve) as client:
        change = change_of(client, PART)
        pve.faults.answer(596, path="/nodes/pve1/", request=FIRST_READS + 2 * at, times=20)
        apply(client, change)
    assert held(pve).effective == whole(before, PART)


@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_wrong_certificate_in_the_middle(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakePve(fake_cluster()) as pve:
        before = held(pve)
        with client_with(pve) as client:
            change = change_of(client, PART)
            sent: list[int] = []
            put = client.put

            def exchanged(path: str, **params: object) -> object:
                sent.append(1)
                if len(sent) == at:
                    pve.use_certificate("pve1", "stranger")
                return put(path, **params)

            monkeypatch.setattr(client, "put", exchanged)  # as if somebody got in between just then
            error = failed(client, change, ApiCertificateError if at == 1 else ApiPartialError)
        if at == 1:
            assert "VM 100 on node pve1 is as it was" in error.message
            assert held(pve) == before
        else:
            assert "the certificate of" in error.message
            assert "hostpci0 is 0000:01:00,pcie=1,x-vga=1 (new" in error.message


# ---- others at work


def test_a_vm_that_moves_in_the_middle(pve: FakePve) -> None:
    before = held(pve)
    with client_with(pve) as client:
        change = change_of(client, PART)
        pve.faults.meddle(lambda state: setattr(state.vm(100), "node", "pve2"), write=3)
        error = failed(client, change, ApiMissingError)
    assert "VM 100 on node pve2 is as it was" in error.message
    assert "it is on node pve2 by now" in error.message
    assert held(pve) == before


def test_a_vm_that_is_removed_in_the_middle(pve: FakePve) -> None:
    vm = pve.state.vm(100)

    def remove(state: State) -> None:
        del state.vms[100]

    with client_with(pve) as client:
        change = change_of(client, PART)
        pve.faults.meddle(remove, write=3)
        failed(client, change, ApiPartialError)
    pve.state.vms[100] = vm


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_lock_that_comes_in_the_middle_and_goes(pve: FakePve, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PATIENCE", 20.0)
    before = held(pve)
    with client_with(pve) as client:
        change = change_of(client, PART)
        pve.faults.meddle(lambda state: state.vm(100).change(lock="backup"), write=at)
        pve.faults.meddle(lambda state: state.vm(100).change(lock=None), write=at + (2 if at > 1 else 0))
        if at > 1:
            error = failed(client, change, ApiConflictError)
            assert "is as it was" in error.message
            assert held(pve) == before
        else:
            pve.faults.clear()


def test_a_lock_that_stays(pve: FakePve) -> None:
    with client_with(pve) as client:
        change = change_of(client, PART)
        pve.faults.meddle(lambda state: state.vm(100).change(lock="backup"), write=2)
        error = failed(client, change, ApiPartialError)
    assert "hostpci0 is 0000:01:00,pcie=1,x-vga=1 (new" in error.message
    assert "its other keys are as before" in error.message
    assert "locked" in error.message


def test_what_somebody_else_writes_meanwhile_stays(pve: FakePve) -> None:
    before = held(pve)
    with client_with(pve) as client:
        change = change_of(client, PART)
        pve.faults.meddle(lambda state: state.vm(100).change(hostpci0="mapping=nic", tags="theirs"), write=2)
        error = failed(client, change, ApiConflictError)
    now = held(pve)
    assert now.main["tags"] == "theirs"
    assert now.main["hostpci0"] == "mapping=nic"
    assert now.effective["hostpci0"] == "mapping=nic", "ours, where it waits, is dropped, and theirs is not deleted"
    assert (now.pending, now.deletes) == ({}, [])
    assert "somebody else has set hostpci0 meanwhile, which stays" in error.message
    for key in ("machine", "vga", "balloon", "efidisk0"):
        assert now.main.get(key) == before.main.get(key)


OVER: dict[str, str | None] = {"machine": "pc-q35-9.0", "hostpci3": None, "efidisk0": WANTED["efidisk0"], "cpu": "host"}
"""A value over another, a deletion, a volume, and one more write, at which it is given up."""


@pytest.mark.parametrize("theirs", ["pc-q35-8.1", "pc-q35-9.0", None])
def test_theirs_in_force_under_ours_that_waits(pve: FakePve, theirs: str | None) -> None:
    """Whatever somebody else puts in force under it by hand stays, even what we wrote, even its deletion."""
    vm = pve.state.vm(100)
    vm.running = True
    before = held(pve)
    hand: dict[str, str | None] = {"machine": theirs, "hostpci3": "mapping=nic", "cpu": "kvm64"}
    with client_with(pve) as client:
        change = change_of(client, OVER)
        pve.faults.meddle(lambda state: state.vm(100).change(**hand), path="/config", write=4)
        error = failed(client, change, ApiConflictError)
    now = held(pve)
    left = {key: text for key, text in (before.main | hand).items() if text is not None}
    assert {key: text for key, text in now.main.items() if not key.startswith("unused")} == left
    assert now.effective == now.main
    assert (now.pending, now.deletes) == ({}, [])
    assert "is as it was" in error.message
    for key in ("machine", "hostpci3"):
        assert re.search(rf"somebody else has set .*\b{key}\b.* meanwhile, which stays", error.message)
    reverted = [word for entry in pve.state.writes for word in ",".join(entry.params.get("revert", [])).split(",")]
    assert {"machine", "hostpci3"} <= set(reverted)


def test_what_waited_before_comes_back_over_theirs(pve: FakePve) -> None:
    """Without us it would wait there still."""
    vm = pve.state.vm(100)
    vm.running = True
    vm.text = f"{TEXT}\n[PENDING]\nmachine: pc\n"
    with client_with(pve) as client:
        change = change_of(client, {"machine": "q35", "cpu": "host"})
        pve.faults.meddle(lambda state: state.vm(100).change(machine="pc-q35-8.1"), write=2)
        failed(client, change, ApiConflictError)
    now = held(pve)
    assert (now.main["machine"], now.pending) == ("pc-q35-8.1", {"machine": "pc"})


def test_how_to_drop_ours_over_theirs_by_hand(pve: FakePve) -> None:
    """The command that is told does not destroy theirs either."""
    vm = pve.state.vm(100)
    vm.running = True
    with client_with(pve) as client:
        change = change_of(client, PART)
        pve.faults.meddle(lambda state: state.vm(100).change(hostpci0="mapping=nic", lock="backup"), write=2)
        error = failed(client, change, ApiPartialError)
    assert "to undo it: qm set 100 --revert hostpci0; to finish it" in error.hint


@pytest.mark.parametrize("at", [1, 2, 3])
def test_somebody_else_writes_between_a_write_and_its_reading(pve: FakePve, at: int) -> None:
    before = held(pve)
    with client_with(pve) as client:
        change = change_of(client, PART)
        pve.faults.meddle(meddled, path="/pending", request=at + 1)
        error = failed(client, change, ApiConflictError)
    assert "is as it was: somebody else has changed cores of VM 100 meanwhile" in error.message
    now = held(pve)
    assert now == before._replace(text=now.text, main=before.main | {"cores": "7"})


def test_somebody_else_writes_on_the_way_back(pve: FakePve) -> None:
    """What is written back has a digest as well, so that theirs stays."""
    with client_with(pve) as client:
        change = change_of(client, PART)
        pve.faults.answer(500, write=2)
        pve.faults.meddle(theirs, write=3)
        error = failed(client, change, ApiError)
    assert held(pve).effective["hostpci0"] == "mapping=nic"
    assert "somebody else has set hostpci0 meanwhile, which stays" in error.message


def theirs(state: State) -> None:
    config = state.vm(100).config
    config.set("hostpci0", "mapping=nic")
    state.vm(100).write(config)
    if not state.vm(100).running:
        take_effect(state.vm(100))


def test_pending_values_of_others_that_come_in_the_middle(pve: FakePve) -> None:
    """While the VM runs they stay; else the way back makes them effective, which cannot be helped, and it is said."""
    before = held(pve)

    def act(state: State) -> None:
        config = state.vm(100).config
        config.pending["memory"] = "1024"
        state.vm(100).write(config)

    with client_with(pve) as client:
        change = change_of(client, PART)
        pve.faults.meddle(act, write=2)
        error = failed(client, change, ApiConflictError)
    now = held(pve)
    assert "somebody else" in error.message or "changed" in error.message
    if pve.state.vm(100).running:
        assert (now.main, now.pending) == (before.main, {"memory": "1024"})
    else:
        assert now.main == before.main | {"memory": "1024"}


def test_the_vm_starts_in_the_middle() -> None:
    with FakePve(fake_cluster()) as pve, client_with(pve) as client:
        before = held(pve)
        pve.faults.meddle(lambda state: setattr(state.vm(100), "running", True), write=3)
        done = apply(client, change_of(client, PART))
        assert set(done.pending) == {"efidisk0"}
        assert held(pve).effective == whole(before, PART)


# ---- the new volume


def test_a_volume_of_ours_is_removed(pve: FakePve, monkeypatch: pytest.MonkeyPatch) -> None:
    """PVE answered that it made it, and then nothing can be read for a while."""
    monkeypatch.setattr(reading, "PATIENCE", 0.0)
    before = held(pve)
    with client_with(pve) as client:
        change = change_of(client, PART)
        pve.faults.meddle(lambda _: blind(pve), write=4)
        error = failed(client, change, ApiUnreachableError)
    assert "is as it was" in error.message
    assert held(pve) == before


def test_a_volume_that_may_be_anothers_is_left(pve: FakePve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PATIENCE", 0.0)
    before = held(pve)
    with client_with(pve) as client:
        change = change_of(client, PART)
        pve.faults.meddle(lambda _: blind(pve), write=4)
        pve.faults.cut("after", write=4)
        error = failed(client, change, ApiUnreachableError)
    now = held(pve)
    assert "volume local-lvm:vm-100-disk-1 is left as unused0" in error.message
    assert "qm set 100 --delete unused0" in error.message
    assert now.main == before.main | {"unused0": "local-lvm:vm-100-disk-1"}
    assert now.pending == {}


def blind(pve: FakePve) -> None:
    """Let one reading come to nothing."""
    pve.faults.answer(596, path="/pending")


# ---- interrupted


@pytest.mark.parametrize("at", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, EndedError, ZeroDivisionError])
def test_it_is_interrupted(pve: FakePve, at: int, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    before = held(pve)
    with client_with(pve) as client:
        change = change_of(client, PART)
        put, sent = client.put, []

        def stopped(path: str, **params: object) -> object:
            sent.append(path)
            answer = put(path, **params)
            if len(sent) == at:
                raise kind("just now")
            return answer

        monkeypatch.setattr(client, "put", stopped)
        with pytest.raises(kind) as info:
            apply(client, change)
    assert "VM 100 on node pve1 is as it was" in " ".join([str(info.value), *getattr(info.value, "__notes__", ())])
    now = held(pve)
    assert now.effective == before.effective | ({"unused0": "local-lvm:vm-100-disk-1"} if at == 4 else {})
    assert now.pending == {}


@pytest.mark.parametrize("kind", [KeyboardInterrupt, EndedError])
def test_it_is_interrupted_on_the_way_back(
    pve: FakePve, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    with client_with(pve) as client:
        change = change_of(client, PART)
        put, sent = client.put, []

        def stopped(path: str, **params: object) -> object:
            sent.append(path)
            if len(sent) >= 2:
                raise kind("just now")
            return put(path, **params)

        monkeypatch.setattr(client, "put", stopped)
        with pytest.raises(kind, match=r"on the way back: hostpci0, machine, vga of VM 100 may have"):
            apply(client, change)


def test_a_write_that_is_done_after_its_sender_gave_up(pve: FakePve, monkeypatch: pytest.MonkeyPatch) -> None:
    """PVE is at it still when the interruption comes, and does it while the way back is being looked for."""
    monkeypatch.setattr(restore, "SETTLING", 20.0)
    before = held(pve)
    with client_with(pve) as client:
        change = change_of(client, PART)
        put = client.put
        threads: list[threading.Thread] = []

        def slow(path: str, **params: object) -> object:
            if threads:
                return put(path, **params)
            threads.append(threading.Thread(target=late, args=(path, params)))
            threads[0].start()
            raise KeyboardInterrupt

        def late(path: str, params: dict[str, object]) -> None:
            for _ in range(1000):
                if any(entry.path.endswith("/pending") for entry in list(pve.state.log)[asked:]):
                    break
                time.sleep(0.005)
            put(path, **params)

        asked = len(pve.state.log) + 1
        monkeypatch.setattr(client, "put", slow)
        with pytest.raises(KeyboardInterrupt, match="is as it was: the change was interrupted"):
            apply(client, change)
        threads[0].join()
    assert len(pve.state.writes) == 2, "the late one, and its undoing"
    assert held(pve) == before


def test_what_may_come_late_is_awaited_longer_than_pve_waits() -> None:
    """PVE waits 10 s for a lock; what it does after that has been given up."""
    assert (sum(reading.SETTLING), reading.SETTLING) == TOLD
    assert sum(reading.SETTLING) > 11


def test_a_refusal_is_not_waited_for(pve: FakePve, monkeypatch: pytest.MonkeyPatch) -> None:
    """PVE has answered, so nothing comes late."""
    monkeypatch.setattr(restore, "SETTLING", 20.0)
    with client_with(pve) as client:
        change = change_of(client, PART)
        pve.faults.answer(500, write=1)
        failed(client, change, ApiError)
    path = "/nodes/pve1/qemu/100/pending"
    assert [entry.path for entry in pve.state.log].count(path) == 3, "for the change, before the write, and after it"


# ---- two at the same time


@pytest.mark.parametrize("turn", range(6))
def test_two_at_the_same_time(pve: FakePve, turn: int) -> None:
    """Each is made as a whole or not at all, whoever is first."""
    before = held(pve)
    one = {key: PART[key] for key in ("hostpci0", "machine", "vga")}
    other = {"hostpci1": "mapping=nic", "bios": "ovmf", "cpu": "host"}
    ends: list[str] = []

    def work(values: dict[str, str | None], wait: float) -> None:
        with client_with(pve) as client:
            change = change_of(client, values)
            barrier.wait()
            time.sleep(wait)
            try:
                apply(client, change)
            except ApiConflictError:
                ends.append("conflict")
            else:
                ends.append("made")

    barrier = threading.Barrier(2)
    threads = [
        threading.Thread(target=work, args=(one, 0.0)),
        threading.Thread(target=work, args=(other, turn * 0.004)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ends) == 2
    new = {key: text for key, text in held(pve).effective.items() if before.main.get(key) != text}
    wanted = [{key: text for key, text in values.items() if text is not None} for values in (one, other)]
    assert new in ({}, wanted[0], wanted[1], wanted[0] | wanted[1])
    assert ends.count("made") == sum(values.items() <= new.items() for values in wanted)
