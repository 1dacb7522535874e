# SPDX-License-Identifier: Apache-2.0
"""What the examples of rules are made of: a host as a real tree, and what the rules find there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pvepassthru.host.host import Host
from pvepassthru.rules import catalogue
from pvepassthru.rules import subject as subjects
from tests import tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pvepassthru.model.finding import Finding

GPU = {"vendor": "0x10de", "device": "0x2204", "class": "0x030000", "subsystem_vendor": "0x1043"}
OFFERS = {"creatable": [{"id": "35", "name": "A16-1Q"}, {"id": "558", "name": "A16-1B"}], "current": "0"}
VF = {"vendor": "0x10de", "device": "0x25b6", "class": "0x030200", "driver": "nvidia", "physfn": "0000:a1:00.0"}
TYPES = {
    "nvidia-63": {"available": "2", "name": "GRID P4-1Q"},
    "nvidia-64": {"available": "0", "name": "GRID P4-2Q"},
    "nvidia-65": {"available": "1", "name": "GRID P4-4Q"},
}
DEVICES: dict[str, dict[str, Any]] = {
    "0000:00:01.0": {"vendor": "0x8086", "device": "0x460d", "class": "0x060400", "iommu_group": 1, "pci_bus": True},
    "0000:00:02.0": {"vendor": "0x8086", "device": "0x4680", "class": "0x030000", "iommu_group": 2, "driver": "i915"},
    "0000:01:00.0": {**GPU, "subsystem_device": "0x87b5", "iommu_group": 1, "driver": "nouveau", "reset": True},
    "0000:01:00.1": {"vendor": "0x10de", "device": "0x1aef", "class": "0x040300", "iommu_group": 1},
    "0000:02:00.0": {"vendor": "0x144d", "device": "0xa80a", "class": "0x010802", "iommu_group": 4, "driver": "nvme"},
    "0000:41:00.0": {**GPU, "iommu_group": 50, "driver": "nvidia", "mdev": {"types": TYPES}},
    "0000:a1:00.0": {**GPU, "iommu_group": 60, "driver": "nvidia", "nvidia": {}},
    "0000:a1:00.4": {**VF, "iommu_group": 61, "nvidia": OFFERS},
    "0000:a1:00.5": {**VF, "iommu_group": 62, "nvidia": OFFERS},
}
VM = 100
UUID = "00000000-0000-0000-0000-000000000100"
VFS = (
    "vgpu\n\tmdev 1\n\tmap id=10de:25b6,iommugroup=61,node=pve,path=0000:a1:00.4\n"
    "\tmap id=10de:25b6,iommugroup=62,node=pve,path=0000:a1:00.5\n"
)
SSD = "ssd\n\tmap id=144d:a80a,iommugroup=4,node=pve,path=0000:02:00.0\n"
SSD_TWICE = SSD + "\tmap id=144d:a80a,iommugroup=4,node=pve,path=0000:02:00.0\n"


def nothing(root: str) -> None:
    """Change nothing of a tree."""


@dataclass(frozen=True)
class Tree:
    """A host, with VM 100 if it has a config."""

    config: str = ""
    devices: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What differs from DEVICES, merged into each device."""
    host: dict[str, Any] = field(default_factory=dict)
    mapping: str | None = None
    reservations: str | None = None
    running: dict[int, int] = field(default_factory=dict)
    others: dict[int, str] = field(default_factory=dict)
    """Configs of other VMs of the node."""
    files: dict[str, str | bytes] = field(default_factory=dict)
    """Further files by path."""
    change: Callable[[str], object] = nothing
    """What else is to be done to the tree."""

    def findings(self, root: Path, *, lenient: bool = False) -> list[Finding]:
        """Build it and judge VM 100."""
        return catalogue.findings(subjects.load(self.build(root), VM, pending=True, lenient=lenient))

    def host_findings(self, root: Path) -> list[Finding]:
        """Build it and judge the host."""
        states = catalogue.host_states(subjects.Surroundings(self.build(root)))
        return [finding for state in states for finding in state.findings]

    def build(self, root: Path) -> Host:
        """Make the tree."""
        devices = {
            address: {**DEVICES.get(address, {}), **self.devices.get(address, {})}
            for address in {*DEVICES, *self.devices}
        }
        tree.build(
            root,
            {"devices": devices, **self.host},
            configs={**({VM: self.config} if self.config else {}), **self.others},
            mapping=self.mapping,
            reservations=self.reservations,
            running=self.running,
        )
        for path, content in self.files.items():
            tree.put(root, path, content)
        self.change(str(root))
        return Host(str(root))
