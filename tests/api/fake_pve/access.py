# SPDX-License-Identifier: Apache-2.0
"""Who sends a request, and the endpoints below /access: logins with a second factor, tokens, permissions."""

from __future__ import annotations

import hmac
import re
import secrets
import urllib.parse
import uuid
from typing import TYPE_CHECKING

from tests.api.fake_pve import marks, privileges
from tests.api.fake_pve.data import Token
from tests.api.fake_pve.request import Refusal, failed, is_on

if TYPE_CHECKING:
    from email.message import Message

    from tests.api.fake_pve.request import Call, Json
    from tests.api.fake_pve.state import State

_TOKEN = re.compile(r"PVEAPIToken=([^\s!]+![^\s=:]+)[=:](\S+)")
_COOKIE = re.compile(r"(?:^|;\s*)PVEAuthCookie=\"?([^;\"]*)\"?")


def sender(state: State, method: str, headers: Message[str, str]) -> str:
    """Who sends a request with these headers. Raises Refusal."""
    if match := _TOKEN.fullmatch(headers.get("Authorization") or ""):
        user, _, name = match[1].partition("!")
        token = state.users[user].tokens.get(name) if user in state.users else None
        if token is None or not _equal(token.secret, match[2]):
            raise Refusal(401, "this is no token with its secret", empty=True)
        return match[1]
    cookie = _COOKIE.search(headers.get("Cookie") or "")
    if cookie is None:
        raise Refusal(401, "log in first", empty=True)
    ticket = state.tickets.get(urllib.parse.unquote(cookie[1]))
    if ticket is None:
        raise Refusal(401, "this ticket is worth nothing (any more)", empty=True)
    if method != "GET" and not _equal(ticket.csrf, headers.get("CSRFPreventionToken") or ""):
        raise Refusal(401, f"refused: {marks.BAD_CSRF}", empty=True)
    return ticket.user


def login(call: Call) -> Json:
    """POST access/ticket: by password, by a ticket that is still good, or the second factor of a login begun."""
    state = call.state
    name, password, otp = call.get("username") or "", call.get("password") or "", call.get("otp")
    if call.get("realm"):
        name = f"{name}@{call.get('realm')}"
    user = state.users.get(name)
    challenge = call.get("tfa-challenge")
    if user is None:
        raise Refusal(401, "this is no user with this password")
    if challenge:
        if state.challenges.pop(challenge, None) != name or not _equal(f"totp:{user.otp}", password):
            raise Refusal(401, "this is no user with this second factor")
        return _logged_in(state, name)
    renewed = state.tickets.get(password)
    if renewed and renewed.user == name:
        return _logged_in(state, name)
    if not _equal(user.password, password) or (user.otp and otp and not _equal(user.otp, otp)):
        raise Refusal(401, "this is no user with this password")
    if user.otp and not otp:
        challenge = f"PVE:!tfa!{secrets.token_urlsafe(24)}:{name}"
        state.challenges[challenge] = name
        return {"username": name, "ticket": challenge, "NeedTFA": 1, "CSRFPreventionToken": secrets.token_hex(8)}
    return _logged_in(state, name)


def _logged_in(state: State, name: str) -> Json:
    ticket = state.login(name)
    capabilities: dict[str, Json] = {}
    for word, (path, known) in privileges.CAPABILITIES.items():
        has = state.privileges(name, path) & known
        capabilities[word] = dict.fromkeys(sorted(has), 1)
    csrf = state.tickets[ticket].csrf
    return {"username": name, "ticket": ticket, "CSRFPreventionToken": csrf, "cap": capabilities}


def make_token(call: Call) -> Json:
    """POST access/users/USER/token/NAME."""
    name, token = call.uri["user"], call.uri["token"]
    if call.user != name:
        call.need(f"/access/users/{name}", "User.Modify")
    user = call.state.users.get(name)
    if user is None or token in user.tokens:
        raise failed(f"user '{name}' {marks.ABSENT}, or token '{token}' {marks.EXISTS}")
    separate = call.get("privsep") or "1"
    secret = str(uuid.uuid4())
    user.tokens = {**user.tokens, token: Token(secret, separate=is_on(separate))}
    return {"info": {"privsep": separate}, "value": secret, "full-tokenid": f"{name}!{token}"}


def permissions(call: Call) -> Json:
    """GET access/permissions: one's own privileges by path."""
    who = call.get("userid") or call.user
    if who != call.user:
        call.need("/access", "Sys.Audit")
    user = call.state.users[who.partition("!")[0]]
    tokens = [acl for token in user.tokens.values() for acl in token.acl]
    standard = {"/", "/access", "/access/groups", "/mapping", "/nodes", "/pool", "/sdn", "/storage", "/vms"}
    path = call.get("path")
    paths = [path] if path else sorted(standard | set(user.acl) | set(tokens))
    found: dict[str, Json] = {}
    for place in paths:
        if path or call.state.privileges(who, place):
            found[place] = dict.fromkeys(sorted(call.state.privileges(who, place)), 1)
    return found


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
