# SPDX-License-Identifier: Apache-2.0
"""Tests of pvepassthru.lifecycle.console on a simulated host."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import displays
from pvepassthru.lifecycle import console
from pvepassthru.model.errors import DeviceError
from tests import tree
from tests.host.machine import memory_folder
from tests.lifecycle.state_tree import GPU, Bench, functions, policies

if TYPE_CHECKING:
    from collections.abc import Iterator

CONSOLE = "/sys/class/vtconsole/vtcon1/bind"
EFIFB = "/sys/devices/platform/efi-framebuffer.0"
UNDO = {console.KIND: console.undo_console, console.FRAMEBUFFER: console.undo_framebuffer}


@pytest.fixture
def bench() -> Iterator[Bench]:
    with memory_folder() as folder:
        yield Bench(Path(folder))


def release(bench: Bench, **device: object) -> None:
    console.release(bench.work(), functions(), policies(**device))


def test_nothing_is_done_without_the_policy(bench: Bench) -> None:
    bench.firmware()
    release(bench)
    release(bench, console="keep")
    assert bench.host.text(CONSOLE) == "1"
    assert bench.host.link(f"{EFIFB}/driver") == "efi-framebuffer"
    assert bench.files() == []


def test_nothing_is_done_to_a_gpu_without_a_picture(bench: Bench) -> None:
    bench.firmware()
    bench.put("/proc/iomem", "00000000-00000fff : Reserved\n")  # the picture lies elsewhere
    release(bench, console="release")
    assert bench.host.text(CONSOLE) == "1"
    assert bench.files() == []


def test_firmware_picture_is_let_go_and_stays_so_after_a_run(bench: Bench) -> None:
    bench.firmware()
    assert displays.firmware_pictures(bench.host) == {GPU: "efifb"}
    release(bench, console="release")
    assert bench.kept() == [
        "console vtcon1 1 0",
        f"framebuffer efi-framebuffer.0@{GPU} efi-framebuffer leave",
    ]
    assert bench.host.link(f"{EFIFB}/driver") is None
    assert displays.firmware_pictures(bench.host) == {}
    assert bench.host.text("/sys/class/vtconsole/vtcon0/bind") == "1"
    assert bench.undo(UNDO, running=True) == [None, None]
    assert bench.host.link(f"{EFIFB}/driver") is None
    assert "efi-framebuffer stays unbound" in bench.said[-2]
    assert "comes back with the next driver" in bench.said[-1]


def test_firmware_picture_comes_back_from_a_start_that_failed(bench: Bench) -> None:
    bench.firmware()
    before = bench.host.text("/proc/iomem")
    release(bench, console="release")
    assert bench.undo(UNDO) == [None, None]
    assert bench.host.link(f"{EFIFB}/driver") == "efi-framebuffer"
    assert bench.host.text("/proc/iomem") == before
    assert bench.host.text(CONSOLE) == "1"
    assert bench.kept() == []


def test_firmware_picture_comes_back_by_the_policy(bench: Bench) -> None:
    bench.firmware()
    release(bench, console="release", restore_framebuffer=True)
    assert bench.undo(UNDO, running=True) == [None, None]
    assert bench.host.link(f"{EFIFB}/driver") == "efi-framebuffer"
    assert bench.host.text(CONSOLE) == "1"


def test_firmware_picture_that_vfio_removed_for_good(bench: Bench) -> None:
    """As on kernels from 6.0 on: vfio-pci takes the boot display."""
    bench.firmware()
    release(bench, console="release", restore_framebuffer=True)
    bench.take(GPU, "vfio-pci")
    assert not bench.host.exists("/sys/bus/platform/devices/efi-framebuffer.0")
    bench.leave(GPU)
    assert bench.undo(UNDO, running=True) == [None, None]
    assert "cannot come back" in bench.warned[0]


def test_firmware_picture_is_not_put_under_another_vm(bench: Bench) -> None:
    bench.firmware()
    release(bench, console="release", restore_framebuffer=True)
    bench.reserve(200, GPU)
    kept = bench.undo(UNDO, running=True)
    assert kept[0] is not None
    assert "VM 200" in kept[0]
    assert bench.host.link(f"{EFIFB}/driver") is None


def test_firmware_picture_is_not_put_under_an_open_device(bench: Bench) -> None:
    bench.firmware()
    bench.put(f"/sys/bus/pci/devices/{GPU}/boot_vga", "0\n")  # the kernel lets the platform device be
    release(bench, console="release", restore_framebuffer=True)
    bench.take(GPU, "vfio-pci")
    tree.hold(bench.root, 4711, "/dev/vfio/10")
    kept = bench.undo(UNDO, running=True)
    assert kept[0] is not None
    assert "4711" in kept[0]


def test_console_of_a_drivers_frame_buffer(bench: Bench) -> None:
    bench.take(GPU, "bochs-drm")
    assert displays.has_frame_buffer(bench.host, GPU)
    release(bench, console="release")
    assert bench.host.text(CONSOLE) == "0"
    bench.take(GPU, "vfio-pci")
    assert bench.undo(UNDO, running=True) == [None]
    assert not bench.host.exists(CONSOLE)
    bench.take(GPU, "bochs-drm")
    assert bench.host.text(CONSOLE) == "1"


def test_console_comes_back_where_the_driver_still_has_the_gpu(bench: Bench) -> None:
    bench.take(GPU, "bochs-drm")
    release(bench, console="release")
    assert bench.undo(UNDO) == [None]
    assert bench.host.text(CONSOLE) == "1"
    assert bench.said[-1] == "gave back the console vtcon1"


def test_console_that_somebody_bound_again(bench: Bench) -> None:
    bench.take(GPU, "bochs-drm")
    release(bench, console="release")
    bench.host.write(CONSOLE, "1")
    said = len(bench.said)
    assert bench.undo(UNDO) == [None]
    assert len(bench.said) == said


def test_console_that_the_kernel_does_not_let_go(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.take(GPU, "bochs-drm")
    monkeypatch.setattr(bench.host, "write", lambda _path, _value: None)
    with pytest.raises(DeviceError, match="cannot take the console vtcon1 off"):
        release(bench, console="release")
    assert bench.kept() == ["console vtcon1 1 0"]


def test_second_release_does_nothing(bench: Bench) -> None:
    bench.firmware()
    release(bench, console="release")
    kept = bench.kept()
    release(bench, console="release")
    assert bench.kept() == kept


def test_picture_below_another_function_is_left_alone(bench: Bench) -> None:
    """Kernels from 6.9 on have the platform device below the function that it belongs to."""
    bench.firmware("simple-framebuffer")
    port = "sys/devices/pci0000:00/0000:00:09.0/0000:09:00.0/simple-framebuffer.0"
    tree.folder(bench.root, port)
    link = Path(bench.root, "sys/bus/platform/drivers/simple-framebuffer/simple-framebuffer.0")
    link.unlink()
    tree.link(bench.root, str(link.relative_to(bench.root)), port)
    assert displays.platform_framebuffers(bench.host, GPU) == ()
    assert [found.device for found in displays.platform_framebuffers(bench.host, "0000:09:00.0")] == [
        "simple-framebuffer.0"
    ]
