# SPDX-License-Identifier: Apache-2.0
"""What firmware and processor bring: virtualization, the IOMMU's table, Secure Boot; and the kernel's release.

Sources: Linux Documentation/ABI/testing/sysfs-firmware-acpi, sysfs-firmware-efi-vars, sysfs-class-iommu-intel-iommu;
the UEFI specification (SecureBoot is one byte); Intel's VT-d specification (ECAP_REG bit 3: interrupt remapping).
"""

from __future__ import annotations

import os

from pvepassthru.host.inventory import IOMMUS
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import number

if TYPE_CHECKING:
    from typing import Literal

    from pvepassthru.host.host import Host

TABLES = "/sys/firmware/acpi/tables"
CPUINFO = "/proc/cpuinfo"
LOCKDOWN = "/sys/kernel/security/lockdown"
EFI = "/sys/firmware/efi"
SECURE_BOOT = f"{EFI}/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
INTERRUPTS = "/proc/interrupts"
IOMMU_TABLES = frozenset({"DMAR", "IVRS", "IORT", "VIOT"})
"""ACPI tables that describe an IOMMU: Intel's, AMD's, Arm's and the virtual one."""
_REMAPPING = 1 << 3
SIGNATURE = b"~Module signature appended~\n"
"""The end of a module that is signed. Source: Linux include/linux/module_signature.h."""


class Firmware(NamedTuple):
    """What is known of them; None where it cannot be told."""

    vendor: Literal["Intel", "AMD"] | None
    """The processor's maker."""
    iommu: Literal["Intel", "AMD"] | None
    """Whose IOMMU it is: by the units that the kernel drives, else by the ACPI tables, else the processor's maker's. A
    virtual machine may have an AMD processor and an Intel IOMMU."""
    flags: frozenset[str] | None
    """The first processor's flags; None without such a line (no x86), or without /proc/cpuinfo."""
    tables: frozenset[str] | None
    """The names of the ACPI tables."""
    secure_boot: bool | None
    """Whether Secure Boot is on."""
    lockdown: str | None
    """The kernel's lockdown: none, integrity or confidentiality."""
    release: str | None
    """As `uname -r` gives it."""

    @property
    def kernel(self) -> tuple[int, int] | None:
        """The running kernel's version, such as (6, 8)."""
        return version(self.release)

    def older_than(self, major: int, minor: int) -> bool | None:
        """Whether the running kernel is older than this; None if its version cannot be told."""
        return None if self.kernel is None else self.kernel < (major, minor)


def version(release: str | None) -> tuple[int, int] | None:
    """The first two numbers of a kernel's release (`6.8.12-4-pve` is (6, 8)), or None."""
    major, _, rest = (release or "").partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    first, second = number(major), number(digits)
    return None if first is None or second is None else (first, second)


def order(release: str) -> tuple[int, ...]:
    """A key that sorts the releases of kernels by their numbers: 6.8.12-4-pve before 6.8.12-10-pve."""
    digits = "".join(char if char in "0123456789" else " " for char in release)
    return tuple(int(word[:18]) for word in digits.split())


def read(host: Host) -> Firmware:
    """What is known of a host. Never raises."""
    cpu = _first_cpu(host.text(CPUINFO) or "")
    makers: dict[str | None, Literal["Intel", "AMD"]] = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD"}
    makers["HygonGenuine"] = "AMD"  # the same IOMMU and kernel parameters
    flags = cpu.get("flags")
    tables = host.names(TABLES)
    secure = host.text(SECURE_BOOT)
    vendor = makers.get(cpu.get("vendor_id"))
    return Firmware(
        vendor,
        _iommu([*host.names(IOMMUS), *tables]) or vendor,
        None if flags is None else frozenset(flags.split()),
        frozenset(tables) if tables else None,
        secure[-1] == "\1" if secure else None,
        _chosen(host.text(LOCKDOWN)),
        release(host),
    )


def release(host: Host) -> str | None:
    """The running kernel's release, `uname -r`; None if it cannot be told or is no file's name."""
    text = host.text("/proc/sys/kernel/osrelease")
    return text if text and text.isprintable() and "/" not in text else None


def remapping(host: Host) -> bool | None:
    """Whether interrupts are remapped by the IOMMU; None if that cannot be told.

    The kernel names the chips of remapped interrupts with `IR-`; without /proc/interrupts, an Intel unit that says in
    its capabilities that it cannot remap is enough for a no.
    """
    text = host.text(INTERRUPTS)
    if text and ("IO-APIC" in text or "PCI-MSI" in text):
        return "IR-IO-APIC" in text or "IR-PCI-MSI" in text
    capable = [_hex(host.text(f"{IOMMUS}/{unit}/intel-iommu/ecap")) for unit in host.names(IOMMUS)]
    return False if any(bits is not None and not bits & _REMAPPING for bits in capable) else None


def is_signed(host: Host, path: str) -> bool | None:
    """Whether a module's file ends in a signature; None for a compressed one, or one that cannot be read."""
    if not path.endswith(".ko"):
        return None
    try:
        fd = os.open(host.path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        size = os.fstat(fd).st_size
        return os.pread(fd, len(SIGNATURE), max(0, size - len(SIGNATURE))) == SIGNATURE
    except OSError:
        return None
    finally:
        os.close(fd)


def _first_cpu(text: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for line in text.split("\n"):
        name, colon, value = line.partition(":")
        if not colon and values:
            break
        values[name.strip()] = value.strip()
    return values


def _iommu(names: list[str]) -> Literal["Intel", "AMD"] | None:
    """Whose IOMMU these units (dmar0, ivhd0), then tables (DMAR, IVRS), tell of."""
    for name in names:
        if name.lower().startswith("dmar"):
            return "Intel"
        if name.lower().startswith(("ivhd", "ivrs")):
            return "AMD"
    return None


def _chosen(text: str | None) -> str | None:
    """The word in brackets of `none [integrity] confidentiality`."""
    return text.partition("[")[2].partition("]")[0] or None if text else None


def _hex(text: str | None) -> int | None:
    try:
        return int(text or "", 16)
    except ValueError:
        return None
