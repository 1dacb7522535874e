# SPDX-License-Identifier: Apache-2.0
"""What VMs want, and who gets what when the node boots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.host.host import Host
from pvepassthru.model.profile import size_of
from pvepassthru.rules import catalogue
from pvepassthru.rules import subject as subjects
from pvepassthru.rules.boot import shortages
from pvepassthru.rules.demand import LAST, demand
from pvepassthru.rules.subject import Surroundings
from tests import tree
from tests.effort import calls

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PF = "0000:a1:00.0"
PLAIN = {"vendor": "0x10de", "device": "0x25b6", "class": "0x030200", "driver": "nvidia"}
NAMES = {"35": "NVIDIA A16-1Q", "36": "NVIDIA A16-2Q", "37": "NVIDIA A16-1B"}
FIRST = "onboot: 1\nstartup: order=1\n"


def _around(root: Path, devices: dict[str, Any], configs: Mapping[int, str], mapping: str = "") -> Surroundings:
    tree.build(root, {"devices": devices}, configs=configs, mapping=mapping)
    return Surroundings(Host(str(root)))


def _lacks(around: Surroundings) -> dict[int, list[tuple[str, str, tuple[int, ...]]]]:
    found = around.once(shortages)
    return {vmid: [(lack.wish.key, lack.cause, lack.takers) for lack in lacks] for vmid, lacks in found.items()}


def _vf(number: int, offers: str = "35 36 37", current: str = "0") -> dict[str, Any]:
    creatable = [{"id": kind, "name": NAMES[kind]} for kind in offers.split()]
    return {**PLAIN, "iommu_group": number, "physfn": PF, "nvidia": {"creatable": creatable, "current": current}}


def _vgpus(*vfs: dict[str, Any]) -> dict[str, Any]:
    return {f"0000:a1:00.{number}": vf for number, vf in enumerate(vfs, 1)}


def _pool(count: int) -> str:
    lines = (f"\tmap node=pve,path=0000:a1:00.{number},id=10de:25b6,iommugroup=9\n" for number in range(1, count + 1))
    return "gpu\n\tmdev 1\n" + "".join(lines)


def _mdev(available: dict[str, str], instances: dict[str, str] | None = None) -> dict[str, Any]:
    names = {"nvidia-63": "GRID P4-1Q", "nvidia-64": "GRID P4-2Q", "i915-GVTg_V5_4": None}
    types = {kind: {"available": left, "name": names[kind]} for kind, left in available.items()}
    return {"0000:41:00.0": {**PLAIN, "iommu_group": 50, "mdev": {"types": types, "instances": instances or {}}}}


def _uuid(vmid: int) -> str:
    return f"00000000-0000-0000-0000-{vmid:012d}"


@pytest.mark.parametrize(
    "name, size",
    [
        ("NVIDIA A16-1Q", 1),
        ("GRID P4-24A", 24),
        ("A2-2B", 2),
        ("NVIDIA DC-1-24Q", None),
        ("NVIDIA DC-1-24QME", None),
        ("NVIDIA A16-1QX", None),
        ("GVTg_V5_4", None),
        ("A16-99999999999999999999Q", 999999999),
        (None, None),
        ("", None),
    ],
)
def test_size_of(name: str | None, size: int | None) -> None:
    assert size_of(name) == size


def test_what_vms_want(tmp_path: Path) -> None:
    configs = {
        100: "onboot: 1\nstartup: order=3,up=5\nhostpci0: a1:00.1,mdev=nvidia-35\nhostpci1: mapping=gpu\n",
        101: "template: 1\nhostpci0: a1:00.1\n",
        102: "startup: 2\nhostpci0: 41:00.0,mdev=i915-GVTg_V5_4\n[PENDING]\nonboot: 1\nhostpci0: 41:00\n",
        103: "hostpci0: 99:00.0\nhostpci1: mapping=none\nhostpci2: a1:00.1,mapping=gpu\nhostpci3: rombar=0\n",
        104: "hostpci0: a1:00,mdev=nvidia-35\nhostpci1: a1:00.2,driver=keep\n",
        105: "onboot: zz\nname: hostpci\n",
    }
    devices = {**_vgpus(_vf(1), _vf(2)), **_mdev({"i915-GVTg_V5_4": "1"})}
    around = _around(tmp_path, devices, configs, _pool(2))
    found = around.once(demand)
    assert list(found.guests) == [100, 102, 104]
    assert (found.guests[100].starts, found.guests[100].order) == (True, 3)
    assert (found.guests[102].starts, found.guests[102].order) == (True, 2)
    assert (found.guests[104].starts, found.guests[104].order) == (False, LAST)
    assert [(wish.pool, wish.nvidia, wish.mdev, wish.whole) for wish in found.guests[100].wishes] == [
        (None, "35", None, False),
        ("gpu", None, None, True),
    ]
    assert [wish.key for wish in found.guests[104].wishes] == ["hostpci1"]
    assert {address: [wish.vmid for wish in wishes] for address, wishes in found.wanted.items()} == {
        "0000:a1:00.1": [100],
        "0000:41:00.0": [102],
        "0000:a1:00.2": [104],
    }
    assert around.once(demand) is found


def test_ha_says_what_starts(tmp_path: Path) -> None:
    """PVE leaves the VMs that HA manages to HA, whatever their onboot says."""
    around = _around(tmp_path, _vgpus(_vf(1)), dict.fromkeys((100, 101, 102), "onboot: 1\nhostpci0: a1:00.1\n"))
    tree.put(tmp_path, "etc/pve/ha/resources.cfg", "vm: 100\n\tstate stopped\n\nvm: 101\n\tstate started\n")
    found = around.once(demand)
    assert [found.starts(vmid) for vmid in (100, 101, 102, 103)] == [False, True, True, False]


def test_what_ha_ignores_starts_by_its_onboot(tmp_path: Path) -> None:
    around = _around(tmp_path, _vgpus(_vf(1)), {100: "onboot: 1\nhostpci0: a1:00.1\n", 101: "hostpci0: a1:00.1\n"})
    tree.put(tmp_path, "etc/pve/ha/resources.cfg", "vm: 100\n\tstate ignored\n\nvm: 101\n\tstate ignored\n")
    assert [around.once(demand).starts(vmid) for vmid in (100, 101)] == [True, False]


def test_a_pool_is_given_away_in_the_order_of_starts(tmp_path: Path) -> None:
    wants = "hostpci0: mapping=gpu,mdev=nvidia-35\n"
    configs = {
        100: "onboot: 1\n" + wants,
        101: FIRST + wants,
        102: wants,
        103: FIRST + wants,
        104: "onboot: 1\n" + wants,
    }
    around = _around(tmp_path, _vgpus(_vf(1), _vf(2), _vf(3)), configs, _pool(3))
    assert _lacks(around) == {104: [("hostpci0", "vgpu", (101, 103, 100))]}


def test_own_entries_that_take_all_are_told_elsewhere(tmp_path: Path) -> None:
    config = "onboot: 1\nhostpci0: mapping=gpu\nhostpci1: mapping=gpu\nhostpci2: mapping=gpu\n"
    assert _lacks(_around(tmp_path, _vgpus(_vf(1), _vf(2)), {100: config}, _pool(2))) == {}


def test_what_other_types_hide_is_no_shortage(tmp_path: Path) -> None:
    """VM 300, which does not start by itself, fills the GPU now: the VFs offer nothing to VM 100 and 101."""
    wants = "onboot: 1\nhostpci0: mapping=gpu,mdev=nvidia-35\n"
    devices = _vgpus(_vf(1, "", "36"), _vf(2, ""), _vf(3, ""))
    assert _lacks(_around(tmp_path / "a", devices, {100: wants, 101: wants}, _pool(3))) == {}
    devices = _vgpus(_vf(1, "", "35"), _vf(2, ""), _vf(3, ""))
    assert _lacks(_around(tmp_path / "b", devices, {100: wants, 101: wants}, _pool(3))) == {
        101: [("hostpci0", "vgpu", (100,))]
    }


def test_sizes_exclude_each_other_on_one_gpu_only(tmp_path: Path) -> None:
    configs = {
        100: FIRST + "hostpci0: a1:00.1,mdev=nvidia-35\n",
        101: "onboot: 1\nhostpci0: a1:00.2,mdev=nvidia-36\n",
        102: "onboot: 1\nhostpci0: mapping=gpu,mdev=nvidia-37\n",  # of the same size
    }
    vfs = _vgpus(_vf(1), _vf(2), _vf(3))
    assert _lacks(_around(tmp_path / "a", vfs, configs, _pool(3))) == {101: [("hostpci0", "size", (100,))]}
    vfs["0000:a1:00.2"]["physfn"] = "0000:a2:00.0"
    assert _lacks(_around(tmp_path / "b", vfs, configs, _pool(3))) == {}


def test_sizes_side_by_side_are_a_mode_of_newer_gpus(tmp_path: Path) -> None:
    configs = {
        100: FIRST + "hostpci0: a1:00.1,mdev=nvidia-35\n",
        101: "onboot: 1\nhostpci0: a1:00.2,mdev=nvidia-36\n",
    }
    both = _vgpus(_vf(1, "35 36", "35"), _vf(2, "35 36", "36"))
    assert _lacks(_around(tmp_path / "a", both, configs)) == {}
    offered = _vgpus(_vf(1, "35 36", "35"), _vf(2, "35 36"))
    assert _lacks(_around(tmp_path / "b", offered, configs)) == {}


def test_instances_that_exist_leave_their_room(tmp_path: Path) -> None:
    wants = "onboot: 1\nhostpci0: 41:00.0,mdev=nvidia-63\n"
    configs = dict.fromkeys((100, 101, 102), wants)
    mine = _mdev({"nvidia-63": "0"}, {_uuid(100): "nvidia-63", _uuid(101): "nvidia-63"})
    assert _lacks(_around(tmp_path / "a", mine, configs)) == {102: [("hostpci0", "mdev", (100, 101))]}
    foreign = _mdev({"nvidia-63": "0"}, {_uuid(100): "nvidia-63", _uuid(300): "nvidia-63"})
    assert _lacks(_around(tmp_path / "b", foreign, configs)) == {}
    silent = _mdev({"nvidia-63": "zz"})
    assert _lacks(_around(tmp_path / "c", silent, configs)) == {}


def test_sizes_of_classic_mdevs(tmp_path: Path) -> None:
    configs = {
        100: FIRST + "hostpci0: 41:00.0,mdev=nvidia-63\n",
        101: "onboot: 1\nhostpci0: 41:00.0,mdev=nvidia-64\n",
    }
    empty = _mdev({"nvidia-63": "8", "nvidia-64": "4"})
    assert _lacks(_around(tmp_path / "a", empty, configs)) == {101: [("hostpci0", "size", (100,))]}
    mixed = _mdev({"nvidia-63": "6", "nvidia-64": "4"}, {_uuid(100): "nvidia-63"})
    assert _lacks(_around(tmp_path / "b", mixed, configs)) == {}


def test_effort_grows_with_vms_and_functions_only(tmp_path: Path) -> None:
    """Not with their product: four times the VMs on four times the functions take about four times the calls."""

    def effort(vms: int, functions: int) -> tuple[int, int]:
        root = tmp_path / str(vms)
        addresses = [
            f"{domain:04x}:{bus:02x}:{slot:02x}.{number}"
            for domain in range(1 + functions // 2048)
            for bus in range(8)
            for slot in range(32)
            for number in range(8)
        ][:functions]
        device = {"vendor": "0x10de", "device": "0x25b6", "class": "0x030200", "irq": "1"}
        devices = {address: {**device, "iommu_group": number} for number, address in enumerate(addresses)}
        lines = (
            f"\tmap node=pve,path={address},id=10de:25b6,iommugroup={number}\n"
            for number, address in enumerate(addresses)
        )
        configs = {100 + number: "onboot: 1\nhostpci0: mapping=gpu\nhostpci1: mapping=gpu\n" for number in range(vms)}
        around = _around(root, devices, configs, "gpu\n" + "".join(lines))
        count = calls(lambda: around.once(shortages))
        return count, len(around.once(shortages))

    few, none = effort(150, 256)
    many, lacking = effort(600, 1024)
    assert (none, lacking) == (22, 88)
    assert many < 6 * few


def test_two_vms_of_each_other_are_both_told(tmp_path: Path) -> None:
    configs = dict.fromkeys((100, 101, 102), "onboot: 1\nhostpci0: a1:00.1\n")
    around = _around(tmp_path, _vgpus(_vf(1), _vf(2)), configs)
    for vmid in (100, 101, 102):
        found = catalogue.findings(subjects.load(around.host, vmid, pending=True, around=around))
        (both,) = (finding for finding in found if finding.code == "PVP425")
        others = " , ".join(f"VM {other} (hostpci0)" for other in configs if other != vmid).replace(" , ", ", ")
        assert f"0000:a1:00.1 is passed to {others} too" in both.message
