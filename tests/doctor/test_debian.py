# SPDX-License-Identifier: Apache-2.0
"""`doctor --fix --yes` and `--undo` on Debian 12 and 13 with their own GRUB, initramfs-tools and kmod, and the boot."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests import tree as trees
from tests.doctor import debian
from tests.kernel import suites, testbed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WISHES = ("--for", "0000:01:00.0", "--unsafe-interrupts")
OVERRIDDEN, TWIN, BY_ID = "0000:01:00.0", "0000:02:00.0", "0000:03:00.0"

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def tree(request: pytest.FixtureRequest) -> Iterator[debian.Tree]:
    """A tree of each release; the older kernel where this machine's archive has it and it belongs to the release."""
    kernel = testbed.kernels()[0] if testbed.kernels() and request.param == "bookworm" else "6.12"
    suites.available(kernel)
    reason = debian.missing()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    where: Path = testbed.BUILD / "debian" / f"test.{os.getpid()}.{request.param}"  # links do not leave a file system
    try:
        yield debian.make(request.param, kernel, where)
    finally:
        debian.remove(where)


def test_fix_boot_and_undo(tree: debian.Tree) -> None:
    old = tree.version.startswith("6.1.")
    if not old:  # from 6.8 on nothing has to be added, so that a correction is what is made
        path = tree.root / "etc/default/grub"
        path.write_text(path.read_text(encoding="utf-8").replace('"quiet"', '"quiet Intel_iommu=on"'), encoding="utf-8")
        tree.chroot("update-grub")
        assert "Intel_iommu=on" in tree.linux_arguments()
    before = tree.etc()
    arguments = tree.linux_arguments()
    assert "intel_iommu=on" not in arguments

    said = tree.doctor("--fix", *WISHES, "--yes")
    assert "ran: update-initramfs -u -k all" in said
    assert "ran: update-grub" in said
    assert "a reboot is due" in said
    tree.doctor("--fix", "--for", BY_ID, "--yes")
    assert "nothing to do" in tree.doctor("--fix", *WISHES, "--yes")

    config = tree.chroot("modprobe", "--showconfig")
    assert "options vfio_iommu_type1 allow_unsafe_interrupts=1" in config
    assert "options vfio_pci ids=1b36:0010" in config
    assert "softdep nvme pre: vfio-pci" in config
    assert tree.linux_arguments() == (
        f"{arguments} intel_iommu=on" if old else arguments.replace("Intel_iommu=on", "intel_iommu=on")
    )
    files = tree.initramfs()
    assert "etc/modprobe.d/pvepassthru.conf" in files
    assert any("/vfio-pci.ko" in name for name in files), "a softdep brings vfio-pci with the driver"
    order = tree.order()
    assert order.index("pvepassthru") < order.index("udev")

    seen = tree.boot()
    assert f" {tree.linux_arguments()} ".startswith(f" {seen['cmdline'].partition(' console=')[0]} ")
    assert (seen[OVERRIDDEN], seen[TWIN], seen[BY_ID]) == ("vfio-pci", "e1000e", "vfio-pci")

    tree.doctor("--undo")
    tree.doctor("--undo")
    assert tree.etc() == before
    assert tree.linux_arguments() == arguments
    assert not [name for name in tree.initramfs() if "pvepassthru" in name]


def test_systemd_boot_by_a_recorder_for_proxmox_boot_tool(tree: debian.Tree) -> None:
    """Debian has no proxmox-boot-tool: a script stands in for it that records how it is called."""
    if not tree.version.startswith("6.1."):
        line = "root=ZFS=rpool/ROOT/pve-1 boot=zfs Intel_iommu=on\n"
    else:
        line = "root=ZFS=rpool/ROOT/pve-1 boot=zfs\n"
    trees.put(tree.root, "etc/kernel/proxmox-boot-uuids", "AAAA-BBBB\n")
    trees.put(tree.root, "etc/kernel/cmdline", line)
    info = "sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
    trees.put(tree.root, info, b"\x06\0\0\0" + "systemd-boot 252\0".encode("utf-16-le"))
    os.chmod(trees.put(tree.root, "usr/sbin/proxmox-boot-tool", debian.RECORDER), 0o755)
    before = tree.etc()
    said = tree.doctor("--fix", "--yes")
    assert "ran: proxmox-boot-tool refresh" in said
    assert (tree.root / "etc/kernel/cmdline").read_text(encoding="utf-8") == (
        "root=ZFS=rpool/ROOT/pve-1 boot=zfs intel_iommu=on\n"
    )
    tree.doctor("--undo")
    assert tree.etc() == before
    recorded = (tree.root / "var/log/recorded").read_text(encoding="utf-8")
    assert recorded.splitlines() == ["/usr/sbin/proxmox-boot-tool refresh"] * 2
