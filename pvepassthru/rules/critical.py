# SPDX-License-Identifier: Apache-2.0
"""Rules that save the host, PVP240 to PVP259: what it uses itself of the devices that PVE would take from it.

That is each function passed whole and the rest of its IOMMU group but bridges. A mediated device or vGPU leaves its
parent with the host, and driver=keep every function; such VMs do not even load what reads the host's uses.
"""

from __future__ import annotations

import errno
import os

from pvepassthru.host.inventory import DEVICES
from pvepassthru.model import pci
from pvepassthru.model.errors import PassthruError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import listed
from pvepassthru.rules.subject import Hit, chosen, group_mates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.host.uses import Kind, Use
    from pvepassthru.model.passed import Passed
    from pvepassthru.rules.subject import Subject

_WAY_OUT = "pass another device, or move this one to a slot with an IOMMU group of its own"

_UNMOUNT = "unmount it if the host does not need it"
_NEEDED = ("/", "/boot", "/boot/efi", "/efi", "/etc/pve", "/usr", "/var", "/var/lib", "/var/log")
"""Where file systems are mounted that no running host lets go of."""


class _Taken(NamedTuple):
    """A function that PVE would take from its driver for this VM."""

    device: Passed
    address: str
    words: str
    """The address; of a group mate with what it shares its group with."""


def mounted(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a file system is mounted from a device that PVE would bind to vfio-pci.

    Every function of its IOMMU group counts as well, and what lies between: partitions, LVM, dm-crypt, md, multipath.

    Why it matters: the disk is gone at once for the host; with / or /etc/pve on it the node goes down.

    How to fix: pass another device, or unmount the file system first when the host does not need it (and see that
    /etc/fstab does not mount it again).
    """
    for taken, details in _told(subject, "mount"):
        points = details.replace(" (", ",").replace(";", ",") + ","
        needed = any(f" is mounted on {point}," in points for point in _NEEDED)
        hint = f"the host cannot do without it: {_WAY_OUT}" if needed else f"{_UNMOUNT}; else {_WAY_OUT}"
        yield _hit(subject, taken, f"PVE would take {taken.words} from the host: {details}", hint)


def swapped(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a device that PVE would bind to vfio-pci, or one of its IOMMU group, has swap in use.

    Why it matters: processes of the host whose memory lies there are killed.

    How to fix: `swapoff` it and remove it from /etc/fstab, or pass another device.
    """
    return _uses(subject, "swap", f"swapoff it if the host does not need it; else {_WAY_OUT}")


def volumes(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a device that PVE would bind to vfio-pci, or one of its IOMMU group, has LVM volumes.

    Active ones, that is: those that the kernel has made device-mapper devices of.

    Why it matters: host and guests lose the disks that lie there. LVM activates the volumes of a guest's own disk, too,
    and would go on writing to it.

    How to fix: pass another device. If the volume group is a guest's, `vgchange -an GROUP`, and let LVM pass over the
    disk with `global_filter` in /etc/lvm/lvm.conf.
    """
    return _uses(subject, "lvm", f"if they are a guest's, deactivate them (vgchange -an); else {_WAY_OUT}")


def pools(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a device that PVE would bind to vfio-pci, or one of its IOMMU group, has a ZFS pool.

    An imported one, that is. A pool that the host has not imported may be the guest's, and is none of its business.

    Why it matters: the pool loses the disk, and every process that writes to it hangs when it was one too many.

    How to fix: pass another device, or `zpool export POOL` when it is the guest's.
    """
    return _uses(subject, "zfs", f"zpool export it if it is a guest's; else {_WAY_OUT}")


def arrays(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a device that PVE would bind to vfio-pci, or one of its IOMMU group, has an md array.

    A running one, that is.

    Why it matters: the array loses the disk, and all that lies on it when it was one too many.

    How to fix: pass another device, or `mdadm --stop /dev/mdN` when the array is a guest's.
    """
    return _uses(subject, "md", f"mdadm --stop it if it is a guest's; else {_WAY_OUT}")


def default_route(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a device that PVE would bind to vfio-pci, or one of its group, has the default route.

    Bridges, bonds and VLANs on top of it are followed.

    Why it matters: the node drops off the network: nobody can reach it, and with HA it is fenced.

    How to fix: pass another network card, or a virtual function of this one.
    """
    return _uses(subject, "route", f"give the host another network card first, or {_WAY_OUT}")


def bridge_port(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a device that PVE would bind to vfio-pci, or one of its IOMMU group, is a bridge's port.

    Of a Linux bridge, directly or by a bond or VLAN, or of Open vSwitch.

    Why it matters: every VM and container on that bridge loses the network, and the host as well if it has its address
    there.

    How to fix: take the interface out of /etc/network/interfaces and run `ifreload -a`, or pass another one.
    """
    return _uses(subject, "bridge", f"take it out of the bridge first, or {_WAY_OUT}")


def cannot_tell(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether it can be told what the host uses a device for that PVE would bind to vfio-pci.

    Why it matters: the disk or network that the host lives on could be among it, so the start is refused.

    How to fix: see what is wrong with the file that the message names, and the kernel log; a disk that does not answer
    within seconds is one such thing.
    """
    for taken, details in _told(subject, "doubt"):
        message = f"cannot tell whether the host itself uses {taken.words}: {details}"
        yield _hit(subject, taken, message, "see what is wrong with that file, and the kernel log")


def functions_in_use(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a PF that PVE would bind to vfio-pci has virtual functions in use.

    By another VM, by a process through VFIO, with a vGPU type or a mediated device, as the host's own disk or network,
    or by this VM itself.

    Why it matters: they go with the driver of their PF, under whoever uses them, or the bind fails on their account.

    How to fix: stop the VMs that use them, or pass one of the VFs and leave the PF to the host.
    """
    for taken in _taken(subject):
        words = [f"{vf}: {why}" for vf in _vfs(subject, taken.address) for why in _vf_uses(subject, vf)]
        if words:
            message = f"the virtual functions of {taken.words} are in use ({listed(words, 4)})"
            yield _hit(subject, taken, message, "stop what uses them, or pass a VF and leave the PF to the host")


# ---- warnings


def functions_vanish(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a PF that PVE would bind to vfio-pci has virtual functions, none of them in use.

    Why it matters: most drivers remove them when they let go of the PF, and a VM or mapping that names them finds none.

    How to fix: pass one of the VFs instead, or `echo 0 > /sys/bus/pci/devices/PF/sriov_numvfs` before.
    """
    for taken in _taken(subject):
        vfs = _vfs(subject, taken.address)
        if vfs and not any(_vf_uses(subject, vf) for vf in vfs):
            path = f"{DEVICES}/{taken.address}/sriov_numvfs"
            message = f"{taken.words} has {len(vfs)} virtual functions, which go with its driver"
            yield _hit(subject, taken, message, f"pass one of them instead, or: echo 0 > {path}")


def mdevs_vanish(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a device that PVE would bind to vfio-pci has mediated devices of somebody else.

    Those whose UUID PVE has not given to a VM, and that no process has open.

    Why it matters: they go with the device's driver; whoever made them finds them gone.

    How to fix: see who made them (`mdevctl list`), or pass another device.
    """
    if not subject.around.has_mdevs:
        return
    for taken in _taken(subject):
        uuids = [uuid for uuid in subject.inventory.mdevs_of(taken.address) if pci.vmid_of_uuid(uuid) is None]
        if uuids and not _is_open(subject, taken.address):
            message = f"mediated devices on {taken.words} go with its driver: {listed(uuids, 4)}"
            yield _hit(subject, taken, message, "see who made them (mdevctl list), or pass another device")


def members(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a disk that PVE would take from the host is a member of LVM or md that nothing uses.

    Or is open as a device of dm-crypt, multipath or bcache that nothing uses.

    Why it matters: it may be the host's own, just not in use now. It may as well be the guest's: then all is well.

    How to fix: nothing, when the disk is the guest's; `lsblk -f` shows what is on it. To let the host pass it over,
    use `global_filter` in /etc/lvm/lvm.conf, ARRAY lines in /etc/mdadm/mdadm.conf, or blacklist in /etc/multipath.conf.
    """
    for kind in ("lvm label", "md label", "held"):
        yield from _uses(subject, kind, "see that it is the guest's and not the host's: lsblk -f")


def networks(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the host has an address on an interface that PVE would take from it.

    Why it matters: storage, cluster or migration traffic that goes there ends.

    How to fix: remove the interface from /etc/network/interfaces, or pass another one.
    """
    return _uses(subject, "network", "take the interface out of /etc/network/interfaces if the host does not need it")


# ---- what PVE would take


def _taken(subject: Subject) -> list[_Taken]:
    return subject.around.of(subject, _find_taken)


def _find_taken(subject: Subject) -> list[_Taken]:
    """The functions that PVE would take from the host, each once: those passed whole, then those of their groups."""
    found: dict[str, _Taken] = {}
    bound = [(device, functions) for device, functions in chosen(subject) if functions and device.bound_to_vfio]
    for device, functions in bound:
        for address in functions:
            found.setdefault(address, _Taken(device, address, address))
    for device, functions in bound:
        for mate in group_mates(subject, functions):
            first = next(address for address in functions if mate in subject.inventory.group_members(address))
            words = f"{mate} (in IOMMU group {subject.inventory.group(first)} with {first}, which is passed)"
            found.setdefault(mate, _Taken(device, mate, words))
    return list(found.values())


def _told(subject: Subject, kind: Kind) -> Iterator[tuple[_Taken, str]]:
    """The functions that the host has such a use for, each with words for it."""
    for taken, uses in subject.around.of(subject, _find_uses):
        details = [use.detail for use in uses if use.kind == kind and not (kind == "doubt" and _for_root(subject, use))]
        if details:
            yield taken, listed(details, 4)


def _find_uses(subject: Subject) -> list[tuple[_Taken, tuple[Use, ...]]]:
    """The functions that PVE would take and the host uses, with all that it uses them for."""
    return [(taken, uses) for taken in _taken(subject) if (uses := subject.around.uses.of(taken.address))]


def _uses(subject: Subject, kind: Kind, hint: str) -> Iterator[Hit]:
    for taken, details in _told(subject, kind):
        yield _hit(subject, taken, f"PVE would take {taken.words} from the host: {details}", hint)


def _for_root(subject: Subject, use: Use) -> bool:
    """Whether a file cannot be read for want of rights alone, which the hook, as root, has; hosts.unreadable tells."""
    host = subject.around.uses.host
    return host.unreadable.get(use.name) in {errno.EACCES, errno.EPERM} and os.geteuid() != 0


def _vfs(subject: Subject, address: str) -> list[str]:
    """The virtual functions of a function by number; none of one that vfio-pci has already, and so keeps."""
    if not subject.inventory.has(address, "sriov_numvfs"):
        return []
    if subject.inventory.driver(address) == "vfio-pci":
        return []
    return list(subject.inventory.virtual_functions(address))


def _vf_uses(subject: Subject, vf: str) -> list[str]:
    """What a virtual function is used for, in words."""
    held = [who for _, who in subject.held([vf])]
    if held:
        return held
    if any(vf in functions for _, functions in chosen(subject)):
        return ["this VM gets it, too"]
    if _is_open(subject, vf):
        return ["a process has it open"]
    if subject.inventory.vgpu_current(vf) not in {None, "0"}:
        return [f"has vGPU type {subject.inventory.vgpu_current(vf)}"]
    if subject.inventory.mdevs_of(vf):
        return ["has mediated devices"]
    return [use.detail for use in subject.around.uses.critical(vf)]


def _is_open(subject: Subject, address: str) -> bool:
    try:
        return any(node in subject.around.opened for node, _ in subject.around.nodes(address))
    except PassthruError:
        subject.host.names("/proc")  # notes why it cannot be read: hosts.unreadable tells
        return False


def _hit(subject: Subject, taken: _Taken, message: str, hint: str) -> Hit:
    entry = taken.device.entry
    return Hit(subject.at(entry.key, entry.line), message, hint)
