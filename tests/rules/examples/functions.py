# SPDX-License-Identifier: Apache-2.0
"""Examples of the rules on functions (rules/functions.py, rules/binding.py) and on versions (rules/versions.py)."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from tests import tree
from tests.rules.example import SSD, Tree

if TYPE_CHECKING:
    from collections.abc import Callable

PLAIN = "hostpci0: 02:00.0\n"
SOUND = "hostpci0: 01:00.1\n"
HERE = "sys/bus/pci/devices"


def _files(address: str, **files: str) -> dict[str, dict[str, Any]]:
    """Further files of one device."""
    return {address: {"files": files}}


def _ssd(**files: str) -> dict[str, dict[str, Any]]:
    return _files("0000:02:00.0", **files)


def _amd(**files: str) -> dict[str, dict[str, Any]]:
    """A Polaris in its own group."""
    device = {"vendor": "0x1002", "device": "0x67df", "class": "0x030000", "iommu_group": 3, "files": files}
    return {"0000:03:00.0": device}


POLARIS = "machine: q35\nhostpci0: 03:00.0,pcie=1\n"
T4 = {"0000:03:00.0": {"vendor": "0x10de", "device": "0x1eb8", "class": "0x030200", "iommu_group": 3}}
NIC = {"vendor": "0x14e4", "device": "0x16d7", "class": "0x020000", "iommu_group": 20, "driver": "bnxt_en"}
NIC_VF = {"vendor": "0x14e4", "device": "0x16dc", "class": "0x020000", "iommu_group": 21, "physfn": "0000:21:00.0"}


def _nic(**files: str) -> dict[str, dict[str, Any]]:
    """A PF with one VF, each with its group."""
    pf_files = {name.replace("__", "/"): text for name, text in files.items()}
    return {"0000:21:00.0": {**NIC, "files": pf_files}, "0000:21:00.1": {**NIC_VF, "files": {"reset_method": "flr\n"}}}


def _policy(settings: str) -> dict[str, str | bytes]:
    """A policy that says this of the NVMe."""
    return {"etc/pvepassthru.yaml": f"devices:\n  0000:02:00.0: {settings}\n"}


def _no_vfs() -> dict[str, dict[str, Any]]:
    """A PF that can have VFs and has none."""
    files = {"sriov_totalvfs": "4\n", "sriov_numvfs": "0\n", "sriov_offset": "1\n", "sriov_stride": "1\n"}
    return {"0000:21:00.0": {**NIC, "driver": "igb", "files": files}}


def _vfs(more: str) -> dict[str, str | bytes]:
    """A policy that wants two of them."""
    return {"etc/pvepassthru.yaml": f"sriov:\n  0000:21:00.0: {{vfs: 2, {more}}}\n"}


def _config(content: bytes) -> Callable[[str], object]:
    return lambda root: tree.put(root, f"{HERE}/0000:02:00.0/config", content)


def _behind_port(root: str) -> None:
    """Put the NVMe's folder below that of its port, as sysfs has it."""
    port = tree.folder(root, "sys/devices/pci0000:00/0000:00:1d.0")
    os.rename(os.path.join(root, HERE, "0000:02:00.0"), os.path.join(port, "0000:02:00.0"))
    tree.link(root, f"{HERE}/0000:02:00.0", "sys/devices/pci0000:00/0000:00:1d.0/0000:02:00.0")
    device = f"{port}/0000:02:00.0"
    for name in ("iommu_group", "driver"):
        os.unlink(f"{device}/{name}")
    tree.link(root, "sys/devices/pci0000:00/0000:00:1d.0/0000:02:00.0/iommu_group", "sys/kernel/iommu_groups/4")
    tree.link(root, "sys/devices/pci0000:00/0000:00:1d.0/0000:02:00.0/driver", "sys/bus/pci/drivers/nvme")


PORT = {
    "vendor": "0x8086",
    "device": "0xa330",
    "class": "0x060400",
    "iommu_group": 30,
    "pci_bus": True,
    "files": {"max_link_width": "4\n"},
}
LINK = {"0000:00:1d.0": PORT}
REGION = "0x00000000fee00000 0x00000000feefffff msi\n"


def _open(root: str) -> None:
    """Let a program have the sound card open."""
    tree.hold(root, 4711, "/dev/snd/pcmC1D3p")


def _sound(card: int) -> dict[str, dict[str, Any]]:
    return {"0000:01:00.1": {"driver": "snd_hda_intel", "files": {f"sound/card{card}/id": "HDMI\n"}}}


def _group(text: str) -> Callable[[str], object]:
    return lambda root: tree.put(root, "sys/kernel/iommu_groups/4/reserved_regions", text)


NEIGHBOUR = {"vendor": "0x1b21", "device": "0x2142", "class": "0x0c0330", "iommu_group": 4}


def _dpkg(state: str = "installed", **versions: str) -> dict[str, str | bytes]:
    """dpkg's status file, with other packages around."""
    text = "Package: adduser\nStatus: install ok installed\nVersion: 3.134\n\n"
    for name, version in versions.items():
        package = name.replace("_", "-")
        text += f"Package: {package}\nStatus: install ok {state}\nPriority: optional\nVersion: {version}\n\n"
    return {"var/lib/dpkg/status": text}


KEEP = "hostpci0: 02:00.0,driver=keep\n"
VFIO: dict[str, dict[str, Any]] = {"0000:02:00.0": {"driver": "nvme-vfio-pci"}}
MACHINE = "machine: pc-q35-10.1+pve1\nhostpci0: 02:00.0,pcie=1\n"
HOOK = "hookscript: local:snippets/hook.pl\n"


def _hook(mode: int, node: str = "") -> Callable[[str], object]:
    def change(root: str) -> None:
        os.chmod(tree.put(root, "var/lib/vz/snippets/hook.pl", "#!/bin/sh\n"), mode)
        if node:
            tree.folder(root, f"etc/pve/nodes/{node}")

    return change


def _chained(mode: int, vmid: int = 100) -> Callable[[str], object]:
    """A VM that has this tool's hookscript, and had another one before, which has this mode."""

    def change(root: str) -> None:
        os.chmod(tree.put(root, "var/lib/vz/snippets/pvepassthru", "#!/bin/sh\n"), 0o755)
        _hook(mode)(root)
        link = {"volume": "local:snippets/hook.pl", "path": "/var/lib/vz/snippets/hook.pl"}
        tree.put(root, "etc/pve/pvepassthru-hooks.json", json.dumps({"version": 1, "chained": {str(vmid): link}}))

    return change


OURS = "hookscript: local:snippets/pvepassthru\n"
HA: dict[str, str | bytes] = {"etc/pve/ha/resources.cfg": "vm: 100\n\tstate started\n"}
SHARED: dict[str, str | bytes] = {**HA, "etc/pve/storage.cfg": "dir: local\n\tpath /var/lib/vz\n\tshared 1\n"}

EXAMPLES: dict[str, tuple[Tree, Tree]] = {
    "PVP224": (Tree(KEEP), Tree(KEEP, VFIO)),
    "PVP226": (
        Tree("hostpci0: 21:00.1\n", _nic(net__ens1__operstate="down\n")),
        Tree("hostpci0: 21:00.1\n", _nic(net__ens1__operstate="up\n")),
    ),
    "PVP280": (
        Tree("hostpci0: 00:1f.0\n", {"0000:00:1f.0": {**NEIGHBOUR, "class": "0x060100", "iommu_group": 9}}),
        Tree("hostpci0: 00:1f.0\n", {"0000:00:1f.0": {**NEIGHBOUR, "class": "0x068000", "iommu_group": 9}}),
    ),
    "PVP281": (Tree(PLAIN, _ssd(reset_method="\n")), Tree(PLAIN, _ssd(reset_method="flr bus\n"))),
    "PVP282": (
        Tree(PLAIN, {**_ssd(reset_method="bus\n"), "0000:02:00.1": {**NEIGHBOUR, "iommu_group": 6}}),
        Tree(PLAIN, {**_ssd(reset_method="bus\n"), "0000:02:00.1": NEIGHBOUR}),
    ),
    "PVP283": (
        Tree(POLARIS, _amd()),
        Tree(POLARIS, _amd(reset_method="device_specific bus\n")),
    ),
    "PVP284": (
        Tree(POLARIS, _amd(reset_method="bus\n"), files={"sys/module/vendor_reset/refcnt": "0\n"}),
        Tree(POLARIS, _amd(reset_method="device_specific\n"), files={"sys/module/vendor_reset/refcnt": "0\n"}),
    ),
    "PVP285": (
        Tree(POLARIS, {"0000:03:00.0": {**T4["0000:03:00.0"], "files": {"reset_method": "bus\n"}}}),
        Tree(POLARIS, {"0000:03:00.0": {**T4["0000:03:00.0"], "files": {"reset_method": "flr bus\n"}}}),
    ),
    "PVP286": (
        Tree(PLAIN, change=_config(b"\xff" * 256)),
        Tree(PLAIN, change=_config(b"\x4d\x14" + b"\xff" * 62)),
    ),
    "PVP257": (
        Tree(PLAIN, _ssd(reset_method="flr bus\n"), files=_policy("{reset_method: pm flr}")),
        Tree(PLAIN, _ssd(reset_method="flr bus\n"), files=_policy("{reset_method: flr}")),
    ),
    "PVP258": (
        Tree(PLAIN, _ssd(resource0_resize="0000000000000030\n", resource=""), files=_policy("{bars: {0: 1G}}")),
        Tree(PLAIN, _ssd(resource0_resize="0000000000000030\n", resource=""), files=_policy("{bars: {0: 32M}}")),
    ),
    "PVP259": (
        Tree(KEEP, VFIO, files=_policy("{driver: no-vfio-pci}")),
        Tree(KEEP, VFIO, files=_policy("{driver: nvme-vfio-pci}")),
    ),
    "PVP299": (
        Tree(f"{HOOK}hostpci0: 21:00.1\n", _no_vfs(), files=_vfs("in_hook: true"), change=_hook(0o755)),
        Tree("hostpci0: 21:00.1\n", _nic(reset_method="flr\n"), files=_vfs("in_hook: true")),
    ),
    "PVP287": (
        Tree(PLAIN, {**LINK, **_ssd(current_link_width="1\n", max_link_width="8\n")}, change=_behind_port),
        Tree(PLAIN, {**LINK, **_ssd(current_link_width="2\n", max_link_width="8\n")}, change=_behind_port),
    ),
    "PVP288": (
        Tree(PLAIN, _ssd(resource="0x0000000000000000 0x0000000000003fff 0x0000000020140204\n")),
        Tree(PLAIN, _ssd(resource="0x0000000000000000 0x0000000000003fff 0x0000000020000101\n")),
    ),
    "PVP289": (
        Tree(PLAIN, _ssd(aer_dev_fatal="DLP 2\nTOTAL_ERR_FATAL 2\n")),
        Tree(PLAIN, _ssd(aer_dev_fatal="DLP 0\nTOTAL_ERR_FATAL 0\n")),
    ),
    "PVP291": (Tree(SOUND, _sound(1), change=_open), Tree(SOUND, _sound(11), change=_open)),
    "PVP292": (
        Tree("hostpci0: 01:00.0\n", {"0000:01:00.0": {"class": "0x030200", "driver": "amdgpu"}}),
        Tree("hostpci0: 01:00.0\n", {"0000:01:00.0": {"class": "0x030200", "driver": "vfio-pci"}}),
    ),
    "PVP294": (
        Tree(PLAIN, {"0000:05:00.0": {**NEIGHBOUR, "driver": "xhci_hcd"}}),
        Tree(PLAIN, {"0000:05:00.0": NEIGHBOUR, "0000:02:00.1": {**NEIGHBOUR, "driver": "xhci_hcd"}}),
    ),
    "PVP298": (
        Tree(PLAIN, change=lambda root: _override(root, "nvme")),
        Tree(PLAIN, change=lambda root: _override(root, "vfio-pci")),
    ),
    "PVP390": (
        Tree(KEEP, VFIO, files=_dpkg(qemu_server="9.0.24")),
        Tree(KEEP, VFIO, files=_dpkg(qemu_server="9.0.25")),
    ),
    "PVP391": (
        Tree("hostpci0: mapping=ssd\n", mapping=SSD, files=_dpkg(qemu_server="7.4-3")),
        Tree("hostpci0: mapping=ssd\n", mapping=SSD, files=_dpkg(qemu_server="8.0.6")),
    ),
    "PVP392": (
        Tree(MACHINE, files=_dpkg(pve_qemu_kvm="9.2.0-5")),
        Tree(MACHINE, files=_dpkg(pve_qemu_kvm="10.1.2-1")),
    ),
    "PVP394": (Tree(HOOK, change=_hook(0o644)), Tree(HOOK, change=_hook(0o755))),
    "PVP395": (
        Tree(HOOK, files=HA, change=_hook(0o755, "pve2")),
        Tree(HOOK, files=SHARED, change=_hook(0o755, "pve2")),
    ),
    "PVP396": (Tree(OURS, change=_chained(0o644)), Tree(OURS, change=_chained(0o755))),
}


def _override(root: str, name: str) -> None:
    tree.put(root, f"{HERE}/0000:02:00.0/driver_override", f"{name}\n")


HOST_EXAMPLES: dict[str, tuple[Tree, Tree]] = {
    "PVP227": (Tree("", _nic(sriov_numvfs="2\n")), Tree("", _nic(sriov_numvfs="1\n"))),
    "PVP393": (
        Tree(files=_dpkg("half-configured", qemu_server="9.0.25")),
        Tree(files=_dpkg(qemu_server="9.0.25", pve_manager="9.0.11")),
    ),
    "PVP417": (Tree(HOOK, change=_chained(0o755, 101)), Tree(HOOK, change=_chained(0o755))),
}
