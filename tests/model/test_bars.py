# SPDX-License-Identifier: Apache-2.0
"""Tests of pvepassthru.model.bars."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvepassthru.model import bars

MB = bars.MEGABYTE


def test_sizes() -> None:
    assert bars.sizes("0000000000000001") == (MB,)
    assert bars.sizes("0000000000007f00")[0] == 256 * MB
    assert bars.sizes("0000000000007f00")[-1] == 16 * 1024 * MB
    assert bars.sizes("") == bars.sizes("junk") == bars.sizes("0") == bars.sizes("-1") == ()


@given(st.integers(0, 43))
def test_number_of_a_size(bit: int) -> None:
    assert bars.number_of(MB << bit) == bit
    assert bars.sizes(f"{1 << bit:016x}") == (MB << bit,)


@given(st.integers(0, 1 << 50))
def test_number_of_anything(size: int) -> None:
    bit = bars.number_of(size)
    assert bit is None or MB << bit == size


@pytest.mark.parametrize(
    "line,size",
    [
        ("0x00000000fc000000 0x00000000fcffffff 0x42208", 16 * MB),
        ("0x0000000000000000 0x0000000000000000 0x0", None),
        ("junk", None),
        ("", None),
    ],
)
def test_size_now(line: str, size: int | None) -> None:
    assert bars.size_now(f"{line}\n", 0) == size
    assert bars.size_now(f"{line}\n", 1) is None


def test_words() -> None:
    assert bars.words(256 * MB) == "256M"
    assert bars.words(16 * 1024 * MB) == "16G"
