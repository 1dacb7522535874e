# SPDX-License-Identifier: Apache-2.0
"""The PCI hardware of one node as a value: by what the API says of it, or from the host's own inventory.

Both roads end in one type, which is a view of hardware for model/resolve.py as well. What a road cannot tell is None,
or said in `unknown`. Sources: nodes/N/hardware/pci (PVE::SysFSTools::lspci, `verbose`), and its mdev lists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.host.inventory import Mdev, MdevType
from pvepassthru.host.pciids import PciIds
from pvepassthru.model import pci, profile
from pvepassthru.model.text import number, shown
from pvepassthru.rules.memory import bar_sizes, intel_cpu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pvepassthru.host.inventory import Inventory
    from pvepassthru.model.profile import Profile
    from pvepassthru.rules.subject import Surroundings

    Answer = Mapping[str, object]
    """One entry of a list that the API answers."""

NODES = "/sys/devices/system/node"
KINDS = {"gpu": "03", "nic": "02", "nvme": "0108"}
"""What a class of devices is called, and how its class code begins."""
KIND_WORDS = {"gpu": "GPU", "nic": "network card", "nvme": "NVMe drive"}
"""The kinds in messages."""
VITAL = ("01", "02")
"""How the class codes of what a host lives on begin: storage controllers and network cards."""
VENDOR_VGPU = "nvidia-"
"""How the types of NVIDIA's vendor interface are written in `mdev=`, before their number."""
API_CANNOT_TELL = (
    "the API does not tell what the host itself uses a device for, its driver, its NUMA node, its reset methods or the "
    "size of its BARs; pvepassthru validate on the node does"
)
_ATTRIBUTES = ("vendor", "device", "class", "subsystem_vendor", "subsystem_device")
_CONSOLE = "boot_vga"


class Function(NamedTuple):
    """One PCI function."""

    address: str
    attributes: dict[str, str]
    """The texts of vendor, device, class, subsystem_vendor and subsystem_device as sysfs has them, with 0x; and irq."""
    group: int | None = None
    name: str = ""
    """Vendor and device in words."""
    physfn: str | None = None
    vfs: tuple[str, ...] = ()
    mdev_parent: bool = False
    """Whether it has mediated devices, as the kernel's own interface offers them; by the API, or as NVIDIA's does."""
    vendor_vgpu: bool = False
    """Whether it has NVIDIA's vendor interface."""
    types: tuple[MdevType, ...] = ()
    vgpu_types: dict[str, str] = {}  # noqa: RUF012 - the default of a field, which nobody changes
    """Of NVIDIA's vendor interface: type number to name."""
    vgpu_current: str | None = None
    bridge: bool = False
    numa_node: int | None = None
    bars: int | None = None
    """Bytes of its 64-bit BARs together; None if that cannot be told."""
    console: bool = False
    """Whether the host shows its own console on it."""
    use: str = ""
    """What the host cannot do without of it, in words; also empty where that cannot be told."""

    @property
    def ids(self) -> str:
        """`vendor:device`, without 0x."""
        return ":".join(self.attributes.get(name, "").removeprefix("0x") for name in ("vendor", "device"))

    @property
    def pci_class(self) -> str:
        """The class code in lower-case hex (030000), empty without one."""
        return self.attributes.get("class", "").removeprefix("0x").lower()

    @property
    def vendor(self) -> str:
        """The vendor's id without 0x."""
        return self.ids.partition(":")[0]

    @property
    def kind(self) -> str | None:
        """The word of KINDS for it, or None."""
        return next((kind for kind, code in KINDS.items() if self.pci_class.startswith(code)), None)

    @property
    def is_askable(self) -> bool:
        """Whether it has mediated devices, and the API can be asked for their types."""
        return self.mdev_parent and pci.has_short_domain(self.address)

    @property
    def has_outputs(self) -> bool:
        """Whether it is a GPU to which a monitor can be connected: class 0302 has no outputs."""
        return self.pci_class.startswith("03") and not self.pci_class.startswith("0302")

    @property
    def words(self) -> str:
        """Its address, and what it is."""
        return f"{self.address} ({shown(self.name) if self.name else self.ids})"

    def offers(self) -> dict[str, tuple[Profile, int]]:
        """The mdev and vGPU types that it knows, as written in `mdev=`, each with how many more of it fit now."""
        found = {
            kind.id: (
                profile.read(kind.id, kind.name, kind.description),
                1 if kind.available is None else kind.available,
            )
            for kind in self.types
        }
        free = int(self.vgpu_current == "0")
        for type_number, name in self.vgpu_types.items():
            kind_id = f"{VENDOR_VGPU}{type_number}"
            found[kind_id] = (profile.read(kind_id, name, None), free)
        return found


class NodeHardware(NamedTuple):
    """The PCI functions of a node, with all that resolving a config asks of them (model/problem.py, Hardware)."""

    node: str
    functions: dict[str, Function]
    """By address."""
    slots: dict[str, tuple[str, ...]]
    """The addresses of each slot's functions, sorted."""
    iommu: bool | None = None
    vfio: bool | None = None
    """Whether there is a driver vfio-pci; None if that cannot be told."""
    mdevs: dict[str, Mdev] = {}  # noqa: RUF012 - as above
    """The mediated devices that exist, by UUID."""
    numa: dict[int, str] = {}  # noqa: RUF012 - as above
    """The CPUs of each NUMA node as a list such as 0-7,16-23; empty if that cannot be told."""
    intel: bool | None = None
    """Whether the node's CPU is Intel's; None if that cannot be told."""
    unknown: str = ""
    """What this road cannot tell, in a sentence."""

    # ---- what model/problem.py asks

    def addresses(self) -> tuple[str, ...]:
        """The addresses of all functions, sorted."""
        return tuple(self.functions)

    def in_slot(self, slot: str) -> tuple[str, ...]:
        """The addresses of a slot's functions, sorted."""
        return self.slots.get(slot, ())

    def attribute(self, address: str, name: str) -> str | None:
        """A function's attribute as text, or None."""
        function = self.functions.get(address)
        return function.attributes.get(name) if function else None

    def has(self, address: str, name: str) -> bool:
        """Whether a function has this file or folder."""
        function = self.functions.get(address)
        if function is None:
            return False
        folders = {
            "mdev_supported_types": function.mdev_parent,
            "nvidia": function.vendor_vgpu,
            "pci_bus": function.bridge,
        }
        return folders.get(name, name in function.attributes)

    def group(self, address: str) -> int | None:
        """A function's IOMMU group, or None."""
        function = self.functions.get(address)
        return function.group if function else None

    def iommu_present(self) -> bool | None:
        """Whether the kernel drives an IOMMU; None if that cannot be told."""
        return self.iommu

    def driver_available(self, name: str) -> bool | None:
        """Whether a driver is there or can be loaded; None if that cannot be told."""
        return self.vfio if name == "vfio-pci" else None

    def mdev_room(self, address: str) -> dict[str, int | None]:
        """The mdev types of a function by id, each with how many more instances fit; None if that cannot be told."""
        function = self.functions.get(address)
        return {kind.id: kind.available for kind in function.types} if function else {}

    def mdevs_of(self, parent: str) -> tuple[str, ...]:
        """The UUIDs of a parent's mediated devices."""
        return tuple(uuid for uuid, made in self.mdevs.items() if made.parent == parent)

    def mdev(self, uuid: str) -> Mdev:
        """One mediated device."""
        return self.mdevs.get(uuid, Mdev(uuid, None, None))

    def vgpu_creatable(self, address: str) -> dict[str, str]:
        """The vendor vGPU types on offer, number to name."""
        function = self.functions.get(address)
        return function.vgpu_types if function else {}

    def vgpu_current(self, address: str) -> str | None:
        """The vendor vGPU type that is set, "0" for none, or None without that interface."""
        function = self.functions.get(address)
        return function.vgpu_current if function else None

    # ---- what generating asks besides

    def matching(self, selector: str) -> tuple[Function, ...]:
        """The functions that a selector means, as PVE takes it: a prefix of the full address."""
        wanted = pci.with_domain(selector)
        return tuple(self.functions[name] for name in self.in_slot(pci.slot(wanted)) if name.startswith(wanted))

    def reached(self, selectors: Iterable[str]) -> tuple[str, ...]:
        """The addresses of the functions that selectors mean, in order, as far as they are there."""
        return tuple(function.address for selector in selectors for function in self.matching(selector))

    def resolved(self, selectors: Iterable[str]) -> tuple[str, ...]:
        """The same; none if one of the selectors means nothing."""
        found = [self.matching(selector) for selector in selectors]
        return tuple(function.address for functions in found for function in functions) if all(found) else ()

    def in_doubt(self, function: Function) -> bool:
        """Whether the host may live on a function without that being told: a disk's or a network's, by the API.

        Such a one is not to be chosen for anybody who has not named its address.
        """
        return bool(self.unknown) and not function.physfn and function.pci_class.startswith(VITAL)

    def mates(self, addresses: Iterable[str]) -> tuple[Function, ...]:
        """What else is in the IOMMU groups of these functions and is no bridge: PVE binds it to vfio-pci with them."""
        taken = set(addresses)
        groups = {self.group(address) for address in taken} - {None}
        return tuple(
            function
            for address, function in self.functions.items()
            if address not in taken and function.group in groups and not function.bridge
        )


def build(node: str, functions: Iterable[Function]) -> NodeHardware:
    """The hardware of a node that has these functions."""
    found = {function.address: function for function in sorted(functions, key=lambda function: function.address)}
    slots: dict[str, list[str]] = {}
    for address in found:
        slots.setdefault(pci.slot(address), []).append(address)
    return NodeHardware(node, found, {slot: tuple(names) for slot, names in slots.items()})


# ---- by the API


def parents(hardware: NodeHardware) -> tuple[str, ...]:
    """The functions whose mdev types the API tells if it is asked."""
    return tuple(function.address for function in hardware.functions.values() if function.is_askable)


def of_api(node: str, answer: Iterable[Answer], types: Mapping[str, Iterable[Answer]]) -> NodeHardware:
    """The hardware by nodes/N/hardware/pci (best with `pci-class-blacklist=` empty) and its mdev lists by address.

    What is no function in the answer is left out. Whether a function's irq is as PVE wants it the API does not tell; it
    counts as fine.
    """
    functions = [
        _of_entry(entry, types.get(str(entry.get("id")), ()))
        for entry in answer
        if pci.is_address(str(entry.get("id", "")))
    ]
    found = build(node, functions)
    grouped = any(function.group is not None for function in functions)
    return found._replace(iommu=True if grouped else None, unknown=API_CANNOT_TELL)


def _of_entry(entry: Answer, types: Iterable[Answer]) -> Function:
    attributes = {name: str(entry[name]) for name in _ATTRIBUTES if entry.get(name) is not None} | {"irq": "0"}
    group = _integer(entry.get("iommugroup"))
    virtual = entry.get("virtfns")
    vfs = virtual if isinstance(virtual, dict) else {}
    numbered = sorted(vfs.items(), key=lambda pair: number(str(pair[0]).removeprefix("virtfn")) or 0)
    names = [str(entry[name]) for name in ("vendor_name", "device_name") if entry.get(name)]
    physfn = entry.get("physfn")
    return Function(
        str(entry["id"]),
        attributes,
        group=None if group is None or group < 0 else group,
        name=" ".join(names),
        physfn=str(physfn) if physfn else None,
        vfs=tuple(str(address) for _, address in numbered),
        mdev_parent=bool(_integer(entry.get("mdev"))),
        types=tuple(_type(kind) for kind in types if kind.get("type")),
        bridge=attributes.get("class", "").startswith("0x06"),
    )


def _type(kind: Answer) -> MdevType:
    available = _integer(kind.get("available"))
    name, description = kind.get("name"), kind.get("description")
    return MdevType(
        str(kind["type"]),
        str(name) if name else None,
        available,
        str(description) if description else None,
    )


def _integer(value: object) -> int | None:
    """A number that the API gives as one, or as text."""
    if isinstance(value, int):
        return int(value)
    text = value if isinstance(value, str) else ""
    found = number(text.removeprefix("-"))
    return -found if found is not None and text.startswith("-") else found


# ---- by the host


def of_host(around: Surroundings) -> NodeHardware:
    """The hardware of a host that rules look at, with what the host cannot do without, and with names."""

    def use(address: str) -> str:
        found = around.uses.critical(address)
        return found[0].detail if found else ""

    return of_inventory(around.inventory, use, PciIds(around.host).name)


def of_inventory(
    inventory: Inventory,
    use: Callable[[str], str] = lambda _: "",
    name: Callable[[str | None, str | None], str] = lambda _, __: "",
) -> NodeHardware:
    """The hardware by a host's own inventory.

    `use` tells of an address what the host cannot do without of it, `name` says a vendor's device in words.
    """
    functions = [_of_host(inventory, address, use, name) for address in inventory.addresses()]
    found = build(inventory.host.node, functions)
    numbers = [
        (number(entry.removeprefix("node")), entry) for entry in inventory.host.names(NODES) if entry.startswith("node")
    ]
    return found._replace(
        iommu=inventory.iommu_present(),
        vfio=inventory.driver_available("vfio-pci"),
        mdevs={made.uuid: made for made in inventory.mdevs()},
        intel=intel_cpu(inventory.host),
        numa={
            node: inventory.host.text(f"{NODES}/{entry}/cpulist") or "" for node, entry in numbers if node is not None
        },
    )


def _of_host(
    inventory: Inventory, address: str, use: Callable[[str], str], name: Callable[[str | None, str | None], str]
) -> Function:
    texts = {key: inventory.attribute(address, key) for key in (*_ATTRIBUTES, "irq")}
    driver = inventory.driver(address)
    resource = inventory.attribute(address, "resource")
    return Function(
        address,
        {key: text for key, text in texts.items() if text is not None},
        group=inventory.group(address),
        name=name(texts["vendor"], texts["device"]),
        physfn=inventory.physical_function(address),
        vfs=inventory.virtual_functions(address),
        mdev_parent=inventory.has(address, "mdev_supported_types"),
        vendor_vgpu=inventory.has(address, "nvidia"),
        types=inventory.mdev_types(address),
        vgpu_types=inventory.vgpu_creatable(address),
        vgpu_current=inventory.vgpu_current(address),
        bridge=inventory.is_bridge(address),
        numa_node=number(inventory.attribute(address, "numa_node")),
        bars=None if resource is None else sum(bar_sizes(resource)),
        console=inventory.attribute(address, _CONSOLE) == "1" and driver is not None and "vfio" not in driver,
        use=use(address),
    )
