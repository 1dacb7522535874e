# SPDX-License-Identifier: Apache-2.0
"""Rules on IOMMU groups and on the host's GPUs, PVP149 to PVP155."""

from __future__ import annotations

from pvepassthru.host.inventory import DEVICES
from pvepassthru.model.pci import is_address, slot
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import listed
from pvepassthru.rules import sources
from pvepassthru.rules.drivers import APPLY
from pvepassthru.rules.rule import NotApplicable, Unknown
from pvepassthru.rules.subject import Hit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.rules.subject import Subject, Surroundings

GROUPS = "/sys/kernel/iommu_groups"


def groups(around: Surroundings) -> dict[int, tuple[str, ...]]:
    """The functions of each IOMMU group, sorted."""
    found: dict[int, list[str]] = {}
    for address in around.inventory.addresses():
        group = around.inventory.group(address)
        if group is not None:
            found.setdefault(group, []).append(address)
    return {group: tuple(found[group]) for group in sorted(found)}


def _need_groups(around: Surroundings) -> dict[int, tuple[str, ...]]:
    found = around.once(groups)
    if not found:
        if around.inventory.iommu_present() is False:
            raise NotApplicable("the kernel drives no IOMMU")
        raise Unknown("no function is in an IOMMU group")
    return found


def shared_group(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether the devices that people pass through have IOMMU groups of their own.

    A device's own functions, root ports and bridges are no strangers in its group.

    Why it matters: the devices of a group go to one VM together: PVE takes all of them from the host.

    How to fix: move the card to a slot below a root port with a group of its own, as the hint lists; look for "ACS" in
    the firmware's setup, or update it. `pvepassthru devices --groups` shows all groups.
    """
    for group, members in _need_groups(around).items():
        devices = [address for address in members if not around.inventory.is_bridge(address)]
        candidates = [address for address in devices if sources.is_candidate(around, address)]
        if candidates and len({_device(around, address) for address in devices}) > 1:
            words = listed([sources.named(around, address) for address in devices], 8)
            message = f"IOMMU group {group} holds several devices, which can only be passed together: {words}"
            yield Hit(f"{GROUPS}/{group}", message, _slots(around, devices))


def _device(around: Surroundings, address: str) -> str:
    """What tells one device from another: its slot; that of the PF for a VF."""
    return slot(around.inventory.physical_function(address) or address)


def free_ports(around: Surroundings) -> dict[str, str]:
    """The root ports with IOMMU groups of their own, each with words for it and what is below."""
    found = {}
    for address in around.inventory.addresses():
        if not around.inventory.has(address, "pci_bus") or not _at_root(around, address):
            continue
        names = [name for name in around.host.names(f"{DEVICES}/{address}") if is_address(name)]
        if all(member == address or member in names for member in around.inventory.group_members(address)):
            found[address] = f"{address} ({listed(names, 2) or 'nothing below'})"
    return found


def _slots(around: Surroundings, devices: list[str]) -> str:
    """Words for the root ports below which a card would have a group of its own, other than those of these devices."""
    paths = [around.host.resolve(f"{DEVICES}/{address}") or "" for address in devices]
    ports = around.once(free_ports).items()
    found = [words for port, words in ports if not any(f"/{port}/" in path for path in paths)]
    if not found:
        return "see whether the firmware has a setting for ACS; no other root port has a group of its own"
    return f"move the card to another slot; these root ports have groups of their own: {listed(found, 8)}"


def _at_root(around: Surroundings, address: str) -> bool:
    """Whether a bridge stands on a root bus: its folder lies in that of a host bridge (pci0000:00)."""
    real = around.host.resolve(f"{DEVICES}/{address}") or ""
    return real.rsplit("/", 2)[-2:-1] == [f"pci{address.rpartition(':')[0]}"]


def vf_groups(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether virtual functions are in IOMMU groups of their own.

    Why it matters: a VF that shares the group of its PF, or of other VFs, cannot be passed alone: PVE would take the PF
    from its driver, and with it all VFs.

    How to fix: enable ACS (and ARI) in the firmware, update it, or use another slot.
    """
    vfs = [address for address in around.inventory.addresses() if around.inventory.physical_function(address)]
    if not vfs:
        raise NotApplicable("there is no virtual function")
    for group, members in _need_groups(around).items():
        here = [address for address in members if address in vfs]
        others = [address for address in members if address not in vfs and not around.inventory.is_bridge(address)]
        if here and len(here) + len(others) > 1:
            message = f"IOMMU group {group} holds {listed(here, 4)} with {listed([*others, *here[1:]], 4)}"
            yield Hit(
                f"{GROUPS}/{group}",
                message,
                "see whether the firmware has settings for ACS and ARI, or use another slot",
            )


# ---- memory that the firmware keeps for itself


def firmware_memory(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the firmware leaves the memory of a device that a VM gets to the kernel (RMRR).

    Why it matters: a device with such a region, marked `direct` in its group's reserved_regions, has to keep its
    mapping, so the kernel refuses to give it to a VM: QEMU does not start. Some servers mark their RAID and network
    cards so, for their management controller.

    How to fix: look for the vendor's tool or setting that excludes the slot (HPE: "RMRDS", "Shared Memory"), or update
    the firmware; else pass another device.
    """
    for device in subject.resolution.passed:
        if device.bound_to_vfio:
            bound = [address for address in device.addresses if _is_kept(subject.around, address)]
            for address in bound[:1]:
                yield Hit(subject.at(device.entry.key, device.entry.line), _kept_words(address), _KEPT_HINT)


def host_firmware_memory(around: Surroundings) -> Iterator[Hit]:
    """Whether the firmware leaves the memory of the devices that VMs get to the kernel."""
    _need_groups(around)
    wanted = sources.given(around).whole
    _need_regions(around)
    if not wanted:
        raise NotApplicable("no VM of this node is given a device")
    for address in sorted(wanted):
        if _is_kept(around, address):
            message = f"{_kept_words(address)} ({sources.of_vms(wanted[address])})"
            yield Hit(f"{GROUPS}/{around.inventory.group(address)}/reserved_regions", message, _KEPT_HINT)


def kept_candidates(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether the firmware keeps memory of a device that is given to no VM yet (RMRR).

    Why it matters: the kernel would refuse to give that device to a VM.

    How to fix: nothing, as long as no VM is to have it; else as `pvepassthru explain PVP151` says.
    """
    wanted = sources.given(around).whole
    _need_regions(around)
    found = [
        address
        for members in _need_groups(around).values()
        for address in members
        if address not in wanted and sources.is_candidate(around, address) and _is_kept(around, address)
    ]
    for address in sorted(found):
        where = f"{GROUPS}/{around.inventory.group(address)}/reserved_regions"
        message = f"{sources.named(around, address)} cannot be passed through: the firmware keeps memory of it (RMRR)"
        yield Hit(where, message, "pvepassthru explain PVP151 tells what can be done")


def _need_regions(around: Surroundings) -> None:
    if not any(around.host.exists(f"{GROUPS}/{group}/reserved_regions") for group in _need_groups(around)):
        raise Unknown(f"no group in {GROUPS} tells its reserved_regions")


_KEPT_HINT = "look for a setting of the vendor that excludes the slot, update the firmware, or pass another device"


def _kept_words(address: str) -> str:
    why = "the firmware keeps memory of it (RMRR: direct in reserved_regions)"
    return f"the kernel refuses to give {address} to a VM: {why}"


def _is_kept(around: Surroundings, address: str) -> bool:
    """Whether the kernel refuses a device for such a region: Intel's driver always, from 6.6 on for every IOMMU."""
    found = around.once(sources.firmware)
    if found.iommu != "Intel" and found.older_than(6, 6) is not False:
        return False
    group = around.inventory.group(address)
    text = around.host.text(f"{GROUPS}/{group}/reserved_regions") if group is not None else None
    return any(line.split()[2:3] == ["direct"] for line in (text or "").splitlines())


# ---- GPUs


def only_gpu(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether the host keeps a GPU for its own console beside those that VMs are given.

    Why it matters: when the only one goes to a VM, the host's console is gone, also after the VM's stop; and the GPU
    was initialised by the firmware, so it may need a ROM file (`romfile=`).

    How to fix: have SSH, or a serial or IPMI console, before the VM is started; or let the firmware boot with another
    GPU.
    """
    gpus = [
        address for address in around.inventory.addresses() if around.inventory.pci_class(address).startswith("0300")
    ]
    if not gpus:
        raise NotApplicable("there is no VGA device")
    wanted = sources.given(around).whole
    boot = [address for address in gpus if around.inventory.attribute(address, "boot_vga") == "1"]
    if len(boot) == 1 and boot[0] in wanted and all(address in wanted for address in gpus):
        message = (
            f"{sources.named(around, boot[0])} shows the host's console, and {sources.of_vms(wanted[boot[0]])} gets it"
        )
        yield Hit(f"{DEVICES}/{boot[0]}/boot_vga", message, "see that SSH, a serial or IPMI console reaches the host")


def two_drivers(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether only one of the drivers nouveau and nvidia is loaded.

    Why it matters: both want the same GPUs; which one gets them changes from boot to boot, and vGPUs need nvidia.

    How to fix: `blacklist nouveau` in /etc/modprobe.d, then `update-initramfs -u -k all`, and reboot.
    """
    modules = around.once(sources.modules)
    if modules.loaded is None:
        raise Unknown("there is no /sys/module")
    if not modules.loaded & {"nouveau", "nvidia"}:
        raise NotApplicable("no driver for NVIDIA is loaded")
    if {"nouveau", "nvidia"} <= modules.loaded:
        message = "both nouveau and nvidia are loaded, and want the same GPUs"
        hint = f"echo 'blacklist nouveau' >> /etc/modprobe.d/nouveau.conf; {APPLY}"
        yield Hit("/sys/module/nouveau", message, hint)
