# SPDX-License-Identifier: Apache-2.0
"""Rules on the ROM files that hostpci entries name with `romfile=`.

QEMU hands any file to the guest as it is, so a bad one fails silently: the firmware passes over it and the device stays
without its ROM. What keeps QEMU from the file at all is told by rules/devices.py.
"""

from __future__ import annotations

import errno
import os

from pvepassthru.model import rom
from pvepassthru.model.hostpci import ROMS
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import listed, one_line, shown
from pvepassthru.rules.devices import rom_state
from pvepassthru.rules.subject import Hit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.model.hostpci import HostpciEntry
    from pvepassthru.model.rom import Image, Rom
    from pvepassthru.rules.subject import Subject, Surroundings

_AGAIN = "dump the ROM again, with no driver bound to the device, or take the file of the card's maker"
_BROKEN = {"no-signature", "no-pcir", "truncated", "no-length", "no-last"}
"""Faults behind which there may be images that nobody has seen."""
_OVMF_RUNS = {0x8664, 0x0EBC}
"""The machine types of EFI images that a VM's OVMF can run: x64, and byte code for any machine."""


class _Read(NamedTuple):
    """A ROM file that was read."""

    rom: Rom | None
    """None if it could not be read, or is too large."""
    error: int
    """The errno then."""


def _reads(_around: Surroundings) -> dict[str, _Read]:
    """The ROM files that were read, by name; filled as they are asked for."""
    return {}


def _read(around: Surroundings, name: str) -> _Read:
    reads = around.once(_reads)
    if name not in reads:
        try:
            reads[name] = _Read(rom.parse(around.host.read(f"{ROMS}/{name}", rom.LARGEST)), 0)
        except OSError as error:
            reads[name] = _Read(None, error.errno or errno.EIO)
    return reads[name]


def _files(subject: Subject, *, hidden: bool = False) -> Iterator[tuple[HostpciEntry, str, _Read]]:
    """Each entry whose ROM file QEMU can use, with the words for it; those with rombar=0 only if `hidden`."""
    if subject.config.template:
        return
    for _, entry in sorted(subject.section.entries.items()):
        name = entry.romfile
        if name is not None and (entry.rombar or hidden) and rom_state(subject.around, name)[0] == "fine":
            yield entry, f"romfile {shown(name)}", _read(subject.around, name)


def _faults(subject: Subject, reasons: set[str], hint: str) -> Iterator[Hit]:
    for entry, name, read in _files(subject):
        faults = [fault for fault in read.rom.faults if fault.reason in reasons] if read.rom else []
        if faults:
            yield Hit(subject.at(entry.key, entry.line), f"{name} {faults[0].message}", hint)


def not_a_rom(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a romfile holds a PCI expansion ROM: an image that starts with 55 AA.

    Why it matters: the guest's firmware finds nothing to run in it, so the device starts as if it had no ROM. A dump
    that was taken while the ROM was switched off holds ff or 00 only.

    How to fix: dump the ROM again (`echo 1 > rom` in the device's sysfs folder, `cat rom > FILE`, `echo 0 > rom`),
    or take the file of the card's maker.
    """
    return _faults(subject, {"no-signature"}, _AGAIN)


def vendor_header(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a romfile starts with its first image.

    Files that are meant for flashing have a header of their own before it, NVIDIA's with the letters NVGI.

    Why it matters: firmware looks for 55 AA at the very start, finds the header, and takes the device for one without a
    ROM.

    How to fix: cut the header off, as the hint shows.
    """
    for entry, name, read in _files(subject):
        if read.rom and read.rom.header:
            fault = next(fault for fault in read.rom.faults if fault.reason == "header")
            path = f"{ROMS}/{entry.romfile}".replace("'", "'\\''")
            hint = f"tail -c +{read.rom.header + 1} '{path}' > '{path}.cut', then name that file in romfile="
            yield Hit(subject.at(entry.key, entry.line), f"{name} {fault.message}", one_line(hint))


def malformed(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the images of a romfile have the headers that firmware reads.

    Each needs a PCI data structure ("PCIR") with a length, one for EFI also its signature.

    Why it matters: firmware stops at such an image, and runs neither it nor those behind it.

    How to fix: dump the ROM again, or take the file of the card's maker.
    """
    return _faults(subject, {"no-pcir", "no-length", "bad-efi"}, _AGAIN)


def truncated(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a romfile is complete: no image is longer than what is left of the file.

    Why it matters: firmware refuses such an image, or runs code whose end is missing.

    How to fix: dump the ROM again. Reading it stops early when the device's driver runs, or when it is the host's own
    display.
    """
    yield from _faults(subject, {"truncated"}, _AGAIN)
    for entry, name, read in _files(subject):
        if read.rom is None and read.error != errno.EFBIG:
            message = f"{name} cannot be read to its end: {os.strerror(read.error)}"
            yield Hit(subject.at(entry.key, entry.line), message, "see what is wrong with the file")


def no_last(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the images of a romfile end with one that says that it is the last.

    Why it matters: firmware looks for one more image and finds none; some then refuse the ROM. The rest of the file is
    missing, as a rule, or an image's length is wrong.

    How to fix: dump the ROM again, or take the file of the card's maker.
    """
    return _faults(subject, {"no-last"}, _AGAIN)


def other_device(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a romfile is for the device that gets it, by the vendor and device ids in its images.

    An image may list further devices, and device ffff stands for any.

    Why it matters: SeaBIOS passes over an image for another device, and EFI drivers do not start on it. A ROM of
    another card can also set up the wrong hardware.

    How to fix: use a ROM of this very card.
    """
    passed = {device.index: device for device in subject.resolution.passed if not device.mdev and not device.nvidia}
    for entry, name, read in _files(subject):
        device = passed.get(entry.index)
        if read.rom is None or device is None or not read.rom.images:
            continue
        for address in sorted({functions[0] for functions in device.alternatives}):  # PVE gives it to the first
            vendor, number = (_id(subject.inventory.attribute(address, of)) for of in ("vendor", "device"))
            if vendor is None or number is None:
                continue
            seen = _id(entry.vendor_id) or vendor, _id(entry.device_id) or number
            if not any(image.is_for(*ids) for image in read.rom.images for ids in ((vendor, number), seen)):
                ids = listed(dict.fromkeys(f"{image.vendor:04x}:{image.device:04x}" for image in read.rom.images))
                message = f"{name} is for {ids}, and {address} is {vendor:04x}:{number:04x}"
                yield Hit(subject.at(entry.key, entry.line), message, "use a ROM of this very card")
                break


def _id(text: str | None) -> int | None:
    """The number of an id as `0x10de`, or None."""
    digits = (text or "").removeprefix("0x")
    return int(digits, 16) if len(digits) == 4 and set(digits) <= set("0123456789abcdefABCDEF") else None


def _ovmf(subject: Subject) -> bool:
    return subject.section.get("bios") == "ovmf"


def _whole(subject: Subject, *, ovmf: bool) -> Iterator[tuple[HostpciEntry, str, Rom]]:
    """The ROMs all of whose images were seen, if the VM has this firmware."""
    if _ovmf(subject) is ovmf:
        for entry, name, read in _files(subject):
            if read.rom and not {fault.reason for fault in read.rom.faults} & _BROKEN:
                yield entry, name, read.rom


def no_efi_image(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a romfile has an image for EFI, when the VM's firmware is OVMF.

    Why it matters: OVMF cannot run a legacy image, so a GPU shows nothing before the guest's own driver starts.

    How to fix: use a ROM with an EFI image (cards since about 2012 have one), or `bios: seabios` for the VM; an
    installed guest starts under the other firmware only when it was set up for both.
    """
    for entry, name, found in _whole(subject, ovmf=True):
        if found.image("EFI") is None:
            message = f"{name} has no EFI image ({_kinds(found.images)}), and the VM's firmware is OVMF"
            if any(image.kind == "EFI" for image in found.strays):
                message += ": the one behind its last image is never found"
            yield Hit(subject.at(entry.key, entry.line), message, "use a ROM with an EFI image, or bios: seabios")


def no_legacy_image(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a romfile has a legacy image, when the VM's firmware is SeaBIOS.

    SeaBIOS is what a VM has without `bios: ovmf`.

    Why it matters: SeaBIOS cannot run an EFI image, so a GPU shows nothing before the guest's own driver starts.

    How to fix: use `bios: ovmf` for a guest that was installed with it, or a ROM with a legacy image.
    """
    for entry, name, found in _whole(subject, ovmf=False):
        if found.image("legacy") is None:
            message = f"{name} has no legacy image ({_kinds(found.images)}), and the VM's firmware is SeaBIOS"
            yield Hit(subject.at(entry.key, entry.line), message, "use bios: ovmf, or a ROM with a legacy image")


def _kinds(images: tuple[Image, ...]) -> str:
    """Words such as `legacy, EFI`."""
    return listed(dict.fromkeys(image.kind for image in images))


def wrong_machine(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether an EFI image of a romfile is for x64 machines, when the VM's firmware is OVMF.

    Why it matters: OVMF cannot run the code of another machine, so a GPU shows nothing before the guest's own driver
    starts. Cards for Arm servers and older Macs have such ROMs.

    How to fix: use the ROM of the card's PC version.
    """
    for entry, name, found in _whole(subject, ovmf=True):
        machines = [image.machine for image in found.images if image.kind == "EFI" and image.machine is not None]
        if machines and not _OVMF_RUNS.intersection(machines):
            words = listed(dict.fromkeys(rom.MACHINES.get(machine, f"machine {machine:#06x}") for machine in machines))
            message = f"{name} has EFI images for {words} only, and OVMF runs those for x64"
            yield Hit(subject.at(entry.key, entry.line), message, "use the ROM of the card's PC version")


def bad_checksum(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the bytes of a romfile's legacy image add up to 0, when the VM's firmware is SeaBIOS.

    Why it matters: SeaBIOS passes over an image that does not. A ROM that was dumped after the host had used the card
    is often altered.

    How to fix: dump the ROM on a host that started with another display, or take the file of the card's maker.
    """
    for entry, name, found in _whole(subject, ovmf=False):
        image = found.image("legacy")
        if image and image.checksum_fits is False:
            message = f"{name} has a legacy image with a wrong checksum, which SeaBIOS passes over"
            yield Hit(subject.at(entry.key, entry.line), message, _AGAIN)


def hidden(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether an entry has both `romfile=` and `rombar=0`.

    Why it matters: a guest reads a ROM through the device's ROM BAR, and `rombar=0` takes it away: OVMF and the guest's
    drivers never see the file. Only SeaBIOS still runs it, which gets it from QEMU another way.

    How to fix: remove one of the two.
    """
    for entry, name, _ in _files(subject, hidden=True):
        if not entry.rombar:
            who = "OVMF and the guest's drivers" if _ovmf(subject) else "the guest's drivers"
            message = f"{name} goes with rombar=0, which hides it from {who}"
            yield Hit(subject.at(entry.key, entry.line), message, "remove rombar=0 or romfile=")


def too_large(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a romfile is larger than a ROM can be, 16 MiB.

    Why it matters: it is something else, as a rule. QEMU makes a ROM BAR of that size, which PCI does not know, and the
    firmware may find no room for it.

    How to fix: see what the file is; name the ROM itself.
    """
    for entry, name, read in _files(subject):
        if read.rom is None and read.error == errno.EFBIG:
            message = f"{name} is larger than {rom.LARGEST >> 20} MiB, more than a PCI ROM can have"
            yield Hit(subject.at(entry.key, entry.line), message, "see what the file is; name the ROM itself")
