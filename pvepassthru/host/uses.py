# SPDX-License-Identifier: Apache-2.0
"""What the host itself uses its PCI functions for: what is lost when one is taken from its driver.

Read from the kernel's files, udev's database and the disks' labels, without any external command, and only for
functions that are asked for. A pool of ZFS counts while it is imported (/proc/spl/kstat/zfs/POOL), so that a controller
whose disks carry a guest's pool is free to go.
"""

from __future__ import annotations

import os

from pvepassthru.host import labels
from pvepassthru.host.blocks import BLOCKS, Blocks
from pvepassthru.host.labels import Labels
from pvepassthru.host.mounted import Mounted
from pvepassthru.host.nets import NETS, OVS, Nets
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple, Protocol
from pvepassthru.model.text import listed, shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from pvepassthru.host.host import Host
    from pvepassthru.host.inventory import Inventory

    Kind = Literal[
        "mount", "swap", "lvm", "zfs", "md", "route", "bridge", "doubt", "lvm label", "md label", "held", "network"
    ]

CRITICAL = frozenset({"mount", "swap", "lvm", "zfs", "md", "route", "bridge", "doubt"})
"""Kinds of use without which the host may be lost. The others are worth a warning: they may be a guest's."""
POOLS = "/proc/spl/kstat/zfs"
_FOLDERS = ((BLOCKS, ("01", "0c03")), (NETS, "02"))
"""Folders without which nothing is known of functions of these classes: storage and USB, network."""
_OF_LABELS = ("/dev/", labels.UDEV)
"""What matters only where a ZFS pool is imported: the kernel tells of all else that it uses."""


class Use(NamedTuple):
    """One thing that the host uses a function for."""

    kind: Kind
    """`mount` a mounted file system; `swap`; `lvm` active logical volumes; `zfs` an imported pool; `md` a running
    array; `route` the default route; `bridge` a port of a bridge; `doubt` what could not be read and so may be any of
    these. Weaker ones: `lvm label` and `md label` of a member that nothing uses; `held`, anything else that the kernel
    made of it (dm-crypt, multipath, bcache); `network`, an interface that the host has an address on."""
    name: str
    """The block device or interface on the function; of a doubt the path that could not be read."""
    detail: str
    """Words for people: `/dev/nvme0n1p3 is mounted on /boot`."""


class Around(Protocol):
    """What has a host and its inventory, such as the surroundings of rules."""

    host: Host
    inventory: Inventory


def read(around: Around) -> Uses:
    """The uses of a host's functions, none of them read yet; for `Surroundings.once`."""
    return Uses(around.host.copy_of or around.host, around.inventory)


class Uses:
    """What the host uses each of its functions for, read when it is asked for and then remembered."""

    def __init__(self, host: Host, inventory: Inventory) -> None:
        self.host = host
        self.inventory = inventory
        self._blocks = Blocks(host)
        self._nets = Nets(host)
        self._labels = Labels(self._blocks)
        self._of: dict[str, tuple[Use, ...]] = {}
        self._for_all: set[str] = set()
        """Paths that were read for all block devices; a doubt about one of them is one about each."""
        self._mounted: Mounted | None = None
        self._pools: dict[str, str] | None = None

    def of(self, address: str) -> tuple[Use, ...]:
        """What the host uses a function for, sorted; nothing of one that has neither block devices nor interfaces."""
        if address not in self._of:
            found = {use for name in self._blocks.on(address) for use in _telling(list(self._block(name)))}
            found |= {use for name in self._nets.on(address) for use in self._net(name)}
            kind = self.inventory.pci_class(address)
            folders = [folder for folder, kinds in _FOLDERS if kind.startswith(kinds)]
            found |= {self._doubt(folder) for folder in folders if folder in self.host.unreadable}
            self._of[address] = tuple(sorted(found))
        return self._of[address]

    def critical(self, address: str) -> tuple[Use, ...]:
        """Those uses of a function without which the host may be lost, doubts among them."""
        return tuple(use for use in self.of(address) if use.kind in CRITICAL)

    # ---- block devices

    def _block(self, name: str) -> Iterator[Use]:
        mounted = self._what_is_mounted()
        pools = self._imported()
        self._blocks.asked.clear()
        node = self._blocks.path(name)
        volumes = []
        for part in self._blocks.closure(name):
            words = node if part == name else f"{self._blocks.path(part)} on {node}"
            points, swaps = mounted.points(part), mounted.swaps(part)
            for point in points:
                yield Use("mount", name, f"{words} is mounted on {shown(point)}")
            for path in swaps:
                yield Use("swap", name, f"{words} " + (f"has the swap file {shown(path)}" if path else "is swap space"))
            if not (points or swaps or self._blocks.holders(part) or self._blocks.has_parts(part)):
                yield from self._labelled(name, part, words, pools)
            dm = self._blocks.dm(part)
            if dm and dm[1].startswith("LVM-"):
                volumes.append(shown(dm[0]))
            elif part != name:
                yield from self._made(name, part, node)
        if volumes:
            yield Use("lvm", name, f"{node} carries active logical volumes ({listed(sorted(volumes), 4)})")
        yield from self._block_doubts(mounted, pools)

    def _block_doubts(self, mounted: Mounted, pools: dict[str, str]) -> Iterator[Use]:
        for path in (self._for_all | self._blocks.asked).intersection(self.host.unreadable):
            if pools or not path.startswith(_OF_LABELS):
                yield self._doubt(path)
        for path, line in mounted.damaged.items():
            yield Use("doubt", path, f"line {line} of {path} makes no sense")

    def _made(self, name: str, part: str, node: str) -> Iterator[Use]:
        """What the kernel made of a block device, other than logical volumes."""
        folder = self._blocks.folder(part)
        state = self._blocks.text(f"{folder}/md/array_state")
        if state in {"inactive", "clear"}:
            yield Use("md label", name, f"{node} is a member of the md array /dev/{part}, which does not run")
        elif state is not None:
            yield Use("md", name, f"{node} is a member of the md array /dev/{part}, which runs")
        elif not self.host.exists(f"{folder}/partition"):
            yield Use("held", name, f"{node} is open as {self._blocks.path(part)}")

    def _labelled(self, name: str, part: str, words: str, pools: dict[str, str]) -> Iterator[Use]:
        """What a device is a member of, of which the kernel has made nothing."""
        label = self._labels.of(part)
        if label is None:
            return
        if label.kind == "zfs_member":
            for pool, guid in pools.items():
                if guid == label.uuid if guid and label.uuid else pool == label.name:
                    yield Use("zfs", name, f"{words} is part of the imported ZFS pool {shown(pool)}")
        elif label.kind == "LVM2_member":
            yield Use("lvm label", name, f"{words} is an LVM physical volume without active volumes")
        elif label.kind == "linux_raid_member":
            yield Use("md label", name, f"{words} is a member of an md array that does not run")

    def _what_is_mounted(self) -> Mounted:
        if self._mounted is None:
            self._mounted = Mounted(self._blocks)
            self._for_all |= self._blocks.asked
        return self._mounted

    def _imported(self) -> dict[str, str]:
        """The imported ZFS pools by name, each with its guid where ZFS tells that (from 2.2 on), else "".

        Source: OpenZFS's module/zfs/spa_stats.c; what is no pool in that folder has no `state`.
        """
        if self._pools is None:
            names = self._blocks.names(POOLS)
            self._pools = {
                name: self._blocks.text(f"{POOLS}/{name}/guid") or ""
                for name in names
                if self.host.exists(f"{POOLS}/{name}/state") or self.host.exists(f"{POOLS}/{name}/txgs")
            }
            self._for_all |= self._blocks.asked
        return self._pools

    # ---- interfaces

    def _net(self, name: str) -> Iterator[Use]:
        above = self._nets.above(name)
        for bridge in above.bridges:
            words = "Open vSwitch" if bridge == OVS else f"bridge {shown(bridge)}"
            yield Use("bridge", name, f"{name} is a port of {words}")
        if above.default:
            through = [shown(other) for other in above.default if other != name]
            by = f" by {listed(through)}" if through else ""
            yield Use("route", name, f"{name} carries the default route{by}")
        elif above.networks and not above.bridges:
            yield Use("network", name, f"{name} carries an address of the host ({listed(map(shown, above.networks))})")
        for path in self._nets.asked.intersection(self.host.unreadable):
            others = path.startswith(f"{NETS}/") and path.split("/")[4] not in above.names
            if not others:
                yield self._doubt(path)
        for path, line in self._nets.damaged.items():
            yield Use("doubt", path, f"line {line} of {path} makes no sense")

    def _doubt(self, path: str) -> Use:
        return Use("doubt", path, f"cannot read {path}: {os.strerror(self.host.unreadable[path])}")


def _telling(found: list[Use]) -> list[Use]:
    """The uses of one block device; that something is made of it says nothing more when that is in use."""
    in_use = any(use.kind in CRITICAL for use in found)
    return [use for use in found if not (in_use and use.kind == "held")]
