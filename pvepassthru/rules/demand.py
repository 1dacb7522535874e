# SPDX-License-Identifier: Apache-2.0
"""What all VMs of a node want, by function: read once for all VMs that are judged together, in linear time."""

from __future__ import annotations

import errno

from pvepassthru.host import cluster, vms
from pvepassthru.model import pci
from pvepassthru.model.property_string import boolean
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import number

if TYPE_CHECKING:
    from pvepassthru.host.cluster import Resource
    from pvepassthru.host.inventory import Inventory
    from pvepassthru.model.hostpci import HostpciEntry
    from pvepassthru.model.vmconfig import Section
    from pvepassthru.rules.subject import Surroundings

LAST = 1 << 62
"""The place in the boot order of a VM that has none."""


class Wish(NamedTuple):
    """One hostpci entry of a VM that names devices of this host."""

    vmid: int
    key: str
    pool: str | None
    """The mapping, when it has several alternatives here."""
    alternatives: tuple[tuple[str, ...], ...]
    mdev: str | None
    """The classic mdev type."""
    nvidia: str | None
    """The number of a vendor vGPU type."""
    whole: bool
    """Whether PVE binds the functions, and their groups, to vfio-pci."""

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions that it surely takes; none of a mapping with several, or of a classic mdev."""
        return self.alternatives[0] if len(self.alternatives) == 1 and not self.mdev else ()


class Guest(NamedTuple):
    """One VM that wants devices."""

    vmid: int
    starts: bool
    """Whether it starts without anybody asking: at boot, or because HA keeps it running."""
    order: int
    wishes: tuple[Wish, ...]


class Demand(NamedTuple):
    """What the VMs of the node want."""

    guests: dict[int, Guest]
    """Those that want anything, by VMID."""
    wanted: dict[str, tuple[Wish, ...]]
    """By function: the entries that surely take it."""
    parents: dict[str, tuple[Wish, ...]]
    """By function: the entries that surely want a classic mdev on it."""
    types: dict[str, tuple[int, ...]]
    """By type of a mediated device or vGPU, as written (i915-GVTg_V5_4, nvidia-63): the VMs that want one, also where
    there is no device for it."""

    def starts(self, vmid: int) -> bool:
        """Whether a VM starts without anybody asking."""
        guest = self.guests.get(vmid)
        return guest is not None and guest.starts

    def others(self, vmid: int, addresses: tuple[str, ...]) -> dict[int, tuple[str, Wish]]:
        """Other VMs that surely take one of these functions, each with the first one and its entry, by VMID."""
        return _others(self.wanted, vmid, addresses)

    def other_mdevs(self, vmid: int, addresses: tuple[str, ...]) -> dict[int, tuple[str, Wish]]:
        """Other VMs that surely want a classic mdev on one of these functions, as `others`."""
        return _others(self.parents, vmid, addresses)


def _others(index: dict[str, tuple[Wish, ...]], vmid: int, addresses: tuple[str, ...]) -> dict[int, tuple[str, Wish]]:
    found: dict[int, tuple[str, Wish]] = {}
    for address in addresses:
        for wish in index.get(address, ()):
            if wish.vmid != vmid:
                found.setdefault(wish.vmid, (address, wish))
    return dict(sorted(found.items()))


def demand(around: Surroundings) -> Demand:
    """What all VMs of this node want at their next start; ask through `around.once`."""
    reader = _Reader(around)
    guests = {}
    for vmid in vms.vmids(around.host):
        guest = reader.guest(vmid)
        if guest:
            guests[vmid] = guest
    wanted: dict[str, list[Wish]] = {}
    parents: dict[str, list[Wish]] = {}
    for guest in guests.values():
        for wish in guest.wishes:
            for address in wish.functions:
                wanted.setdefault(address, []).append(wish)
            if wish.mdev and len(wish.alternatives) == 1:
                parents.setdefault(wish.alternatives[0][0], []).append(wish)
    return Demand(
        guests,
        {address: tuple(wishes) for address, wishes in wanted.items()},
        {address: tuple(wishes) for address, wishes in parents.items()},
        {name: tuple(vmids) for name, vmids in reader.types.items()},
    )


def ha_resources(around: Surroundings) -> dict[int, Resource]:
    """The VMs that HA manages, by VMID; ask through `around.once`."""
    return cluster.ha_resources(around.host)


class _Reader:
    """Reads the VMs one after the other; what a mapping means here is found out once."""

    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self.ha = around.once(ha_resources)
        self.pools: dict[str, tuple[tuple[str, ...], ...]] = {}
        self.vendor: dict[str, bool] = {}
        self.types: dict[str, dict[int, None]] = {}

    def guest(self, vmid: int) -> Guest | None:
        """A VM of the node; None when it wants nothing, is a template, or cannot be read."""
        path = vms.config_path(vmid)
        try:
            data = self.around.host.read(path)
        except OSError as error:
            if error.errno != errno.ENOENT:  # else migrated or removed since it was listed
                self.around.host.unreadable[path] = error.errno or errno.EIO
            return None
        if b"hostpci" not in data:
            return None
        config = self.around.config(path, data)
        if config.template:
            return None
        section = config.effective()
        for entry in section.entries.values():
            if entry.mdev and entry.wants_mdev:
                self.types.setdefault(entry.mdev, {})[vmid] = None
        wishes = [self._wish(vmid, entry) for _, entry in sorted(section.entries.items())]
        known = tuple(wish for wish in wishes if wish)
        resource = self.ha.get(vmid)
        starts = resource.started if resource else boolean(section.get("onboot") or "0") is True
        return Guest(vmid, starts, _order(section), known) if known else None

    def _wish(self, vmid: int, entry: HostpciEntry) -> Wish | None:
        """What an entry wants; None when PVE refuses it, or it names a device that is not there."""
        if bool(entry.host) == bool(entry.mapping):
            return None
        name = entry.mapping
        alternatives = self._pool(name) if name else one(self.around.inventory, (entry.host or "").split(";"))
        if not alternatives:
            return None
        mdev = entry.mdev if entry.wants_mdev else None
        nvidia = None
        if mdev and any(len(functions) > 1 for functions in alternatives):
            return None
        number_of = (mdev or "").removeprefix("nvidia-")
        if mdev and number_of != mdev and number(number_of) is not None and self._is_vendor(name, alternatives):
            mdev, nvidia = None, number_of
        pool = name if len(alternatives) > 1 else None
        whole = not (mdev or nvidia or entry.keeps_driver)
        return Wish(vmid, entry.key, pool, alternatives, mdev, nvidia, whole)

    def _pool(self, name: str) -> tuple[tuple[str, ...], ...]:
        if name not in self.pools:
            mapping = self.around.mappings_read[0].by_name.get(name)
            entries = mapping.on(self.around.host.node) if mapping else ()
            found = [one(self.around.inventory, entry.paths) for entry in entries]
            self.pools[name] = tuple(functions[0] for functions in found) if all(found) else ()
        return self.pools[name]

    def _is_vendor(self, name: str | None, alternatives: tuple[tuple[str, ...], ...]) -> bool:
        """Whether all alternatives have NVIDIA's vendor vGPU interface."""
        if name is None:
            return self._all_vendor(alternatives)
        if name not in self.vendor:
            self.vendor[name] = self._all_vendor(alternatives)
        return self.vendor[name]

    def _all_vendor(self, alternatives: tuple[tuple[str, ...], ...]) -> bool:
        return all(self.around.inventory.has(functions[0], "nvidia") for functions in alternatives)


def one(inventory: Inventory, selectors: tuple[str, ...] | list[str]) -> tuple[tuple[str, ...], ...]:
    """The functions of selectors as the only alternative; none when one of them means nothing here."""
    functions: list[str] = []
    for selector in selectors:
        wanted = pci.with_domain(selector)
        matching = [address for address in inventory.in_slot(pci.slot(wanted)) if address.startswith(wanted)]
        if not matching:
            return ()
        functions += matching
    return (tuple(functions),)


def _order(section: Section) -> int:
    """A VM's place in the boot order, `startup: order=N`."""
    for part in (section.get("startup") or "").split(","):
        key, equals, value = part.strip().partition("=")
        place = number(value if equals else key)
        if place is not None and (key == "order" or not equals):
            return place
    return LAST
