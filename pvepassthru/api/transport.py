# SPDX-License-Identifier: Apache-2.0
"""HTTPS to one host of PVE: the certificate verified or pinned before anything is sent, and no wait without a limit.

Nothing is taken from the environment or ~/.netrc: a proxy or CA bundle from there would undo what the profile says. No
redirect is followed and no cookie of the server kept.
"""

from __future__ import annotations

import errno
import io
import os
import re
import ssl
import threading
import time
from http.client import HTTPResponse, IncompleteRead, RemoteDisconnected
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from pvepassthru.api.errors import UNSURE_HINT, is_certificate
from pvepassthru.model.errors import ApiCertificateError, ApiError, ApiUnreachableError, ApiUnsureError
from pvepassthru.model.text import one_line

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from pvepassthru.api.profile import Endpoint
    from pvepassthru.api.secret import Secret

CONNECT_TIMEOUT = 10.0
"""Seconds; a host of a cluster that needs longer to accept a connection is as good as down."""
WHOLE = 4
"""Times the timeout, which is that between two bytes: the longest that a whole answer may take."""
CONNECTIONS = 32
"""Connections to one host that are kept for the next request."""
HEADER = re.compile(r"[!-~]+")
"""What may go into a header as it is."""
GOT = re.compile(r"\bgot \"(?:b')?([0-9a-f]{64})", re.IGNORECASE)
"""The fingerprint that was found, in urllib3's words."""
DEEPEST = 12
CUT_SHORT = "the connection was cut in the middle of it"
CERTIFICATE_HINT = (
    "give the CA as ca_file or PVE_CA_FILE (a cluster's own: /etc/pve/pve-root-ca.pem), or pin the certificate by its "
    "fingerprint (on the node: pvenode cert info); a host must have the name that its certificate has"
)


class CutError(Exception):
    """No usable answer came; `sent` tells whether the request may have reached the host."""

    def __init__(self, error: ApiError, *, sent: bool) -> None:
        super().__init__(error.message)
        self.error = error
        self.sent = sent


class _Progress:
    """How far one request came."""

    def __init__(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        self.sent = False
        """False until a connection is made and trusted: nothing of the request can have reached anybody."""
        self.late = False


class _Here(threading.local):
    """The request that this thread is at."""

    progress = _Progress(0)


_here = _Here()


class _Limited(io.RawIOBase):
    """What a host sends, until it takes too long as a whole; a limit between two bytes is the socket's."""

    def __init__(self, raw: io.RawIOBase, progress: _Progress) -> None:
        self._raw = raw
        self._progress = progress

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int | None:
        if time.monotonic() >= self._progress.deadline:
            self._progress.late = True
            raise TimeoutError
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - as its parent
        super().__init__(*arguments, **named)
        self.fp = io.BufferedReader(_Limited(self.fp.detach(), _here.progress))


class _Connection(HTTPSConnection):  # type: ignore[misc]  # urllib3 counts as untyped: 1.26 has no types
    response_class = _Response

    def connect(self) -> None:
        progress = _here.progress
        progress.sent = False
        try:
            super().connect()  # with the check of the certificate
            if self.sock.version() is None:  # the peer left before the handshake, of which Python's ssl says nothing
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        except BaseException:
            self.close()
            raise
        progress.sent = True

    def putrequest(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - as its parent
        _here.progress.sent = True  # a connection that was kept is not made anew
        super().putrequest(*arguments, **named)


class _Pool(HTTPSConnectionPool):  # type: ignore[misc]  # as above
    ConnectionCls = _Connection


class _Adapter(HTTPAdapter):  # type: ignore[misc]  # requests has no types
    """HTTPS whose peer must have the certificate of this fingerprint, if there is one."""

    def __init__(self, fingerprint: str | None) -> None:
        self._fingerprint = fingerprint
        super().__init__(pool_connections=1, pool_maxsize=CONNECTIONS)

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - as its parent
        if self._fingerprint:
            named |= {"assert_fingerprint": self._fingerprint, "ssl_context": _without_cas()}
        super().init_poolmanager(*arguments, **named)
        self.poolmanager.pool_classes_by_scheme = {"https": _Pool}


def _without_cas() -> ssl.SSLContext:
    """TLS for a pinned certificate; urllib3 would load all CAs of the system for each connection, and use none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class TokenAuth(AuthBase):  # type: ignore[misc]  # requests has no types
    """An API token in the header of every request."""

    def __init__(self, user: str, name: str, value: Secret) -> None:
        self._id = f"{user}!{name}"
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """The request with the token."""
        request.headers["Authorization"] = f"PVEAPIToken={self._id}={self._value.reveal()}"
        return request


class TicketAuth(AuthBase):  # type: ignore[misc]  # requests has no types
    """A ticket as a cookie, and with what changes something PVE's word against forged requests."""

    def __init__(self, ticket: Secret, csrf: Secret) -> None:
        self.ticket = ticket
        self.csrf = csrf

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """The request with the ticket."""
        request.headers["Cookie"] = f"PVEAuthCookie={self.ticket.reveal()}"
        if request.method != "GET":
            request.headers["CSRFPreventionToken"] = self.csrf.reveal()
        return request


class Session(requests.Session):  # type: ignore[misc]  # requests has no types
    """One host's connections; safe for several threads."""

    def __init__(self, endpoint: Endpoint, ca_file: str | None, timeout: float) -> None:
        super().__init__()
        self.endpoint = endpoint
        self.base_url = f"https://{endpoint}/api2/json"
        self.trust_env = False
        self.verify = False if endpoint.fingerprint else ca_file or True  # a fingerprint needs no CA
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.headers.update({"Accept": "application/json", "User-Agent": "pvepassthru"})
        self.adapters.clear()  # with it what speaks http without s
        self.mount("https://", _Adapter(endpoint.fingerprint))
        self._timeout = (min(timeout, CONNECT_TIMEOUT), timeout)
        self._ca_file = ca_file

    def alone(self) -> Session:
        """A session of its own to the same host, for the same user."""
        session = Session(self.endpoint, self._ca_file, self._timeout[1])
        session.auth = self.auth
        return session

    def request(
        self,
        method: str,
        url: str,
        *,
        data: object = None,
        params: object = None,
        auth: AuthBase | None = None,
    ) -> requests.Response:
        """The answer, whatever its status. Raises CutError when there is none that can be used."""
        progress = _here.progress = _Progress(WHOLE * self._timeout[1])
        try:
            answer = super().request(
                method, url, data=data, params=params, auth=auth, timeout=self._timeout, allow_redirects=False
            )
        except (requests.RequestException, HTTPError, OSError) as error:
            raise self._cut(error, progress) from error
        wanted = answer.headers.get("Content-Length", "")
        if wanted.isdecimal() and answer.raw.tell() < int(wanted):
            answer.close()
            raise self._unheard(CUT_SHORT, sent=True)
        if 300 <= answer.status_code < 400:
            message = (
                f"{self.endpoint} answers with a redirection (HTTP status {answer.status_code}), which PVE never does"
            )
            raise CutError(ApiError(message, "is the host, with its port, a node of PVE?"), sent=True)
        return answer

    def _cut(self, error: Exception, progress: _Progress) -> CutError:
        chain = _chain(error)
        tls = not progress.sent and any(isinstance(one, requests.exceptions.SSLError | ssl.SSLError) for one in chain)
        if tls and is_certificate(" ".join(str(one) for one in chain)):
            return CutError(self._untrusted(chain), sent=False)
        if progress.late:
            why = f"it was not whole within {WHOLE * self._timeout[1]:g} s"
        elif any(isinstance(one, requests.Timeout | TimeoutError) for one in chain):
            why = f"nothing came within {self._timeout[progress.sent]:g} s"
        else:
            why = f"it does not speak TLS as it should ({_words(chain)})" if tls else _words(chain)
        return self._unheard(why, sent=progress.sent)

    def _unheard(self, why: str, *, sent: bool) -> CutError:
        what = (
            f"no whole answer from the PVE API at {self.endpoint}"
            if sent
            else f"cannot reach the PVE API at {self.endpoint}"
        )
        hint = "see whether the host is up, its name and port are right and pveproxy runs there"
        return CutError(ApiUnreachableError(f"{what}: {why}", hint), sent=sent)

    def _untrusted(self, chain: list[BaseException]) -> ApiCertificateError:
        pinned = self.endpoint.fingerprint
        if pinned:
            got = next((found.group(1) for one in chain if (found := GOT.search(str(one)))), None)
            seen = f"its certificate has {_pairs(got)}" if got else "its certificate has another one"
            return ApiCertificateError(
                f"{self.endpoint} is not the host of the pinned fingerprint {_pairs(pinned)}: {seen}, so nothing was "
                "sent",
                "compare it on the node itself (pvenode cert info): a new certificate, or somebody in between?",
            )
        why = next((one.verify_message for one in chain if isinstance(one, ssl.SSLCertVerificationError)), "")
        why = why or one_line(str(chain[-1]))
        return ApiCertificateError(
            f"the certificate of {self.endpoint} is not trusted: {one_line(why).rstrip('.')}, so nothing was sent",
            CERTIFICATE_HINT,
        )


# ---- what an answer says


def data_of(answer: requests.Response) -> Any:  # noqa: ANN401 - what JSON holds
    """What stands under `data`. Raises CutError when the body is not PVE's JSON."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    if isinstance(body, dict) and "data" in body:
        return body["data"]
    host = urlsplit(answer.url).netloc
    message = f"{host} answered with something that is no JSON of PVE (HTTP status {answer.status_code})"
    raise CutError(ApiError(message, "is the host, with its port, a node of PVE?"), sent=True)


def reason_of(text: str) -> str:
    """PVE's words in the HTTP reason, which it writes in UTF-8 and Python reads as Latin-1."""
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def fields_of(answer: requests.Response) -> dict[str, str]:
    """What an answer with an error says of single parameters; empty where it says nothing."""
    try:
        body = answer.json()
    except ValueError:
        return {}
    fields = body.get("errors") if isinstance(body, dict) else None
    return {str(name): str(text) for name, text in fields.items()} if isinstance(fields, dict) else {}


def unsure(method: str, path: str, cut: CutError) -> ApiUnsureError:
    """The error for a change that may have been done."""
    return ApiUnsureError(f"{method} {path} may have been done or not: {cut.error.message}", UNSURE_HINT)


def _pairs(digits: str) -> str:
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2)).upper()


def _words(chain: list[BaseException]) -> str:
    """What a chain of exceptions says of a connection."""
    if any(isinstance(one, IncompleteRead) for one in chain):
        return CUT_SHORT
    if any(isinstance(one, RemoteDisconnected) for one in chain):
        return "the connection was cut"
    system = next((one.strerror for one in reversed(chain) if isinstance(one, OSError) and one.strerror), None)
    return one_line(" ".join(str(system or chain[-1]).split()))


def _chain(error: BaseException) -> list[BaseException]:
    """An exception and what lies below it, the innermost last."""
    found: list[BaseException] = []
    here: BaseException | None = error
    while here is not None and here not in found and len(found) < DEEPEST:
        found.append(here)
        context = here.__context__ if isinstance(here.__context__, OSError) else None  # else a detour of urllib3's
        inner = [getattr(here, "reason", None), *here.args[::-1], here.__cause__, context]
        here = next((one for one in inner if isinstance(one, BaseException)), None)
    return found
