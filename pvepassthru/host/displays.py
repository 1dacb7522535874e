# SPDX-License-Identifier: Apache-2.0
"""Who shows the host's picture: the firmware's framebuffer, frame buffers of drivers, and the virtual console on them.

The kernel's console for frame buffers, "frame buffer device", is there as long as any frame buffer is: it goes with
the last one's driver, and comes back, bound, with the next one's. Whatever is written to its `bind`, the write says ok:
read it back. Unbound, the dummy console takes over. Measured on Linux 6.1 and 6.12 (tests/kernel/sysfs_display.py);
drivers/tty/vt/vt.c, drivers/video/fbdev/core/fbcon.c.

The firmware's picture is a platform device, which sysfb makes at boot. A kernel from 6.0 on removes it for good when
vfio-pci takes the VGA device that was the boot display. Read in Linux drivers/firmware/sysfb.c,
drivers/video/aperture.c and drivers/vfio/pci/vfio_pci_core.c; the testbed has no firmware that shows a picture.
"""

from __future__ import annotations

from pvepassthru.model import pci
from pvepassthru.model.pattern import ASCII, Pattern
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pvepassthru.host.host import Host

CONSOLES = "/sys/class/vtconsole"
GRAPHICS = "/sys/class/graphics"
DRM = "/sys/class/drm"
PLATFORM = "/sys/bus/platform"
PICTURES = {"BOOTFB", "efifb", "vesafb", "simplefb", "simple-framebuffer", "simpledrm", "efidrm", "vesadrm"}
"""What /proc/iomem calls the picture memory that the firmware set up, until a real driver takes the GPU over."""
PLATFORM_DRIVERS = ("efi-framebuffer", "simple-framebuffer", "vesa-framebuffer")
"""The platform drivers of efifb and efidrm, of simplefb and simpledrm, and of vesafb and vesadrm."""
CONSOLE_NAME = "frame buffer device"
_ADDRESS_LINE = Pattern(r"( *)[0-9a-f]+-[0-9a-f]+ : (.*)", ASCII)


class PlatformFramebuffer(NamedTuple):
    """The firmware's picture as a device that a driver has."""

    device: str
    """Such as efi-framebuffer.0."""
    driver: str


def firmware_pictures(host: Host) -> dict[str, str]:
    """The functions in whose BARs the firmware's picture lies, each with its name in /proc/iomem."""
    found = {}
    parents: list[tuple[int, str]] = []
    for line in (host.text("/proc/iomem") or "").split("\n"):
        match = _ADDRESS_LINE.fullmatch(line)
        if not match:
            continue
        depth, name = len(match[1]), match[2]
        while parents and parents[-1][0] >= depth:
            parents.pop()
        if name in PICTURES:
            owner = next((parent for _, parent in reversed(parents) if pci.is_address(parent)), None)
            if owner:
                found[owner] = name
        parents.append((depth, name))
    return found


def platform_framebuffers(host: Host, address: str) -> tuple[PlatformFramebuffer, ...]:
    """The firmware's pictures that a driver shows and that can be this function's.

    Kernels from 6.9 on have them below the function's own folder; on older ones they are nobody's.
    """
    found = []
    for driver in PLATFORM_DRIVERS:
        folder = f"{PLATFORM}/drivers/{driver}"
        for name in host.names(folder):
            if host.link(f"{folder}/{name}") is None or name == "module":
                continue
            owners = [part for part in (host.resolve(f"{folder}/{name}") or "").split("/") if pci.is_address(part)]
            if not owners or owners[-1] == address:
                found.append(PlatformFramebuffer(name, driver))
    return tuple(found)


def has_frame_buffer(host: Host, address: str) -> bool:
    """Whether the driver of a function has a frame buffer, on which the console can be."""
    links = (host.resolve(f"{GRAPHICS}/{name}/device") for name in host.names(GRAPHICS))
    return any(folder and address in folder.split("/") for folder in links)


def console(name: str) -> str:
    """The file that says whether a virtual console's driver (`vtcon1`) is bound, and binds and unbinds it."""
    return f"{CONSOLES}/{name}/bind"


def bound_consoles(host: Host) -> tuple[str, ...]:
    """The names of the console drivers for frame buffers that show a console now."""
    return tuple(
        name
        for name in host.names(CONSOLES)
        if CONSOLE_NAME in (host.text(f"{CONSOLES}/{name}/name") or "") and host.text(console(name)) != "0"
    )


def has_picture(host: Host) -> bool:
    """Whether a driver of the host drives a display: it has a frame buffer, or a DRM card with a driver."""
    if any(name[:2] == "fb" and name[2:].isdecimal() for name in host.names(GRAPHICS)):
        return True
    cards = (name for name in host.names(DRM) if name[:4] == "card" and name[4:].isdecimal())
    return any(host.link(f"{DRM}/{name}/device/driver") not in {None, "vfio-pci"} for name in cards)
