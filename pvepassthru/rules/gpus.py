# SPDX-License-Identifier: Apache-2.0
"""Advice on GPUs that are passed through: the card itself, and how the VM shows its picture.

Sources: behaviour of qemu-server; QEMU's vfio-pci and the kernel's vfio_pci_core for x-vga; Linux /proc/iomem.
"""

from __future__ import annotations

from pvepassthru.host import displays
from pvepassthru.host.inventory import DEVICES
from pvepassthru.model import machine, pci, property_string
from pvepassthru.model.pattern import ASCII, Pattern
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import listed, shown
from pvepassthru.rules import sources
from pvepassthru.rules.rule import NotApplicable, Unknown
from pvepassthru.rules.subject import Hit, chosen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.model.hostpci import HostpciEntry
    from pvepassthru.model.passed import Passed
    from pvepassthru.rules.subject import Subject, Surroundings

VGA = 0x0300
_COMPUTE = 0x0302
"""A GPU without outputs ("3D controller")."""
_COMPANIONS = {0x0403: "audio", 0x0C03: "USB", 0x0C80: "USB-C"}
_RELEASE = "add initcall_blacklist=sysfb_init to the kernel command line and reboot"
_VGPU_NAME = Pattern(r"(?:(?:NVIDIA|GRID) )*([A-Za-z0-9 ]+)-(?:[0-9]+-)?[0-9]+([QABC])[0-9A-Z]*", ASCII)
_OLD_Q35 = Pattern(r"pc-q35-([0-9]+)\..*", ASCII)


def whole(subject: Subject) -> Iterator[tuple[Passed, tuple[str, ...]]]:
    """Each device that is passed whole, with the functions that PVE would take; not those without any."""
    for device, functions in chosen(subject):
        if functions and not device.nvidia:
            yield device, functions


def class_of(subject: Subject, address: str) -> int | None:
    """The class of a function, base and sub class (0x0300 of a VGA controller); None if it does not say."""
    text = subject.inventory.pci_class(address)
    try:
        return int(text, 16) >> 8 if len(text) == 6 else None
    except ValueError:
        return None


def _classes(subject: Subject) -> list[tuple[Passed, str, int | None]]:
    """The functions that PVE passes whole and does not refuse, each with its class."""
    refused = {problem.key for problem in subject.resolution.problems}
    return [
        (device, address, class_of(subject, address))
        for device, functions in whole(subject)
        if device.entry.key not in refused
        for address in functions
    ]


def _gpus(subject: Subject, *classes: int) -> Iterator[tuple[Passed, str]]:
    """Each function of these classes that is passed whole, with its device; not of entries that PVE refuses."""
    for device, address, kind in subject.around.of(subject, _classes):
        if kind in classes:
            yield device, address


def _hit(subject: Subject, entry: HostpciEntry, message: str, hint: str) -> Hit:
    return Hit(subject.at(entry.key, entry.line), message, hint)


def display(subject: Subject) -> str | None:
    """The type of the emulated display: `none` also when PVE sets it for x-vga=1; None for PVE's own choice."""
    text = subject.section.get("vga")
    if text is None:
        entries = subject.section.entries.values()
        return "none" if any(entry.x_vga for entry in entries) else None
    return property_string.parse(text, machine.VGA_KEYS).get("type")


# ---- the machine


def on_i440fx(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the machine is q35 when a GPU is passed through. `legacy-igd=1` is for i440fx.

    Why it matters: i440fx, PVE's default, has no PCIe. GPU drivers are made for PCIe cards, and some fail without.

    How to fix: `machine: q35` and `pcie=1`, best with OVMF. A guest that is installed already may need its network
    settings or drivers anew, so try it on a copy first.
    """
    kind = subject.section.machine.type or "pc"
    if not kind.startswith("pc") or subject.section.machine.q35 or subject.section.get("arch") == "aarch64":
        return
    if any(dropped.key == "machine" for dropped in subject.section.dropped):
        return  # told by config.other_dropped
    for device, address in _gpus(subject, VGA):
        if not device.entry.legacy_igd:
            message = f"{address} is a GPU, and the machine is i440fx, which has no PCIe"
            yield _hit(subject, device.entry, message, f"qm set {subject.vmid} --machine q35, then add pcie=1")


def without_pcie(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether an entry that passes a GPU to a q35 machine has `pcie=1`.

    Why it matters: without it the GPU sits on a conventional PCI bus of the guest. GPU drivers are made for PCIe cards,
    and some fail without.

    How to fix: add `pcie=1` to the entry. The guest finds the card at another address then.
    """
    if subject.section.machine.q35:
        for device, address in _gpus(subject, VGA, _COMPUTE):
            if not device.entry.pcie and not device.entry.legacy_igd:
                message = f"{address} is a GPU that the q35 machine shows as a conventional PCI device"
                yield _hit(subject, device.entry, message, f"add pcie=1 to {device.entry.key}")


def old_q35(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a q35 machine with `pcie=1` has a version of 4.0 or newer.

    Why it matters: the PCIe ports of older versions tell the guest of a link of one lane at 2.5 GT/s, and drivers
    configure the card for that.

    How to fix: `machine: q35` without a version, or a newer one; Windows guests may want to be told of new hardware.
    """
    found = _OLD_Q35.fullmatch(subject.section.machine.type or "")
    if found and int(found[1]) < 4:
        for device, _ in whole(subject):
            if device.entry.pcie:
                kind = shown(subject.section.machine.type or "")
                message = f"pcie=1 on {kind}, whose PCIe ports are one lane of 2.5 GT/s to the guest"
                yield _hit(subject, device.entry, message, f"qm set {subject.vmid} --machine q35")


# ---- the picture


def x_vga_twice(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether at most one hostpci entry has `x-vga=1`.

    Why it matters: there is one primary display. Two cards then answer to the same old VGA addresses, and which one
    gets the picture is chance.

    How to fix: keep `x-vga=1` on the card with the monitor.
    """
    entries = [entry for _, entry in sorted(subject.section.entries.items()) if entry.x_vga]
    for entry in entries[1:]:
        if not subject.config.template:
            message = f"{entry.key} has x-vga=1, and so has {entries[0].key}"
            yield _hit(subject, entry, message, "keep x-vga=1 on one entry")


def x_vga_with_display(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the VM has no emulated display when an entry has `x-vga=1`.

    Why it matters: `x-vga=1` makes the card the primary display, and PVE takes the emulated one away only where `vga`
    is not set. With both, the firmware's picture goes to the emulated one as a rule.

    How to fix: set `vga: none`, or remove `x-vga=1`.
    """
    kind = display(subject)
    if kind is None or kind == "none" or kind.startswith("serial") or subject.config.template:
        return
    for _, entry in sorted(subject.section.entries.items()):
        if entry.x_vga:
            message = f"x-vga=1 makes {entry.key} the primary display, and vga: {kind} adds an emulated one"
            yield _hit(subject, entry, message, f"qm set {subject.vmid} --vga none, or remove x-vga=1")


def x_vga_without_vga(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a device with `x-vga=1` has VGA, when the VM's firmware is SeaBIOS.

    That is what class 0300 says; a GPU without outputs (0302) and a GVT-g device have none. Under OVMF PVE does not ask
    QEMU for it.

    Why it matters: QEMU refuses to start ("device does not support requested feature x-vga").

    How to fix: remove `x-vga=1`.
    """
    if subject.section.get("bios") == "ovmf":
        return
    for device in subject.resolution.passed:
        if not device.entry.x_vga or device.nvidia or device.entry.legacy_igd:
            continue
        if device.mdev:
            if device.mdev.startswith("i915-GVTg"):
                yield _hit(subject, device.entry, "x-vga=1 on a GVT-g device, which has no VGA", "remove x-vga=1")
            continue
        classes = {first: class_of(subject, first) for first in (functions[0] for functions in device.alternatives)}
        if all(kind not in {None, VGA} for kind in classes.values()):
            first, kind = next(iter(classes.items()))
            message = f"x-vga=1 on {first}, which has no VGA: its class is {kind:04x}, not 0300"
            yield _hit(subject, device.entry, message, f"remove x-vga=1 from {device.entry.key}")


def gpu_not_first(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the GPU comes first where one entry passes several functions with x-vga or romfile.

    PVE gives these options to the first function that `host=` names, and makes it function 0 in the guest.

    Why it matters: the card's sound gets the ROM or the picture, and the GPU does not.

    How to fix: name the GPU first, or the whole slot (`01:00`).
    """
    for device, functions in whole(subject):
        if not (device.entry.x_vga or device.entry.romfile):
            continue
        gpu = next((address for address in functions if class_of(subject, address) in {VGA, _COMPUTE}), None)
        first = class_of(subject, functions[0])
        if gpu and gpu != functions[0] and first is not None and first not in {VGA, _COMPUTE}:
            options = "x-vga=1" if device.entry.x_vga else "romfile="
            message = f"{options} is for the first function, {functions[0]}, and the GPU is {gpu}"
            slot = pci.slot(gpu)
            all_of_it = set(functions).issuperset(subject.inventory.in_slot(slot))
            hint = f"name {gpu} first" + (f", or the slot {slot}" if all_of_it else "")
            yield _hit(subject, device.entry, message, hint)


def no_firmware_picture(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a GPU that is the VM's only display keeps its ROM.

    Why it matters: with `rombar=0` and no `romfile=` the firmware cannot start the card, so its picture begins with
    the guest's own driver: no firmware menu, no boot loader, nothing when the driver fails.

    How to fix: remove `rombar=0`, or add a `romfile=` instead, or leave it if that is as you want it.
    """
    if display(subject) == "none":
        for device, address in _gpus(subject, VGA):
            if not device.entry.rombar and not device.entry.romfile:
                message = f"{address} is the VM's only display, and rombar=0 keeps the firmware from starting it"
                yield _hit(subject, device.entry, message, f"remove rombar=0 from {device.entry.key}")


# ---- the card on its host


def boot_gpu(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a GPU to be passed is the one that the host shows its own console on.

    That is the one the firmware started (boot_vga), while the host's driver has it.

    Why it matters: the host's screen goes dark when the VM starts, and stays so when it stops. Taking a GPU from the
    driver that shows a picture can also hang.

    How to fix: have another way in (ssh, serial console, IPMI), keep the driver from it from the start (vfio-pci ids or
    a blacklist), or make another GPU the first in the firmware's setup.
    """
    for device, address in _gpus(subject, VGA):
        driver = subject.inventory.driver(address)
        if not device.bound_to_vfio or driver is None or "vfio" in driver:
            continue
        if subject.inventory.attribute(address, "boot_vga") == "1":
            message = f"{address} is the host's own display (boot_vga), driven by {driver}, and goes dark"
            hint = f"have another way in, and give {address} to vfio-pci when the host starts"
            yield _hit(subject, device.entry, message, hint)


def _framebuffers(around: Surroundings) -> dict[str, str]:
    """The functions in whose BARs the firmware's picture lies, each with its name in /proc/iomem."""
    return displays.firmware_pictures(around.host)


def framebuffer(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the kernel still shows the firmware's picture in a BAR of a GPU to be passed.

    /proc/iomem names it (BOOTFB, efifb, simplefb, ...) below the device as long as no driver has taken the GPU over.
    Kernels from 6.0 on let go of it when vfio-pci takes a VGA device; there only one that is left over counts.

    Why it matters: vfio-pci cannot have that BAR ("BAR 1: can't reserve"), and the VM stays without a picture or does
    not start.

    How to fix: `initcall_blacklist=sysfb_init` on the kernel command line, or let the GPU's own driver load before
    vfio-pci gets it, or `console: release` for it in the policy.
    """
    for device, functions in whole(subject):
        for address in functions if device.bound_to_vfio else ():
            name = subject.around.once(_framebuffers).get(address)
            if name and _stays(subject.around, address):
                yield _hit(subject, device.entry, _held(address, name), _RELEASE)


def _stays(around: Surroundings, address: str) -> bool:
    """Whether vfio-pci does not remove the firmware's picture when it takes the function.

    Source: Linux 6.0, drivers/vfio/pci/vfio_pci_core.c, vfio_pci_vga_init.
    """
    old = around.once(sources.firmware).older_than(6, 0)
    return bool(old) or around.inventory.driver(address) == "vfio-pci"


def _held(address: str, name: str) -> str:
    return f"the kernel holds a BAR of {address} for the firmware's picture ({name} in /proc/iomem)"


def framebuffer_of_host(around: Surroundings) -> Iterator[Hit]:
    """As `framebuffer`, of the devices that vfio-pci has already: they are there to be passed."""
    ready = [address for address in around.inventory.addresses() if around.inventory.driver(address) == "vfio-pci"]
    if not ready:
        raise NotApplicable("no device is bound to vfio-pci")
    if not around.host.exists("/proc/iomem"):
        raise Unknown("there is no /proc/iomem")
    for address, name in sorted(around.once(_framebuffers).items()):
        if address in ready:
            yield Hit(f"{DEVICES}/{address}", _held(address, name), _RELEASE)


def companions(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a GPU is passed together with the other functions of its card: sound, USB, USB-C.

    Why it matters: the guest has no sound over HDMI or DisplayPort, and the functions that stay behind can keep the
    card from being reset.

    How to fix: name the whole slot, such as `01:00` instead of `01:00.0`, or, where the slot holds more than the card,
    as with a GPU in the processor, the functions: `06:00.0;06:00.1`. A mapping takes these as its path, too.
    """
    passed = {address for _, functions in chosen(subject) for address in functions}
    for device, address in _gpus(subject, VGA):
        slot = pci.slot(address)
        left = {
            other: _COMPANIONS[kind]
            for other in subject.inventory.in_slot(slot)
            if other not in passed
            and (kind := class_of(subject, other) or 0) in _COMPANIONS
            and subject.inventory.attribute(other, "vendor") == subject.inventory.attribute(address, "vendor")
        }
        if left:
            words = listed(f"{other} ({what})" for other, what in left.items())
            message = f"{address} is passed without the other functions of its card: {words}"
            in_slot = subject.inventory.in_slot(slot)
            if passed.union(left).issuperset(in_slot):
                what, path = "the slot", slot
            else:  # a GPU in the processor: the slot holds the host's USB and crypto controllers, too
                wanted = [other for other in in_slot if other in left or other in device.addresses]
                what, path = "the functions", ";".join((address, *(other for other in wanted if other != address)))
            name = device.entry.mapping
            hint = f"give mapping {name} {what} as its path: {path}" if name else f"name {what}: {path}"
            yield _hit(subject, device.entry, message, hint)


def mixed_vgpus(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether all NVIDIA vGPUs of a VM are of one board and one series.

    Types are named BOARD-SIZE and the series' letter, such as A16-1Q: Q, A, B or C. Sizes may differ.

    Why it matters: NVIDIA's driver gives a VM several vGPUs only if these are the same; else the VM does not start, or
    the guest's driver leaves one alone.

    How to fix: choose types of the same board and series.
    """
    first: tuple[str, str, str] | None = None
    for device in subject.resolution.passed:
        found = _VGPU_NAME.fullmatch(_vgpu_name(subject, device) or "")
        if not found:
            continue
        if first is None:
            first = found[0], found[1], found[2]
        elif first[1:] != (found[1], found[2]):
            message = f"{device.entry.key} takes a vGPU {found[0]} beside {first[0]}, of another board or series"
            yield _hit(subject, device.entry, message, "choose types of the same board and series")


def _vgpu_name(subject: Subject, device: Passed) -> str | None:
    """The name of the vGPU type that an entry takes, such as A16-1Q; None of what is none, or not on offer now."""
    for address in device.addresses[:1]:
        if device.nvidia:
            return subject.inventory.vgpu_creatable(address).get(device.nvidia)
        if device.mdev and device.mdev.startswith("nvidia-"):
            return subject.inventory.mdev_type(address, device.mdev).name
    return None
