# SPDX-License-Identifier: Apache-2.0
"""Calls and tasks, over real HTTPS sockets."""

from __future__ import annotations

import importlib.metadata
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import proxmoxer
import pytest

from pvepassthru.api.client import connect
from pvepassthru.model.errors import (
    ApiError,
    BusyError,
    UsageError,
)
from tests.api.https import (
    CONFIG,
    TOKEN,
    UPID,
    Answer,
    Request,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.api.https import Make, Start

ROOT = Path(__file__).parents[2]


def test_the_versions_that_are_tested() -> None:
    """`./dev test` runs this folder with Debian's versions, and a part of it with the newest."""
    name = os.environ.get("TESTED_REQUIREMENTS", "requirements/dev.txt")
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    version = importlib.metadata.version("proxmoxer")
    assert any(line.split(";")[0] == f"proxmoxer=={version}" for line in lines)
    assert proxmoxer.__version__ == version


def test_read_and_write_with_a_token(serve: Start, profile: Make) -> None:
    server = serve(lambda request: Answer([{"node": "pve1"}] if request.method == "GET" else None))
    with connect(profile(server)) as client:
        assert client.get("nodes") == [{"node": "pve1"}]
        assert client.put(CONFIG, hostpci0="mapping=gpu", digest="abc", onboot=True, delete=None) is None
        client.delete("/cluster/mapping/pci/gpu", purge=False)
        client.post("cluster/mapping/pci", id="gpu", map=["node=pve1,path=0000:01:00.0", "node=pve2,path=0000:02:00.0"])
    read, written, deleted, made = server.requests
    assert (read.method, read.path, read.params) == ("GET", "/api2/json/nodes", {})
    assert (written.method, written.path) == ("PUT", f"/api2/json/{CONFIG}")
    assert written.params == {"hostpci0": ["mapping=gpu"], "digest": ["abc"], "onboot": ["1"]}
    assert (deleted.method, deleted.path, deleted.params) == (
        "DELETE",
        "/api2/json/cluster/mapping/pci/gpu",
        {"purge": ["0"]},
    )
    assert made.params == {"id": ["gpu"], "map": ["node=pve1,path=0000:01:00.0", "node=pve2,path=0000:02:00.0"]}
    assert {request.headers["Authorization"] for request in server.requests} == {f"PVEAPIToken=root@pam!t={TOKEN}"}
    assert server.connections == 4


def test_connections_of_reads_are_kept(serve: Start, profile: Make) -> None:
    server = serve()
    with connect(profile(server)) as client:
        for _ in range(5):
            client.get("nodes")
        assert server.connections == 1
        client.put(CONFIG, cores=2)  # on one that is certain to live
        assert server.connections == 2


def test_parameters_of_a_read_go_into_the_query(serve: Start, profile: Make) -> None:
    server = serve(lambda _: Answer([]))
    with connect(profile(server)) as client:
        client.get("cluster/mapping/pci", **{"check-node": "pve1"})
    assert server.requests[0].params == {"check-node": ["pve1"]}


def test_parts_of_a_path_stay_parts(serve: Start, profile: Make) -> None:
    server = serve(lambda _: Answer([]))
    with connect(profile(server)) as client:
        client.get(f"nodes/pve1/tasks/{UPID}/status")
        client.get("storage/a?b#c%2Fd e")
        for wrong in ("", "nodes/../access", "nodes//x", "nodes/./x", "a\nb"):
            with pytest.raises(UsageError):
                client.get(wrong)
    assert [request.path for request in server.requests] == [
        f"/api2/json/nodes/pve1/tasks/{UPID}/status",
        "/api2/json/storage/a%3Fb%23c%252Fd%20e",
    ]


def test_threads_share_a_client(serve: Start, profile: Make) -> None:
    server = serve(lambda request: Answer(int(request.path.rsplit("/", 1)[1])))
    found: dict[int, object] = {}
    with connect(profile(server)) as client:

        def ask(number: int) -> None:
            found[number] = client.get(f"cluster/{number}")

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {number: number for number in range(40)}


def state(*ends: str | None) -> Callable[[Request], Answer]:
    left = list(ends)

    def answer(request: Request) -> Answer:
        if request.path.endswith("/log"):
            return Answer([{"n": 1, "t": "hook"}, {"n": 2, "t": "TASK OK"}])
        end = left.pop(0) if len(left) > 1 else left[0]
        return Answer({"status": "stopped", "exitstatus": end} if end else {"status": "running"})

    return answer


@pytest.mark.parametrize("end", ["OK", "WARNINGS: 2"])
def test_task_is_waited_for(serve: Start, profile: Make, end: str) -> None:
    server = serve(state(None, None, end))
    with connect(profile(server)) as client:
        assert client.task(UPID)["exitstatus"] == end
        assert client.task_log(UPID) == ["hook", "TASK OK"]
    assert server.count("GET", f"{UPID}/status") == 3


def test_task_that_fails(serve: Start, profile: Make) -> None:
    server = serve(state(None, "no PCI device found for '0000:77:00.0'"))
    words = "task qmstart of VM 100 on pve1 failed: no PCI device found"
    with connect(profile(server)) as client, pytest.raises(ApiError, match=words) as caught:
        client.task(UPID)
    assert caught.value.words == "no PCI device found for '0000:77:00.0'"


def test_task_that_does_not_end(serve: Start, profile: Make) -> None:
    with connect(profile(serve(state(None)))) as client, pytest.raises(BusyError, match=r"has not ended within 0\.2 s"):
        client.task(UPID, timeout=0.2)


@pytest.mark.parametrize("upid", ["", "UPID:pve1", "UPID:../x:0:0:0:a:b:c:", UPID.replace("100", "1/../..")])
def test_upid_that_is_none(serve: Start, profile: Make, upid: str) -> None:
    with connect(profile(serve())) as client, pytest.raises(UsageError):
        client.task(upid)
