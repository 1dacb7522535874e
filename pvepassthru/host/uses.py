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
from pvepassthru.host.mounted import Mounted
from pvepassthru.host.nets import OVS, Nets
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple, Protocol
from pvepassthru.model.text import listed, shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from pvepassthru.host.host import Host
    from pvepassthru.host.inventory import Inventory
    from pvepassthru.model.label import Label

    Kind = Literal[
        "mount", "swap", "lvm", "zfs", "md", "route", "bridge", "doubt", "lvm label", "md label", "held", "network"
    ]

CRITICAL = frozenset({"mount", "swap", "lvm", "zfs", "md", "route", "bridge", "doubt"})
"""Kinds of use without which the host may be lost. The others are worth a warning: they may be a guest's."""
POOLS = "/proc/spl/kstat/zfs"


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
    return Uses(around.host, around.inventory)


class Uses:
    """What the host uses each of its functions for, read when it is asked for and then remembered."""

    def __init__(self, host: Host, inventory: Inventory) -> None:
        self.host = host
        self.inventory = inventory
        self._blocks = Blocks(host)
        self._nets = Nets(host)
        self._of: dict[str, tuple[Use, ...]] = {}
        self._mounted: Mounted | None = None
        self._pools: dict[str, str] | None = None

    def of(self, address: str) -> tuple[Use, ...]:
        """What the host uses a function for, sorted; nothing of one that has neither block devices nor interfaces."""
        if address not in self._of:
            blocks, nets = self._blocks.on(address), self._nets.on(address)
            found = {use for name in blocks for use in self._block(name)}
            found |= {use for name in nets for use in self._net(name)}
            self._of[address] = tuple(sorted(found))
        return self._of[address]

    def critical(self, address: str) -> tuple[Use, ...]:
        """Those uses of a function without which the host may be lost, doubts among them."""
        return tuple(use for use in self.of(address) if use.kind in CRITICAL)

    # ---- block devices

    @property
    def mounted(self) -> Mounted:
        """What is mounted and swapped to."""
        if self._mounted is None:
            self._mounted = Mounted(self._blocks)
        return self._mounted

    def _block(self, name: str) -> Iterator[Use]:
        node = self._blocks.path(name)
        closure = self._blocks.closure(name)
        volumes = []
        for part in closure:
            words = node if part == name else f"{self._blocks.path(part)} on {node}"
            for point in self.mounted.points(part):
                yield Use("mount", name, f"{words} is mounted on {shown(point)}")
            for path in self.mounted.swaps(part):
                yield Use("swap", name, f"{words} " + (f"has the swap file {shown(path)}" if path else "is swap space"))
            if not self._blocks.holders(part):
                yield from self._labelled(name, part, words)
            dm = self._blocks.dm(part)
            if dm and dm[1].startswith("LVM-"):
                volumes.append(shown(dm[0]))
            elif part != name:
                yield from self._made(name, part, node)
        if volumes:
            yield Use("lvm", name, f"{node} carries active logical volumes ({listed(volumes, 4)})")
        yield from self._doubts(self._blocks.asked, (name, *closure), self.mounted.damaged)

    def _made(self, name: str, part: str, node: str) -> Iterator[Use]:
        """What the kernel made of a block device, other than logical volumes."""
        state = self._blocks.text(f"{BLOCKS}/{part}/md/array_state")
        if state in {"inactive", "clear"}:
            yield Use("md label", name, f"{node} is a member of the md array /dev/{part}, which does not run")
        elif state is not None:
            yield Use("md", name, f"{node} is a member of the md array /dev/{part}, which runs")
        elif self._blocks.dm(part) or not self.host.exists(f"{BLOCKS}/{part}/partition"):
            yield Use("held", name, f"{node} is open as {self._blocks.path(part)}")

    def _labelled(self, name: str, part: str, words: str) -> Iterator[Use]:
        """What a device is a member of, of which the kernel has made nothing."""
        label = labels.of(self._blocks, part)
        if label is None:
            return
        if label.kind == "zfs_member":
            pool = self._pool(label)
            if pool:
                yield Use("zfs", name, f"{words} is part of the imported ZFS pool {shown(pool)}")
        elif label.kind == "LVM2_member":
            yield Use("lvm label", name, f"{words} is an LVM physical volume without active volumes")
        elif label.kind == "linux_raid_member":
            yield Use("md label", name, f"{words} is a member of an md array that does not run")

    def _pool(self, label: Label) -> str | None:
        """The imported pool that a label means, or None: by guid where ZFS tells it (2.2), else by name."""
        if self._pools is None:
            names = self._blocks.names(POOLS)
            self._pools = {
                name: self._blocks.text(f"{POOLS}/{name}/guid") or ""
                for name in names
                if any(self.host.exists(f"{POOLS}/{name}/{file}") for file in ("state", "txgs", "io"))
            }
        for pool, guid in self._pools.items():
            if guid == label.uuid if guid and label.uuid else pool == label.name:
                return pool
        return None

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
        elif above.networks:
            yield Use("network", name, f"{name} carries an address of the host ({listed(map(shown, above.networks))})")
        yield from self._doubts(self._nets.asked, above.names, self._nets.damaged)

    # ---- what could not be read

    def _doubts(self, asked: set[str], names: tuple[str, ...], damaged: dict[str, int]) -> Iterator[Use]:
        """What of the files that decide could not be read: those of all, and those of these devices."""
        for path in asked.intersection(self.host.unreadable):
            words = path.split("/")
            of_others = path.startswith((f"{BLOCKS}/", "/sys/class/net/")) and not set(names).intersection(words)
            if not of_others:
                yield Use("doubt", path, f"cannot read {path}: {os.strerror(self.host.unreadable[path])}")
        for path, line in damaged.items():
            yield Use("doubt", path, f"line {line} of {path} makes no sense")
