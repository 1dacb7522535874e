# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvepassthru.rules import memory
from tests.rules.example import Tree
from tests.rules.examples import guests
from tests.rules.examples.guests import FREE_PAGES, HUGE, INTEL, MEMINFO, SSD, UEFI

if TYPE_CHECKING:
    from pathlib import Path

SMALL: dict[str, str | bytes] = {MEMINFO: guests._memory(16000, 8000)}
MDEV = "hostpci0: 41:00.0,mdev=nvidia-63\n"
NODES = guests.EXAMPLES["PVP365"][0].files


def codes(host: Tree, tmp_path: Path) -> list[str]:
    """The codes of these modules' rules; others have tests of their own."""
    found = [finding.code for finding in host.findings(tmp_path)]
    return [code for code in found if "PVP260" <= code < "PVP280" or "PVP340" <= code < "PVP380"]


def test_vms_that_take_turns_take_turns_with_the_memory_too(tmp_path: Path) -> None:
    """The one that runs has the device, and must stop before the other starts: what is free now says nothing."""
    for number, config in enumerate((f"{SSD}memory: 12288\n", HUGE)):
        files: dict[str, str | bytes] = {**SMALL, FREE_PAGES: "0\n", MEMINFO: guests._memory(64000, 8000)}
        alone = Tree(config, files=files)
        assert codes(alone, tmp_path / f"alone{number}") == [("PVP362", "PVP364")[number]]
        held = replace(alone, others={200: SSD}, reservations="0000:02:00.0 200 pid:42\n", running={200: 42})
        assert codes(held, tmp_path / f"held{number}") == []


@pytest.mark.parametrize(
    "config, expected",
    [
        (f"{SSD}memory: 32768\n", ["PVP361"]),
        (f"{SSD}memory: 12288\n", ["PVP362"]),
        (f"{SSD}memory: 8000\n", []),
        (f"{SSD}memory: junk\n", []),
        (f"{SSD}memory: current=x\n", []),
        (SSD, []),
        (f"{MDEV}memory: 32768\n", []),
        ("memory: 32768\n", []),
        (f"{SSD}memory: 12288\nhugepages: 2\nnuma: 1\n", []),
        ("hostpci0: a1:00.4,mdev=nvidia-35\nmemory: 32768\n", ["PVP361"]),
    ],
)
def test_memory(config: str, expected: list[str], tmp_path: Path) -> None:
    assert codes(Tree(config, files=SMALL), tmp_path) == expected


@pytest.mark.parametrize(
    "meminfo",
    [b"", b"MemTotal", b"MemTotal: kB\nMemAvailable: 1\n", b"MemTotal: -5 kB\nMemAvailable: x kB\n", b"\xff\0" * 100],
)
def test_what_cannot_be_understood_is_no_finding(meminfo: bytes, tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {MEMINFO: meminfo, "/proc/spl/kstat/zfs/arcstats": meminfo, FREE_PAGES: meminfo}
    assert codes(Tree(f"{HUGE}affinity: 9-\n", files=files), tmp_path) == []
    assert codes(Tree(f"{SSD}memory: 99999999\n", files=files), tmp_path) == []


def test_a_running_vm_has_its_memory(tmp_path: Path) -> None:
    host = Tree(f"{SSD}memory: 12288\n", files=SMALL, running={100: 42})
    assert codes(host, tmp_path) == []


def test_a_running_vm_has_its_huge_pages(tmp_path: Path) -> None:
    assert codes(Tree(HUGE, files={FREE_PAGES: "0\n"}, running={100: 42}), tmp_path) == []


@pytest.mark.parametrize("balloon, expected", [("0", []), ("8192", []), ("8191", ["PVP360"]), ("x", [])])
def test_balloon(balloon: str, expected: list[str], tmp_path: Path) -> None:
    assert codes(Tree(f"{SSD}memory: 8192\nballoon: {balloon}\n"), tmp_path) == expected
    assert codes(Tree(f"memory: 8192\nballoon: {balloon}\n"), tmp_path) == []


@pytest.mark.parametrize(
    "lines, expected",
    [
        ("affinity: 6-8\n", ["PVP365"]),
        ("affinity: 0,6\n", []),
        ("affinity: 99\n", []),
        ("numa: 1\nnuma0: cpus=0-3,hostnodes=1,memory=512\n", ["PVP365"]),
        ("numa: 1\nnuma0: cpus=0-1,hostnodes=1,memory=256\nnuma1: cpus=2-3,hostnodes=0,memory=256\n", []),
        ("numa: 1\nnuma0: cpus=0-1,hostnodes=1,memory=256\nnuma1: cpus=2-3,memory=256\n", []),
        ("numa: 1\nnuma0: cpus=0-3,hostnodes=0-1,memory=512\n", []),
        ("numa0: bad=1\n", []),
        ("", []),
    ],
)
def test_places(lines: str, expected: list[str], tmp_path: Path) -> None:
    device = {"0000:02:00.0": {"files": {"numa_node": "0\n"}}}
    assert codes(Tree(SSD + lines, device, files=NODES), tmp_path) == expected


def test_a_device_of_no_node_is_near_all(tmp_path: Path) -> None:
    device = {"0000:02:00.0": {"files": {"numa_node": "-1\n"}}}
    assert codes(Tree(f"{SSD}affinity: 6-8\n", device, files=NODES), tmp_path) == []


def test_the_parent_of_a_mediated_device_counts(tmp_path: Path) -> None:
    device = {"0000:41:00.0": {"files": {"numa_node": "0\n"}}}
    assert codes(Tree(f"{MDEV}affinity: 6-8\n", device, files=NODES), tmp_path) == ["PVP365"]


@pytest.mark.parametrize(
    "cpu, expected",
    [
        ("", ["PVP276"]),
        ("cpu: x86-64-v2-AES\n", ["PVP276"]),
        ("cpu: kvm64,phys-bits=40\n", ["PVP276"]),
        ("cpu: kvm64,phys-bits=42\n", []),
        ("cpu: kvm64,phys-bits=host\n", []),
        ("cpu: cputype=host,hidden=1\n", []),
        ("cpu: custom-mine\n", []),
        ("cpu: a,b,c\n", ["PVP276"]),
        ("args: -fw_cfg name=opt/ovmf/X-PciMmio64Mb,string=65536\n", []),
    ],
)
def test_widths(cpu: str, expected: list[str], tmp_path: Path) -> None:
    device = {"0000:01:00.0": {"files": {"resource": guests.BAR}}}
    assert codes(Tree(f"{UEFI}{guests.SLOT}\n{cpu}", device, files=INTEL), tmp_path) == expected


def test_two_bars_together_need_the_room(tmp_path: Path) -> None:
    half = {"files": {"resource": f"0x{0x38000000000:016x} 0x{0x383FFFFFFFF:016x} 0x000000000014220c\n"}}
    config = f"{UEFI}{guests.SLOT}\n"
    assert codes(Tree(config, {"0000:01:00.0": half}, files=INTEL), tmp_path) == []
    assert codes(Tree(config, {"0000:01:00.0": half, "0000:01:00.1": half}, files=INTEL), tmp_path) == ["PVP276"]


def test_amd_cpus_have_40_bits_that_ovmf_trusts(tmp_path: Path) -> None:
    device = {"0000:01:00.0": {"files": {"resource": guests.BAR}}}
    files: dict[str, str | bytes] = {"/proc/cpuinfo": "vendor_id\t: AuthenticAMD\n"}
    assert codes(Tree(f"{UEFI}{guests.SLOT}\n", device, files=files), tmp_path) == []


@given(st.text(max_size=60))
def test_lists_of_cpus_never_raise(text: str) -> None:
    assert all(0 <= number < 8192 for number in memory.cpu_list(text))


def test_lists_of_cpus() -> None:
    assert memory.cpu_list("0-2, 5,7-7,9-8,x,1-y,-3,4-99999999") == {0, 1, 2, 5, 7}


def test_long_lists_of_cpus() -> None:
    """As long as the cluster's file system lets a config be, of spans that differ, each over all CPUs."""
    text = ",".join(f"{number % 90}-{8191 - number // 90 % 900}" for number in range(100_000))
    assert memory.cpu_list(text) == frozenset(range(8192))


@given(st.text(max_size=200))
def test_sizes_of_bars_never_raise(text: str) -> None:
    assert memory.bar_sizes(text) == []


def test_sizes_of_bars() -> None:
    """Of NVIDIA's A2: a 32-bit BAR, one of 16 GiB, one of 32 MiB, and an empty one."""
    text = (
        "0x0000000093000000 0x0000000093ffffff 0x0000000000040200\n"
        "0x0000039000000000 0x00000393ffffffff 0x000000000014220c\n"
        f"0x{0:016x} 0x{0:016x} 0x{0:016x}\n"
        "0x0000039c20000000 0x0000039c21ffffff 0x000000000014220c\n"
    )
    assert memory.bar_sizes(text) == [16 << 30, 32 << 20]
