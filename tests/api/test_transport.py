# SPDX-License-Identifier: Apache-2.0
"""Certificates, and connections that fail, over real HTTPS sockets."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pvepassthru.api.client import connect
from pvepassthru.api.profile import Endpoint
from pvepassthru.model.errors import (
    ApiCertificateError,
    ApiError,
    ApiUnreachableError,
    ApiUnsureError,
)
from tests.api.https import (
    CONFIG,
    Answer,
    Certificate,
    Request,
    assert_no_secret,
    certificate,
    logged_in,
    read,
    told,
)

if TYPE_CHECKING:
    from tests.api.https import Make, Server, Start


# ---- certificates


def test_certificate_that_no_ca_signed(serve: Start, profile: Make) -> None:
    server = serve()
    for token in (True, False):
        with pytest.raises(ApiCertificateError, match=r"is not trusted: self.signed certificate") as caught:
            read(profile(server, token=token, ca_file=None))
        assert "ca_file" in caught.value.hint
    assert server.requests == []


def test_certificate_of_another_name(serve: Start, profile: Make, tmp_path: Path, shown: Certificate) -> None:
    other = certificate(tmp_path, "other", "DNS:pve9.example.org")
    server = serve(with_=other)
    with pytest.raises(ApiCertificateError, match="is not trusted"):
        read(profile(server, ca_file=other.file))
    with pytest.raises(ApiCertificateError, match="is not trusted"):
        read(profile(server, ca_file=shown.file))
    assert server.requests == []


def test_pinned_certificate(serve: Start, profile: Make, shown: Certificate) -> None:
    server = serve(logged_in)
    for token in (True, False):
        with connect(profile(server, token=token, pin=shown.fingerprint.replace(":", "").lower())) as client:
            client.get("nodes")
    assert server.count("GET") == 2


def use_a_proxy(monkeypatch: pytest.MonkeyPatch, proxy: Server, ca_file: str) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", ca_file)


@pytest.mark.parametrize("token", [True, False], ids=["token", "password"])
def test_wrong_fingerprint_sends_nothing(serve: Start, profile: Make, shown: Certificate, *, token: bool) -> None:
    server, fallback = serve(), serve()
    wanted = profile(server, fallback, token=token, pin="ab" * 32)
    with pytest.raises(ApiCertificateError) as caught, connect(wanted) as client:
        client.put(CONFIG, cores=2)
    pair = ":".join(["AB"] * 32)
    assert f"the pinned fingerprint {pair}: its certificate has {shown.fingerprint}, so nothing" in caught.value.message
    assert "profile" not in str(caught.value), "the environment can pin one as well"
    assert server.connections == 1  # not tried again,
    assert server.requests == []
    assert fallback.connections == 0  # and a host that may be a fraud is told, not passed over
    assert shown.fingerprint in str(caught.value)
    assert "AB:AB:AB" in str(caught.value)
    assert_no_secret(told(caught.value))


@pytest.mark.parametrize("token", [True, False], ids=["token", "password"])
def test_proxy_of_the_environment_is_no_way_around(
    serve: Start, profile: Make, shown: Certificate, monkeypatch: pytest.MonkeyPatch, *, token: bool
) -> None:
    server, proxy = serve(), serve()
    use_a_proxy(monkeypatch, proxy, shown.file)
    wanted = profile(server, token=token, pin="ab" * 32)
    with pytest.raises(ApiCertificateError), connect(wanted) as client:
        client.put(CONFIG, cores=2)
    assert (server.connections, proxy.connections) == (1, 0)
    assert server.requests == []


def test_environment_gives_no_ca(
    serve: Start, profile: Make, shown: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", shown.file)
    with pytest.raises(ApiCertificateError):
        read(profile(serve(), ca_file=None))


def test_redirection_is_not_followed(serve: Start, profile: Make) -> None:
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


def test_cookies_of_the_server_are_not_kept(serve: Start, profile: Make) -> None:
    server = serve(lambda _: Answer(headers={"Set-Cookie": "PVEAuthCookie=foreign; path=/"}))
    with connect(profile(server)) as client:
        client.get("nodes")
        client.get("nodes")
    assert ["Cookie" in request.headers for request in server.requests] == [False, False]


# ---- connections that fail


def test_reads_are_repeated(serve: Start, profile: Make) -> None:
    cuts = ["answer", "middle"]
    server = serve(lambda _: Answer(["whole"], cut=cuts.pop(0) if cuts else ""))
    with connect(profile(server)) as client:
        assert client.get("nodes") == ["whole"]
    assert server.count("GET") == 3


def test_reads_are_not_repeated_for_ever(serve: Start, profile: Make) -> None:
    server = serve(lambda _: Answer(cut="answer"))
    with (
        connect(profile(server, retries=3)) as client,
        pytest.raises(ApiUnreachableError, match=r"no whole answer .*: the connection was cut|reset"),
    ):
        client.get("nodes")
    assert server.count("GET") == 4


@pytest.mark.parametrize("cut", ["answer", "middle"])
@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_writes_are_not_repeated(serve: Start, profile: Make, method: str, cut: str) -> None:
    first, second = serve(lambda _: Answer(["x" * 99], cut=cut)), serve()
    with connect(profile(first, second)) as client, pytest.raises(ApiUnsureError) as caught:
        getattr(client, method)(CONFIG, cores=2)
    assert str(caught.value).startswith(f"{method.upper()} {CONFIG} may have been done or not: ")
    assert len(first.requests) == 1
    assert second.requests == []
    assert_no_secret(told(caught.value))


def test_write_goes_to_the_next_host_if_nobody_got_it(serve: Start, profile: Make, closed_port: int) -> None:
    dead, alive = serve(), serve()
    dead.handshake = False
    with connect(profile(closed_port, dead, alive)) as client:
        client.put(CONFIG, cores=2)
        assert client.where == f"127.0.0.1:{alive.port}"
        client.put(CONFIG, cores=3)
    assert dead.connections == 1  # the host that answered is asked first from then on
    assert dead.requests == []
    assert alive.count("PUT") == 2


def test_write_on_a_connection_that_the_host_has_closed(serve: Start, profile: Make) -> None:
    server = serve(lambda _: Answer(headers={"Connection": "close"}))
    with connect(profile(server)) as client:
        client.get("nodes")
        time.sleep(0.1)
        client.put(CONFIG, cores=2)
    assert server.count("PUT") == 1


def test_ca_file_that_has_gone(serve: Start, profile: Make, tmp_path: Path, shown: Certificate) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(Path(shown.file).read_bytes())
    server = serve()
    with connect(profile(server, ca_file=str(ca_file), retries=0)) as client:
        ca_file.unlink()
        for call in (client.get, client.put):
            with pytest.raises(ApiUnreachableError, match=r"ca\.pem"):
                call(CONFIG)
    assert server.connections == 0


def test_reads_and_the_login_go_to_the_next_host(serve: Start, profile: Make, closed_port: int) -> None:
    cut, alive = serve(lambda _: Answer(cut="answer")), serve(logged_in)
    with connect(profile(closed_port, cut, alive, token=False)) as client:
        client.get("nodes")
    assert (alive.count("POST"), alive.count("GET")) == (1, 1)


def test_no_host_can_be_reached(serve: Start, profile: Make, closed_port: int) -> None:
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


def test_name_that_is_none(profile: Make) -> None:
    wanted = profile(8006, endpoints=(Endpoint("pve.invalid"),), retries=0)
    with pytest.raises(ApiUnreachableError, match=r"cannot reach the PVE API at pve\.invalid:8006: .*[Nn]ame"):
        read(wanted)


def test_slow_answer(serve: Start, profile: Make) -> None:
    end = threading.Event()

    def answer(_: Request) -> Answer:
        end.wait(20)
        return Answer()

    server = serve(answer)
    with connect(profile(server, timeout=1.0, retries=1)) as client:
        begin = time.monotonic()
        with pytest.raises(ApiUnreachableError, match="nothing came within 1 s"):
            client.get("nodes")
        with pytest.raises(ApiUnsureError, match="nothing came within 1 s"):
            client.put(CONFIG, cores=2)
        assert time.monotonic() - begin >= 3
    end.set()
    assert (server.count("GET"), server.count("PUT")) == (2, 1)


def test_answer_that_never_ends(serve: Start, profile: Make) -> None:
    server = serve(lambda _: Answer("x" * 100, seconds=0.3))
    with connect(profile(server, timeout=0.5, retries=0)) as client:
        begin = time.monotonic()
        with pytest.raises(ApiUnreachableError, match="it was not whole within 2 s"):
            client.get("nodes")
        with pytest.raises(ApiUnsureError, match="it was not whole within 2 s"):
            client.put(CONFIG, cores=2)
        assert time.monotonic() - begin >= 4


def test_host_that_accepts_and_says_nothing(profile: Make) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with connect(profile(listener.getsockname()[1], timeout=1.0, retries=0)) as client:
            with pytest.raises(ApiUnreachableError, match="nothing came within 1 s"):
                client.get("nodes")
            with pytest.raises(ApiUnreachableError, match="nothing came within 1 s"):
                client.put(CONFIG, cores=2)  # there was no TLS yet, so it was not sent


def test_host_that_speaks_no_tls(profile: Make) -> None:
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
                with pytest.raises(ApiUnreachableError, match=r"TLS|reset"):
                    call(CONFIG)
        thread.join()


@pytest.mark.parametrize("body", [b"<html>Welcome</html>", b"", b"[1]", b'{"date": 1}', b"\xff\xfe"])
def test_body_that_is_not_json(serve: Start, profile: Make, body: bytes) -> None:
    server = serve(lambda _: Answer(body=body))
    with connect(profile(server)) as client:
        with pytest.raises(ApiError, match="answered with something that is no JSON of PVE") as caught:
            client.get("nodes")
        assert caught.value.exit_code == 9
        with pytest.raises(ApiUnsureError, match="no JSON"):
            client.put(CONFIG, cores=2)
    assert server.count("PUT") == 1


def test_error_with_a_body_that_is_not_json(serve: Start, profile: Make) -> None:
    answer = Answer(status=500, reason="boom", body=b"<html>")
    with connect(profile(serve(lambda _: answer))) as client, pytest.raises(ApiError, match="boom") as caught:
        client.get("nodes")
    assert caught.value.fields == {}
