# SPDX-License-Identifier: Apache-2.0
"""The login, over real HTTPS sockets."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from pvepassthru.api.client import connect
from pvepassthru.api.secret import Secret
from pvepassthru.model.errors import (
    ApiDeniedError,
    ApiError,
    ApiUnreachableError,
)
from tests.api.https import (
    CONFIG,
    CSRF,
    PASSWORD,
    TICKET,
    Answer,
    Request,
    assert_no_secret,
    logged_in,
    refused,
    told,
)

if TYPE_CHECKING:
    from tests.api.https import Make, Start


def test_login_with_a_password(serve: Start, profile: Make) -> None:
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


def test_second_factor_is_asked_for_only_when_wanted(serve: Start, profile: Make) -> None:
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
def test_other_ways_to_give_a_second_factor(serve: Start, profile: Make, given: dict[str, str], sent: str) -> None:
    server = serve(second_factor)
    connect(profile(server, token=False, otp=Secret("99")), **given).close()
    assert server.requests[1].params["password"] == [sent]


def test_second_factor_that_nobody_gives(serve: Start, profile: Make) -> None:
    with pytest.raises(ApiDeniedError, match="root@pam has a second factor"):
        connect(profile(serve(second_factor), token=False))


def test_one_time_password_is_not_sent_twice(serve: Start, profile: Make) -> None:
    def answer(request: Request) -> Answer:
        return Answer(cut="answer") if "tfa-challenge" in request.params else second_factor(request)

    first, second = serve(answer), serve(answer)
    with pytest.raises(ApiUnreachableError):
        connect(profile(first, second, token=False), otp="123456")
    assert first.count("POST") == 2
    assert second.requests == []


def test_old_ticket_is_exchanged(serve: Start, profile: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(logged_in)
    with connect(profile(server, token=False)) as client:
        monkeypatch.setattr(client, "_born", time.monotonic() - 3601)
        client.get("nodes")
        client.get("nodes")
        assert [request.params.get("password") for request in server.requests] == [[PASSWORD], [TICKET], None, None]


@pytest.mark.parametrize("method", ["get", "put"])
def test_ticket_that_is_no_longer_taken_means_a_new_login(serve: Start, profile: Make, method: str) -> None:
    refusals = [401]

    def answer(request: Request) -> Answer:
        if not request.path.endswith("/access/ticket") and refusals:
            return refused(refusals.pop(), "permission denied - invalid PVE ticket")
        return logged_in(request)

    server = serve(answer)
    with connect(profile(server, token=False)) as client:
        getattr(client, method)(CONFIG)
    assert [request.method for request in server.requests] == ["POST", method.upper(), "POST", method.upper()]


def test_no_more_than_one_new_login(serve: Start, profile: Make) -> None:
    server = serve(lambda request: logged_in(request) if request.method == "POST" else refused(401, "No ticket"))
    with connect(profile(server, token=False)) as client, pytest.raises(ApiDeniedError, match="No ticket"):
        client.put(CONFIG, cores=2)
    assert (server.count("POST"), server.count("PUT")) == (2, 2)


def test_token_is_not_tried_again(serve: Start, profile: Make) -> None:
    server = serve(lambda _: refused(401, "Authentication failed!"))
    with connect(profile(server)) as client, pytest.raises(ApiDeniedError):
        client.get("nodes")
    assert len(server.requests) == 1


def test_ticket_that_ran_out_means_a_new_login(serve: Start, profile: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: Request) -> Answer:
        if request.params.get("password") == [TICKET]:
            return refused(401, "authentication failure")
        return logged_in(request)

    server = serve(answer)
    with connect(profile(server, token=False)) as client:
        monkeypatch.setattr(client, "_born", time.monotonic() - 9000)
        client.get("nodes")
    assert [request.params.get("password") for request in server.requests] == [[PASSWORD], [TICKET], [PASSWORD], None]


def test_login_that_is_refused(serve: Start, profile: Make) -> None:
    body = b'{"data":null,"message":"authentication failure\\n"}'
    server = serve(lambda _: Answer(status=401, reason="authentication failure", body=body))
    with pytest.raises(ApiDeniedError, match="PVE refused POST access/ticket: authentication failure") as caught:
        connect(profile(server, server, token=False))
    assert server.count("POST") == 1
    assert_no_secret(told(caught.value))


@pytest.mark.parametrize("data", [None, [], {}, {"ticket": "a\r\nb", "CSRFPreventionToken": CSRF}, {"ticket": 7}])
def test_login_without_a_ticket(serve: Start, profile: Make, data: object) -> None:
    with pytest.raises(ApiError, match="without a usable ticket"):
        connect(profile(serve(lambda _: Answer(data)), token=False))
