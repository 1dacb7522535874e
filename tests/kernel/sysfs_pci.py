# SPDX-License-Identifier: Apache-2.0
"""What the kernel answers to writes about drivers, resets, VFs, and the vendor's vGPU interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.kernel import machine as described
from tests.kernel.checks import check, holds
from tests.kernel.sysfs import (
    ABSENT,
    BRIDGE,
    DRIVERS,
    GPU,
    NIC,
    PCI,
    PF,
    PROBE,
    Started,
    attempt,
    driver,
    numvfs,
    outcomes,
    override,
    prepare,
    setup,
    take,
    unbind,
    vfs,
    wait_until,
)

if TYPE_CHECKING:
    from tests.kernel.sysfs import Machine

__all__ = ["prepare", "setup"]
SUITE_LIMIT = 300.0
TEST_LIMIT = 40.0


# ---- the machine itself


def test_machine_is_as_described(machine: Machine) -> None:
    seen = described.describe(machine.host)
    expected = described.read()
    check("addresses", sorted(seen["devices"]), sorted(expected["devices"]))
    for address, device in expected["devices"].items():
        check(address, seen["devices"][address], device)
    check("drivers", seen["drivers"], expected["drivers"])


# ---- drivers


def test_override_and_probe(machine: Machine) -> None:
    path = f"{PCI}/{NIC}/driver_override"
    check("no override", machine.host.text(path), "(null)")
    check("the host's driver", driver(machine, NIC), "e1000e")
    take(machine, NIC, "vfio-pci")
    check("override", machine.host.text(path), "vfio-pci")
    holds("the driver's folder has it", NIC in machine.host.names(f"{DRIVERS}/vfio-pci"))
    check("override emptied", attempt(machine, path, "\n"), "ok")
    check("an empty override", machine.host.text(path), "(null)")
    check("still bound", driver(machine, NIC), "vfio-pci")
    unbind(machine, NIC)
    check("no driver", driver(machine, NIC), None)
    check("probe", attempt(machine, PROBE, NIC), "ok")
    check("the host's driver again", driver(machine, NIC), "e1000e")


def test_override_size(machine: Machine) -> None:
    path = f"{PCI}/{NIC}/driver_override"
    check("4094", attempt(machine, path, "x" * 4094), "ok")
    check("read back", len(machine.host.text(path) or ""), 4094)
    check("4095", attempt(machine, path, "x" * 4095), "EINVAL")
    check("5000", attempt(machine, path, "x" * 5000), "EINVAL")
    check("an empty write", attempt(machine, path, ""), "ok")
    check("still bound", driver(machine, NIC), "e1000e")


def test_probe_that_changes_nothing(machine: Machine) -> None:
    override(machine, NIC, "vfio-pci")
    check("already bound", attempt(machine, PROBE, NIC), "ok")
    check("as before", driver(machine, NIC), "e1000e")
    unbind(machine, NIC)
    override(machine, NIC, "no-such-driver")
    check("absent driver", attempt(machine, PROBE, NIC), "ok")
    check("no driver", driver(machine, NIC), None)
    override(machine, BRIDGE, "vfio-pci")
    check("a probe that fails", attempt(machine, PROBE, BRIDGE), "ok")
    check("no driver either", driver(machine, BRIDGE), None)


def test_device_that_is_absent(machine: Machine) -> None:
    for text in (ABSENT, "junk", "01:00.0", ""):
        expected = "ENODEV" if text else "ok"
        check(f"probe {text!r}", attempt(machine, PROBE, text), expected)
        check(f"bind {text!r}", attempt(machine, f"{DRIVERS}/vfio-pci/bind", text), expected)
        check(f"unbind {text!r}", attempt(machine, f"{DRIVERS}/vfio-pci/unbind", text), expected)
    check("absent driver", attempt(machine, f"{DRIVERS}/no-such-driver/bind", NIC), "ENOENT")


def test_bind(machine: Machine) -> None:
    check("bound and matching", attempt(machine, f"{DRIVERS}/e1000e/bind", NIC), "EBUSY")
    check("no match", attempt(machine, f"{DRIVERS}/vfio-pci/bind", NIC), "ENODEV")
    override(machine, NIC, "vfio-pci")
    check("bound to another", attempt(machine, f"{DRIVERS}/vfio-pci/bind", NIC), "EBUSY")
    unbind(machine, NIC)
    check("against the override", attempt(machine, f"{DRIVERS}/e1000e/bind", NIC), "ENODEV")
    check("with the override", attempt(machine, f"{DRIVERS}/vfio-pci/bind", NIC + "\n"), "ok")
    check("bound", driver(machine, NIC), "vfio-pci")
    check("bound to itself", attempt(machine, f"{DRIVERS}/vfio-pci/bind", NIC), "EBUSY")
    override(machine, BRIDGE, "vfio-pci")
    check("a bridge", attempt(machine, f"{DRIVERS}/vfio-pci/bind", BRIDGE), "EINVAL")


def test_unbind(machine: Machine) -> None:
    check("of another driver", attempt(machine, f"{DRIVERS}/vfio-pci/unbind", NIC), "ENODEV")
    check("through the device", attempt(machine, f"{PCI}/{NIC}/driver/unbind", NIC), "ok")
    check("no driver", driver(machine, NIC), None)
    check("what is not bound", attempt(machine, f"{DRIVERS}/e1000e/unbind", NIC), "ENODEV")
    check("the link is gone", attempt(machine, f"{PCI}/{NIC}/driver/unbind", NIC), "ENOENT")


def test_new_id(machine: Machine) -> None:
    path = f"{DRIVERS}/vfio-pci"
    unbind(machine, NIC)
    check("new_id", attempt(machine, f"{path}/new_id", "8086 10d3"), "ok")
    check("binds what has no driver", driver(machine, NIC), "vfio-pci")
    check("new_id again", attempt(machine, f"{path}/new_id", "8086 10d3"), "EEXIST")
    for text in ("junk", "8086"):
        check(f"new_id {text!r}", attempt(machine, f"{path}/new_id", text), "EINVAL")
    check("remove_id", attempt(machine, f"{path}/remove_id", "8086 10d3"), "ok")
    check("stays bound", driver(machine, NIC), "vfio-pci")
    check("remove_id again", attempt(machine, f"{path}/remove_id", "8086 10d3"), "ENODEV")
    check("remove_id junk", attempt(machine, f"{path}/remove_id", "junk"), "EINVAL")
    unbind(machine, NIC)
    check("no match any more", attempt(machine, f"{path}/bind", NIC), "ENODEV")


def test_new_id_of_a_bound_device(machine: Machine) -> None:
    path = f"{DRIVERS}/vfio-pci"
    check("new_id", attempt(machine, f"{path}/new_id", "8086 10d3"), "ok")
    check("stays with its driver", driver(machine, NIC), "e1000e")
    unbind(machine, NIC)
    check("bind", attempt(machine, f"{path}/bind", NIC), "ok")
    check("bound", driver(machine, NIC), "vfio-pci")
    check("remove_id", attempt(machine, f"{path}/remove_id", "8086 10d3"), "ok")


def test_vfio_unbind_while_open(machine: Machine) -> None:
    take(machine, NIC, "vfio-pci")
    with machine.held(NIC):
        unbinder = Started(machine, f"{DRIVERS}/vfio-pci/unbind", NIC)
        wait_until("link gone", lambda: driver(machine, NIC) is None)
        holds("blocks", unbinder.running(0.5))
    check("ends with the close", unbinder.outcome(), "ok")
    check("no driver", driver(machine, NIC), None)


# ---- reset


def test_reset(machine: Machine) -> None:
    take(machine, NIC, "vfio-pci")
    path = f"{PCI}/{NIC}/reset"
    check("1", attempt(machine, path, "1"), "ok")
    for text in ("0", "junk"):
        check(text, attempt(machine, path, text), "EINVAL")
    check("a function of two", attempt(machine, f"{PCI}/{GPU}/reset", "1"), "ENOTTY")
    check("no reset file", attempt(machine, f"{PCI}/0000:00:1f.0/reset", "1"), "ENOENT")


def test_reset_method(machine: Machine) -> None:
    take(machine, NIC, "vfio-pci")
    path = f"{PCI}/{NIC}/reset_method"
    check("before", machine.host.text(path), "pm bus")
    check("bogus", attempt(machine, path, "bogus"), "EINVAL")
    check("not one of its own", attempt(machine, path, "flr"), "EINVAL")
    check("as before", machine.host.text(path), "pm bus")
    check("one", attempt(machine, path, "bus"), "ok")
    check("only that", machine.host.text(path), "bus")
    check("cleared", attempt(machine, path, "\n"), "ok")
    check("none", machine.host.text(path), "")
    check("reset without a method", attempt(machine, f"{PCI}/{NIC}/reset", "1"), "ENOTTY")
    check("default", attempt(machine, path, "default"), "ok")
    check("as at first", machine.host.text(path), "pm bus")
    check("reset", attempt(machine, f"{PCI}/{NIC}/reset", "1"), "ok")


# ---- SR-IOV


def test_numvfs_without_a_driver(machine: Machine) -> None:
    check("no driver", driver(machine, PF), None)
    check("2", numvfs(machine, "2"), "ENOENT")
    check("0", numvfs(machine, "0"), "ok")
    check("above total", numvfs(machine, "5"), "ERANGE")
    check("none", vfs(machine), [])


def test_numvfs(machine: Machine) -> None:
    take(machine, PF, "tbvgpu")
    check("total", machine.host.text(f"{PCI}/{PF}/sriov_totalvfs"), "4")
    check("above total", numvfs(machine, "5"), "ERANGE")
    for text in ("-1", "junk", "65536", "1 2"):
        check(text, numvfs(machine, text), "EINVAL")
    check("hex", numvfs(machine, "0x2"), "ok")
    check("read back", machine.host.text(f"{PCI}/{PF}/sriov_numvfs"), "2")
    found = vfs(machine)
    check("VFs", found, ["0000:02:00.1", "0000:02:00.2"])
    for vf in found:
        check(f"PF of {vf}", machine.host.link(f"{PCI}/{vf}/physfn"), PF)
        check(f"vendor of {vf}", machine.host.text(f"{PCI}/{vf}/vendor"), "0x1b36")
        check(f"device of {vf}", machine.host.text(f"{PCI}/{vf}/device"), "0x0010")
        group = f"{PCI}/{vf}/iommu_group/devices"
        check(f"group of {vf}", machine.host.names(group), [vf])
    check("the same value", numvfs(machine, "2"), "ok")
    check("another value", numvfs(machine, "3"), "EBUSY")
    check("as before", vfs(machine), found)
    check("0", numvfs(machine, "0"), "ok")
    check("none", vfs(machine), [])
    check("gone", [vf for vf in found if machine.host.exists(f"{PCI}/{vf}")], [])


def test_numvfs_by_several_writers(machine: Machine) -> None:
    take(machine, PF, "tbvgpu")
    path = f"{PCI}/{PF}/sriov_numvfs"
    seen = outcomes([Started(machine, path, str(count)) for count in (1, 2, 3, 4)])
    check("four writers", seen, ["EBUSY", "EBUSY", "EBUSY", "ok"])
    check("as read back", str(len(vfs(machine))), machine.host.text(path))


def test_numvfs_of_a_driver_that_cannot(machine: Machine) -> None:
    check("a function without SR-IOV", attempt(machine, f"{PCI}/{NIC}/sriov_numvfs", "1"), "ENOENT")


def test_numvfs_zero_while_a_vf_is_open(machine: Machine) -> None:
    """Meanwhile the PF's lock is held: even reading its sriov_numvfs blocks, so nothing here does."""
    take(machine, PF, "tbvgpu")
    check("2", numvfs(machine, "2"), "ok")
    first, second = vfs(machine)
    take(machine, first, "vfio-pci")
    with machine.held(first):
        writer = Started(machine, f"{PCI}/{PF}/sriov_numvfs", "0")
        wait_until("driver's link gone", lambda: driver(machine, first) is None)
        holds("blocks", writer.running(1.0))
        check("unlisted in its PF", vfs(machine), [second])
        check("without a link to its PF", machine.host.link(f"{PCI}/{first}/physfn"), None)
        holds("still a device", machine.host.exists(f"{PCI}/{first}/vendor"))
    check("ends with the close", writer.outcome(), "ok")
    check("none", vfs(machine), [])
    check("gone", [vf for vf in (first, second) if machine.host.exists(f"{PCI}/{vf}")], [])


def test_vfs_stay_without_the_pfs_driver(machine: Machine) -> None:
    check("no probing of VFs", attempt(machine, f"{PCI}/{PF}/sriov_drivers_autoprobe", "0"), "ok")
    take(machine, PF, "nvme")
    check("2", numvfs(machine, "2"), "ok")
    found = vfs(machine)
    unbind(machine, PF)
    check("VFs stay", vfs(machine), found)
    override(machine, PF, "vfio-pci")
    check("bind", attempt(machine, f"{DRIVERS}/vfio-pci/bind", PF), "EBUSY")
    check("probe", attempt(machine, PROBE, PF), "ok")
    check("no driver", driver(machine, PF), None)


def test_autoprobe_off(machine: Machine) -> None:
    path = f"{PCI}/{PF}/sriov_drivers_autoprobe"
    check("before", machine.host.text(path), "1")
    check("junk", attempt(machine, path, "junk"), "EINVAL")
    check("off", attempt(machine, path, "0"), "ok")
    check("read back", machine.host.text(path), "0")
    take(machine, PF, "tbvgpu")
    check("1", numvfs(machine, "1"), "ok")
    vf = vfs(machine)[0]
    check("no driver", driver(machine, vf), None)
    check("new_id", attempt(machine, f"{DRIVERS}/vfio-pci/new_id", "1b36 0010"), "ok")
    check("not bound by new_id", driver(machine, vf), None)
    check("bind", attempt(machine, f"{DRIVERS}/vfio-pci/bind", vf), "ENODEV")
    check("remove_id", attempt(machine, f"{DRIVERS}/vfio-pci/remove_id", "1b36 0010"), "ok")
    take(machine, vf, "vfio-pci")


# ---- vendor vGPU


def test_vendor_vgpu(machine: Machine) -> None:
    take(machine, PF, "tbvgpu")
    check("2", numvfs(machine, "2"), "ok")
    first, second = vfs(machine)
    for vf in (first, second):
        take(machine, vf, "tbvgpu")
    check("not on the PF", machine.host.exists(f"{PCI}/{PF}/nvidia"), expected=False)

    def offered(vf: str) -> list[str]:
        lines = (machine.host.text(f"{PCI}/{vf}/nvidia/creatable_vgpu_types") or "").splitlines()
        return [line.split(":")[0].strip() for line in lines]

    def choose(vf: str, value: str) -> str:
        return attempt(machine, f"{PCI}/{vf}/nvidia/current_vgpu_type", value)

    def current(vf: str) -> str | None:
        return machine.host.text(f"{PCI}/{vf}/nvidia/current_vgpu_type")

    check("offered", offered(first), ["ID", "100", "101", "102"])
    check("none set", current(first), "0")
    for text in ("junk", "-1", "7", "103"):
        check(text, choose(first, text), "EINVAL")
    check("the two units", choose(first, "101"), "ok")
    check("set", current(first), "101")
    check("offered no more", offered(first), ["ID"])
    check("what is left", offered(second), ["ID", "100", "101"])
    check("another type", choose(first, "100"), "EBUSY")
    check("the same type", choose(first, "101"), "EBUSY")
    check("too much", choose(second, "102"), "ENOSPC")
    check("what fits", choose(second, "101\n"), "ok")
    check("back to none", choose(first, "0"), "ok")
    check("again", choose(first, "0"), "ok")
    check("none", current(first), "0")
    unbind(machine, second)
    check("gone with the driver", machine.host.exists(f"{PCI}/{second}/nvidia"), expected=False)
    check("all units back", offered(first), ["ID", "100", "101", "102"])


def test_vendor_vgpu_by_several_writers(machine: Machine) -> None:
    take(machine, PF, "tbvgpu")
    check("4", numvfs(machine, "4"), "ok")
    found = vfs(machine)
    for vf in found:
        take(machine, vf, "tbvgpu")
    seen = outcomes([Started(machine, f"{PCI}/{vf}/nvidia/current_vgpu_type", "101") for vf in found])
    check("four writers of two units", seen, ["ENOSPC", "ENOSPC", "ok", "ok"])
