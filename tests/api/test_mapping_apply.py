# SPDX-License-Identifier: Apache-2.0
"""A mapping is written as planned or stays as it was, whatever goes wrong, and it is said which."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import pytest

from pvepassthru.api import mapping_apply, mapping_plan, mapping_wish, mappings, nodes
from pvepassthru.api.client import connect
from pvepassthru.api.mapping_plan import Options
from pvepassthru.api.profile import Profile
from pvepassthru.model.errors import (
    ApiConflictError,
    ApiDeniedError,
    ApiError,
    ApiUnreachableError,
    ApiUnsureError,
    UsageError,
)
from tests.api import mapping_cluster
from tests.api.fake_pve.faults import Moment
from tests.api.fake_pve.mappingtext import Mapping
from tests.api.fake_pve.server import FakePve
from tests.api.mapping_cluster import GPU_LINE, GPU_LINE2, client_of, mapping, profile_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pvepassthru.api.client import Client
    from pvepassthru.api.mapping_plan import Plan
    from tests.api.fake_pve.state import State

OTHER = mapping("other", "node=pve2,path=0000:06:00.0,id=144d:a808")
PRESENT = {"POST": OTHER, "PUT": mapping("gpu", GPU_LINE, description=7) + OTHER}


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping_apply, "SETTLE", (0.01,))


@pytest.fixture(params=["POST", "PUT"])
def pve(request: pytest.FixtureRequest) -> Iterator[FakePve]:
    with FakePve(mapping_cluster.cluster(PRESENT[request.param]), doors=("pve1", "pve2")) as fake:
        yield fake


def planned(client: Client, options: Options = mapping_plan.AS_IT_IS) -> Plan:
    sought = mapping_wish.of_arguments("10de:1b80", "", "1462:3362")
    return mapping_plan.plan("gpu", mappings.read(client), nodes.read(client), sought, options)


def is_done(pve: FakePve) -> bool:
    """Whether the mapping is as planned; the other one is never touched."""
    assert pve.state.mappings["other"] == Mapping(["node=pve2,path=0000:06:00.0,id=144d:a808"])
    found = pve.state.mappings.get("gpu")
    return found is not None and found.map == [GPU_LINE, GPU_LINE2]


def test_written_and_read_back(pve: FakePve) -> None:
    with client_of(pve) as client:
        plan = planned(client, Options(live_migration=True))
        written = mapping_apply.apply(client, plan)
        assert written is not None
        assert (written.note, plan.after.same(written.stored)) == ("", True)
        assert is_done(pve)
        assert pve.state.mappings["gpu"].options["live-migration-capable"] == "1"
        again = planned(client)
        assert not again.changed
        assert mapping_apply.apply(client, again) is None
    assert len(pve.state.writes) == 1
    assert mapping_cluster.faults(pve, "gpu") == {}
    if "description" in PRESENT["PUT"] and plan.before:
        assert pve.state.mappings["gpu"].options["description"] == "7"


@pytest.mark.parametrize("moment", get_args(Moment))
def test_cut(pve: FakePve, moment: Moment) -> None:
    before = pve.state.mapping_text
    with client_of(pve) as client:
        plan = planned(client)
        pve.faults.cut(moment, write=1)
        if moment in {"after", "answer"}:
            written = mapping_apply.apply(client, plan)
            assert written is not None
            assert "the answer was lost" in written.note
            assert written.ours
            assert is_done(pve)
        else:
            with pytest.raises(ApiUnreachableError, match=r"mapping gpu was not changed: .* and it is as it was"):
                mapping_apply.apply(client, plan)
            assert pve.state.mapping_text == before


@pytest.mark.parametrize("status", [401, 403, 500, 501, 503, 595, 596])
def test_refused_or_lost_on_the_way(pve: FakePve, status: int) -> None:
    before = pve.state.mapping_text
    with client_of(pve) as client:
        plan = planned(client)
        fault = pve.faults.answer(status, write=1, times=None)
        with pytest.raises(ApiError, match=r"as it was|not changed"):
            mapping_apply.apply(client, plan)
    assert fault.happened
    assert pve.state.mapping_text == before


def test_a_login_that_runs_out(pve: FakePve) -> None:
    with client_of(pve) as client:
        plan = planned(client)
        pve.state.expire_tickets()
        mapping_apply.apply(client, plan)
    assert is_done(pve)


def test_an_answer_that_is_no_json(pve: FakePve) -> None:
    with client_of(pve) as client:
        plan = planned(client)
        pve.faults.not_json(write=1)
        written = mapping_apply.apply(client, plan)
    assert written is not None
    assert written.note
    assert is_done(pve)


def test_an_answer_beyond_patience(pve: FakePve) -> None:
    with connect(replace(profile_of(pve), timeout=0.5)) as client:
        plan = planned(client)
        pve.faults.slow(5, write=1)
        written = mapping_apply.apply(client, plan)
    assert written is not None
    assert "the answer was lost" in written.note
    assert is_done(pve)


def _meddle(state: State, *lines: str) -> None:
    found = state.mappings
    found["gpu"] = Mapping(list(lines))
    state.write_mappings(found)


def test_somebody_else_changes_it_before(pve: FakePve) -> None:
    with client_of(pve) as client:
        plan = planned(client)
        pve.faults.meddle(lambda state: _meddle(state, GPU_LINE2), write=1)
        with pytest.raises(ApiConflictError, match="somebody else changed it meanwhile"):
            mapping_apply.apply(client, plan)
    assert pve.state.mappings["gpu"].map == [GPU_LINE2]


def test_somebody_else_changes_another_mapping(pve: FakePve) -> None:
    with client_of(pve) as client:
        plan = planned(client)
        text = mapping("more", GPU_LINE)
        pve.faults.meddle(lambda state: setattr(state, "mapping_text", state.mapping_text + text), write=1)
        if plan.before is None:
            assert mapping_apply.apply(client, plan)
            assert is_done(pve)
        else:
            with pytest.raises(ApiConflictError, match="mapping gpu is as it was"):
                mapping_apply.apply(client, plan)
            assert pve.state.mappings["gpu"].map == [GPU_LINE]
    assert pve.state.mappings["more"].map == [GPU_LINE]


def test_somebody_else_does_the_same(pve: FakePve) -> None:
    with client_of(pve) as client:
        plan = planned(client)
        pve.faults.meddle(lambda state: _meddle(state, GPU_LINE, GPU_LINE2), write=1)
        written = mapping_apply.apply(client, plan)
        assert written is not None
        assert "somebody else did the same" in written.note
        assert not written.ours
        assert not mapping_apply.take_back(client, plan, written)
    assert is_done(pve)


def test_somebody_else_changes_it_after(pve: FakePve) -> None:
    with client_of(pve) as client:
        plan = planned(client)
        pve.faults.meddle(lambda state: _meddle(state, GPU_LINE2), request=3)  # permissions, the write, reading back
        with pytest.raises(ApiConflictError, match="was written, and is not as planned now"):
            mapping_apply.apply(client, plan)
    assert pve.state.mappings["gpu"].map == [GPU_LINE2]


def test_lost_and_not_to_be_read(pve: FakePve) -> None:
    with client_of(pve) as client:
        plan = planned(client)
        pve.faults.cut("after", write=1)
        pve.faults.answer(503, path="/cluster/mapping/pci", request=2, times=None)
        with pytest.raises(ApiUnsureError, match="cannot be told whether mapping gpu was changed"):
            mapping_apply.apply(client, plan)
    assert is_done(pve)


def test_refused_and_not_to_be_read(pve: FakePve) -> None:
    before = pve.state.mapping_text
    with client_of(pve) as client:
        plan = planned(client)
        pve.faults.answer(403, write=1)
        pve.faults.answer(503, path="/cluster/mapping/pci", request=2, times=None)
        with pytest.raises(ApiDeniedError):
            mapping_apply.apply(client, plan)
    assert pve.state.mapping_text == before


def test_a_host_that_goes_down_before_the_write(pve: FakePve) -> None:
    with client_of(pve) as client:
        plan = planned(client)
        pve.take_down("pve1")
        assert mapping_apply.apply(client, plan), "another host of the profile serves as well"
    assert is_done(pve)


@pytest.mark.parametrize("user, may", [("mapper@pve", True), ("auditor@pve", False)])
def test_the_privilege_is_checked_before_the_write(pve: FakePve, user: str, may: bool) -> None:  # noqa: FBT001 - a parameter of the test
    with client_of(pve, user, "word") as client:
        plan = planned(client)
        if may:
            assert mapping_apply.apply(client, plan)
        else:
            with pytest.raises(ApiDeniedError, match=r"auditor@pve may not .* Mapping.Modify on /mapping/pci"):
                mapping_apply.apply(client, plan)
            assert pve.state.writes == []
    assert is_done(pve) is may


def test_taking_back_only_what_is_ours(pve: FakePve) -> None:
    with client_of(pve) as client:
        plan = planned(client)
        written = mapping_apply.apply(client, plan)
        assert written is not None
        assert mapping_apply.take_back(client, plan, written) is (plan.before is None)
        assert ("gpu" in pve.state.mappings) is (plan.before is not None)
        if plan.before is None:
            mapping_apply.apply(client, plan)
            _meddle(pve.state, GPU_LINE2)
            assert not mapping_apply.take_back(client, plan, written)
            assert pve.state.mappings["gpu"].map == [GPU_LINE2]


@pytest.mark.skipif(
    importlib.util.find_spec("proxmoxer.backends.local") is None,
    reason="only on Debian 13: proxmoxer 1.2.0 has no local backend",
)
def test_pvesh_is_never_given_a_list(pve: FakePve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with client_of(pve) as client:
        plan = planned(client)
    program = tmp_path / "pvesh"
    granted = {path: {mapping_apply.MODIFY: 1} for path in ("/mapping/pci", "/mapping/pci/gpu")}
    program.write_text(f"#!/bin/sh\necho $1 >>{tmp_path}/calls\necho '{json.dumps(granted)}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with connect(Profile("this node", local=True, timeout=10.0)) as client:
        with pytest.raises(ApiError, match=r"cannot send the list map of .* through pvesh"):
            client.post(mappings.PATH, id="gpu", map=[GPU_LINE])
        with pytest.raises(UsageError, match="mapping gpu cannot be written by pvesh"):
            mapping_apply.apply(client, plan)
    assert not (tmp_path / "calls").exists()
