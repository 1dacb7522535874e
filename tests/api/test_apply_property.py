# SPDX-License-Identifier: Apache-2.0
"""Random configs and wishes, with and without faults: applied as generated, or as before; twice sends nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pvepassthru.api import cluster, reading, restore
from pvepassthru.api.apply import apply
from pvepassthru.api.generate import generate
from pvepassthru.api.wish import Device, Wish, checked
from pvepassthru.model.errors import ApiConflictError, ApiError, PassthruError
from tests.api import node
from tests.api.applying import client_by_ca, held
from tests.api.fake_pve import options
from tests.api.fake_pve.data import Cluster, Node, Storage, storages
from tests.api.fake_pve.server import FakePve
from tests.api.test_property import GOOD, MAPPINGS, configs, wishes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pvepassthru.api.change import Change
    from pvepassthru.api.client import Client
    from tests.api.applying import Held

VMID = 100
HARDWARE = node.by_api()
KINDS = ("cut before", "cut during", "cut after", "cut answer", "not json", "401", "403", "500", "596", "meddle")


class Both(NamedTuple):
    pve: FakePve
    client: Client


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    places = {**storages(), "zfs1": Storage(), "local-zfs": Storage()}
    with (
        FakePve(Cluster({node.NODE: Node(vms={VMID: ""}, storages=places)})) as pve,
        client_by_ca(pve) as client,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(reading, "PAUSES", (0.001,))
        patch.setattr(reading, "PATIENCE", 20.0)  # no fault here stays, so it is never waited for
        patch.setattr(restore, "SETTLING", 0.005)
        yield Both(pve, client)


def change_for(both: Both, trial: Trial) -> Change | None:
    """The change of a VM as it is to be tried; None where the wish or the node does not allow one."""
    vm = both.pve.state.vm(VMID)
    vm.text, vm.running = trial.text, trial.running
    vm.write(vm.config)
    both.pve.state.volumes.clear()
    return generated(both, trial)


def generated(both: Both, trial: Trial) -> Change | None:
    try:
        return generate(cluster.config(both.client, VMID, node.NODE), checked(trial.asked), HARDWARE, MAPPINGS)
    except PassthruError:
        return None


def is_as_before(before: Held, now: Held, *, running: bool) -> None:
    """The former config, but for what somebody else did, and what PVE itself takes over with any write."""
    others = {"tags": "meddled"} if now.main.get("tags") == "meddled" else {}
    kept = {key: text for key, text in now.effective.items() if not key.startswith("unused")}
    assert kept == before.effective | others
    if running:
        untouched = (before.main.keys() | before.pending.keys() | now.main.keys() | now.pending.keys()) - options.FAST
        wait(before, now, {key for key in untouched if key not in others and not key.startswith("unused")})
    elif not (before.pending or before.deletes):
        assert (now.pending, now.deletes) == ({}, [])


def wait(before: Held, now: Held, keys: Iterable[str]) -> None:
    """These keys are in force, and pending, as before."""
    for key in keys:
        assert now.main.get(key) == before.main.get(key)
        assert waits(now, key) == waits(before, key)


def waits(one: Held, key: str) -> str | bool | None:
    """What waits of a key; a pending value that is in force already is none, nor a deletion of what is not set."""
    if key in one.pending:
        return one.pending[key] if one.pending[key] != one.main.get(key) else None
    return (key in one.deletes and key in one.main) or None


def is_as_generated(before: Held, now: Held, change: Change, *, running: bool) -> None:
    """The next start takes what was generated, and nothing of others has changed but what PVE itself takes over."""
    ours = {one.key for one in change.keys}
    wanted = {key: value for key, value in change.after.values.items() if key != "efidisk0"}
    effective = now.effective
    left = {key for key in effective if key.startswith("unused")}  # PVE keeps the disks that others have replaced
    assert {key: text for key, text in effective.items() if key != "efidisk0" and key not in left} == {
        **{key: text for key, text in before.effective.items() if key not in ours and key != "efidisk0"},
        **{key: text for key, text in wanted.items() if key in ours},
    }
    assert ("efidisk0" in effective) == ("efidisk0" in change.after.values)
    if running:
        wait(before, now, (before.main.keys() | before.pending.keys()) - ours - options.FAST)
    elif change.keys:
        assert (now.pending, now.deletes) == ({}, [])


def others_wait(before: Held, change: Change) -> bool:
    gone = before.main.keys() & set(before.deletes)
    return bool((before.pending.keys() | gone) - {one.key for one in change.keys})


class Trial(NamedTuple):
    """A VM and what is required of it."""

    text: str
    asked: Wish
    running: bool = False
    take: bool = True
    """Whether pending values of others are taken along."""


class Fault(NamedTuple):
    kind: str
    at: int
    """Which write, from 1."""
    times: int = 1


trials = st.builds(Trial, configs(GOOD), wishes(), st.booleans(), st.booleans())
faults = st.builds(Fault, st.sampled_from(KINDS), st.integers(1, 5), st.integers(1, 2))
OF_OTHERS = "machine: q35\n[PENDING]\nname: x\nhostpci0: 04:00.0\n"
OVMF = Wish((Device(kind="nic"),), bios="ovmf", storage="local-lvm")


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(trials)
@example(Trial(OF_OTHERS, OVMF, running=True, take=False))
@example(Trial(OF_OTHERS, OVMF))
@example(Trial(OF_OTHERS, OVMF, take=False))
@example(Trial("lock: backup\n", OVMF))
@example(Trial("[PENDING]\ndelete: machine\nmachine: pc\n", Wish((Device(addresses=("0000:01:00",)),)), running=True))
@example(Trial("[PENDING]\ndelete: machine\nhostpci0: 0000:04:00.0\n", Wish(remove=("hostpci0",)), take=False))
@example(Trial("[PENDING]\nlock: backup\n", OVMF))
def test_applied_as_generated_and_twice_sends_nothing(both: Both, trial: Trial) -> None:
    change = change_for(both, trial)
    if change is None:
        return
    before = held(both.pve, VMID)
    alone = trial.running or trial.take or not others_wait(before, change)
    if change.keys and ("lock" in before.effective or not alone):
        with pytest.raises(ApiConflictError):
            apply(both.client, change, take_pending=trial.take)
        assert held(both.pve, VMID) == before
        return
    apply(both.client, change, take_pending=trial.take)
    is_as_generated(before, held(both.pve, VMID), change, running=trial.running)
    same = generated(both, trial)
    assert same is not None
    sent = len(both.pve.state.writes)
    done = held(both.pve, VMID)
    apply(both.client, same)
    assert len(both.pve.state.writes) == sent
    assert held(both.pve, VMID) == done


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(trials, faults)
@example(Trial("", OVMF), Fault("cut during", 3))
@example(Trial("", OVMF, running=True), Fault("500", 4))
@example(Trial(OF_OTHERS, OVMF), Fault("403", 2))
@example(Trial("[PENDING]\ndelete: machine\nmachine: pc\n", OVMF), Fault("cut before", 2, 2))
def test_with_a_fault_it_is_as_generated_or_as_before(both: Both, trial: Trial, fault: Fault) -> None:
    change = change_for(both, trial)
    if change is None or not change.keys:
        return
    before = held(both.pve, VMID)
    inject(both.pve, fault)
    codes = {9, 10, 12, 13}
    try:
        apply(both.client, change, take_pending=True)
    except ApiError as error:
        codes.intersection_update({error.exit_code})
        is_as_before(before, held(both.pve, VMID), running=trial.running)
    else:
        is_as_generated(before, held(both.pve, VMID), change, running=trial.running)
    finally:
        both.pve.faults.clear()
    assert codes, "an outcome that is not known, or a change that is half made"


def inject(pve: FakePve, fault: Fault) -> None:
    kind, _, moment = fault.kind.partition(" ")
    if kind == "cut":
        assert moment in {"before", "during", "after", "answer"}
        pve.faults.cut(moment, write=fault.at, times=fault.times)  # type: ignore[arg-type]  # just seen
    elif kind == "not":
        pve.faults.not_json(write=fault.at, times=fault.times)
    elif kind == "meddle":
        pve.faults.meddle(lambda state: state.vm(VMID).change(tags="meddled"), write=fault.at)
    else:
        pve.faults.answer(int(kind), write=fault.at, times=fault.times)
