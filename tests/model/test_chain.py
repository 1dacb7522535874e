# SPDX-License-Identifier: Apache-2.0
"""The file of chained hookscripts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvepassthru.model import chain
from pvepassthru.model.chain import Link
from pvepassthru.model.errors import InputError

LINKS = st.dictionaries(
    st.integers(100, 999_999_999), st.builds(Link, st.text(min_size=1), st.text().map(lambda text: f"/{text}"))
)


@given(LINKS)
def test_what_is_written_is_read(links: dict[int, Link]) -> None:
    assert chain.parse(json.dumps(chain.document(links)).encode()) == links


@given(st.binary())
def test_any_bytes(data: bytes) -> None:
    """They are understood, or refused with a sentence."""
    try:
        found = chain.parse(data)
    except InputError:
        return
    assert chain.parse(json.dumps(chain.document(found)).encode()) == found


@pytest.mark.parametrize(
    "text, why",
    [
        ("", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("{}", "names no version"),
        ('{"version": true}', "names no version"),
        ('{"version": 2}', "has version 2, and this pvepassthru knows 1"),
        ('{"version": 1}', "has no list of chained hookscripts"),
        ('{"version": 1, "chained": {"99": {}}}', "99 is no VMID"),
        ('{"version": 1, "chained": {"0100": {}}}', "0100 is no VMID"),
        ('{"version": 1, "chained": {"": {}}}', " is no VMID"),
        ('{"version": 1, "chained": {"100": {}}}', "VM 100 has no hookscript there"),
        ('{"version": 1, "chained": {"100": {"volume": "", "path": "/x"}}}', "VM 100 has no hookscript there"),
        ('{"version": 1, "chained": {"100": {"volume": "a:snippets/b", "path": "x"}}}', "VM 100 has no hookscript"),
    ],
)
def test_mistakes(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        chain.parse(text.encode())
