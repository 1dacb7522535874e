# SPDX-License-Identifier: Apache-2.0
"""All endpoints, and the way of a request to one of them.

The order of the checks is PVE's: who sends it (401), whether there is such an endpoint (501), whether the sender may
use it (403), whether its node is there (500, 595, 596), whether the parameters fit (400), then the endpoint itself.
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.api.fake_pve import access, change, hardware, mappings, marks, nodes, privileges, qemu, volumes
from tests.api.fake_pve.request import (
    FLAG,
    TEXT,
    Call,
    Param,
    Refusal,
    enum,
    failed,
    integer,
    invalid,
    verify,
    vmid,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from email.message import Message

    from tests.api.fake_pve.request import Json
    from tests.api.fake_pve.state import State

_HARDWARE = ("/", "Sys.Audit", "Sys.Modify")
_AUDIT = ("/vms/{vmid}", "VM.Audit")
_POWER = ("/vms/{vmid}", "VM.PowerMgmt")
_UPLOADED = {"content": Param(enum("iso", "vztmpl", "import"), required=True), "filename": TEXT, "url": TEXT}


@dataclass(frozen=True)
class Route:
    """One endpoint."""

    method: str
    path: str
    answer: Callable[[Call], Json]
    needs: tuple[str, ...] | Callable[[Call], None] = ()
    """A path and the privileges of which one is needed there, or a function that refuses."""
    params: Mapping[str, Param] = field(default_factory=dict)
    config: bool = False
    """Whether the keys of a VM config are parameters too."""
    total: bool = False
    """Whether the answer counts its rows."""

    @property
    def pattern(self) -> re.Pattern[str]:
        """What a path looks like that means this endpoint."""
        text = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(self.path))
        return re.compile(text.replace("(?P<volume>[^/]+)", "(?P<volume>.+)"))


def _unsupported(_: Call) -> Json:
    raise failed("the fake uploads nothing")


_QEMU = "/nodes/{node}/qemu"
_VM = f"{_QEMU}/{{vmid}}"
_CONFIG = f"{_VM}/config"
_PCI = "/nodes/{node}/hardware/pci"
_MAPPING = "/cluster/mapping/pci"
_STORAGE = "/nodes/{node}/storage"
_MAY_WRITE = ("/vms/{vmid}", *privileges.CONFIG)
_MODIFY = ("/mapping/pci", "Mapping.Modify")

ROUTES = (
    Route("POST", "/access/ticket", access.login, params=dict.fromkeys(("username", "password"), Param(required=True))
          | dict.fromkeys(("otp", "realm", "tfa-challenge", "new-format"), TEXT)),
    Route("GET", "/access/permissions", access.permissions, params={"path": TEXT, "userid": TEXT}),
    Route("POST", "/access/users/{user}/token/{token}", access.make_token,
          params={"privsep": FLAG, "comment": TEXT, "expire": Param(integer())}),
    Route("GET", "/version", nodes.version),
    Route("GET", "/nodes", nodes.listed),
    Route("GET", "/nodes/{node}/status", nodes.status, ("/nodes/{node}", "Sys.Audit")),
    Route("GET", "/cluster/resources", nodes.resources, params=nodes.RESOURCES),
    Route("GET", "/cluster/status", nodes.cluster_status, ("/", "Sys.Audit")),
    Route("GET", "/cluster/nextid", nodes.next_id, params={"vmid": Param(vmid)}),
    Route("GET", "/cluster/ha/resources", nodes.ha_resources, ("/", "Sys.Audit")),
    Route("GET", "/cluster/ha/groups", nodes.ha_groups, ("/", "Sys.Audit")),
    Route("GET", "/cluster/ha/rules", nodes.ha_rules, ("/", "Sys.Audit")),
    Route("GET", "/cluster/backup", nodes.backup_jobs, ("/", "Sys.Audit")),
    Route("GET", "/nodes/{node}/tasks/{upid}/status", nodes.task_status),
    Route("GET", "/nodes/{node}/tasks/{upid}/log", nodes.task_log, total=True,
          params={"start": Param(integer()), "limit": Param(integer())}),
    Route("GET", _PCI, hardware.listed, _HARDWARE, {"pci-class-blacklist": TEXT, "verbose": FLAG}),
    Route("GET", f"{_PCI}/{{id}}", hardware.methods),
    Route("GET", f"{_PCI}/{{id}}/mdev", hardware.mdev_types, _HARDWARE),
    Route("GET", _MAPPING, mappings.listed, params={"check-node": TEXT}),
    Route("POST", _MAPPING, mappings.create, _MODIFY, mappings.NEW),
    Route("GET", f"{_MAPPING}/{{id}}", mappings.one),
    Route("PUT", f"{_MAPPING}/{{id}}", mappings.update, ("/mapping/pci/{id}", "Mapping.Modify"), mappings.CHANGED),
    Route("DELETE", f"{_MAPPING}/{{id}}", mappings.delete, _MODIFY),
    Route("GET", _QEMU, qemu.listed, params={"full": FLAG}),
    Route("POST", _QEMU, qemu.create, qemu.may_create, qemu.NEW, config=True),
    Route("DELETE", _VM, qemu.destroy, ("/vms/{vmid}", "VM.Allocate"),
          dict.fromkeys(("purge", "skiplock", "destroy-unreferenced-disks"), FLAG)),
    Route("GET", _CONFIG, qemu.config, _AUDIT, {"current": FLAG, "snapshot": TEXT}),
    Route("PUT", _CONFIG, change.update, _MAY_WRITE, change.CONTROL, config=True),
    Route("POST", _CONFIG, change.update_in_task, _MAY_WRITE, change.CONTROL | change.BACKGROUND, config=True),
    Route("GET", f"{_VM}/pending", qemu.pending, _AUDIT),
    Route("GET", f"{_VM}/snapshot", qemu.snapshots, _AUDIT),
    Route("POST", f"{_VM}/clone", qemu.clone, qemu.may_create,
          {"newid": Param(vmid, required=True), **dict.fromkeys(("name", "target", "snapname"), TEXT), "full": FLAG}),
    Route("GET", f"{_VM}/status/current", qemu.current, _AUDIT),
    Route("POST", f"{_VM}/status/start", qemu.start, _POWER, {"skiplock": FLAG, "timeout": Param(integer())}),
    *(
        Route("POST", f"{_VM}/status/{word}", qemu.stop, _POWER, {"skiplock": FLAG, "timeout": Param(integer())})
        for word in ("stop", "shutdown")
    ),
    Route("GET", _STORAGE, volumes.listed, params={"content": TEXT, "storage": TEXT, "enabled": FLAG}),
    Route("GET", f"{_STORAGE}/{{storage}}/content", volumes.content, ("/storage/{storage}", *volumes.READERS),
          {"content": TEXT, "vmid": Param(vmid)}),
    Route("GET", f"{_STORAGE}/{{storage}}/content/{{volume}}", volumes.volume),
    Route("DELETE", f"{_STORAGE}/{{storage}}/content/{{volume}}", volumes.remove, params={"delay": TEXT}),
    *(Route("POST", f"{_STORAGE}/{{storage}}/{word}", _unsupported, params=_UPLOADED)
      for word in ("upload", "download-url")),
)  # fmt: skip
_TABLE = [(route, route.pattern) for route in ROUTES]


@dataclass(frozen=True)
class Request:
    """A request as it came in over the wire."""

    method: str
    path: str
    """Below /api2/json, still quoted."""
    headers: Message[str, str]
    params: dict[str, list[str]]
    node: str
    """The node that it was sent to."""
    dies: bool = False


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    status: int
    reason: str
    body: Json
    """None: no body at all."""


def serve(state: State, request: Request) -> tuple[Answer, str | None]:
    """The answer to a request, and who sent it if that is known. Raises Died."""
    user: str | None = None
    try:
        if request.path == "/access/ticket":
            user = (request.params.get("username") or [""])[-1]
        else:
            user = access.sender(state, request.method, request.headers)
        return _answer(state, request, user), user
    except Refusal as refusal:
        body: dict[str, Json] = {"data": None, "message": f"{refusal.reason}\n"}
        if refusal.errors:
            body["errors"] = dict(refusal.errors)
        reason = refusal.reason.replace("\n", " ")
        return Answer(refusal.status, reason, None if refusal.empty else body), user


def _answer(state: State, request: Request, user: str) -> Answer:
    route, uri = _find(request)
    call = Call(state, user, request.method, request.path, request.node, uri, request.params, request.dies)
    if callable(route.needs):
        route.needs(call)
    elif route.needs:
        call.need(route.needs[0].format(**uri), *route.needs[1:])
    _proxy(call)
    if "vmid" in uri and (problem := vmid(uri["vmid"])):
        raise invalid({"vmid": problem})
    errors = (change.verify if route.config else verify)(request.params, route.params)
    if errors:
        raise invalid(errors)
    data = route.answer(call)
    total: dict[str, Json] = {"total": len(data)} if route.total and isinstance(data, list) else {}
    return Answer(200, "OK", {"data": data, **total})


def _find(request: Request) -> tuple[Route, dict[str, str]]:
    for route, pattern in _TABLE:
        if route.method == request.method and (match := pattern.fullmatch(request.path)):
            return route, {name: urllib.parse.unquote(text) for name, text in match.groupdict().items()}
    raise Refusal(501, f"there is no {request.method} of {request.path}")


def _proxy(call: Call) -> None:
    """Pass the call on to the node that it is for. Raises Refusal if that cannot be."""
    node = call.uri.get("node") or (call.get("check-node") if call.uri == {} else None)
    if node is None or node == call.node:
        return
    if node not in call.state.nodes:
        raise failed(f"{marks.NO_HOST} of '{node}' came to nothing")
    if node in call.state.down:
        raise Refusal(call.state.down[node], f"node {node} does not answer", empty=True)
