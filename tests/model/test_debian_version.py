# SPDX-License-Identifier: Apache-2.0
"""The order of Debian's versions, against dpkg's own where it is installed."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvepassthru.model.debian_version import compare

VERSIONS = st.from_regex(r"(?:[0-9]:)?[0-9](?:[0-9.+~a-z]|-[0-9a-z]){0,6}", fullmatch=True)

ORDERED = [
    "1.0~~",
    "1.0~rc1",
    "1.0",
    "1.0-1~bpo12+1",
    "1.0-1",
    "1.0-1+b1",
    "1.0a",
    "1.0+dfsg",
    "1.0.1",
    "1.1",
    "1.10",
    "9.0.24",
    "9.0.25~pve1",
    "9.0.25",
    "10.1.2-1",
    "1:0.1",
]


def test_known_order() -> None:
    for place, one in enumerate(ORDERED):
        for other_place, other in enumerate(ORDERED):
            assert _sign(compare(one, other)) == _sign(place - other_place), (one, other)


@pytest.mark.parametrize("one, other", [("1.0", "1.0-0"), ("0:1.0", "1.0"), ("1.00", "1.0"), ("1.0", "1.0 ")])
def test_equal(one: str, other: str) -> None:
    assert compare(one, other) == 0


@given(st.text(max_size=12), st.text(max_size=12))
def test_any_text_has_its_place(one: str, other: str) -> None:
    assert _sign(compare(one, other)) == -_sign(compare(other, one))
    assert compare(one, one) == 0


DPKG = shutil.which("dpkg")


@settings(max_examples=150, deadline=None)
@given(VERSIONS, VERSIONS)
def test_as_dpkg_says(one: str, other: str) -> None:
    assert DPKG, "the tests run on Debian"
    code = subprocess.run(  # its warnings of odd versions do not matter
        [DPKG, "--compare-versions", one, "lt", other], check=False, stderr=subprocess.DEVNULL
    ).returncode
    assert (code == 0) == (compare(one, other) < 0)


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)
