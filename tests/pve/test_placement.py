# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's vendor vGPUs on the VFs of two GPUs: PVE takes the first VF, so the order of a mapping's entries places.

PVE is the tests' own model of it; the GPUs are simulated, with 4 units each that their VFs share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import capacity
from pvepassthru.host.inventory import Inventory
from pvepassthru.host.sim import SimHost
from pvepassthru.host.sim_settings import tbmdev_settings
from pvepassthru.model import placement
from tests import tree
from tests.pve.flows import Pve

if TYPE_CHECKING:
    from pathlib import Path

GPUS = ("0000:a1:00.0", "0000:c1:00.0")
ONE_UNIT, TWO_UNITS = "nvidia-100", "nvidia-101"


@pytest.fixture
def host(tmp_path: Path) -> SimHost:
    devices: dict[str, dict[str, object]] = {}
    group = 60
    for gpu in GPUS:
        ids = {"vendor": "0x10de", "device": "0x2235", "class": "0x030200", "driver": "nvidia"}
        devices[gpu] = {**ids, "iommu_group": group, "files": {"sriov_totalvfs": "4\n", "sriov_numvfs": "4\n"}}
        for number in range(1, 5):
            group += 1
            vf = {**ids, "driver": "tbvgpu", "physfn": gpu, "iommu_group": group}
            devices[f"{gpu[:-1]}{number}"] = {**vf, "nvidia": {"creatable": [], "current": "0"}}
        group += 1
    root = tree.build(tmp_path, {"devices": devices})
    for gpu in GPUS:
        for number in range(1, 5):
            tree.link(root, f"{tree.DEVICES}/{gpu}/virtfn{number - 1}", f"{tree.DEVICES}/{gpu[:-1]}{number}")
    made = SimHost(root)
    made.configure(tbmdev_settings())
    return made


def vfs() -> list[str]:
    """All VFs, in the order in which an administrator adds them in PVE's dialog."""
    return [f"{gpu[:-1]}{number}" for gpu in GPUS for number in range(1, 5)]


def mapped(host: SimHost, addresses: tuple[str, ...]) -> str:
    lines = ["gpu", "\tmdev 1"]
    for address in addresses:
        group = host.link(f"/{tree.DEVICES}/{address}/iommu_group")
        lines.append(f"\tmap id=10de:2235,iommugroup={group},node=pve,path={address}")
    return "\n".join(lines) + "\n"


def started(host: SimHost, strategy: str, kinds: list[str], usual: list[str]) -> list[str]:
    """The GPU, by its bus, of each VM that PVE starts with the mapping in the order for a strategy."""
    gpus = capacity.gpus(Inventory(host), usual)
    order = placement.order_of(gpus, strategy, kinds[0])
    assert sorted(order) == sorted(usual)
    pve = Pve(host.root, write=host.write)
    pve.map(mapped(host, order))
    found = []
    for vmid, kind in enumerate(kinds, 100):
        pve.define(vmid, f"hostpci0: mapping=gpu,mdev={kind}\n")
        log = pve.start(vmid)
        assert log.ok, log
        reserved = (line.split() for line in (host.text("/run/qemu-server/pci-id-reservations") or "").splitlines())
        (mine,) = [words[0] for words in reserved if words[1] == str(vmid)]
        assert host.text(f"/{tree.DEVICES}/{mine}/nvidia/current_vgpu_type") == kind.removeprefix("nvidia-")
        found.append(mine[5:7])
    return found


def test_pack(host: SimHost) -> None:
    turns = [vf for pair in zip(vfs()[:4], vfs()[4:], strict=True) for vf in pair]
    assert started(host, "pack", [TWO_UNITS] * 4, turns) == ["a1", "a1", "c1", "c1"]


def test_pack_of_small_ones(host: SimHost) -> None:
    assert started(host, "pack", [ONE_UNIT] * 8, vfs()) == ["a1"] * 4 + ["c1"] * 4


def test_spread(host: SimHost) -> None:
    assert started(host, "spread", [ONE_UNIT] * 6, vfs()) == ["a1", "c1"] * 3


def test_as_it_is_written(host: SimHost) -> None:
    assert started(host, "order", [TWO_UNITS] * 3, vfs()) == ["a1", "a1", "c1"]


def test_what_another_vm_has_offers_nothing(host: SimHost) -> None:
    gpus = capacity.gpus(Inventory(host), vfs(), frozenset(vfs()[:3]))
    assert placement.room(gpus, ONE_UNIT) == (1, 4)
    host.write(f"/{tree.DEVICES}/{vfs()[0]}/nvidia/current_vgpu_type", "101")
    gpus = capacity.gpus(Inventory(host), vfs())
    assert [gpu.used for gpu in gpus] == [{TWO_UNITS: 1}, {}]
    assert placement.plan(gpus, TWO_UNITS, 1, "pack").placed == (vfs()[1],)
    assert placement.plan(gpus, TWO_UNITS, 1, "spread").placed == (vfs()[4],)
