# SPDX-License-Identifier: Apache-2.0
"""Which device of a node serves each one that a VM is to have: an entry that is there, or a function that is free.

What is ambiguous is an error that names the candidates. Existing entries are kept, and serve the most definite wish
first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.api.chosen import Choice, Chosen
from pvepassthru.api.free_functions import FreeFunctions
from pvepassthru.api.pools import Pools
from pvepassthru.api.wish import IGD, Device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pvepassthru.api.reach import Reach, Taken
    from pvepassthru.model.hostpci import HostpciEntry


class Chooser:
    """Chooses for one VM."""

    def __init__(self, reach: Reach) -> None:
        self.reach = reach
        self.hardware = reach.hardware
        self.chosen = Chosen(reach)
        self.free = FreeFunctions(self.chosen)
        self.pools = Pools(self.chosen)

    @property
    def notes(self) -> list[str]:
        """What is to be known of what was chosen."""
        return self.chosen.notes

    def choose(self, devices: Sequence[Device], *, by_mapping: bool) -> list[Choice]:
        """What serves each device, in their order.

        Raises UsageError for what is ambiguous or contradicts an entry, NotFoundError for what is not there, and
        DeviceError for what cannot be had.
        """
        found: dict[int, Choice] = {}
        if by_mapping:
            self.chosen.mapped = self.pools.addresses()
        ranked = sorted(range(len(devices)), key=lambda at: (_rank(devices[at]), -_demands(devices[at])))
        for as_it_is in (True, False):  # first the entries that need no change
            for at in ranked:
                served = None if at in found else self._claim(devices[at], as_it_is=as_it_is)
                if served:
                    found[at] = served
        left = [devices[at] for at in ranked if at not in found]
        for at in ranked:
            if at not in found:
                alike = sum(_alike(devices[at], other) for other in left)
                pooled = self.pools.pooled(devices[at]) if by_mapping else None
                found[at] = pooled or self._pick(devices[at], alike)
                left.remove(devices[at])
        choices = [found[at] for at in range(len(devices))]
        return [self.pools.through(choice) for choice in choices] if by_mapping else choices

    def _pick(self, device: Device, alike: int) -> Choice:
        return self.pools.named(device) if device.mapping else self.free.pick(device, alike)

    def _claim(self, device: Device, *, as_it_is: bool) -> Choice | None:
        for taken in self.chosen.unclaimed:
            entry = taken.entry
            if entry.host and entry.mapping:
                continue
            if (not as_it_is or _has_all(device, entry)) and self._serves(device, taken):
                self.chosen.unclaimed.remove(taken)
                functions = taken.alternatives[0] if taken.alternatives else ()
                kind = (entry.mdev or "") if entry.wants_mdev else ""
                (self.chosen.parents if kind else self.chosen.wanted).update(functions)
                return Choice(device, functions, entry.host or "", entry.mapping or "", kind, entry)
        return None

    def _serves(self, device: Device, taken: Taken) -> bool:
        if bool(device.mdev) != taken.entry.wants_mdev:
            return False
        if device.mapping:
            return taken.entry.mapping == device.mapping and self._fits(device, taken)
        if not taken.alternatives:
            return False
        if device.addresses:
            wanted, has = set(self.hardware.resolved(device.addresses)), set(taken.alternatives[0])
            covered = bool(has & wanted) if device.mdev else has >= wanted
            return bool(wanted) and len(taken.alternatives) == 1 and covered and self._fits(device, taken)
        every = all(
            any(self.chosen.is_one(device, self.hardware.functions[address]) for address in functions)
            for functions in taken.alternatives
        )
        return every and self._fits(device, taken)

    def _fits(self, device: Device, taken: Taken) -> bool:
        """Whether the mdev type of an entry is as it is wanted."""
        return not device.mdev or self.chosen.mediated.fits(device, taken.entry.mdev or "")


def igd_among(devices: Sequence[Device], reach: Reach) -> tuple[Device, ...]:
    """The devices with the Intel GPU in legacy mode: the one of them at 00:02.0, or one more."""
    for at, one in enumerate(devices):
        pool = reach.pool(one.mapping) if one.mapping else (reach.hardware.resolved(one.addresses),)
        if not one.mdev and pool and IGD in pool[0]:
            return (*devices[:at], one._replace(igd=True), *devices[at + 1 :])
    return (*devices, Device(addresses=(IGD,), igd=True))


def _rank(device: Device) -> int:
    """The most definite first."""
    ways = (device.addresses, device.mapping, device.vf_of, device.mdev, device.ids, device.kind)
    return next(at for at, way in enumerate(ways) if way)


def _demands(device: Device) -> int:
    """How much is said of a device beyond which one it is."""
    return sum(map(bool, (device.rom, device.primary, device.igd, device.pcie is not None)))


def _has_all(device: Device, entry: HostpciEntry) -> bool:
    """Whether an entry has all that is said of a device, so that it need not be changed."""
    return (
        (device.pcie is None or device.pcie == entry.pcie)
        and (not device.rom or device.rom == entry.romfile)
        and (entry.x_vga or not device.primary)
        and (entry.legacy_igd or not device.igd)
    )


def _alike(one: Device, other: Device) -> bool:
    """Whether two devices are named by the same class or ids."""
    definite = other.addresses or other.mapping or other.vf_of or other.mdev
    return (one.kind, one.ids) == (other.kind, other.ids) and not definite
