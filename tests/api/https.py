# SPDX-License-Identifier: Apache-2.0
"""A small HTTPS server for the tests of the connection: it does to a request what a test says, and keeps what it got."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import subprocess
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate: its own CA."""

    file: str
    key: str
    fingerprint: str


def certificate(folder: Path, name: str, subject: str = "IP:127.0.0.1,DNS:localhost") -> Certificate:
    file, key = folder / f"{name}.pem", folder / f"{name}.key"
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3"]
    made += [
        "-subj",
        f"/CN={name}",
        "-addext",
        f"subjectAltName={subject}",
        "-addext",
        "keyUsage=critical,keyCertSign,digitalSignature",
    ]
    subprocess.run(["openssl", *made, "-out", file, "-keyout", key], check=True, stderr=subprocess.DEVNULL)
    printed = subprocess.run(
        ["openssl", "x509", "-in", file, "-noout", "-fingerprint", "-sha256"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    return Certificate(str(file), str(key), printed.strip().partition("=")[2])


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    params: dict[str, list[str]]


@dataclass
class Answer:
    """What a handler says is sent; `cut` ends the connection in place of it."""

    data: object = None
    status: int = 200
    reason: str = "OK"
    body: bytes | None = None
    """In place of the JSON."""
    headers: dict[str, str] = field(default_factory=dict)
    cut: str = ""
    """`answer`: before a byte of it; `middle`: after half of the body."""


def refused(status: int, reason: str, **fields: str) -> Answer:
    """As PVE refuses: its words in the reason, of parameters in the body; 401 and 596 without a body."""
    if status in {401, 596}:
        return Answer(status=status, reason=reason, body=b"")
    body: dict[str, Any] = {"data": None, "message": f"{reason}\n"}
    if fields:
        body["errors"] = fields
    return Answer(status=status, reason=reason, body=json.dumps(body).encode())


class Server:
    """HTTPS on 127.0.0.1 on a port of its own."""

    def __init__(self, shown: Certificate, answer: Callable[[Request], Answer]) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.answer = answer
        self.handshake = True
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(shown.file, shown.key)
        self._http = _Http(("127.0.0.1", 0), _handler(self))
        self.port: int = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def wrap(self, plain: socket.socket) -> socket.socket | None:
        """The connection after its handshake; None when that failed, or is to fail."""
        self.connections += 1
        if not self.handshake:
            plain.recv(1)  # in the middle of it: of a reset before it Python's ssl leaks the client's socket
            reset(plain)
            return None
        plain.settimeout(20)
        try:
            return self._context.wrap_socket(plain, server_side=True)
        except OSError:
            plain.close()
            return None

    def count(self, method: str, end: str = "") -> int:
        return sum(one.method == method and one.path.endswith(end) for one in self.requests)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients that leave are what is tested."""


def reset(connection: socket.socket) -> None:
    """End a connection with a TCP reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            wrapped = server.wrap(self.request)
            if wrapped is None:
                raise ConnectionError
            self.request = wrapped
            super().setup()

        def finish(self) -> None:
            try:
                super().finish()
            except OSError:
                pass
            self.request.close()

        def _do(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            params = parse_qs(f"{url.query}&{body}", keep_blank_values=True, strict_parsing=False)
            request = Request(self.command, url.path, dict(self.headers), params)
            server.requests.append(request)
            self._send(server.answer(request))

        do_GET = do_POST = do_PUT = do_DELETE = _do  # noqa: N815 - as http.server calls them

        def _send(self, answer: Answer) -> None:
            if answer.cut == "answer":
                reset(self.request)
                self.close_connection = True
                return
            body = json.dumps({"data": answer.data}).encode() if answer.body is None else answer.body
            self.send_response_only(answer.status, answer.reason)
            for name, value in {"Content-Type": "application/json;charset=UTF-8", **answer.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if answer.cut else body)
            if answer.cut:
                self.wfile.flush()
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
