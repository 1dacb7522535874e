# SPDX-License-Identifier: Apache-2.0
"""The keys of a VM config: what they hold, who may set them, and which take effect while the VM runs.

Whether a hostpci, machine or vga value fits is asked of the program's own model, which tests/conformance holds to what
PVE decides in 858 cases.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pvepassthru.model import hostpci, machine, property_string
from pvepassthru.model.property_string import Key, PropertyError
from tests.api.fake_pve.request import boolean, enum, integer, is_on, like

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.api.fake_pve.request import Json

_INDEXED = re.compile(r"([a-z]+?)(0|[1-9][0-9]*)")
_COUNTS = {
    "hostpci": 16,
    "net": 32,
    "scsi": 31,
    "virtio": 16,
    "sata": 6,
    "ide": 4,
    "unused": 256,
    "usb": 14,
    "serial": 4,
    "parallel": 3,
    "numa": 8,
    "ipconfig": 32,
    "virtiofs": 10,
}
"""How many of each indexed key there are."""
DISKS = ("scsi", "virtio", "sata", "ide", "efidisk", "tpmstate")


@dataclass(frozen=True)
class Option:
    """A key of a VM config."""

    privilege: str | None
    """Who may set it: the privilege on the VM; None: root@pam only; "": another rule, see perms.py."""
    check: Callable[[str], str | None] = lambda _: None
    number: bool = False
    """Whether the API answers it as a number."""


def _fits(keys: dict[str, Key]) -> Callable[[str], str | None]:
    def check(text: str) -> str | None:
        try:
            property_string.parse(text, keys)
        except PropertyError as error:
            return str(error)
        return None

    return check


def _hostpci(text: str) -> str | None:
    return _fits(hostpci.KEYS)(text) if text.strip() else None


_MEMORY = {"current": Key("integer", default=True, required=True, least=16)}
_EFIDISK = {
    "file": Key(default=True, required=True),
    "efitype": Key("enum", values=("2m", "4m")),
    "format": Key("enum", values=("raw", "qcow2", "vmdk", "cow", "qcow", "qed", "cloop")),
    "ms-cert": Key("enum", values=("2011", "2023", "2023w", "2023k")),
    "pre-enrolled-keys": Key("boolean"),
    "size": Key(),
}
_CPU = {
    "cputype": Key(default=True),
    "flags": Key(),
    "guest-phys-bits": Key("integer"),
    "hidden": Key("boolean"),
    "hv-vendor-id": Key(),
    "level": Key("integer"),
    "phys-bits": Key(),
    "reported-model": Key(),
}
_WINDOWS = ("w2k", "w2k3", "w2k8", "win10", "win11", "win7", "win8", "wvista", "wxp")
_HARDWARE, _GENERAL, _CPUS = "VM.Config.HWType", "VM.Config.Options", "VM.Config.CPU"
_MEM, _DISK, _CLOUD = "VM.Config.Memory", "VM.Config.Disk", "VM.Config.Cloudinit"


def _flag(privilege: str | None) -> Option:
    return Option(privilege, boolean, number=True)


def _count(privilege: str | None, least: int = 0, most: int | None = None) -> Option:
    return Option(privilege, integer(least, most), number=True)


OPTIONS: dict[str, Option] = {
    **{name: _flag(_HARDWARE) for name in ("acpi", "kvm", "tablet")},
    **{name: _flag(_GENERAL) for name in ("autostart", "localtime", "onboot", "protection", "reboot", "tdf")},
    **{name: _flag(_GENERAL) for name in ("ciupgrade", "template")},
    "freeze": _flag("VM.PowerMgmt"),
    **{name: Option(_GENERAL) for name in ("agent", "description", "keyboard", "startdate", "startup", "tags")},
    "bios": Option(_GENERAL, enum("seabios", "ovmf")),
    "name": Option(_GENERAL, like(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?", 253)),
    "ostype": Option(_GENERAL, enum("l24", "l26", "other", "solaris", *_WINDOWS)),
    "migrate_downtime": Option(_GENERAL),
    "migrate_speed": _count(_GENERAL),
    "machine": Option(_HARDWARE, _fits(machine.KEYS)),
    "vga": Option(_HARDWARE, _fits(machine.VGA_KEYS)),
    **{name: Option(_HARDWARE) for name in ("audio0", "hotplug", "scsihw", "smbios1", "watchdog")},
    **{name: Option(None) for name in ("affinity", "amd-sev", "hugepages", "intel-tdx", "ivshmem", "rng0", "vmgenid")},
    "spice_enhancements": Option(None),
    "keephugepages": _flag(None),
    "cores": _count(_CPUS, 1),
    "sockets": _count(_CPUS, 1),
    "vcpus": _count(_CPUS, 1),
    "cpuunits": _count(_CPUS, 1, 262144),
    "cpulimit": Option(_CPUS),
    "numa": _flag(_CPUS),
    "cpu": Option(_CPUS, _fits(_CPU)),
    "memory": Option(_MEM, _fits(_MEMORY)),
    "balloon": _count(_MEM),
    "shares": _count(_MEM, 0, 50000),
    "allow-ksm": _flag(_MEM),
    **{name: Option(_DISK) for name in ("boot", "bootdisk", "vmstatestorage", "tpmstate0")},
    "efidisk0": Option(_DISK, _fits(_EFIDISK)),
    **{name: Option(_CLOUD) for name in ("cicustom", "citype", "ciuser", "nameserver", "searchdomain", "sshkeys")},
    "args": Option(None),
    "hookscript": Option(None),
    "lock": Option(None),
    "meta": Option(None),
    "parent": Option(None),
    "snaptime": _count(None),
    **{name: Option(None) for name in ("arch", "runningcpu", "runningmachine", "snapstate", "vmstate")},
}
_INDEXED_OPTIONS = {
    "hostpci": Option("", _hostpci),
    "net": Option("VM.Config.Network"),
    "ipconfig": Option("VM.Config.Network"),
    "usb": Option(None),
    "parallel": Option(None),
    "serial": Option(_HARDWARE),
    "numa": Option(_CPUS),
}
FAST = frozenset(
    {"description", "hookscript", "lock", "migrate_downtime", "migrate_speed", "name", "onboot", "protection"}
    | {"shares", "startup", "tags", "vmstatestorage", "balloon"}
)
"""What takes effect at once while the VM runs; everything else waits for the next start."""


def option(key: str) -> Option | None:
    """The option of this name, None if there is none."""
    if key in OPTIONS:
        return OPTIONS[key]
    match = _INDEXED.fullmatch(key)
    if match is None or int(match[2]) >= _COUNTS.get(match[1], 0):
        return None
    return _INDEXED_OPTIONS.get(match[1], Option(_DISK))


def problem(key: str, value: str) -> str | None:
    """What is wrong with a value; None also for keys that are unknown."""
    known = option(key)
    return known.check(value) if known else None


def is_disk(key: str) -> bool:
    """Whether a key holds a volume."""
    return key.rstrip("0123456789") in DISKS


def answered(values: dict[str, str]) -> dict[str, Json]:
    """The values as the API answers them: booleans and counts as numbers."""
    answer: dict[str, Json] = {}
    for key, value in values.items():
        known = option(key)
        if known:
            answer[key] = _number(value) if known.number else value
    return answer


def _number(text: str) -> int:
    return int(text) if text.lstrip("-").isdecimal() else int(is_on(text))
