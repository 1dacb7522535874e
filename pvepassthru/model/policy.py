# SPDX-License-Identifier: Apache-2.0
"""What the owner's policy says of a VM, a device, a PF: the settings by their keys, and who wins.

A policy document is what host/policy_file.py has checked: it has the sections of policy.schema.json, VMIDs as text,
and devices as `selector` writes them.
"""

from __future__ import annotations

from pvepassthru.model import pci
from pvepassthru.model.problem import plain_id
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pvepassthru.model.problem import Hardware

    Document = dict[str, Any]
    Place = tuple[str, ...]
    """The keys that lead to some settings: `("vms", "100")`."""
    Said = tuple[Place, Document]

MAPPING = "mapping:"
"""How a selector begins that names a cluster mapping."""
EVERY = "*"
"""The selector of every device, in `services` only."""
HOST_SAVING = tuple([f"PVP{number}" for number in range(240, 253)])
"""The codes of the rules that keep a start from taking the host's disks or network (rules/critical.py)."""


class Policy(NamedTuple):
    """What the owner allows one VM."""

    gate: str = "enforce"
    """What pre-start does with errors: `enforce`, `warn` or `off`."""
    pre_start_seconds: int = 0
    """How long pre-start may take, if that is longer than it may anyway (lifecycle/phases.py)."""
    on_backup: str = "refuse"
    """Whether a backup's start of a stopped VM may take a device that is in use: `refuse` or `handover`."""


class DevicePolicy(NamedTuple):
    """How one function is handed over to a VM and taken back."""

    driver: str = "vfio-pci"
    """What pre-start binds it to: vfio-pci, a variant driver of VFIO, or `keep` for what it has."""
    give_back: str = "auto"
    """Its driver after a stop: `former`, `stay`, a driver's name, or `auto`: the former one, but `stay` for GPUs.

    So also when PVE fails to start the VM after pre-start; a pre-start that fails itself gives the former one back."""
    console: str = "keep"
    """`release`: consoles and the firmware's framebuffer let the GPU go first."""
    restore_framebuffer: bool = False
    """Whether the firmware's framebuffer is bound again after a stop."""
    reset_method: str | None = None
    """While the VM has it: methods as the kernel takes them, or `auto` for the quirk table's choice."""
    bars: tuple[tuple[int, int], ...] = ()
    """Resizable BARs: number and bytes."""
    d3cold: bool | None = None
    """While the VM has it: whether it may be powered off."""
    rescan: bool = False
    """Whether a device that fell off the bus is removed and looked for again."""
    seconds: float = 15.0
    """How long the kernel may take for each write about its driver."""


class Service(NamedTuple):
    """A systemd unit that is stopped while devices are handed over."""

    unit: str
    seconds: float = 30.0
    """How long stopping or starting it may take."""


class VfSettings(NamedTuple):
    """How one VF is set up: as the policy wants it, where None leaves it as it is, or as a host tells of it."""

    driver: str | None = None
    mac: str | None = None
    """An address, or `stable`: derived from host, PF and index."""
    vlan: int | None = None
    qos: int | None = None
    spoofchk: bool | None = None
    trust: bool | None = None
    state: str | None = None
    """The link: `auto`, `enable` or `disable`."""
    max_tx_rate: int | None = None
    """Mbit/s; 0 is no limit."""
    min_tx_rate: int | None = None
    """Mbit/s."""

    @property
    def network(self) -> dict[str, Any]:
        """What is said of its network, by name: all but the driver."""
        return {
            name: value
            for name, value in zip(self._fields, self, strict=True)
            if name != "driver" and value is not None
        }


class SriovPolicy(NamedTuple):
    """The VFs that a PF is to have."""

    address: str
    vfs: int
    in_hook: bool = False
    """Whether a start that needs one of them may create them."""
    autoprobe: bool = False
    """Whether the kernel looks for a driver for new VFs (sriov_drivers_autoprobe)."""
    manage: str | None = None
    """Path of NVIDIA's sriov-manage."""
    all: VfSettings = VfSettings()
    vf: tuple[tuple[int, VfSettings], ...] = ()

    def of(self, index: int) -> VfSettings:
        """The settings of one VF: its own, then those of all."""
        own = dict(self.vf).get(index)
        return self.all if own is None else own


class Silence(NamedTuple):
    """A finding that the owner puts up with."""

    code: str
    vmid: int | None
    """Of this VM only."""
    device: str | None
    """About this PCI function only."""
    reason: str
    path: str
    """The policy file that says so."""


class Moved(NamedTuple):
    """A rule of the policy for an address where another device lies."""

    address: str
    place: tuple[str, ...]
    """The keys of the rule."""
    message: str


class Policies(NamedTuple):
    """The cluster's document with the node's laid over it, key by key."""

    document: Document = {}  # noqa: RUF012 - nobody writes to it
    silence: tuple[Silence, ...] = ()
    """The cluster's, then the node's."""

    def of(self, vmid: int) -> Policy:
        """The policy for a VM: what stands under its VMID goes before the defaults."""
        return Policy()._replace(**_picked(Policy._fields, *[settings for _, settings in self.about_vm(vmid)]))

    def about_vm(self, vmid: int) -> list[Said]:
        """What is said of a VM, each with its place; what comes later wins."""
        places = [("defaults",), ("vms", str(vmid))]
        return [(place, settings) for place in places if (settings := self._at(place))]

    def device(
        self, hardware: Hardware, address: str, mapping: str | None = None, vmid: int | None = None
    ) -> DevicePolicy:
        """The policy for a function that a VM gets, by this mapping if it gets it by one: what `about_device` says."""
        said = self.about_device(hardware, address, mapping, vmid)
        found = _picked(DevicePolicy._fields, *[settings for _, settings in said])
        if "bars" in found:
            found["bars"] = tuple(sorted([(int(number), size_of(size)) for number, size in found["bars"].items()]))
        return DevicePolicy()._replace(**found)

    def about_device(
        self, hardware: Hardware, address: str, mapping: str | None = None, vmid: int | None = None
    ) -> list[Said]:
        """What is said of a function that a VM gets, each with its place; what comes later wins.

        That is the defaults, then what is said of the device, by id, mapping, slot and address, then of the VM.
        """
        names = _selectors(hardware, address, mapping)
        places = [("defaults",), *[("devices", name) for name in names]]
        if vmid is not None:
            places.append(("vms", str(vmid)))
        said = [(place, settings) for place in places if (settings := self._at(place))]
        return [(place, settings) for place, settings in said if _is_pinned(hardware, address, settings)]

    def services(self, hardware: Hardware, devices: Mapping[str, str | None]) -> tuple[Service, ...]:
        """The units to stop while these functions (each with the mapping it comes by) are handed over, in order."""
        found = []
        for unit, settings in self._section("services").items():
            selectors = settings["devices"]
            if EVERY in selectors or any(
                selector in selectors
                for address, mapping in devices.items()
                for selector in _selectors(hardware, address, mapping)
            ):
                found.append(Service(unit)._replace(**_picked(("seconds",), settings)))
        return tuple(found)

    def placement(self, mapping: str | None) -> str:
        """How a start chooses among the mdev parents of a mapping: `order` (PVE's own), `pack` or `spread`."""
        usual = self.document.get("placement") or "order"
        own = self._section("mappings").get(mapping) or {} if mapping is not None else {}
        return str(own.get("placement", usual))

    def sriov(self, hardware: Hardware) -> tuple[SriovPolicy, ...]:
        """What is said of the PFs that are there, by address; a VF or a function without SR-IOV is none."""
        section = self._section("sriov")
        if not section:
            return ()
        found = []
        for address in hardware.addresses():
            layers = [
                section[selector]
                for selector in _selectors(hardware, address, None)
                if selector in section and _is_pinned(hardware, address, section[selector])
            ]
            settings = {name: value for layer in layers for name, value in layer.items()}
            if "vfs" in settings and hardware.attribute(address, "sriov_totalvfs") is not None:
                found.append(_sriov(address, settings))
        return tuple(found)

    @property
    def orphans(self) -> str:
        """What `recover` does with what a dead VM left and no journal names: `report` or `remove`."""
        return self.document.get("orphans") or "report"

    def moved(self, hardware: Hardware) -> tuple[Moved, ...]:
        """The rules by address that expect other ids than those of what lies there: they are not obeyed."""
        found = []
        for name in ("devices", "sriov"):
            for place, settings in self._section(name).items():
                for address in _there(hardware, place) if _ids(settings or {}) else ():
                    if not _is_pinned(hardware, address, settings):
                        there = plain_id(hardware, address, "vendor", "device")
                        wanted = " or ".join(_ids(settings))
                        words = f"the policy's {name}.{place} is for {wanted}, but {there} lies at {address}"
                        found.append(Moved(address, (name, place), f"{words}: it is not obeyed there"))
        return tuple(found)

    # ----

    def _section(self, name: str) -> Document:
        return self.document.get(name) or {}

    def _at(self, place: Place) -> Document:
        found: Any = self.document
        for name in place:
            found = found.get(name) or {}
        return dict(found)


def merged(below: Document, above: Document) -> Document:
    """Two documents as one: where both have a mapping they are merged, else `above` wins."""
    found = dict(below)
    for key, value in above.items():
        old = found.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        if both:
            found[key] = merged(found[key], value)
        elif value is not None or key not in found:  # a section without content says nothing
            found[key] = value
    return found


def selector(text: str) -> str | None:
    """A device as policy names it, written the one way: an address, a slot, `vendor:device` or `mapping:NAME`.

    Returns None if it is none of these.
    """
    if text.startswith(MAPPING):
        return text if len(text) > len(MAPPING) else None
    plain = text.lower()
    vendor, colon, device = plain.partition(":")
    if colon and len(vendor) == len(device) == 4 and set(vendor + device) <= set("0123456789abcdef"):
        return plain
    full = pci.with_domain(plain)
    is_slot = "." not in full and pci.is_selector(full)
    return full if is_slot or pci.is_address(full) else None


def size_of(text: str) -> int:
    """The bytes of a size such as 256M or 16G; the schema has checked its form."""
    return int(text[:-1]) << {"M": 20, "G": 30}[text[-1]]


def _picked(names: tuple[str, ...], *layers: Document) -> Document:
    """The settings of these names; a later layer wins."""
    return {name: value for layer in layers for name, value in layer.items() if name in names}


def _selectors(hardware: Hardware, address: str, mapping: str | None) -> tuple[str, ...]:
    """How a function can be named, the nearest last."""
    own = plain_id(hardware, address, "vendor", "device")
    names = [own] if own else []
    if mapping is not None:
        names.append(MAPPING + mapping)
    return (*names, pci.slot(address), address)


def _there(hardware: Hardware, name: str) -> tuple[str, ...]:
    """The functions that lie at an address or slot."""
    if pci.is_address(name):
        return (name,) if hardware.attribute(name, "vendor") else ()
    return tuple(hardware.in_slot(name))


def _ids(settings: Document) -> list[str]:
    ids = settings.get("ids") or []
    return [one.lower() for one in ([ids] if isinstance(ids, str) else ids)]


def _is_pinned(hardware: Hardware, address: str, settings: Document) -> bool:
    """Whether a function is one of those that a rule expects; a rule that says nothing of it expects any."""
    ids = _ids(settings)
    return not ids or plain_id(hardware, address, "vendor", "device") in ids


def _sriov(address: str, settings: Document) -> SriovPolicy:
    usual = VfSettings()._replace(**_picked(VfSettings._fields, settings))
    own = settings.get("vf") or {}
    vf = [(int(index), usual._replace(**_picked(VfSettings._fields, value or {}))) for index, value in own.items()]
    fields = _picked(("vfs", "in_hook", "autoprobe", "manage"), settings)
    return SriovPolicy(address, **fields, all=usual, vf=tuple(sorted(vf)))
