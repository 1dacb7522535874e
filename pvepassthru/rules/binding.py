# SPDX-License-Identifier: Apache-2.0
"""Rules on what happens when PVE takes functions from their drivers, PVP224, PVP280, PVP291 to PVP299."""

from __future__ import annotations

from pvepassthru.host import holders, users
from pvepassthru.host.inventory import DEVICES
from pvepassthru.model.errors import PassthruError
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import listed, number, shown
from pvepassthru.rules.demand import demand
from pvepassthru.rules.subject import Hit, chosen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.host.holders import Holder
    from pvepassthru.model.passed import Passed
    from pvepassthru.rules.subject import Subject, Surroundings

_NO_OVERRIDE = frozenset({"", "(null)"})


def kept_driver(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a function of an entry with `driver=keep` has a driver that QEMU can use.

    That is a vfio driver of its vendor, such as mlx5_vfio_pci.

    Why it matters: PVE leaves the driver as it is, and QEMU cannot open a function that no vfio driver has.

    How to fix: bind the function to its vfio driver before the VM starts, or remove `driver=keep`.
    """
    for device, functions in chosen(subject):
        for address in functions if device.entry.keeps_driver and not device.nvidia else ():
            driver = subject.inventory.driver(address)
            if driver and "vfio" not in driver and not subject.inventory.has(address, "vfio-dev"):
                message = (
                    f"driver=keep leaves {address} with {shown(driver)}, which is no vfio driver: QEMU cannot use it"
                )
                yield _hit(subject, device, message, "remove driver=keep, or bind it to the vendor's vfio driver")


def bridge(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether no bridge is passed: classes 0600 to 060b, host, ISA and PCI bridges among them.

    Why it matters: vfio-pci does not take a PCI bridge, and without its other bridges the host stops working.

    How to fix: name the device behind the bridge.
    """
    for device, address in _bound(subject):
        kind = subject.inventory.pci_class(address)[:4]
        if kind.startswith("06") and kind != "0680":  # "other": NVSwitches are of that class
            yield _hit(subject, device, f"{address} is a bridge (class {kind})", "name the device behind it")


def overridden(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether no driver_override keeps vfio-pci from a function that PVE is to bind to it.

    Why it matters: the kernel then refuses the binding, and PVE does not start the VM.

    How to fix: clear the override, as the hint shows; see what sets it (driverctl, a udev rule, a script).
    """
    for device, address in _bound(subject):
        if subject.inventory.driver(address) == "vfio-pci":
            continue
        override = subject.inventory.attribute(address, "driver_override")
        if override is not None and override not in _NO_OVERRIDE and override != "vfio-pci":
            message = f"driver_override of {address} is {shown(override)}, so vfio-pci cannot take it"
            yield _hit(subject, device, message, f"echo > {DEVICES}/{address}/driver_override")


def group_shared(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the host loses other devices with the one that is passed.

    PVE binds every device of the IOMMU group to vfio-pci, bridges excepted. Functions of the device's own slot are not
    told of, nor what has no driver, goes to this VM, or is another VM's. What the host uses of them, such as a mounted
    disk, has rules of its own.

    Why it matters: while the VM runs, and often until the next boot, the host is without these devices.

    How to fix: move the card to a slot whose group holds nothing else (`pvepassthru devices --groups`).
    """
    wanted = subject.around.once(demand) if subject.resolution.passed else None
    mine = {address for _, functions in chosen(subject) for address in functions}
    slots = {address.partition(".")[0] for address in mine}
    told: set[int | None] = set()
    for device, address in _bound(subject):
        group = subject.inventory.group(address)
        if group in told:
            continue
        told.add(group)
        lost = [
            f"{mate} ({driver})"
            for mate in subject.inventory.group_members(address)
            if mate not in mine
            and mate.partition(".")[0] not in slots
            and not subject.inventory.is_bridge(mate)
            and (driver := subject.inventory.driver(mate)) is not None
            and "vfio" not in driver
            and not (wanted and wanted.others(subject.vmid, (mate,)))
            and not number(subject.inventory.attribute(mate, "sriov_numvfs"))
            and not subject.around.uses.of(mate)
        ]
        if lost:
            message = f"with {address} PVE takes all of IOMMU group {group} from the host: {listed(lost)}"
            yield _hit(subject, device, message, "move the card to a slot with a group of its own")


def in_use_on_host(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether no program of the host has the device open that the VM gets.

    Graphics, sound, disks, USB devices and NVIDIA's nodes are looked at, for functions that a driver of the host has.

    Why it matters: PVE takes the driver away under that program; the unbinding waits for it, or crashes the driver.

    How to fix: stop the program, which is a display manager or a monitoring service as a rule.
    """
    nodes = [
        (device, address, name)
        for device, address in _bound(subject)
        for name in users.nodes(subject.inventory, address)
    ]
    if not nodes:
        return
    opened = subject.around.once(_opened)
    told: set[str] = set()
    for device, address, name in nodes:
        held = users.of(name, opened)
        if held and address not in told:
            told.add(address)
            message = f"{address} is in use on the host: {holders.describe(held)} has {name} open"
            yield _hit(subject, device, message, "stop that program before the VM starts")


def _opened(around: Surroundings) -> dict[str, tuple[Holder, ...]]:
    """The nodes that programs have open; none when the processes cannot be listed, of which PVP104 tells."""
    try:
        return users.opened(around.host)
    except PassthruError:
        around.host.names("/proc")
        return {}


def shaky_driver(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a GPU is taken from amdgpu only when the VM starts.

    Why it matters: amdgpu was made to stay: taking a GPU away from it under way often crashes the driver, and the host
    needs a reboot.

    How to fix: let vfio-pci have the GPU from boot on (`pvepassthru doctor --fix --for ADDRESS`).
    """
    for device, address in _bound(subject):
        if subject.inventory.driver(address) == "amdgpu":
            message = f"{address} is taken from amdgpu when the VM starts, which often crashes that driver"
            yield _hit(subject, device, message, f"pvepassthru doctor --fix --for {address}")


def _bound(subject: Subject) -> list[tuple[Passed, str]]:
    """The functions that PVE binds to vfio-pci by the VM's own entries, each with its device."""
    return subject.around.of(subject, _find_bound)


def _find_bound(subject: Subject) -> list[tuple[Passed, str]]:
    return [(device, address) for device, functions in chosen(subject) if device.bound_to_vfio for address in functions]


def _hit(subject: Subject, device: Passed, message: str, hint: str) -> Hit:
    return Hit(subject.at(device.entry.key, device.entry.line), message, hint)
