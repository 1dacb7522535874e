# SPDX-License-Identifier: Apache-2.0
"""Which VMs of this node a PCI function belongs to: those whose config names it, and the one that has it now."""

from __future__ import annotations

from pvepassthru.host import reservations, vms
from pvepassthru.host.inventory import DEVICES
from pvepassthru.model import pci, reservation
from pvepassthru.model.errors import PassthruError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.rules.demand import demand

if TYPE_CHECKING:
    from pvepassthru.host.holders import Holder
    from pvepassthru.rules.subject import Surroundings


class Owner(NamedTuple):
    """A VM that a function belongs to."""

    vmid: int
    entries: tuple[str, ...]
    """The hostpci keys of its config that mean the function, be it as one of several alternatives; pending changes
    applied."""
    runs: bool
    has: bool
    """Whether it has the function now: PVE's reservation, an mdev instance, or an open VFIO device says so."""

    def __str__(self) -> str:
        return (
            f"{self.vmid} (runs)" if self.has and self.runs else f"{self.vmid} (has it)" if self.has else f"{self.vmid}"
        )


class Owners:
    """The owners of all functions, found with one look at all configs."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._configured: dict[str, dict[int, list[str]]] = {}
        self._reserved = reservation.parse(_reservations(around))
        for guest in around.once(demand).guests.values():
            for wish in guest.wishes:
                for address in {address for functions in wish.alternatives for address in functions}:
                    self._configured.setdefault(address, {}).setdefault(guest.vmid, []).append(wish.key)
        self._commands = {pid: vmid for vmid in self._running() if (pid := around.running(vmid)) is not None}

    def of(self, address: str) -> tuple[Owner, ...]:
        """The owners of a function, by VMID."""
        configured = self._configured.get(address, {})
        holders = self._holders(address)
        return tuple(
            Owner(vmid, tuple(configured.get(vmid, ())), self._around.running(vmid) is not None, vmid in holders)
            for vmid in sorted({*configured, *holders})
        )

    def _running(self) -> set[int]:
        names = self._around.host.names("/run/qemu-server")
        return {
            vmid
            for name in names
            if name.endswith(".pid") and (vmid := vms.vmid_of(name.removesuffix(".pid"))) is not None
        }

    def _holders(self, address: str) -> set[int]:
        """The VMs that have a function, or an mdev on it."""
        found = set()
        entry = self._reserved.get(address)
        if entry and (entry.pending(self._around.now) or entry.holder(self._around.running) is not None):
            found.add(entry.vmid)
        for uuid in self._around.inventory.mdevs_of(address):
            owner = pci.vmid_of_uuid(uuid)
            if owner:
                found.add(owner[1])
        if self._commands and self._around.host.exists(f"{DEVICES}/{address}/iommu_group"):
            opened = self._opened()
            for node, what in self._around.nodes(address):
                if what != address or self._only_one(address):
                    found |= {self._commands[user.pid] for user in opened.get(node, ()) if user.pid in self._commands}
        return found

    def _only_one(self, address: str) -> bool:
        """Whether an open group tells of this function: it is bound to a VFIO driver, as all that is passed whole."""
        return "vfio" in (self._around.inventory.driver(address) or "")

    def _opened(self) -> dict[str, tuple[Holder, ...]]:
        try:
            return self._around.opened
        except PassthruError:  # needs root; reservations and instances tell most of it
            return {}


def _reservations(around: Surroundings) -> str:
    try:
        return reservations.text(around.host)
    except PassthruError:  # a rule tells of it
        return ""
