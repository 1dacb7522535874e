# SPDX-License-Identifier: Apache-2.0
"""The PVE API, through proxmoxer, which is imported here only; 1.2.0 (Debian 12) and 2.x both do.

proxmoxer makes the calls; the connection beneath it is ours (transport.py), since proxmoxer's own sends the password
before a fingerprint could be checked, follows redirections, and in 1.2.0 waits without a limit and knows no second
factor. A read is repeated, and asked of the next host when one cannot be reached; a change is sent to the next host
only while it is certain that nobody has got it.
"""

from __future__ import annotations

import inspect
import re
import threading
import time
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import quote

import proxmoxer
from proxmoxer.core import ProxmoxResource, ResourceException

from pvepassthru.api import pvesh, transport
from pvepassthru.api.errors import LOGIN, refusal
from pvepassthru.api.login import RENEW_AFTER, login
from pvepassthru.api.secret import Secret, without
from pvepassthru.api.transport import CutError, Session, TicketAuth, TokenAuth
from pvepassthru.model.errors import (
    ApiCertificateError,
    ApiDeniedError,
    ApiError,
    ApiUnreachableError,
    BusyError,
    UsageError,
)
from pvepassthru.model.text import listed, one_line, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    from requests import Response
    from requests.auth import AuthBase

    from pvepassthru.api.profile import Profile

Found = TypeVar("Found")
Answer: TypeAlias = Any
"""What PVE's JSON holds under `data`."""
BACKOFF = (0.2, 0.5, 1.0, 2.0)
"""Seconds before the second round over the hosts and those after it; the last for all further ones."""
TASK_TIMEOUT = 300.0
TASK_POLL = (0.2, 0.5, 1.0)
"""Seconds between looks at a task; the last for all further ones."""
TASK_LOG_LINES = 1000
UPID = re.compile(
    r"UPID:([A-Za-z0-9][A-Za-z0-9-]*):[0-9A-Fa-f]{8}:[0-9A-Fa-f]{8,9}:[0-9A-Fa-f]{8}:[^:\s/]+:[^:\s/]*:[^:\s/]+:"
)
"""Source: PVE::Tools, upid_decode."""
PATH_SAFE = ":@!$,=+"
"""What may stand in a part of a path as it is, besides letters, digits and `-._~`."""


def connect(profile: Profile, *, otp: Callable[[], str] | str | None = None) -> Client:
    """A client for this profile; with a password it has logged in, with a token nothing has been sent yet.

    `otp` is a one-time password, or asks for one; it is called only if PVE wants it. Raises ApiError and what is
    derived from it.
    """
    client = Client(profile, otp=otp)
    try:
        client.log_in()
    except BaseException:
        client.close()
        raise
    return client


class Client:
    """The API of one cluster; safe for several threads, each of which may wait in a call of its own.

    Every call returns what stands under `data`, and raises an ApiError of the class that model/errors.py describes. A
    parameter that is None is left out, true and false become 1 and 0, a list is sent as repeated keys.
    """

    def __init__(self, profile: Profile, *, otp: Callable[[], str] | str | None = None) -> None:
        self.profile = profile
        self._otp = otp
        self._lock = threading.Lock()
        self._current = 0
        self._born = 0.0
        self._auth: AuthBase | None = None
        self._local: Any = None
        self._sessions: list[Session] = []
        if profile.local:
            self._local = _local_resource(profile.timeout)
            return
        self._sessions = [Session(endpoint, profile.ca_file, profile.timeout) for endpoint in profile.endpoints]
        if profile.token_name is not None and profile.token_value is not None:
            self._use(TokenAuth(profile.user, profile.token_name, profile.token_value))

    def __repr__(self) -> str:
        return f"Client({self.user} at {self.where})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def user(self) -> str:
        """Who asks: a user, or a token as `user!name`."""
        profile = self.profile
        return f"{profile.user}!{profile.token_name}" if profile.token_name else profile.user

    @property
    def where(self) -> str:
        """The host that is asked first, or `this node`."""
        return str(self._sessions[self._current].endpoint) if self._sessions else "this node"

    @property
    def is_root(self) -> bool:
        """Whether PVE takes this for root@pam itself, who alone sets host=, args and hookscript: no token is."""
        return self.profile.user == "root@pam" and self.profile.token_name is None

    def get(self, path: str, /, **params: object) -> Answer:
        """What a read answers; repeated when it fails on the way."""
        return self._call("GET", path, params)

    def post(self, path: str, /, **params: object) -> Answer:
        """What the call answers, a UPID where it starts a task. Never repeated; raises ApiUnsureError when in doubt."""
        return self._call("POST", path, params)

    def put(self, path: str, /, **params: object) -> Answer:
        """What the call answers. Never repeated; raises ApiUnsureError when in doubt."""
        return self._call("PUT", path, params)

    def delete(self, path: str, /, **params: object) -> Answer:
        """What the call answers. Never repeated; raises ApiUnsureError when in doubt."""
        return self._call("DELETE", path, params)

    def task(self, upid: str, timeout: float = TASK_TIMEOUT) -> dict[str, Any]:
        """The state of a task at its end, which is waited for `timeout` seconds; warnings are not a failure.

        Raises ApiError, with PVE's words, when the task failed, and BusyError when it has not ended in time.
        """
        node, kind, what = _task(upid)
        deadline = time.monotonic() + timeout
        turn = 0
        while True:
            state: dict[str, Any] = self.get(f"nodes/{node}/tasks/{upid}/status")
            if state.get("status") == "stopped":
                break
            if time.monotonic() >= deadline:
                raise BusyError(
                    f"task {kind}{what} on {node} has not ended within {timeout:g} s", f"it goes on; look at {upid}"
                )
            time.sleep(min(TASK_POLL[min(turn, len(TASK_POLL) - 1)], max(deadline - time.monotonic(), 0)))
            turn += 1
        end = str(state.get("exitstatus", "it ended without a word"))
        if end == "OK" or end.startswith("WARNINGS"):
            return state
        words = one_line(" ".join(end.split()))
        raise ApiError(f"task {kind}{what} on {node} failed: {words}", f"its log: pvenode task log {upid}", words=words)

    def task_log(self, upid: str) -> list[str]:
        """The first thousand lines of a task's log, with what the hook printed."""
        node = _task(upid)[0]
        return [line.get("t", "") for line in self.get(f"nodes/{node}/tasks/{upid}/log", limit=TASK_LOG_LINES)]

    def close(self) -> None:
        """Close all connections."""
        for session in self._sessions:
            session.close()

    # ---- calls

    def log_in(self) -> None:
        """Get a ticket if this user needs one and has none, or an old one. Raises ApiError."""
        password = self.profile.password
        if password is None or self._local is not None:
            return
        with self._lock:
            if not isinstance(self._auth, TicketAuth):
                self._use(self._ticket(password))
            elif time.monotonic() - self._born >= RENEW_AFTER:
                try:
                    self._use(self._ticket(self._auth.ticket))
                except ApiDeniedError:  # it was too old
                    self._use(self._ticket(password))

    def _forget(self, auth: AuthBase | None) -> bool:
        """Let the next call log in anew if this is a ticket; False for a token."""
        if not isinstance(auth, TicketAuth):
            return False
        with self._lock:
            if self._auth is auth:
                self._auth = None
        return True

    def _use(self, auth: AuthBase) -> None:
        self._auth, self._born = auth, time.monotonic()
        for session in self._sessions:
            session.auth = auth

    def _ticket(self, password: Secret) -> TicketAuth:
        codes: list[Secret | None] = []

        def code() -> Secret | None:
            if not codes:
                said = self._otp() if callable(self._otp) else self._otp
                codes.append(Secret(said) if said else self.profile.otp)
            return codes[0]

        def ask(session: Session) -> TicketAuth:
            with session.alone() as own:
                own.auth = None
                return login(own, self.profile.user, password, code)

        return self._on_some_host("POST", LOGIN, ask, repeat=True)

    def _call(self, method: str, path: str, params: dict[str, object]) -> Answer:
        parts = _parts(path)
        values = {key: _value(value) for key, value in params.items() if value is not None}
        where = "/".join(parts)
        if self._local is not None:
            return self._call_local(method, where, values)

        def ask(session: Session) -> Answer:
            if method == "GET":
                return send(session)
            with session.alone() as own:  # a kept connection may be dead, and then nobody knows if the change was heard
                return send(own)

        def send(session: Session) -> Answer:
            resource = ProxmoxResource(base_url=session.base_url, session=session, serializer=_Serializer())
            return getattr(resource, method.lower())(*(quote(part, safe=PATH_SAFE) for part in parts), **values)

        again = False
        while True:
            self.log_in()
            auth = self._auth
            try:
                return self._on_some_host(method, where, ask, repeat=method == "GET")
            except ResourceException as error:
                # PVE looks at the ticket first, so nothing has been done; one may run out while a machine sleeps.
                if again or error.status_code != 401 or not self._forget(auth):
                    raise self._refusal(method, where, error) from None  # the sentence has all that it says
                again = True

    def _on_some_host(self, method: str, path: str, ask: Callable[[Session], Found], *, repeat: bool) -> Found:
        """What `ask` returns for the first host that can be reached. Raises ApiError and what `ask` raises."""
        cuts: list[CutError] = []
        for turn in range(1 + self.profile.retries if repeat else 1):
            if turn:
                time.sleep(BACKOFF[min(turn, len(BACKOFF)) - 1])
            cuts = []
            for place in self._order():
                try:
                    answer = ask(self._sessions[place])
                except CutError as cut:
                    if isinstance(cut.error, ApiCertificateError):
                        raise cut.error from cut
                    if cut.sent and not repeat:
                        raise transport.unsure(method, path, cut) from cut
                    cuts.append(cut)
                else:
                    self._current = place
                    return answer
        if len(cuts) == 1:
            raise cuts[0].error from cuts[0]
        reasons = "; ".join(cut.error.message for cut in cuts)
        raise ApiUnreachableError(f"no host of {self.profile.source} can be reached: {reasons}", cuts[0].error.hint)

    def _order(self) -> Iterator[int]:
        count, first = len(self._sessions), self._current
        return ((first + step) % count for step in range(count))

    def _refusal(self, method: str, path: str, error: ResourceException) -> ApiError:
        secrets = [secret for secret in (self.profile.password, self.profile.token_value) if secret is not None]
        if isinstance(self._auth, TicketAuth):
            secrets += [self._auth.ticket, self._auth.csrf]
        fields = {name: without(text, secrets) for name, text in (error.errors or {}).items()}
        reason = without(transport.reason_of(str(error.content or "")), secrets)
        return refusal(method, path, error.status_code, reason, fields)

    def _call_local(self, method: str, path: str, values: dict[str, Any]) -> Answer:
        lists = [key for key, value in values.items() if isinstance(value, list)]
        if lists:
            raise ApiError(
                f"cannot send the list {listed(lists)} of {method} {path} through pvesh: proxmoxer spoils it",
                "use a profile with a token, over https to this node",
            )
        try:
            return getattr(self._local, method.lower())(*path.split("/"), **values)
        except pvesh.RefusedError as error:
            raise refusal(method, path, error.status, error.words) from None  # as above
        except CutError as cut:
            if cut.sent and method != "GET":
                raise transport.unsure(method, path, cut) from cut
            raise cut.error from cut


class _Serializer:
    """The bodies of answers, for proxmoxer 1.2.0, which asks `loads` for an error's body too, and 2.x."""

    def loads(self, answer: Response) -> Answer:
        if answer.status_code >= 400:
            return {"errors": self.loads_errors(answer)}
        return transport.data_of(answer)

    def loads_errors(self, answer: Response) -> dict[str, str]:
        return transport.fields_of(answer)


class _PveshSerializer:
    def loads(self, answer: Any) -> Answer:  # noqa: ANN401 - proxmoxer has no types
        return pvesh.data_of(answer.content)


def _local_resource(timeout: float) -> Any:  # noqa: ANN401 - proxmoxer has no types
    """The calls of proxmoxer through pvesh. Raises ApiError when this proxmoxer has no such backend."""
    try:
        from proxmoxer.backends import command_base, local  # noqa: PLC0415 - not in 1.2.0
    except ImportError:
        version = getattr(proxmoxer, "__version__", "")
        raise ApiError(
            f"proxmoxer {version} cannot use the API without a secret on the node itself",
            "make a token (pveum user token add root@pam pvepassthru --privsep 0) and write it into "
            "/etc/pvepassthru/api.yaml, with this node's name in hosts and ca_file: /etc/pve/pve-root-ca.pem",
        ) from None

    class PveshSession(local.LocalSession):  # type: ignore[misc]  # proxmoxer has no types
        def _exec(self, cmd: list[str]) -> tuple[str | int, ...]:
            answer = (pvesh.run(cmd, timeout), "", 0)
            return answer[: len(inspect.signature(command_base.Response).parameters)]  # 2.3 wants the exit code too

    return ProxmoxResource(base_url="", session=PveshSession(timeout=timeout), serializer=_PveshSerializer())


def _parts(path: str) -> list[str]:
    """The parts of a path below /api2/json. Raises UsageError for one that means another path."""
    parts = path.strip("/").split("/")
    if not all(parts) or any(part in {".", ".."} or not part.isprintable() for part in parts):
        raise UsageError(f"{shown(path)} is no path of the PVE API", "write it as nodes/NAME/qemu/VMID/config")
    return parts


def _value(value: object) -> object:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, list | tuple):
        return [_value(one) for one in value]
    return value


def _task(upid: str) -> tuple[str, str, str]:
    """The node of a task, its kind, and the VM as words, ` of VM 100`, or nothing. Raises UsageError."""
    found = UPID.fullmatch(upid)
    if found is None:
        raise UsageError(f"{shown(upid)} is no UPID of a task", "give what the call that started it returned")
    kind, what = upid.split(":")[5:7]
    vm = f" of VM {what}" if kind.startswith("qm") and what.isdecimal() else f" of {what}" if what else ""
    return found.group(1), kind, vm
