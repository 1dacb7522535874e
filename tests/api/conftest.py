# SPDX-License-Identifier: Apache-2.0
"""Certificates, HTTPS servers and profiles for the tests of the connection to PVE."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.api import client
from pvepassthru.api.profile import Endpoint, Profile
from pvepassthru.api.secret import Secret
from tests.api.https import PASSWORD, TOKEN, Answer, Certificate, Request, Server, certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.api.https import Make, Start


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """The certificate that the servers show."""
    return certificate(tmp_path_factory.mktemp("certificates"), "pve1")


@pytest.fixture
def serve(shown: Certificate) -> Iterator[Start]:
    """Starts servers with a function of a request; they end with the test."""
    servers: list[Server] = []

    def start(answer: Callable[[Request], Answer] = lambda _: Answer(), with_: Certificate = shown) -> Server:
        servers.append(Server(with_, answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BACKOFF", (0.01,))
    monkeypatch.setattr(client, "TASK_POLL", (0.01,))


@pytest.fixture
def profile(shown: Certificate) -> Make:
    """Makes profiles for servers, or ports."""

    def make(*servers: Server | int, token: bool = True, pin: str | None = None, **more: Any) -> Profile:  # noqa: ANN401 - fields of a profile
        ports = [server if isinstance(server, int) else server.port for server in servers]
        fields: dict[str, Any] = {
            "endpoints": tuple(Endpoint("127.0.0.1", port, pin) for port in ports),
            "ca_file": None if pin else shown.file,
            "timeout": 10.0,
            "retries": 2,
        }
        fields |= {"token_name": "t", "token_value": Secret(TOKEN)} if token else {"password": Secret(PASSWORD)}
        return Profile("profile test", **{**fields, **more})

    return make


@pytest.fixture
def closed_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
