# SPDX-License-Identifier: Apache-2.0
"""Hosts for the tests of the report: one of every thing that it shows, one with many, and one that means harm."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from tests import tree

if TYPE_CHECKING:
    from pathlib import Path

PORT = {"vendor": "0x8086", "device": "0x460d", "class": "0x060400", "driver": "pcieport", "pci_bus": True}
GPU: dict[str, Any] = {"vendor": "0x10de", "device": "0x2204", "class": "0x030000", "driver": "nouveau", "reset": True}
AUDIO: dict[str, Any] = {"vendor": "0x10de", "device": "0x1aef", "class": "0x040300", "driver": "snd_hda_intel"}
NIC = {"vendor": "0x8086", "device": "0x1572", "class": "0x020000", "driver": "i40e"}
VF = {"vendor": "0x8086", "device": "0x154c", "class": "0x020000", "driver": "iavf"}
DISK = {"vendor": "0x144d", "device": "0xa80a", "class": "0x010802", "driver": "nvme"}
TYPES = {
    "nvidia-63": {"available": "0", "name": "GRID P4-1Q", "description": "framebuffer=1024M, max_instance=8"},
    "nvidia-64": {"available": "3", "name": "GRID P4-2Q", "description": "framebuffer=2048M, max_instance=4"},
    "nvidia-65": {"available": "0", "name": "GRID P4-4Q", "description": "framebuffer=4096M, max_instance=2"},
}
VGPU: dict[str, Any] = {"vendor": "0x10de", "device": "0x1bb3", "class": "0x030200", "driver": "nvidia"}
NAMES = """10de  NVIDIA Corporation
\t2204  GA102 [GeForce RTX 3090]
\t1bb3  GP104GL [Tesla P4]
8086  Intel Corporation
\t460d  Root Port
\t1572  Ethernet Controller X710
C 03  Display controller
\t00  VGA compatible controller
"""
MAPPING = """vgpu
\tmdev 1
\tmap id=10de:1bb3,iommugroup=30,node=pve,path=0000:41:00.0
"""


def uuid(index: int, vmid: int) -> str:
    """The UUID that PVE gives a VM's mediated device."""
    return f"{index:08d}-0000-0000-0000-{vmid:012d}"


def nest(root: str | Path, above: dict[str, str | None]) -> None:
    """Let each function lie in the folder of the bridge that it is behind, as in the kernel's sysfs."""
    devices = os.path.join(root, tree.DEVICES)

    def place(address: str) -> str:
        bridge = above[address]
        return f"{place(bridge)}/{address}" if bridge else f"{root}/sys/devices/pci{address[:7]}/{address}"

    for address in above:
        old, new = f"{devices}/{address}", place(address)
        links = [
            (here, os.path.normpath(os.path.join(here, os.readlink(f"{here}/{name}"))), name)
            for here, folders, files in os.walk(old)
            for name in (*folders, *files)
            if os.path.islink(f"{here}/{name}")
        ]
        for here, _, name in links:
            os.unlink(f"{here}/{name}")
        if os.path.isdir(new):  # made as the folder of what is behind it
            for name in os.listdir(old):
                os.rename(f"{old}/{name}", f"{new}/{name}")
            os.rmdir(old)
        else:
            os.makedirs(os.path.dirname(new), exist_ok=True)
            os.rename(old, new)
        os.symlink(os.path.relpath(new, devices), old)
        for here, target, name in links:
            at = new + here[len(old) :]
            os.symlink(os.path.relpath(target, os.path.realpath(at)), f"{at}/{name}")


def _vfs(root: str | Path, pf: str, vfs: list[str], most: int) -> None:
    for number, address in enumerate(vfs):
        tree.link(root, f"{tree.DEVICES}/{pf}/virtfn{number}", f"{tree.DEVICES}/{address}")
    tree.put(root, f"{tree.DEVICES}/{pf}/sriov_totalvfs", f"{most}\n")
    tree.put(root, f"{tree.DEVICES}/{pf}/sriov_numvfs", f"{len(vfs)}\n")


def rich(root: str | Path) -> str:
    """A host with one of everything: a shared group, one that is spread, VFs, a vGPU in use, VMs that run or not."""
    vfs = [f"0000:21:{2 + place // 8:02x}.{place % 8}" for place in range(16)]
    devices: dict[str, dict[str, Any]] = {
        "0000:00:01.0": {**PORT, "iommu_group": 1},
        "0000:00:02.0": {**PORT, "iommu_group": 2},
        "0000:00:03.0": {**PORT, "iommu_group": 3},
        "0000:00:1f.0": {"vendor": "0x8086", "device": "0x7a04", "class": "0x060100", "iommu_group": 9},
        "0000:00:1f.3": {**AUDIO, "iommu_group": 9},
        "0000:01:00.0": {**GPU, "iommu_group": 1},
        "0000:01:00.1": {**AUDIO, "iommu_group": 1},
        "0000:02:00.0": {**DISK, "iommu_group": 9},
        "0000:21:00.0": {**NIC, "iommu_group": 20},
        **{address: {**VF, "iommu_group": 40 + at, "physfn": "0000:21:00.0"} for at, address in enumerate(vfs)},
        "0000:41:00.0": {
            **VGPU,
            "iommu_group": 30,
            "mdev": {"types": TYPES, "instances": {uuid(0, 101): "nvidia-64"}},
        },
    }
    built = tree.build(
        root,
        {"devices": devices},
        configs={
            100: "name: game\nmachine: q35\nhostpci0: 01:00,pcie=1,x-vga=1\n",
            101: "name: cad\nmachine: q35\nhostpci0: mapping=vgpu,mdev=nvidia-64\n",
            102: f"name: router\nhostpci0: {vfs[3]}\nhostpci1: 0000:02:00.0\n",
            103: "name: plain\nmemory: 512\n",
            104: "name: lost\nmachine: q35\nhostpci0: 0000:99:00.0\nhostpci1: 0000:21:00.0,pcie=1\n",
        },
        mapping=MAPPING,
        reservations=f"{vfs[3]} 102 pid:4102\n",
        running={102: 4102, 101: 4101},
    )
    _vfs(built, "0000:21:00.0", vfs, 64)
    tree.put(built, "usr/share/misc/pci.ids", NAMES)
    above: dict[str, str | None] = {address: None for address in devices if address.startswith("0000:00:")}
    above |= {"0000:01:00.0": "0000:00:01.0", "0000:01:00.1": "0000:00:01.0", "0000:02:00.0": "0000:00:02.0"}
    above |= dict.fromkeys(["0000:21:00.0", *vfs], "0000:00:03.0")
    above |= {"0000:41:00.0": None}
    nest(built, above)
    return built


def many(root: str | Path, *, broken: bool = False) -> str:
    """A host of 500 functions: bridges, GPUs with their audio, NICs with 64 VFs each, mdev parents; and 300 VMs.

    `broken`: two of its mappings have run together, which is a finding for each VM and each VF.
    """
    vms = 300
    devices: dict[str, dict[str, Any]] = {}
    above: dict[str, str | None] = {}
    group = 0
    parents, gpus, virtual = [], [], []
    cards: dict[str, list[str]] = {}
    for port in range(28):
        name = f"0000:00:{port + 1:02x}.0"
        group += 1
        devices[name], above[name] = {**PORT, "iommu_group": group}, None
        bus = port + 1
        if port < 4:
            pf = f"0000:{bus:02x}:00.0"
            group += 1
            devices[pf], above[pf] = {**NIC, "iommu_group": group}, name
            cards[pf] = [f"0000:{bus:02x}:{2 + at // 8:02x}.{at % 8}" for at in range(64)]
            for address in cards[pf]:
                group += 1
                devices[address], above[address] = {**VF, "iommu_group": group, "physfn": pf}, name
            virtual += cards[pf]
        elif port < 12:
            parent = f"0000:{bus:02x}:00.0"
            group += 1
            mdev = {"types": TYPES, "instances": {uuid(0, 1000 + port): "nvidia-64"}}
            devices[parent], above[parent] = {**VGPU, "iommu_group": group, "mdev": mdev}, name
            parents.append(parent)
        else:
            for slot in range(6):
                card = f"0000:{bus:02x}:{slot:02x}"
                group += 1 if slot % 2 == 0 else 0  # two cards share a group
                for function, kind in enumerate((GPU, AUDIO)):
                    devices[f"{card}.{function}"] = {**kind, "iommu_group": group}
                    above[f"{card}.{function}"] = name
                gpus.append(card)
    for spare in range(500 - len(devices)):
        name = f"0000:80:{spare // 8:02x}.{spare % 8}"
        group += spare % 8 == 0
        devices[name], above[name] = {**AUDIO, "iommu_group": group}, None
    configs = {1000 + at: _config(at, gpus, virtual) for at in range(vms)}
    mapping = "vgpu\n\tmdev 1\n" + "".join(
        f"\tmap id=10de:1bb3,iommugroup={devices[parent]['iommu_group']},node=pve,path={parent}\n" for parent in parents
    )
    mapping += (
        ("" if broken else "\n")
        + "pool\n"
        + "".join(f"\tmap id=8086:154c,iommugroup={devices[vf]['iommu_group']},node=pve,path={vf}\n" for vf in virtual)
    )
    running = {vmid: 5000 + vmid for vmid in list(configs)[::3]}
    reservations = "".join(
        f"{virtual[at]} {1000 + at} pid:{6000 + at}\n" for at in range(0, min(vms, len(virtual)), 3) if at % 3 == 0
    )
    built = tree.build(
        root, {"devices": devices}, configs=configs, mapping=mapping, reservations=reservations, running=running
    )
    for pf, vfs in cards.items():
        _vfs(built, pf, vfs, 64)
    tree.put(built, "usr/share/misc/pci.ids", NAMES)
    nest(built, above)
    return built


def _config(at: int, gpus: list[str], virtual: list[str]) -> str:
    name = f"name: vm-{at}\n"
    if at % 6 == 5:
        return f"{name}hostpci0: mapping=pool,x-vga=1\n"
    if at % 3 == 0:
        return f"{name}hostpci0: {virtual[at % len(virtual)]}\n"
    if at % 3 == 1:
        return f"{name}machine: q35\nhostpci0: {gpus[at % len(gpus)]},pcie=1\n"
    return f"{name}hostpci0: mapping=vgpu,mdev=nvidia-64\n"


def chained(root: str | Path, count: int) -> str:
    """A host with the former hookscripts of so many VMs noted that are not there: a finding (PVP417) of each."""
    noted = {str(200 + at): {"volume": "local:snippets/other", "path": "/gone"} for at in range(count)}
    built = tree.build(root, configs={100: "hostpci0: 0000:99:00.0\n"})
    tree.put(built, "etc/pve/pvepassthru-hooks.json", json.dumps({"version": 1, "chained": noted}))
    return built


EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}{% raw %}&amp;"
MARKS = "\u202egnp.\u2066exe\x07\x1b[31m"
LONG = "w" * 10_000
SECRETS = ("hunter2hunter2", "AA:BB:CC:DD:EE:01", "SERIALNUMBER77", "ssh-ed25519AAAAC3", "203.0.113.77", "NoteToSelf99")


def hostile(root: str | Path) -> str:
    """A host whose every text is an attack, too long, or secret."""
    devices: dict[str, dict[str, Any]] = {
        "0000:01:00.0": {**GPU, "vendor": EVIL, "iommu_group": 1, "files": {"power_state": EVIL, "reset_method": EVIL}},
        "0000:01:00.1": {**AUDIO, "device": MARKS, "subsystem_vendor": LONG, "iommu_group": 1},
        "0000:02:00.0": {**DISK, "driver": "bad'\"<b>", "iommu_group": 2},
        "0000:41:00.0": {
            **VGPU,
            "iommu_group": 3,
            "mdev": {
                "types": {
                    "evil-<i>": {"available": "1", "name": EVIL, "description": MARKS},
                    "long-1": {"available": LONG, "name": LONG, "description": LONG},
                }
            },
        },
    }
    secrets = (
        f"args: -object secret,id=x,data={SECRETS[0]} -vnc {SECRETS[4]}:1,password={SECRETS[0]}\n"
        f"cipassword: {SECRETS[0]}\nsshkeys: {SECRETS[3]}\nnet0: virtio={SECRETS[1]},bridge=vmbr0\n"
        f"smbios1: serial={SECRETS[2]}\nscsi0: evil<b>:vm-102-disk-0,serial={SECRETS[2]}\n#{SECRETS[5]}\n"
    )
    built = tree.build(
        root,
        {"devices": devices},
        node=EVIL.replace("/", "") + MARKS,
        configs={
            100: f"#{EVIL}\nname: {EVIL}\nhostpci0: 01:00,romfile={EVIL}\nhostpci1: {MARKS}\nhostpci2: {LONG}\n",
            101: f"name: {LONG}\nhostpci0: mapping={EVIL}\nhostpci1: mapping={LONG}\nhostpci3: 0000:02:00.0\n",
            102: f"name: {MARKS}\nhostpci0: 0000:02:00.0,x-vga={EVIL}\n{secrets}",
            103: b"name: \xff\xfe\xc3\x28 broken\nhostpci0: \xff\n",
        },
        mapping=f"{EVIL}\n\tdescription {EVIL}{MARKS}\n\tmap id=10de:2204,node=pve,path={EVIL}\nx\n\tmap node={LONG}\n",
        reservations=f"0000:01:00.0 100 {EVIL}\n{LONG} 1 pid:2\n",
    )
    tree.put(built, "usr/share/misc/pci.ids", f"10de  {EVIL}\n\t1bb3  {LONG}\n144d  {MARKS}\n")
    tree.put(built, "proc/sys/kernel/osrelease", f"6.8<b>{MARKS}\n")
    tree.put(built, "proc/cmdline", f"root=/dev/x vfio-pci.ids={EVIL} password={SECRETS[0]}\n")
    tree.put(built, "etc/modprobe.d/evil.conf", f"options vfio-pci {EVIL}\nblacklist {LONG}\n")
    tree.put(built, "var/lib/dpkg/status", f"Package: pve-manager\nStatus: install ok installed\nVersion: {EVIL}\n\n")
    tree.put(built, "run/pvepassthru/100.journal", f"{EVIL}\n")
    return built
