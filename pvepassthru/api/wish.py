# SPDX-License-Identifier: Apache-2.0
"""What is required of one VM: devices, and how the VM is to be set up around them. From words of a command line.

For many VMs there is a file (api/wish_file.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api.hardware import KINDS
from pvepassthru.model import hostpci, pci, profile
from pvepassthru.model.errors import UsageError
from pvepassthru.model.pattern import ASCII, Pattern
from pvepassthru.model.pci import MAX_INDEX
from pvepassthru.model.text import listed, nearest, shown
from pvepassthru.model.vmconfig import is_hostpci

if TYPE_CHECKING:
    from collections.abc import Sequence

BEST = "best"
"""The mdev type that is chosen by what is required of it."""
IGD = "0000:00:02.0"
"""Where the GPU in an Intel processor is."""
FIRMWARE = ("ovmf", "seabios")
LAST_ENTRY = f"hostpci{MAX_INDEX}"
_IDS = Pattern(r"[0-9a-f]{4}:[0-9a-f]{4}", ASCII)
_SNIPPET = Pattern(r"[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]:snippets/[^/,\s]+", ASCII)
_STORAGE = Pattern(r"[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]", ASCII)
_DEVICE_HINT = f"use an address (0000:01:00.0, or 01:00 for all functions), vendor:device, or {listed(KINDS)}"


class Device(NamedTuple):
    """One device that a VM is to have; one of the first five says which, or `mdev` alone."""

    addresses: tuple[str, ...] = ()
    """Selectors with domain; several are one multifunction device."""
    ids: str = ""
    """`vendor:device` without 0x."""
    kind: str = ""
    """A class of devices, a key of KINDS."""
    vf_of: str = ""
    """The address of a PF, of whose VFs one that is free is wanted."""
    mapping: str = ""
    mdev: str = ""
    """The type of a mediated device or vGPU on it, or `best`."""
    framebuffer: int = 0
    """The least graphics memory of its type, in MiB."""
    rom: str = ""
    """A file in /usr/share/kvm."""
    primary: bool = False
    """Whether it is the VM's display."""
    igd: bool = False
    """Whether it is passed as the first graphics card, in QEMU's legacy mode for Intel GPUs."""
    pcie: bool | None = None
    """Whether the guest sees it on PCIe; None where that is to be decided."""

    @property
    def words(self) -> str:
        """What is wanted, in words."""
        which = (
            ";".join(self.addresses)
            or self.ids
            or (f"a {self.kind}" if self.kind else "")
            or (f"a VF of {self.vf_of}" if self.vf_of else "")
            or (f"mapping {self.mapping}" if self.mapping else "")
        )
        if not self.mdev:
            return which
        size = f" with {self.framebuffer} MiB or more" if self.framebuffer else ""
        kind = f"the best mdev type{size}" if self.mdev == BEST else f"mdev {shown(self.mdev)}"
        return f"{kind} on {which}" if which else kind


class Wish(NamedTuple):
    """What is required of one VM."""

    devices: tuple[Device, ...] = ()
    primary_gpu: bool = False
    """Whether the GPU among the devices is the VM's display."""
    rom: str = ""
    """A ROM file for the GPU among the devices, or for the only device."""
    igd: bool = False
    """Whether the Intel GPU is passed in legacy mode: the device at 00:02.0 among them, or else it is added."""
    bios: str = ""
    """`ovmf` or `seabios`; empty where that is to be decided."""
    storage: str = ""
    """Where an EFI disk is made, if one is needed; empty for the storage of the VM's boot disk."""
    hookscript: str = ""
    """A volume such as local:snippets/pvepassthru, or nothing."""
    numa: bool = False
    """Whether the VM is kept to the CPUs of its devices' NUMA node."""
    hidden: bool = False
    """Whether the guest is not to see that it is a VM, as NVIDIA's drivers before 465 want it."""
    by_mapping: bool = False
    """Whether devices are named by a mapping only, as users other than root@pam must."""
    remove: tuple[str, ...] = ()
    """The hostpci entries that the VM is to lose, such as `hostpci0`; no other one takes their places."""


# ---- words


def device(word: str) -> Device:
    """The device that a word means: an address, `vendor:device` or a class. Raises UsageError."""
    plain = word.strip()
    lower = plain.lower()
    for prefix in ("class:", "class=", "class "):
        if lower.startswith(prefix):
            return Device(kind=kind(lower.removeprefix(prefix).strip()))
    if lower in KINDS:
        return Device(kind=lower)
    if _IDS.fullmatch(lower):
        return Device(ids=lower)
    selectors = tuple(pci.with_domain(part) for part in lower.split(";"))
    if pci.are_selectors(";".join(selectors)):
        return Device(addresses=selectors)
    near = nearest(lower, KINDS)
    raise UsageError(f"{shown(word)} is no device", f"is {near} meant?" if near and lower.isalpha() else _DEVICE_HINT)


def kind(word: str) -> str:
    """A class of devices, a key of KINDS. Raises UsageError."""
    if word not in KINDS:
        near = nearest(word, KINDS)
        raise UsageError(f"{shown(word)} is no class", f"is {near} meant?" if near else f"use {listed(KINDS)}")
    return word


def ids(word: str) -> str:
    """A `vendor:device`. Raises UsageError."""
    if not _IDS.fullmatch(word.lower()):
        raise UsageError(f"{shown(word)} is no vendor:device", "write both as lspci -nn does, such as 10de:2204")
    return word.lower()


def pf(word: str) -> str:
    """The address of the PF that a word means. Raises UsageError."""
    address = pci.with_domain(word.strip().lower())
    if not pci.is_address(address):
        raise UsageError(f"{shown(word)} is no address of a PF", "write it as lspci does: 0000:01:00.0 or 01:00.0")
    return address


def mapping(word: str) -> str:
    """The name of a mapping. Raises UsageError."""
    fits = hostpci.KEYS["mapping"].fits
    if fits is None or not fits(word):
        raise UsageError(f"{shown(word)} is no name of a mapping", "a letter, then letters, digits, - and _")
    return word


def mdev(word: str) -> str:
    """An mdev type, or `best`. Raises UsageError."""
    fits = hostpci.KEYS["mdev"].fits
    if fits is None or not fits(word) or not word.isprintable() or set(word) & set(", ;=") or word == "0":
        raise UsageError(f"{shown(word)} is no mdev type", "use a type such as nvidia-63, or best")
    return word


def framebuffer(word: str) -> int:
    """Graphics memory in MiB by words such as 4G. Raises UsageError."""
    amount = profile.megabytes(word)
    if not amount:
        raise UsageError(f"{shown(word)} is no amount of graphics memory", "write it as 4G or 4096M")
    return amount


def rom(word: str) -> str:
    """A ROM file's name as `romfile=` takes it, inside /usr/share/kvm. Raises UsageError."""
    parts = word.split("/")
    if (
        not word
        or ".." in parts
        or "" in parts
        or set(word) & set(",;")
        or not word.isprintable()
        or word != word.strip()
    ):
        hint = f"give the name of a file in {hostpci.ROMS}, such as gpu.rom, without , and ;"
        raise UsageError(f"{shown(word)} is no ROM file that a VM may have", hint)
    return word


def hookscript(word: str) -> str:
    """A hookscript's volume. Raises UsageError."""
    if not _SNIPPET.fullmatch(word):
        raise UsageError(
            f"{shown(word)} is no hookscript", "write STORAGE:snippets/FILE, such as local:snippets/pvepassthru"
        )
    return word


def firmware(word: str) -> str:
    """A firmware, one of FIRMWARE. Raises UsageError."""
    if word not in FIRMWARE:
        raise UsageError(f"{shown(word)} is no firmware", f"use {' or '.join(FIRMWARE)}")
    return word


def storage(word: str) -> str:
    """A storage's id. Raises UsageError."""
    if not _STORAGE.fullmatch(word):
        raise UsageError(f"{shown(word)} is no name of a storage", "pvesm status lists them")
    return word


def entry(word: str) -> str:
    """The key of a hostpci entry. Raises UsageError."""
    if not is_hostpci(word):
        raise UsageError(f"{shown(word)} is no hostpci entry", f"name it as the config does: hostpci0 to {LAST_ENTRY}")
    return word


# ---- a command line


def of_arguments(  # noqa: PLR0913 - one for each option
    *,
    devices: Sequence[str] = (),
    vf_of: Sequence[str] = (),
    mappings: Sequence[str] = (),
    mdev_type: str = "",
    min_framebuffer: str = "",
    primary_gpu: bool = False,
    rom_file: str = "",
    igd: bool = False,
    bios: str = "",
    efi_storage: str = "",
    hook: str = "",
    numa: bool = False,
    hidden: bool = False,
    by_mapping: bool = False,
    remove: Sequence[str] = (),
) -> Wish:
    """The wish that options mean. Raises UsageError.

    An mdev type is for the one device that is named, or for any that has it if none is. A ROM file and `primary_gpu`
    are for the GPU among the devices, which only the hardware tells (api/generate.py).
    """
    named = [device(word) for word in devices]
    named += [Device(vf_of=pf(word)) for word in vf_of]
    named += [Device(mapping=mapping(word)) for word in mappings]
    if min_framebuffer and not mdev_type:
        raise UsageError("--min-framebuffer says nothing without --mdev", "add --mdev best")
    if mdev_type:
        if len(named) > 1:
            hint = "name one device, or write a file in which each device says its own (--file)"
            raise UsageError(f"--mdev is for one device, and {len(named)} are named", hint)
        least = framebuffer(min_framebuffer) if min_framebuffer else 0
        named = [(named[0] if named else Device())._replace(mdev=mdev(mdev_type), framebuffer=least)]
    return checked(
        Wish(
            tuple(named),
            primary_gpu=primary_gpu,
            rom=rom(rom_file) if rom_file else "",
            igd=igd,
            bios=firmware(bios) if bios else "",
            storage=storage(efi_storage) if efi_storage else "",
            hookscript=hookscript(hook) if hook else "",
            numa=numa,
            hidden=hidden,
            by_mapping=by_mapping,
            remove=tuple(dict.fromkeys(entry(word) for word in remove)),
        )
    )


def checked(wish: Wish) -> Wish:
    """The wish, if its parts go together. Raises UsageError."""
    for one in wish.devices:
        _check(one)
    seen: set[str] = set()
    for address in (address for one in wish.devices if not one.mdev for address in one.addresses):
        if address in seen:
            raise UsageError(f"{address} is wanted twice", "name each device once")
        seen.add(address)
    if sum(one.primary for one in wish.devices) > 1:
        raise UsageError("two devices are wanted as the primary GPU", "a VM has one")
    if sum(one.igd for one in wish.devices) > 1:
        raise UsageError("two devices are wanted as the Intel GPU in legacy mode", "a VM has one")
    if not (wish.devices or wish.igd) and (wish.primary_gpu or wish.rom):
        raise UsageError("no device is named that could be the GPU", "add --device, for example --device gpu")
    if wish._replace(storage="", by_mapping=False) == Wish():  # these only say how
        raise UsageError("nothing is required of the VM", "name a device, for example --device gpu")
    return wish


def _check(one: Device) -> None:
    """Raise UsageError when what is said of one device does not go together."""
    ways = [way for way in (one.addresses, one.ids, one.kind, one.vf_of, one.mapping) if way]
    if len(ways) > 1:
        raise UsageError(f"{listed(map(str, ways))} are several ways to name one device", "keep one of them")
    if not ways and not one.mdev and not one.igd:
        raise UsageError("it is not said which device is wanted", _DEVICE_HINT)
    if one.framebuffer and not one.mdev:
        raise UsageError("a least graphics memory says nothing without an mdev type", "add mdev: best")
    if one.mdev and (one.rom or one.primary or one.igd):
        said = next(
            word for word, is_said in (("a ROM file", one.rom), ("primary", one.primary), ("igd", True)) if is_said
        )
        raise UsageError(f"{one.words} cannot have {said}", "that is for a device that is passed whole")
    if one.igd and one.pcie:
        raise UsageError(f"{one.words or IGD} cannot be on PCIe in legacy mode", "leave out igd or pcie")
    if one.igd and one.primary:
        raise UsageError("igd makes the Intel GPU the VM's display already", "leave out primary_gpu")
