# SPDX-License-Identifier: Apache-2.0
"""The host's block devices: on which PCI function each is, and what the kernel makes of it.

Sources: Linux Documentation/ABI/stable/sysfs-block (holders, slaves, dev), ABI/testing/sysfs-block-dm (dm/name,
dm/uuid), the kernel's drivers/nvme/host/multipath.c (a namespace that several controllers may have is below a virtual
nvme-subsystem).
"""

from __future__ import annotations

from pvepassthru.model.pci import is_address
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from pvepassthru.host.host import Host

BLOCKS = "/sys/class/block"
SUBSYSTEMS = "/sys/class/nvme-subsystem"


def functions_above(path: str) -> tuple[str, ...]:
    """The PCI functions that a device in sysfs goes with, of a path such as a link there has it, the nearest last.

    That is the function it is on, and one that has a PCI domain of its own below it (Intel VMD); not the bridges.
    """
    words = path.split("/")
    pairs = zip(words, [*words[1:], ""], strict=True)
    return tuple(word for word, following in pairs if is_address(word) and not is_address(following))


class Blocks:
    """All block devices, each read when it is asked for."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.asked: set[str] = set()
        """Paths that were read; those of them in Host.unreadable could not be."""
        self._on: dict[str, list[str]] | None = None
        self._parts: dict[str, list[str]] = {}
        self._by_dm_name: dict[str, str] | None = None

    def on(self, address: str) -> tuple[str, ...]:
        """The names of the block devices on a PCI function, partitions too, sorted."""
        if self._on is None:
            self._on = {}
            for name in self.names(BLOCKS):
                for function in self._functions(name):
                    self._on.setdefault(function, []).append(name)
        return tuple(self._on.get(address, ()))

    def closure(self, name: str) -> tuple[str, ...]:
        """A block device and all that the kernel made of it, sorted: device-mapper, md, bcache and their partitions.

        Not the partitions of the device itself, which `on` tells, too.
        """
        found = {name}
        open_ends = self.holders(name)
        while open_ends:
            end = open_ends.pop()
            if end not in found:
                found.add(end)
                open_ends += [*self.holders(end), *self._parts.get(end, ())]
        return tuple(sorted(found))

    def folder(self, name: str) -> str:
        """A block device's folder in sysfs."""
        return f"{BLOCKS}/{name}"

    def holders(self, name: str) -> list[str]:
        """What the kernel made of a block device, directly."""
        return self.names(f"{BLOCKS}/{name}/holders")

    def has_parts(self, name: str) -> bool:
        """Whether a block device has partitions."""
        return name in self._parts

    def number(self, name: str) -> str | None:
        """`major:minor`, or None."""
        return self.text(f"{BLOCKS}/{name}/dev")

    def dm(self, name: str) -> tuple[str, str] | None:
        """Name and uuid of a device-mapper device; None of any other. The uuid's start says whose it is: `LVM-`."""
        if not name.startswith("dm-"):
            return None
        return self.text(f"{BLOCKS}/{name}/dm/name") or name, self.text(f"{BLOCKS}/{name}/dm/uuid") or ""

    def path(self, name: str) -> str:
        """A block device's node, as people know it."""
        dm = self.dm(name)
        return f"/dev/mapper/{dm[0]}" if dm else f"/dev/{name.replace('!', '/')}"

    def find(self, path: str) -> str | None:
        """The name of the block device that a path in /dev leads to, or None."""
        if not path.startswith("/dev/") or "\0" in path:
            return None
        name = path.removeprefix("/dev/").replace("/", "!")
        if self._is_block(name):
            return name
        if self._by_dm_name is None:
            devices = [(other, self.dm(other)) for other in self.names(BLOCKS)]
            self._by_dm_name = {dm[0]: other for other, dm in devices if dm}
        alias = path.removeprefix("/dev/mapper/")
        if alias == path:  # /dev/VG/LV is VG-LV to the kernel, with each `-` of the names doubled
            alias = "-".join(word.replace("-", "--") for word in path.split("/")[2:])
        if alias in self._by_dm_name:
            return self._by_dm_name[alias]
        real = self.host.resolve(path) or ""
        name = real.removeprefix("/dev/").replace("/", "!")
        return name if real.startswith("/dev/") and self._is_block(name) else None

    def names(self, folder: str) -> list[str]:
        """As Host.names; the path is remembered in `asked`."""
        self.asked.add(folder)
        return self.host.names(folder)

    def text(self, path: str) -> str | None:
        """As Host.text; the path is remembered in `asked`."""
        self.asked.add(path)
        return self.host.text(path)

    def _is_block(self, name: str) -> bool:
        return name not in {"", ".", ".."} and self.host.exists(f"{BLOCKS}/{name}")

    def _functions(self, name: str) -> set[str]:
        """The PCI functions that a block device is on; several of an NVMe namespace with several controllers."""
        path = f"{BLOCKS}/{name}"
        self.asked.add(path)
        target = self.host.target(path) or ""
        *above, parent, _ = ["", "", *target.split("/")]
        self._parts.setdefault(parent, []).append(name)
        found = set(functions_above(target))
        if "nvme-subsystem" in above:
            subsystem = f"{SUBSYSTEMS}/{[*above, parent][above.index('nvme-subsystem') + 1]}"
            for controller in self.names(subsystem):
                if controller.startswith("nvme") and controller[4:].isdecimal():
                    link = f"{subsystem}/{controller}"
                    self.asked.add(link)
                    found.update(functions_above(self.host.target(link) or ""))
        return found
