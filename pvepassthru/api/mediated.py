# SPDX-License-Identifier: Apache-2.0
"""Which mdev or vGPU type serves a device of a wish, and on which parent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.api.wish import BEST
from pvepassthru.model import profile
from pvepassthru.model.errors import DeviceError, NotFoundError, UsageError
from pvepassthru.model.profile import Offer
from pvepassthru.model.text import listed, nearest, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pvepassthru.api.hardware import NodeHardware
    from pvepassthru.api.wish import Device
    from pvepassthru.model.profile import Profile


class Mediated:
    """Chooses types and parents on one node."""

    def __init__(self, hardware: NodeHardware, notes: list[str]) -> None:
        self.hardware = hardware
        self.notes = notes
        self.used: list[tuple[str, str]] = []
        """(parent, type) of what was chosen already."""

    def fits(self, device: Device, kind: str) -> bool:
        """Whether an mdev type that a VM has is what a device of its wish may have."""
        if device.mdev not in {BEST, kind}:
            return False
        if not device.framebuffer:
            return True
        known = self._known(kind)
        if known is None or known.framebuffer is None:
            note = f"it cannot be told how much graphics memory {shown(kind)} has, which the VM has already"
            if note not in self.notes:
                self.notes.append(note)
            return True
        return known.framebuffer >= device.framebuffer

    def choose(
        self, device: Device, parents: Sequence[str], in_use: Sequence[tuple[str, str]], *, pooled: bool = False
    ) -> tuple[str, str]:
        """The parent and the type; with `pooled` PVE chooses the parent at the start, and the first that fits is told.

        Raises NotFoundError without such a type, DeviceError without room, UsageError when several GPUs have room.
        """
        offers = {parent: self.hardware.functions[parent].offers() for parent in parents}
        where = f" on {listed(parents, 4)}" if device.addresses or device.vf_of or device.mapping else ""
        if not any(offers.values()):
            hint = "load the driver that provides them, and see pvepassthru mdev types on the node"
            raise NotFoundError(f"node {self.hardware.node} offers no mdev types{where}", hint)
        kind = self._best(device, offers, where) if device.mdev == BEST else self._named(device, offers, where)
        taken = [*in_use, *self.used]
        able = [one for one in parents if kind in offers[one]]
        room = [one for one in able if offers[one][kind][1] > taken.count((one, kind))]
        candidates = room or able
        gpus = dict.fromkeys(self.hardware.functions[one].physfn or one for one in candidates)
        if len(gpus) > 1 and not pooled:
            words = (self.hardware.functions[one].words if one in self.hardware.functions else one for one in gpus)
            hint = f"name the one that is wanted, such as --device {next(iter(gpus))}, or use a mapping of all"
            raise UsageError(f"{len(gpus)} devices on node {self.hardware.node} offer {kind}: {listed(words)}", hint)
        return candidates[0], kind

    def _named(self, device: Device, offers: dict[str, dict[str, tuple[Profile, int]]], where: str) -> str:
        """The type that a device names, if it is offered and large enough."""
        kind = device.mdev
        known = sorted({name for types in offers.values() for name in types})
        if kind not in known:
            near = nearest(kind, known)
            hint = f"is {near} meant? " if near else ""
            message = f"node {self.hardware.node} does not offer the mdev type {shown(kind)}{where}"
            raise NotFoundError(message, f"{hint}the types are {listed(known)}")
        size = next(types[kind][0].framebuffer for types in offers.values() if kind in types)
        if device.framebuffer and size is not None and size < device.framebuffer:
            message = f"{kind} has {size} MiB of graphics memory, and {device.framebuffer} MiB are required"
            raise UsageError(message, "name a larger type, or best")
        return kind

    def _best(self, device: Device, offers: dict[str, dict[str, tuple[Profile, int]]], where: str) -> str:
        """The least type with the graphics memory that is required, of which an instance is left."""
        rooms: dict[str, int] = {}
        profiles: dict[str, Profile] = {}
        for types in offers.values():
            for kind, (found, room) in types.items():
                profiles[kind] = found
                rooms[kind] = rooms.get(kind, 0) + room
        ranked = profile.choose((Offer(profiles[kind], room) for kind, room in rooms.items()), device.framebuffer)
        if ranked:
            return ranked[0].profile.id
        sizes = listed(
            f"{kind} ({profiles[kind].framebuffer or '?'} MiB, {rooms[kind]} left)" for kind in sorted(profiles)
        )
        need = f"with {device.framebuffer} MiB of graphics memory" if device.framebuffer else "of known graphics memory"
        message = f"no mdev type {need} has an instance left on node {self.hardware.node}{where}"
        raise DeviceError(message, f"there are {sizes}")

    def _known(self, kind: str) -> Profile | None:
        """What any function of the node tells of a type."""
        for function in self.hardware.functions.values():
            found = function.offers().get(kind)
            if found:
                return found[0]
        return None
