# SPDX-License-Identifier: Apache-2.0
"""Tests of pvepassthru.lifecycle.settings on a simulated host."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import quarantine
from pvepassthru.lifecycle import settings
from pvepassthru.model import bars
from pvepassthru.model.errors import DeviceError
from pvepassthru.model.policy import DevicePolicy
from tests import tree
from tests.host.machine import memory_folder
from tests.lifecycle.state_tree import AUDIO, DEAD, GPU, NIC, RESOURCE, Bench, functions
from tests.scenarios.world import PCI

if TYPE_CHECKING:
    from collections.abc import Iterator

METHODS = f"{PCI}/{NIC}/reset_method"
D3COLD = f"{PCI}/{NIC}/d3cold_allowed"
PF, VFS = "0000:02:00.0", ("0000:02:00.1", "0000:02:00.2")
MB, GB = 1 << 20, 1 << 30
UNDO = {settings.RESET: settings.undo_reset, settings.D3COLD: settings.undo_d3cold, settings.BAR: settings.undo_bar}


@pytest.fixture
def bench() -> Iterator[Bench]:
    with memory_folder() as folder:
        yield Bench(Path(folder))


def apply(bench: Bench, address: str = NIC, *, reset_method: str | None = None, d3cold: bool | None = None) -> None:
    device_policy = DevicePolicy(reset_method=reset_method, d3cold=d3cold)
    settings.apply(bench.work(), functions(address)[0], device_policy)


# ---- reset methods


def test_reset_methods_are_set_and_given_back(bench: Bench) -> None:
    apply(bench, reset_method="bus pm")
    assert bench.host.text(METHODS) == "bus pm"
    assert bench.kept() == [f"reset_method {NIC} pm bus bus pm"]
    assert bench.undo(UNDO) == [None]
    assert bench.host.text(METHODS) == "pm bus"


def test_former_text_is_not_the_default(bench: Bench) -> None:
    bench.host.write(METHODS, "bus")
    apply(bench, reset_method="pm")
    assert bench.undo(UNDO) == [None]
    assert bench.host.text(METHODS) == "bus"


def test_no_method_before(bench: Bench) -> None:
    bench.host.write(METHODS, "\n")
    apply(bench, reset_method="pm")
    assert bench.undo(UNDO) == [None]
    assert bench.host.text(METHODS) == ""


def test_same_methods_need_no_step(bench: Bench) -> None:
    apply(bench, reset_method="pm bus")
    apply(bench, reset_method="auto")
    assert bench.files() == []


def test_method_that_is_not_offered(bench: Bench) -> None:
    with pytest.raises(DeviceError, match=r"cannot set reset_method flr on 0000:05:00.0: the kernel offers pm bus"):
        apply(bench, reset_method="flr")
    assert bench.undo(UNDO) == [None]
    assert bench.host.text(METHODS) == "pm bus"


def test_method_that_is_shown_and_refused(bench: Bench) -> None:
    """Two functions share the bus by now; the file was made when there was one."""
    bench.host.write(METHODS, "pm")
    bench.put(METHODS, "af_flr pm\n")
    with pytest.raises(DeviceError, match=r"reset_method af_flr on 0000:05:00.0: the kernel shows it, but refuses it"):
        apply(bench, reset_method="af_flr")
    assert bench.undo(UNDO) == [None]


def test_function_without_any_method(bench: Bench) -> None:
    apply(bench, AUDIO, reset_method="auto")
    with pytest.raises(DeviceError, match="has no way to reset it"):
        apply(bench, AUDIO, reset_method="flr")
    assert bench.files() == []


def test_methods_that_somebody_wrote_meanwhile(bench: Bench) -> None:
    apply(bench, reset_method="bus")
    bench.host.write(METHODS, "pm")
    assert bench.undo(UNDO) == [None]
    assert bench.host.text(METHODS) == "pm"


def test_methods_of_a_function_that_is_another_vms_by_now(bench: Bench) -> None:
    apply(bench, reset_method="bus")
    bench.reserve(200, NIC)
    (kept,) = bench.undo(UNDO)
    assert kept is not None
    assert "VM 200" in kept
    assert bench.host.text(METHODS) == "bus"


def test_methods_of_a_function_that_is_open(bench: Bench) -> None:
    apply(bench, reset_method="bus")
    bench.take(NIC, "vfio-pci")
    tree.hold(bench.root, 4711, f"/dev/vfio/{bench.host.link(f'{PCI}/{NIC}/iommu_group')}")
    (kept,) = bench.undo(UNDO)
    assert kept is not None
    assert "4711" in kept
    assert bench.host.text(METHODS) == "bus"


def test_former_methods_that_the_kernel_has_no_more(bench: Bench) -> None:
    bench.host.write(METHODS, "pm")
    bench.put(METHODS, "af_flr pm\n")
    apply(bench, reset_method="pm")
    assert bench.undo(UNDO) == [None]
    assert bench.host.text(METHODS) == "pm bus"
    assert "no longer has the reset methods af_flr pm" in bench.warned[0]


def test_original_value_stays_through_a_second_start(bench: Bench) -> None:
    apply(bench, reset_method="bus")
    apply(bench, reset_method="pm")
    assert bench.kept() == [f"reset_method {NIC} pm bus pm"]
    assert bench.undo(UNDO) == [None]
    assert bench.host.text(METHODS) == "pm bus"


def test_auto_leaves_out_what_hangs_the_device(bench: Bench) -> None:
    bench.put(f"{PCI}/{NIC}/vendor", "0x8086\n")
    bench.put(f"{PCI}/{NIC}/device", "0x1502\n")
    bench.put(METHODS, "flr pm\n")
    apply(bench, reset_method="auto")
    assert bench.host.text(METHODS) == "pm"


def test_auto_prefers_the_vendors_own(bench: Bench) -> None:
    bench.put(f"{PCI}/{NIC}/vendor", "0x1002\n")
    bench.put(f"{PCI}/{NIC}/device", "0x67df\n")
    bench.put(METHODS, "pm device_specific bus\n")
    apply(bench, reset_method="auto")
    assert bench.host.text(METHODS) == "device_specific"


# ---- neighbours of a reset of the bus


def test_bus_reset_that_hits_the_hosts_function(bench: Bench) -> None:
    bench.take(AUDIO, "e1000e")
    bench.put(f"{PCI}/{AUDIO}/iommu_group/devices/none", "")
    alone(bench)
    with pytest.raises(DeviceError, match=rf"would hit {AUDIO} \(the host's driver e1000e\)"):
        apply(bench, GPU, reset_method="bus")
    assert bench.host.text(f"{PCI}/{GPU}/reset_method") == "pm bus"
    assert bench.files() == []


def alone(bench: Bench) -> None:
    """Let the GPU be in a group of its own, with two reset methods."""
    Path(bench.root, PCI[1:], GPU, "iommu_group").unlink()
    tree.link(bench.root, f"{PCI[1:]}/{GPU}/iommu_group", "sys/kernel/iommu_groups/77")
    tree.folder(bench.root, "sys/kernel/iommu_groups/77/devices")
    tree.link(bench.root, f"sys/kernel/iommu_groups/77/devices/{GPU}", f"{PCI[1:]}/{GPU}")
    os.unlink(bench.host.path(f"/sys/kernel/iommu_groups/10/devices/{GPU}"))
    bench.put(f"{PCI}/{GPU}/reset_method", "pm bus\n")


def test_auto_leaves_out_a_bus_reset_that_hits_another_vm(bench: Bench) -> None:
    alone(bench)
    bench.reserve(200, AUDIO)
    apply(bench, GPU, reset_method="auto")
    assert bench.host.text(f"{PCI}/{GPU}/reset_method") == "pm"
    assert f"would hit {AUDIO} (VM 200)" in bench.warned[0]


def test_auto_keeps_the_only_method(bench: Bench) -> None:
    alone(bench)
    bench.put(f"{PCI}/{GPU}/reset_method", "bus\n")
    bench.reserve(200, AUDIO)
    apply(bench, GPU, reset_method="auto")
    assert bench.host.text(f"{PCI}/{GPU}/reset_method") == "bus"
    assert "so it is not reset" in bench.warned[0]


def test_functions_of_the_same_vm_and_group_are_no_neighbours(bench: Bench) -> None:
    bench.take(AUDIO, "e1000e")  # in the GPU's group: PVE binds it with the GPU
    bench.put(f"{PCI}/{GPU}/reset_method", "pm bus\n")
    apply(bench, GPU, reset_method="auto")
    assert bench.host.text(f"{PCI}/{GPU}/reset_method") == "pm bus"
    assert bench.warned == []


def test_virtual_functions_are_neighbours(bench: Bench) -> None:
    bench.settings["drivers"]["tbvgpu"] = {}
    bench.host.configure(bench.settings)
    bench.take(PF, "tbvgpu")
    bench.host.write(f"{PCI}/{PF}/sriov_numvfs", "2")
    bench.reserve(200, VFS[1])
    with pytest.raises(DeviceError, match=rf"would hit {VFS[1]} \(VM 200\)"):
        apply(bench, PF, reset_method="flr bus")


# ---- d3cold


def test_d3cold_is_set_and_given_back(bench: Bench) -> None:
    assert bench.host.text(D3COLD) == "1"
    apply(bench, d3cold=False)
    assert bench.host.text(D3COLD) == "0"
    assert bench.kept() == [f"d3cold {NIC} 1 0"]
    assert bench.undo(UNDO) == [None]
    assert bench.host.text(D3COLD) == "1"


def test_d3cold_as_it_is(bench: Bench) -> None:
    apply(bench, d3cold=True)
    assert bench.files() == []


def test_d3cold_of_a_kernel_without(bench: Bench) -> None:
    os.unlink(bench.host.path(D3COLD))
    apply(bench, d3cold=True)
    assert "has no d3cold_allowed" in bench.warned[0]


def test_d3cold_that_the_kernel_ignores(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.host, "write", lambda _path, _value: None)
    apply(bench, d3cold=False)
    assert "stays 1" in bench.warned[0]
    assert bench.undo(UNDO) == [None]


# ---- BARs


def resizable(bench: Bench, bitmap: str = "0000000000000ff0", **device: object) -> None:
    """Give the GPU's BAR 0, of 16 MB, other sizes: 16 MB to 2 GB."""
    bench.put(f"{PCI}/{GPU}/resource", RESOURCE)
    bench.put(f"{PCI}/{GPU}/resource0_resize", bitmap + "\n")
    bench.device(GPU, **device)


def resize(bench: Bench, *wanted: tuple[int, int]) -> None:
    settings.resize(bench.work(), functions(GPU)[0], DevicePolicy(bars=wanted))


def size(bench: Bench) -> int | None:
    return bars.size_now(bench.host.text(f"{PCI}/{GPU}/resource") or "", 0)


def test_bar_is_resized_and_given_back(bench: Bench) -> None:
    resizable(bench)
    resize(bench, (0, 256 * MB))
    assert size(bench) == 256 * MB
    assert bench.kept() == [f"bar {GPU}/bar0 {16 * MB} {256 * MB}"]
    assert bench.undo(UNDO) == [None]
    assert size(bench) == 16 * MB


def test_bar_of_a_function_that_vfio_has(bench: Bench) -> None:
    resizable(bench)
    resize(bench, (0, 2 * GB))
    bench.take(GPU, "vfio-pci")
    assert bench.undo(UNDO) == [None]
    assert size(bench) == 16 * MB
    assert bench.host.link(f"{PCI}/{GPU}/driver") == "vfio-pci"


def test_bar_of_a_function_that_the_host_has(bench: Bench) -> None:
    resizable(bench)
    resize(bench, (0, 2 * GB))
    bench.take(GPU, "bochs-drm")
    (kept,) = bench.undo(UNDO)
    assert kept is not None
    assert "bochs-drm has" in kept
    assert size(bench) == 2 * GB


def test_bar_of_a_function_in_quarantine(bench: Bench) -> None:
    resizable(bench)
    resize(bench, (0, 2 * GB))
    bench.take(GPU, "vfio-pci")
    bench.put(f"{PCI}/{GPU}/config", DEAD)
    quarantine.put(bench.host, GPU, 100, "it fell")
    assert bench.undo(UNDO) == [f"{GPU} is in quarantine"]
    assert bench.host.link(f"{PCI}/{GPU}/driver") == "vfio-pci"


def test_bar_as_it_is(bench: Bench) -> None:
    resizable(bench)
    resize(bench, (0, 16 * MB))
    assert bench.files() == []


@pytest.mark.parametrize(
    "wanted,words",
    [
        ((0, 4 * GB), "it can be 16M, 32M, 64M, 128M, 256M, 512M, 1G, 2G"),
        ((0, 24 * MB), "it can be 16M"),
        ((2, 16 * MB), "BAR 2 of 0000:01:00.0 16M large: it is not resizable"),
    ],
)
def test_bar_sizes_that_are_not_offered(bench: Bench, wanted: tuple[int, int], words: str) -> None:
    resizable(bench)
    with pytest.raises(DeviceError, match=words):
        resize(bench, wanted)
    assert bench.files() == []


def test_bar_without_room(bench: Bench) -> None:
    resizable(bench, bar_room=256 * MB)
    with pytest.raises(DeviceError, match="the bridge above has no room") as caught:
        resize(bench, (0, 2 * GB))
    assert "Above 4G decoding" in caught.value.hint
    assert bench.undo(UNDO) == [None]
    assert size(bench) == 16 * MB


def test_bar_of_a_bound_function(bench: Bench) -> None:
    resizable(bench)
    bench.take(GPU, "bochs-drm")
    with pytest.raises(DeviceError, match="a driver or another user has its memory"):
        resize(bench, (0, 2 * GB))
    with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
        bench.host.write(f"{PCI}/{GPU}/resource0_resize", "8")
