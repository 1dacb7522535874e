# SPDX-License-Identifier: Apache-2.0
"""Calls on the node itself, through a pvesh that is a real program."""

from __future__ import annotations

import importlib.util
import json
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pvepassthru.api import pvesh
from pvepassthru.api.client import connect
from pvepassthru.api.profile import Profile
from pvepassthru.api.transport import CutError
from pvepassthru.model.errors import ApiDeniedError, ApiError, ApiMissingError, ApiUnreachableError, ApiUnsureError
from tests.api.https import CONFIG, UPID

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Script = Callable[..., Path]

HAS_LOCAL = importlib.util.find_spec("proxmoxer.backends.local") is not None
needs_local = pytest.mark.skipif(not HAS_LOCAL, reason="only on Debian 13: proxmoxer 1.2.0 has no local backend")
LOCAL = Profile("this node", local=True, timeout=10.0)
USAGE = "pvesh set <api_path> [OPTIONS] [FORMAT_OPTIONS]\n"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Puts a pvesh on PATH: what it prints and how it ends; it notes its arguments."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def make(out: str = "", err: str = "", code: int = 0, seconds: float = 0) -> Path:
        calls, program = tmp_path / "calls", tmp_path / "pvesh"
        (tmp_path / "out").write_text(out)
        (tmp_path / "err").write_text(err)
        wait = f"sleep {seconds}\n" if seconds else ""
        program.write_text(
            "#!/bin/sh\n"
            f'for word; do printf "%s\\n" "$word" >>{calls}; done\n'
            f"{wait}cat {tmp_path}/out; cat {tmp_path}/err >&2\nexit {code}\n"
        )
        program.chmod(0o755)
        return calls

    return make


# ---- with proxmoxer


@pytest.mark.skipif(HAS_LOCAL, reason="only on Debian 12: newer proxmoxer has a local backend")
def test_old_proxmoxer_is_said_clearly() -> None:
    with pytest.raises(ApiError, match=r"proxmoxer 1\.2\.0 cannot use the API without a secret") as caught:
        connect(LOCAL)
    assert "pveum user token add" in caught.value.hint


@needs_local
def test_read(script: Script) -> None:
    calls = script(out='[{"node":"pve1"}]', err="trying to acquire lock...\nOK\n")
    with connect(LOCAL) as client:
        assert client.get("/nodes", **{"check-node": "pve1"}) == [{"node": "pve1"}]
        assert client.is_root
        assert repr(client) == "Client(root@pam at this node)"
    assert calls.read_text().split("\n") == ["get", "/nodes", "-check-node", "pve1", "--output-format", "json", ""]


@needs_local
def test_write_that_chats_on_standard_error(script: Script) -> None:
    calls = script(err=f"update VM 100: -hostpci0 host=0000:01:00.0\n{UPID}\n")
    with connect(LOCAL) as client:
        assert client.put(CONFIG, hostpci0="host=0000:01:00.0,pcie=1", onboot=True, x=None) is None
    words = [
        "set",
        f"/{CONFIG}",
        "-hostpci0",
        "host=0000:01:00.0,pcie=1",
        "-onboot",
        "1",
        "--output-format",
        "json",
        "",
    ]
    assert calls.read_text().split("\n") == words


@needs_local
@pytest.mark.parametrize(
    "err, kind, words",
    [
        (
            f"400 Parameter verification failed.\nhostpci2: invalid format - format error\nhostpci2.foo: no\n{USAGE}",
            ApiError,
            "hostpci2: invalid format - format error hostpci2.foo: no",
        ),
        ("Configuration file 'nodes/pve1/qemu-server/9.conf' does not exist\n", ApiMissingError, "9.conf"),
        (f"only root can set 'args' config\n{UPID}\n", ApiDeniedError, "only root can set"),
        ("403 Permission check failed (/vms/100, VM.Audit)\n", ApiDeniedError, "VM.Audit"),
        ("", ApiError, "pvesh ended with 2"),
    ],
)
def test_refusal(script: Script, err: str, kind: type[ApiError], words: str) -> None:
    script(err=err, code=2)
    with connect(LOCAL) as client, pytest.raises(ApiError) as caught:
        client.put(CONFIG, cores=2)
    assert type(caught.value) is kind
    assert words in caught.value.message
    assert "pvesh set" not in str(caught.value)


@needs_local
def test_lists_are_not_sent(script: Script) -> None:
    calls = script()
    with connect(LOCAL) as client, pytest.raises(ApiError, match="cannot send the list map"):
        client.put("cluster/mapping/pci/gpu", map=["node=pve1"])
    assert not calls.exists()


@needs_local
def test_slow_write_is_in_doubt_and_goes_on(script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pvesh, "WRITE_TIMEOUT", 0.3)
    script(seconds=1)
    done = tmp_path / "done"
    with (tmp_path / "pvesh").open() as file:
        program = file.read()
    (tmp_path / "pvesh").write_text(program.replace("exit 0", f"touch {done}"))
    words = r"may have been done or not: pvesh \(pid \d+\) has not answered"
    with connect(replace(LOCAL, timeout=0.3)) as client, pytest.raises(ApiUnsureError, match=words):
        client.put(CONFIG, cores=2)
    while not done.exists():  # else the time limit of all tests ends it
        time.sleep(0.05)


@needs_local
def test_slow_read_is_ended(script: Script, tmp_path: Path) -> None:
    script(seconds=30)
    late = tmp_path / "late"
    program = (tmp_path / "pvesh").read_text()
    (tmp_path / "pvesh").write_text(program.replace("exit 0", f"touch {late}"))
    words = r"has not answered within 0\.5 s"
    with connect(replace(LOCAL, timeout=0.5)) as client, pytest.raises(ApiUnreachableError, match=words):
        client.get("nodes")
    assert not late.exists(), "it is not waited for to its end"


# ---- without

SSH = "ssh: connect to host 192.0.2.12 port 22: Connection timed out\nproxy handler failed: exit code 255\n"


@pytest.mark.parametrize("err", [SSH, "command 'ssh root@192.0.2.12 pvesh' failed: got signal 15\n"])
def test_another_node_that_is_cut_off(script: Script, err: str) -> None:
    """Of a write nobody knows what that node has done; a read has done nothing."""
    script(err=err, code=255)
    with pytest.raises(CutError, match=r"could not hear the other node out: .* failed: ") as caught:
        pvesh.run(["pvesh", "set", f"/{CONFIG}", "-cores", "2"], 5)
    assert caught.value.sent
    with pytest.raises(pvesh.RefusedError, match="ssh"):
        pvesh.run(["pvesh", "get", f"/{CONFIG}"], 5)


def test_another_node_that_refuses(script: Script) -> None:
    script(err="403 Permission check failed (/vms/100, VM.Audit)\nproxy handler failed: exit code 2\n", code=255)
    with pytest.raises(pvesh.RefusedError, match=r"^Permission check failed [^:]*$") as caught:
        pvesh.run(["pvesh", "set", f"/{CONFIG}", "-cores", "2"], 5)
    assert caught.value.status == 403


def test_pvesh_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CutError) as caught:
        pvesh.run(["pvesh", "get", "/nodes"], 5)
    assert caught.value.sent is False
    assert "cannot run pvesh" in str(caught.value)


@pytest.mark.parametrize(
    "printed, data",
    [
        ("", None),
        ("\n", None),
        ('{"a": 1}\n', {"a": 1}),
        ('{\n "a":\n  1\n}\n', {"a": 1}),
        (f'disk 1\nTASK OK\n"{UPID}"\n', UPID),
        (f"disk 1\n{UPID}\n", UPID),
    ],
)
def test_what_pvesh_prints(printed: str, data: object) -> None:
    assert pvesh.data_of(printed) == data


def test_what_pvesh_prints_is_no_json() -> None:
    with pytest.raises(CutError, match="no JSON"):
        pvesh.data_of("hello\nworld")
    assert pvesh.data_of(json.dumps("hello")) == "hello"
