# SPDX-License-Identifier: Apache-2.0
"""Names of the list pci.ids, and none where there is no list."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvepassthru.host import pciids
from pvepassthru.host.host import Host
from pvepassthru.host.pciids import PciIds
from tests import tree

if TYPE_CHECKING:
    from pathlib import Path

LIST = """# head
0e11  Compaq Computer Corporation
\t0001  PCI to EISA Bridge
# comment within
\t0508  Netelligent 4/16 Token Ring
1002  Advanced Micro Devices, Inc. [AMD/ATI]
\t67df  Ellesmere [Radeon RX 470/480]
\t\t1002 0b37  Radeon RX 480
\t\t1043 04a8  Radeon RX 480 (Asus)
\t67ef  Baffin
\t\t1002 0b37  not this one
10de  NVIDIA Corporation
\t1043  A device with a vendor's number
8086  Intel Corporation
\t1521  I350 Größe
C 02  Network controller
\t00  Ethernet controller
C 03  Display controller
\t00  VGA compatible controller
\t\t01  8514 controller
"""


@pytest.fixture(params=["misc/pci.ids", "hwdata/pci.ids", "misc/pci.ids.gz"])
def names(request: pytest.FixtureRequest, tmp_path: Path) -> PciIds:
    data = LIST.encode()
    tree.put(
        tmp_path, f"usr/share/{request.param}", gzip.compress(data, mtime=0) if request.param.endswith("gz") else data
    )
    return PciIds(Host(str(tmp_path)))


def test_names(names: PciIds) -> None:
    assert names.vendor("0x10de") == "NVIDIA Corporation"
    assert names.device("0x0e11", "0x0508") == "Netelligent 4/16 Token Ring"
    assert names.device("0x1002", "0x67EF") == "Baffin"
    assert names.device("0x8086", "0x1521") == "I350 Größe"
    assert names.subsystem("0x1002", "0x67df", "0x1043", "0x04a8") == "Radeon RX 480 (Asus)"
    assert names.subclass("0x030000") == "VGA compatible controller"
    assert names.subclass("0x038000") == "Display controller"
    assert names.name("0x1002", "0x67df") == "AMD/ATI Ellesmere [Radeon RX 470/480]"
    assert names.name("0x0e11", "0x9999") == "Compaq Computer device 9999"


def test_what_the_list_does_not_have(names: PciIds) -> None:
    assert names.vendor("0x1043") is None  # a subsystem's and a device's number only
    assert names.device("0x10de", "0x67df") is None
    assert names.subsystem("0x1002", "0x67df", "0x1002", "0x9999") is None
    assert names.subclass("0x990000") is None
    assert names.vendor(None) is None
    assert names.vendor("junk") is None
    assert names.subclass("0x03") is None
    assert names.name("0x9999", None) == "vendor 9999 device ?"


def test_without_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pciids, "FILES", ("/absent",))
    assert PciIds(Host(str(tmp_path))).name("0x10de", "0x2204") == "vendor 10de device 2204"


@pytest.mark.parametrize("data", [b"", b"\x1f\x8bjunk", gzip.compress(LIST.encode(), mtime=0)[:40]])
def test_a_bad_list(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pciids, "FILES", ("/pci.ids.gz",))
    tree.put(tmp_path, "pci.ids.gz", data)
    assert PciIds(Host(str(tmp_path))).name("0xffff", "0x2204") == "vendor ffff device 2204"


@given(st.text(alphabet="\t\n# 0123456789abcdefC", max_size=200), st.from_regex("0x[0-9a-f]{4}", fullmatch=True))
def test_any_list(text: str, key: str) -> None:
    names = PciIds(Host("/nonexistent"))
    names._text = "\n" + text
    for found in (names.vendor(key), names.device(key, key), names.subsystem(key, key, key, key)):
        assert found is None or (found and "\n" not in found)
    names.subclass(key + "00")


def test_a_long_list(tmp_path: Path) -> None:
    text = "".join(
        f"{vendor:04x}  Vendor {vendor}\n" + "".join(f"\t{device:04x}  Device {device}\n" for device in range(20))
        for vendor in range(2000)
    )
    tree.put(tmp_path, "usr/share/misc/pci.ids", text)
    names = PciIds(Host(str(tmp_path)))
    for vendor in range(1900, 2000):
        assert names.device(f"0x{vendor:04x}", "0x0013") == "Device 19"
