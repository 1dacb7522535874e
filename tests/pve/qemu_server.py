# SPDX-License-Identifier: Apache-2.0
"""What PVE does with a VM's hostpci entries: parse, choose, reserve, prepare, clean up.

The order of the steps is PVE's: all entries are parsed before any is chosen; alternatives are taken greedily; NVIDIA's
vGPU type is set while choosing; all else is reserved and prepared afterwards, entry by entry in the order of their
names as text (hostpci10 before hostpci2).
"""

from __future__ import annotations

import dataclasses
import errno
import re
import time
from typing import TYPE_CHECKING, NamedTuple

from tests.pve import mapping as mappings
from tests.pve import reservations
from tests.pve.config import PveError, Section
from tests.pve.sysfs import DEVICES, MDEVS, VFIO_PCI, Sysfs

if TYPE_CHECKING:
    from collections.abc import Callable

LEGACY_IGD_ADDRESS = re.compile(r"02\.0\Z")


@dataclasses.dataclass
class Device:
    """One hostpci entry."""

    index: int
    alternatives: list[list[str]]
    """The full addresses of each alternative."""
    mdev: str | None
    """The type of a classic mediated device; "0" is one that is switched off."""
    nvidia: str | None
    """The digits of a type of NVIDIA's vendor interface."""
    options: dict[str, str]
    live_migration: bool
    ids: list[str] = dataclasses.field(default_factory=list)
    """What was chosen; for a classic mdev all its candidates."""

    @property
    def key(self) -> str:
        """The name of the config key."""
        return f"hostpci{self.index}"

    @property
    def classic_mdev(self) -> bool:
        """Whether this is a mediated device with a uuid."""
        return self.mdev not in (None, "0")

    @property
    def keeps_driver(self) -> bool:
        """Whether PVE leaves the driver alone."""
        return self.options.get("driver") == "keep"


class Machine(NamedTuple):
    """All that the steps look at and work on."""

    sysfs: Sysfs
    node: str
    mapping: dict[str, mappings.Mapping]
    reserved: reservations.File
    warn: Callable[[str], None]
    patience: float = 10.0
    """Seconds for which PVE waits for NVIDIA's driver."""


def mdev_uuid(index: int, vmid: int) -> str:
    """PVE's uuid of a hostpci entry's mediated device."""
    return f"{index:08d}-0000-0000-0000-{vmid:012d}"


# ---- parse


def parse_entry(machine: Machine, index: int, entry: dict[str, str], section: Section) -> Device:
    """One entry with its addresses looked up. Raises PveError."""
    host, name = entry.get("host"), entry.get("mapping")
    if host and name:
        raise PveError("host-and-mapping", f"hostpci{index}")
    if not host and not name:
        raise PveError("host-or-mapping-required", f"hostpci{index}")
    live = False
    selectors = [host or ""]
    if name:
        mapping = machine.mapping.get(name)
        maps = mapping.alternatives(machine.node) if mapping else []
        if not mapping or not maps:
            raise PveError("mapping-not-found", name)
        for one in maps:
            mappings.check(machine.sysfs, one, mapping)
        live = mapping.live_migration
        selectors = [one["path"] for one in maps]
    alternatives = [_addresses(machine.sysfs, selector) for selector in selectors]
    options = {key: value for key, value in entry.items() if key not in ("host", "mapping", "mdev")}
    mdev = entry.get("mdev")
    nvidia = re.fullmatch("nvidia-([0-9]+)", mdev or "")
    vendor = nvidia[1] if nvidia and machine.sysfs.is_vgpu(alternatives[0][0]) else None
    device = Device(index, alternatives, None if vendor else mdev, vendor, options, live)
    _check_entry(device, section)
    return device


def _addresses(sysfs: Sysfs, selectors: str) -> list[str]:
    found: list[str] = []
    for selector in selectors.split(";"):
        ids = sysfs.select(selector)
        if not ids:
            raise PveError("device-not-found", selector)
        found += ids
    return found


def _check_entry(device: Device, section: Section) -> None:
    if (device.nvidia or device.classic_mdev) and any(len(ids) > 1 for ids in device.alternatives):
        raise PveError("mdev-with-multifunction", device.key)
    if device.options.get("pcie") == "1" and not section.q35:
        raise PveError("pcie-needs-q35", device.key)


def _check_igd(device: Device, section: Section) -> None:
    refusals = {
        "igd-needs-vga-none": section.values.get("vga") != "none",
        "igd-needs-rombar": device.options.get("rombar") == "0",
        "igd-with-x-vga": device.options.get("x-vga") == "1",
        "igd-with-mdev": bool(device.nvidia or device.classic_mdev),
        "igd-with-q35": section.q35,
        "igd-with-multifunction": len(device.alternatives[0]) > 1,
        "igd-with-alternatives": len(device.alternatives) > 1,
        "igd-wrong-address": not LEGACY_IGD_ADDRESS.search(device.alternatives[0][0]),
    }
    for code, refused in refusals.items():
        if refused:
            raise PveError(code, device.key)


def parse_devices(machine: Machine, section: Section) -> list[Device]:
    """All entries of a section, in the order of their numbers. Raises PveError at the first that PVE refuses."""
    devices: list[Device] = []
    for index, entry in section.entries().items():
        device = parse_entry(machine, index, entry, section)
        if device.options.get("legacy-igd") == "1":
            if any(other.options.get("legacy-igd") == "1" for other in devices):
                raise PveError("igd-twice", device.key)
            _check_igd(device, section)
        devices.append(device)
    return devices


# ---- choose


def choose(machine: Machine, devices: list[Device], vmid: int, timeout: int | None = None) -> None:
    """Fill in what each entry gets; with a `timeout` also reserve alternatives and set vGPU types. Raises PveError."""
    used: set[str] = set()
    for device in devices:
        if device.classic_mdev:
            device.ids = [ids[0] for ids in device.alternatives]
            continue
        if len(device.alternatives) == 1:
            ids = device.alternatives[0]
            if len(set(ids)) < len(ids) or used & set(ids):
                raise PveError("device-assigned-twice", device.key)
            device.ids = ids
            if device.nvidia and timeout is not None:
                machine.reserved.reserve(ids, vmid, timeout=timeout)
        else:
            device.ids = _first_free(machine, device, used, vmid, timeout)
        used.update(device.ids)
        if device.nvidia and timeout is not None:
            set_vgpu_type(machine.sysfs, device.ids[0], device.nvidia)


def _first_free(machine: Machine, device: Device, used: set[str], vmid: int, timeout: int | None) -> list[str]:
    for ids in device.alternatives:
        if used & set(ids):
            continue
        if timeout is not None:
            if device.nvidia and not _offers(machine.sysfs, ids[0], device.nvidia):
                continue
            try:
                machine.reserved.reserve(ids, vmid, timeout=timeout)
            except PveError:
                continue
        return ids
    raise PveError("no-free-device", device.key)


def _offers(sysfs: Sysfs, address: str, kind: str) -> bool:
    current = sysfs.vgpu_current(address)
    return current is not None and (current == kind or kind in (sysfs.vgpu_offered(address) or ()))


def set_vgpu_type(sysfs: Sysfs, address: str, kind: str) -> None:
    """Set a VF's vGPU type as PVE does. Raises PveError."""
    current = sysfs.vgpu_current(address)
    if current is None or sysfs.vgpu_offered(address) is None:
        raise PveError("nvidia-no-sysfs", address)
    if current == kind:
        return
    path = f"{DEVICES}/{address}/nvidia/current_vgpu_type"
    try:
        if current != "0":
            sysfs.write(path, "0")
        if kind not in (sysfs.vgpu_offered(address) or ()):
            raise PveError("vgpu-type-not-available", f"{kind} on {address}")
        sysfs.write(path, kind)
    except OSError as error:
        raise PveError("vgpu-type-not-set", f"{kind} on {address}: {error}") from error


# ---- reserve and prepare


def to_reserve(devices: list[Device]) -> list[str]:
    """The ids that PVE reserves: all but those of classic mediated devices."""
    return [name for device in devices if not device.classic_mdev for name in device.ids]


def by_name(devices: list[Device]) -> list[Device]:
    """The entries in the order in which PVE prepares them."""
    return sorted(devices, key=lambda device: device.key)


def prepare(machine: Machine, device: Device, vmid: int) -> None:
    """Make one entry ready for QEMU. Raises PveError."""
    for address in device.ids:
        try:
            _prepare_function(machine, device, address, vmid)
        except PveError as error:
            if not device.classic_mdev:
                raise
            machine.warn(str(error))
        else:
            if device.classic_mdev:
                return
    if device.classic_mdev:
        raise PveError("mdev-not-created", device.key)


def _prepare_function(machine: Machine, device: Device, address: str, vmid: int) -> None:
    sysfs = machine.sysfs
    info = sysfs.info(address)
    if not sysfs.names("/sys/class/iommu"):
        raise PveError("iommu-not-present", address)
    if info is None:
        raise PveError("device-info-unreadable", address)
    if device.keeps_driver or device.nvidia:
        return
    if device.classic_mdev:
        _create_mdev(machine, address, device.mdev or "", mdev_uuid(device.index, vmid))
        return
    _bind_group(sysfs, address)
    if info.resettable:
        try:
            sysfs.write(f"{DEVICES}/{address}/reset", "1")
        except OSError as error:
            machine.warn(f"cannot reset {address}, going on: {error}")  # not every device needs a reset


def _create_mdev(machine: Machine, parent: str, kind: str, uuid: str) -> None:
    sysfs = machine.sysfs
    folder = f"{DEVICES}/{parent}/mdev_supported_types/{kind}"
    if not sysfs.exists(folder):
        raise PveError("mdev-type-unknown", f"{kind} on {parent}")
    if sysfs.exists(f"{DEVICES}/{parent}/{uuid}"):
        present = sysfs.link(f"{DEVICES}/{parent}/{uuid}/mdev_type")
        if present != kind:
            raise PveError("mdev-of-other-type", f"{uuid} on {parent} is a {present}")
        machine.warn(f"mediated device {uuid} is on {parent} already; used as it is")
        return
    available = sysfs.text(f"{folder}/available_instances") or "0"
    if not available.isdecimal() or int(available) < 1:
        raise PveError("mdev-no-instance", f"{kind} on {parent}")
    try:
        sysfs.write(f"{folder}/create", uuid)
    except OSError as error:
        raise PveError("mdev-create-failed", f"{kind} on {parent}: {errno.errorcode.get(error.errno or 0)}") from error


def _bind_group(sysfs: Sysfs, address: str) -> None:
    if sysfs.group(address) is None:
        raise PveError("device-without-iommu-group", address)
    if not sysfs.exists(VFIO_PCI):
        raise PveError("vfio-pci-missing", address)
    for member in sysfs.names(f"{DEVICES}/{address}/iommu_group/devices"):
        if not sysfs.exists(f"{DEVICES}/{member}/pci_bus") and sysfs.driver(member) != "vfio-pci":
            _bind(sysfs, member)


def _bind(sysfs: Sysfs, address: str) -> None:
    info = sysfs.info(address)
    if info is None:
        raise PveError("device-info-unreadable", address)
    try:
        sysfs.write(f"{VFIO_PCI}/new_id", f"{info.vendor} {info.device}")
    except FileExistsError:
        pass
    except OSError as error:
        raise PveError("bind-failed", f"new_id for {address}: {error}") from error
    unbind = f"{DEVICES}/{address}/driver/unbind"
    try:
        sysfs.write(unbind, address)
    except OSError as error:
        if sysfs.exists(unbind):
            raise PveError("bind-failed", f"unbind {address}: {error}") from error
    if sysfs.driver(address) == "vfio-pci":
        return
    try:
        sysfs.write(f"{VFIO_PCI}/bind", address)
    except OSError as error:
        raise PveError("bind-failed", f"bind {address}: {error}") from error


# ---- clean up


def cleanup(machine: Machine, section: Section, vmid: int, remove: Callable[[str], None]) -> None:
    """Put away a VM's devices as PVE does on stop; `remove` removes a mediated device, which may block.

    Raises PveError where PVE dies half way: what comes later, the reservations among it, stays as it is.
    """
    sysfs = machine.sysfs
    for index, entry in section.entries().items():
        device = parse_entry(machine, index, entry, section)
        uuid = mdev_uuid(index, vmid)
        if not device.classic_mdev:
            continue
        info = sysfs.info(device.alternatives[0][0])
        if info and info.vendor == "10de":
            _wait(lambda uuid=uuid: not sysfs.exists(f"{MDEVS}/{uuid}"), machine.patience)  # type: ignore[misc]  # the default binds this turn's uuid
        if sysfs.exists(f"{MDEVS}/{uuid}"):
            try:
                remove(uuid)
            except OSError as error:
                raise PveError("mdev-remove-failed", f"{uuid}: {error}") from error
    for address in reservations.reserved(machine.reserved.read(), vmid):
        if sysfs.vgpu_current(address) is not None:
            _reset_vgpu_type(machine, address)
    machine.reserved.remove(vmid)


def _reset_vgpu_type(machine: Machine, address: str) -> None:
    def reset() -> bool:
        try:
            machine.sysfs.write(f"{DEVICES}/{address}/nvidia/current_vgpu_type", "0")
        except OSError:
            return False
        return True

    if not _wait(reset, machine.patience):
        machine.warn(f"cannot reset the vGPU type of {address}")


def _wait(done: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() >= end:
            return False
        time.sleep(0.05)
    return True
