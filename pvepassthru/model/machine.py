# SPDX-License-Identifier: Apache-2.0
"""The machine and vga properties of a VM config. Source: behaviour of qemu-server's formats of them."""

from __future__ import annotations

from pvepassthru.model import property_string
from pvepassthru.model.pattern import ASCII, Pattern
from pvepassthru.model.property_string import Key
from pvepassthru.model.record import NamedTuple

_VERSION = r"[0-9]+(?:\.[0-9]+)+(?:\+pve[0-9]+)?(?:\.pxe)?"
KEYS: dict[str, Key] = {
    "type": Key(
        fits=Pattern(
            rf"pc(?:-i440fx)?-{_VERSION}|pc-q35-{_VERSION}|virt(?:-[0-9]+(?:\.[0-9]+)+)?(?:\+pve[0-9]+)?",
            ASCII,
        ).fits,
        values=("pc", "q35"),
        form="a machine type such as q35, pc or pc-q35-9.0",
        default=True,
        longest=40,
    ),
    "viommu": Key("enum", values=("intel", "virtio")),
    "enable-s3": Key("boolean"),
    "enable-s4": Key("boolean"),
    "aw-bits": Key("number", least=32, most=64),
}
VGA_KEYS: dict[str, Key] = {
    "type": Key(
        "enum",
        values=(
            *("cirrus", "none", "qxl", "qxl2", "qxl3", "qxl4", "serial0", "serial1", "serial2", "serial3", "std"),
            *("virtio", "virtio-gl", "vmware"),
        ),
        default=True,
    ),
    "memory": Key("integer", least=4, most=512),
    "clipboard": Key("enum", values=("vnc",)),
}

INTEL_AW_BITS = (39, 48)
"""Address widths that QEMU's intel-iommu can have."""


class Machine(NamedTuple):
    """A machine property; the empty one is PVE's default, i440fx."""

    type: str | None = None
    viommu: str | None = None
    aw_bits: float | None = None

    @property
    def q35(self) -> bool:
        """Whether it is a q35 machine, the only one with PCIe."""
        return self.type is not None and "q35" in self.type

    @property
    def fault(self) -> tuple[str, str] | None:
        """Why PVE refuses to start it although each part is well-formed, with what to do; None if it does not."""
        if self.viommu == "intel" and not self.q35:
            return "viommu=intel needs a q35 machine", "write machine: q35,viommu=intel, or viommu=virtio"
        if self.aw_bits is not None and self.viommu is None:
            return "aw-bits needs a viommu", "add viommu=intel or viommu=virtio, or remove aw-bits"
        if self.aw_bits is not None and self.viommu == "intel" and self.aw_bits not in INTEL_AW_BITS:
            return f"aw-bits={self.aw_bits:g} does not go with viommu=intel", "write aw-bits=39 or aw-bits=48"
        return None


def parse(text: str) -> Machine:
    """The machine property. Raises PropertyError when PVE drops it."""
    values = property_string.parse(text, KEYS)
    bits = values.get("aw-bits")
    return Machine(values.get("type"), values.get("viommu"), None if bits is None else float(bits))


def check_vga(text: str) -> None:
    """Raise PropertyError when PVE drops this vga property."""
    property_string.parse(text, VGA_KEYS)
