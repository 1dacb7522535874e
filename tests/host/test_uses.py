# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import labels, slow
from pvepassthru.host.host import Host
from pvepassthru.host.inventory import Inventory
from pvepassthru.host.uses import Uses
from tests import storage, tree

if TYPE_CHECKING:
    from pathlib import Path

NVME = "0000:02:00.0"
NIC = "0000:05:00.0"


@pytest.fixture
def root(tmp_path: Path) -> str:
    tree.hardware(tmp_path, {"devices": {NVME: {}, NIC: {}}})
    return str(tmp_path)


def uses(root: str, address: str = NVME) -> list[tuple[str, str, str]]:
    host = Host(root)
    return [(use.kind, use.name, use.detail) for use in Uses(host, Inventory(host)).of(address)]


def test_a_disk_that_nothing_uses(root: str) -> None:
    storage.disk(root, NVME)
    storage.mount(root, "0:5 /proc proc proc")
    storage.swap(root)
    assert uses(root) == []
    assert uses(root, NIC) == []


def test_mounts(root: str) -> None:
    storage.disk(root, NVME)
    storage.mount(root, "259:2 /boot/a\\040b ext4 /dev/nvme0n1p2", "259:2 /mnt ext4 /dev/nvme0n1p2")
    assert uses(root) == [
        ("mount", "nvme0n1p2", "/dev/nvme0n1p2 is mounted on /boot/a b"),
        ("mount", "nvme0n1p2", "/dev/nvme0n1p2 is mounted on /mnt"),
    ]


def test_root_and_swap_on_lvm(root: str) -> None:
    storage.disk(root, NVME)
    storage.mapped(root, "pve-root", 0, "LVM-abc", "nvme0n1p3")
    storage.mapped(root, "pve-swap", 1, "LVM-def", "nvme0n1p3")
    storage.mount(root, "253:0 / ext4 /dev/mapper/pve-root")
    storage.swap(root, "/dev/dm-1 partition", "/var/swap file")
    assert uses(root) == [
        ("lvm", "nvme0n1p3", "/dev/nvme0n1p3 carries active logical volumes (pve-root, pve-swap)"),
        ("mount", "nvme0n1p3", "/dev/mapper/pve-root on /dev/nvme0n1p3 is mounted on /"),
        ("swap", "nvme0n1p3", "/dev/mapper/pve-root on /dev/nvme0n1p3 has the swap file /var/swap"),
        ("swap", "nvme0n1p3", "/dev/mapper/pve-swap on /dev/nvme0n1p3 is swap space"),
    ]


def test_default_route_by_a_bridge_on_a_vlan_of_a_bond(root: str) -> None:
    storage.net(root, NIC, "eno1")
    storage.upper(root, "bond0", "eno1", master=True)
    storage.upper(root, "bond0.7", "bond0")
    storage.upper(root, "vmbr0", "bond0.7", bridge=True)
    storage.routes(root, "vmbr0 00000000 00000000", "vmbr0 0001A8C0 00FFFFFF")
    assert uses(root, NIC) == [
        ("bridge", "eno1", "eno1 is a port of bridge vmbr0"),
        ("route", "eno1", "eno1 carries the default route by vmbr0"),
    ]


def test_root_mounted_by_another_name(root: str) -> None:
    """The number counts, whatever the source is called: /dev/root without an initramfs, a link, a name that is gone."""
    storage.disk(root, NVME)
    for source in ("/dev/root", "/dev/disk/by-uuid/0815", "none"):
        storage.mount(root, f"259:2 / ext4 {source}")
        assert uses(root) == [("mount", "nvme0n1p2", "/dev/nvme0n1p2 is mounted on /")]


@pytest.mark.parametrize(
    "source", ["/dev/nvme0n1p3", "/dev/mapper/my--vg-lv", "/dev/my-vg/lv", "/dev/disk/by-label/data", "/dev/dm-3"]
)
def test_anonymous_numbers_go_by_the_source(root: str, source: str) -> None:
    storage.disk(root, NVME)
    storage.mapped(root, "my--vg-lv", 3, "CRYPT-x", "nvme0n1p3")
    tree.put(root, "dev/dm-3")
    tree.link(root, "dev/disk/by-label/data", "dev/dm-3")
    storage.mount(root, f"0:45 /data btrfs {source}")
    assert ("mount", "nvme0n1p3") in {use[:2] for use in uses(root)}


def test_second_device_of_a_btrfs(root: str) -> None:
    storage.disk(root, NVME)
    storage.block(root, "sda", "8:0", "sys/devices/virtual/block")
    for name in ("sda", "nvme0n1p1"):
        tree.link(root, f"sys/fs/btrfs/0815/devices/{name}", f"sys/class/block/{name}")
    tree.folder(root, "sys/fs/btrfs/features")
    storage.mount(root, "0:45 /data btrfs /dev/sda")
    assert uses(root) == [("mount", "nvme0n1p1", "/dev/nvme0n1p1 is mounted on /data")]


def test_mounts_without_mountinfo(root: str) -> None:
    storage.disk(root, NVME)
    tree.put(root, "proc/mounts", "/dev/nvme0n1p2 /boot ext4 rw 0 0\n/dev/nvme0n1p1:/dev/sdb /b bcachefs rw 0 0\n")
    assert uses(root) == [
        ("mount", "nvme0n1p1", "/dev/nvme0n1p1 is mounted on /b"),
        ("mount", "nvme0n1p2", "/dev/nvme0n1p2 is mounted on /boot"),
    ]


def test_mount_of_a_container(root: str) -> None:
    storage.disk(root, NVME)
    storage.mount(root, "0:5 /proc proc proc")
    line = "29 1 259:1 / /data rw shared:1 - ext4 /dev/nvme0n1p1 rw\n"
    for pid, namespace in (("self", "1"), ("7", "1"), ("812", "2"), ("813", "2")):
        os.makedirs(f"{root}/proc/{pid}/ns")
        os.symlink(f"mnt:[402653184{namespace}]", f"{root}/proc/{pid}/ns/mnt")
    for pid in ("812", "813"):
        tree.put(root, f"proc/{pid}/mountinfo", line)
    words = "/dev/nvme0n1p1 is mounted on /data (in a namespace of its own, as of process 812)"
    assert uses(root) == [("mount", "nvme0n1p1", words)]


def test_partition_of_an_array_with_volumes(root: str) -> None:
    storage.disk(root, NVME)
    storage.array(root, "md127", 127, "active", "nvme0n1p3")
    storage.block(root, "md127p1", "259:40", "sys/devices/virtual/block/md127")
    tree.put(root, "sys/class/block/md127p1/partition", "1\n")
    storage.mapped(root, "vg-lv", 0, "LVM-x", "md127p1")
    storage.mount(root, "253:0 /srv ext4 /dev/mapper/vg-lv")
    assert uses(root) == [
        ("lvm", "nvme0n1p3", "/dev/nvme0n1p3 carries active logical volumes (vg-lv)"),
        ("md", "nvme0n1p3", "/dev/nvme0n1p3 is a member of the md array /dev/md127, which runs"),
        ("mount", "nvme0n1p3", "/dev/mapper/vg-lv on /dev/nvme0n1p3 is mounted on /srv"),
    ]


def test_what_may_be_a_guests(root: str) -> None:
    storage.disk(root, NVME, parts=4)
    storage.array(root, "md127", 127, "inactive", "nvme0n1p1")
    storage.mapped(root, "mpatha", 0, "mpath-x", "nvme0n1p2")
    storage.udev(root, "259:3", FS_TYPE="LVM2_member")
    storage.udev(root, "259:4", FS_TYPE="linux_raid_member")
    assert uses(root) == [
        ("held", "nvme0n1p2", "/dev/nvme0n1p2 is open as /dev/mapper/mpatha"),
        ("lvm label", "nvme0n1p3", "/dev/nvme0n1p3 is an LVM physical volume without active volumes"),
        ("md label", "nvme0n1p1", "/dev/nvme0n1p1 is a member of the md array /dev/md127, which does not run"),
        ("md label", "nvme0n1p4", "/dev/nvme0n1p4 is a member of an md array that does not run"),
    ]
    host = Host(root)
    assert Uses(host, Inventory(host)).critical(NVME) == ()


ZFS = {"FS_TYPE": "zfs_member", "FS_LABEL": "rpool", "FS_UUID": "4711"}
IN_POOL = [("zfs", "nvme0n1p3", "/dev/nvme0n1p3 is part of the imported ZFS pool rpool")]


def test_zfs_by_udev(root: str) -> None:
    storage.disk(root, NVME)
    storage.udev(root, "259:3", **ZFS)
    assert uses(root) == []
    storage.pool(root, "other")
    assert uses(root) == []
    storage.pool(root, "rpool")
    assert uses(root) == IN_POOL
    storage.pool(root, "rpool", "4712")  # the host's pool has the name of the guest's
    assert uses(root) == []
    storage.pool(root, "rpool", "4711")
    assert uses(root) == IN_POOL


def test_zfs_by_the_disk_itself(root: str) -> None:
    storage.disk(root, NVME)
    storage.pool(root, "rpool")
    tree.put(root, "dev/nvme0n1p3", storage.zfs_label("rpool", 4711))
    assert uses(root) == IN_POOL
    storage.udev(root, "259:3", MODEL="x")  # udev has looked, and found no signature
    assert uses(root) == []
    storage.udev(root, "259:3", FS_AMBIVALENT="filesystem:ext4:1.0 raid:zfs_member:5000")
    assert uses(root) == IN_POOL


def test_zfs_on_dm_crypt(root: str) -> None:
    storage.disk(root, NVME)
    storage.mapped(root, "luks", 2, "CRYPT-LUKS2-x", "nvme0n1p3")
    storage.udev(root, "253:2", **ZFS)
    storage.pool(root, "rpool")
    assert uses(root) == [
        ("zfs", "nvme0n1p3", "/dev/mapper/luks on /dev/nvme0n1p3 is part of the imported ZFS pool rpool"),
    ]


def test_a_disk_that_cannot_be_read_matters_where_a_pool_is(root: str) -> None:
    storage.disk(root, NVME, parts=0)
    tree.folder(root, "dev/nvme0n1")
    assert uses(root) == []
    storage.pool(root, "rpool")
    assert uses(root) == [("doubt", "/dev/nvme0n1", "cannot read /dev/nvme0n1: Is a directory")]


def test_a_disk_that_does_not_answer(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.disk(root, NVME, parts=0)
    storage.pool(root, "rpool")
    tree.put(root, "dev/nvme0n1", "")

    def stuck(path: str, size: int) -> bytes:
        assert (path, size) == (f"{root}/dev/nvme0n1", 128 * 1024)
        time.sleep(60)
        return b""

    monkeypatch.setattr(slow, "_start_of", stuck)
    monkeypatch.setattr(labels, "LIMIT", 0.2)
    start = time.monotonic()
    assert uses(root) == [("doubt", "/dev/nvme0n1", "cannot read /dev/nvme0n1: Connection timed out")]
    assert time.monotonic() - start < 5


def test_no_medium_in_it(root: str) -> None:
    storage.disk(root, NVME, parts=0)
    storage.pool(root, "rpool")
    tree.folder(root, "dev/nvme0n1")
    tree.put(root, "sys/class/block/nvme0n1/size", "0\n")
    assert uses(root) == []


def test_namespace_of_several_controllers(root: str) -> None:
    """The kernel's own multipath hangs the disk on a virtual subsystem, whose links lead to the controllers."""
    subsystem = "sys/devices/virtual/nvme-subsystem/nvme-subsys0"
    tree.link(root, "sys/class/nvme-subsystem/nvme-subsys0", subsystem)
    storage.block(root, "nvme0n1", "259:0", subsystem)
    storage.block(root, "nvme0n1p1", "259:1", f"{subsystem}/nvme0n1")
    for address, controller in ((NVME, "nvme0"), (NIC, "nvme3")):
        tree.folder(root, f"{tree.DEVICES}/{address}/nvme/{controller}")
        tree.link(root, f"{subsystem}/{controller}", f"{tree.DEVICES}/{address}/nvme/{controller}")
    storage.mount(root, "259:1 / ext4 /dev/nvme0n1p1")
    for address in (NVME, NIC):
        assert uses(root, address) == [("mount", "nvme0n1p1", "/dev/nvme0n1p1 is mounted on /")]


def test_disks_behind_other_functions(tmp_path: Path) -> None:
    """A USB disk counts for its controller, a disk behind Intel VMD for its own function and VMD's, not for bridges."""
    top = "sys/devices/pci0000:00"
    vmd = f"{top}/0000:00:0e.0/pci10000:e0/10000:e0:1d.0/10000:e1:00.0"
    storage.block(str(tmp_path), "nvme9n1", "259:9", f"{vmd}/nvme/nvme9")
    storage.block(str(tmp_path), "sdb", "8:16", f"{top}/0000:00:1c.0/0000:03:00.0/usb1/1-1/1-1:1.0/host3/block")
    storage.mount(str(tmp_path), "259:9 /a ext4 /dev/nvme9n1", "8:16 /b ext4 /dev/sdb")
    found = {address: [use[1] for use in uses(str(tmp_path), address)] for address in ("0000:00:0e.0", "0000:03:00.0")}
    assert found == {"0000:00:0e.0": ["nvme9n1"], "0000:03:00.0": ["sdb"]}
    assert [use[1] for use in uses(str(tmp_path), "10000:e1:00.0")] == ["nvme9n1"]
    assert [uses(str(tmp_path), address) for address in ("10000:e0:1d.0", "0000:00:1c.0")] == [[], []]


def test_open_vswitch(root: str) -> None:
    """It has no link from a bridge to its ports: the default route on an interface of its own may be by any of them."""
    storage.net(root, NIC, "eno1")
    storage.upper(root, "ovs-system", "eno1", master=True)
    storage.upper(root, "vmbr0")
    storage.routes6(root, f"vmbr0 {'0' * 32} 00", f"lo {'0' * 32} 00")
    assert uses(root, NIC) == [
        ("bridge", "eno1", "eno1 is a port of Open vSwitch"),
        ("route", "eno1", "eno1 carries the default route by vmbr0"),
    ]


def test_addresses(root: str) -> None:
    storage.net(root, NIC, "eno1")
    storage.upper(root, "eno1.5", "eno1")
    link_local = "fe80" + "0" * 28
    storage.routes6(root, f"eno1 {link_local} 40", f"lo {'0' * 32} 00", f"eno1 ff{'0' * 30} 08")
    assert uses(root, NIC) == []
    storage.routes(root, "eno1.5 0001A8C0 00FFFFFF")
    assert uses(root, NIC) == [("network", "eno1", "eno1 carries an address of the host (eno1.5)")]


FILES = (
    *("proc/self/mountinfo", "proc/swaps", "proc/net/route", "proc/net/ipv6_route", "sys/class/block/nvme0n1p3/dev"),
    *("sys/class/block/dm-0/dm/name", "sys/class/block/dm-0/dm/uuid", "run/udev/data/b259:1", "dev/nvme0n1p2"),
    *("proc/spl/kstat/zfs/rpool/guid", "sys/class/block/nvme0n1p2/size"),
)


def _busy(root: str) -> None:
    """A host with everything, on one disk and one card."""
    storage.disk(root, NVME)
    storage.mapped(root, "pve-root", 0, "LVM-abc", "nvme0n1p3")
    storage.mount(root, "253:0 / ext4 /dev/mapper/pve-root")
    storage.swap(root, "/dev/dm-0 partition")
    storage.udev(root, "259:1", **ZFS)
    storage.pool(root, "rpool", "4711")
    tree.put(root, "dev/nvme0n1p2", storage.zfs_label("rpool", 4711))
    tree.put(root, "sys/class/block/nvme0n1p2/size", "2048\n")
    storage.net(root, NIC, "eno1")
    storage.upper(root, "vmbr0", "eno1", bridge=True)
    storage.routes(root, "vmbr0 00000000 00000000")
    storage.routes6(root, f"vmbr0 {'0' * 32} 00")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", ["folder", "fifo", "junk", "half", "empty", "gone"])
def test_bad_files_are_survived_and_never_free_a_host(root: str, file: str, how: str) -> None:
    """Whatever is wrong with one file, it never brings a traceback; one that cannot be read is a doubt."""
    _busy(root)
    path = f"{root}/{file}"
    with open(path, "rb") as opened:
        before = opened.read()
    os.unlink(path)
    if how == "folder":
        os.mkdir(path)
    elif how == "fifo":
        os.mkfifo(path)
    elif how != "gone":
        tree.put(
            root, file, {"junk": bytes(range(256)) * 600, "half": before[: len(before) // 2 + 3], "empty": b""}[how]
        )
    host = Host(root)
    found = {*Uses(host, Inventory(host)).critical(NVME), *Uses(host, Inventory(host)).critical(NIC)}
    assert found
    if how == "folder":
        assert ("doubt", f"/{file}") in {use[:2] for use in found}
    if how in {"junk", "half"} and file.startswith("proc/") and "spl" not in file:
        assert "doubt" in {use.kind for use in found}


def test_folder_that_cannot_be_listed(root: str) -> None:
    """Then nobody knows which disks there are: a doubt for what may have some."""
    tree.put(root, "sys/class/block", "")
    tree.put(root, "sys/class/net", "")
    tree.put(root, f"{tree.DEVICES}/{NVME}/class", "0x010802\n")
    tree.put(root, f"{tree.DEVICES}/{NIC}/class", "0x020000\n")
    host = Host(root)
    found = Uses(host, Inventory(host))
    assert (found.of(NVME), found.of(NIC)) == ((), ())  # no folder: as if absent
    host.unreadable.update({"/sys/class/block": 5, "/sys/class/net": 13})
    found = Uses(host, Inventory(host))
    assert found.of(NVME) == (("doubt", "/sys/class/block", "cannot read /sys/class/block: Input/output error"),)
    assert found.of(NIC) == (("doubt", "/sys/class/net", "cannot read /sys/class/net: Permission denied"),)
    assert found.of("0000:01:00.0") == ()


def test_order_is_the_same(root: str) -> None:
    _busy(root)
    assert uses(root) == sorted(uses(root))
    assert uses(root) == uses(root)
