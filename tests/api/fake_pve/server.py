# SPDX-License-Identifier: Apache-2.0
"""The fake PVE as a test uses it.

    with FakePve(Cluster(nodes={"pve1": Node(vms={100: "cores: 1\n"})})) as pve:
        api = connect(pve.host, port=pve.port, ca=pve.ca_file, ...)
        pve.faults.cut("after", write=1)
        ...
        assert pve.state.vm(100).config.main["cores"] == "2"

It speaks HTTPS on 127.0.0.1 with a certificate that a CA of its own signed. `doors` are the nodes that one can
connect to, by default the first; from each one all nodes can be reached, as PVE proxies between them.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tests.api.fake_pve import certificates
from tests.api.fake_pve.data import ROOT, Cluster
from tests.api.fake_pve.door import Door, House
from tests.api.fake_pve.faults import Faults
from tests.api.fake_pve.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from tests.api.fake_pve.certificates import Kind


class FakePve:
    """A cluster that answers, from entering the context to leaving it."""

    def __init__(
        self, cluster: Cluster | None = None, *, doors: Sequence[str] = (), certificate: Kind = "good"
    ) -> None:
        self.cluster = cluster or Cluster()
        self.state = State(self.cluster)
        self.faults = Faults()
        self._kind: Kind = certificate
        self._names = tuple(doors) or (next(iter(self.cluster.nodes)),)
        self._house = House(self.state, self.faults, threading.Event(), [])
        self._doors: dict[str, Door] = {}
        self._ports: dict[str, int] = {}

    def __enter__(self) -> Self:
        for name in self._names:
            self._open(name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._house.ending.set()
        for door in self._doors.values():
            door.close()
        if error is None and self._house.failures:
            raise self._house.failures[0]

    @property
    def host(self) -> str:
        """Where it listens."""
        return "127.0.0.1"

    @property
    def port(self) -> int:
        """The port of the first door."""
        return self._ports[self._names[0]]

    @property
    def ports(self) -> dict[str, int]:
        """The ports by node."""
        return dict(self._ports)

    @property
    def url(self) -> str:
        """The first door, without a path."""
        return f"https://{self.host}:{self.port}"

    @property
    def ca_file(self) -> str:
        """The CA that signed the (good) certificates."""
        return certificates.authority().file

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the first door's certificate."""
        return self.state.fingerprints[self._names[0]]

    def ticket(self, user: str = ROOT) -> dict[str, str]:
        """The headers of somebody who has logged in, for tests that do without a client."""
        ticket = self.state.login(user)
        return {"Cookie": f"PVEAuthCookie={ticket}", "CSRFPreventionToken": self.state.tickets[ticket].csrf}

    def drop_connections(self) -> None:
        """Close the connections that wait for their next request, as PVE does after some seconds."""
        for door in self._doors.values():
            door.drop()

    def take_down(self, node: str, status: int = 596) -> None:
        """Make a node unreachable: its door is closed, and the others answer requests for it with this status."""
        with self.state.lock:
            self.state.down[node] = status
        if door := self._doors.pop(node, None):
            door.close()

    def bring_up(self, node: str) -> None:
        """Make a node reachable again, on the port that it had."""
        with self.state.lock:
            self.state.down.pop(node, None)
        if node in self._names and node not in self._doors:
            self._open(node)

    def use_certificate(self, node: str, kind: Kind) -> None:
        """Let a node's door show another certificate from now on; its connections end."""
        self._doors.pop(node).close()
        self._kind = kind
        self._open(node)

    def _open(self, name: str) -> None:
        door = Door(self._house, name, self._kind, self._ports.get(name, 0))
        self._doors[name] = door
        self._ports[name] = door.port
        self.state.fingerprints[name] = door.certificate.fingerprint
