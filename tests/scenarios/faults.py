# SPDX-License-Identifier: Apache-2.0
"""Writes of a hook that fail or never return, and the VMs to try that with; on a simulated host only.

A write is one to a kernel attribute, or a word to systemd about a unit; and, apart from these, one to the journal, to
PVE's reservations or to another file of /run. They are counted, as the hook makes them, over all of its processes.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from pvepassthru.host import units
from pvepassthru.host.host import Host
from pvepassthru.host.sim import SimHost
from pvepassthru.model.errors import DeviceError
from tests import tree
from tests.scenarios import crashes, states
from tests.scenarios.crashes import SITUATIONS, Situation
from tests.scenarios.forked import VMID
from tests.scenarios.world import AUDIO, GPU, NIC, OTHER, PARENT, PARENTS, PCI, PF, VFS, uuid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.scenarios.world import SimWorld

ERRORS = (errno.EBUSY, errno.ENODEV, errno.EIO)
FULL = errno.ENOSPC
LATE, SLOW = "never returns", "is made after all"
"""A write that hangs until the test lets it go, and is not made, or made only then."""
OK_AND_NOTHING = "says ok and does nothing"
KERNEL, FILES = "kernel", "files"
"""Writes to the kernel's attributes and words to systemd; writes to files of /run."""
UNIT = "display-manager.service"


class Case(NamedTuple):
    """A VM whose hook meets faults."""

    situation: Situation
    furnish: Callable[[SimWorld, int], None]
    """With how many seconds for a write, where the policy has a word in that."""
    moves: bool = False
    """Whether a start that is refused in one place goes to another."""
    vfs: bool = False
    """Whether the start makes VFs, which a start that fails leaves: whole, or marked as not set up."""


class Faults:
    """The write that fails: of those that the hook makes from now on, the one of this number."""

    def __init__(self, folder: str) -> None:
        self._count, self._release = f"{folder}/count", f"{folder}/release"
        self._first, self._last = 0, 0
        self._fault: int | str = 0

    @property
    def paths(self) -> list[str]:
        """What was written to since `at` began, in order: paths, and units of systemd."""
        with open(self._count, encoding="utf-8") as file:
            return file.read().splitlines()

    @contextmanager
    def at(self, number: int, fault: int | str = 0, times: int = 1, kind: str = KERNEL) -> Iterator[None]:
        """For as long as the `with` lasts that write fails, or so many from it on; none at number 0."""
        self._first, self._last, self._fault = number, number + times - 1, fault
        open(self._count, "w", encoding="utf-8").close()
        if os.path.exists(self._release):
            os.unlink(self._release)
        real = {(place, name): getattr(place, name) for place, name in PLACES[kind]}
        for (place, name), usual in real.items():
            setattr(place, name, self._instead(name, usual, kind))
        try:
            yield
        finally:
            for (place, name), usual in real.items():
                setattr(place, name, usual)
            open(self._release, "w", encoding="utf-8").close()

    def _instead(self, name: str, real: Callable[..., None], kind: str) -> Callable[..., None]:
        """What stands in for a function that writes; its second argument is what it writes to."""
        fail = self._write if name == "write" or kind == FILES else self._tell

        def write(host: Host, path: str, *more: Any) -> None:  # noqa: ANN401 - as what it stands in for
            counts = not path.startswith("/sys/") if kind == FILES else name != "write" or path.startswith("/sys/")
            if not (counts and self._hits(f"{path} {more[0].strip()}" if name == "write" else path)):
                real(host, path, *more)
                return
            if fail(name, path):
                real(host, path, *more)

        return write

    def _hits(self, path: str) -> bool:
        """Count a write, and return whether it fails."""
        with open(self._count, "a", encoding="utf-8") as file:
            file.write(path + "\n")
        return self._first <= len(self.paths) <= self._last

    def _write(self, _name: str, path: str) -> bool:
        """What the kernel does; returns whether the write is made. Raises OSError."""
        if isinstance(self._fault, int):
            raise OSError(self._fault, os.strerror(self._fault), path)
        while self._fault in {LATE, SLOW} and not os.path.exists(self._release):
            time.sleep(0.01)
        return self._fault == SLOW

    def _tell(self, what: str, unit: str) -> bool:
        """What systemd does; returns whether it is done. Raises DeviceError as units does."""
        if isinstance(self._fault, int):
            raise DeviceError(f"cannot {what} {unit}: Job for {unit} failed", f"see systemctl status {unit}")
        if self._fault == OK_AND_NOTHING:
            return True  # systemd means what it says
        time.sleep(1)
        raise DeviceError(f"systemctl {what} {unit} has not ended within 1 s", "see its status")


PLACES: dict[str, tuple[tuple[Any, str], ...]] = {
    KERNEL: ((SimHost, "write"), (units, "stop"), (units, "start")),
    FILES: ((Host, "append"), (Host, "replace")),
}
"""Where a hook writes."""


# ---- the VMs


def _mdevs(world: SimWorld, _seconds: int) -> None:
    crashes.furnish(world, SITUATIONS["mdevs"].config)


PLACED = "hostpci0: mapping=vgpu,mdev=tbmdev-1\n"


def _placed(world: SimWorld, _seconds: int) -> None:
    """The second parent has one unit left, which pack takes first."""
    crashes.furnish(world, PLACED)
    world.create(2, "f0f0f0f0-0000-0000-0000-000000000009", OTHER)
    world.map("vgpu", PARENTS)
    world.policy("mappings: {vgpu: {placement: pack}}\n")


def _vgpu(world: SimWorld, _seconds: int) -> None:
    crashes.furnish(world, SITUATIONS["vgpu"].config)


HANDOVER = f"hostpci0: {GPU[:-2]}\nhostpci1: {NIC}\n"


def _handover(world: SimWorld, seconds: int) -> None:
    crashes.furnish(world, HANDOVER)
    world.policy(f"defaults: {{seconds: {seconds}}}\ndevices:\n  '{GPU[:-2]}': {{give_back: former}}\n")


MIXED = f"hostpci0: {PARENT},mdev=tbmdev-1\nhostpci1: {VFS[0]},mdev=nvidia-100\nhostpci2: {NIC}\n"


def _mixed(world: SimWorld, seconds: int) -> None:
    crashes.furnish(world, MIXED)
    world.policy(f"defaults: {{seconds: {seconds}}}\n")


def _everything(world: SimWorld, seconds: int, more: str = "") -> None:
    """All that a policy can set; `more` is for the network card."""
    states.furnish(world)
    with world.pve._locked(VMID):  # makes PVE's lock file, which stays
        pass
    world.policy(
        f"defaults: {{seconds: {seconds}}}\n{states.POLICY}{states.BARS}".replace("rescan: true", f"rescan: true{more}")
        + f"services:\n  {UNIT}: {{devices: ['{GPU[:-2]}'], seconds: {seconds}}}\n"
    )
    tree.put(world.root, f"{units.SIMULATED[1:]}/{UNIT}", "active\n")


def _fails(world: SimWorld, _seconds: int) -> None:
    crashes.furnish(world, SITUATIONS["fails"].config)


def _fails_late(world: SimWorld, seconds: int) -> None:
    """The network card is to have a BAR of a size that it cannot have: that is noticed when all are unbound."""
    _everything(world, seconds, ", bars: {0: 256M}")


def _in_hook(world: SimWorld, seconds: int) -> None:
    """The start makes two VFs, binds them by the policy, and one of them is the VM's."""
    world.host.write(f"{PCI}/{PF}/driver_override", "tbvgpu")
    world.host.write("/sys/bus/pci/drivers_probe", PF)
    world.policy(f"defaults: {{seconds: {seconds}}}\nsriov: {{'{PF}': {{vfs: 2, in_hook: true, driver: vfio-pci}}}}\n")
    world.pve.define(VMID, f"hostpci0: {VFS[1]}\n")
    with world.pve._locked(VMID):
        pass


MDEV, SECOND = uuid(0, VMID), uuid(1, VMID)
CASES = {
    "mdevs": Case(SITUATIONS["mdevs"], _mdevs),
    "placed": Case(Situation(PLACED, (MDEV,)), _placed, moves=True),
    "vgpu": Case(SITUATIONS["vgpu"], _vgpu),
    "handover": Case(Situation(HANDOVER, (GPU, AUDIO, NIC)), _handover),
    "mixed": Case(Situation(MIXED, (MDEV, VFS[0], NIC)), _mixed),
    "everything": Case(states.EVERYTHING, _everything),
    "fails": Case(SITUATIONS["fails"], _fails),
    "fails late": Case(Situation(states.CONFIG, (), fails=True), _fails_late),
    "VFs": Case(Situation(f"hostpci0: {VFS[1]}\n", ()), _in_hook, vfs=True),
}
