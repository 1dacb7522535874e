# SPDX-License-Identifier: Apache-2.0
"""Rules on mediated devices: GVT-g, NVIDIA's vGPUs, instances that were left, PVP162 to PVP169."""

from __future__ import annotations

from pvepassthru.host.inventory import MDEVS
from pvepassthru.model.pci import vmid_of_uuid
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import listed, number, shown
from pvepassthru.rules import sources
from pvepassthru.rules.kernel import is_yes
from pvepassthru.rules.rule import NotApplicable, Unknown
from pvepassthru.rules.subject import Hit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.rules.subject import Surroundings

IGPU = "0000:00:02.0"
GVT = "i915-GVTg"
GVT_IDS = ("16", "19", "59", "5a8", "87c0", "87ca", "3e9", "3ea", "9b", "0a84", "1a84", "1a85")
"""How the device ids of the GPUs that GVT-g knows begin: Broadwell to Comet Lake. Source: Linux
drivers/gpu/drm/i915/intel_gvt.c (its list of platforms) and include/drm/intel/pciids.h."""
UNITS = "/etc/systemd/system"
UNIT_FILES = ("/usr/lib/systemd/system", "/lib/systemd/system", UNITS)
NVIDIA_UNITS = ("nvidia-vgpud.service", "nvidia-vgpu-mgr.service")


# ---- GVT-g


def _gvt_wanted(around: Surroundings) -> str:
    """Words for who wants GVT-g. Raises NotApplicable if nobody does."""
    types = [vmids for name, vmids in around.once(sources.wanted).types.items() if name.startswith(GVT)]
    if types:
        return sources.of_vms(tuple(sorted({vmid for vmids in types for vmid in vmids})))
    modules = around.once(sources.modules)
    option = modules.option("i915", "enable_gvt")
    if option and is_yes(option.value):
        return option.where
    one = modules.listed("kvmgt")
    if one:
        return one.where
    _ = sources.given(around)
    raise NotApplicable("nothing asks for GVT-g")


def gvt_generation(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether the processor's GPU is one that GVT-g knows, where something asks for it.

    It knows those of Intel's 5th to 7th generation, and their likes up to Comet Lake.

    Why it matters: other GPUs have no mediated devices of i915; VMs with `mdev=i915-GVTg_...` do not start.

    How to fix: from the 11th or 12th generation on use SR-IOV (`i915.max_vfs=7` with the driver that has it, or xe), or
    pass the whole GPU; remove i915.enable_gvt and kvmgt.
    """
    who = _gvt_wanted(around)
    vendor, device, *_ = sources.ids(around, IGPU)
    if vendor != "8086" or not device:
        raise Unknown(f"there is no Intel GPU at {IGPU}")
    if not device.startswith(GVT_IDS) and not around.inventory.has(IGPU, "mdev_supported_types"):
        message = f"{IGPU} ({vendor}:{device}) is no GPU that GVT-g knows, and {who} asks for it"
        hint = "newer GPUs of Intel have SR-IOV in its place; pass a virtual function, or the whole GPU"
        yield Hit(f"/sys/bus/pci/devices/{IGPU}", message, hint)


def _gvt_able(around: Surroundings) -> str:
    who = _gvt_wanted(around)
    if around.inventory.has(IGPU, "mdev_supported_types"):
        raise NotApplicable("GVT-g is on")
    if sources.ids(around, IGPU)[1][:4] and not sources.ids(around, IGPU)[1].startswith(GVT_IDS):
        raise NotApplicable("GVT-g does not know this GPU")
    return who


def gvt_off(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether i915 was loaded with enable_gvt=1, where something asks for GVT-g.

    Why it matters: without it the GPU has no mediated device types, and VMs that name one do not start.

    How to fix: `options i915 enable_gvt=1` in modprobe.d or `i915.enable_gvt=1` on the kernel's command line, in lower
    case; then `update-initramfs -u -k all`, and reboot.
    """
    modules = around.once(sources.modules)
    who = _gvt_wanted(around)
    value = modules.parameter("i915", "enable_gvt")
    if value is None:
        raise Unknown("i915 is not loaded, or does not show enable_gvt")
    if not is_yes(value):
        _ = _gvt_able(around)
        message = f"i915 was loaded without enable_gvt=1, and {who} asks for GVT-g"
        hint = "pvepassthru doctor --fix --gvt"
        yield Hit("/sys/module/i915/parameters/enable_gvt", message, hint)


def no_kvmgt(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether the module kvmgt is loaded, where something asks for GVT-g.

    Why it matters: without it the GPU has no mediated device types, and VMs that name one do not start.

    How to fix: `modprobe kvmgt`, and list kvmgt in /etc/modules-load.d/pvepassthru.conf for the next boot.
    """
    modules = around.once(sources.modules)
    who = _gvt_wanted(around)
    if modules.loaded is None:
        raise Unknown("there is no /sys/module")
    if not modules.is_loaded("kvmgt"):
        _ = _gvt_able(around)
        hint = "modprobe kvmgt; echo kvmgt >> /etc/modules-load.d/pvepassthru.conf"
        yield Hit("/sys/module/kvmgt", f"the module kvmgt is not loaded, and {who} asks for GVT-g", hint)


# ---- NVIDIA


def _vgpu_wanted(around: Surroundings) -> tuple[str, tuple[str, ...]]:
    """Words for the VMs that want an NVIDIA vGPU, and the PFs on NVIDIA's driver. Raises NotApplicable if none."""
    wanted = sources.given(around)
    types = [vmids for name, vmids in wanted.types.items() if name.startswith("nvidia-")]
    if not types:
        raise NotApplicable("no VM of this node has an NVIDIA vGPU")
    gpus = tuple(
        address
        for address in around.inventory.addresses()
        if around.inventory.driver(address) == "nvidia"
        and around.inventory.pci_class(address).startswith("03")
        and not around.inventory.physical_function(address)
    )
    if not gpus:
        raise NotApplicable("no GPU is on the driver nvidia")
    return sources.of_vms(tuple(sorted({vmid for vmids in types for vmid in vmids}))), gpus


def _has_vgpus(around: Surroundings, address: str) -> bool:
    has = around.inventory.has
    return has(address, "mdev_supported_types") or has(address, "nvidia") or has(address, "virtfn0")


def guest_driver(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether NVIDIA's driver on this host is the one with the vGPU manager, where VMs have vGPUs.

    Why it matters: the ordinary driver, and the one for guests, drive the GPU but offer no vGPU types, so such VMs do
    not start.

    How to fix: install NVIDIA's vGPU host driver (`*-vgpu-kvm.run`) of a branch that knows this kernel, and remove the
    other one.
    """
    who, gpus = _vgpu_wanted(around)
    if any(_has_vgpus(around, address) for address in gpus):
        return
    if any(number(around.inventory.attribute(address, "sriov_totalvfs")) for address in gpus):
        raise NotApplicable("the GPU's virtual functions are off, as PVP167 says")
    modules = around.once(sources.modules)
    if modules.loaded is None:
        raise Unknown("there is no /sys/module")
    if "nvidia_vgpu_vfio" not in modules.loaded:
        text = (around.host.text("/proc/driver/nvidia/version") or "").split("\n", 1)[0]
        said = f" ({shown(text)})" if text else ""
        message = f"the driver nvidia on {listed(gpus)} offers no vGPU{said}, and {who} is to have one"
        yield Hit("/sys/module/nvidia", message, "install NVIDIA's vGPU host driver (vgpu-kvm) for this kernel")


def nvidia_units(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether NVIDIA's services for vGPUs are enabled, where they are installed and VMs have vGPUs.

    Why it matters: without nvidia-vgpu-mgr a vGPU cannot be opened, and without nvidia-vgpud older drivers offer no
    types; VMs do not start.

    How to fix: `systemctl enable --now nvidia-vgpud nvidia-vgpu-mgr`.
    """
    who, _ = _vgpu_wanted(around)
    if not around.host.exists(UNITS):
        raise Unknown(f"there is no {UNITS}")
    wanted = {
        name
        for folder in around.host.names(UNITS)
        if folder.endswith((".wants", ".requires"))
        for name in around.host.names(f"{UNITS}/{folder}")
    }
    for unit in NVIDIA_UNITS:
        paths = [f"{folder}/{unit}" for folder in UNIT_FILES if around.host.exists(f"{folder}/{unit}")]
        runs = around.host.exists(f"/sys/fs/cgroup/system.slice/{unit}")
        if paths and unit not in wanted and not runs:
            yield Hit(paths[0], f"{unit} is not enabled, and {who} is to have a vGPU", f"systemctl enable --now {unit}")


def nvidia_vfs_off(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether the virtual functions of NVIDIA's GPUs that need them are on, where VMs have vGPUs.

    Why it matters: from Ampere on each vGPU is on a VF of its own; without VFs there are no types, and VMs do not
    start.

    How to fix: `/usr/lib/nvidia/sriov-manage -e ALL`, and at each boot `systemctl enable pve-nvidia-sriov@ALL.service`.
    VFs need SR-IOV and "Above 4G decoding" in the firmware.
    """
    who, gpus = _vgpu_wanted(around)
    for address in gpus:
        total = number(around.inventory.attribute(address, "sriov_totalvfs"))
        if total and around.inventory.attribute(address, "sriov_numvfs") == "0" and not _has_mdevs(around, address):
            message = f"{sources.named(around, address)} has none of its {total} VFs on, and {who} is to have a vGPU"
            hint = f"/usr/lib/nvidia/sriov-manage -e {address}; systemctl enable pve-nvidia-sriov@ALL.service"
            yield Hit(f"/sys/bus/pci/devices/{address}/sriov_numvfs", message, hint)


def _has_mdevs(around: Surroundings, address: str) -> bool:
    return around.inventory.has(address, "mdev_supported_types")


# ---- instances


def orphans(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether every mediated device with a UUID of PVE's belongs to a VM that runs.

    Why it matters: one that was left takes its share of the GPU, so other VMs may not start.

    How to fix: `pvepassthru recover VMID` where this tool made it, else `pvepassthru release VMID`; with
    `orphans: remove` in the policy the timer does that.
    """
    for made in _instances(around):
        owner = vmid_of_uuid(made)
        if owner is None or around.running(owner[1]) is not None:
            continue
        parent = around.inventory.mdev(made).parent
        message = f"the mediated device {made} on {parent or 'a device'} is VM {owner[1]}'s, which does not run"
        command = "recover" if around.guest(owner[1]) == "journal" else "release"
        yield Hit(f"{MDEVS}/{made}", message, f"pvepassthru {command} {owner[1]}")


def foreign(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether every mediated device is one of PVE's, by its UUID.

    Why it matters: others (mdevctl's, for instance) take their share of the GPU, and neither PVE nor this tool gives
    them back.

    How to fix: nothing, if they are meant; else stop what made them: `mdevctl list -d`.
    """
    others = [made for made in _instances(around) if vmid_of_uuid(made) is None]
    for made in others:
        parent = around.inventory.mdev(made).parent
        message = f"the mediated device {made} on {parent or 'a device'} was not made by PVE"
        yield Hit(f"{MDEVS}/{made}", message, "see what made it (mdevctl list -d), if it is not meant")


def _instances(around: Surroundings) -> list[str]:
    if not around.host.exists(MDEVS):
        raise NotApplicable("no module for mediated devices is loaded")
    return around.host.names(MDEVS)
