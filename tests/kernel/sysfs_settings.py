# SPDX-License-Identifier: Apache-2.0
"""What the kernel answers to writes of d3cold_allowed, reset_method and power/control, and to a removal and rescan.

No device of the testbed has a resizable BAR, and none can be made to fall off the bus: SimHost has these from reading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.kernel.checks import check, holds
from tests.kernel.sysfs import GPU, NIC, PCI, attempt, driver, prepare, setup, take

if TYPE_CHECKING:
    from tests.kernel.sysfs import Machine

__all__ = ["prepare", "setup"]


def test_d3cold_allowed(machine: Machine) -> None:
    path = f"{PCI}/{NIC}/d3cold_allowed"
    before = machine.host.text(path) or ""
    for text, seen in (("0", "0"), ("1", "1"), ("0", "0"), ("2", "1"), ("0x0", "0"), ("0x1", "1")):
        check(repr(text), attempt(machine, path, text), "ok")
        check(f"after {text!r}", machine.host.text(path), seen)
    for text in ("-1", "junk", "y", " 1"):
        check(repr(text), attempt(machine, path, text), "EINVAL")
        check(f"after {text!r}", machine.host.text(path), "1")
    check("nothing", attempt(machine, path, ""), "ok")
    take(machine, NIC, "vfio-pci")
    check("bound to vfio-pci", attempt(machine, path, "0"), "ok")
    check("read back", machine.host.text(path), "0")
    check("as before", attempt(machine, path, before), "ok")


def test_reset_method_is_taken_as_written(machine: Machine) -> None:
    path = f"{PCI}/{NIC}/reset_method"
    first = machine.host.text(path)
    check("at first", first, "pm bus")
    for text, seen in (("bus pm", "bus pm"), ("pm  bus", "pm bus"), (" pm", "pm"), ("bus\n", "bus")):
        check(repr(text), attempt(machine, path, text), "ok")
        check(f"after {text!r}", machine.host.text(path), seen)
    for text in ("bus,pm", "PM", "default bus"):
        check(repr(text), attempt(machine, path, text), "EINVAL")
        check(f"after {text!r}", machine.host.text(path), "bus")
    check("the former text", attempt(machine, path, first or ""), "ok")
    check("as at first", machine.host.text(path), first)


def test_reset_method_that_is_shown_and_gone(machine: Machine) -> None:
    """The file was made when the function was alone on its bus: what it shows cannot be written any more."""
    path = f"{PCI}/{GPU}/reset_method"
    check("shown", machine.host.text(path), "bus")
    check("written", attempt(machine, path, "bus"), "EINVAL")
    check("still shown", machine.host.text(path), "bus")


def test_power_control(machine: Machine) -> None:
    path = f"{PCI}/{NIC}/power/control"
    check("junk", attempt(machine, path, "junk"), "EINVAL")
    check("on", attempt(machine, path, "on"), "ok")
    check("read back", machine.host.text(path), "on")


def test_remove_and_rescan(machine: Machine) -> None:
    path = f"{PCI}/{NIC}"
    take(machine, NIC, "vfio-pci")
    check("remove", attempt(machine, f"{path}/remove", "1"), "ok")
    holds("gone", not machine.host.exists(path))
    check("rescan", attempt(machine, "/sys/bus/pci/rescan", "1"), "ok")
    holds("there", machine.host.exists(path))
    check("without override", machine.host.text(f"{path}/driver_override"), "(null)")
    check("its driver has it at once", driver(machine, NIC), "e1000e")
