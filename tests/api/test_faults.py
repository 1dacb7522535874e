# SPDX-License-Identifier: Apache-2.0
"""The faults that the fake PVE can be told to have."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from typing import TYPE_CHECKING, get_args

import pytest

from tests.api.asking import CONFIG, CUT, ask, cluster
from tests.api.fake_pve import marks
from tests.api.fake_pve.certificates import Kind
from tests.api.fake_pve.faults import Fault, Moment
from tests.api.fake_pve.server import FakePve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.api.fake_pve.state import State


@pytest.fixture
def pve() -> Iterator[FakePve]:
    with FakePve(cluster(), doors=("pve1", "pve2")) as fake:
        yield fake


@pytest.mark.parametrize("kind", [kind for kind in get_args(Kind) if kind != "good"])
def test_wrong_certificate(kind: Kind) -> None:
    with FakePve(certificate=kind) as fake:
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(fake, "GET /version")
        fake.use_certificate("pve1", "good")
        assert ask(fake, "GET /version").status == 200


@pytest.mark.parametrize("moment", get_args(Moment))
def test_cut_connection(pve: FakePve, moment: Moment) -> None:
    pve.state.order = sorted
    fault = pve.faults.cut(moment, write=2)
    assert ask(pve, f"PUT {CONFIG}", {"tags": "first"}).status == 200
    with pytest.raises(CUT):
        ask(pve, f"PUT {CONFIG}", {"cores": "2", "memory": "600"})
    assert fault.happened == 1
    config = pve.state.vm(100).config
    whole = moment in {"after", "answer"}
    assert config.main["cores"] == ("2" if whole else "1")
    assert config.pending == ({"cores": "2"} if moment == "during" else {})
    assert [entry.status for entry in pve.state.writes] == [200, 200 if moment == "answer" else None]
    assert ask(pve, f"GET {CONFIG}").status == 200, "a fault happens once"


def test_task_is_killed(pve: FakePve) -> None:
    pve.state.order = sorted
    pve.faults.cut("during", write=1)
    with pytest.raises(CUT):
        ask(pve, f"POST {CONFIG}", {"cores": "2", "memory": "600"})
    (upid,) = pve.state.tasks
    assert ask(pve, f"GET /nodes/pve1/tasks/{upid}/status").data["exitstatus"] == "unexpected status"
    assert pve.state.vm(100).config.pending == {"cores": "2"}


def test_mapping_is_not_half_written(pve: FakePve) -> None:
    before = pve.state.mapping_text
    pve.faults.cut("during", write=1)
    with pytest.raises(CUT):
        ask(pve, "DELETE /cluster/mapping/pci/gpu")
    assert pve.state.mapping_text == before


@pytest.mark.parametrize("status", [401, 503, 595, 596])
def test_status_in_the_middle(pve: FakePve, status: int) -> None:
    pve.faults.answer(status, request=2, path="/qemu/")
    assert [ask(pve, f"GET {CONFIG}").status for _ in range(3)] == [200, status, 200]


def test_somebody_else_writes_between(pve: FakePve) -> None:
    digest = ask(pve, f"GET {CONFIG}").data["digest"]
    pve.faults.meddle(lambda state: state.vm(100).change(cores="4"), write=1)
    refused = ask(pve, f"PUT {CONFIG}", {"cores": "2", "digest": digest})
    assert (refused.status, marks.STALE_VM in refused.reason) == (500, True)
    assert pve.state.vm(100).config.main["cores"] == "4"


def test_body_that_is_no_json(pve: FakePve) -> None:
    pve.faults.not_json(path="/config")
    with pytest.raises(json.JSONDecodeError):
        ask(pve, f"GET {CONFIG}")


def test_slow_answer(pve: FakePve) -> None:
    pve.faults.slow(0.3, write=1)
    start = time.monotonic()
    ask(pve, f"PUT {CONFIG}", {"cores": "2"})
    assert time.monotonic() - start >= 0.3


def test_leaving_does_not_wait_for_slow_answers() -> None:
    with FakePve() as fake:
        fake.faults.slow(3600)
        thread = threading.Thread(target=_lost, args=(fake,))
        thread.start()
        for _ in range(1000):
            if fake.state.log:
                break
            time.sleep(0.01)
    thread.join()


def _lost(fake: FakePve) -> None:
    with pytest.raises(CUT):
        ask(fake, "GET /version")


def test_errors_of_the_fake_are_errors_of_the_test() -> None:
    fake = FakePve()
    fake.__enter__()
    fake.faults.add(Fault(meddle=_break))
    _lost(fake)
    with pytest.raises(ZeroDivisionError):
        fake.__exit__(None, None, None)


def _break(_: State) -> None:
    raise ZeroDivisionError


def test_kept_connections_end(pve: FakePve) -> None:
    context = ssl.create_default_context(cafile=pve.ca_file)
    connection = http.client.HTTPSConnection(pve.host, pve.port, timeout=20, context=context)
    for _ in range(2):
        connection.request("GET", "/api2/json/version", headers=pve.ticket())
        assert connection.getresponse().read()
    pve.drop_connections()
    with pytest.raises(CUT):
        _again(connection, pve.ticket())
    connection.close()


def _again(connection: http.client.HTTPSConnection, headers: dict[str, str]) -> None:
    connection.request("GET", "/api2/json/version", headers=headers)
    connection.getresponse()
