# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvepassthru.api import wish
from pvepassthru.api.wish import Device, Wish
from pvepassthru.model import pci
from pvepassthru.model.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    "word, device",
    [
        ("0000:01:00.0", Device(addresses=("0000:01:00.0",))),
        ("01:00", Device(addresses=("0000:01:00",))),
        (" 0A:00.1 ", Device(addresses=("0000:0a:00.1",))),
        ("06:00.0;06:00.1", Device(addresses=("0000:06:00.0", "0000:06:00.1"))),
        ("10000:e1:00.0", Device(addresses=("10000:e1:00.0",))),
        ("10DE:2204", Device(ids="10de:2204")),
        ("gpu", Device(kind="gpu")),
        ("class:nic", Device(kind="nic")),
        ("class nvme", Device(kind="nvme")),
        ("CLASS=GPU", Device(kind="gpu")),
    ],
)
def test_words_for_devices(word: str, device: Device) -> None:
    assert wish.device(word) == device


@pytest.mark.parametrize(
    "word, hint",
    [
        ("", "use an address"),
        ("gpus", "is gpu meant?"),
        ("class:gpuu", "is gpu meant?"),
        ("class:sound", "use gpu, nic, nvme"),
        ("1:0.0", "use an address"),
        ("01:00.0,pcie=1", "use an address"),
        ("01:00.g", "use an address"),
        ("0x10de:0x2204", "use an address"),
        ("01:00.0\nargs: x", "use an address"),
    ],
)
def test_words_for_nothing(word: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        wish.device(word)
    assert hint in raised.value.hint
    assert "\n" not in str(raised.value)


@given(st.text(max_size=30))
def test_any_word_is_a_device_that_pve_can_read_or_an_error(word: str) -> None:
    try:
        found = wish.device(word)
    except UsageError:
        return
    assert sum(map(bool, (found.addresses, found.ids, found.kind))) == 1
    assert all(pci.is_selector(one) for one in found.addresses)


@pytest.mark.parametrize(
    "check, good, bad",
    [
        (
            wish.rom,
            ["gpu.rom", "cards/gpu.rom"],
            ["", "../x", "/etc/passwd", "a,b", "a;b", "a//b", " a", "a\n", "a/.."],
        ),
        (wish.mdev, ["nvidia-63", "best", "i915-GVTg_V5_4"], ["", "0", "a/b", "a.b", "a,b=1", "a b", "x\n"]),
        (wish.mapping, ["gpu", "Gpu_1-a"], ["", "1gpu", "g", "a b", "gpu,pcie=1"]),
        (
            wish.hookscript,
            ["local:snippets/pvepassthru"],
            ["", "local:iso/x", "/var/lib/x", "local:snippets/../x", "a:b"],
        ),
        (wish.storage, ["local-lvm", "zfs1"], ["", "a b", "local:1", "-x", "a,b"]),
        (wish.pf, ["03:00.0", "0000:03:00.0"], ["03:00", "", "10de:2204", "gpu"]),
    ],
)
def test_words_for_the_rest(check: Callable[[str], str], good: list[str], bad: list[str]) -> None:
    for word in good:
        assert check(word)
    for word in bad:
        with pytest.raises(UsageError):
            check(word)


@pytest.mark.parametrize("word, amount", [("4G", 4096), ("512M", 512), ("1GiB", 1024), ("2048", 2048)])
def test_graphics_memory(word: str, amount: int) -> None:
    assert wish.framebuffer(word) == amount


@pytest.mark.parametrize("word", ["", "0", "-1", "much", "4X", "4.5G"])
def test_no_graphics_memory(word: str) -> None:
    with pytest.raises(UsageError, match="no amount of graphics memory"):
        wish.framebuffer(word)


def test_arguments() -> None:
    found = wish.of_arguments(devices=["gpu", "04:00.0"], vf_of=["03:00.0"], mappings=["nvme"], primary_gpu=True)
    assert [one.words for one in found.devices] == ["a gpu", "0000:04:00.0", "a VF of 0000:03:00.0", "mapping nvme"]
    assert found.primary_gpu
    alone = wish.of_arguments(mdev_type="best", min_framebuffer="4G")
    assert alone.devices == (Device(mdev="best", framebuffer=4096),)
    assert alone.devices[0].words == "the best mdev type with 4096 MiB or more"
    there = wish.of_arguments(mappings=["p4"], mdev_type="nvidia-63")
    assert there.devices[0].words == "mdev nvidia-63 on mapping p4"
    assert wish.of_arguments(igd=True) == Wish(igd=True)
    assert wish.of_arguments(hook="local:snippets/x") == Wish(hookscript="local:snippets/x")
    assert wish.of_arguments(bios="ovmf", efi_storage="zfs1", numa=True, hidden=True, by_mapping=True) == Wish(
        bios="ovmf", storage="zfs1", numa=True, hidden=True, by_mapping=True
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "nothing is required"),
        ({"efi_storage": "local", "by_mapping": True}, "nothing is required"),
        ({"devices": ["gpu"], "bios": "uefi"}, "uefi is no firmware"),
        ({"devices": ["gpu"], "hook": "x.sh"}, "x.sh is no hookscript"),
        ({"primary_gpu": True}, "no device is named that could be the GPU"),
        ({"rom_file": "x.rom"}, "no device is named that could be the GPU"),
        ({"min_framebuffer": "4G", "devices": ["gpu"]}, "--min-framebuffer says nothing without --mdev"),
        ({"devices": ["gpu", "nic"], "mdev_type": "best"}, "--mdev is for one device, and 2 are named"),
        ({"devices": ["01:00.0", "0000:01:00.0"]}, "0000:01:00.0 is wanted twice"),
        ({"devices": ["01:00.0;01:00.0"]}, "0000:01:00.0 is wanted twice"),
        ({"devices": ["gpuu"]}, "gpuu is no device"),
        ({"devices": ["gpu"], "rom_file": "../x"}, "no ROM file"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        wish.of_arguments(**arguments)


@pytest.mark.parametrize(
    "device, message",
    [
        (Device(), "it is not said which device"),
        (Device(kind="gpu", ids="10de:2204"), "several ways to name one device"),
        (Device(kind="gpu", framebuffer=1), "without an mdev type"),
        (Device(mdev="best", rom="x.rom"), "cannot have a ROM file"),
        (Device(mdev="best", primary=True), "cannot have primary"),
        (Device(mdev="best", igd=True), "cannot have igd"),
        (Device(igd=True, pcie=True), "cannot be on PCIe"),
        (Device(igd=True, primary=True), "display already"),
    ],
)
def test_what_does_not_go_together(device: Device, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        wish.checked(Wish((device,)))


def test_one_primary_and_one_intel_gpu() -> None:
    for first in (Device(kind="gpu", primary=True), Device(kind="gpu", igd=True)):
        with pytest.raises(UsageError, match="a VM has one"):
            wish.checked(Wish((first, first._replace(kind="", ids="10de:1b80"))))
