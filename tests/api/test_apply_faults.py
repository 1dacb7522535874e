# SPDX-License-Identifier: Apache-2.0
"""Each write of a change with each fault: it ends with the former config or the whole new one, and a clear sentence."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pvepassthru.api import reading
from pvepassthru.api.apply import apply
from pvepassthru.api.client import connect
from pvepassthru.model.errors import (
    ApiConflictError,
    ApiDeniedError,
    ApiError,
    ApiUnreachableError,
)
from tests.api.applying import EFI, PART, TEXT, change_of, fake_cluster, held
from tests.api.fake_client import profile_of
from tests.api.fake_pve.server import FakePve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pvepassthru.api.client import Client
    from tests.api.applying import Held
    from tests.api.fake_pve.faults import Fault
    from tests.api.fake_pve.state import State

FOREVER = 10_000
"""More requests than any test sends."""
SLOW = 0.6
"""Seconds until an answer comes; the clients of these tests wait half of it."""


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PAUSES", (0.01,))
    monkeypatch.setattr(reading, "PATIENCE", 0.3)
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
    """root@pam by password, or a user's token. By the CA, since that is the faster way for the many connections."""
    profile = profile_of(pve, "op@pve", token=("all", "s3cret")) if token else profile_of(pve)
    endpoints = tuple(endpoint._replace(fingerprint=None) for endpoint in profile.endpoints)
    return connect(replace(profile, endpoints=endpoints, ca_file=pve.ca_file, timeout=timeout))


def whole(before: Held, values: dict[str, str | None]) -> dict[str, str]:
    """The config as the next start takes it, with a change made."""
    new = {key: text for key, text in values.items() if text is not None}
    kept = {key: text for key, text in before.effective.items() if values.get(key, "") is not None}
    return kept | new | ({"efidisk0": EFI} if "efidisk0" in new else {})


def said(error: ApiError, vmid: int = 100) -> None:
    """A sentence: about the VM, without the traces of a program."""
    text = str(error)
    assert f"VM {vmid}" in text
    assert not re.search(r"Traceback|object at|\n|s3cret|correct horse|PVE:root", text)
    assert error.exit_code in {9, 10, 12, 13}


class Case(NamedTuple):
    """A fault at one write, and how the change ends with it."""

    inject: Callable[[FakePve, int], Fault]
    kind: type[ApiError] | None
    """The class of the error when the former config is there again; None: it is made for all that."""


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
    with client_with(pve) as client:
        change = change_of(client, PART)
        fault = CASES[name].inject(pve, at)
        if CASES[name].kind is None:
            apply(client, change)
        else:
            with pytest.raises(ApiError) as info:
                apply(client, change)
            assert type(info.value) is CASES[name].kind
            assert "is as it was" in info.value.message
            said(info.value)
    assert fault.happened
    now = held(pve)
    meddling = {"cores": "7"} if name == "digest conflict" else {}
    if CASES[name].kind is None:
        assert now.effective == whole(before, PART)
        assert list(now.volumes) == ["local-lvm:vm-100-disk-1"]
        assert pve.state.vm(100).running or not (now.pending or now.deletes)
    elif meddling:
        assert now == before._replace(text=now.text, main=before.main | meddling)
    else:
        assert now == before
