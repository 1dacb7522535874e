# SPDX-License-Identifier: Apache-2.0
"""A listening socket of one node, which speaks HTTPS, and misbehaves when it is told to."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import urllib.parse
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

from tests.api.fake_pve import certificates, routes
from tests.api.fake_pve.request import Died
from tests.api.fake_pve.routes import Answer
from tests.api.fake_pve.state import Entry

if TYPE_CHECKING:
    from tests.api.fake_pve.certificates import Kind
    from tests.api.fake_pve.faults import Fault, Faults
    from tests.api.fake_pve.request import Json
    from tests.api.fake_pve.state import State

PREFIX = "/api2/json"
IDLE = 30.0
"""Seconds after which a connection without a request is closed."""
_SECRETS = ("password", "otp", "tfa-challenge")


@dataclass(frozen=True)
class House:
    """What the doors of one cluster share."""

    state: State
    faults: Faults
    ending: threading.Event
    failures: list[BaseException]
    """Errors of the fake itself."""


class Door:
    """The API of one node on a port of 127.0.0.1. It is open from the start."""

    def __init__(self, house: House, node: str, kind: Kind = "good", port: int = 0) -> None:
        self.house = house
        self.node = node
        self.certificate = certificates.server(node, kind)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificate.file, self.certificate.key)
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._accepting = threading.Thread(target=self._accept, name=f"door-{node}", daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """Close the port and all connections, and wait for those who served them."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        self.drop()
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def drop(self) -> None:
        """Close all connections, and listen on."""
        with self._lock:
            for connection in self._open:
                _shut(connection)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._talk, args=(connection,), daemon=True)
            with self._lock:
                self._threads.add(thread)
            thread.start()

    def _talk(self, connection: socket.socket) -> None:
        """Serve one connection to its end."""
        try:
            connection.settimeout(IDLE)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._context.wrap_socket(connection, server_side=True) as secure:
                with self._lock:
                    self._open.add(secure)
                try:
                    _Handler(secure, self)
                finally:
                    with self._lock:
                        self._open.discard(secure)
        except OSError:
            pass  # a client that goes away, or does not like the certificate
        except BaseException as error:  # noqa: BLE001 - kept for the test that owns the fake, which raises it
            self.house.failures.append(error)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())


class _Handler(BaseHTTPRequestHandler):
    """Reads requests and writes answers on one connection, until one of both sides ends it."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE

    def __init__(self, connection: socket.socket, door: Door) -> None:
        self.door = door
        self.house = door.house
        super().__init__(connection, connection.getpeername(), None)  # type: ignore[arg-type]  # no socketserver here

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Say nothing."""

    def do_GET(self) -> None:
        """Serve any request."""
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length).decode()
        url = urllib.parse.urlsplit(self.path)
        if not url.path.startswith(f"{PREFIX}/"):
            self._send(Answer(501, "the API is elsewhere", None))
            return
        path = url.path.removeprefix(PREFIX)
        params = _parameters(url.query, body, self.headers.get("Content-Type") or "")
        self._serve(path, params, self.house.faults.of(self.command, path))

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - the names by which the base class looks for them

    def _serve(self, path: str, params: dict[str, list[str]], faults: list[Fault]) -> None:
        cuts = {fault.cut for fault in faults}
        answer: Answer | None = None
        user: str | None = None
        state = self.house.state
        with state.lock:
            for fault in faults:
                if fault.meddle:
                    fault.meddle(state)
            status = next((fault for fault in faults if fault.status), None)
            if status:
                body: Json = {"data": None, "message": status.reason} if status.status == 500 else None
                answer = Answer(status.status or 0, status.reason, body)
            elif "before" not in cuts:
                dies = "during" in cuts
                request = routes.Request(self.command, path, self.headers, params, self.door.node, dies)
                try:
                    answer, user = routes.serve(state, request)
                except Died:
                    answer = None
            lost = answer is None or not cuts.isdisjoint({"before", "during", "after"})
            self._log(path, params, user, None if lost or answer is None else answer.status)
        ended = self.house.ending.wait(sum(fault.seconds for fault in faults))
        if lost or answer is None or ended:
            self._cut()
            return
        instead = next((fault.body for fault in faults if fault.body is not None), None)
        self._send(answer, instead, half="answer" in cuts)

    def _log(self, path: str, params: dict[str, list[str]], user: str | None, status: int | None) -> None:
        shown = {name: values for name, values in params.items() if name not in _SECRETS}
        self.house.state.log.append(Entry(user, self.command, path, shown, status, self.door.node))

    def _send(self, answer: Answer, body: bytes | None = None, *, half: bool = False) -> None:
        """Send an answer in one piece, or its first half."""
        kind = "application/json;charset=UTF-8" if body is None else "text/html"
        if body is None:
            body = b"" if answer.body is None else json.dumps(answer.body).encode()
        head = [f"HTTP/1.1 {answer.status} {answer.reason}", "Server: fake-pve", f"Content-Length: {len(body)}"]
        head += ["Connection: Keep-Alive", f"Date: {self.date_time_string()}"]
        if body:
            head.append(f"Content-Type: {kind}")
        data = "\r\n".join([*head, "", ""]).encode("utf-8")
        if half:
            self.wfile.write(data + body[: len(body) // 2])
            self._cut()
        else:
            self.wfile.write(data + body)

    def _cut(self) -> None:
        """End the connection without another word."""
        self.close_connection = True
        _shut(self.connection)


def _parameters(query: str, body: str, kind: str) -> dict[str, list[str]]:
    """The parameters of a request, each with all its values."""
    params = urllib.parse.parse_qs(query, keep_blank_values=True, strict_parsing=False)
    if kind.startswith("application/json") and body:
        for name, value in json.loads(body).items():
            params[name] = [str(item) for item in value] if isinstance(value, list) else [str(value)]
    elif kind.startswith("application/x-www-form-urlencoded"):
        for name, values in urllib.parse.parse_qs(body, keep_blank_values=True).items():
            params.setdefault(name, []).extend(values)
    return params


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the other side was faster
