# SPDX-License-Identifier: Apache-2.0
"""What PCI hardware a host has, read from sysfs on demand and remembered.

An inventory is a view of one moment: each attribute is read once. Take a new one after a write.
Sources: Linux Documentation/ABI/testing/sysfs-bus-pci, sysfs-bus-vfio-mdev, sysfs-kernel-iommu_groups.
"""

from __future__ import annotations

from pvepassthru.model.pci import is_address, is_uuid
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import number

if TYPE_CHECKING:
    from pvepassthru.host.host import Host

DEVICES = "/sys/bus/pci/devices"
MDEVS = "/sys/bus/mdev/devices"
IOMMUS = "/sys/class/iommu"
MANY = 16
"""So many overrides are read one by one."""


class MdevType(NamedTuple):
    """One folder of a parent's mdev_supported_types."""

    id: str
    """The folder's name, such as nvidia-63 or i915-GVTg_V5_4."""
    name: str | None
    """The driver's own name of it."""
    available: int | None
    """Instances that can still be created; None if the file is missing or holds no number."""
    description: str | None


class Mdev(NamedTuple):
    """A mediated device instance."""

    uuid: str
    parent: str | None
    """Address of the parent, or None when it cannot be told (it just vanished)."""
    type: str | None
    """None while the kernel still creates it: the uuid is listed before its mdev_type link exists."""


class Inventory:
    """The PCI functions, IOMMU groups and mediated devices of a host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._text: dict[str, str | None] = {}
        self._links: dict[str, str | None] = {}
        self._addresses: tuple[str, ...] | None = None
        self._slots: dict[str, tuple[str, ...]] = {}
        self._drivers: dict[str, bool] = {}
        self._groups: dict[str, int | None] = {}
        self._members: dict[int, tuple[str, ...]] = {}
        self._overrides = 0

    # ---- functions

    def addresses(self) -> tuple[str, ...]:
        """The addresses of all functions, sorted as text."""
        if self._addresses is None:
            self._addresses = tuple(name for name in self.host.names(DEVICES) if is_address(name))
        return self._addresses

    def in_slot(self, slot: str) -> tuple[str, ...]:
        """The addresses of a slot's functions (`0000:01:00`), sorted; none if there is no such slot."""
        if not self._slots:
            slots: dict[str, list[str]] = {}
            for address in self.addresses():
                slots.setdefault(address.partition(".")[0], []).append(address)
            self._slots = {name: tuple(functions) for name, functions in slots.items()}
        return self._slots.get(slot, ())

    def attribute(self, address: str, name: str) -> str | None:
        """A function's attribute as text, or None if there is none."""
        path = f"{DEVICES}/{address}/{name}"
        if path not in self._text:
            if name == "driver_override":
                self._read_overrides(path)
            else:
                self._text[path] = self.host.text(path)
        return self._text[path]

    def _read_overrides(self, path: str) -> None:
        """Read the driver_override of one function, and after a few the others' too: together they are read sooner."""
        self._overrides += 1
        paths = [path]
        if self._overrides > MANY:
            paths += [f"{DEVICES}/{address}/driver_override" for address in self.addresses()]
        self._text |= self.host.texts([path for path in dict.fromkeys(paths) if path not in self._text])

    def pci_class(self, address: str) -> str:
        """A function's class code in lower-case hex, base, sub class and interface (030000); empty if it has none."""
        return (self.attribute(address, "class") or "").removeprefix("0x").lower()

    def is_bridge(self, address: str) -> bool:
        """Whether a function is a bridge, by its class or its bus: it goes to no VM with its group."""
        return self.has(address, "pci_bus") or self.pci_class(address).startswith("06")

    def has(self, address: str, name: str) -> bool:
        """Whether a function has this file or folder (`pci_bus` marks bridges, `nvidia` NVIDIA's vendor vGPU)."""
        return self.host.exists(f"{DEVICES}/{address}/{name}")

    def driver(self, address: str) -> str | None:
        """The name of the bound driver, or None."""
        return self._link(f"{DEVICES}/{address}/driver")

    def _link(self, path: str) -> str | None:
        if path not in self._links:
            self._links[path] = self.host.link(path)
        return self._links[path]

    def driver_available(self, name: str) -> bool | None:
        """Whether a PCI driver is there, or a module of its name that can be loaded into the running kernel.

        Driver mlx5_vfio_pci is module mlx5-vfio-pci.ko: `-` and `_` are the same to modprobe.
        None if that cannot be told: no folder of drivers, as in an incomplete copy of a host.
        """
        if name not in self._drivers:
            if not self.host.exists("/sys/bus/pci/drivers"):
                return None
            folder = f"/lib/modules/{self.host.text('/proc/sys/kernel/osrelease')}"
            file = f"/{name.replace('-', '_')}.ko"  # snd-hda-intel.ko has the driver snd_hda_intel
            self._drivers[name] = self.host.exists(f"/sys/bus/pci/drivers/{name}") or any(
                file in (self.host.text(f"{folder}/{listing}") or "").replace("-", "_")
                for listing in ("modules.dep", "modules.builtin")
            )
        return self._drivers[name]

    def physical_function(self, address: str) -> str | None:
        """The address of a VF's physical function, or None when this is no VF."""
        return self._link(f"{DEVICES}/{address}/physfn")

    def virtual_functions(self, address: str) -> tuple[str, ...]:
        """The addresses of a PF's virtual functions, by their number; none of what has none."""
        folder = f"{DEVICES}/{address}"
        numbers = [name[6:] for name in self.host.names(folder) if name.startswith("virtfn") and name[6:].isdecimal()]
        links = (self.host.link(f"{folder}/virtfn{number}") for number in sorted(numbers, key=int))
        return tuple(link for link in links if link)

    # ---- IOMMU groups

    def iommu_present(self) -> bool | None:
        """Whether the kernel drives an IOMMU: /sys/class/iommu is not empty; None if it is absent or unreadable."""
        if self.host.names(IOMMUS):
            return True
        return None if IOMMUS in self.host.unreadable or not self.host.exists(IOMMUS) else False

    def group(self, address: str) -> int | None:
        """The number of a function's IOMMU group, or None without one."""
        if address not in self._groups:
            name = self.host.link(f"{DEVICES}/{address}/iommu_group")
            self._groups[address] = number(name)
        return self._groups[address]

    def group_members(self, address: str) -> tuple[str, ...]:
        """The addresses in a function's IOMMU group, itself included, sorted; none without a group."""
        group = self.group(address)
        if group is None:
            return ()
        if group not in self._members:
            listed = self.host.names(f"{DEVICES}/{address}/iommu_group/devices")
            self._members[group] = (
                tuple(name for name in listed if is_address(name))
                if listed
                else tuple(other for other in self.addresses() if self.group(other) == group)
            )
        return self._members[group]

    # ---- mediated devices

    def mdev_types(self, address: str) -> tuple[MdevType, ...]:
        """The mdev types that a function supports, sorted by id; none if it is no mdev parent."""
        return tuple(
            self.mdev_type(address, name) for name in self.host.names(f"{DEVICES}/{address}/mdev_supported_types")
        )

    def mdev_type(self, address: str, type_id: str) -> MdevType:
        """One mdev type of a function, all its values None if it has no such type."""
        folder = f"mdev_supported_types/{type_id}"
        return MdevType(
            type_id,
            self.attribute(address, f"{folder}/name"),
            self.mdev_available(address, type_id),
            self.attribute(address, f"{folder}/description"),
        )

    def mdev_available(self, address: str, type_id: str) -> int | None:
        """How many more instances of a type a function says that it can have; None if it does not say."""
        return number(self.attribute(address, f"mdev_supported_types/{type_id}/available_instances"))

    def mdev_room(self, address: str) -> dict[str, int | None]:
        """The mdev types of a function by id, each with what `mdev_available` says: all that a start asks of them."""
        names = self.host.names(f"{DEVICES}/{address}/mdev_supported_types")
        return {name: self.mdev_available(address, name) for name in names}

    def mdevs(self) -> tuple[Mdev, ...]:
        """All mediated device instances, sorted by uuid."""
        return tuple(self.mdev(uuid) for uuid in self.host.names(MDEVS))

    def mdevs_of(self, parent: str) -> tuple[str, ...]:
        """The UUIDs of a parent's instances, sorted.

        Also of those that /sys/bus/mdev lists no more: a process has them open, and their removal waits for it.
        """
        return tuple(name for name in self.host.names(f"{DEVICES}/{parent}") if is_uuid(name))

    def mdev(self, uuid: str) -> Mdev:
        """One instance; every value but its uuid is None if there is no such instance."""
        folder = f"{MDEVS}/{uuid}"
        return Mdev(uuid, self._parent(folder), self.host.link(f"{folder}/mdev_type"))

    def _parent(self, folder: str) -> str | None:
        """An instance's parent: the instance is a folder in its parent's, of which /sys/bus/mdev has a link."""
        target = self.host.resolve(folder)
        name = target.rsplit("/", 2)[-2] if target else ""
        return name if is_address(name) else None

    # ---- NVIDIA's vendor vGPU interface (kernel 6.8 and newer)

    def vgpu_creatable(self, address: str) -> dict[str, str]:
        """Type id (digits) to name, as nvidia/creatable_vgpu_types offers them; empty without that file."""
        text = self.attribute(address, "nvidia/creatable_vgpu_types") or ""
        types: dict[str, str] = {}
        for line in text.splitlines():
            type_id, colon, name = line.partition(":")
            if colon and type_id.strip().isdecimal():  # the file may start with a header line, "ID    : vGPU Name"
                types[type_id.strip()] = name.strip()
        return types

    def vgpu_current(self, address: str) -> str | None:
        """The set type id, "0" for none, or None without nvidia/current_vgpu_type."""
        return self.attribute(address, "nvidia/current_vgpu_type")
