# SPDX-License-Identifier: Apache-2.0
"""What a command is told of a cluster by its environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.api.fake_pve.data import PASSWORD

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.api.fake_pve.server import FakePve


def clear(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Let it tell nothing, nor a profile of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("PVE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))


def log_in(monkeypatch: pytest.MonkeyPatch, pve: FakePve, user: str = "root@pam", token: str = "") -> None:
    """Let it name a cluster and a user, with the user's password or a token of that name."""
    monkeypatch.setenv("PVE_HOST", f"{pve.host}:{pve.port}")
    monkeypatch.setenv("PVE_CA_FILE", pve.ca_file)
    monkeypatch.setenv("PVE_USER", user)
    if token:
        monkeypatch.delenv("PVE_PASSWORD", raising=False)
        monkeypatch.setenv("PVE_TOKEN_NAME", token)
        monkeypatch.setenv("PVE_TOKEN_VALUE", "s3cret")
    else:
        monkeypatch.setenv("PVE_PASSWORD", PASSWORD)
