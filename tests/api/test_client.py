# SPDX-License-Identifier: Apache-2.0
"""The connection to PVE, over real HTTPS sockets."""

from __future__ import annotations

import os
import pickle
import re
import socket
import stat
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from pvepassthru.api import client as client_module
from pvepassthru.api.client import Client, connect
from pvepassthru.api.profile import Endpoint, Profile
from pvepassthru.api.secret import Secret
from pvepassthru.model.errors import (
    ApiCertificateError,
    ApiConflictError,
    ApiDeniedError,
    ApiError,
    ApiMissingError,
    ApiUnreachableError,
    ApiUnsureError,
    BusyError,
    NotFoundError,
    UsageError,
)
from tests.api.https import Answer, Certificate, Request, Server, certificate, refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Start = Callable[..., Server]

TOKEN = "7c0e1f6e-0000-4000-8000-5ec4e7000001"  # noqa: S105 - a test's
PASSWORD = "correct horse/battery"  # noqa: S105 - a test's
TICKET = "PVE:root@pam:65000000::t1cket+/=="
CSRF = "65000000:csrf0123"
SECRETS = (TOKEN, PASSWORD, TICKET, CSRF, "123456")
UPID = "UPID:pve1:00005322:0008BFAD:6B03311B:qmstart:100:root@pam:"
CONFIG = "nodes/pve1/qemu/100/config"


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
    monkeypatch.setattr(client_module, "BACKOFF", (0.01,))
    monkeypatch.setattr(client_module, "TASK_POLL", (0.01,))


@pytest.fixture
def profile(shown: Certificate) -> Callable[..., Profile]:
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


# ---- calls


def test_read_and_write_with_a_token(serve: Start, profile: Callable[..., Profile]) -> None:
    server = serve(lambda request: Answer([{"node": "pve1"}] if request.method == "GET" else None))
    with connect(profile(server)) as client:
        assert client.get("nodes") == [{"node": "pve1"}]
        assert client.put(CONFIG, hostpci0="mapping=gpu", digest="abc", onboot=True, delete=None) is None
        client.delete("/cluster/mapping/pci/gpu", purge=False)
        client.post("cluster/mapping/pci", id="gpu", map=["node=pve1,path=0000:01:00.0", "node=pve2,path=0000:02:00.0"])
    read, written, deleted, made = server.requests
    assert (read.method, read.path, read.params) == ("GET", "/api2/json/nodes", {})
    assert (written.method, written.path) == ("PUT", f"/api2/json/{CONFIG}")
    assert written.params == {"hostpci0": ["mapping=gpu"], "digest": ["abc"], "onboot": ["1"]}
    assert (deleted.method, deleted.path, deleted.params) == (
        "DELETE",
        "/api2/json/cluster/mapping/pci/gpu",
        {"purge": ["0"]},
    )
    assert made.params == {"id": ["gpu"], "map": ["node=pve1,path=0000:01:00.0", "node=pve2,path=0000:02:00.0"]}
    assert {request.headers["Authorization"] for request in server.requests} == {f"PVEAPIToken=root@pam!t={TOKEN}"}
    assert server.connections == 1  # kept from call to call


def test_parameters_of_a_read_go_into_the_query(serve: Start, profile: Callable[..., Profile]) -> None:
    server = serve(lambda _: Answer([]))
    with connect(profile(server)) as client:
        client.get("cluster/mapping/pci", **{"check-node": "pve1"})
    assert server.requests[0].params == {"check-node": ["pve1"]}


def test_parts_of_a_path_stay_parts(serve: Start, profile: Callable[..., Profile]) -> None:
    server = serve(lambda _: Answer([]))
    with connect(profile(server)) as client:
        client.get(f"nodes/pve1/tasks/{UPID}/status")
        client.get("storage/a?b#c%2Fd e")
        for wrong in ("", "nodes/../access", "nodes//x", "nodes/./x", "a\nb"):
            with pytest.raises(UsageError):
                client.get(wrong)
    assert [request.path for request in server.requests] == [
        f"/api2/json/nodes/pve1/tasks/{UPID}/status",
        "/api2/json/storage/a%3Fb%23c%252Fd%20e",
    ]


def test_login_with_a_password(serve: Start, profile: Callable[..., Profile]) -> None:
    server = serve(logged_in)
    with connect(profile(server, token=False)) as client:
        client.get("nodes")
        client.put(CONFIG, hostpci0="host=0000:01:00.0")
        assert client.is_root
    login, read, written = server.requests
    assert login.params == {"username": ["root@pam"], "password": [PASSWORD]}
    assert read.headers["Cookie"] == written.headers["Cookie"] == f"PVEAuthCookie={TICKET}"
    assert "CSRFPreventionToken" not in read.headers
    assert written.headers["CSRFPreventionToken"] == CSRF


def second_factor(request: Request) -> Answer:
    if request.path.endswith("/access/ticket") and "tfa-challenge" not in request.params:
        ticket = "PVE:!tfa!%7B%22totp%22%3Atrue%7D:65000000::sig"
        return Answer({"ticket": ticket, "CSRFPreventionToken": "none", "NeedTFA": 1})
    return logged_in(request)


def test_second_factor_is_asked_for_only_when_wanted(serve: Start, profile: Callable[..., Profile]) -> None:
    server = serve(second_factor)
    with connect(profile(server, token=False), otp=lambda: "123456") as client:
        client.get("nodes")
    assert server.requests[1].params == {
        "username": ["root@pam"],
        "password": ["totp:123456"],
        "tfa-challenge": ["PVE:!tfa!%7B%22totp%22%3Atrue%7D:65000000::sig"],
    }
    assert server.requests[2].headers["Cookie"] == f"PVEAuthCookie={TICKET}"

    def never() -> str:
        raise AssertionError

    connect(profile(serve(logged_in), token=False), otp=never).close()


@pytest.mark.parametrize(
    "given, sent", [({"otp": "recovery:0123-4567"}, "recovery:0123-4567"), ({}, "totp:99")], ids=["recovery", "profile"]
)
def test_other_ways_to_give_a_second_factor(
    serve: Start, profile: Callable[..., Profile], given: dict[str, str], sent: str
) -> None:
    server = serve(second_factor)
    connect(profile(server, token=False, otp=Secret("99")), **given).close()  # type: ignore[arg-type]  # `otp` only
    assert server.requests[1].params["password"] == [sent]


def test_second_factor_that_nobody_gives(serve: Start, profile: Callable[..., Profile]) -> None:
    with pytest.raises(ApiDeniedError, match="root@pam has a second factor"):
        connect(profile(serve(second_factor), token=False))


def test_one_time_password_is_not_sent_twice(serve: Start, profile: Callable[..., Profile]) -> None:
    def answer(request: Request) -> Answer:
        return Answer(cut="answer") if "tfa-challenge" in request.params else second_factor(request)

    first, second = serve(answer), serve(answer)
    with pytest.raises(ApiUnreachableError):
        connect(profile(first, second, token=False), otp="123456")
    assert first.count("POST") == 2
    assert second.requests == []


def test_old_ticket_is_exchanged(
    serve: Start, profile: Callable[..., Profile], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(logged_in)
    with connect(profile(server, token=False)) as client:
        monkeypatch.setattr(client, "_born", time.monotonic() - 3601)
        client.get("nodes")
        client.get("nodes")
        assert [request.params.get("password") for request in server.requests] == [[PASSWORD], [TICKET], None, None]


def test_ticket_that_ran_out_means_a_new_login(
    serve: Start, profile: Callable[..., Profile], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(request: Request) -> Answer:
        if request.params.get("password") == [TICKET]:
            return refused(401, "authentication failure")
        return logged_in(request)

    server = serve(answer)
    with connect(profile(server, token=False)) as client:
        monkeypatch.setattr(client, "_born", time.monotonic() - 9000)
        client.get("nodes")
    assert [request.params.get("password") for request in server.requests] == [[PASSWORD], [TICKET], [PASSWORD], None]


def test_threads_share_a_client(serve: Start, profile: Callable[..., Profile]) -> None:
    server = serve(lambda request: Answer(int(request.path.rsplit("/", 1)[1])))
    found: dict[int, object] = {}
    with connect(profile(server)) as client:

        def ask(number: int) -> None:
            found[number] = client.get(f"cluster/{number}")

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {number: number for number in range(40)}


# ---- refusals


REFUSALS = [
    (refused(401, "Authentication failed!"), ApiDeniedError, "Authentication failed!", "realm"),
    (refused(401, "Permission denied - invalid csrf token"), ApiDeniedError, "invalid csrf token", "connect again"),
    (refused(403, "Permission check failed (/vms/100, VM.Audit)"), ApiDeniedError, "(/vms/100, VM.Audit)", "grant"),
    (
        refused(500, "only root can set 'hostpci0' config for non-mapped devices"),
        ApiDeniedError,
        "only root can set 'hostpci0'",
        "no API token",
    ),
    (
        refused(400, "Parameter verification failed.", hostpci3="only root@pam can set 'romfile' option"),
        ApiDeniedError,
        "hostpci3: only root@pam can set 'romfile' option",
        "no API token",
    ),
    (
        refused(
            400, "Parameter verification failed.", hostpci2="invalid format - format error\nhostpci2.host: no match\n"
        ),
        ApiError,
        "hostpci2: invalid format - format error hostpci2.host: no match",
        "",
    ),
    (
        refused(500, "checksum mismatch (file change by other user?)"),
        ApiConflictError,
        "checksum mismatch",
        "read it again",
    ),
    (
        refused(500, "update hardware mapping failed: detected modified configuration - file changed by other user?"),
        ApiConflictError,
        "detected modified configuration",
        "read it again",
    ),
    (refused(500, "VM is locked (backup)"), ApiConflictError, "VM is locked (backup)", "qm unlock"),
    (
        refused(500, "can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout"),
        ApiConflictError,
        "lock-100.conf",
        "another task",
    ),
    (
        refused(500, "create hardware mapping failed: pci ID 'gpu' already defined"),
        ApiConflictError,
        "already",
        "read it",
    ),
    (
        refused(500, "Configuration file 'nodes/pve1/qemu-server/9999.conf' does not exist"),
        ApiMissingError,
        "9999.conf",
        "which node",
    ),
    (refused(500, "mapping 'nosuch' not found"), ApiMissingError, "nosuch", "name"),
    (refused(500, "hostname lookup 'nope' failed - failed to get address info"), ApiMissingError, "nope", "/nodes"),
    (refused(501, "Method 'GET /x' not implemented"), ApiError, "not implemented", "too old"),
    (refused(500, "no options specified"), ApiError, "no options specified", ""),
    (refused(500, "cluster not ready - no quorum?"), ApiError, "no quorum", "most of its nodes"),
    (refused(500, ""), ApiError, "HTTP status 500", ""),
]


@pytest.mark.parametrize("answer, kind, words, hint", REFUSALS, ids=lambda value: getattr(value, "reason", None))
def test_refusal(
    serve: Start, profile: Callable[..., Profile], answer: Answer, kind: type[ApiError], words: str, hint: str
) -> None:
    server = serve(lambda _: answer)
    with connect(profile(server)) as client, pytest.raises(ApiError) as caught:
        client.put(CONFIG, hostpci0="host=0000:01:00.0")
    error = caught.value
    assert type(error) is kind
    assert error.status == answer.status
    assert error.message.startswith(f"PVE refused PUT {CONFIG}: ")
    assert words in error.message
    assert words in error.words
    assert hint in error.hint
    assert bool(error.hint) is bool(hint)
    assert server.count("PUT") == 1
    assert_no_secret(told(error))


def test_refusal_keeps_what_is_said_of_parameters(serve: Start, profile: Callable[..., Profile]) -> None:
    answer = refused(400, "Parameter verification failed.", id="bad\n", map="property is missing")
    with connect(profile(serve(lambda _: answer))) as client, pytest.raises(ApiError) as caught:
        client.get("x")
    assert caught.value.fields == {"id": "bad", "map": "property is missing"}


def test_what_is_missing_is_a_not_found_error_too() -> None:
    assert issubclass(ApiMissingError, NotFoundError)
    error = pickle.loads(pickle.dumps(ApiMissingError("a", "b", status=500, words="w", fields={"k": "v"})))  # noqa: S301 - our own
    assert (str(error), error.status, error.words, error.fields) == ("a; b", 500, "w", {"k": "v"})


@pytest.mark.parametrize("status", [596, 597, 599, 502, 504])
def test_change_that_got_lost_behind_the_host_is_in_doubt(
    serve: Start, profile: Callable[..., Profile], status: int
) -> None:
    server = serve(lambda _: Answer(status=status, reason="Connection timed out", body=b""))
    with connect(profile(server)) as client:
        with pytest.raises(ApiUnsureError, match="Connection timed out, so it may have been done or not"):
            client.put(CONFIG, cores=2)
        with pytest.raises(ApiUnreachableError, match="Connection timed out") as caught:
            client.get(CONFIG)
    assert "may have been" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        refused(596, "error:0A000086:SSL routines::certificate verify failed"),
        Answer(status=595, reason="No route", body=b""),
    ],
    ids=["certificate", "connection"],
)
def test_change_that_no_node_got(serve: Start, profile: Callable[..., Profile], answer: Answer) -> None:
    with (
        connect(profile(serve(lambda _: answer))) as client,
        pytest.raises(ApiUnreachableError, match="could not pass on"),
    ):
        client.put("nodes/pve2/qemu/100/config", cores=2)


def test_words_in_utf8_and_control_characters(serve: Start, profile: Callable[..., Profile]) -> None:
    reason = "kein Gerät \x1b[31m gefunden".encode().decode("latin-1")
    with (
        connect(profile(serve(lambda _: Answer(status=500, reason=reason)))) as client,
        pytest.raises(ApiError) as caught,
    ):
        client.get("x")
    assert "kein Gerät \\x1b[31m gefunden" in str(caught.value)


def test_login_that_is_refused(serve: Start, profile: Callable[..., Profile]) -> None:
    body = b'{"data":null,"message":"authentication failure\\n"}'
    server = serve(lambda _: Answer(status=401, reason="authentication failure", body=body))
    with pytest.raises(ApiDeniedError, match="PVE refused POST access/ticket: authentication failure") as caught:
        connect(profile(server, server, token=False))
    assert server.count("POST") == 1
    assert_no_secret(told(caught.value))


@pytest.mark.parametrize("data", [None, [], {}, {"ticket": "a\r\nb", "CSRFPreventionToken": CSRF}, {"ticket": 7}])
def test_login_without_a_ticket(serve: Start, profile: Callable[..., Profile], data: object) -> None:
    with pytest.raises(ApiError, match="without a usable ticket"):
        connect(profile(serve(lambda _: Answer(data)), token=False))


def test_secret_that_pve_repeats_is_masked(serve: Start, profile: Callable[..., Profile]) -> None:
    def answer(request: Request) -> Answer:
        if request.path.endswith("ticket"):
            return logged_in(request)
        return refused(400, "no", ticket=f"bad {TICKET}", other=f"{PASSWORD} {CSRF}")

    with connect(profile(serve(answer), token=False)) as client, pytest.raises(ApiError) as caught:
        client.get("x")
    assert caught.value.fields == {"ticket": "bad ***", "other": "*** ***"}
    assert_no_secret(told(caught.value))


def test_no_secret_shows(serve: Start, profile: Callable[..., Profile], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    server = serve(lambda request: logged_in(request) if request.path.endswith("ticket") else refused(500, "no"))
    for token in (True, False):
        wanted = profile(server, token=token)
        with connect(wanted) as client:
            assert_no_secret(f"{wanted!r} {wanted} {client!r} {client} {client.where}")
            assert repr(client) == f"Client({'root@pam!t' if token else 'root@pam'} at 127.0.0.1:{server.port})"
            with pytest.raises(ApiError) as caught:
                client.put(CONFIG, cores=2)
            assert_no_secret(told(caught.value))
    assert_no_secret(caplog.text)
    assert TOKEN in str(server.requests)  # it was at work


# ---- certificates


def test_certificate_that_no_ca_signed(serve: Start, profile: Callable[..., Profile]) -> None:
    server = serve()
    for token in (True, False):
        with pytest.raises(ApiCertificateError, match="is not trusted: self.signed certificate") as caught:
            read(profile(server, token=token, ca_file=None))
        assert "ca_file" in caught.value.hint
    assert server.requests == []


def test_certificate_of_another_name(
    serve: Start, profile: Callable[..., Profile], tmp_path: Path, shown: Certificate
) -> None:
    other = certificate(tmp_path, "other", "DNS:pve9.example.org")
    server = serve(with_=other)
    with pytest.raises(ApiCertificateError, match="is not trusted"):
        read(profile(server, ca_file=other.file))
    with pytest.raises(ApiCertificateError, match="is not trusted"):
        read(profile(server, ca_file=shown.file))
    assert server.requests == []


def test_pinned_certificate(serve: Start, profile: Callable[..., Profile], shown: Certificate) -> None:
    server = serve(logged_in)
    for token in (True, False):
        with connect(profile(server, token=token, pin=shown.fingerprint.replace(":", "").lower())) as client:
            client.get("nodes")
    assert server.count("GET") == 2


@pytest.mark.parametrize("token", [True, False], ids=["token", "password"])
@pytest.mark.parametrize("proxy", [False, True], ids=["direct", "proxy in the environment"])
def test_wrong_fingerprint_sends_nothing(
    serve: Start,
    profile: Callable[..., Profile],
    shown: Certificate,
    monkeypatch: pytest.MonkeyPatch,
    *,
    token: bool,
    proxy: bool,
) -> None:
    server, fallback = serve(), serve()
    if proxy:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{fallback.port}")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", shown.file)
    with (
        pytest.raises(ApiCertificateError) as caught,
        connect(profile(server, fallback, token=token, pin="ab" * 32)) as client,
    ):
        client.put(CONFIG, cores=2)
    assert server.connections == 1  # not tried again,
    assert server.requests == []
    assert fallback.connections == 0  # and a host that may be a fraud is told, not passed over
    assert shown.fingerprint in str(caught.value)
    assert "AB:AB:AB" in str(caught.value)
    assert_no_secret(told(caught.value))


def test_environment_gives_no_ca(
    serve: Start, profile: Callable[..., Profile], shown: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", shown.file)
    with pytest.raises(ApiCertificateError):
        read(profile(serve(), ca_file=None))


def test_redirection_is_not_followed(serve: Start, profile: Callable[..., Profile]) -> None:
    other = serve()
    server = serve(
        lambda _: Answer(status=302, headers={"Location": f"https://127.0.0.1:{other.port}/api2/json/nodes"})
    )
    with connect(profile(server)) as client:
        with pytest.raises(ApiError, match="redirection"):
            client.get("nodes")
        with pytest.raises(ApiUnsureError, match="redirection"):
            client.put(CONFIG, cores=2)
    assert other.requests == []


def test_cookies_of_the_server_are_not_kept(serve: Start, profile: Callable[..., Profile]) -> None:
    server = serve(lambda _: Answer(headers={"Set-Cookie": "PVEAuthCookie=foreign; path=/"}))
    with connect(profile(server)) as client:
        client.get("nodes")
        client.get("nodes")
    assert ["Cookie" in request.headers for request in server.requests] == [False, False]


# ---- connections that fail


def test_reads_are_repeated(serve: Start, profile: Callable[..., Profile]) -> None:
    cuts = ["answer", "middle"]
    server = serve(lambda _: Answer(["whole"], cut=cuts.pop(0) if cuts else ""))
    with connect(profile(server)) as client:
        assert client.get("nodes") == ["whole"]
    assert server.count("GET") == 3


def test_reads_are_not_repeated_for_ever(serve: Start, profile: Callable[..., Profile]) -> None:
    server = serve(lambda _: Answer(cut="answer"))
    with connect(profile(server, retries=3)) as client, pytest.raises(ApiUnreachableError, match="cannot reach"):
        client.get("nodes")
    assert server.count("GET") == 4


@pytest.mark.parametrize("cut", ["answer", "middle"])
@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_writes_are_not_repeated(serve: Start, profile: Callable[..., Profile], method: str, cut: str) -> None:
    first, second = serve(lambda _: Answer(["x" * 99], cut=cut)), serve()
    with connect(profile(first, second)) as client, pytest.raises(ApiUnsureError) as caught:
        getattr(client, method)(CONFIG, cores=2)
    assert str(caught.value).startswith(f"{method.upper()} {CONFIG} may have been done or not: ")
    assert len(first.requests) == 1
    assert second.requests == []
    assert_no_secret(told(caught.value))


def test_write_goes_to_the_next_host_if_nobody_got_it(
    serve: Start, profile: Callable[..., Profile], closed_port: int
) -> None:
    dead, alive = serve(), serve()
    dead.handshake = False
    with connect(profile(closed_port, dead, alive)) as client:
        client.put(CONFIG, cores=2)
        assert client.where == f"127.0.0.1:{alive.port}"
        client.put(CONFIG, cores=3)
    assert dead.connections == 1  # the host that answered is asked first from then on
    assert dead.requests == []
    assert alive.count("PUT") == 2


def test_write_on_a_connection_that_the_host_has_closed(serve: Start, profile: Callable[..., Profile]) -> None:
    server = serve(lambda _: Answer(headers={"Connection": "close"}))
    with connect(profile(server)) as client:
        client.get("nodes")
        time.sleep(0.1)
        client.put(CONFIG, cores=2)
    assert server.count("PUT") == 1


def test_reads_and_the_login_go_to_the_next_host(
    serve: Start, profile: Callable[..., Profile], closed_port: int
) -> None:
    cut, alive = serve(lambda _: Answer(cut="answer")), serve(logged_in)
    with connect(profile(closed_port, cut, alive, token=False)) as client:
        client.get("nodes")
    assert (alive.count("POST"), alive.count("GET")) == (1, 1)


def test_no_host_can_be_reached(serve: Start, profile: Callable[..., Profile], closed_port: int) -> None:
    deaf = serve()
    deaf.handshake = False
    with connect(profile(closed_port, deaf)) as client:
        for call in (client.get, client.put):
            with pytest.raises(ApiUnreachableError) as caught:
                call(CONFIG)
            assert "no host of profile test can be reached" in str(caught.value)
            assert f"127.0.0.1:{closed_port}: Connection refused" in str(caught.value)
            assert f"127.0.0.1:{deaf.port}: " in str(caught.value)
            assert_no_secret(told(caught.value))


def test_name_that_is_none(profile: Callable[..., Profile]) -> None:
    wanted = profile(8006, endpoints=(Endpoint("pve.invalid"),), retries=0)
    with pytest.raises(ApiUnreachableError, match=r"cannot reach the PVE API at pve\.invalid:8006: .*[Nn]ame"):
        read(wanted)


def test_slow_answer(serve: Start, profile: Callable[..., Profile]) -> None:
    end = threading.Event()

    def answer(_: Request) -> Answer:
        end.wait(20)
        return Answer()

    server = serve(answer)
    with connect(profile(server, timeout=1.0, retries=1)) as client:
        begin = time.monotonic()
        with pytest.raises(ApiUnreachableError, match="no answer within 1 s"):
            client.get("nodes")
        with pytest.raises(ApiUnsureError, match="no answer within 1 s"):
            client.put(CONFIG, cores=2)
        assert 3 <= time.monotonic() - begin < 15
    end.set()
    assert (server.count("GET"), server.count("PUT")) == (2, 1)


def test_host_that_accepts_and_says_nothing(profile: Callable[..., Profile]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with connect(profile(listener.getsockname()[1], timeout=1.0, retries=0)) as client:
            with pytest.raises(ApiUnreachableError, match="no answer within 1 s"):
                client.get("nodes")
            with pytest.raises(ApiUnreachableError, match="no answer within 1 s"):
                client.put(CONFIG, cores=2)  # there was no TLS yet, so it was not sent


def test_host_that_speaks_no_tls(profile: Callable[..., Profile]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                connection.recv(1)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.close()

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        with connect(profile(listener.getsockname()[1], retries=0)) as client:
            for call in (client.get, client.put):
                with pytest.raises(ApiUnreachableError, match="TLS|reset"):
                    call(CONFIG)
        thread.join()


@pytest.mark.parametrize("body", [b"<html>Welcome</html>", b"", b"[1]", b'{"date": 1}', b"\xff\xfe"])
def test_body_that_is_not_json(serve: Start, profile: Callable[..., Profile], body: bytes) -> None:
    server = serve(lambda _: Answer(body=body))
    with connect(profile(server)) as client:
        with pytest.raises(ApiError, match="answered with something that is no JSON of PVE") as caught:
            client.get("nodes")
        assert caught.value.exit_code == 9
        with pytest.raises(ApiUnsureError, match="no JSON"):
            client.put(CONFIG, cores=2)
    assert server.count("PUT") == 1


def test_error_with_a_body_that_is_not_json(serve: Start, profile: Callable[..., Profile]) -> None:
    answer = Answer(status=500, reason="boom", body=b"<html>")
    with connect(profile(serve(lambda _: answer))) as client, pytest.raises(ApiError, match="boom") as caught:
        client.get("nodes")
    assert caught.value.fields == {}


# ---- tasks


def state(*ends: str | None) -> Callable[[Request], Answer]:
    left = list(ends)

    def answer(request: Request) -> Answer:
        if request.path.endswith("/log"):
            return Answer([{"n": 1, "t": "hook"}, {"n": 2, "t": "TASK OK"}])
        end = left.pop(0) if len(left) > 1 else left[0]
        return Answer({"status": "stopped", "exitstatus": end} if end else {"status": "running"})

    return answer


@pytest.mark.parametrize("end", ["OK", "WARNINGS: 2"])
def test_task_is_waited_for(serve: Start, profile: Callable[..., Profile], end: str) -> None:
    server = serve(state(None, None, end))
    with connect(profile(server)) as client:
        assert client.task(UPID)["exitstatus"] == end
        assert client.task_log(UPID) == ["hook", "TASK OK"]
    assert server.count("GET", f"{UPID}/status") == 3


def test_task_that_fails(serve: Start, profile: Callable[..., Profile]) -> None:
    with connect(profile(serve(state(None, "no PCI device found for '0000:77:00.0'")))) as client:
        with pytest.raises(ApiError, match="task qmstart of VM 100 on pve1 failed: no PCI device found") as caught:
            client.task(UPID)
    assert caught.value.words == "no PCI device found for '0000:77:00.0'"


def test_task_that_does_not_end(serve: Start, profile: Callable[..., Profile]) -> None:
    with connect(profile(serve(state(None)))) as client, pytest.raises(BusyError, match="has not ended within 0.2 s"):
        client.task(UPID, timeout=0.2)


@pytest.mark.parametrize("upid", ["", "UPID:pve1", "UPID:../x:0:0:0:a:b:c:", UPID.replace("100", "1/../..")])
def test_upid_that_is_none(serve: Start, profile: Callable[..., Profile], upid: str) -> None:
    with connect(profile(serve())) as client, pytest.raises(UsageError):
        client.task(upid)


# ---- pvesh on the node


HAS_LOCAL = hasattr(client_module.proxmoxer, "ProxmoxAPI") and os.path.exists(
    os.path.join(os.path.dirname(client_module.proxmoxer.__file__), "backends", "local.py")
)
LOCAL = Profile("this node", local=True, timeout=5.0)
