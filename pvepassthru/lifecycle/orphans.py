# SPDX-License-Identifier: Apache-2.0
"""What looks left behind on a host and is in no journal. Looking changes nothing; lifecycle/recover.py removes."""

from __future__ import annotations

import os
import time

from pvepassthru.host import holders, override_sources, policy, reservations, state, vms
from pvepassthru.host.inventory import DEVICES, MDEVS, Inventory
from pvepassthru.lifecycle import mdev, vgpu
from pvepassthru.lifecycle.journal import Journal, Step
from pvepassthru.model import pci, reservation
from pvepassthru.model.errors import InputError, PassthruError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.host.host import Host
    from pvepassthru.host.inventory import Mdev
    from pvepassthru.model.policy import Policies
    from pvepassthru.model.reservation import Entry

MDEVCTL = "/etc/mdevctl.d"
"""Where mdevctl(8) keeps the instances that an administrator defined: PARENT/UUID."""
OVERRIDE = "vfio-pci"


class Orphan(NamedTuple):
    """Something that looks left behind, and that is in no journal of this tool."""

    kind: str
    """`mdev`, `vgpu`, `override`, `reservation`; `unknown`: it could not be looked at."""
    target: str
    """The instance's UUID, or the function's address; empty where the kind is `unknown`."""
    what: str
    vmid: int | None
    """The VM that its name or its reservation points to, or None for a foreign one."""
    hint: str


def orphans(host: Host) -> list[Orphan]:
    """Instances, set vGPU types, overrides and reservations that no journal names and no running VM has.

    Raises PassthruError when journals or processes cannot be listed. What cannot be told for another reason is an
    orphan that says so.
    """
    look = _Look(host)
    found = [*look.instances()]
    try:
        reserved = reservation.parse(reservations.text(host))
    except InputError as error:
        what = "PVE's reservations, and the vGPU types and overrides with them"
        return [*found, Orphan("unknown", "", what, None, f"not checked: {error}")]
    return [*found, *look.vgpu_types(reserved), *look.overrides(reserved), *look.stale(reserved)]


def removable(host: Host) -> list[int]:
    """The VMs of this node that have something left which is provably theirs, in order. Raises as `orphans`.

    That is a hint where to look: `steps` tells under the VM's locks.
    """
    found = {
        one.vmid
        for one in orphans(host)
        if one.vmid is not None and one.kind in {mdev.KIND, vgpu.KIND} and is_of_this_node(host, one.vmid)
    }
    return sorted(found)


def is_of_this_node(host: Host, vmid: int) -> bool:
    """Whether a VM's config lies on this node. A VM that is gone, or is another node's, proves nothing."""
    return host.exists(vms.config_path(vmid))


class Left(NamedTuple):
    """What is a VM's and in no journal."""

    steps: tuple[Step, ...]
    """As steps of a journal, to be undone like these; their number is 0."""
    kept: tuple[str, ...]
    """Words for each thing that is not to be removed, with the reason."""


def left(host: Host, vmid: int) -> Left:
    """What is this VM's by PVE's UUID, or by the last reservation that PVE's file has, and in no journal.

    Whoever asks holds PVE's lock on the VM's config and our lock on the VM, and has seen that the VM is dead: PVE
    creates an instance, and reserves a VF, only while it holds that lock. Raises PassthruError.
    """
    look = _Look(host)
    steps, kept = [], []
    for instance in look.inventory.mdevs():
        owner = pci.vmid_of_uuid(instance.uuid)
        if owner is None or owner[1] != vmid or instance.uuid in look.named:
            continue
        what = f"mdev {instance.type} {instance.parent}/{instance.uuid}"
        if instance.type is None or instance.parent is None:
            kept.append(f"mdev {instance.uuid}: the kernel is still creating it, or is removing it")
        elif defined := _definition(host, instance):
            kept.append(f"{what}: {defined} defines it, so it is not PVE's")
        else:
            steps.append(_step(mdev.KIND, f"{instance.parent}/{instance.uuid}", instance.type))
    reserved = reservation.parse(reservations.text(host))
    for address, entry in sorted(reserved.items()):
        current = look.inventory.vgpu_current(address) if entry.vmid == vmid else None
        if current not in {None, "", "0"} and address not in look.named:
            steps.append(_step(vgpu.KIND, address, current))
    return Left(tuple(steps), tuple(kept))


def _step(kind: str, target: str, after: str | None) -> Step:
    return Step(0, kind, target, None, after, done=True)


def _definition(host: Host, instance: Mdev) -> str | None:
    """The file in which an administrator defined an instance for mdevctl, or None."""
    path = f"{MDEVCTL}/{instance.parent}/{instance.uuid}"
    return path if host.exists(path) else None


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
            for step in journal.steps:
                parts = step.target.split("/")
                self.named.update(parts[-1:] if step.kind == mdev.KIND else parts)

    def instances(self) -> Iterator[Orphan]:
        """Mediated devices."""
        for instance in self.inventory.mdevs():
            owner = pci.vmid_of_uuid(instance.uuid)
            what = f"mdev {instance.uuid} ({instance.type} on {instance.parent})"
            users = holders.device_holders(self.host, f"{MDEVS}/{instance.uuid}")
            if owner is None:
                hint = f"in use by {holders.describe(users)}"
                if not users:
                    defined = _definition(self.host, instance)
                    by_hand = f"no VM's; if nobody wants it: pvepassthru mdev remove {instance.uuid}"
                    hint = f"{defined} defines it; see mdevctl" if defined else by_hand
                yield Orphan(mdev.KIND, instance.uuid, what, None, hint)
            elif not users and not self._claimed(instance.uuid, owner[1]) and not self._runs(owner[1]):
                defined = _definition(self.host, instance)
                hint = f"{defined} defines it; see mdevctl" if defined else f"pvepassthru release {owner[1]}"
                yield Orphan(mdev.KIND, instance.uuid, what, owner[1], hint)

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
            if users:
                hint = f"in use by {holders.describe(users)}"
            else:
                hint = f"pvepassthru release {vmid}" if entry else f"if no VM is starting with it: echo 0 > {path}"
            yield Orphan(vgpu.KIND, address, f"vGPU type {current} on {address}", vmid, hint)

    def overrides(self, reserved: dict[str, Entry]) -> Iterator[Orphan]:
        """Functions that only vfio-pci may have, though no VM has them and nothing that is known asks for that.

        Who wrote an override cannot be told afterwards, so such a one is only reported. Display devices stay with
        vfio-pci after a stop unless the policy says otherwise, so theirs is none.
        """
        sources = override_sources.Sources(self.host)
        try:
            policies: Policies | None = policy.read(self.host)
        except PassthruError:  # nobody can tell what it says
            policies = None
        opened = holders.opened(self.host)
        for address in self.inventory.addresses():
            override = self.inventory.attribute(address, "driver_override")
            path = f"{DEVICES}/{address}/driver_override"
            if override is None and path in self.host.unreadable:
                why = os.strerror(self.host.unreadable[path])
                yield Orphan("unknown", "", f"driver_override of {address}", None, f"not checked: {path}: {why}")
            if override != OVERRIDE or address in self.named:
                continue
            entry = reserved.get(address)
            nodes = holders.vfio_nodes(self.host, f"{DEVICES}/{address}")
            in_use = (entry and self._holds(entry)) or any(node in opened for node in nodes)
            if in_use or self.doubtful or self._stays(policies, address) or sources.of(address):
                continue
            hint = f"nobody can tell who wrote it; if it is not wanted: echo > {DEVICES}/{address}/driver_override"
            what = f"driver_override {OVERRIDE} of {address}, which no VM has"
            yield Orphan("override", address, what, entry.vmid if entry else None, hint)

    def stale(self, reserved: dict[str, Entry]) -> Iterator[Orphan]:
        """Reservations that hold no more."""
        for address, entry in sorted(reserved.items()):
            if not self._holds(entry) and not self._claimed(address, entry.vmid):
                why = f"process {entry.value} is gone" if entry.kind == "pid" else "its time is over"
                what = f"stale reservation of {address} for VM {entry.vmid} ({why})"
                yield Orphan("reservation", address, what, entry.vmid, "PVE takes it over by itself")

    def _stays(self, policies: Policies | None, address: str) -> bool:
        """Whether this function may stay with vfio-pci after a stop, by the policy or for want of one."""
        if policies is None:
            return True
        give_back = policies.device(self.inventory, address).give_back
        if give_back != "auto":
            return give_back in {"stay", OVERRIDE}
        slot = self.inventory.in_slot(address.partition(".")[0])
        return any(self.inventory.pci_class(one).startswith("03") for one in slot)

    def _claimed(self, name: str, vmid: int | None) -> bool:
        return name in self.named or vmid in self.doubtful

    def _runs(self, vmid: int) -> bool:
        return vms.running_pid(self.host, vmid) is not None

    def _holds(self, entry: Entry) -> bool:
        """Whether PVE honours a reservation now."""
        running = entry.holder(lambda vmid: vms.running_pid(self.host, vmid)) is not None
        return running or entry.pending(int(time.time()))
