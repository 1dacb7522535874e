# SPDX-License-Identifier: Apache-2.0
"""Parsers raise nothing but their own error, take linear time, and undo what the writers do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pvepassthru.model import hostpci, machine, mapping, pci, property_string, reservation, resolve, vmconfig
from pvepassthru.model.property_string import PropertyError
from pvepassthru.model.text import LONGEST, nearest, shown
from tests.model.hardware import NO_HARDWARE
from tests.model.test_pci import SELECTOR

if TYPE_CHECKING:
    from collections.abc import Callable

MEGABYTES = 10_000_000

CONFIG_PIECES = st.sampled_from(
    (
        *(
            "hostpci0: ",
            "hostpci15:",
            "machine: ",
            "q35",
            "01:00.0",
            "0000:0a:00",
            ",",
            ";",
            "=",
            "pcie=1",
            "mapping=gpu",
        ),
        *("mdev=nvidia-63", "\n", "\r\n", "[PENDING]\n", "[snap]\n", "delete: ", "vga: none\n", "\0", "\xa0", " ", "#"),
        *("0", "template: 1\n", "gpu\n", "\tmap ", "node=pve", "path=0000:01:00.0", "id=10de:2204", "iommugroup=1"),
        "\tmdev\n",
    )
)
CONFIG_TEXT = st.lists(CONFIG_PIECES, max_size=30).map("".join)
ANY_BYTES = st.one_of(st.binary(), CONFIG_TEXT.map(str.encode))
ANY_TEXT = st.one_of(st.text(), CONFIG_TEXT)


@given(ANY_BYTES)
@example(b"\xff\xfehostpci0: \xc3\x28\n")
@example(b"[PENDING]\ndelete: ,;! hostpci0\0hostpci1\n")
def test_any_bytes_are_a_config(data: bytes) -> None:
    config = vmconfig.parse(data)
    section = config.effective()
    mappings = mapping.parse(data)
    for entry in section.entries.values():
        assert section.line(entry.key) == entry.line
        assert section.get(entry.key) is not None
    for dropped in (*config.main.dropped, *config.pending.dropped):
        assert dropped.why
        assert dropped.line >= 1
    resolution = resolve.resolve(section, mappings, NO_HARDWARE, "pve", 100)
    assert resolution.passed == ()
    assert bool(resolution.problems) == bool(section.entries or section.machine.fault)


@given(ANY_BYTES)
def test_any_bytes_are_mappings(data: bytes) -> None:
    mappings = mapping.parse(data)
    lines = data.split(b"\n")
    for found in mappings.by_name.values():
        assert found.name.encode() in lines[found.line - 1]
        for entry in found.entries:
            assert entry.node.encode() in lines[entry.line - 1]
    for bad in mappings.bad_lines:
        assert 1 <= bad.line <= len(lines)
        assert bad.message


def _faults(call: Callable[[], object]) -> tuple[property_string.Fault, ...]:
    """The faults of a text that is refused; none if it is not. Any other error passes through."""
    try:
        call()
    except PropertyError as error:
        return error.faults
    return ()


@given(ANY_TEXT)
def test_hostpci_raises_its_own_error_only(text: str) -> None:
    faults = _faults(lambda: hostpci.parse(0, text))
    assert all(fault.reason and fault.message and fault.hint for fault in faults)
    if not faults:
        entry = hostpci.parse(0, text)
        assert hostpci.parse(0, hostpci.write(entry)) == entry


@given(ANY_TEXT)
def test_machine_raises_its_own_error_only(text: str) -> None:
    faults = _faults(lambda: machine.parse(text))
    assert all(fault.reason and fault.message and fault.hint for fault in faults)
    if not faults:
        found = machine.parse(text)
        assert found.type is None or len(found.type) <= 40


SELECTORS = st.from_regex(SELECTOR, fullmatch=True)
FLAGS = st.sampled_from(["0", "1", "on", "No", "TRUE"])
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "host": st.lists(SELECTORS, min_size=1, max_size=3).map(";".join),
        "mapping": st.from_regex(r"\A[a-zA-Z][a-zA-Z0-9_-]{1,10}\Z"),
        "mdev": st.sampled_from(["nvidia-63", "i915-GVTg_V5_4", "0"]),
        "rombar": FLAGS,
        "pcie": FLAGS,
        "x-vga": FLAGS,
        "romfile": st.sampled_from(["a.rom", "../x", "a=b", "ä"]),
        "driver": st.sampled_from(["vfio", "keep"]),
        "vendor-id": st.just("0x10De"),
    },
)


@given(ENTRY)
def test_what_is_written_reads_back(values: dict[str, str]) -> None:
    text = property_string.write(values, hostpci.KEYS)
    entry = hostpci.parse(3, text, 7)
    assert (entry.index, entry.line, entry.key) == (3, 7, "hostpci3")
    assert (entry.host, entry.mapping, entry.mdev) == tuple(values.get(key) for key in ("host", "mapping", "mdev"))
    assert entry.options.keys() == values.keys() - {"host", "mapping", "mdev"}
    assert entry.pcie == (values.get("pcie") in {"1", "on", "TRUE"})
    assert entry.rombar == (values.get("rombar", "1") in {"1", "on", "TRUE"})
    assert hostpci.parse(3, hostpci.write(entry), 7) == entry


IDS = st.sampled_from(["0000:01:00.0", "0000:02:00.0", "10000:e1:00.0", "01:00.0"])
NUMBERS = st.integers(0, 10**12).map(str)
ENTRIES = st.dictionaries(
    IDS, st.builds(reservation.Entry, IDS, NUMBERS, st.sampled_from(["time", "pid"]), NUMBERS), max_size=4
).map(lambda found: {name: entry._replace(id=name) for name, entry in found.items()})


@given(ENTRIES)
def test_reservations_read_back(entries: dict[str, reservation.Entry]) -> None:
    assert reservation.parse(reservation.write(entries.values())) == entries


@given(st.text(), st.lists(IDS, max_size=3), st.integers(100, 999), st.integers(0, 2**40))
@example("0000:01:00.0 " + "9" * 5000 + " pid:" + "9" * 5000, ["0000:01:00.0"], 100, 0)
def test_any_text_is_a_reservation_file(text: str, ids: list[str], vmid: int, now: int) -> None:
    result = reservation.reserve(text, ids, vmid, now, timeout=10, running=lambda _: None)
    if result.accepted and ids:
        assert result.text is not None
        assert set(ids) <= set(reservation.held(result.text, vmid))
        assert set(reservation.held(reservation.remove(result.text, vmid), vmid)) == set()
    assert result.accepted == (result.error is None) == (result.entry is None)


@given(st.integers(0, 15), st.integers(100, 999_999_999))
def test_uuids_name_their_vm(index: int, vmid: int) -> None:
    uuid = pci.mdev_uuid(index, vmid)
    assert len(uuid) == 36
    assert pci.vmid_of_uuid(uuid) == (index, vmid)


@pytest.mark.parametrize(
    "uuid",
    [
        "00000016-0000-0000-0000-000000000100",
        "00000000-0000-0000-0000-000000000099",
        "00000000-0000-0000-0000-001000000000",
        "00000000-0000-0000-0000-00000000010a",
        "00000000-0000-1000-0000-000000000100",
        "",
        "00000000-0000-0000-0000-000000000100\n",
        "0000000\u0660-0000-0000-0000-000000000100",
    ],
)
def test_foreign_uuids(uuid: str) -> None:
    assert pci.vmid_of_uuid(uuid) is None


HUGE: dict[str, Callable[[], bytes]] = {  # made when they are needed: every fork of a test pays for memory in use
    "one value": lambda: b"hostpci0: " + b"a" * MEGABYTES,
    "blanks in a value": lambda: b"hostpci0: a" + b" " * MEGABYTES + b"b",
    "blanks at the end": lambda: b"hostpci0: 01:00.0" + b" " * MEGABYTES,
    "a key": lambda: b"hostpci" + b"-" * MEGABYTES,
    "digits": lambda: b"hostpci" + b"1" * MEGABYTES + b":",
    "commas": lambda: b"hostpci0: " + b"," * MEGABYTES,
    "parts": lambda: b"hostpci0: " + b"a=b," * (MEGABYTES // 4),
    "addresses": lambda: b"hostpci0: " + b"01:00.0;" * (MEGABYTES // 8) + b"x",
    "a section": lambda: b"[" + b"a" * MEGABYTES,
    "snapstates": lambda: b"memory: " + b"snapstate: delete " * (MEGABYTES // 18) + b"x",
    "a machine": lambda: b"machine: pc-q35-" + b"1." * (MEGABYTES // 2),
    "a mapping": lambda: b"gpu\n\tmap " + b"node=a," * (MEGABYTES // 7),
    "a path": lambda: b"gpu\n\tmap path=" + b"0000:01:00.0;" * (MEGABYTES // 13) + b"x",
    "a header": lambda: b"g" * MEGABYTES,
    "map lines": lambda: b"gpu\n" + b"\tmap node=pve,path=0000:01:00.0,id=10de:2204\n" * 20000,
    "NUL": lambda: b"\0" * MEGABYTES,
    "no UTF-8": lambda: b"hostpci0: " + b"\xff" * MEGABYTES,
}


def _seconds(call: Callable[[], object]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


@pytest.mark.parametrize("name", HUGE)
def test_huge_lines_take_linear_time(name: str) -> None:
    """10 MB of one thing; anything quadratic would take hours."""
    data = HUGE[name]()
    for parse in (vmconfig.parse, mapping.parse):
        assert _seconds(lambda parse=parse: parse(data)) < 20  # type: ignore[misc] # mypy cannot infer a lambda's default


def test_messages_of_huge_values_are_short() -> None:
    (dropped,) = vmconfig.parse(HUGE["one value"]()).main.dropped
    assert all(len(fault.message) < 300 and len(fault.hint) < 300 for fault in dropped.faults)


def test_shown_is_one_printable_line() -> None:
    assert shown("a\n\x1b[31m\udcff\0") == r"a\n\x1b[31m\udcff\x00"
    assert len(shown("x" * 1000)) < LONGEST + 40


@pytest.mark.parametrize(
    "word, known, expected",
    [
        ("x_vga", hostpci.KEYS, "x-vga"),
        ("ROMBAR", hostpci.KEYS, "rombar"),
        ("devcie-id", hostpci.KEYS, "device-id"),
        ("pice", hostpci.KEYS, "pcie"),
        ("pcei", hostpci.KEYS, "pcie"),
        ("cpie", hostpci.KEYS, "pcie"),
        ("pci", hostpci.KEYS, "pcie"),
        ("mdve", hostpci.KEYS, "mdev"),
        ("hots", hostpci.KEYS, "host"),
        ("drvier", hostpci.KEYS, "driver"),
        ("legcay-idg", hostpci.KEYS, "legacy-igd"),
        ("sub-devcie-id", hostpci.KEYS, "sub-device-id"),
        ("eipc", hostpci.KEYS, None),
        ("epic", hostpci.KEYS, None),
        ("vga", hostpci.KEYS, "x-vga"),
        ("gva", hostpci.KEYS, None),
        ("ip", hostpci.KEYS, None),
        ("bus", hostpci.KEYS, None),
        ("size", hostpci.KEYS, None),
        ("cache", hostpci.KEYS, None),
        ("nvidia-36", ["nvidia-63"], "nvidia-63"),
        ("multifunction", hostpci.KEYS, None),
        ("PVP31", ["PVP231", "PVP310"], "PVP310"),
        ("x" * 10**6, ["x"], None),
        ("a", [], None),
    ],
)
def test_nearest(word: str, known: list[str], expected: str | None) -> None:
    assert nearest(word, known) == expected


@pytest.mark.parametrize("key", hostpci.KEYS)
def test_two_letters_exchanged_in_a_key(key: str) -> None:
    """Each such slip of the pen finds its key and no other one."""
    for place in range(len(key) - 1):
        slip = key[:place] + key[place + 1] + key[place] + key[place + 2 :]
        assert nearest(slip, hostpci.KEYS) == key
