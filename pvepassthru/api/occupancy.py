# SPDX-License-Identifier: Apache-2.0
"""Who has which device of a node, by the configs of its VMs: those that run have theirs, the others claim them.

A VM that runs has what is in force, whatever is pending, until it stops; what is pending it claims.

The API does not tell which device of a mapping a running VM got; the first free one is assumed, as PVE takes them by
VMID. So single functions may be told of the wrong VM of a mapping, and counts are right all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import mirror, selection
from pvepassthru.model import placement
from pvepassthru.model.placement import Gpu, Place, rule_of
from pvepassthru.model.profile import read

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from pvepassthru.api.hardware import NodeHardware
    from pvepassthru.api.present import Present
    from pvepassthru.model.hostpci import HostpciEntry
    from pvepassthru.model.mapping import Mappings


class Claim(NamedTuple):
    """One entry of a VM, as far as it takes something of the node."""

    vmid: int
    runs: bool
    """Whether it has that now."""
    key: str
    mapping: str | None
    mdev: str | None
    """The type as written, also of a vendor vGPU."""
    functions: tuple[str, ...]
    """What it takes alone; none of a classic mediated device, and where nothing was left of its mapping."""
    parents: tuple[str, ...]
    """Where its mediated device may be."""


class Occupancy:
    """The devices of a node, and the claims on them."""

    def __init__(
        self, hardware: NodeHardware, mappings: Mappings, presents: Iterable[Present], running: Collection[int]
    ) -> None:
        self.hardware = hardware
        self.mappings = mappings
        self.vendor = mirror.vendor(hardware)
        """The functions with NVIDIA's own interface."""
        self.claims: list[Claim] = []
        self.held: dict[str, int] = {}
        """Functions that a running VM has, each with that VM."""
        self.claimed: dict[str, int] = {}
        """Functions that VMs want which do not run, or by what is pending, and that no running one has."""
        guests = [one for one in presents if not one.config.template]
        guests.sort(key=lambda one: one.vmid)
        for present in guests:
            if present.vmid in running:
                for _, entry in sorted(present.config.main.entries.items()):
                    self.claims.append(self._claim(present.vmid, entry, runs=True))
        for present in guests:
            if present.vmid in running:
                self._add_pending(present)
            else:
                for _, entry in sorted(present.section.entries.items()):
                    self.claims.append(self._claim(present.vmid, entry, runs=False))

    def _add_pending(self, present: Present) -> None:
        """What a running VM wants at its next start beyond what it has: a changed entry may want the same again."""
        now, later = present.config.main, present.section
        changed = {key for key in now.values.keys() | later.values.keys() if now.get(key) != later.get(key)}
        spare = [claim for claim in self.claims if claim.vmid == present.vmid and claim.key in changed]
        for _, entry in sorted(later.entries.items()):
            if entry.key not in changed:
                continue
            again = next((claim for claim in spare if self._is_again(claim, entry)), None)
            if again is not None:
                spare.remove(again)
            else:
                self.claims.append(self._claim(present.vmid, entry, runs=False))

    def _is_again(self, claim: Claim, entry: HostpciEntry) -> bool:
        """Whether what a claim has serves another entry, too."""
        alternatives = selection.alternatives(entry, self.hardware, self.mappings)
        if claim.mdev != (entry.mdev if entry.wants_mdev else None):
            return False
        if claim.functions:
            return claim.functions in alternatives
        return bool(claim.parents) and claim.parents == tuple(functions[0] for functions in alternatives)

    def _claim(self, vmid: int, entry: HostpciEntry, *, runs: bool) -> Claim:
        mdev = entry.mdev if entry.wants_mdev else None
        alternatives = selection.alternatives(entry, self.hardware, self.mappings)
        parents = tuple(functions[0] for functions in alternatives) if mdev else ()
        functions: tuple[str, ...] = ()
        if not mdev or (parents and self.vendor.issuperset(parents)):
            functions = self._taken(alternatives, mdev)
            for address in functions:
                if runs:
                    self.held.setdefault(address, vmid)
                elif address not in self.held:
                    self.claimed.setdefault(address, vmid)
        return Claim(vmid, runs, entry.key, entry.mapping or None, mdev, functions, parents)

    def _taken(self, alternatives: tuple[tuple[str, ...], ...], mdev: str | None) -> tuple[str, ...]:
        """What an entry takes: the only alternative, or of several the first that nobody takes."""
        if len(alternatives) == 1:
            return alternatives[0]
        free = [one for one in alternatives if not any(name in self.held or name in self.claimed for name in one)]
        if mdev:  # a VF that has a vGPU offers none
            free.sort(key=lambda one: bool(self.hardware.functions[one[0]].types))
        return free[0] if free else ()

    # ---- mediated devices

    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that offer mediated devices, with what running VMs have of them."""
        grouped: dict[str, list[str]] = {}
        for function in self.hardware.functions.values():
            if function.mdev_parent and (function.types or function.physfn):
                grouped.setdefault(function.physfn or function.address, []).append(function.address)
        used: dict[str, dict[str, int]] = {}
        for claim in self.claims:
            where = claim.functions[:1] or claim.parents[:1]
            if claim.runs and claim.mdev and where:
                on = used.setdefault(self.hardware.functions[where[0]].physfn or where[0], {})
                on[claim.mdev] = on.get(claim.mdev, 0) + 1
        return tuple(self._gpu(address, functions, used.get(address, {})) for address, functions in grouped.items())

    def place(
        self, gpus: tuple[Gpu, ...], wanted: Iterable[tuple[str, tuple[str, ...]]]
    ) -> tuple[tuple[Gpu, ...], list[int]]:
        """The GPUs with instances of these types, each on the first of its functions that has a place for it.

        And which of those that are wanted have no place, by their number. A size of vGPU that a GPU does not take
        beside another one has none (model/placement.py).
        """
        missing = []
        for number, (kind, parents) in enumerate(wanted):
            rooms = placement.room(gpus, kind)
            offered = {
                place.address
                for gpu, room in zip(gpus, rooms, strict=True)
                for place in gpu.places
                if room and place.room.get(kind)
            }
            first = next((address for address in parents if address in offered), None)
            if first is None:
                missing.append(number)
            else:
                gpus = placement.after(gpus, first, kind)
        return gpus, missing

    def started(self, gpus: tuple[Gpu, ...]) -> tuple[tuple[Gpu, ...], list[Claim]]:
        """The GPUs when all claims on them are met, and the claims for which there is no place then."""
        whole = {address for claim in self.claims if not (claim.runs or claim.mdev) for address in claim.functions}
        gpus = tuple(
            gpu._replace(places=tuple(one._replace(room={}) if one.address in whole else one for one in gpu.places))
            for gpu in gpus
        )
        claims = [(claim, claim.mdev) for claim in self.claims if not claim.runs]
        wanted = [(claim, mdev) for claim, mdev in claims if mdev]
        gpus, missing = self.place(gpus, [(mdev, claim.parents) for claim, mdev in wanted])
        return gpus, [wanted[number][0] for number in missing]

    def _gpu(self, address: str, functions: list[str], used: dict[str, int]) -> Gpu:
        kinds = {kind.id: kind for name in functions for kind in self.hardware.functions[name].types}
        profiles = {kind.id: read(kind.id, kind.name, kind.description) for kind in kinds.values()}
        places = tuple(
            Place(name, position, _room(self.hardware, name, self.held)) for position, name in enumerate(functions)
        )
        return Gpu(address, places, used, profiles, rule_of(places, used, profiles))


def _room(hardware: NodeHardware, address: str, held: Mapping[str, int]) -> dict[str, int]:
    """What a function offers now, by type; nothing of a VF that a running VM has."""
    if address in held:
        return {}
    kinds = hardware.functions[address].types
    return {kind.id: 1 if kind.available is None else kind.available for kind in kinds}
