# SPDX-License-Identifier: Apache-2.0
"""A small HTTPS server for the tests of the connection: it answers what a test says, and keeps what it got."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import subprocess
import threading
import time
import traceback
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from pvepassthru.api.client import connect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pvepassthru.api.profile import Profile

    Start = Callable[..., "Server"]
    Make = Callable[..., Profile]

TOKEN = "7c0e1f6e-0000-4000-8000-5ec4e7000001"  # noqa: S105 - a test's
PASSWORD = "correct horse/battery"  # noqa: S105 - a test's
TICKET = "PVE:root@pam:65000000::t1cket+/=="
CSRF = "65000000:csrf0123"
SECRETS = (TOKEN, PASSWORD, TICKET, CSRF, "123456")
UPID = "UPID:pve1:00005322:0008BFAD:6B03311B:qmstart:100:root@pam:"
CONFIG = "nodes/pve1/qemu/100/config"


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
    seconds: float = 0
    """Between two bytes of the body."""


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
        self._http = _Http(self)
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

    def __init__(self, owner: Server) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients that leave are what is tested."""


def reset(connection: socket.socket) -> None:
    """End a connection with a TCP reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def owner(self) -> Server:
        assert isinstance(self.server, _Http)
        return self.server.owner

    def setup(self) -> None:
        wrapped = self.owner.wrap(self.request)
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
        self.owner.requests.append(request)
        self._send(self.owner.answer(request))

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
        for byte in body if answer.seconds else b"":
            self.wfile.write(bytes([byte]))
            time.sleep(answer.seconds)
        if not answer.seconds:
            self.wfile.write(body[: len(body) // 2] if answer.cut else body)
        if answer.cut:
            self.wfile.flush()
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def read(profile: Profile) -> object:
    with connect(profile) as client:
        return client.get("nodes")


def logged_in(request: Request) -> Answer:
    if request.path.endswith("/access/ticket"):
        return Answer({"ticket": TICKET, "CSRFPreventionToken": CSRF, "username": "root@pam"})
    return Answer()


def told(error: BaseException) -> str:
    """All that an error can print."""
    return "\n".join([*traceback.format_exception(error), repr(error), str(error), repr(error.__dict__)])


def assert_no_secret(text: str) -> None:
    assert [secret for secret in SECRETS if secret in text] == []
