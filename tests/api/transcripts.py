# SPDX-License-Identifier: Apache-2.0
"""Recorded calls to a real PVE, and the replay of them against the fake.

The recording is not in the project. It is looked for where API_TRANSCRIPTS says, beside the checkout, and beside the
checkout that this one is a clone of.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
import subprocess
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.api.fake_pve import data
from tests.api.fake_pve.data import Cluster, Device, MdevType, Node, Storage, Token, User

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.api.fake_pve.server import FakePve
    from tests.api.fake_pve.state import State

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PLACE = "../shared/facts/api-transcripts.jsonl"
WRONG = "not the password"
_COMPARED = ("/config", "/pending", "/mapping/pci", "/mapping/pci/gpu", "/hardware/pci", "/mdev", "/permissions")
_MADE = {"digest", "meta", "smbios1", "vmgenid", "checks"}
"""Keys whose values PVE makes up, or words."""
_UPID = re.compile(r"UPID:[^/]*:")


@dataclass(frozen=True)
class Recorded:
    """One recorded call."""

    number: int
    """Its line, from 1."""
    note: str
    user: str
    method: str
    path: str
    params: dict[str, Any]
    status: int
    reason: str
    content_type: str | None
    body: Any
    """Parsed; "" if there was none."""
    raised: str | None
    """The class that proxmoxer raised."""


@dataclass(frozen=True)
class Replayed:
    """The fake's answer to it."""

    status: int
    reason: str
    content_type: str | None
    body: Any


def find() -> str | None:
    """Where the recording lies, or None."""
    asked = subprocess.run(
        ["git", "config", "--get", "remote.origin.url"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    places = [os.environ.get("API_TRANSCRIPTS", "")]
    places += [os.path.normpath(os.path.join(base, PLACE)) for base in (ROOT, asked.stdout.strip()) if base]
    return next((place for place in places if os.path.isfile(place)), None)


def read(path: str) -> list[Recorded]:
    """All recorded calls."""
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [
        Recorded(
            *(number, row["note"], row["user"], row["method"], row["path"], row["params"] or {}),
            *(row["status"], row["reason"], row["content_type"], row["response_body"], _raised(row)),
        )
        for number, row in enumerate(rows, 1)
    ]


def _raised(row: dict[str, Any]) -> str | None:
    """What proxmoxer raised, or would have: two calls without good credentials were sent without it."""
    seen = row.get("proxmoxer") or {}
    returned = seen.get("returned")
    if isinstance(returned, list) and returned[:1] == [row["status"]]:
        return raised(row["path"], row["status"])
    name: str | None = seen.get("raised")
    return name


# ---- the state that the calls need

PARAMS: dict[int, dict[str, str]] = {
    2: {"password": WRONG},
    219: {"content": "snippets"},
}
"""Parameters that the recording leaves out: a wrong password, and the form of an upload."""


def _first_vm(state: State) -> None:
    values: dict[str, str | None] = dict.fromkeys([f"hostpci{index}" for index in range(16)])
    state.vm(100).change(machine="q35", args=None, bios=None, cpu=None, **values)


def _partial_order(state: State) -> None:
    seen = ["tags", "cores", "memory", "hostpci7", "name"]
    state.order = lambda keys: sorted(keys, key=lambda key: seen.index(key) if key in seen else len(seen))


def _second_node_down(state: State) -> None:
    state.nodes["pve2"] = Node()
    state.down["pve2"] = 596


def _change(**values: str | None) -> Callable[[State], None]:
    return lambda state: state.vm(100).change(**values)


BEFORE: dict[int, Callable[[State], None]] = {
    46: _change(description=None),
    155: _partial_order,
    180: _first_vm,
    203: _change(hostpci0="0000:77:00.0"),
    207: _change(hostpci0="mapping=wrongid"),
    222: _change(lock="backup"),
    226: _change(protection="1"),
    228: _change(protection=None),
    237: _second_node_down,
}
"""What was done between two recorded calls without a call: with an editor, as root on the node; the random order in
which the worker of one PUT took its keys; a second node."""


def cluster(calls: Sequence[Recorded]) -> Cluster:
    """The cluster that was recorded: its hardware from its own answers, the users from what they could do."""
    hardware = next(call for call in calls if call.note.startswith("pci list, empty blacklist")).body["data"]
    types = next(call for call in calls if call.note == "mdev types").body["data"]
    mdev = [MdevType(row["type"], row["available"], row["description"]) for row in types]
    devices = [
        Device(
            row["id"],
            row["vendor"].removeprefix("0x"),
            row["device"].removeprefix("0x"),
            f"{row['subsystem_vendor']}:{row['subsystem_device']}".replace("0x", ""),
            row["iommugroup"],
            row["class"].removeprefix("0x"),
            mdev if row.get("mdev") else None,
            row.get("physfn"),
            {key: text for key, text in row.items() if key.endswith("_name")},
        )
        for row in hardware
    ]
    everything = "snippets,backup,import,rootdir,iso,vztmpl,images"
    storages = {
        "local": Storage(everything, "dir", {"hook.sh": True, "noexec.sh": False}),
        "nosnip": Storage("iso", "dir"),
    }
    mapping = {"/mapping/pci/gpu": "PVEMappingUser"}
    users = {
        "root@pam": User(tokens={"sep": Token("a-secret")}),
        "admin@pve": User(acl={"/": "Administrator"}),
        "auditor@pve": User(acl={"/": "PVEAuditor"}),
        "hw@pve": User(acl={"/vms/100": "hardware", **mapping}),
        "mapper@pve": User(acl={"/vms": "PVEVMAdmin", **mapping}),
        "nobody@pve": User(),
        "nohw@pve": User(acl={"/vms/100": "options", **mapping}),
        "op@pve": User(acl={"/vms": "PVEVMAdmin"}),
        "pveadmin@pve": User(acl={"/": "PVEAdmin"}),
    }
    roles = {"hardware": "VM.Audit,VM.Config.HWType", "options": "VM.Audit,VM.Config.Options"}
    return Cluster({"pve1": Node(devices, storages=storages)}, users, roles)


# ---- the replay


class Replay:
    """Sends the recorded calls in their order, with what is the fake's own in place of PVE's digests and UPIDs."""

    def __init__(self, pve: FakePve, calls: Sequence[Recorded]) -> None:
        self.pve = pve
        self.calls = calls
        self.names: dict[str, str] = {}
        """What PVE called something, and what the fake does."""
        self.secrets = {"root@pam!sep": "a-secret"}
        context = ssl.create_default_context(cafile=pve.ca_file)
        self.connection = http.client.HTTPSConnection(pve.host, pve.port, timeout=20, context=context)

    def run(self) -> list[Replayed]:
        """All answers."""
        try:
            return [self._one(call) for call in self.calls]
        finally:
            self.connection.close()

    def _one(self, call: Recorded) -> Replayed:
        state = self.pve.state
        if call.number in BEFORE:
            BEFORE[call.number](state)
        upid = call.body["data"] if isinstance(call.body, dict) else None
        if isinstance(upid, str) and upid.startswith("UPID:"):
            state.polls = {upid.split(":")[5]: self._polls(upid)}
        answer = self._send(call)
        self._learn(call.body, answer.body)
        if call.note.startswith("create token") and answer.status == 200:
            self.secrets[answer.body["data"]["full-tokenid"]] = answer.body["data"]["value"]
        return answer

    def _polls(self, upid: str) -> int:
        """How many times the status of a task was read while it ran."""
        return sum(
            call.path.endswith(f"{upid}/status") and "exitstatus" not in call.body["data"] for call in self.calls
        )

    def _send(self, call: Recorded) -> Replayed:
        params: dict[str, Any] = {key: self._own(value) for key, value in call.params.items()}
        if call.path == "/access/ticket":
            params["password"] = data.PASSWORD
        params |= PARAMS.get(call.number, {})
        path = f"/api2/json{_UPID.sub(lambda match: self.names.get(match[0], match[0]), call.path)}"
        text = urllib.parse.urlencode(params, doseq=True)
        headers = self._headers(call)
        body = None
        if call.method in {"GET", "DELETE"}:
            path += f"?{text}" if text else ""
        else:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = text.encode()
        self.connection.request(call.method, path, body, headers)
        response = self.connection.getresponse()
        content = response.read()
        parsed = json.loads(content) if content else ""
        return Replayed(response.status, response.reason, response.headers["Content-Type"], parsed)

    def _headers(self, call: Recorded) -> dict[str, str]:
        if call.path == "/access/ticket" or call.user == "-":
            return {}
        if "!" in call.user:
            user = call.user.removesuffix("(bad)")
            secret = self.secrets[user] if user == call.user else "another-secret"
            return {"Authorization": f"PVEAPIToken={user}={secret}"}
        headers = self.pve.ticket(call.user)
        if "without CSRF" in call.note:
            del headers["CSRFPreventionToken"]
        return headers

    def _own(self, value: Any) -> Any:  # noqa: ANN401 - JSON
        """A parameter's value with the fake's names in it."""
        return self.names.get(value, value) if isinstance(value, str) else value

    def _learn(self, theirs: Any, ours: Any) -> None:  # noqa: ANN401 - JSON
        """Note what is called otherwise: UPIDs and digests."""
        if not isinstance(theirs, dict) or not isinstance(ours, dict):
            return
        one, other = theirs.get("data"), ours.get("data")
        if isinstance(one, str) and isinstance(other, str):
            self.names[one] = other
        elif isinstance(one, dict) and isinstance(other, dict) and "digest" in one:
            self.names[one["digest"]] = str(other.get("digest"))


# ---- the comparison


def shape(value: Any) -> Any:  # noqa: ANN401 - JSON
    """A body without its words and numbers: types, keys, and of a list which shapes its rows have."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in sorted(value.items())}
    if isinstance(value, list):
        return [json.loads(text) for text in sorted({json.dumps(shape(item)) for item in value})]
    if isinstance(value, bool):
        return "boolean"
    return "null" if value is None else "number" if isinstance(value, int | float) else "text"


def values(path: str, body: Any) -> Any:  # noqa: ANN401 - JSON
    """The values of a body that are neither words of PVE nor made by it, where that can be said; else None."""
    if not isinstance(body, dict):
        return None
    if "/tasks/" in path and path.endswith("/status"):
        return (body["data"] or {}).get("exitstatus") == "OK"
    if not path.endswith(_COMPARED):
        return None
    return _plain(body["data"]) if isinstance(body["data"], dict | list) else None


def _plain(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        checks = {"checks": [row["severity"] for row in value["checks"]]} if "checks" in value else {}
        return {key: _plain(item) for key, item in sorted(value.items()) if key not in _MADE} | checks
    if isinstance(value, list):
        rows = [row for row in value if not (isinstance(row, dict) and row.get("key") in _MADE)]
        return sorted((_plain(row) for row in rows), key=json.dumps)
    return value


def raised(path: str, status: int) -> str | None:
    """The class that proxmoxer raises for an answer."""
    if status < 400:
        return None
    return "AuthenticationError" if path == "/access/ticket" else "ResourceException"
