# SPDX-License-Identifier: Apache-2.0
"""What the host lives on is refused, on a real kernel: disks, swap, device-mapper and bridges are the kernel's own."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from tests.kernel import guest
from tests.kernel.checks import check
from tests.scenarios.forking_world import ForkingWorld, prepare_forks
from tests.scenarios.world import refused, reset_guest, said, went

if TYPE_CHECKING:
    from collections.abc import Callable

DISKS = True
SUITE_LIMIT = 900.0
TEST_LIMIT = 180.0
NVME = guest.PHYSICAL_FUNCTION
NIC = "0000:05:00.0"
MATES = ("0000:07:01.0", "0000:07:02.0", "0000:07:03.0")
"""In one IOMMU group: a device without a class, a network card, a disk."""
DRIVEN = {NVME: "nvme", NIC: "e1000e", MATES[1]: "e1000", MATES[2]: "virtio-pci"}
POINT = "/run/mounted"


def call(*words: str) -> None:
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{words}: {done.returncode}: {done.stdout}{done.stderr}")


def prepare() -> None:
    call("modprobe", "-a", "virtio_blk", "ext4", "bridge", "e1000", "dm_mod", "dummy")
    prepare_forks()
    os.makedirs(POINT, exist_ok=True)


def setup() -> None:
    """No file system, swap, mapping or bridge is left of the last test, and each disk has its driver."""
    call("sh", "-c", "swapoff -a; umount -q /run/mounted; dmsetup remove_all; ip link delete vmbr0 2>&-; true")
    reset_guest()
    for address, driver in DRIVEN.items():
        if guest.link(f"{guest.PCI}/{address}/driver") != driver:
            guest.bind(address, driver)
        guest.write(f"{guest.PCI}/{address}/driver_override", "\n")
    for address, look in ((NVME, disk), (MATES[2], disk), (NIC, net), (MATES[1], net)):
        check(f"disk or interface of {address}", has_come(look, address), expected=True)


def has_come(look: Callable[[str], str], address: str) -> bool:
    return guest.wait_for(lambda: bool(look(address)))


def disk(address: str) -> str:
    """The disk of a function, as a node in /dev; of an NVMe one it hangs on a virtual nvme-subsystem."""
    folder = f"{guest.PCI}/{address}"
    if address == NVME:
        names = [name for name in os.listdir("/sys/class/block") if name.startswith("nvme")]
    else:
        names = [
            name for entry in os.listdir(folder) if entry.startswith("virtio") for name in blocks(f"{folder}/{entry}")
        ]
    return f"/dev/{names[0]}" if names else ""


def blocks(folder: str) -> list[str]:
    path = f"{folder}/block"
    return os.listdir(path) if os.path.isdir(path) else []


def net(address: str) -> str:
    path = f"{guest.PCI}/{address}/net"
    names = os.listdir(path) if os.path.isdir(path) else []
    return names[0] if names else ""


def refused_by_both(world: ForkingWorld, code: str, selector: str, *words: str) -> None:
    """Validate finds it, and the hook refuses the start, with these words."""
    world.pve.define(100, f"hostpci0: {selector}\n")
    said(world.run("validate", "100", code=1), code, *words)
    refused(world, 100, code, *words)


def passes(world: ForkingWorld, selector: str) -> None:
    """Validate finds no use of the host's any more, and the VM starts and stops."""
    world.pve.define(100, f"hostpci0: {selector}\n")
    check("no use found", world.run("validate", "100").count("PVP24"), 0)
    went(world.pve.start(100))
    world.pve.stop(100)


def test_mounted_disk() -> None:
    world = ForkingWorld()
    call("mkfs.ext4", "-q", disk(NVME))
    call("mount", disk(NVME), POINT)
    refused_by_both(world, "PVP240", NVME, f"{disk(NVME)} is mounted on {POINT}")
    call("umount", POINT)
    passes(world, NVME)


def test_mounted_disk_in_the_group() -> None:
    world = ForkingWorld()
    call("mkfs.ext4", "-q", disk(MATES[2]))
    call("mount", disk(MATES[2]), POINT)
    group = guest.group_of(MATES[0])
    words = f"{MATES[2]} (in IOMMU group {group} with {MATES[0]}, which is passed)"
    refused_by_both(world, "PVP240", MATES[0], words, f"is mounted on {POINT}")
    call("umount", POINT)
    passes(world, MATES[0])


def test_mount_in_a_namespace_of_its_own() -> None:
    """As the disk of a container has it: the host's own list of mounts does not show it."""
    world = ForkingWorld()
    call("mkfs.ext4", "-q", disk(NVME))
    words = f"mount {disk(NVME)} {POINT} && touch {POINT}/there && exec sleep 600"
    inner = subprocess.Popen(["unshare", "-m", "sh", "-c", words])
    path = f"/proc/{inner.pid}/root{POINT}/there"
    check("mounted", guest.wait_for(lambda: os.path.exists(path)), expected=True)
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        check("not seen", POINT in file.read(), expected=False)
    refused_by_both(world, "PVP240", NVME, f"is mounted on {POINT} (in a namespace of its own")
    inner.kill()
    inner.wait()
    passes(world, NVME)


def test_swap() -> None:
    world = ForkingWorld()
    call("mkswap", disk(NVME))
    call("swapon", disk(NVME))
    refused_by_both(world, "PVP241", NVME, f"{disk(NVME)} is swap space")
    call("swapoff", disk(NVME))
    passes(world, NVME)


def test_active_volumes() -> None:
    """The kernel's side of LVM: a device-mapper device with a uuid as LVM gives it."""
    world = ForkingWorld()
    call("dmsetup", "create", "pve-data", "--uuid", "LVM-abc", "--table", f"0 2048 linear {disk(NVME)} 0")
    refused_by_both(world, "PVP242", NVME, "active logical volumes (pve-data)")
    call("mkfs.ext4", "-q", "/dev/dm-0")  # udev would make the name in /dev/mapper
    call("mount", "/dev/dm-0", POINT)
    refused_by_both(world, "PVP240", NVME, f"/dev/mapper/pve-data on {disk(NVME)} is mounted on {POINT}")
    call("umount", POINT)
    call("dmsetup", "remove", "pve-data")
    passes(world, NVME)


def test_label_on_the_disk() -> None:
    """There is no udev in the guest: a label is read off the disk. Of a physical volume it is only a warning."""
    world = ForkingWorld()
    with open(disk(NVME), "r+b") as device:
        device.seek(512)
        device.write(b"LABELONE" + bytes(16) + b"LVM2 001")
    world.pve.define(100, f"hostpci0: {NVME}\n")
    said(world.run("validate", "100"), "PVP249", f"{disk(NVME)} is an LVM physical volume")
    said(went(world.pve.start(100)), "PVP249")
    world.pve.stop(100)


def test_bridge_port() -> None:
    world = ForkingWorld()
    call("ip", "link", "add", "vmbr0", "type", "bridge")
    call("ip", "link", "set", net(NIC), "master", "vmbr0")
    refused_by_both(world, "PVP246", NIC, f"{net(NIC)} is a port of bridge vmbr0")
    call("ip", "link", "set", net(NIC), "nomaster")
    call("ip", "link", "set", net(MATES[1]), "master", "vmbr0")
    refused_by_both(world, "PVP246", MATES[0], f"{net(MATES[1])} is a port of bridge vmbr0", MATES[1])
    passes(world, NIC)


def test_default_route() -> None:
    world = ForkingWorld()
    call("ip", "link", "add", "vmbr0", "type", "bridge")
    call("ip", "link", "set", net(NIC), "master", "vmbr0", "up")
    call("ip", "address", "add", "192.0.2.2/24", "dev", "vmbr0")
    call("ip", "link", "set", "vmbr0", "up")
    call("ip", "route", "add", "default", "via", "192.0.2.1")
    refused_by_both(world, "PVP245", NIC, f"{net(NIC)} carries the default route by vmbr0")


def test_functions_in_use() -> None:
    world = ForkingWorld()
    vfs = guest.make_vfs(2, vgpu=True)
    guest.write(f"{guest.PCI}/{NVME}/driver_override", "\n")  # of which another rule has its say
    world.pve.define(100, f"hostpci0: {NVME}\n")
    said(world.run("validate", "100"), "PVP250", "2 virtual functions")
    guest.write(f"{guest.PCI}/{vfs[0]}/nvidia/current_vgpu_type", "100")
    refused_by_both(world, "PVP247", NVME, f"{vfs[0]}: has vGPU type 100")
