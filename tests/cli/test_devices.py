# SPDX-License-Identifier: Apache-2.0
"""`devices` in all its forms, and `mdev types` with capacity."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.cli.main import main
from tests import storage, tree
from tests.rules.example import DEVICES

if TYPE_CHECKING:
    from pathlib import Path

GPU, AUDIO, PARENT, PF, VF = "0000:01:00.0", "0000:01:00.1", "0000:41:00.0", "0000:a1:00.0", "0000:a1:00.4"
NAMES = """# a list
10de  NVIDIA Corporation
\t2204  GA102 [GeForce RTX 3090]
\t\t1043 87b5  TUF Gaming
8086  Intel Corporation
\t460d  Root Port
C 03  Display controller
\t00  VGA compatible controller
C 06  Bridge
\t04  PCI bridge
"""
FULL = {
    "reset_method": "flr bus\n",
    "current_link_speed": "8.0 GT/s PCIe\n",
    "current_link_width": "8\n",
    "max_link_speed": "16.0 GT/s PCIe\n",
    "max_link_width": "16\n",
    "power_state": "D0\n",
    "numa_node": "1\n",
    "resource": "0x00000000f6000000 0x00000000f6ffffff 0x0000000000040200\n" + "0x0 0x0 0x0\n" * 6,
    "aer_dev_correctable": "RxErr 3\nBadTLP 0\nTOTAL_ERR_COR 3\n",
    "config": b"\xff" * 256,
    "boot_vga": "1\n",
}
CONFIGS: dict[int, str | bytes] = {
    100: "machine: q35\nhostpci0: 01:00,pcie=1\n",
    101: "hostpci0: mapping=vgpu,mdev=nvidia-63\n",
    102: "hostpci0: 0000:02:00.0\n",
}
MAPPING = f"vgpu\n\tmdev 1\n\tmap id=10de:2204,iommugroup=50,node=pve,path={PARENT}\n"


@pytest.fixture
def root(tmp_path: Path) -> str:
    devices: dict[str, dict[str, Any]] = {**DEVICES, GPU: {**DEVICES[GPU], "files": FULL}}
    devices[PARENT] = {**DEVICES[PARENT], "mdev": {**DEVICES[PARENT]["mdev"]}}
    devices[PARENT]["mdev"]["instances"] = {"00000000-0000-0000-0000-000000000101": "nvidia-63"}
    reservations = f"{GPU} 100 pid:42\n{AUDIO} 100 pid:42\n"
    built = tree.build(
        tmp_path, {"devices": devices}, configs=CONFIGS, mapping=MAPPING, reservations=reservations, running={100: 42}
    )
    tree.put(built, "usr/share/misc/pci.ids", NAMES)
    return built


def said(root: str, words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["--root", root, *words.split()]) == 0
    return capsys.readouterr().out


def rows(root: str, words: str, capsys: pytest.CaptureFixture[str]) -> Any:  # noqa: ANN401 - JSON
    return json.loads(said(root, f"{words} --json", capsys))


def test_table(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(root, "devices", capsys).splitlines()
    assert lines[0].split() == [
        "ADDRESS",
        "NAME",
        "CLASS",
        "DRIVER",
        "GROUP",
        "RESET",
        "NUMA",
        "LINK",
        "VFS",
        "MDEV",
        "VM",
    ]
    (line,) = [line for line in lines if line.startswith(GPU)]
    assert [cell.strip() for cell in line.split("  ") if cell] == [
        *(GPU, "NVIDIA GA102 [GeForce RTX 3090]", "VGA compatible controller", "nouveau", "1", "flr bus", "1"),
        *("8.0x8/16.0x16", "-", "-", "100 (runs)"),
    ]
    assert len({line.index(line.split("  ")[1].strip()) for line in lines if line.startswith("0000:0")}) == 1


def test_vms(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = {row["address"]: row["vms"] for row in rows(root, "devices", capsys)}
    assert found[GPU] == [{"vmid": 100, "entries": ["hostpci0"], "runs": True, "has": True}]
    assert found[PARENT] == [{"vmid": 101, "entries": ["hostpci0"], "runs": False, "has": True}]
    assert found["0000:02:00.0"] == [{"vmid": 102, "entries": ["hostpci0"], "runs": False, "has": False}]
    assert found["0000:00:02.0"] == []


@pytest.mark.parametrize(
    "words, addresses",
    [
        ("--vm 100", [GPU, AUDIO]),
        ("--class bridge", ["0000:00:01.0"]),
        ("--class nvme", ["0000:02:00.0"]),
        ("--class storage", ["0000:02:00.0"]),
        ("--class audio", [AUDIO]),
        ("--driver nouveau", [GPU]),
        ("--driver none", ["0000:00:01.0", AUDIO]),
        ("--class gpu --driver i915", ["0000:00:02.0"]),
        ("--vm 101 --class nvme", []),
    ],
)
def test_filters(words: str, addresses: list[str], root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert [row["address"] for row in rows(root, f"devices {words}", capsys)] == addresses


def test_groups(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    tree.put(root, "sys/kernel/iommu_groups/1/type", "DMA-FQ\n")
    text = said(root, "devices --groups --class gpu", capsys)
    assert text.startswith("group 1 (DMA-FQ)\n├─ 0000:00:01.0  Intel Root Port  [PCI bridge]\n├─ 0000:01:00.0  NVIDIA")
    shape = rows(root, "devices --groups", capsys)
    assert [group["group"] for group in shape] == [1, 2, 4, 50, 60, 61, 62]
    assert [one["address"] for one in shape[0]["functions"]] == ["0000:00:01.0", GPU, AUDIO]


def test_bus_tree(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The GPU behind its root port, VFs below their PF."""
    bus = f"{root}/sys/devices/pci0000:00"
    os.makedirs(bus)
    os.rename(f"{root}/sys/bus/pci/devices/0000:00:01.0", f"{bus}/0000:00:01.0")
    os.rename(f"{root}/sys/bus/pci/devices/{GPU}", f"{bus}/0000:00:01.0/{GPU}")
    tree.link(root, "sys/bus/pci/devices/0000:00:01.0", "sys/devices/pci0000:00/0000:00:01.0")
    tree.link(root, f"sys/bus/pci/devices/{GPU}", f"sys/devices/pci0000:00/0000:00:01.0/{GPU}")
    shape = {one["bus"]: one["functions"] for one in rows(root, "devices --tree", capsys)}
    (port,) = [one for one in shape["0000:00"] if one["address"] == "0000:00:01.0"]
    assert [child["address"] for child in port["children"]] == [GPU]
    (pf,) = shape["0000:a1"]
    assert [child["address"] for child in pf["children"]] == [VF, "0000:a1:00.5"]
    lines = said(root, "devices --tree --driver nouveau", capsys).splitlines()
    assert lines[0] == "bus 0000:00"
    assert lines[1].startswith("└─ 0000:00:01.0  Intel Root Port")
    assert lines[2].startswith(f"   └─ {GPU}  NVIDIA GA102")


def test_one_in_full(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(root, "devices 01:00.0", capsys)
    for words in (
        "NVIDIA Corporation GA102 [GeForce RTX 3090] (10de:2204)",
        "TUF Gaming (1043:87b5)",
        "1, with 0000:00:01.0 0000:01:00.1",
        "8.0 GT/s x8, of at most 16.0 GT/s x16",
        "reads 0xFF everywhere",
        "BAR 0: 16 MiB of memory at 0xf6000000",
        "correctable: RxErr 3",
        "the host's boot display",
        "100: hostpci0; has it and runs",
    ):
        assert words in text
    (one,) = [rows(root, "devices 0000:01:00.0", capsys)]
    assert one["answers"] is False
    assert one["aer"] == {"correctable": {"RxErr": 3}}
    assert [row["address"] for row in rows(root, "devices 01:00", capsys)] == [GPU, AUDIO]


def test_what_the_host_needs(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    storage.disk(root, "0000:02:00.0")
    storage.mount(root, "259:2 /boot ext4 /dev/nvme0n1p2")
    assert "/boot" in said(root, "devices 02:00.0", capsys)
    assert rows(root, "devices 02:00.0", capsys)["uses"][0]["kind"] == "mount"


def test_sleeping_functions_are_left_alone(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    tree.put(root, f"sys/bus/pci/devices/{GPU}/power_state", "D3cold\n")
    one = rows(root, f"devices {GPU}", capsys)
    assert (one["answers"], one["link"]) == (None, None)
    assert "not read, since that would wake it" in said(root, f"devices {GPU}", capsys)
    assert "  asleep  " in said(root, "devices --driver nouveau", capsys)


@pytest.mark.parametrize(
    "words, code", [("09:00.0", 3), ("zz", 2), ("01:00.0 --groups", 2), ("--class x", 2), ("--groups --tree", 2)]
)
def test_wrong_use(words: str, code: int, root: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        found = main(["--root", root, "devices", *words.split()])
    except SystemExit as error:
        found = int(error.code or 0)
    assert found == code
    assert capsys.readouterr().out == ""


def test_without_hardware(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(str(tmp_path), "devices", capsys) == "no PCI function on this host\n"
    assert rows(str(tmp_path), "devices --tree", capsys) == []


def test_odd_files(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is in them, no traceback."""
    for name in FULL:
        tree.put(root, f"sys/bus/pci/devices/{GPU}/{name}", b"\xff\0\x1b[31m 9999999999999999999999\n" * 3)
    for name in ("sriov_totalvfs", "sriov_numvfs", "virtfnx", "virtfn0", "nvidia/creatable_vgpu_types", "class"):
        tree.put(root, f"sys/bus/pci/devices/{AUDIO}/{name}", b"\xff\0: :\n")
    tree.link(root, f"sys/bus/pci/devices/{AUDIO}/physfn", f"sys/bus/pci/devices/{AUDIO}")
    for words in ("devices", "devices --groups", "devices --tree", f"devices {GPU}", f"devices {AUDIO}", "mdev types"):
        assert "\x1b[31m" not in said(root, words, capsys)
        rows(root, words, capsys)


def test_mdev_capacity(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = f"sys/bus/pci/devices/{PARENT}/mdev_supported_types"
    tree.put(root, f"{folder}/nvidia-64/description", "num_heads=4, framebuffer=2048M, max_instance=12\n")
    found = {row["type"]: row for row in rows(root, f"mdev types {PARENT}", capsys)}
    assert [(name, row["available"], row["used"], row["total"], row["vmids"]) for name, row in found.items()] == [
        ("nvidia-63", 2, 1, 3, [101]),
        ("nvidia-64", 0, 0, 12, []),
        ("nvidia-65", 1, 0, None, []),
    ]
    assert "  101" in said(root, "mdev types", capsys)


def test_vgpu_capacity(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    tree.put(root, f"sys/bus/pci/devices/{VF}/nvidia/current_vgpu_type", "35\n")
    tree.put(root, "run/qemu-server/pci-id-reservations", f"{VF} 105 pid:77\n")
    found = {row["type"]: row for row in rows(root, f"mdev types {VF}", capsys)}
    assert (found["nvidia-35"]["used"], found["nvidia-35"]["available"], found["nvidia-35"]["vmids"]) == (1, 0, [105])
    assert (found["nvidia-558"]["used"], found["nvidia-558"]["available"]) == (0, 1)


def test_configs_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whose function is whose is not known then, and `-` alone would say that it is nobody's."""
    root = tree.build(tmp_path, {"devices": DEVICES}, configs={100: "hostpci0: 01:00.0\n", 101: "memory: 1\n"})
    path = "/etc/pve/qemu-server/100.conf"
    os.unlink(f"{root}{path}")
    os.mkdir(f"{root}{path}")
    note = f"pvepassthru: note: cannot read {path}: VMs may be missing here; run this as root\n"
    assert main(["--root", root, "devices"]) == 0
    assert capsys.readouterr().err == note
    assert main(["--root", root, "devices", "--vm", "100"]) == 4
    assert "cannot read the config of VM 100" in capsys.readouterr().err
    assert main(["--root", root, "devices", "--vm", "999"]) == 3
    output = capsys.readouterr()
    assert "there is no VM 999 on node" in output.err
    assert output.out == ""
    assert main(["--root", root, "devices", "--vm", "101"]) == 0
    assert "no PCI function is of that kind" in capsys.readouterr().out


def test_a_function_without_types_is_named(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", root, "mdev", "types", AUDIO]) == 3
    assert f"{AUDIO} offers no mdev or vGPU types; " in capsys.readouterr().err


def test_a_link_whose_state_is_not_known(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A virtual function has the link of its physical function, and says only what it could have."""
    tree.put(root, f"sys/bus/pci/devices/{VF}/max_link_speed", "16.0 GT/s PCIe\n")
    tree.put(root, f"sys/bus/pci/devices/{VF}/max_link_width", "16\n")
    tree.put(root, f"sys/bus/pci/devices/{VF}/current_link_speed", "Unknown\n")
    tree.put(root, f"sys/bus/pci/devices/{VF}/current_link_width", "0\n")
    text = said(root, f"devices {VF}", capsys)
    assert "at most 16.0 GT/s x16" in text
    assert "? GT/s" not in text
