# SPDX-License-Identifier: Apache-2.0
"""What the kernel shows of consoles and frame buffers, with the driver bochs-drm on the testbed's display device.

The firmware of the testbed shows no picture, so efifb and its kin are known to SimHost from reading only.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from pvepassthru.host import displays
from pvepassthru.host.displays import CONSOLES
from tests.kernel import guest
from tests.kernel.checks import check, holds
from tests.kernel.sysfs import GPU, attempt, driver, take, unbind
from tests.kernel.sysfs import setup as reset

if TYPE_CHECKING:
    from tests.kernel.sysfs import Machine

DUMMY, FBCON = f"{CONSOLES}/vtcon0", f"{CONSOLES}/vtcon1"
DRIVER = "bochs-drm"


def prepare() -> None:
    """In the guest, once."""
    guest.load_drivers()
    guest.load_tbmdev()
    subprocess.run(["modprobe", "bochs"], check=True)


def setup() -> None:
    """In the guest, before each case: the machine as it was, and no driver has the display device."""
    reset()
    if guest.link(f"{guest.PCI}/{GPU}/driver"):
        guest.write(f"{guest.PCI}/{GPU}/driver/unbind", GPU)


def bound(machine: Machine) -> tuple[str | None, str | None]:
    """Whether the dummy console and that for frame buffers are bound."""
    return machine.host.text(f"{DUMMY}/bind"), machine.host.text(f"{FBCON}/bind")


def test_console_comes_and_goes_with_frame_buffers(machine: Machine) -> None:
    host = machine.host
    unbind(machine, GPU)
    check("no frame buffer", bound(machine), ("1", None))
    holds("no picture", not displays.has_picture(host))
    take(machine, GPU, DRIVER)
    check("with a driver", bound(machine), ("0", "1"))
    check("its name", host.text(f"{FBCON}/name"), "(M) frame buffer device")
    check("what is bound", displays.bound_consoles(host), ("vtcon1",))
    holds("a picture", displays.has_picture(host))
    holds("its frame buffer", displays.has_frame_buffer(host, GPU))
    holds("nobody else's", not displays.has_frame_buffer(host, "0000:01:00.1"))
    unbind(machine, GPU)
    check("without it", bound(machine), ("1", None))
    holds("no picture", not displays.has_picture(host))


def test_console_is_unbound_and_bound(machine: Machine) -> None:
    take(machine, GPU, DRIVER)
    for text, seen in (
        *(("0", ("1", "0")), ("0", ("1", "0")), ("1", ("0", "1")), ("1", ("0", "1")), ("junk", ("1", "0"))),
        *(("2", ("0", "1")), ("0x0", ("1", "0")), ("1\n", ("0", "1")), ("0\n", ("1", "0"))),
    ):
        check(repr(text), attempt(machine, f"{FBCON}/bind", text), "ok")
        check(f"after {text!r}", bound(machine), seen)
    check("what is bound", displays.bound_consoles(machine.host), ())
    for text in ("0", "1"):
        check(f"dummy {text!r}", attempt(machine, f"{DUMMY}/bind", text), "ok")
        check("it takes no orders", bound(machine), ("1", "0"))


def test_unbound_console_comes_back_with_a_driver(machine: Machine) -> None:
    take(machine, GPU, DRIVER)
    check("0", attempt(machine, f"{FBCON}/bind", "0"), "ok")
    unbind(machine, GPU)
    check("gone", bound(machine), ("1", None))
    take(machine, GPU, "vfio-pci")
    check("still gone", bound(machine), ("1", None))
    take(machine, GPU, DRIVER)
    check("back, and bound", bound(machine), ("0", "1"))


def test_driver_that_is_bound_while_the_console_is(machine: Machine) -> None:
    take(machine, GPU, DRIVER)
    check("driver", driver(machine, GPU), DRIVER)
    check("bound", bound(machine), ("0", "1"))
    unbind(machine, GPU)
    check("gone", bound(machine), ("1", None))


def test_platform_drivers(machine: Machine) -> None:
    for name in ("efi-framebuffer", "simple-framebuffer", "vesa-framebuffer"):
        folder = f"{displays.PLATFORM}/drivers/{name}"
        holds(f"{name} is there", machine.host.exists(folder))
        for control in ("bind", "unbind"):
            check(f"{name} {control}", attempt(machine, f"{folder}/{control}", f"{name}.0"), "ENODEV")
    check("none is the GPU's", displays.platform_framebuffers(machine.host, GPU), ())
