# SPDX-License-Identifier: Apache-2.0
"""Rules on the host, PVP1xx."""

from __future__ import annotations

import errno
import os

from pvepassthru.host import policy, reservations
from pvepassthru.host.inventory import DEVICES, MDEVS
from pvepassthru.model.errors import InputError, UnsafeError
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.rules.subject import MAPPINGS, Hit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.rules.subject import Subject

_GENERAL = (
    *(DEVICES, MDEVS, "/sys/class/iommu", "/sys/bus/pci/drivers", "/proc", *policy.FILES),
    *("/etc/pve/ha/resources.cfg", "/etc/pve/ha/groups.cfg", "/etc/pve/ha/rules.cfg", "/etc/pve/jobs.cfg"),
    *("/etc/pve/storage.cfg", "/etc/pve/user.cfg", "/etc/pve/nodes", "/var/lib/dpkg/status"),
)
_OF_ROOT = ("/dev/", "/proc/", "/run/udev/", "/sys/")
"""Where another user may not read all that the hook, as root, judges by: what critical.cannot_tell leaves to us."""


def no_iommu(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the kernel drives an IOMMU, when the VM has a device to pass through.

    Why it matters: without one a device could reach all memory; PVE refuses to start the VM, with driver=keep too.

    How to fix: enable VT-d (Intel) or AMD-Vi in the firmware, and `intel_iommu=on` on the kernel command line of Intel
    hosts with a kernel before 6.8; then reboot. /sys/class/iommu shows the IOMMUs in use.
    """
    return subject.problems("iommu-not-present")


def no_vfio_pci(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the driver vfio-pci is there, or can be loaded into the running kernel.

    Why it matters: PVE binds devices to it, and refuses to start the VM without it.

    How to fix: reboot into a kernel whose modules are installed; `modprobe vfio-pci` shows what is wrong.
    """
    return subject.problems("vfio-pci-missing")


def unreadable(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether every file could be read that the judgement of this VM needs.

    Why it matters: what could not be read was taken for absent, so other findings may be wrong or missing.

    How to fix: run as root; an I/O error of a device's file means that the device does not answer.
    """
    folders = [
        f"{DEVICES}/{address}/" for device in subject.resolution.passed for address in sum(device.alternatives, ())
    ]
    for path, number in sorted(subject.host.unreadable.items()):
        lacks_rights = number in {errno.EACCES, errno.EPERM} and os.geteuid() and path.startswith(_OF_ROOT)
        if path in _GENERAL or lacks_rights or path.startswith(tuple(folders)):
            yield Hit(path, f"cannot read {path}: {os.strerror(number)}", "run this as root, and see the kernel log")


def reservations_unreadable(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether PVE's file of reserved devices can be read, when the VM has a device to pass through.

    Why it matters: without it nobody can tell whether another VM has the device; PVE refuses to start the VM.

    How to fix: see what /run/qemu-server/pci-id-reservations is; PVE makes it anew when it is absent.
    """
    if subject.resolution.passed:
        yield from unread(reservations.FILE, subject.around.reservations_read[1])


def policy_unusable(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the owner's policy files can be used, when the VM has a device to pass through.

    Why it matters: with a policy that cannot be read, says what means nothing, or can be written by others than root,
    the hook refuses every start of a VM with a hostpci entry.

    How to fix: correct /etc/pve/pvepassthru.yaml or /etc/pvepassthru.yaml, as the message says.
    """
    if subject.section.entries and not subject.config.template:
        try:
            _ = subject.around.policies
        except (InputError, UnsafeError) as error:
            path = next((path for path in policy.FILES if path in error.message), policy.FILES[0])
            if isinstance(error.__cause__, PermissionError) and os.geteuid():  # which the hook, as root, does not meet
                subject.host.unreadable[path] = errno.EACCES
                return
            yield Hit(path, f"the hook refuses to start the VM: {error.message}", error.hint or "correct the file")


def policy_moved(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the policy's rules for the addresses that the VM gets are for the devices that lie there.

    A rule by address may say which `ids` it expects.

    Why it matters: the rule is not obeyed, so the device is handed over and given back as the defaults say. Bus numbers
    change when cards are added or taken out.

    How to fix: see where the card is now (`pvepassthru devices`), and correct the address in the policy.
    """
    try:
        rules = subject.around.policies.moved(subject.inventory) if subject.resolution.passed else ()
    except (InputError, UnsafeError):
        return  # another rule tells
    moved = {rule.address: rule.message for rule in rules}
    for device in subject.resolution.passed if moved else ():
        for address in dict.fromkeys(one for functions in device.alternatives for one in functions):
            if address in moved:
                hint = "see where that card is now (pvepassthru devices), and correct the policy"
                yield Hit(subject.at(device.entry.key, device.entry.line), moved[address], hint)


def mappings_unreadable(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the cluster's PCI mappings can be read, when the VM uses one.

    Why it matters: without them PVE finds no device for the mapping and refuses to start the VM.

    How to fix: see that pmxcfs (the pve-cluster service) runs, and what /etc/pve/mapping/pci.cfg is.
    """
    if any(entry.mapping for entry in subject.section.entries.values()) and not subject.config.template:
        yield from unread(MAPPINGS, subject.around.mappings_read[1])


def unread(path: str, why: str | None) -> Iterator[Hit]:
    """That a file cannot be read, if `why` says so."""
    if why:
        yield Hit(path, f"cannot read {path}: {why}", "see what that file is, and run this as root")
