# SPDX-License-Identifier: Apache-2.0
"""What the drivers of physical functions do about SR-IOV, and what each needs, as far as it differs.

Sources: Linux drivers/net/ethernet (intel/ixgbe/ixgbe_sriov.h, intel/igb/e1000_defines.h and igb_main.c,
intel/ice/ice.h, broadcom/bnxt/bnxt_sriov.c), NVIDIA's documents on firmware of ConnectX and on vGPU, and the
documents of the out-of-tree i915 and of xe. What is said of nvidia, i915 and xe could not be measured.
"""

from __future__ import annotations

from pvepassthru.model.record import NamedTuple


class SriovDriver(NamedTuple):
    """One driver of physical functions."""

    vf_driver: str | None = None
    """The host's own driver of the VFs."""
    most: int | None = None
    """The most VFs a PF that the driver makes, whatever the card says; None: what the card says."""
    parameter: str | None = None
    """The module parameter for the number of VFs."""
    parameter_creates: bool = False
    """Whether that makes them when the driver is loaded; else it is only the most."""
    must_be_up: bool = False
    """Whether the PF's network interface must be up: a driver makes none otherwise, and says that all went well."""
    resets_link: bool = False
    """Whether a change of the number resets the PF, so that its link is down for some seconds."""
    mac_at_bind: bool = False
    """Whether a VF takes an administrative MAC only when its driver binds it."""
    manager: str | None = None
    """The program that makes the VFs where a write to sriov_numvfs is refused."""
    notes: tuple[str, ...] = ()
    """For people."""


NVIDIA_MANAGER = "/usr/lib/nvidia/sriov-manage"
USUAL = SriovDriver()
"""A driver of which nothing special is known."""
DRIVERS: dict[str, SriovDriver] = {
    "igb": SriovDriver("igbvf", 7, "max_vfs", parameter_creates=True, resets_link=True),
    "ixgbe": SriovDriver(
        "ixgbevf",
        63,
        "max_vfs",
        parameter_creates=True,
        resets_link=True,
        notes=("with traffic classes (DCB) at most 31 or 32 VFs for four classes, 15 or 16 for eight",),
    ),
    "i40e": SriovDriver(
        "iavf",
        resets_link=True,
        notes=(
            "a VF without an administrative MAC gets a random one at each start of its guest",
            "a guest that sets another MAC than the administrative one is refused unless the VF is trusted",
            "a VF that is not trusted has a limit of MAC filters, so bridges in its guest may lose packets",
            "now and then not all VFs appear: they are counted",
        ),
    ),
    "ice": SriovDriver("iavf", 256, notes=("each VF gets up to 16 queues, fewer the more VFs there are",)),
    "mlx5_core": SriovDriver(
        "mlx5_core",
        mac_at_bind=True,
        notes=(
            "its firmware says how many: mstconfig -d ADDRESS set SRIOV_EN=1 NUM_OF_VFS=N, then a reboot",
            "a MAC counts from the next time on that the VF is bound to a driver: sriov apply binds a free VF anew",
            "for migration of a VF: driver mlx5_vfio_pci, and driver=keep in the hostpci entry",
        ),
    ),
    "bnxt_en": SriovDriver(
        "bnxt_en", must_be_up=True, notes=("with the interface down it makes no VF and reports no error",)
    ),
    "nvidia": SriovDriver(
        "nvidia",
        manager=NVIDIA_MANAGER,
        notes=(
            "VFs are made by sriov-manage, all at once; a write to sriov_numvfs is refused",
            "a mixed-size mode of the GPU has to be set after that, since it is cleared by it",
            "the first VF is often function 4",
        ),
    ),
    "i915": SriovDriver(
        "i915",
        7,
        "max_vfs",
        notes=(
            "needs the out-of-tree i915 and intel_iommu=on i915.enable_guc=3 i915.max_vfs=7 module_blacklist=xe",
            "never pass the PF 0000:00:02.0 itself: its VFs have the same device id",
        ),
    ),
    "xe": SriovDriver(
        "xe", None, "max_vfs", notes=("needs xe.max_vfs=7 xe.force_probe=ID module_blacklist=i915 on older kernels",)
    ),
}
NO_ROOM = (
    "enable SR-IOV and Above 4G Decoding (and Resizable BAR, if there is one) in the firmware, or boot with "
    "pci=realloc; the kernel log says which BAR found no room"
)
"""What to do about ENOMEM."""


def of(driver: str | None) -> SriovDriver:
    """What is known of a driver of physical functions."""
    return DRIVERS.get(driver or "", USUAL)
