# SPDX-License-Identifier: Apache-2.0
"""What PVE refuses, and that no secret shows, over real HTTPS sockets."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest

from pvepassthru.api.client import connect
from pvepassthru.model.errors import (
    ApiConflictError,
    ApiDeniedError,
    ApiError,
    ApiMissingError,
    ApiUnreachableError,
    ApiUnsureError,
    NotFoundError,
)
from tests.api.https import (
    CONFIG,
    CSRF,
    PASSWORD,
    TICKET,
    TOKEN,
    Answer,
    Request,
    assert_no_secret,
    logged_in,
    refused,
    told,
)

if TYPE_CHECKING:
    from tests.api.https import Make, Start


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


@pytest.mark.parametrize("case", REFUSALS, ids=[f"{case[0].status} {case[2]}" for case in REFUSALS])
def test_refusal(serve: Start, profile: Make, case: tuple[Answer, type[ApiError], str, str]) -> None:
    answer, kind, words, hint = case
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


def test_refusal_keeps_what_is_said_of_parameters(serve: Start, profile: Make) -> None:
    answer = refused(400, "Parameter verification failed.", id="bad\n", map="property is missing")
    with connect(profile(serve(lambda _: answer))) as client, pytest.raises(ApiError) as caught:
        client.get("x")
    assert caught.value.fields == {"id": "bad", "map": "property is missing"}


def test_what_is_missing_is_a_not_found_error_too() -> None:
    assert issubclass(ApiMissingError, NotFoundError)
    error = pickle.loads(pickle.dumps(ApiMissingError("a", "b", status=500, words="w", fields={"k": "v"})))  # noqa: S301 - our own
    assert (str(error), error.status, error.words, error.fields) == ("a; b", 500, "w", {"k": "v"})


@pytest.mark.parametrize("status", [596, 597, 599, 502, 504])
def test_change_that_got_lost_behind_the_host_is_in_doubt(serve: Start, profile: Make, status: int) -> None:
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
def test_change_that_no_node_got(serve: Start, profile: Make, answer: Answer) -> None:
    with (
        connect(profile(serve(lambda _: answer))) as client,
        pytest.raises(ApiUnreachableError, match="could not pass on"),
    ):
        client.put("nodes/pve2/qemu/100/config", cores=2)


def test_words_in_utf8_and_control_characters(serve: Start, profile: Make) -> None:
    reason = "kein Gerät \x1b[31m gefunden".encode().decode("latin-1")
    with (
        connect(profile(serve(lambda _: Answer(status=500, reason=reason)))) as client,
        pytest.raises(ApiError) as caught,
    ):
        client.get("x")
    assert "kein Gerät \\x1b[31m gefunden" in str(caught.value)


def test_secret_that_pve_repeats_is_masked(serve: Start, profile: Make) -> None:
    def answer(request: Request) -> Answer:
        if request.path.endswith("ticket"):
            return logged_in(request)
        return refused(400, "no", ticket=f"bad {TICKET}", other=f"{PASSWORD} {CSRF}")

    with connect(profile(serve(answer), token=False)) as client, pytest.raises(ApiError) as caught:
        client.get("x")
    assert caught.value.fields == {"ticket": "bad ***", "other": "*** ***"}
    assert_no_secret(told(caught.value))


def test_no_secret_shows(serve: Start, profile: Make, caplog: pytest.LogCaptureFixture) -> None:
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
