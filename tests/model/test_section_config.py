# SPDX-License-Identifier: Apache-2.0
"""PVE's section configs as PVE reads them, and whatever else the file may hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvepassthru.model import section_config

TEXT = b"""dir: local
\tpath /var/lib/vz
\tcontent iso,vztmpl;snippets  backup
\tshared
\tpath /other

# a comment
VM: 100
\tgroup gpu   \r
  \t
\t# another
\tstate started
not indented
\tmax_restart 1
0
"""


def test_sections_with_their_lines() -> None:
    local, vm = section_config.parse(TEXT)
    assert (local.type, local.id, local.line, local.get("path"), local.at("path")) == (
        *("dir", "local", 1, "/var/lib/vz"),
        2,
    )
    assert local.words("content") == ("iso", "vztmpl", "snippets", "backup")
    assert local.flag("shared")
    assert local.at("nodes") == 1
    assert (vm.type, vm.id, vm.line) == ("vm", "100", 8)
    assert {key: value.text for key, value in vm.properties.items()} == {
        "group": "gpu",
        "state": "started",
        "max_restart": "1",
    }


@pytest.mark.parametrize(
    "text, ids",
    [
        ("a: x\n\tk 1\n\na: x\n\tk 2\n", ["x"]),
        ("a: x\n\n\tk 1\n\nb:y\n", ["x", "y"]),
        ("nonsense\na: x\n", ["x"]),
        ("a b: x\n", []),
        ("a: x y\n", []),
        ("a:\n: x\n", []),
        (" a: x\n", []),
        ("", []),
    ],
)
def test_what_is_a_section(text: str, ids: list[str]) -> None:
    assert [section.id for section in section_config.parse(text.encode())] == ids


def test_the_later_of_two_sections_counts_and_the_first_of_two_values() -> None:
    (section,) = section_config.parse(b"a: x\n\tk 1\n\na: x\n\tk 2\n\tk 3\n")
    assert section.get("k") == "2"


@pytest.mark.parametrize(
    "value, flag", [("", True), (" 1", True), (" yes", True), (" 0", False), (" off", False), (" zz", False)]
)
def test_flags(value: str, flag: bool) -> None:  # noqa: FBT001 - a parameter of the table
    (section,) = section_config.parse(f"a: x\n\tk{value}\n".encode())
    assert section.flag("k") is flag
    assert section.flag("other", default=True)


@given(st.binary(max_size=300) | st.text("ab: \t\n#0,\r", max_size=60).map(str.encode))
def test_any_bytes(data: bytes) -> None:
    for section in section_config.parse(data):
        assert section.type
        assert section.id
        assert 1 <= section.line <= data.count(b"\n") + 1
        for key, value in section.properties.items():
            assert key == key.strip()
            assert section.line < value.line


@given(
    st.dictionaries(
        st.from_regex("[a-z][a-z0-9]{0,5}", fullmatch=True), st.from_regex("[!-~][ -~]{0,8}[!-~]", fullmatch=True)
    )
)
def test_what_is_written_is_read(values: dict[str, str]) -> None:
    text = "type: id\n" + "".join(f"\t{key} {value}\n" for key, value in values.items())
    (section,) = section_config.parse(text.encode())
    assert {key: value.text for key, value in section.properties.items()} == values
