# SPDX-License-Identifier: Apache-2.0
"""A capture holds what is read from a host, and behaves as a host; the source is only read."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import holders, vms
from pvepassthru.host.capture import capture
from pvepassthru.host.host import Host
from pvepassthru.host.inventory import DEVICES, Inventory
from pvepassthru.host.sim import SimHost
from tests import tree
from tests.effort import calls
from tests.host import machine
from tests.host.machine import MDEVS, NIC, PARENT, PCI, PF, UUIDS, VFS, create, take

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = ("vendor", "device", "class", "irq", "driver_override", "reset_method", "sriov_numvfs", "sriov_totalvfs")


@pytest.fixture
def copy() -> Iterator[str]:
    with machine.memory_folder() as folder:
        yield folder


def everything(root: str) -> dict[str, tuple[float, int]]:
    """The times and modes of all files of a tree, without those of reading."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            info = os.lstat(os.path.join(folder, name))
            found[os.path.join(folder, name)] = (info.st_mtime, info.st_mode)
    return found


def test_hardware(host: SimHost, copy: str) -> None:
    host.write(f"{PCI}/{PF}/sriov_numvfs", "2")
    create(host, UUIDS[0], "tbmdev-2")
    take(host, NIC, "vfio-pci")
    before = everything(host.root)
    capture(host, copy, [])
    assert everything(host.root) == before
    source, copied = Inventory(host), Inventory(SimHost(copy))
    assert copied.addresses() == source.addresses()
    for address in source.addresses():
        for name in FILES:
            assert copied.attribute(address, name) == source.attribute(address, name)
        assert copied.has(address, "reset") == source.has(address, "reset")
        assert copied.driver(address) == source.driver(address)
        assert copied.group(address) == source.group(address)
        assert copied.group_members(address) == source.group_members(address)
        assert copied.physical_function(address) == source.physical_function(address)
        assert copied.mdev_types(address) == source.mdev_types(address)
    assert copied.mdevs() == source.mdevs()
    assert copied.iommu_present()
    assert copied.driver_available("vfio-pci")


def test_a_copy_behaves_as_its_source(host: SimHost, copy: str) -> None:
    create(host, UUIDS[0], "tbmdev-2")
    capture(host, copy, [])
    copied = SimHost(copy)
    for written in (host, copied):
        assert create(written, UUIDS[0]) == "EEXIST"
        assert create(written, UUIDS[1], "tbmdev-4") == "ENOSPC"
        assert create(written, UUIDS[1], "tbmdev-1") == "ok"
        assert machine.remove(written, UUIDS[0]) == "ok"
        written.write(f"{PCI}/{PF}/sriov_numvfs", "2")
        take(written, VFS[0], "vfio-pci")
        take(written, NIC, "vfio-pci")
    source, second = Inventory(host), Inventory(copied)
    assert source.mdevs() == second.mdevs()
    assert source.mdev_types(PARENT) == second.mdev_types(PARENT)
    assert [source.driver(address) for address in source.addresses()] == [
        second.driver(address) for address in second.addresses()
    ]


def test_a_write_that_still_runs_goes_on_in_the_copy(plain: SimHost, copy: str) -> None:
    create(plain, UUIDS[0])
    folder = f"{PCI}/{PARENT}/{UUIDS[0]}"
    with machine.opened(plain, folder):
        child = machine.Child(plain, f"{MDEVS}/{UUIDS[0]}/remove", "1")
        machine.wait_until(lambda: not plain.exists(f"{MDEVS}/{UUIDS[0]}"))
        capture(plain, copy, [])
    assert child.outcome() == "ok"
    copied = SimHost(copy)
    assert create(copied, UUIDS[0]) == "EEXIST"
    os.unlink(f"{copy}/proc/4711/fd/9")
    assert not copied.exists(folder)
    assert create(copied, UUIDS[0]) == "ok"


def test_vendor_vgpu(plain: SimHost, copy: str) -> None:
    take(plain, PF, "tbvgpu")
    plain.write(f"{PCI}/{PF}/sriov_numvfs", "1")
    take(plain, VFS[0], "tbvgpu")
    plain.write(f"{PCI}/{VFS[0]}/nvidia/current_vgpu_type", "100")
    capture(plain, copy, [])
    copied = Inventory(SimHost(copy))
    assert copied.vgpu_current(VFS[0]) == "100"
    assert copied.vgpu_creatable(VFS[0]) == Inventory(plain).vgpu_creatable(VFS[0])


def test_configs_of_the_asked_vms(root: str, copy: str) -> None:
    tree.build(root, node="pve1", configs={100: "hostpci0: 01:00\n", 101: "hostpci0: 02:00\n"}, mapping="gpu\n")
    tree.put(root, "/etc/pve/nodes/pve2/qemu-server/100.conf", "other\n")
    tree.put(root, "/run/qemu-server/pci-id-reservations", "0000:01:00.0 100 time:1\n")
    capture(Host(root), copy, [100])
    copied = Host(copy)
    assert copied.node == "pve1"
    assert copied.read("/etc/pve/qemu-server/100.conf") == b"hostpci0: 01:00\n"
    assert copied.read("/etc/pve/nodes/pve1/qemu-server/100.conf") == b"hostpci0: 01:00\n"
    assert copied.read("/etc/pve/nodes/pve2/qemu-server/100.conf") == b"other\n"
    assert vms.vmids(copied) == [100]
    assert copied.read("/etc/pve/mapping/pci.cfg") == b"gpu\n"
    assert copied.read("/run/qemu-server/pci-id-reservations") == b"0000:01:00.0 100 time:1\n"


def test_configs_in_a_plain_folder(root: str, copy: str) -> None:
    tree.put(root, "/etc/pve/qemu-server/100.conf", b"\xff\0\n")
    capture(Host(root, "given"), copy, [100])
    assert Host(copy).read("/etc/pve/qemu-server/100.conf") == b"\xff\0\n"
    assert Host(copy).node == "given"


def test_journals_and_policy_keep_their_modes(root: str, copy: str) -> None:
    tree.put(root, "/run/pvepassthru/100.journal", "{}\n")
    tree.put(root, "/etc/pvepassthru.yaml", "defaults:\n")
    os.chmod(f"{root}/run/pvepassthru", 0o700)
    os.chmod(f"{root}/run/pvepassthru/100.journal", 0o600)
    os.chmod(f"{root}/etc/pvepassthru.yaml", 0o666)
    capture(Host(root), copy, [])
    for path, mode in (
        ("run/pvepassthru", 0o700),
        ("run/pvepassthru/100.journal", 0o600),
        ("etc/pvepassthru.yaml", 0o666),
    ):
        info = os.stat(f"{copy}/{path}")
        assert stat.S_IMODE(info.st_mode) == mode
        assert info.st_uid == os.stat(f"{root}/{path}").st_uid
    assert Host(copy).read("/run/pvepassthru/100.journal") == b"{}\n"


def test_running_vms_and_holders(plain: SimHost, copy: str) -> None:
    create(plain, UUIDS[0])
    tree.run(plain.root, 100, 4711)
    tree.put(plain.root, "/proc/4711/stat", "4711 (kvm) S 1\n")
    tree.put(plain.root, "/proc/4712/cmdline", "other\0")
    tree.put(plain.root, "/proc/4713/comm", "holder\n")
    with machine.opened(plain, f"{MDEVS}/{UUIDS[0]}", 4713):
        os.symlink("/dev/null", f"{plain.root}/proc/4713/fd/0")
        capture(plain, copy, [])
    copied = SimHost(copy)
    assert vms.running_pid(copied, 100) == 4711
    assert copied.names("/proc") == ["4711", "4713"]
    assert copied.names("/proc/4713/fd") == ["9"]
    assert [str(found) for found in holders.device_holders(copied, f"{MDEVS}/{UUIDS[0]}")] == ["process 4713 (holder)"]


def test_roms(root: str, copy: str) -> None:
    config = "hostpci0: 01:00,romfile=card.bin,pcie=1\nhostpci1: 02:00,romfile=sub/other.bin\n"
    tree.build(root, configs={100: config})
    for name in ("card.bin", "sub/other.bin", "big.fd"):
        tree.put(root, f"/usr/share/kvm/{name}", b"\x55\xaa" * 500)
    os.symlink("card.bin", f"{root}/usr/share/kvm/near")
    os.symlink("/usr/share/kvm/card.bin", f"{root}/usr/share/kvm/far")
    os.symlink("absent", f"{root}/usr/share/kvm/dangling")
    capture(Host(root), copy, [100])
    copied = Host(copy)
    for name in ("card.bin", "sub/other.bin"):
        assert copied.read(f"/usr/share/kvm/{name}") == b"\x55\xaa" * 500
    assert copied.read("/usr/share/kvm/big.fd") == bytes(1000)
    assert copied.resolve("/usr/share/kvm/near") == "/usr/share/kvm/card.bin"
    assert copied.resolve("/usr/share/kvm/far") == "/usr/share/kvm/card.bin"
    assert copied.link("/usr/share/kvm/dangling") == "absent"


def test_what_is_odd_is_left_out(root: str, copy: str) -> None:
    tree.build(root, {"devices": {NIC: {"vendor": "0x8086"}}}, configs={100: "x\n"})
    os.symlink("loop", f"{root}/{DEVICES}/{NIC}/class")
    tree.folder(root, f"{DEVICES}/{NIC}/device")
    os.mkfifo(f"{root}/etc/pvepassthru.yaml")
    os.mkfifo(f"{root}/usr/share/kvm/fifo")
    os.symlink("loop", f"{root}/etc/pve/mapping")
    tree.put(root, "/run/qemu-server/100.pid", "junk\n")
    capture(Host(root), copy, [100, 101])
    assert Host(copy).names(f"{DEVICES}/{NIC}") == ["driver_override", "irq", "vendor"]
    assert not os.path.exists(f"{copy}/etc/pvepassthru.yaml")


def test_an_empty_host(root: str, copy: str) -> None:
    capture(Host(root, "pve"), copy, [100])
    assert Inventory(SimHost(copy)).addresses() == ()


def test_effort_grows_with_functions_only() -> None:
    """Four times the functions take about four times the calls."""

    def effort(functions: int) -> int:
        devices = {
            f"0000:{number // 8:02x}:00.{number % 8}": {
                "vendor": "0x10de",
                "device": "0x2204",
                "class": "0x030000",
                "driver": "nouveau",
                "reset": True,
                "iommu_group": number // 8,
                "subsystem_vendor": "0x10de",
                "subsystem_device": "0x1467",
            }
            for number in range(functions)
        }
        with machine.memory_folder() as root, machine.memory_folder() as copy:
            tree.build(root, {"devices": devices})
            host = Host(root)
            count = calls(lambda: capture(host, copy, []))
            assert Inventory(SimHost(copy)).addresses() == tuple(sorted(devices))
        return count

    assert effort(200) < 5 * effort(50)
