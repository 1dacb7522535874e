# SPDX-License-Identifier: Apache-2.0
"""Positions, pending changes, and lines that PVE passes over."""

from __future__ import annotations

import pytest

from pvepassthru.model import mapping, vmconfig


def test_positions_and_values() -> None:
    config = vmconfig.parse(b"# note\nname: a\nhostpci1: 02:00.0\nhostpci0: zz\nname: b\n")
    assert (config.main.get("name"), config.main.line("name")) == ("b", 5)
    assert (config.main.get("hostpci1"), config.main.line("hostpci1")) == ("02:00.0", 3)
    assert config.main.get("hostpci0") is None
    assert config.main.line("hostpci0") is None
    assert [(dropped.key, dropped.line, dropped.value) for dropped in config.main.dropped] == [("hostpci0", 4, "zz")]
    assert config.main.dropped[0].why == ("bad-pattern",)


def test_several_faults_of_one_value_are_all_told() -> None:
    (dropped,) = vmconfig.parse(b"hostpci0: zz,rombar=2,driver=x\n").main.dropped
    assert dropped.why == ("bad-boolean", "bad-enum", "bad-pattern")


def test_the_later_valid_line_counts() -> None:
    section = vmconfig.parse(b"vga: none\nvga: bogus\nmachine: q35\nmachine: Q35\n").main
    assert (section.get("vga"), section.line("vga")) == ("none", 1)
    assert section.machine.q35
    assert [dropped.key for dropped in section.dropped] == ["vga", "machine"]


def test_pending_changes() -> None:
    text = (
        b"hostpci0: 01:00.0\nhostpci1: 02:00.0\nhostpci2: zz\nname: a\n\n[PENDING]\ndelete: !hostpci1;name,hostpci2\n"
    )
    config = vmconfig.parse(text + b"hostpci0: 03:00.0\nhostpci4: zz\n")
    section = config.effective()
    assert config.deletes == ("hostpci1", "name", "hostpci2")
    assert {index: (entry.host, entry.line) for index, entry in section.entries.items()} == {0: ("03:00.0", 8)}
    assert section.get("name") is None
    assert section.dropped == ()
    assert [dropped.key for dropped in config.pending.dropped] == ["hostpci4"]
    assert config.main.entries.keys() == {0, 1}


def test_without_pending_changes_the_main_section_counts() -> None:
    config = vmconfig.parse(b"hostpci0: 01:00.0\n[PENDING]\n[snap]\nhostpci0: 02:00.0\n")
    assert not config.has_pending
    assert config.effective() is config.main


@pytest.mark.parametrize(
    "line",
    [
        " hostpci0: 01:00.0",
        "\thostpci0: 01:00.0",
        "HostPCI0: 01:00.0",
        "hostpci0 : 01:00.0",
        "hostpci0=01:00.0",
        "hostpci0:",
        "host-pci0x: 01:00.0",
        "\ufeffhostpci0: 01:00.0",
    ],
)
def test_lines_that_look_like_an_entry_and_are_none(line: str) -> None:
    section = vmconfig.parse(f"name: a\n{line}\n".encode()).main
    assert section.entries == {}
    assert [ignored.line for ignored in section.ignored] == [2]


@pytest.mark.parametrize("line", ["#hostpci0: 01:00.0", "description: hostpci0: x", "host: a", "hostname", "args: -x"])
def test_lines_that_do_not_look_like_an_entry(line: str) -> None:
    assert vmconfig.parse(line.encode()).main.ignored == ()


@pytest.mark.parametrize("value, template", [("1", True), ("Yes", True), ("0", False), ("maybe", False)])
def test_templates(value: str, template: bool) -> None:  # noqa: FBT001 - a parameter of the table
    assert vmconfig.parse(f"template: {value}\n".encode()).template is template


@pytest.mark.parametrize(
    "data, foreign",
    [
        (b"this is not a config", True),
        (b"\0" * 100, True),
        (b"\x7fELF\x02\x01\x01\0\0\n\xff\xfe\n", True),
        (b"a" * 10_000_000, True),
        (b"# note\nthis is not a config\n", True),
        (b"Name: a\n", True),
        (b"[snap]\nname: a\n", True),
        (b"[PENDING]\n", True),
        (b"", False),
        (b"\n \t\r\n\n", False),
        (b"# note\n\n", False),
        (b"name: a", False),
        (b"\0\0\nname: a\n", False),
        (b"[PENDING]\nname: a\n", False),
        (b"[PENDING]\ndelete: name\n", False),
        (b"machine: Q35\n", False),
        (b" hostpci0: 01:00.0\n", False),
    ],
)
def test_what_is_no_config_at_all(data: bytes, foreign: bool) -> None:  # noqa: FBT001 - a parameter of the table
    assert vmconfig.parse(data).foreign is foreign


def test_mapping_positions_and_bad_lines() -> None:
    text = "# c\ngpu\n\tmdev 1\n\tmdev 0\n\tmap node=a,path=0000:01:00.0,id=10de:2204\n\tmap x\n\nnic\nmap y\n"
    mappings = mapping.parse(text.encode())
    gpu = mappings.by_name["gpu"]
    assert (gpu.line, gpu.mdev, [entry.line for entry in gpu.entries]) == (2, True, [5])
    assert gpu.on("a") == gpu.entries
    assert gpu.on("A") == ()
    assert [(bad.line, bad.name) for bad in mappings.bad_lines] == [(4, "gpu"), (6, "gpu"), (9, "nic")]


def test_a_later_line_of_a_key_replaces_the_earlier_one() -> None:
    """Of hostpci keys that is remembered, unless the value is the same or pending changes set the key anew."""
    config = vmconfig.parse(
        b"memory: 1\nmemory: 2\nhostpci0: 01:00.0\nhostpci1: 03:00.0\nhostpci0: 02:00.0\nhostpci1: 03:00.0\n"
    )
    assert config.main.replaced == (vmconfig.Replaced("hostpci0", 3, "01:00.0", 5),)
    assert config.main.entries[0].host == "02:00.0"
    later = vmconfig.parse(b"hostpci0: 01:00.0\nhostpci0: 02:00.0\nhostpci0: junk=1\n[PENDING]\nhostpci0: 04:00.0\n")
    assert [replaced.by for replaced in later.main.replaced] == [2]
    assert later.effective().replaced == ()
