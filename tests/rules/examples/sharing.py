# SPDX-License-Identifier: Apache-2.0
"""Examples of the rules on SR-IOV and mediated devices."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from tests.rules.healthy import MODPROBE, RELEASE, booted, host, link

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.rules.example import Tree

GOOD = host()
SYSFS = "etc/sysfs.d/vfs.conf"
PF = "0000:03:00.0"
LINE = f"bus/pci/devices/{PF}/sriov_numvfs"
UNIT = "etc/systemd/system/vfs.service"
POLICY = "etc/pvepassthru.yaml"
WANTS = "etc/systemd/system/multi-user.target.wants"
OURS = "pvepassthru-sriov.service"
UUID = "00000000-0000-0000-0000-000000000100"
ITS_OWN = "3deab9a4-200a-4c54-99b1-5eb0722d1d81"
TYPES = {"nvidia-63": {"available": "2", "name": "GRID P4-1Q"}}
GVT_VM = "hostpci0: 00:02.0,mdev=i915-GVTg_V5_4\n"
VGPU_VM = "hostpci0: 41:00.0,mdev=nvidia-63\n"
KABY_LAKE = {"0000:00:02.0": {"device": "0x5912"}}
ENABLED = "sys/module/i915/parameters/enable_gvt"
KVMGT = {"sys/module/kvmgt/refcnt": "0\n"}
NO_VGPU = {
    "0000:41:00.0": {"mdev": {"types": {}}, "driver": "nvidia"},
}
MANAGER = "usr/lib/systemd/system/nvidia-vgpu-mgr.service"
NVIDIA = {"sys/module/nvidia/refcnt": "0\n"}
MODULE = f"lib/modules/{RELEASE}/kernel/drivers/net/ethernet/intel/igb/igb.ko"


def pf(present: int, total: int = 7) -> dict[str, dict[str, Any]]:
    """An I350 with virtual functions in groups of their own."""
    nic = {"vendor": "0x8086", "device": "0x1521", "class": "0x020000", "iommu_group": 30, "driver": "igb"}
    files = {"sriov_numvfs": f"{present}\n", "sriov_totalvfs": f"{total}\n"}
    vf = {"vendor": "0x8086", "device": "0x1520", "class": "0x020000", "physfn": PF}
    vfs = {f"0000:03:10.{n}": {**vf, "iommu_group": 31 + n} for n in range(present)}
    return {PF: {**nic, "files": files}, **vfs}


def sysfs(count: object) -> dict[str, str | bytes]:
    return {SYSFS: f"# virtual functions\n{LINE} = {count}\n"}


def policy(count: int) -> str:
    return f"sriov:\n  {PF}:\n    vfs: {count}\n"


def instance(uuid: str) -> dict[str, dict[str, Any]]:
    return {"0000:41:00.0": {"mdev": {"types": TYPES, "instances": {uuid: "nvidia-63"}}}}


def _no_types(address: str) -> Callable[[str], object]:
    """Take the mediated device types of a function away: its driver offers none."""
    return lambda root: shutil.rmtree(f"{root}/sys/bus/pci/devices/{address}/mdev_supported_types")


SERVICE = "[Service]\nExecStart=/usr/local/bin/vfs.sh\n"
SCRIPT = f"#!/bin/sh\necho 0 > /sys/{LINE}; echo 2 > /sys/{LINE}\n"

HOST_EXAMPLES: dict[str, tuple[Tree, Tree]] = {
    "PVP156": (
        host(devices=pf(2)),
        host({UNIT: SERVICE, "usr/local/bin/vfs.sh": SCRIPT}, devices=pf(2)),
    ),
    "PVP157": (
        host({**sysfs(2), MODPROBE: "options igb max_vfs=4\n"}, devices=pf(2)),
        host({**sysfs(2), MODPROBE: "options igb max_vfs=2\n"}, devices=pf(2)),
    ),
    "PVP158": (host(sysfs(4), devices=pf(2)), host(sysfs(2), devices=pf(2))),
    "PVP159": (
        host({MODPROBE: "options igb max_vfs=2\n", MODULE: "ELF\0parmtype=debug:int\0"}, devices=pf(2)),
        host({MODPROBE: "options igb max_vfs=2\n", MODULE: "ELF\0parmtype=max_vfs:uint\0"}, devices=pf(2)),
    ),
    "PVP160": (host(sysfs(8), devices=pf(2)), host(sysfs(2), devices=pf(2))),
    "PVP161": (
        host({SYSFS: f"/sys/{LINE} = 2\n"}, devices=pf(2)),
        host({SYSFS: f"{LINE} = 2 # two\n"}, devices=pf(2)),
    ),
    "PVP174": (
        host({POLICY: policy(2)}, devices=pf(2)),
        host({POLICY: policy(2)}, devices=pf(2), change=link(f"{WANTS}/{OURS}", f"usr/lib/systemd/system/{OURS}")),
    ),
    "PVP175": (
        host({POLICY: policy(4), **sysfs(2)}, devices=pf(2)),
        host({POLICY: policy(2), **sysfs(2)}, devices=pf(2)),
    ),
    "PVP162": (
        host({ENABLED: "N\n", **KVMGT}, config=GVT_VM, devices=KABY_LAKE),
        host({ENABLED: "Y\n", **KVMGT}, config=GVT_VM, devices=KABY_LAKE),
    ),
    "PVP163": (
        host({ENABLED: "Y\n"}, config=GVT_VM, devices=KABY_LAKE),
        host({ENABLED: "Y\n", **KVMGT}, config=GVT_VM, devices=KABY_LAKE),
    ),
    "PVP164": (
        host({**booted("i915.enable_gvt=1"), ENABLED: "Y\n"}),
        host({**booted("i915.enable_gvt=1"), ENABLED: "Y\n", **KVMGT}, devices=KABY_LAKE),
    ),
    "PVP165": (
        host(
            NVIDIA,
            config=VGPU_VM,
            devices={"0000:a1:00.0": {"driver": "vfio-pci"}, "0000:41:00.0": {"class": "0x030200"}},
            change=_no_types("0000:41:00.0"),
        ),
        host(NVIDIA, config=VGPU_VM),
    ),
    "PVP166": (
        host({**NVIDIA, MANAGER: "[Unit]\n"}, config=VGPU_VM),
        host(
            {**NVIDIA, MANAGER: "[Unit]\n"},
            config=VGPU_VM,
            change=link("etc/systemd/system/multi-user.target.wants/nvidia-vgpu-mgr.service", MANAGER),
        ),
    ),
    "PVP167": (
        host(
            NVIDIA,
            config="hostpci0: a1:00.4,mdev=nvidia-35\n",
            devices={"0000:a1:00.0": {"files": {"sriov_numvfs": "0\n", "sriov_totalvfs": "16\n"}}},
        ),
        host(NVIDIA, config=VGPU_VM),
    ),
    "PVP168": (host(devices=instance(UUID)), host(devices=instance(UUID), running={100: 42})),
    "PVP169": (host(devices=instance(ITS_OWN)), host(devices=instance(UUID), running={100: 42})),
}
