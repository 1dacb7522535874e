# SPDX-License-Identifier: Apache-2.0
"""What looks left behind on a host and is in no journal: reported, never touched."""

from __future__ import annotations

import time

from pvepassthru.host import holders, reservations, state, vms
from pvepassthru.host.inventory import DEVICES, MDEVS, Inventory
from pvepassthru.lifecycle.journal import Journal
from pvepassthru.model import pci, reservation
from pvepassthru.model.errors import InputError, PassthruError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.host.host import Host
    from pvepassthru.model.reservation import Entry


class Orphan(NamedTuple):
    """Something that looks left behind, and that this tool did not make."""

    what: str
    vmid: int | None
    """The VM that its name or its reservation points to, or None for a foreign one."""
    hint: str


def orphans(host: Host) -> list[Orphan]:
    """Instances, set vGPU types and reservations that no journal names and no running VM has, and foreign instances.

    Raises PassthruError when journals or processes cannot be listed. What cannot be told for another reason is an
    orphan that says so.
    """
    look = _Look(host)
    found = [*look.instances()]
    try:
        reserved = reservation.parse(reservations.text(host))
    except InputError as error:
        return [*found, Orphan("PVE's reservations, and the vGPU types with them", None, f"not checked: {error}")]
    return [*found, *look.vgpu_types(reserved), *look.stale(reserved)]


class _Look:
    """One look at a host, with what its journals name."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.inventory = Inventory(host)
        self.named: set[str] = set()
        """What the journals name: the address of a function, or the UUID of an instance."""
        self.doubtful: set[int] = set()
        """VMs whose journal cannot be read, or not all of it: what is theirs may well be in it."""
        for vmid in state.journals(host):
            try:
                journal = Journal(host, vmid)
            except PassthruError:
                self.doubtful.add(vmid)
                continue
            if journal.damaged:
                self.doubtful.add(vmid)
            self.named.update(step.target.rpartition("/")[2] for step in journal.steps)

    def instances(self) -> Iterator[Orphan]:
        """Mediated devices."""
        for instance in self.inventory.mdevs():
            owner = pci.vmid_of_uuid(instance.uuid)
            what = f"mdev {instance.uuid} ({instance.type} on {instance.parent})"
            users = holders.device_holders(self.host, f"{MDEVS}/{instance.uuid}")
            if owner is None:
                hint = (
                    f"in use by {holders.describe(users)}" if users else "not made by PVE or this tool; its owner knows"
                )
                yield Orphan(what, None, hint)
            elif not users and not self._claimed(instance.uuid, owner[1]) and not self._runs(owner[1]):
                hint = f"if VM {owner[1]} is not starting right now: echo 1 > {MDEVS}/{instance.uuid}/remove"
                yield Orphan(what, owner[1], hint)

    def vgpu_types(self, reserved: dict[str, Entry]) -> Iterator[Orphan]:
        """VFs with a vGPU type set."""
        for address in self.inventory.addresses():
            current = self.inventory.vgpu_current(address) if self.inventory.has(address, "nvidia") else None
            entry = reserved.get(address)
            vmid = entry.vmid if entry else None
            if current in {None, "0"} or self._claimed(address, vmid) or (entry and self._holds(entry)):
                continue
            users = holders.device_holders(self.host, f"{DEVICES}/{address}")
            path = f"{DEVICES}/{address}/nvidia/current_vgpu_type"
            hint = f"in use by {holders.describe(users)}" if users else f"if no VM is starting with it: echo 0 > {path}"
            yield Orphan(f"vGPU type {current} on {address}", vmid, hint)

    def stale(self, reserved: dict[str, Entry]) -> Iterator[Orphan]:
        """Reservations that hold no more."""
        for address, entry in sorted(reserved.items()):
            if not self._holds(entry) and not self._claimed(address, entry.vmid):
                why = f"process {entry.value} is gone" if entry.kind == "pid" else "its time is over"
                what = f"stale reservation of {address} for VM {entry.vmid} ({why})"
                yield Orphan(what, entry.vmid, "PVE takes it over by itself")

    def _claimed(self, name: str, vmid: int | None) -> bool:
        return name in self.named or vmid in self.doubtful

    def _runs(self, vmid: int) -> bool:
        return vms.running_pid(self.host, vmid) is not None

    def _holds(self, entry: Entry) -> bool:
        """Whether PVE honours a reservation now."""
        running = entry.holder(lambda vmid: vms.running_pid(self.host, vmid)) is not None
        return running or entry.pending(int(time.time()))
