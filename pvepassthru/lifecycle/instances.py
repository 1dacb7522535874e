# SPDX-License-Identifier: Apache-2.0
"""Mediated devices made and removed by hand: only such as no VM owns, and under the locks of the hook.

No journal has them: what somebody makes by hand stays until he removes it, or the host boots.
"""

from __future__ import annotations

import errno

from pvepassthru.host import holders, locks, slow, state, vms
from pvepassthru.host.deadline import Deadline
from pvepassthru.host.inventory import DEVICES, MDEVS, Inventory
from pvepassthru.lifecycle import mdev
from pvepassthru.lifecycle.journal import Journal
from pvepassthru.model import pci
from pvepassthru.model.errors import BusyError, DeviceError, NotFoundError, PassthruError, UsageError
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.start import owners
from pvepassthru.model.text import listed, shown

if TYPE_CHECKING:
    from pvepassthru.host.host import Host

LIMIT = 30.0
"""Seconds for all of one command's waits."""


def create(host: Host, kind: str, parent: str, uuid: str) -> None:
    """Create an instance of a type on a parent.

    Raises UsageError for a UUID that is none or is PVE's for a VM, NotFoundError without such a parent or type,
    DeviceError when it is not to be had, and BusyError after too long a wait.
    """
    what = f"cannot create mdev {uuid}"
    if not pci.is_uuid(uuid):
        raise UsageError(f"{shown(uuid)} is no UUID", "write 36 characters such as uuidgen prints, or leave it out")
    owner = pci.vmid_of_uuid(uuid)
    if owner:
        raise UsageError(
            f"{what}: PVE gives this UUID to hostpci{owner[0]} of VM {owner[1]}, and would take the instance for that "
            "VM's and remove it when that VM stops",
            "leave --uuid out, or give one of uuidgen",
        )
    _need_type(Inventory(host), kind, parent)
    state.prepare(host)
    deadline = Deadline(LIMIT)
    with (
        locks.take(host, state.device_lock_path(uuid), deadline, f"mdev {uuid}", mdev.INSTANCE_LOCK_WAIT),
        locks.take(host, state.device_lock_path(parent), deadline, f"mdev parent {parent}") as lock,
    ):
        inventory = Inventory(host)
        there = inventory.mdev(uuid) if host.exists(f"{MDEVS}/{uuid}") else None
        if there:
            raise DeviceError(f"{what}: it exists as {there.type} on {there.parent}", "see: pvepassthru mdev list")
        if inventory.mdev_available(parent, kind) == 0:
            raise _no_room(inventory, kind, parent)
        try:
            slow.write(host, f"{_folder(parent)}/{kind}/create", uuid, deadline.left(), lock)
        except slow.StillBlockedError:
            words = f"{what} of {kind} on {parent}: the kernel has not finished in time"
            raise BusyError(words, "see what its driver says in the kernel log") from None
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EUSERS}:
                raise _no_room(Inventory(host), kind, parent) from error
            why = mdev.removal(host, uuid, parent) if error.errno == errno.EEXIST else None
            words = f"for an older one {why}" if why else f"the kernel says {error.strerror}"
            raise DeviceError(f"{what} of {kind} on {parent}: {words}", "see the kernel log") from error
        made = Inventory(host).mdev(uuid)
        if (made.parent, made.type) != (parent, kind):
            words = f"it was created but is not there as {kind} on {parent}"
            raise DeviceError(f"{what}: {words}", "see the kernel log")


def remove(host: Host, uuid: str) -> str:
    """Remove an instance that no VM owns; returns its type and parent, in words.

    Raises UsageError when it is no UUID, NotFoundError when there is no such instance, DeviceError when a VM owns it,
    a process has it open or it cannot be removed, and BusyError after too long a wait.
    """
    if not pci.is_uuid(uuid):
        raise UsageError(f"{shown(uuid)} is no UUID", "see: pvepassthru mdev list")
    found = Inventory(host).mdev(uuid)
    if found.parent is None:
        raise _not_there(host, uuid)
    what = f"cannot remove mdev {uuid} ({found.type} on {found.parent})"
    _refuse_owned(host, uuid, what)
    state.prepare(host)
    deadline = Deadline(LIMIT)
    with locks.take(host, state.device_lock_path(uuid), deadline, f"mdev {uuid}", mdev.INSTANCE_LOCK_WAIT) as lock:
        there = mdev.complete(host, uuid, deadline)
        if there is None or there.parent is None:
            raise _not_there(host, uuid)
        if there.type is None:  # removing it now would answer EAGAIN and take its `remove` file away for good
            raise BusyError(f"{what}: the kernel is still creating it", "see what its driver says in the kernel log")
        users = holders.device_holders(host, f"{MDEVS}/{uuid}")
        if users:
            raise DeviceError(f"{what}: {holders.describe(users)} has it open", "end that process, then try again")
        why = mdev.remove(host, uuid, there.parent, deadline, lock)
    if why is not None:
        raise DeviceError(f"{what}: {why}", "end what holds it, then try again")
    return f"{there.type} on {there.parent}"


def _folder(parent: str) -> str:
    return f"{DEVICES}/{parent}/mdev_supported_types"


def _need_type(inventory: Inventory, kind: str, parent: str) -> None:
    """Raise NotFoundError or DeviceError when this is no parent, or has no such type."""
    types = inventory.host.names(_folder(parent))
    if parent not in inventory.addresses():
        raise NotFoundError(f"no PCI function {parent} on this host", "see lspci -D")
    if not types and inventory.vgpu_current(parent) is not None:
        hint = "give it to a VM: PVE and the hook set the type when the VM starts"
        raise DeviceError(f"cannot create mdev {kind} on {parent}: it has NVIDIA's vendor interface, not mdevs", hint)
    if not types:
        raise DeviceError(
            f"cannot create mdev {shown(kind)} on {parent}: it offers no mdev types",
            "see that the vendor's driver is loaded, and which functions have types: pvepassthru mdev types",
        )
    if kind not in types:
        raise NotFoundError(f"{parent} has no mdev type {shown(kind)}", f"its types are {listed(types)}")


def _no_room(inventory: Inventory, kind: str, parent: str) -> DeviceError:
    users = owners(inventory.mdevs_of(parent))[1]
    words = f"used by {users}" if users else "none in use here"
    return DeviceError(
        f"cannot create mdev {kind} on {parent}: no instance left ({words})",
        f"see where there is room: pvepassthru mdev plan {kind} 1",
    )


def _not_there(host: Host, uuid: str) -> NotFoundError | DeviceError:
    """The error for an instance that /sys/bus/mdev does not list, or no more."""
    inventory = Inventory(host)
    for parent in inventory.host.names("/sys/class/mdev_bus"):
        words = mdev.removal(host, uuid, parent)
        if words is not None:
            return DeviceError(f"cannot remove mdev {uuid}: {words}", "end that process")
    return NotFoundError(f"no mediated device {uuid} on this host", "see: pvepassthru mdev list")


def _refuse_owned(host: Host, uuid: str, what: str) -> None:
    """Raise DeviceError when a VM owns an instance: by its UUID it is PVE's, and that VM is there or left a journal."""
    owner = pci.vmid_of_uuid(uuid)
    if owner is None:
        return
    index, vmid = owner
    pid = vms.running_pid(host, vmid)
    if pid is not None:
        raise DeviceError(f"{what}: VM {vmid} runs with it as hostpci{index}", f"qm stop {vmid}")
    if _has_journal(host, vmid):
        words = f"VM {vmid} does not run, and its journal has what is to be given back"
        raise DeviceError(f"{what}: {words}", f"pvepassthru recover {vmid}")
    nodes = [
        node
        for node in host.names(f"{vms.PVE}/nodes")
        if host.exists(f"{vms.PVE}/nodes/{node}/qemu-server/{vmid}.conf")
    ]
    if nodes:
        words = f"it is hostpci{index} of VM {vmid} on node {nodes[0]}, which may be starting with it"
        raise DeviceError(f"{what}: {words}", f"pvepassthru release {vmid}")


def _has_journal(host: Host, vmid: int) -> bool:
    try:
        return Journal(host, vmid).exists
    except PassthruError:  # one that cannot be read is one
        return True
