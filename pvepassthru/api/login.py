# SPDX-License-Identifier: Apache-2.0
"""The login with a password, and a second factor where PVE asks for one. Source: PVE's access/ticket.

PVE answers the password with a ticket, or with a challenge that takes a one-time password for a ticket. A ticket lives
two hours, on every node of the cluster, and is itself a password for the next one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pvepassthru.api.errors import LOGIN, refusal
from pvepassthru.api.secret import Secret, without
from pvepassthru.api.transport import HEADER, CutError, TicketAuth, data_of, fields_of, reason_of
from pvepassthru.model.errors import ApiDeniedError, ApiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvepassthru.api.transport import Session

RENEW_AFTER = 3600.0
"""Seconds after which a ticket is exchanged for a new one."""
FACTOR = re.compile(r"(totp|recovery|yubico):\S+")
"""A one-time password with its kind; without one it is a TOTP."""


def login(session: Session, user: str, password: Secret, otp: Callable[[], Secret | None]) -> TicketAuth:
    """A new ticket; `otp` is called only if PVE asks for a second factor.

    Raises ApiDeniedError when PVE refuses, ApiError for an answer without a ticket, and CutError; that of a one-time
    password which may have been used up already holds an ApiError to be raised as it is, never to be tried again.
    """
    found = _ask(session, {"username": user, "password": password.reveal()}, password)
    if found.get("NeedTFA"):
        code = otp()
        if code is None:
            raise ApiDeniedError(
                f"{user} has a second factor, and there is no one-time password",
                "give one (PVE_OTP), or use an API token, which needs none",
            )
        text = code.reveal().strip()
        answer = {
            "username": user,
            "password": text if FACTOR.fullmatch(text) else f"totp:{text}",
            "tfa-challenge": _text(found, "ticket").reveal(),
        }
        try:
            found = _ask(session, answer, password, code)
        except CutError as cut:
            if not cut.sent:
                raise
            raise cut.error from cut
    return TicketAuth(_text(found, "ticket"), _text(found, "CSRFPreventionToken"))


def _ask(session: Session, said: dict[str, str], *secrets: Secret) -> dict[str, Any]:
    answer = session.request("POST", f"{session.base_url}/{LOGIN}", data=said)
    if answer.status_code >= 400:
        fields = {name: without(text, secrets) for name, text in fields_of(answer).items()}
        reason = without(reason_of(answer.reason or ""), secrets)
        raise refusal("POST", LOGIN, answer.status_code, reason, fields)
    found = data_of(answer)
    return found if isinstance(found, dict) else {}


def _text(found: dict[str, Any], key: str) -> Secret:
    text = found.get(key)
    if not isinstance(text, str) or not HEADER.fullmatch(text):
        raise ApiError(f"PVE answered the login without a usable {key}", "is the host, with its port, a node of PVE?")
    return Secret(text)
