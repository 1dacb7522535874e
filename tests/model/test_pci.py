# SPDX-License-Identifier: Apache-2.0
"""What is read without patterns for the sake of speed reads the same as the pattern that says what is meant."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvepassthru.host import signals
from pvepassthru.model import pattern, pci, property_string, reservation, vmconfig

if TYPE_CHECKING:
    from collections.abc import Callable

ADDRESS = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", re.ASCII)
SELECTOR = re.compile(r"(?:[0-9a-f]{4,}:)?[0-9a-f]{2}:[0-9a-f]{2}(?:\.[0-9a-f])?", re.ASCII)
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
PVE_UUID = re.compile(r"([0-9]{8})-0000-0000-0000-([0-9]{12})", re.ASCII)
BOOLEAN = re.compile(r"1|on|yes|true|0|off|no|false", re.ASCII | re.IGNORECASE)
KEY = re.compile(r"([a-z][a-z_\-]*[0-9]*)", re.ASCII)
RESERVATION = re.compile(rf"({SELECTOR.pattern})\s([0-9]+)\s(time|pid):([0-9]+)", re.ASCII)
RULES: dict[str, tuple[re.Pattern[str], Callable[[str], object]]] = {
    "address": (ADDRESS, pci.is_address),
    "selector": (SELECTOR, pci.is_selector),
    "selectors": (re.compile(f"{SELECTOR.pattern}(?:;{SELECTOR.pattern})*", re.ASCII), pci.are_selectors),
    "uuid": (UUID, pci.is_uuid),
    "boolean": (BOOLEAN, lambda text: property_string.boolean(text) is not None),
    "key": (KEY, lambda text: bool(vmconfig.parse(f"{text}: x".encode("utf-8", "surrogateescape")).main.values)),
    "reservation": (RESERVATION, lambda text: bool(reservation.parse(text))),
}
STRANGE = [
    "",
    ".",
    ":",
    ";",
    "-",
    " ",
    "\t",
    "\xa0",
    "0",
    "8",
    "f",
    "F",
    "g",
    "\u0661",
    "\uff11",
    "\u017f",
    "00",
    "0000:",
]
"""What is put into, or for a character of, a text that fits."""


def same(name: str, text: str) -> None:
    meant, read = RULES[name]
    if "\n" in text:  # all of these are read line by line
        return
    assert bool(read(text)) == (meant.fullmatch(text) is not None), text


@pytest.mark.parametrize("name", RULES)
@given(data=st.data())
def test_reads_what_its_pattern_means(name: str, data: st.DataObject) -> None:
    if name == "key":  # the judgement of known keys comes on top
        text = data.draw(st.text(st.sampled_from("abz-_09A."), min_size=1, max_size=8))
        if text.startswith(("hostpci", "delete")):
            return
        same(name, text)
        return
    text = data.draw(st.from_regex(RULES[name][0], fullmatch=True))
    same(name, text)
    place = data.draw(st.integers(0, len(text)))
    rest = place + data.draw(st.integers(0, 1))
    same(name, text[:place] + data.draw(st.sampled_from(STRANGE)) + text[rest:])


@given(st.from_regex(PVE_UUID, fullmatch=True), st.sampled_from(STRANGE), st.integers(0, 36))
def test_uuid_of_pve(uuid: str, strange: str, place: int) -> None:
    for text in (uuid, uuid[:place] + strange + uuid[place + 1 :], f"0000000{uuid[7]}-0000-0000-0000-000{uuid[27:]}"):
        match = PVE_UUID.fullmatch(text)
        owner = (int(match[1]), int(match[2])) if match else None
        known = owner and owner[0] <= pci.MAX_INDEX and pci.MIN_VMID <= owner[1] <= pci.MAX_VMID
        assert pci.vmid_of_uuid(text) == (owner if known else None)


def test_flags_are_those_of_re() -> None:
    assert (pattern.ASCII, pattern.IGNORECASE) == (re.ASCII, re.IGNORECASE)
    assert pattern.Pattern("a", pattern.IGNORECASE).fits("A")
    assert not pattern.Pattern("a").fits("ab")


def test_signals_are_those_of_signal() -> None:
    assert {number: number.name for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)} == signals.ENDING


@pytest.mark.parametrize(
    "one, other, both",
    [
        ("0000:01:00", "0000:01:00.1", True),
        ("0000:01:00.1", "0000:01:00.1", True),
        ("0000:01:00.0", "0000:01:00.1", False),
        ("0000:01:00", "0001:01:00", False),
    ],
)
def test_selectors_that_overlap(one: str, other: str, *, both: bool) -> None:
    assert pci.overlap(one, other) is pci.overlap(other, one) is both


def test_the_domains_of_all_but_vmd() -> None:
    assert pci.has_short_domain("0000:01:00.0")
    assert not pci.has_short_domain("10000:01:00.0")
