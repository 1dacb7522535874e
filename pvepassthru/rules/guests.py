# SPDX-License-Identifier: Apache-2.0
"""Advice on the rest of a VM's config, when it passes devices through."""

from __future__ import annotations

import itertools

from pvepassthru.model import property_string
from pvepassthru.model.property_string import Key, PropertyError
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import listed, shown
from pvepassthru.rules.disks import functions_in
from pvepassthru.rules.gpus import class_of, display, whole
from pvepassthru.rules.subject import Hit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.rules.subject import Subject, Surroundings

_COMPUTE = 0x0302
_USB = "/sys/bus/usb/devices"
_USB_KEYS = {name: Key(default=name == "host") for name in ("host", "mapping", "usb3")}


def no_efidisk(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a VM with passthrough and `bios: ovmf` has an `efidisk0`.

    Why it matters: OVMF's settings live there: boot entries, Secure Boot keys, the chosen resolution. Without it they
    are lost at each stop, and guests that boot by such an entry do not come up.

    How to fix: add an EFI disk.
    """
    if subject.section.get("bios") == "ovmf" and not subject.section.get("efidisk0") and subject.resolution.passed:
        where = subject.at("bios", subject.section.line("bios"))
        message = "bios: ovmf without efidisk0, so the firmware forgets its settings at each stop"
        yield Hit(where, message, f"qm set {subject.vmid} --efidisk0 STORAGE:1,efitype=4m,pre-enrolled-keys=1")


def blind(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a VM with passthrough and without an emulated display can be seen or reached otherwise.

    By a passed GPU with outputs, a serial port, or the guest agent. `x-vga=1` takes the emulated display away, too,
    where `vga` is not set.

    Why it matters: nobody can see why such a VM does not start, or get at it without its network.

    How to fix: add a serial port and use `qm terminal`, enable the agent, or give the VM a display.
    """
    section = subject.section
    if not subject.resolution.passed or display(subject) != "none":
        return
    if any(entry.legacy_igd for entry in section.entries.values()):
        return  # which needs vga: none, and shows the picture
    if any(section.get(f"serial{index}") for index in range(4)) or _has_agent(section.get("agent")):
        return
    for device in subject.resolution.passed:
        for address in () if device.mdev or device.nvidia else sum(device.alternatives, ()):
            kind = class_of(subject, address)
            if kind is None or (kind >> 8 == 3 and kind != _COMPUTE):
                return
    where = "the display that x-vga=1 takes away" if section.get("vga") is None else "a display (vga: none)"
    message = f"the VM has neither {where} nor a passed GPU with outputs, a serial port or the guest agent"
    key = "vga" if section.get("vga") else next(entry.key for entry in section.entries.values() if entry.x_vga)
    hint = f"qm set {subject.vmid} --serial0 socket, then qm terminal {subject.vmid}"
    if key == "vga" and not any(entry.x_vga for entry in section.entries.values()):  # else the display stays away
        hint = f"qm set {subject.vmid} --delete vga gives it a display; or {hint}"
    yield Hit(subject.at(key, section.line(key)), message, hint)


def _has_agent(text: str | None) -> bool:
    """Whether the agent property enables the guest agent."""
    first = (text or "0").split(",")[0]
    return property_string.boolean(first.removeprefix("enabled=")) is True


# ---- args


def _options(subject: Subject, option: str) -> list[str]:
    """What follows an option in `args`, each time that it is there."""
    words = (subject.section.get("args") or "").split()
    return [value for word, value in itertools.pairwise(words) if word in {f"-{option}", f"--{option}"}]


def passed_by_args(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether `args` passes a device to QEMU that PVE does not know of.

    Why it matters: PVE neither binds nor reserves it, so two VMs may get it, and nothing here can check it.

    How to fix: use a hostpci entry. What that cannot say of a device, `args` can: `-set device.hostpciN.KEY=VALUE`.
    """
    devices = [value for value in _options(subject, "device") if "vfio-pci" in value]
    if devices and not subject.config.template:
        message = f"args passes a device past PVE: {shown(devices[0])}"
        yield Hit(subject.at("args", subject.section.line("args")), message, "use a hostpci entry for it")


def cpu_by_args(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether `args` of a VM with passthrough replaces the CPU that PVE configures.

    Why it matters: QEMU takes the last `-cpu`, so `cpu:` and all that PVE adds for passed GPUs and for Windows counts
    no more.

    How to fix: use `cpu: host`, with `hidden=1` and `flags=` for what is to differ.
    """
    if subject.resolution.passed and _options(subject, "cpu"):
        message = f"args has -cpu {shown(_options(subject, 'cpu')[-1])}, which replaces all that PVE sets for the CPU"
        yield Hit(subject.at("args", subject.section.line("args")), message, "use cpu: host,hidden=1,flags=...")


def template(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a template names a device by its address.

    Why it matters: each clone gets the entry, and wants the same device; only one of them can run.

    How to fix: use a mapping with several devices, or add the entry to each clone.
    """
    if subject.config.template:
        for _, entry in sorted(subject.section.entries.items()):
            if entry.host and not entry.wants_mdev:
                message = f"{entry.key} of a template names {shown(entry.host)}, which each clone will want"
                yield Hit(subject.at(entry.key, entry.line), message, "use a mapping, or add the entry to the clones")


# ---- what hangs on a passed controller


def _usb_controllers(around: Surroundings) -> dict[str, str]:
    """The PCI function above each USB device, by the device's name, such as `1-2.3` or `usb1`."""
    found = {}
    for name in around.host.names(_USB):
        if ":" not in name and (above := functions_in(around.host.resolve(f"{_USB}/{name}"))):
            found[name] = above[-1]
    return found


def _usb_names(subject: Subject, wanted: str) -> list[str]:
    """The USB devices that `host=` means: a port such as 1-2.3, or VENDOR:PRODUCT."""
    vendor, colon, product = wanted.lower().partition(":")
    if not colon:
        return [wanted]
    host = subject.host
    return [
        name
        for name in subject.around.once(_usb_controllers)
        if (host.text(f"{_USB}/{name}/idVendor"), host.text(f"{_USB}/{name}/idProduct"))
        == (vendor.removeprefix("0x").zfill(4), product.removeprefix("0x").zfill(4))
    ]


def usb_below(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a USB device that the VM gets by `usbN` hangs on a controller that it gets by hostpci.

    Why it matters: the controller takes the device with it, so the host has it no more and `usbN` finds nothing.

    How to fix: remove the `usbN` line; the guest sees the device on the passed controller.
    """
    passed = {address for device, functions in whole(subject) if device.bound_to_vfio for address in functions}
    for index in range(14 if passed else 0):
        text = subject.section.get(f"usb{index}")
        if text is None:
            continue
        try:
            wanted = property_string.parse(text, _USB_KEYS).get("host")
        except PropertyError:
            continue
        controllers = subject.around.once(_usb_controllers) if wanted else {}
        names = [name for name in _usb_names(subject, wanted or "") if name in controllers]
        bus = f"usb{wanted.partition('-')[0]}" if wanted and "-" in wanted else ""
        above = {controllers[name] for name in names or [bus] if name in controllers}
        if wanted and above and above <= passed:
            key = f"usb{index}"
            message = f"{key} takes {shown(wanted)} of {listed(sorted(above))}, a controller that the VM gets whole"
            yield Hit(subject.at(key, subject.section.line(key)), message, f"remove {key}")
