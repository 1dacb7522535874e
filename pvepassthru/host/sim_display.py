# SPDX-License-Identifier: Apache-2.0
"""Frame buffers and consoles of a simulated host.

Facts of consoles and of frame buffers of PCI drivers: measured on Linux 6.1 and 6.12 (tests/kernel/sysfs_display.py).
Of the firmware's picture: read in drivers/firmware/sysfb.c, drivers/video/aperture.c, drivers/base/platform.c.
"""

from __future__ import annotations

import errno

from pvepassthru.host.displays import CONSOLE_NAME, CONSOLES, GRAPHICS, PICTURES, PLATFORM, PLATFORM_DRIVERS
from pvepassthru.host.sim_tree import fail
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from pvepassthru.host.sim_tree import Tree

IOMEM = "/proc/iomem"


# ---- frame buffers


def driver_came(tree: Tree, folder: str, driver: str) -> None:
    """Plan what a driver that takes a function does to the host's picture."""
    draws = tree.settings.framebuffer(driver)
    if draws or (driver == "vfio-pci" and (tree.text(f"{folder}/class") or "").startswith("0x0300")):
        take_over(tree, folder)
    if draws:
        appear(tree, folder)


def appear(tree: Tree, folder: str) -> None:
    """Plan a frame buffer of the device with this folder, and the console on it, which takes over."""
    taken = set(tree.names(GRAPHICS))
    name = next(name for name in (f"fb{number}" for number in range(len(taken) + 1)) if name not in taken)
    tree.connect(f"{folder}/graphics/{name}/device", folder)
    tree.connect(f"{GRAPHICS}/{name}", f"{folder}/graphics/{name}")
    console = _console(tree)
    if console is None:
        taken = set(tree.names(CONSOLES))
        console = next(name for name in (f"vtcon{number}" for number in range(len(taken) + 1)) if name not in taken)
        tree.file(f"{CONSOLES}/{console}/name", f"(M) {CONSOLE_NAME}")
    _show(tree, console)


def disappear(tree: Tree, folder: str) -> None:
    """Plan that a device's frame buffers go; the console for frame buffers goes with the last one."""
    names = tree.names(f"{folder}/graphics")
    for name in names:
        tree.remove(f"{GRAPHICS}/{name}")
    tree.remove(f"{folder}/graphics")
    console = _console(tree)
    if names and console is not None and not any(name[2:].isdecimal() for name in tree.names(GRAPHICS)):
        tree.remove(f"{CONSOLES}/{console}")
        _show(tree, None)


# ---- consoles


def write(tree: Tree, head: str, name: str, value: str) -> bool:
    """Write to a file of the consoles, or of the drivers of the firmware's picture; False if it is none. OSError."""
    driver = head.removeprefix(f"{PLATFORM}/drivers/")
    if driver in PLATFORM_DRIVERS and name in {"bind", "unbind"}:
        _write_platform(tree, driver, name, value)
        return True
    if head.startswith(f"{CONSOLES}/") and name == "bind" and tree.exists(head):
        _bind_console(tree, tree.disk.resolve(head) or head, value)
        return True
    return False


def _bind_console(tree: Tree, folder: str, value: str) -> None:
    """Write to a console's `bind`: all that is no number is 0; the console that is always there takes no orders."""
    digits = value.partition("\n")[0].removeprefix("0x")
    number = len(digits) - len(digits.lstrip("0123456789"))
    if not (tree.text(f"{folder}/name") or "").startswith("(M)"):
        return
    name = folder.rpartition("/")[2]
    if number and int(digits[:number]):
        _show(tree, name)
    elif tree.text(f"{folder}/bind") == "1":
        _show(tree, None)


def _console(tree: Tree) -> str | None:
    """The console for frame buffers, or None."""
    return next((name for name in tree.names(CONSOLES) if CONSOLE_NAME in (_name(tree, name) or "")), None)


def _name(tree: Tree, console: str) -> str | None:
    return tree.text(f"{CONSOLES}/{console}/name")


def _show(tree: Tree, console: str | None) -> None:
    """Plan that this console is bound, and no other; None: the one that is always there."""
    for name in tree.names(CONSOLES):
        system = (_name(tree, name) or "").startswith("(S)")
        bound = name == console or (console is None and system)
        tree.file(f"{CONSOLES}/{name}/bind", "1" if bound else "0")


# ---- the firmware's picture


def _write_platform(tree: Tree, driver: str, name: str, value: str) -> None:
    """Write to `bind` or `unbind` of one of the drivers of the firmware's picture. Raises OSError."""
    path = f"{PLATFORM}/drivers/{driver}/{name}"
    device = value.removesuffix("\n")
    folder = tree.disk.resolve(f"{PLATFORM}/devices/{device}") if device and "/" not in device else None
    if folder is None or device.rpartition(".")[0] != driver:
        fail(errno.ENODEV, path)
    bound = tree.driver(folder)
    if name == "unbind":
        if bound != driver:
            fail(errno.ENODEV, path)
        _unbind(tree, folder, driver)
        return
    if bound:
        fail(errno.EBUSY, path)
    tree.connect(f"{folder}/driver", f"{PLATFORM}/drivers/{driver}")
    tree.connect(f"{PLATFORM}/drivers/{driver}/{device}", folder)
    memory = tree.recall("iomem", device)
    if memory is not None:
        tree.file(IOMEM, memory)
        tree.remember("iomem", device, None)
    appear(tree, folder)


def take_over(tree: Tree, folder: str) -> None:
    """Plan that the firmware's picture goes for good, as when a driver takes the function that the firmware started."""
    if tree.text(f"{folder}/boot_vga") != "1":
        return
    for device in tree.names(f"{PLATFORM}/devices"):
        driver = device.rpartition(".")[0]
        if driver in PLATFORM_DRIVERS:
            platform = tree.disk.resolve(f"{PLATFORM}/devices/{device}") or ""
            if tree.driver(platform):
                _unbind(tree, platform, driver)
            tree.remove(f"{PLATFORM}/devices/{device}")
            tree.remove(platform)
            _hide(tree, PICTURES)


def _unbind(tree: Tree, folder: str, driver: str) -> None:
    device = folder.rpartition("/")[2]
    tree.remove(f"{PLATFORM}/drivers/{driver}/{device}")
    tree.remove(f"{folder}/driver")
    tree.remember("iomem", device, tree.text(IOMEM))
    _hide(tree, PICTURES - {"BOOTFB"})  # that one is the device's own, whoever has it
    disappear(tree, folder)


def _hide(tree: Tree, names: set[str]) -> None:
    """Plan that /proc/iomem names these no more."""
    text = tree.text(IOMEM) or ""
    lines = [line for line in text.split("\n") if line.rpartition(" : ")[2] not in names]
    tree.file(IOMEM, "\n".join(lines))
