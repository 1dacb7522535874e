# SPDX-License-Identifier: Apache-2.0
"""The simulated kernel's answers, row by row of what was measured on Linux 6.1 and 6.12."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host.host import open_host
from pvepassthru.host.sim import SimHost
from pvepassthru.model.errors import InputError
from tests import tree
from tests.host import machine
from tests.host.machine import (
    AUDIO,
    BESIDE,
    BRIDGE,
    DRIVERS,
    GPU,
    MDEVS,
    NIC,
    PARENT,
    PCI,
    PF,
    PROBE,
    RESCAN,
    UUIDS,
    VFS,
    Child,
    attempt,
    driver,
    opened,
    take,
    unbind,
    wait_until,
)

if TYPE_CHECKING:
    from pathlib import Path

VFIO = f"{DRIVERS}/vfio-pci"
OVERRIDE = f"{PCI}/{NIC}/driver_override"
NUMVFS = f"{PCI}/{PF}/sriov_numvfs"
UNBIND_NIC = (f"{DRIVERS}/e1000e/unbind", NIC)
UNBIND_PF = (f"{DRIVERS}/nvme/unbind", PF)
TO_VFIO = (OVERRIDE, "vfio-pci")
IDS = (f"{VFIO}/new_id", "8086 10d3")


Write = tuple[str, str]
ROWS: list[tuple[str, list[Write], Write, str]] = [
    ("override", [], TO_VFIO, "ok"),
    ("override with a newline", [], (OVERRIDE, "vfio-pci\n"), "ok"),
    ("override of 4094 bytes", [], (OVERRIDE, "x" * 4094), "ok"),
    ("override of 4095 bytes", [], (OVERRIDE, "x" * 4095), "EINVAL"),
    ("probe when bound", [TO_VFIO], (PROBE, NIC), "ok"),
    ("probe when the override names an absent driver", [UNBIND_NIC, (OVERRIDE, "no-driver")], (PROBE, NIC), "ok"),
    ("probe that the driver refuses", [(f"{PCI}/{BRIDGE}/driver_override", "vfio-pci")], (PROBE, BRIDGE), "ok"),
    ("probe of an absent device", [], (PROBE, "0000:0f:00.0"), "ENODEV"),
    ("probe of junk", [], (PROBE, "junk"), "ENODEV"),
    ("probe of a newline", [], (PROBE, "\n"), "ENODEV"),
    ("probe of nothing", [], (PROBE, ""), "ok"),
    ("bind an absent device", [], (f"{VFIO}/bind", "0000:0f:00.0"), "ENODEV"),
    ("unbind an absent device", [], (f"{VFIO}/unbind", "0000:0f:00.0"), "ENODEV"),
    ("bind while bound", [TO_VFIO], (f"{VFIO}/bind", NIC), "EBUSY"),
    ("bind to its own driver while bound", [], (f"{DRIVERS}/e1000e/bind", NIC), "EBUSY"),
    ("bind without a match", [UNBIND_NIC], (f"{VFIO}/bind", NIC), "ENODEV"),
    ("bind without a match while bound", [], (f"{VFIO}/bind", NIC), "ENODEV"),
    ("bind against the override", [UNBIND_NIC, TO_VFIO], (f"{DRIVERS}/e1000e/bind", NIC), "ENODEV"),
    ("bind with the override", [UNBIND_NIC, TO_VFIO], (f"{VFIO}/bind", NIC + "\n"), "ok"),
    ("bind to an absent driver", [UNBIND_NIC], (f"{DRIVERS}/no-driver/bind", NIC), "ENOENT"),
    ("unbind what is not bound", [UNBIND_NIC], UNBIND_NIC, "ENODEV"),
    ("unbind of another driver", [], (f"{VFIO}/unbind", NIC), "ENODEV"),
    ("unbind through the device", [], (f"{PCI}/{NIC}/driver/unbind", NIC), "ok"),
    ("unbind through the device, not bound", [UNBIND_NIC], (f"{PCI}/{NIC}/driver/unbind", NIC), "ENOENT"),
    ("bind a bridge", [(f"{PCI}/{BRIDGE}/driver_override", "vfio-pci")], (f"{VFIO}/bind", BRIDGE), "EINVAL"),
    ("new_id", [], IDS, "ok"),
    ("new_id with 0x", [], (f"{VFIO}/new_id", "0x8086 0x10d3\n"), "ok"),
    ("new_id again", [IDS], IDS, "EEXIST"),
    ("new_id of an id that the driver has", [], (f"{DRIVERS}/tbmdev/new_id", "1234 11e8"), "EEXIST"),
    ("new_id of junk", [], (f"{VFIO}/new_id", "junk"), "EINVAL"),
    ("new_id of one number", [], (f"{VFIO}/new_id", "8086"), "EINVAL"),
    ("new_id with a colon", [], (f"{VFIO}/new_id", "8086:10d3"), "EINVAL"),
    ("new_id of a newline", [], (f"{VFIO}/new_id", "\n"), "EINVAL"),
    ("new_id of nothing", [], (f"{VFIO}/new_id", ""), "ok"),
    ("remove_id", [IDS], (f"{VFIO}/remove_id", "8086 10d3"), "ok"),
    ("remove_id again", [IDS, (f"{VFIO}/remove_id", "8086 10d3")], (f"{VFIO}/remove_id", "8086 10d3"), "ENODEV"),
    ("remove_id of junk", [], (f"{VFIO}/remove_id", "x"), "EINVAL"),
    ("reset", [], (f"{PCI}/{NIC}/reset", "1"), "ok"),
    ("reset in hex", [], (f"{PCI}/{NIC}/reset", "0x1\n"), "ok"),
    ("reset of one of two functions", [], (f"{PCI}/{GPU}/reset", "1"), "ENOTTY"),
    ("reset without such a file", [], (f"{PCI}/{AUDIO}/reset", "1"), "ENOENT"),
    ("reset 0", [], (f"{PCI}/{NIC}/reset", "0"), "EINVAL"),
    ("reset junk", [], (f"{PCI}/{NIC}/reset", "junk"), "EINVAL"),
    ("reset nothing", [], (f"{PCI}/{NIC}/reset", ""), "ok"),
    ("reset without a method", [(f"{PCI}/{NIC}/reset_method", "\n")], (f"{PCI}/{NIC}/reset", "1"), "ENOTTY"),
    ("reset after default", [(f"{PCI}/{NIC}/reset_method", "default")], (f"{PCI}/{NIC}/reset", "1"), "ok"),
    ("reset_method bogus", [], (f"{PCI}/{NIC}/reset_method", "bogus"), "EINVAL"),
    ("reset_method of others", [], (f"{PCI}/{NIC}/reset_method", "flr"), "EINVAL"),
    ("reset_method reordered", [], (f"{PCI}/{NIC}/reset_method", "bus pm"), "ok"),
    ("reset_method bus of one of two functions", [], (f"{PCI}/{GPU}/reset_method", "bus"), "EINVAL"),
    ("numvfs without a driver", [UNBIND_PF], (NUMVFS, "2"), "ENOENT"),
    ("numvfs 0 without a driver", [UNBIND_PF], (NUMVFS, "0"), "ok"),
    ("numvfs 0 without a driver, with VFs", [(NUMVFS, "2"), UNBIND_PF], (NUMVFS, "0"), "ENOENT"),
    ("numvfs above total without a driver", [UNBIND_PF], (NUMVFS, "5"), "ERANGE"),
    ("numvfs above total", [], (NUMVFS, "5"), "ERANGE"),
    ("numvfs 65535", [], (NUMVFS, "65535"), "ERANGE"),
    ("numvfs 65536", [], (NUMVFS, "65536"), "EINVAL"),
    ("numvfs of many digits", [], (NUMVFS, "9" * 40), "EINVAL"),
    ("numvfs -1", [], (NUMVFS, "-1"), "EINVAL"),
    ("numvfs junk", [], (NUMVFS, "junk"), "EINVAL"),
    ("numvfs with a blank", [], (NUMVFS, "2 "), "EINVAL"),
    ("numvfs with two newlines", [], (NUMVFS, "1\n\n"), "EINVAL"),
    ("numvfs no octal", [], (NUMVFS, "08"), "EINVAL"),
    ("numvfs in hex", [], (NUMVFS, "0x2\n"), "ok"),
    ("numvfs with a plus", [], (NUMVFS, "+2"), "ok"),
    ("numvfs the same", [(NUMVFS, "2")], (NUMVFS, "02"), "ok"),
    ("numvfs another", [(NUMVFS, "2")], (NUMVFS, "3"), "EBUSY"),
    ("numvfs without SR-IOV", [], (f"{PCI}/{NIC}/sriov_numvfs", "1"), "ENOENT"),
    ("autoprobe junk", [], (f"{PCI}/{PF}/sriov_drivers_autoprobe", "junk"), "EINVAL"),
    ("autoprobe off", [], (f"{PCI}/{PF}/sriov_drivers_autoprobe", "off"), "ok"),
    ("a read-only attribute", [], (f"{PCI}/{NIC}/vendor", "1"), "EACCES"),
    ("a read-only attribute of a type", [], (f"{PCI}/{PARENT}/mdev_supported_types/tbmdev-1/name", "x"), "EACCES"),
    ("an absent attribute", [], (f"{PCI}/{NIC}/no-such-file", "1"), "ENOENT"),
    ("an absent device", [], ("/sys/bus/pci/devices/0000:0f:00.0/reset", "1"), "ENOENT"),
    ("a folder", [], (f"{PCI}/{PARENT}/mdev_supported_types", "1"), "EISDIR"),
    ("remove 0", [], (f"{PCI}/{NIC}/remove", "0"), "ok"),
    ("remove junk", [], (f"{PCI}/{NIC}/remove", "junk"), "EINVAL"),
    ("remove of a VF", [(NUMVFS, "1")], (f"{PCI}/{VFS[0]}/remove", "1"), "ENOENT"),
    ("rescan junk", [], (RESCAN, "junk"), "EINVAL"),
    ("rescan 0", [], (RESCAN, "0"), "ok"),
    ("rescan", [], (RESCAN, "1"), "ok"),
    ("rescan of a bus", [], (f"{PCI}/{NIC}/rescan", "1"), "ok"),
]


@pytest.mark.parametrize("before, write, expected", [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_row(host: SimHost, before: list[Write], write: Write, expected: str) -> None:
    for path, value in before:
        assert attempt(host, path, value) == "ok"
    state = machine.snapshot(host)
    assert attempt(host, *write) == expected
    if expected != "ok":
        assert machine.snapshot(host) == state
    assert not os.path.exists(f"{host.root}/.sim/redo.json")


def test_override_reads_null_when_emptied(host: SimHost) -> None:
    host.write(OVERRIDE, "vfio-pci\nrest")
    assert host.read(OVERRIDE) == b"vfio-pci\n"
    host.write(OVERRIDE, "")
    assert host.text(OVERRIDE) == "vfio-pci"
    host.write(OVERRIDE, "\n")
    assert host.read(OVERRIDE) == b"(null)\n"


def test_native_driver_comes_back(host: SimHost) -> None:
    take(host, NIC, "vfio-pci")
    assert host.names(f"{PCI}/{NIC}/vfio-dev") == ["vfio0"]
    assert host.exists("/dev/vfio/14")
    assert host.names(VFIO).count(NIC) == 1
    host.write(OVERRIDE, "\n")
    assert unbind(host, NIC) == "ok"
    assert driver(host, NIC) is None
    assert not host.exists("/dev/vfio/14")
    host.write(PROBE, NIC)
    assert driver(host, NIC) == "e1000e"


def test_group_node_stays_for_the_other_function(host: SimHost) -> None:
    take(host, GPU, "vfio-pci")
    take(host, AUDIO, "vfio-pci")
    unbind(host, GPU)
    assert host.exists("/dev/vfio/10")
    unbind(host, AUDIO)
    assert not host.exists("/dev/vfio/10")


def test_without_iommu_vfio_refuses(tmp_path: Path) -> None:
    tree.build(tmp_path, {"iommu": False, "devices": {NIC: {"vendor": "0x8086", "device": "0x10d3"}}})
    host = SimHost(str(tmp_path))
    host.write(OVERRIDE, "vfio-pci")
    assert attempt(host, PROBE, NIC) == "ok"
    assert driver(host, NIC) is None
    assert attempt(host, f"{VFIO}/bind", NIC) == "EINVAL"


def test_new_id_takes_what_is_unbound_at_once_and_only_that(host: SimHost) -> None:
    assert attempt(host, *IDS) == "ok"
    assert driver(host, NIC) == "e1000e"
    unbind(host, NIC)
    assert attempt(host, f"{VFIO}/remove_id", "8086 10d3") == "ok"
    assert attempt(host, f"{VFIO}/bind", NIC) == "ENODEV"
    assert attempt(host, *IDS) == "ok"
    assert driver(host, NIC) == "vfio-pci"
    assert attempt(host, f"{VFIO}/remove_id", "8086 10d3") == "ok"
    assert driver(host, NIC) == "vfio-pci"


def test_reset_methods_read_back(host: SimHost) -> None:
    path = f"{PCI}/{NIC}/reset_method"
    for value, seen in (("bus", "bus"), ("\n", ""), ("default", "pm bus"), ("bus pm", "bus pm"), ("default", "pm bus")):
        host.write(path, value)
        assert host.text(path) == seen
    host.write(f"{PCI}/{GPU}/reset_method", "default")
    assert host.text(f"{PCI}/{GPU}/reset_method") == ""


def test_vfio_unbind_while_open_blocks(host: SimHost) -> None:
    take(host, NIC, "vfio-pci")
    with opened(host, f"{PCI}/{NIC}"):
        child = Child(host, f"{VFIO}/unbind", NIC)
        wait_until(lambda: driver(host, NIC) is None)
        waiting = [Child(host, f"{VFIO}/bind", NIC), Child(host, OVERRIDE, "\n"), Child(host, f"{VFIO}/unbind", NIC)]
        time.sleep(0.1)
        assert child.running()
        assert all(other.running() for other in waiting)
        assert host.names(f"{PCI}/{NIC}/vfio-dev") == ["vfio0"]
        assert NIC not in host.names(VFIO)
        assert attempt(host, f"{VFIO}/unbind", BESIDE) == "ENODEV"  # others go on meanwhile
    assert child.outcome() == "ok"
    assert {other.outcome() for other in waiting} <= {"ok", "ENODEV"}


def test_removal_and_rescan(host: SimHost) -> None:
    machine.create(host, UUIDS[0])
    before = machine.snapshot(host)
    assert attempt(host, f"{PCI}/{PARENT}/remove", "1") == "ok"
    assert host.names(MDEVS) == []
    assert not host.exists(f"{PCI}/{PARENT}")
    assert not host.exists("/sys/kernel/iommu_groups/12")
    assert attempt(host, PROBE, PARENT) == "ENODEV"
    assert attempt(host, RESCAN, "1") == "ok"
    assert driver(host, PARENT) == "tbmdev"
    machine.create(host, UUIDS[0])
    assert machine.snapshot(host) == before


def test_what_lies_behind_a_bridge_goes_with_it(tmp_path: Path) -> None:
    host = machine.build(tmp_path, nested=True)
    before = host.names(PCI)
    host.write(f"{PCI}/{BRIDGE}/remove", "1")
    assert [name for name in before if name not in host.names(PCI)] == [BRIDGE, "0000:07:01.0", BESIDE]
    host.write(RESCAN, "1")
    assert host.names(PCI) == before
    assert driver(host, BESIDE) == "e1000"


def test_a_removed_function_loses_its_override(host: SimHost) -> None:
    take(host, NIC, "vfio-pci")
    host.write(f"{PCI}/{NIC}/remove", "1")
    host.write(RESCAN, "1")
    assert host.text(OVERRIDE) == "(null)"
    assert driver(host, NIC) == "e1000e"


def test_plain_values_are_stored(host: SimHost) -> None:
    path = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"
    tree.put(host.root, path, "N\n")
    host.write(path, "1")
    assert host.read(path) == b"Y\n"
    assert attempt(host, path, "junk") == "EINVAL"
    tree.put(host.root, f"{PCI}/{NIC}/numa_node", "-1\n")
    host.write(f"{PCI}/{NIC}/numa_node", "0\n")
    assert host.read(f"{PCI}/{NIC}/numa_node") == b"0\n"


def test_outside_sysfs_a_write_is_a_plain_one(host: SimHost) -> None:
    tree.put(host.root, "/proc/sys/vm/nr_hugepages", "0\n")
    host.write("/proc/sys/vm/nr_hugepages", "8\n")
    assert host.text("/proc/sys/vm/nr_hugepages") == "8"
    assert attempt(host, "/etc/absent", "x") == "ENOENT"


def test_captured_trees_lack_files(tmp_path: Path) -> None:
    """A capture of sysfs may have no drivers' folders, and no files that cannot be read."""
    real = f"/sys/devices/pci0000:00/{PARENT}"
    tree.put(tmp_path, f"{real}/vendor", "0x10de\n")
    tree.link(tmp_path, f"{PCI}/{PARENT}", real)
    os.symlink("../../../bus/pci/drivers/nvidia", f"{tmp_path}{real}/driver")
    tree.put(tmp_path, f"{real}/{UUIDS[0]}/nvidia/vm_name")
    tree.link(tmp_path, f"{MDEVS}/{UUIDS[0]}", f"{real}/{UUIDS[0]}")
    os.symlink("../mdev_supported_types/nvidia-1", f"{tmp_path}{real}/{UUIDS[0]}/mdev_type")
    host = open_host(str(tmp_path))
    assert isinstance(host, SimHost)
    assert machine.remove(host, UUIDS[0]) == "ok"
    assert host.names(f"{PCI}/{PARENT}") == ["driver", "vendor"]
    assert attempt(host, f"{PCI}/{PARENT}/driver/unbind", PARENT) == "ok"
    assert host.names(f"{DRIVERS}/nvidia") == ["bind", "new_id", "remove_id", "unbind"]
    assert attempt(host, f"{DRIVERS}/nvidia/bind", PARENT) == "ok"
    assert driver(host, PARENT) == "nvidia"


def test_reading_leaves_a_tree_as_it_is(tmp_path: Path) -> None:
    tree.build(tmp_path, {"devices": {NIC: {"vendor": "0x8086"}}})
    host = open_host(str(tmp_path))
    assert host.text(f"{PCI}/{NIC}/vendor") == "0x8086"
    assert host.exists(f"{PCI}/{NIC}")
    assert not os.path.exists(tmp_path / ".sim")


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_malformed_settings(host: SimHost, text: str) -> None:
    tree.put(host.root, ".sim/settings.json", text.encode("latin-1"))
    with pytest.raises(InputError, match=r"settings\.json"):
        machine.create(host, UUIDS[0])
