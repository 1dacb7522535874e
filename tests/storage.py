# SPDX-License-Identifier: Apache-2.0
"""Adds block devices, network interfaces and what a host uses them for to a tree, as the kernel shows them."""

from __future__ import annotations

from tests import tree

BLOCKS = "sys/class/block"
NETS = "sys/class/net"


def block(root: str, name: str, number: str, below: str) -> None:
    """Make a block device in the sysfs folder `below`: of a PCI function, of a disk for its partition, or virtual."""
    device = f"{below.rstrip('/')}/{name}"
    tree.put(root, f"{device}/dev", f"{number}\n")
    tree.folder(root, f"{device}/holders")
    tree.folder(root, f"{device}/slaves")
    tree.link(root, f"{BLOCKS}/{name}", device)


def disk(root: str, address: str, name: str = "nvme0n1", *, major: int = 259, parts: int = 3) -> None:
    """Make a disk on a PCI function, with partitions."""
    folder = f"{tree.DEVICES}/{address}/nvme/nvme0"
    block(root, name, f"{major}:0", folder)
    for part in range(1, parts + 1):
        child = f"{name}p{part}" if name[-1].isdecimal() else f"{name}{part}"
        block(root, child, f"{major}:{part}", f"{folder}/{name}")
        tree.put(root, f"{folder}/{name}/{child}/partition", f"{part}\n")


def mapped(root: str, name: str, number: int, uuid: str, *below: str) -> None:
    """Make the device-mapper device dm-NUMBER called `name` on the block devices `below`."""
    device = f"dm-{number}"
    block(root, device, f"253:{number}", "sys/devices/virtual/block")
    tree.put(root, f"{BLOCKS}/{device}/dm/name", f"{name}\n")
    tree.put(root, f"{BLOCKS}/{device}/dm/uuid", f"{uuid}\n")
    hold(root, device, *below)


def array(root: str, name: str, number: int, state: str, *below: str) -> None:
    """Make an md array on the block devices `below`."""
    block(root, name, f"9:{number}", "sys/devices/virtual/block")
    tree.put(root, f"{BLOCKS}/{name}/md/array_state", f"{state}\n")
    hold(root, name, *below)


def hold(root: str, device: str, *below: str) -> None:
    """Let a block device hold others."""
    for other in below:
        tree.link(root, f"{BLOCKS}/{other}/holders/{device}", f"{BLOCKS}/{device}")
        tree.link(root, f"{BLOCKS}/{device}/slaves/{other}", f"{BLOCKS}/{other}")


def mount(root: str, *lines: str) -> None:
    """Let these be all mounts: `259:2 /boot ext4 /dev/nvme0n1p2` each."""
    text = ""
    for line in lines:
        number, point, kind, source = line.split(" ")
        text += f"29 1 {number} / {point} rw,relatime shared:1 - {kind} {source} rw,errors=remount-ro\n"
    tree.put(root, "proc/self/mountinfo", text)


def swap(root: str, *lines: str) -> None:
    """Let these be all swap spaces: `/dev/dm-1 partition` each."""
    rows = "".join(f"{line.replace(' ', '   ')}\t8388604\t\t0\t\t-2\n" for line in lines)
    tree.put(root, "proc/swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n" + rows)


def udev(root: str, number: str, **values: str) -> None:
    """Let udev know this of a block device: `FS_TYPE="zfs_member"`."""
    lines = "".join(f"E:ID_{key}={value}\n" for key, value in values.items())
    tree.put(root, f"run/udev/data/b{number}", f"I:1234567\nE:ID_MODEL=Disk\n{lines}G:systemd\n")


def pool(root: str, name: str, guid: str = "") -> None:
    """Let a ZFS pool be imported."""
    tree.put(root, "proc/spl/kstat/zfs/arcstats", "9 1 0x01 147 39984 1 2\n")
    tree.put(root, f"proc/spl/kstat/zfs/{name}/state", "ONLINE\n")
    if guid:
        tree.put(root, f"proc/spl/kstat/zfs/{name}/guid", f"{guid}\n")


def net(root: str, address: str, name: str) -> None:
    """Make a network interface on a PCI function."""
    tree.put(root, f"{tree.DEVICES}/{address}/net/{name}/operstate", "up\n")
    tree.link(root, f"{NETS}/{name}", f"{tree.DEVICES}/{address}/net/{name}")


def upper(root: str, name: str, *lowers: str, bridge: bool = False, master: bool = False) -> None:
    """Make a virtual interface on others: a VLAN, a bond (their `master`) or a `bridge`."""
    tree.put(root, f"sys/devices/virtual/net/{name}/operstate", "up\n")
    tree.link(root, f"{NETS}/{name}", f"sys/devices/virtual/net/{name}")
    if bridge:
        tree.folder(root, f"{NETS}/{name}/bridge")
    for lower in lowers:
        tree.link(root, f"{NETS}/{lower}/upper_{name}", f"{NETS}/{name}")
        tree.link(root, f"{NETS}/{name}/lower_{lower}", f"{NETS}/{lower}")
        if master or bridge:
            tree.link(root, f"{NETS}/{lower}/master", f"{NETS}/{name}")
        if bridge:
            tree.link(root, f"{NETS}/{lower}/brport/bridge", f"{NETS}/{name}")


def routes(root: str, *lines: str) -> None:
    """Let these be all IPv4 routes: `vmbr0 00000000 00000000` (interface, destination and mask in hex) each."""
    text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
    for line in lines:
        name, destination, mask = line.split(" ")
        text += f"{name}\t{destination}\t0101A8C0\t0003\t0\t0\t0\t{mask}\t0\t0\t0\n"
    tree.put(root, "proc/net/route", text)


def routes6(root: str, *lines: str) -> None:
    """Let these be all IPv6 routes: `vmbr0 ::hex length` as `vmbr0 00000000000000000000000000000000 00` each."""
    text = ""
    for line in lines:
        name, destination, length = line.split(" ")
        zero = "0" * 32
        text += f"{destination} {length} {zero} 00 {zero} 00000400 00000001 00000000 00000001 {name:>8}\n"
    tree.put(root, "proc/net/ipv6_route", text)


def zfs_label(name: str | None, guid: int | None) -> bytes:
    """The first of the labels that ZFS puts on a member: a name-value list in XDR form at 16 KiB.

    Made by the format's description (OpenZFS's nvpair.h, RFC 4506), with a nested list as real ones have.
    """
    tree_of_vdevs = _pair("type", 9, 1, _text("disk")) + _pair("guid", 8, 1, (5).to_bytes(8, "big")) + bytes(8)
    pairs = _pair("version", 8, 1, (5000).to_bytes(8, "big"))
    if name is not None:
        pairs += _pair("name", 9, 1, _text(name))
    pairs += _pair("state", 8, 1, (0).to_bytes(8, "big"))
    pairs += _pair("vdev_tree", 19, 1, (0).to_bytes(4, "big") + (1).to_bytes(4, "big") + tree_of_vdevs)
    if guid is not None:
        pairs += _pair("pool_guid", 8, 1, guid.to_bytes(8, "big"))
    pairs += _pair("hostname", 9, 1, _text("pve"))
    header = bytes([1, 1, 0, 0]) + (0).to_bytes(4, "big") + (1).to_bytes(4, "big")
    return bytes(16 * 1024) + (header + pairs + bytes(8)).ljust(112 * 1024, b"\0")


def _pair(name: str, kind: int, count: int, value: bytes) -> bytes:
    body = _text(name) + kind.to_bytes(4, "big") + count.to_bytes(4, "big") + value
    return (len(body) + 8).to_bytes(4, "big") + (len(body) + 16).to_bytes(4, "big") + body


def _text(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(4, "big") + data + bytes(-len(data) % 4)
