# SPDX-License-Identifier: Apache-2.0
"""A cluster for the tests of the fake PVE, and one request to it by a client that checks what a careful one checks."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.parse
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.api.fake_pve.data import Cluster, Device, MdevType, Node, Storage, Token, User, storages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.api.fake_pve.server import FakePve

CONFIG = "/nodes/pve1/qemu/100/config"
TEXT = "cores: 1\nmachine: q35\nmemory: 512\nname: one\nscsi0: local-lvm:vm-100-disk-0,size=8G\n"
GPU = "node=pve1,path=0000:01:00.0,id=10de:1b80,iommugroup=2"


class Got(NamedTuple):
    status: int
    reason: str
    body: Any

    @property
    def data(self) -> Any:  # noqa: ANN401 - JSON
        return self.body["data"]


def cluster(**more: Any) -> Cluster:  # noqa: ANN401 - whatever a cluster takes
    device = Device("0000:01:00.0", "10de", "1b80", group=2)
    parent = Device("0000:02:00.0", "10de", "2231", group=3, mdev=[MdevType("nvidia-63", 2, "", "A5000-1Q")])
    places = {**storages(), "small": Storage("iso", "dir")}
    nodes = {
        "pve1": Node([device, parent], {100: TEXT, 101: "memory: 512\n"}, [101], places),
        "pve2": Node(vms={200: "name: two\n"}),
    }
    users = {
        "op@pve": User(acl={"/vms": "PVEVMAdmin"}, tokens={"t": Token("s", acl={"/vms/100": "PVEVMAdmin"})}),
        "otp@pve": User(otp="123456"),
    }
    return Cluster(nodes, users, mappings=f"gpu\n\tmap {GPU}\n", **more)


def ask(
    pve: FakePve,
    what: str,
    params: Mapping[str, Any] | None = None,
    *,
    by: str | Mapping[str, str] = "root@pam",
    node: str | None = None,
) -> Got:
    """Send one request on a connection of its own, with all that a careful client checks of a certificate."""
    context = ssl.create_default_context(cafile=pve.ca_file)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    method, _, path = what.partition(" ")
    port = pve.ports[node] if node else pve.port
    connection = http.client.HTTPSConnection(pve.host, port, timeout=20, context=context)
    text = urllib.parse.urlencode(params or {}, doseq=True)
    sent = {**(pve.ticket(by) if isinstance(by, str) else by)}
    try:
        if method in {"GET", "DELETE"}:
            connection.request(method, f"/api2/json{path}?{text}", headers=sent)
        else:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
            connection.request(method, f"/api2/json{path}", text.encode(), sent)
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    return Got(response.status, response.reason, json.loads(content) if content else "")


CUT = (ConnectionError, http.client.HTTPException, ssl.SSLError)
"""What a client sees when a connection is cut."""
