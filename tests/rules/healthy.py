# SPDX-License-Identifier: Apache-2.0
"""Two PVE hosts with which nothing is wrong, one of Intel's and one of AMD's, as files of a tree."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from tests import tree
from tests.rules.example import Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

RELEASE = "6.8.12-4-pve"
DEP = f"lib/modules/{RELEASE}/modules.dep"
GRUB = "etc/default/grub"
CMDLINE = "proc/cmdline"
MODPROBE = "etc/modprobe.d/pvepassthru.conf"
ROOT = "root=/dev/mapper/pve-root ro"
MODULES = ("vfio", "vfio_iommu_type1", "vfio_pci", "kvm", "nouveau", "nvme")
INTERRUPTS = "  0:    36    IR-IO-APIC   2-edge    timer\n 31:     5    IR-PCI-MSIX-0000:02:00.0   0-edge    nvme0q0\n"
PORT = "sys/devices/pci0000:00/0000:00:01.0"


def cpu(vendor: str, flags: str) -> str:
    return "".join(f"processor\t: {n}\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags}\n\n" for n in range(2))


def grub(parameters: str) -> str:
    return f'GRUB_DEFAULT=0\nGRUB_CMDLINE_LINUX_DEFAULT="{parameters}"\nGRUB_CMDLINE_LINUX=""\n'


def booted(parameters: str, configured: str | None = None) -> dict[str, str | bytes]:
    """The files of a host that GRUB booted with these parameters, and that is configured so too."""
    return {
        CMDLINE: f"BOOT_IMAGE=/boot/vmlinuz-{RELEASE} {ROOT} {parameters}\n",
        GRUB: grub(parameters if configured is None else configured),
    }


INTEL: dict[str, str | bytes] = {
    **booted("quiet iommu=pt"),
    "proc/cpuinfo": cpu("GenuineIntel", "vmx ept"),
    "proc/interrupts": INTERRUPTS,
    "proc/stat": "cpu  1 2 3\nbtime 4000000000\n",
    "proc/iomem": "00000000-00000fff : Reserved\n",
    "proc/fb": "0 i915drmfb\n",
    "proc/sys/kernel/osrelease": f"{RELEASE}\n",
    "sys/class/misc/kvm/dev": "10:232\n",
    "sys/firmware/acpi/tables/FACP": "",
    "sys/firmware/acpi/tables/DMAR": "",
    "sys/class/iommu/dmar0/intel-iommu/ecap": "f020df\n",
    "sys/kernel/security/lockdown": "[none] integrity confidentiality\n",
    "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts": "N\n",
    "sys/module/vfio/parameters/enable_unsafe_noiommu_mode": "N\n",
    "sys/module/vfio_pci/refcnt": "0\n",
    "sys/module/nvme/refcnt": "4\n",
    "sys/kernel/iommu_groups/4/reserved_regions": "0x00000000fee00000 0x00000000feefffff msi\n",
    "etc/modprobe.d/pve-blacklist.conf": "# graphics\nblacklist nvidiafb\n",
    "etc/modules": "# /etc/modules\nvfio\nvfio_iommu_type1\nvfio_pci\n",
    "etc/network/interfaces": "auto lo\niface lo inet loopback\n",
    f"boot/vmlinuz-{RELEASE}": "",
    f"boot/initrd.img-{RELEASE}": "",
    DEP: "".join(f"kernel/drivers/{name}/{name.replace('_', '-')}.ko:\n" for name in MODULES)
    + "kernel/drivers/net/ethernet/intel/igb/igb.ko: kernel/drivers/i2c/i2c-algo-bit.ko\n",
    f"lib/modules/{RELEASE}/modules.builtin": "kernel/fs/ext4/ext4.ko\n",
    "var/lib/pve-cluster/config.db": "",
    "etc/systemd/system/multi-user.target.wants/ssh.service": "",
}
AMD: dict[str, str | bytes] = {
    **{path: text for path, text in INTEL.items() if "DMAR" not in path and "dmar0" not in path},
    "proc/cpuinfo": cpu("AuthenticAMD", "svm npt"),
    "sys/firmware/acpi/tables/IVRS": "",
    "sys/class/iommu/ivhd0/amd-iommu/features": "25bf732fa2295afe:1d\n",
}


def without(files: Mapping[str, str | bytes], *paths: str) -> dict[str, str | bytes]:
    return {path: text for path, text in files.items() if not path.startswith(paths)}


def host(  # noqa: PLR0913 - what differs, each by keyword
    files: Mapping[str, str | bytes] | None = None,
    *,
    base: Mapping[str, str | bytes] = INTEL,
    config: str = "",
    devices: dict[str, dict[str, Any]] | None = None,
    mapping: str | None = None,
    reservations: str | None = None,
    running: dict[int, int] | None = None,
    iommu: bool = True,
    newer: Iterable[str] = (),
    change: Callable[[str], object] | None = None,
) -> Tree:
    """A healthy host but for these files; those of `newer` were changed after the initramfs was made."""

    def finish(root: str) -> None:
        now = time.time()
        for path in files or ():
            if path.startswith("etc/"):
                os.utime(os.path.join(root, path), (now - 500, now - 500))
        for path in newer:
            os.utime(os.path.join(root, path), (now + 500, now + 500))
        if change:
            change(root)

    return Tree(
        config,
        devices or {},
        {"iommu": iommu and not any("ivhd0" in path for path in base)},
        mapping,
        reservations,
        running or {},
        files={**base, **(files or {})},
        change=finish,
    )


def remove(path: str) -> Callable[[str], object]:
    """Take a file away."""
    return lambda root: os.unlink(os.path.join(root, path))


def both(*changes: Callable[[str], object]) -> Callable[[str], object]:
    def all_of_them(root: str) -> None:
        for one in changes:
            one(root)

    return all_of_them


def link(path: str, target: str) -> Callable[[str], object]:
    return lambda root: tree.link(root, path, target)
