# SPDX-License-Identifier: Apache-2.0
"""VFs and vendor vGPU types of the simulated kernel."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host.inventory import Inventory
from pvepassthru.host.sim import SimHost
from tests import tree
from tests.host import machine
from tests.host.machine import (
    DRIVERS,
    PCI,
    PF,
    PROBE,
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

NUMVFS = f"{PCI}/{PF}/sriov_numvfs"
AUTOPROBE = f"{PCI}/{PF}/sriov_drivers_autoprobe"


# ---- VFs


def test_vfs(host: SimHost) -> None:
    before = machine.snapshot(host)
    host.write(NUMVFS, "3")
    assert host.text(NUMVFS) == "3"
    for index, vf in enumerate(VFS[:3]):
        assert host.link(f"{PCI}/{PF}/virtfn{index}") == vf
        assert host.link(f"{PCI}/{vf}/physfn") == PF
        assert host.text(f"{PCI}/{vf}/vendor") == "0x1b36"
        assert host.text(f"{PCI}/{vf}/device") == "0x0010"
        assert host.names(f"{PCI}/{vf}/iommu_group/devices") == [vf]
        assert driver(host, vf) is None
    assert not host.exists(f"{PCI}/{VFS[3]}")
    host.write(NUMVFS, "0")
    assert machine.snapshot(host) == before


def test_vfs_as_the_settings_say(host: SimHost) -> None:
    vf = {"device": "0x1520", "driver": "igbvf", "offset": 128, "stride": 2}
    host.configure({"devices": {PF: {"vf": vf}}, "drivers": {"igbvf": {}}})
    host.write(NUMVFS, "2")
    found = [host.link(f"{PCI}/{PF}/virtfn{index}") or "" for index in (0, 1)]
    assert found == ["0000:02:10.0", "0000:02:10.2"]
    assert [driver(host, address) for address in found] == ["igbvf", "igbvf"]
    assert host.text(f"{PCI}/{found[0]}/device") == "0x1520"


def test_vf_on_the_next_bus(host: SimHost) -> None:
    host.configure({"devices": {PF: {"vf": {"offset": 257, "stride": 2048}}}})
    assert attempt(host, NUMVFS, "3") == "ok"
    assert [host.link(f"{PCI}/{PF}/virtfn{index}") for index in (0, 1)] == ["0000:03:00.1", "0000:0b:00.1"]


def test_vf_where_another_function_is(host: SimHost) -> None:
    host.configure({"devices": {PF: {"vf": {"offset": 256}}}})
    assert attempt(host, NUMVFS, "1") == "EBUSY"


def test_numvfs_zero_while_a_vf_is_open(host: SimHost) -> None:
    host.write(NUMVFS, "3")
    take(host, VFS[1], "vfio-pci")
    with opened(host, f"{PCI}/{VFS[1]}"):
        writer = Child(host, NUMVFS, "0")
        wait_until(lambda: driver(host, VFS[1]) is None)
        reader = Child(host, f"{DRIVERS}/nvme/unbind", PF)
        time.sleep(0.1)
        assert writer.running()
        assert reader.running()
        assert [name for name in host.names(f"{PCI}/{PF}") if name.startswith("virtfn")] == ["virtfn2"]
        assert not host.exists(f"{PCI}/{VFS[0]}")
        assert host.link(f"{PCI}/{VFS[1]}/physfn") is None
        assert host.text(f"{PCI}/{VFS[1]}/vendor") == "0x1b36"
        assert host.exists(f"{PCI}/{VFS[2]}")
    assert writer.outcome() == "ok"
    assert reader.outcome() == "ok"
    assert [vf for vf in VFS if host.exists(f"{PCI}/{vf}")] == []


def test_reading_numvfs_waits_for_the_writer(host: SimHost) -> None:
    host.write(NUMVFS, "1")
    take(host, VFS[0], "vfio-pci")
    with opened(host, f"{PCI}/{VFS[0]}"):
        writer = Child(host, NUMVFS, "0")
        wait_until(lambda: driver(host, VFS[0]) is None)
        receiver, sender = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.write(sender, (host.text(NUMVFS) or "none").encode())
            finally:
                os._exit(0)
        time.sleep(0.1)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    assert writer.outcome() == "ok"
    os.waitpid(pid, 0)
    assert os.read(receiver, 9) == b"0"
    os.close(receiver)
    os.close(sender)


def test_vfs_stay_without_the_pfs_driver(host: SimHost) -> None:
    host.write(NUMVFS, "2")
    unbind(host, PF)
    assert host.text(NUMVFS) == "2"
    assert host.exists(f"{PCI}/{VFS[1]}")
    host.write(f"{PCI}/{PF}/driver_override", "vfio-pci")
    assert attempt(host, f"{DRIVERS}/vfio-pci/bind", PF) == "EBUSY"
    assert attempt(host, PROBE, PF) == "ok"
    assert driver(host, PF) is None


def test_vfs_go_with_a_driver_that_removes_them(host: SimHost) -> None:
    take(host, PF, "tbvgpu")
    host.write(NUMVFS, "2")
    assert unbind(host, PF) == "ok"
    assert host.text(NUMVFS) == "0"
    assert not host.exists(f"{PCI}/{VFS[0]}")


def test_numvfs_under_vfio(host: SimHost) -> None:
    take(host, PF, "vfio-pci")
    assert attempt(host, NUMVFS, "1") == "ENOENT"
    assert attempt(host, NUMVFS, "0") == "ok"


def test_autoprobe_off(host: SimHost) -> None:
    host.write(AUTOPROBE, "0")
    host.write(NUMVFS, "1")
    assert attempt(host, f"{DRIVERS}/vfio-pci/new_id", "1b36 0010") == "ok"
    assert attempt(host, f"{DRIVERS}/vfio-pci/bind", VFS[0]) == "ENODEV"
    assert driver(host, VFS[0]) is None
    take(host, VFS[0], "vfio-pci")


def test_autoprobe_binds_new_vfs(host: SimHost) -> None:
    host.write(f"{DRIVERS}/vfio-pci/new_id", "1b36 0010")
    host.write(NUMVFS, "2")
    assert [driver(host, vf) for vf in VFS[:2]] == ["vfio-pci", "vfio-pci"]


# ---- vendor vGPU


@pytest.fixture
def vgpu(host: SimHost) -> SimHost:
    """The machine with two VFs that have the vendor vGPU interface."""
    take(host, PF, "tbvgpu")
    host.write(NUMVFS, "2")
    for vf in VFS[:2]:
        take(host, vf, "tbvgpu")
    return host


def offered(host: SimHost, vf: str) -> list[str]:
    return sorted(Inventory(host).vgpu_creatable(vf))


def choose(host: SimHost, vf: str, value: str) -> str:
    return attempt(host, f"{PCI}/{vf}/nvidia/current_vgpu_type", value)


def test_vgpu_types_share_the_pfs_capacity(vgpu: SimHost) -> None:
    first, second = VFS[:2]
    assert not vgpu.exists(f"{PCI}/{PF}/nvidia")
    assert offered(vgpu, first) == ["100", "101", "102"]
    text = vgpu.read(f"{PCI}/{first}/nvidia/creatable_vgpu_types").decode()
    assert text.startswith("ID    : vGPU Name\n100   : Testbed 1Q\n")
    assert choose(vgpu, first, "101\n") == "ok"
    assert Inventory(vgpu).vgpu_current(first) == "101"
    assert (offered(vgpu, first), offered(vgpu, second)) == ([], ["100", "101"])
    assert choose(vgpu, first, "101") == "EBUSY"
    assert choose(vgpu, first, "100") == "EBUSY"
    assert choose(vgpu, second, "102") == "ENOSPC"
    assert choose(vgpu, second, "101") == "ok"
    assert choose(vgpu, first, "0") == "ok"
    assert choose(vgpu, first, "0") == "ok"
    assert offered(vgpu, first) == ["100", "101"]
    assert unbind(vgpu, second) == "ok"
    assert not vgpu.exists(f"{PCI}/{second}/nvidia")
    assert offered(vgpu, first) == ["100", "101", "102"]


@pytest.mark.parametrize("value", ["junk", "-1", "7", "103", "0x65", "1 0"])
def test_vgpu_values(vgpu: SimHost, value: str) -> None:
    assert choose(vgpu, VFS[0], value) == "EINVAL"
    assert choose(vgpu, VFS[0], "") == "ok"
    assert Inventory(vgpu).vgpu_current(VFS[0]) == "0"


def test_vgpu_list_is_read_only(vgpu: SimHost) -> None:
    assert attempt(vgpu, f"{PCI}/{VFS[0]}/nvidia/creatable_vgpu_types", "1") == "EACCES"


def test_vgpu_in_use_is_not_cleared(vgpu: SimHost) -> None:
    choose(vgpu, VFS[0], "100")
    with opened(vgpu, f"{PCI}/{VFS[0]}"):
        assert choose(vgpu, VFS[0], "0") == "EBUSY"
    assert choose(vgpu, VFS[0], "0") == "ok"


def test_vgpu_without_settings(tmp_path: Path) -> None:
    kinds = [{"id": "557", "name": "NVIDIA A2-2B"}, {"id": "558", "name": "NVIDIA A2-4B"}]
    vf = {"vendor": "0x10de", "physfn": PF, "driver": "nvidia", "nvidia": {"creatable": kinds, "current": "0"}}
    tree.build(tmp_path, {"devices": {PF: {"vendor": "0x10de"}, VFS[0]: vf, VFS[1]: {**vf, "nvidia": {}}}})
    host = SimHost(str(tmp_path))
    assert choose(host, VFS[0], "559") == "EINVAL"
    assert choose(host, VFS[0], "558") == "ok"
    assert offered(host, VFS[0]) == []
    assert choose(host, VFS[0], "557") == "EBUSY"
    assert choose(host, VFS[0], "0") == "ok"
    assert offered(host, VFS[0]) == ["557", "558"]
    assert choose(host, VFS[0], "557") == "ok"
    assert choose(host, VFS[1], "557") == "ENOENT"
    assert unbind(host, VFS[0]) == "ok"
    assert attempt(host, f"{DRIVERS}/nvidia/bind", VFS[0]) == "ok"
    assert (offered(host, VFS[0]), Inventory(host).vgpu_current(VFS[0])) == (["557", "558"], "0")
