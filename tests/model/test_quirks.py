# SPDX-License-Identifier: Apache-2.0
"""The tables of known faults."""

from __future__ import annotations

import pytest

from pvepassthru.model import quirks


@pytest.mark.parametrize(
    "device, family",
    [("1002:67df", "Polaris 10"), ("1002:66a4", "Vega 20"), ("1002:731f", "Navi 10"), ("1002:73bf", None), ("", None)],
)
def test_vendor_reset(device: str, family: str | None) -> None:
    assert quirks.vendor_reset(device) == family


@pytest.mark.parametrize(
    "device, method",
    [
        ("10de:2340", "bus"),
        ("10de:237f", "bus"),
        ("10de:233f", None),
        ("10de:2380", None),
        ("10de:1eb8", "bus"),
        ("8086:1502", "flr"),
        ("1002:1eb8", None),
        ("10de:", None),
        ("", None),
    ],
)
def test_hangs_on(device: str, method: str | None) -> None:
    assert quirks.hangs_on(device) == method
