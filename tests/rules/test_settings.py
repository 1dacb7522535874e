# SPDX-License-Identifier: Apache-2.0
"""What the policy says of devices, judged as the hook does it: of what it takes from the host, and of nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.host.host import Host
from pvepassthru.host.inventory import Inventory
from tests import tree
from tests.rules.example import Tree

if TYPE_CHECKING:
    from pathlib import Path

SSD = "0000:02:00.0"
MATE: dict[str, Any] = {"vendor": "0x8086", "device": "0x15f3", "class": "0x020000", "iommu_group": 4}
FILES = {"reset_method": "flr bus\n", "resource": "", "resource0_resize": "0000000000000030\n"}


def codes(root: Path, policy: str, config: str = "hostpci0: 02:00.0\n", driver: str = "nvme", **more: Any) -> set[str]:  # noqa: ANN401 - devices
    devices = {SSD: {"driver": driver, "files": FILES}, **more.pop("devices", {})}
    made = Tree(config, devices, files={"etc/pvepassthru.yaml": policy, **more.pop("files", {})})
    return {found.code for found in made.findings(root) if found.severity == "error"}


def test_a_driver_without_keep(tmp_path: Path) -> None:
    assert codes(tmp_path, f"devices: {{{SSD}: {{driver: nvme-vfio-pci}}}}\n") == {"PVP259"}


def test_a_driver_for_a_group_mate(tmp_path: Path) -> None:
    policy = "devices: {0000:02:00.1: {driver: ixgbe-vfio-pci}}\n"
    assert codes(tmp_path, policy, devices={"0000:02:00.1": MATE}) == {"PVP259"}


@pytest.mark.parametrize("module", ["mlx5-vfio-pci", "mlx5_vfio_pci"])
def test_a_driver_that_can_be_loaded(module: str, tmp_path: Path) -> None:
    """A module's file has another spelling than its driver, as a rule."""
    tree.folder(tmp_path, "sys/bus/pci/drivers")
    tree.put(tmp_path, "proc/sys/kernel/osrelease", "6.8.12-1-pve\n")
    tree.put(tmp_path, "lib/modules/6.8.12-1-pve/modules.dep", f"kernel/drivers/vfio/pci/mlx5/{module}.ko.zst: x.ko\n")
    inventory = Inventory(Host(str(tmp_path)))
    assert inventory.driver_available("mlx5_vfio_pci") is True
    assert inventory.driver_available("ice_vfio_pci") is False


def test_what_the_hook_leaves_alone(tmp_path: Path) -> None:
    """An entry with driver=keep, whose driver the policy does not name, is not taken from the host."""
    policy = f"devices: {{{SSD}: {{reset_method: pm, bars: {{0: 1G}}}}}}\n"
    keep = "hostpci0: 02:00.0,driver=keep\n"
    assert codes(tmp_path, policy) == {"PVP257", "PVP258"}
    assert codes(tmp_path / "kept", policy, keep, "nvme-vfio-pci") == set()


def test_bars_of_what_keeps_its_driver(tmp_path: Path) -> None:
    policy = f"devices: {{{SSD}: {{driver: keep, bars: {{0: 1G}}}}}}\n"
    assert codes(tmp_path, policy) == set()


def test_reset_methods_that_a_start_has_written(tmp_path: Path) -> None:
    policy = f"devices: {{{SSD}: {{reset_method: pm}}}}\n"
    assert codes(tmp_path, policy, files={"run/pvepassthru/100.journal": ""}) == set()
