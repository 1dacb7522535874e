# SPDX-License-Identifier: Apache-2.0
"""`release ADDRESS`, which ends the quarantine of a function; of VMs see tests/scenarios/leftovers.py."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from pvepassthru.cli.main import main
from pvepassthru.host import quarantine
from pvepassthru.host.host import Host
from tests import tree

if TYPE_CHECKING:
    from pathlib import Path

SSD = "0000:02:00.0"
CONFIG = f"sys/bus/pci/devices/{SSD}/config"


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A host with a function in quarantine that does not answer."""
    made = tree.build(tmp_path, {"devices": {SSD: {"vendor": "0x144d", "device": "0xa80a", "iommu_group": 4}}})
    os.mkdir(f"{made}/run/pvepassthru", 0o700)
    tree.put(made, CONFIG, b"\xff" * 64)
    quarantine.put(Host(made), SSD, 101, f"{SSD} fell off the bus")
    return made


def test_function_that_answers_again(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    tree.put(root, CONFIG, b"\x4d\x14" * 32)
    assert main(["--root", root, "release", "--dry-run", "02:00.0"]) == 0
    assert "its quarantine would end" in capsys.readouterr().out
    assert main(["--root", root, "release", "--json", SSD]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["quarantine"]["vmid"] == 101
    assert quarantine.listed(Host(root)) == ()
    assert main(["--root", root, "release", SSD]) == 3
    assert "is not in quarantine" in capsys.readouterr().err


def test_journal_is_told_of(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    tree.put(root, CONFIG, b"\x4d\x14" * 32)
    tree.put(root, "run/pvepassthru/101.journal", "")
    assert main(["--root", root, "release", SSD]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{SSD} answers again: its quarantine has ended",
        "VM 101 left a journal; give the device back to the host: pvepassthru release 101",
    ]


def test_function_that_does_not_answer(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", root, "release", SSD]) == 5
    assert "its configuration space still reads 0xFF everywhere" in capsys.readouterr().err
    assert len(quarantine.listed(Host(root))) == 1


@pytest.mark.parametrize("word", ["99", "junk", "02:00", "0000:02:00.9"])
def test_neither_vm_nor_address(root: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--root", root, "release", word])
    assert "is no VMID and no PCI address" in capsys.readouterr().err


def test_status(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", root, "status"]) == 0
    assert f"in quarantine: {SSD} fell off the bus; pvepassthru release {SSD}" in capsys.readouterr().out
    assert main(["--root", root, "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["quarantines"][0]["address"] == SSD
