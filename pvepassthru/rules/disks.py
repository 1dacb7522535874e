# SPDX-License-Identifier: Apache-2.0
"""Rules on disks that lie on a controller which a VM gets whole."""

from __future__ import annotations

from pvepassthru.host import vms
from pvepassthru.model import pci
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import listed, shown
from pvepassthru.rules.gpus import class_of, whole
from pvepassthru.rules.subject import Hit, group_mates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.host.host import Host
    from pvepassthru.model.vmconfig import Section
    from pvepassthru.rules.subject import Subject, Surroundings

_STORAGE = 0x01
_USB = 0x0C03
DISKS = (
    *(
        f"{bus}{index}"
        for bus, most in (("ide", 4), ("sata", 6), ("scsi", 31), ("virtio", 16))
        for index in range(most)
    ),
    "efidisk0",
    "tpmstate0",
)
"""The keys of a VM config that name disks."""


def disk_below(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a disk of the VM lies on a controller that the VM gets by hostpci.

    Asked of disks that the config names by a path in /dev.

    Why it matters: the controller takes the disk with it, so QEMU cannot open it and the start fails.

    How to fix: remove the disk's line; the guest sees the disk on the passed controller.
    """
    passed = {address for device, functions in whole(subject) if device.bound_to_vfio for address in functions}
    for key, volume in _named(subject.section) if passed else ():
        above = controller(subject.host, volume)
        if above in passed:
            message = f"{key} is {shown(volume)}, on {above}, a controller that the VM gets whole"
            yield Hit(subject.at(key, subject.section.line(key)), message, f"remove {key}")


def _named(section: Section) -> Iterator[tuple[str, str]]:
    """The disks that a config names by a path in /dev: key and path. Few VMs have many of the keys, or such a disk."""
    for key in DISKS:
        if key in section.values and (volume := raw_disk(section.get(key))):
            yield key, volume


def raw_disk(text: str | None) -> str | None:
    """The path in /dev that the value of a disk's key names; None when it names something else."""
    for place, part in enumerate((text or "").split(",")):
        if part.startswith("file=") or (place == 0 and "=" not in part):
            volume = part.removeprefix("file=")
            return volume if volume.startswith("/dev/") else None
    return None


def controller(host: Host, volume: str) -> str | None:
    """The PCI function that a disk lies on, by its path in /dev; None when it lies on none, or is not there."""
    real = volume if volume.count("/") == 2 else host.resolve(volume) or volume
    above = functions_in(host.resolve(f"/sys/class/block/{real.rpartition('/')[2]}"))
    return above[-1] if above else None


def functions_in(path: str | None) -> list[str]:
    """The PCI functions that a device's path in /sys goes through."""
    return [part for part in (path or "").split("/") if pci.is_address(part)]


def disk_of_another(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a disk of another VM lies on a controller that PVE would bind to vfio-pci for this VM.

    Asked of disks that the other VM's config names by a path in /dev. Every function of the controller's IOMMU group
    counts as well.

    Why it matters: the controller takes the disk with it, away from the other VM if that runs; and while this VM runs,
    the other one does not start.

    How to fix: give the other VM another disk, or pass another controller.
    """
    for device, functions in whole(subject):
        mates = group_mates(subject, functions) if device.bound_to_vfio else []
        for address in (*functions, *mates) if device.bound_to_vfio else ():
            kind = class_of(subject, address)
            if kind is not None and kind >> 8 != _STORAGE and kind != _USB:
                continue
            disks = [disk for disk in subject.around.once(raw_disks).get(address, ()) if disk.vmid != subject.vmid]
            if disks:
                words = listed(f"VM {disk.vmid} ({disk.key}: {shown(disk.volume)})" for disk in disks)
                taken = address if address in functions else f"{address}, of the same IOMMU group,"
                message = f"{taken} has a disk of {words}, which goes away when this VM starts"
                hint = f"give VM {listed(dict.fromkeys(disk.vmid for disk in disks))} another disk"
                where = subject.at(device.entry.key, device.entry.line)
                yield Hit(where, message, f"{hint}, or pass another controller")


class RawDisk(NamedTuple):
    """A disk of a VM that its config names by a path in /dev."""

    vmid: int
    key: str
    volume: str


def raw_disks(around: Surroundings) -> dict[str, tuple[RawDisk, ...]]:
    """Such disks of all VMs of this node but templates, by the PCI function they lie on; ask through `around.once`."""
    found: dict[str, list[RawDisk]] = {}
    for vmid in vms.vmids(around.host):
        path = vms.config_path(vmid)
        try:
            data = around.host.read(path)
        except OSError:  # demand.demand notes it
            continue
        config = around.config(path, data) if b"/dev/" in data else None
        if config is None or config.template:
            continue
        for key, volume in _named(config.effective()):
            above = controller(around.host, volume)
            if above:
                found.setdefault(above, []).append(RawDisk(vmid, key, volume))
    return {address: tuple(disks) for address, disks in found.items()}
