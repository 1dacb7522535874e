# SPDX-License-Identifier: Apache-2.0
"""Clients of the fake PVE, as a profile of it would make them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.api.client import Client, connect
from pvepassthru.api.profile import Endpoint, Profile
from pvepassthru.api.secret import Secret
from tests.api.fake_pve.data import PASSWORD, ROOT

if TYPE_CHECKING:
    from tests.api.fake_pve.server import FakePve


def profile_of(
    pve: FakePve, user: str = ROOT, password: str = PASSWORD, token: tuple[str, str] | None = None
) -> Profile:
    """A profile of every host of a fake PVE, by password, or by a token's name and value."""
    endpoints = tuple(Endpoint(pve.host, port, pve.state.fingerprint(name)) for name, port in pve.ports.items())
    secret = {"token_name": token[0], "token_value": Secret(token[1])} if token else {"password": Secret(password)}
    return Profile("the test", endpoints, user, timeout=10.0, **secret)


def client_of(pve: FakePve, user: str = ROOT, password: str = PASSWORD, token: tuple[str, str] | None = None) -> Client:
    """A client that has logged in."""
    return connect(profile_of(pve, user, password, token))
