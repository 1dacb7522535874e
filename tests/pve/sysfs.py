# SPDX-License-Identifier: Apache-2.0
"""The sysfs of a real or simulated host, as far as PVE looks at it, and the log of PVE's writes."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import NamedTuple

DEVICES = "/sys/bus/pci/devices"
VFIO_PCI = "/sys/bus/pci/drivers/vfio-pci"
MDEVS = "/sys/bus/mdev/devices"

_HEX = re.compile(r"0x([0-9a-f]{4})")

Write = Callable[[str, str], None]
"""Writes a value to an attribute; paths are as on a host. Raises OSError as the kernel does."""


class Info(NamedTuple):
    """What PVE must be able to read of a function."""

    vendor: str
    device: str
    subsystem: str | None
    """`vendor:device` of the subsystem, if it has one."""
    resettable: bool


class Sysfs:
    """Sysfs below `root`; `write` makes the writes (None: plainly to the files)."""

    def __init__(self, root: str, write: Write | None = None) -> None:
        self.root = "" if root == "/" else root.rstrip("/")
        self._write = write or self._plain_write
        self.writes: list[tuple[str, str]] = []
        """Every write that PVE tried, in order."""

    def text(self, path: str) -> str | None:
        """A file's text without its outer blanks, or None."""
        try:
            with open(self.root + path, encoding="utf-8", errors="surrogateescape") as file:
                return file.read().strip()
        except OSError:
            return None

    def names(self, path: str) -> list[str]:
        """The sorted names in a folder."""
        try:
            return sorted(os.listdir(self.root + path))
        except OSError:
            return []

    def link(self, path: str) -> str | None:
        """The last component of what a link points at, or None."""
        try:
            return os.path.basename(os.readlink(self.root + path))
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        """Whether this path exists."""
        return os.path.exists(self.root + path)

    def write(self, path: str, value: str) -> None:
        """Write an attribute and remember that. Raises OSError."""
        self.writes.append((path, value))
        self._write(path, value)

    def write_in_child(self, path: str, value: str, seconds: float) -> int | None:
        """Make a write that may block in a child of ours; returns its pid when it still blocks after `seconds`."""
        self.writes.append((path, value))
        child = os.fork()
        if child == 0:
            code = 1
            os.closerange(3, 4096)  # PVE's lock on the VM is not this child's
            try:
                self._write(path, value)
                code = 0
            except OSError as error:
                code = error.errno or 1
            finally:
                os._exit(code)
        end = time.monotonic() + seconds
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
            if time.monotonic() >= end:
                return child
            time.sleep(0.01)
        if code := os.waitstatus_to_exitcode(ended[1]):
            raise OSError(code, os.strerror(code), path)
        return None

    def _plain_write(self, path: str, value: str) -> None:
        fd = os.open(self.root + path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)

    # ---- functions

    def select(self, selector: str) -> list[str]:
        """The addresses that a selector such as 01:00 or 0000:01:00.1 stands for."""
        full = selector if selector.count(":") == 2 else f"0000:{selector}"
        if "." in full:
            return [full] if self.exists(f"{DEVICES}/{full}") else []
        return [name for name in self.names(DEVICES) if name.startswith(f"{full}.")]

    def info(self, address: str) -> Info | None:
        """The function's data, or None when PVE cannot read it."""
        folder = f"{DEVICES}/{address}"
        vendor = _HEX.fullmatch((self.text(f"{folder}/vendor") or "").lower())
        device = _HEX.fullmatch((self.text(f"{folder}/device") or "").lower())
        if not vendor or not device or not re.fullmatch("[0-9]+", self.text(f"{folder}/irq") or ""):
            return None
        sub_vendor = _HEX.fullmatch((self.text(f"{folder}/subsystem_vendor") or "").lower())
        sub_device = _HEX.fullmatch((self.text(f"{folder}/subsystem_device") or "").lower())
        subsystem = f"{sub_vendor[1]}:{sub_device[1]}" if sub_vendor and sub_device else None
        return Info(vendor[1], device[1], subsystem, self.exists(f"{folder}/reset"))

    def group(self, address: str) -> int | None:
        """The number of the function's IOMMU group."""
        name = self.link(f"{DEVICES}/{address}/iommu_group")
        return int(name) if name else None

    def driver(self, address: str) -> str | None:
        """The bound driver's name."""
        return self.link(f"{DEVICES}/{address}/driver")

    def is_mdev_parent(self, address: str) -> bool:
        """Whether the function makes mediated devices, of the classic kind or of NVIDIA's own."""
        return self.exists(f"{DEVICES}/{address}/mdev_supported_types") or self.is_vgpu(address)

    def is_vgpu(self, address: str) -> bool:
        """Whether the function has NVIDIA's vendor vGPU interface."""
        return self.exists(f"{DEVICES}/{address}/nvidia")

    def vgpu_current(self, address: str) -> str | None:
        """The vGPU type that is set, "0" for none, or None without that file."""
        return self.text(f"{DEVICES}/{address}/nvidia/current_vgpu_type")

    def vgpu_offered(self, address: str) -> list[str] | None:
        """The vGPU types on offer, or None without that file; a header line does not count."""
        text = self.text(f"{DEVICES}/{address}/nvidia/creatable_vgpu_types")
        return None if text is None else re.findall(r"^\s*([0-9]+)\s*:", text, re.MULTILINE | re.ASCII)
