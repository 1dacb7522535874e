# SPDX-License-Identifier: Apache-2.0
"""What the kernel answers with its IOMMU off: nothing can be passed through."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.kernel.checks import check
from tests.kernel.sysfs import DRIVERS, NIC, PCI, PROBE, attempt, driver, override, prepare, setup, unbind

if TYPE_CHECKING:
    from tests.kernel.sysfs import Machine

__all__ = ["prepare", "setup"]
KERNEL_ARGUMENTS = "intel_iommu=off"
SUITE_LIMIT = 90.0


def test_vfio_pci_does_not_bind(machine: Machine) -> None:
    check("no IOMMU", machine.host.names("/sys/class/iommu"), [])
    check("no group", machine.host.link(f"{PCI}/{NIC}/iommu_group"), None)
    unbind(machine, NIC)
    override(machine, NIC, "vfio-pci")
    check("bind", attempt(machine, f"{DRIVERS}/vfio-pci/bind", NIC), "EINVAL")
    check("probe", attempt(machine, PROBE, NIC), "ok")
    check("no driver", driver(machine, NIC), None)
