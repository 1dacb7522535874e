# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import boot
from pvepassthru.host.host import Host
from tests import tree

if TYPE_CHECKING:
    from pathlib import Path

DEBIAN = """# If you change this file, run 'update-grub' afterwards to update
# /boot/grub/grub.cfg.

GRUB_DEFAULT=0
GRUB_TIMEOUT=5
GRUB_DISTRIBUTOR=`( . /etc/os-release; echo ${NAME:-Debian} ) 2>/dev/null || echo Debian`
GRUB_CMDLINE_LINUX_DEFAULT="quiet intel_iommu=on"
GRUB_CMDLINE_LINUX=""
"""
ZFS = 'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX root=ZFS=rpool/ROOT/pve-1 boot=zfs"\n'
ENTRY = "initrd=\\EFI\\proxmox\\6.8.12-4-pve\\initrd.img-6.8.12-4-pve root=ZFS=rpool/ROOT/pve-1 boot=zfs\n"


def put(root: Path, files: dict[str, str | bytes]) -> boot.Boot:
    for path, content in files.items():
        tree.put(root, path, content)
    return boot.read(Host(str(root)))


def info(name: str) -> bytes:
    return b"\x06\0\0\0" + (name + "\0").encode("utf-16-le")


def test_grub_of_debian(tmp_path: Path) -> None:
    found = put(tmp_path, {"/proc/cmdline": "BOOT_IMAGE=/boot/vmlinuz root=/dev/sda1 ro quiet\n", boot.GRUB: DEBIAN})
    assert found.loader == "GRUB"
    assert found.apply == ("update-grub",)
    assert found.running
    assert found.running.values("root") == ("/dev/sda1",)
    assert found.configured
    assert [(one.parameter.text, one.where) for one in found.configured.origins] == [
        ("quiet", "/etc/default/grub:7"),
        ("intel_iommu=on", "/etc/default/grub:7"),
    ]


def test_parts_of_grub_are_read_after_it_in_order(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        boot.GRUB: DEBIAN,
        "/etc/default/grub.d/zfs.cfg": ZFS,
        "/etc/default/grub.d/a.cfg": 'GRUB_CMDLINE_LINUX_DEFAULT="${GRUB_CMDLINE_LINUX_DEFAULT} iommu=pt"\n',
        "/etc/default/grub.d/b.cfg.dpkg-old": "GRUB_CMDLINE_LINUX_DEFAULT=\n",
    }
    found = put(tmp_path, files)
    assert found.configured
    assert [(one.parameter.text, one.where) for one in found.configured.origins] == [
        ("root=ZFS=rpool/ROOT/pve-1", "/etc/default/grub.d/zfs.cfg:1"),
        ("boot=zfs", "/etc/default/grub.d/zfs.cfg:1"),
        ("quiet", "/etc/default/grub:7"),
        ("intel_iommu=on", "/etc/default/grub:7"),
        ("iommu=pt", "/etc/default/grub.d/a.cfg:1"),
    ]
    assert found.files == (boot.GRUB, "/etc/default/grub.d/a.cfg", "/etc/default/grub.d/zfs.cfg")


def test_a_value_that_needs_a_shell_is_not_told(tmp_path: Path) -> None:
    found = put(tmp_path, {boot.GRUB: 'GRUB_CMDLINE_LINUX_DEFAULT="$(cat /etc/x)"\n'})
    assert found.loader == "GRUB"
    assert found.configured is None
    assert "/etc/default/grub:1 needs a shell" in found.trouble


@pytest.mark.parametrize(
    "files, loader, apply",
    [
        ({boot.GRUB: DEBIAN}, "GRUB", ("update-grub",)),
        ({boot.GRUB: DEBIAN, boot.BOOT_TOOL: "AAAA-BBBB\n"}, "GRUB", ("proxmox-boot-tool", "refresh")),
        (
            {
                boot.GRUB: DEBIAN,
                boot.BOOT_TOOL: "A\n",
                boot.CMDLINE: "quiet",
                boot.LOADER_INFO: info("systemd-boot 252"),
            },
            "systemd-boot",
            ("proxmox-boot-tool", "refresh"),
        ),
        (
            {boot.GRUB: DEBIAN, boot.BOOT_TOOL: "A\n", boot.CMDLINE: "quiet", boot.LOADER_INFO: info("GRUB 2.12")},
            "GRUB",
            ("proxmox-boot-tool", "refresh"),
        ),
        (
            {boot.GRUB: DEBIAN, boot.BOOT_TOOL: "A\n", f"{boot.EFI}/x": "", "/proc/cmdline": "BOOT_IMAGE=/x ro"},
            "GRUB",
            ("proxmox-boot-tool", "refresh"),
        ),
        (
            {boot.GRUB: DEBIAN, boot.BOOT_TOOL: "A\n", f"{boot.EFI}/x": "", "/proc/cmdline": ENTRY},
            "systemd-boot",
            ("proxmox-boot-tool", "refresh"),
        ),
        ({boot.GRUB: DEBIAN, boot.BOOT_TOOL: "A\n", f"{boot.EFI}/x": "", "/proc/cmdline": "quiet"}, None, ()),
        ({boot.CMDLINE: "quiet", boot.LOADER_INFO: info("systemd-boot 252")}, "systemd-boot", ()),
        ({}, None, ()),
    ],
)
def test_the_loader_that_booted(
    tmp_path: Path, files: dict[str, str | bytes], loader: str | None, apply: tuple[str, ...]
) -> None:
    found = put(tmp_path, files)
    assert (found.loader, found.apply) == (loader, apply)
    assert found.why
    assert bool(found.configured) != bool(found.trouble)


def test_systemd_boot_takes_the_first_line(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        boot.CMDLINE: "root=ZFS=rpool boot=zfs  quiet\nintel_iommu=on\n",
        boot.LOADER_INFO: info("systemd-boot 252.30-1~deb12u2"),
    }
    found = put(tmp_path, files)
    assert found.configured
    assert found.configured.line.text == "root=ZFS=rpool boot=zfs  quiet"
    assert {one.where for one in found.configured.origins} == {"/etc/kernel/cmdline:1"}


@pytest.mark.parametrize("junk", [b"", b"\0\xff" * 1000, b"\x06\0\0\0\x00\xd8", b"GRUB_CMDLINE_LINUX=\xff\n", b"A='"])
def test_junk_is_put_up_with(tmp_path: Path, junk: bytes) -> None:
    files: dict[str, str | bytes] = dict.fromkeys((boot.GRUB, boot.CMDLINE, boot.LOADER_INFO, boot.RUNNING), junk)
    found = put(tmp_path, files)
    assert found.why


def test_what_cannot_be_read_is_noted(tmp_path: Path) -> None:
    os.makedirs(f"{tmp_path}{boot.GRUB}")
    host = Host(str(tmp_path))
    found = boot.read(host)
    assert found.configured is None
    assert found.trouble == "/etc/default/grub cannot be read"
    assert boot.GRUB in host.unreadable
