# SPDX-License-Identifier: Apache-2.0
"""The images in a PCI expansion ROM, as a file for `romfile=` holds them.

A ROM is a chain of images. Each starts with 55 AA and points to its PCI data structure ("PCIR"), which says whom the
image is for, its length, its kind, and whether it is the last. Source: PCI Firmware Specification 3.x, "PCI Expansion
ROMs"; UEFI Specification, "PCI Option ROMs". Firmware walks the chain; what lies outside of it is looked for in steps
of 512 bytes, since dumps and vendors' files often break the chain.
"""

from __future__ import annotations

import struct

from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Literal

    Kind = Literal["legacy", "EFI", "other"]
    Reason = Literal["no-signature", "header", "no-pcir", "truncated", "no-length", "no-last", "bad-efi"]

BLOCK = 512
"""Bytes; lengths in a ROM are counted in these, and images start at multiples of it."""
LARGEST = 16 * 1024 * 1024
"""Bytes that a ROM can have: a function's ROM BAR is no larger (PCI Local Bus Specification 3.0, 6.2.5.2)."""
MACHINES = {0x014C: "IA-32", 0x0EBC: "EBC", 0x01C2: "ARM", 0x8664: "x64", 0xAA64: "AArch64", 0x5064: "RISC-V 64"}
"""Machine types of EFI images, by number."""
_SIGNATURE = b"\x55\xaa"
_PCIR = b"PCIR"
_EFI = 0x0EF1
_KINDS: dict[int, Kind] = {0: "legacy", 3: "EFI"}
_DEVICE_LIST_REVISION = 3
"""Of the PCI data structure; in older ones the place of the list's pointer is that of vital product data."""
_MOST_DEVICES = 512
_HEADER = 256 * 1024
"""Bytes; no vendor's header is longer."""


class Image(NamedTuple):
    """One image of a ROM."""

    offset: int
    """Where it starts in the file, in bytes."""
    kind: Kind
    """`legacy` runs in SeaBIOS, `EFI` in OVMF, `other` in neither."""
    code_type: int
    vendor: int
    device: int
    devices: tuple[int, ...]
    """Further device ids that it is for, of the device list; none if there is no such list."""
    class_code: int
    """24 bits, as in sysfs."""
    length: int
    """Bytes, by its PCI data structure."""
    last: bool
    """Whether it says that it is the last."""
    machine: int | None
    """The machine type of an EFI image, see MACHINES; None of others."""
    compressed: bool
    """Whether an EFI image is compressed."""
    checksum_fits: bool | None
    """Of the first legacy image whether its bytes add up to 0, as SeaBIOS wants them; None of others, and where that
    cannot be told."""

    def is_for(self, vendor: int, device: int) -> bool:
        """Whether it is for this device. Device ffff stands for any, as some of Intel's EFI images have it."""
        return self.vendor == vendor and (self.device in {device, 0xFFFF} or device in self.devices)


class Fault(NamedTuple):
    """One thing that is wrong with a ROM."""

    reason: Reason
    offset: int
    """Where in the file, in bytes."""
    message: str
    """Such as "ends in the middle of the image at 0xf200"; what comes before it is the ROM's name."""


class Rom(NamedTuple):
    """A whole ROM."""

    size: int
    """Bytes of the file."""
    header: int
    """Bytes before the first image, none if that stands where it must."""
    header_name: str
    """The letters that this header starts with, such as NVGI; empty if there are none."""
    images: tuple[Image, ...]
    """Those of the chain, which firmware finds, in order."""
    strays: tuple[Image, ...]
    """Those beside the chain, which it does not."""
    faults: tuple[Fault, ...]

    def image(self, kind: Kind) -> Image | None:
        """The first image of a kind that firmware finds, or None."""
        return next((image for image in self.images if image.kind == kind), None)


def parse(data: bytes) -> Rom:
    """The ROM in these bytes, whatever they are. Never raises; takes time in proportion to their number."""
    start = _first(data)
    if start is None:
        return Rom(len(data), 0, "", (), (), (_no_image(data),))
    faults = []
    name = _name(data) if start else ""
    if start:
        what = f'a header "{name}"' if name else "something else"
        faults.append(Fault("header", 0, f"starts with {what} of {start} bytes, before the first image"))
    images, wrong, end = _walk(data, start)
    faults += wrong
    known = {image.offset for image in images}
    places = range(start, len(data), BLOCK)
    found = (_image(data, place) for place in places if data[place : place + 2] == _SIGNATURE and place not in known)
    strays = tuple(image for image in found if image and image.offset >= end)
    faults += [
        Fault("bad-efi", image.offset, f"has an EFI image at {image.offset:#x} without the signature 0x0ef1")
        for image in images
        if image.kind == "EFI" and image.machine is None
    ]
    return Rom(len(data), start, name, tuple(images), strays, tuple(faults))


def _first(data: bytes) -> int | None:
    """Where the first image starts: at 0, or behind a vendor's header; None if there is none."""
    if data[:2] == _SIGNATURE:
        return 0
    place = data.find(_SIGNATURE, 0, _HEADER)
    while place >= 0:
        if _data_structure(data, place) is not None:
            return place
        place = data.find(_SIGNATURE, place + 1, _HEADER)
    return None


def _no_image(data: bytes) -> Fault:
    if data and data.count(data[0]) == len(data):
        return Fault("no-signature", 0, f"holds nothing but the byte {data[0]:02x}")
    begins = data[:2].hex(" ") or "nothing"
    return Fault("no-signature", 0, f"has no image: it starts with {begins} instead of 55 aa")


def _name(data: bytes) -> str:
    """The letters at the start."""
    name = data[:4]
    return name.decode("ascii") if name.isalnum() and name.isascii() else ""


def _walk(data: bytes, start: int) -> tuple[list[Image], list[Fault], int]:
    """The images of the chain, what is wrong with it, and where it ends."""
    images: list[Image] = []
    place = start
    sum_up = True
    while True:
        if data[place : place + 2] != _SIGNATURE:
            how = "ends" if place >= len(data) else f"has no image at {place:#x}"
            fault = Fault("no-last", place, f"{how}, and no image before says that it is the last")
            return images, [fault], place
        image = _image(data, place, sum_up=sum_up)
        if image is None:
            fault = Fault("no-pcir", place, f"has an image at {place:#x} without a PCI data structure (PCIR)")
            return images, [fault], place + 1
        images.append(image)
        sum_up = sum_up and image.kind != "legacy"
        if not image.length:
            fault = Fault("no-length", place, f"has an image at {place:#x} whose length is 0")
            return images, [fault], place + 1
        end = place + image.length
        if end > len(data):
            message = f"ends in the middle of the image at {place:#x}: {len(data)} of {end} bytes are there"
            return images, [Fault("truncated", place, message)], end
        if image.last:
            return images, [], end
        place = end


def _data_structure(data: bytes, place: int) -> int | None:
    """Where the PCI data structure of the image at `place` starts, all of it in the file; or None."""
    pointer = data[place + 0x18 : place + 0x1A]
    if len(pointer) < 2:
        return None
    found = place + int.from_bytes(pointer, "little")
    return found if data[found : found + 4] == _PCIR and found + 0x18 <= len(data) else None


def _image(data: bytes, place: int, *, sum_up: bool = False) -> Image | None:
    """The image at `place`, with its checksum if asked for; None if it has no PCI data structure."""
    found = _data_structure(data, place)
    if found is None:
        return None
    vendor, device, listed, _, revision, low, high, blocks, _, code_type, indicator = struct.unpack_from(
        "<HHHHBBHHHBB", data, found + 4
    )
    kind = _KINDS.get(code_type, "other")
    machine = None
    compressed = False
    if kind == "EFI":
        signature, _, machine, packed = struct.unpack_from("<IHHH", data, place + 4)
        machine = machine if signature == _EFI else None
        compressed = bool(packed)
    return Image(
        offset=place,
        kind=kind,
        code_type=code_type,
        vendor=vendor,
        device=device,
        devices=_devices(data, found, listed) if revision >= _DEVICE_LIST_REVISION and listed else (),
        class_code=high << 8 | low,
        length=blocks * BLOCK,
        last=bool(indicator & 0x80),
        machine=machine,
        compressed=compressed,
        checksum_fits=_sum_fits(data, place) if sum_up and kind == "legacy" else None,
    )


def _devices(data: bytes, found: int, listed: int) -> tuple[int, ...]:
    """The device list of the PCI data structure at `found`, which a 0 ends."""
    room = data[found + listed : found + listed + 2 * _MOST_DEVICES]
    words = struct.unpack_from(f"<{len(room) // 2}H", room)
    return words[: words.index(0)] if 0 in words else words


def _sum_fits(data: bytes, place: int) -> bool | None:
    """Whether the bytes of a legacy image add up to 0; their number is in its third byte."""
    length = data[place + 2] * BLOCK
    if not length or place + length > len(data):
        return None
    return sum(data[place : place + length]) & 0xFF == 0
