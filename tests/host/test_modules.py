# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import firmware, persistence
from pvepassthru.host.host import Host
from pvepassthru.host.inventory import Inventory
from pvepassthru.host.modules import FOLDERS, Modules, config_files
from pvepassthru.model.cmdline import CommandLine
from tests import tree

if TYPE_CHECKING:
    from pathlib import Path

RELEASE = "6.8.12-4-pve"


def modules(root: Path, cmdline: str = "") -> Modules:
    return Modules(Host(str(root)), CommandLine(cmdline))


def test_the_first_folder_masks_and_all_go_by_name(tmp_path: Path) -> None:
    tree.put(tmp_path, "etc/modprobe.d/b.conf", "options m p=1\n")
    tree.put(tmp_path, "run/modprobe.d/b.conf", "options m p=2\n")
    tree.put(tmp_path, "usr/lib/modprobe.d/a.conf", "options m p=3\n")
    tree.put(tmp_path, "lib/modprobe.d/c.conf", "options m q=4\n")
    tree.put(tmp_path, "etc/modprobe.d/z.conf.bak", "options m p=5\n")
    host = Host(str(tmp_path))
    assert config_files(host, FOLDERS) == [
        "/usr/lib/modprobe.d/a.conf",
        "/etc/modprobe.d/b.conf",
        "/lib/modprobe.d/c.conf",
    ]
    found = modules(tmp_path, "m.p=6 other.p=7 -- m.p=8").options("m")
    assert [(one.value, one.where) for one in found["p"]] == [
        ("3", "/usr/lib/modprobe.d/a.conf:1"),
        ("1", "/etc/modprobe.d/b.conf:1"),
        ("6", "/proc/cmdline"),
    ]
    assert [one.value for one in found["q"]] == ["4"]


def test_lines_are_counted_with_the_empty_ones_before_them(tmp_path: Path) -> None:
    tree.put(tmp_path, "etc/modprobe.d/a.conf", "\n\n# x\noptions vfio-pci ids=1:2\n")
    option = modules(tmp_path).option("vfio-pci", "ids")
    assert option is not None
    assert option.where == "/etc/modprobe.d/a.conf:4"


def test_blacklists_and_what_forbids_a_module(tmp_path: Path) -> None:
    tree.put(
        tmp_path, "etc/modprobe.d/a.conf", "blacklist snd-hda-intel\ninstall nouveau /bin/false\ninstall x /bin/echo\n"
    )
    found = modules(tmp_path, "modprobe.blacklist=i915,xe module_blacklist=amd-gpu")
    names = ("snd_hda_intel", "nouveau", "i915", "xe", "amd_gpu", "x")
    assert [name for name in names if found.blacklisted(name)] == ["snd_hda_intel", "i915", "xe", "amd_gpu"]
    assert [name for name in names if found.disabled(name)] == ["nouveau", "amd_gpu"]


def test_softdeps(tmp_path: Path) -> None:
    tree.put(tmp_path, "etc/modprobe.d/a.conf", "softdep nvidia pre: vfio-pci drm post: x\nsoftdep a post: vfio-pci\n")
    found = modules(tmp_path)
    assert found.loads_before("vfio_pci", "nvidia")
    assert not found.loads_before("x", "nvidia")
    assert not found.loads_before("vfio_pci", "a")


def test_lists_of_modules(tmp_path: Path) -> None:
    tree.put(tmp_path, "etc/modules", "vfio\n")
    tree.put(tmp_path, "etc/modules-load.d/x.conf", "vfio-pci\n")
    tree.link(tmp_path, "etc/modules-load.d/modules.conf", "etc/modules")
    tree.put(tmp_path, "etc/modules-load.d/y", "loop\n")
    tree.put(tmp_path, "etc/initramfs-tools/modules", "# none\nnvme\n")
    found = modules(tmp_path)
    assert [(one.name, one.where) for one in found.boot] == [
        ("vfio", "/etc/modules:1"),
        ("vfio-pci", "/etc/modules-load.d/x.conf:1"),
    ]
    assert found.listed("vfio_pci")
    assert found.listed("nvme")
    assert not found.listed("loop")


def test_what_the_running_kernel_has(tmp_path: Path) -> None:
    tree.put(tmp_path, "proc/sys/kernel/osrelease", f"{RELEASE}\n")
    tree.put(tmp_path, f"lib/modules/{RELEASE}/modules.dep", "kernel/a/vfio-pci.ko.zst: kernel/b.ko\nkernel/igb.ko:\n")
    tree.put(tmp_path, f"lib/modules/{RELEASE}/modules.builtin", "kernel/fs/ext4/ext4.ko\n")
    tree.put(tmp_path, f"lib/modules/{RELEASE}/kernel/igb.ko", "\0parmtype=max_vfs:uint\0")
    tree.put(tmp_path, "proc/modules", "nvme 1 2 - Live 0x0\n")
    found = modules(tmp_path)
    assert [found.available(name) for name in ("vfio_pci", "vfio-pci", "ext4", "nvme", "xe")] == [
        True,
        True,
        True,
        True,
        False,
    ]
    assert [found.is_loaded(name) for name in ("vfio_pci", "ext4", "nvme")] == [False, True, True]
    assert [found.knows(name, "max_vfs") for name in ("igb", "vfio_pci", "xe")] == [True, None, None]
    assert found.knows("igb", "debug") is False


def test_without_sources_nothing_is_known(tmp_path: Path) -> None:
    found = modules(tmp_path)
    assert (found.loaded, found.available("vfio"), found.is_loaded("vfio")) == (None, None, None)
    assert found.host.unreadable == {}


def test_kmod_reads_the_same(tmp_path: Path) -> None:
    """modprobe's own reading of a folder, as a list of commands."""
    tree.put(
        tmp_path,
        "etc/modprobe.d/a.conf",
        "# c\noptions vfio-pci ids=1:2 \\\n disable_vga=1\nblacklist snd-hda-intel\nsoftdep a pre: b-c\n"
        "Options x y=1\n\tinstall q-r /bin/false\nalias q-* r\n",
    )
    shown = subprocess.run(
        ["modprobe", "-C", str(tmp_path / "etc/modprobe.d"), "--showconfig"], capture_output=True, text=True, check=True
    )
    ours = {
        " ".join(f"{line.command} {line.module} {line.rest}".split())
        for line in modules(tmp_path).lines
        if line.command != "alias"
    }
    assert len(ours) == 4
    assert ours <= {" ".join(line.split()) for line in shown.stdout.splitlines()}


# ---- firmware


@pytest.mark.parametrize(
    "release,version",
    [("6.8.12-4-pve", (6, 8)), ("7.0-rc1", (7, 0)), ("6", None), ("x.y", None), (None, None), ("6.14.0+", (6, 14))],
)
def test_versions(release: str | None, version: tuple[int, int] | None) -> None:
    assert firmware.version(release) == version


def test_releases_are_sorted_by_number() -> None:
    releases = ["6.8.12-10-pve", "6.8.12-4-pve", "6.14.0-1-pve", "6.8.4-2-pve"]
    assert sorted(releases, key=firmware.order) == ["6.8.4-2-pve", "6.8.12-4-pve", "6.8.12-10-pve", "6.14.0-1-pve"]


@pytest.mark.parametrize(
    "interrupts,ecap,remaps",
    [
        (" 0: 1 IR-IO-APIC 2-edge timer\n", None, True),
        (" 0: 1 IO-APIC 2-edge timer\n24: 1 PCI-MSIX-0000:00:01.0 0-edge x\n", "f020df", False),
        ("NMI: 0\n", "f020d0", False),
        (None, "f020d7", False),
        (None, "f020df", None),
        (None, "junk", None),
        (None, None, None),
    ],
)
def test_interrupt_remapping(interrupts: str | None, ecap: str | None, remaps: bool | None, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter of the test
    if interrupts is not None:
        tree.put(tmp_path, "proc/interrupts", interrupts)
    if ecap is not None:
        tree.put(tmp_path, "sys/class/iommu/dmar0/intel-iommu/ecap", f"{ecap}\n")
    assert firmware.remapping(Host(str(tmp_path))) is remaps


def test_secure_boot_and_lockdown(tmp_path: Path) -> None:
    assert firmware.read(Host(str(tmp_path))) == (None, None, None, None, None, None, None)
    tree.put(tmp_path, firmware.SECURE_BOOT, b"\6\0\0\0\1")
    tree.put(tmp_path, firmware.LOCKDOWN, "none [integrity] confidentiality\n")
    found = firmware.read(Host(str(tmp_path)))
    assert (found.secure_boot, found.lockdown) == (True, "integrity")
    tree.put(tmp_path, firmware.SECURE_BOOT, b"\6\0\0\0\0")
    assert firmware.read(Host(str(tmp_path))).secure_boot is False


def test_signatures(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    tree.put(tmp_path, "a.ko", b"x" * 99 + firmware.SIGNATURE)
    tree.put(tmp_path, "b.ko", b"x")
    tree.put(tmp_path, "c.ko.zst", b"x")
    tree.folder(tmp_path, "d.ko")
    os.mkfifo(tmp_path / "e.ko")
    found = [firmware.is_signed(host, path) for path in ("/a.ko", "/b.ko", "/c.ko.zst", "/d.ko", "/e.ko", "/f.ko")]
    assert found == [True, False, None, None, None, None]


# ---- what makes VFs at boot


def test_makers_of_vfs(tmp_path: Path) -> None:
    pf = "0000:03:00.0"
    nic = {"vendor": "0x8086", "device": "0x1521", "driver": "igb", "files": {"sriov_numvfs": "0\n"}}
    tree.build(tmp_path, {"devices": {pf: nic}})
    tree.link(tmp_path, "sys/class/net/eth0/device", f"sys/bus/pci/devices/{pf}")
    tree.put(
        tmp_path, "etc/sysfs.conf", f"class/net/eth0/device/sriov_numvfs = 1\nbus/pci/devices/{pf}/sriov_numvfs=2\n"
    )
    tree.put(tmp_path, "etc/modprobe.d/a.conf", "options igb max_vfs=3,3\noptions ice max_vfs=9\n")
    tree.put(tmp_path, "etc/udev/rules.d/9.rules", 'ACTION=="add", KERNEL=="eth0", ATTR{device/sriov_numvfs}="4"\n')
    tree.put(
        tmp_path,
        "etc/systemd/system/a.service",
        "[Service]\n#ExecStart=/bin/echo 9 > sriov_numvfs\n"
        f"ExecStart=/bin/sh -c 'echo 0 > /sys/bus/pci/devices/{pf}/sriov_numvfs; "
        "echo 5 > /sys/class/net/eth0/device/sriov_numvfs'\n"
        "ExecStartPost=-/usr/local/sbin/more --all\n",
    )
    tree.put(tmp_path, "usr/local/sbin/more", "/usr/lib/nvidia/sriov-manage -e ALL\n")
    tree.link(tmp_path, "etc/systemd/system/multi-user.target.wants/pve-nvidia-sriov@ALL.service", "lib/x")
    host = Host(str(tmp_path))
    found = [tuple(maker) for maker in persistence.makers(host, Inventory(host), Modules(host))]
    assert found == [
        ("/etc/sysfs.conf:1", pf, 1),
        ("/etc/sysfs.conf:2", pf, 2),
        ("/etc/modprobe.d/a.conf:1", pf, 3),
        ("/etc/udev/rules.d/9.rules:1", None, 4),
        ("/etc/systemd/system/a.service:3", pf, 0),
        ("/etc/systemd/system/a.service:3", pf, 5),
        ("/usr/local/sbin/more:1", None, None),
        ("/etc/systemd/system/multi-user.target.wants/pve-nvidia-sriov@ALL.service", None, None),
    ]
