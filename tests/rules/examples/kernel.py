# SPDX-License-Identifier: Apache-2.0
"""Examples of the rules on firmware, command line, initramfs, interrupts, groups, GPUs and PVE's services."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from tests import tree
from tests.rules import healthy
from tests.rules.example import Tree
from tests.rules.healthy import INTEL, MODPROBE, RELEASE, booted, host, without

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD = host()
NEWER = "6.8.12-10-pve"
OLD = {**INTEL, "proc/sys/kernel/osrelease": "6.5.13-6-pve\n"}
OLD = {path.replace(RELEASE, "6.5.13-6-pve"): text for path, text in OLD.items()}
DKMS = f"lib/modules/{RELEASE}/updates/dkms/vendor-reset.ko"
SIGNED = "code~Module signature appended~\n"
LOCKED = {"sys/kernel/security/lockdown": "none [integrity] confidentiality\n"}
RMRR = {"sys/kernel/iommu_groups/4/reserved_regions": "0x00000000bf000000 0x00000000bf7fffff direct\n"}
RELAXED = {"sys/kernel/iommu_groups/4/reserved_regions": "0x00000000bf000000 0x00000000bf7fffff direct-relaxable\n"}
BOOTFB = "e0000000-efffffff : PCI Bus 0000:01\n  e0000000-efffffff : 0000:01:00.0\n    e0000000-e07e8fff : BOOTFB\n"
UNREMAPPED = {"proc/interrupts": healthy.INTERRUPTS.replace("IR-", "")}
VM = "hostpci0: 02:00.0\n"
HOOKED = "hookscript: local:snippets/pvepassthru\nmemory: 512\n"
UNSAFE = "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"
IDLE_VF = {"vendor": "0x8086", "device": "0x1520", "class": "0x020000", "physfn": "0000:03:00.0"}
PF = {"vendor": "0x8086", "device": "0x1521", "class": "0x020000", "iommu_group": 30, "driver": "igb"}


def _vfs(*groups: int) -> dict[str, dict[str, Any]]:
    vfs = {f"0000:03:10.{n}": {**IDLE_VF, "iommu_group": group} for n, group in enumerate(groups)}
    return {"0000:03:00.0": PF, **vfs}


def _folder(path: str) -> Callable[[str], object]:
    return lambda root: tree.folder(root, path)


def _as_folder(path: str) -> Callable[[str], object]:
    def change(root: str) -> None:
        os.unlink(os.path.join(root, path))
        tree.folder(root, path)

    return change


def _new_initramfs(root: str) -> None:
    image = os.path.join(root, f"boot/initrd.img-{RELEASE}")
    os.utime(image, (time.time() + 900, time.time() + 900))


def _dkms(*kernels: str) -> dict[str, str | bytes]:
    return {f"var/lib/dkms/vendor-reset/0.1/{kernel}/x86_64/log/make.log": "" for kernel in kernels}


SOURCE = healthy.link("var/lib/dkms/vendor-reset/0.1/source", "usr/src/vendor-reset-0.1")
EMPTY_PVE = "etc/pve"


def _no_pmxcfs(root: str) -> None:
    os.rename(os.path.join(root, EMPTY_PVE), os.path.join(root, "gone"))
    tree.folder(root, EMPTY_PVE)


HOST_EXAMPLES: dict[str, tuple[Tree, Tree]] = {
    "PVP101": (host(iommu=False, base=without(INTEL, "sys/class/iommu")), GOOD),
    "PVP103": (host(change=_folder("run/qemu-server/pci-id-reservations")), host(reservations="")),
    "PVP104": (host(change=_as_folder("etc/modules")), GOOD),
    "PVP105": (
        host({"etc/pvepassthru.yaml": "gate: off\n"}),
        host({"etc/pvepassthru.yaml": "defaults: {gate: warn}\n"}),
    ),
    "PVP253": (
        host({"etc/pvepassthru.yaml": "devices: {0000:02:00.0: {ids: 10de:2204}}\n"}),
        host({"etc/pvepassthru.yaml": "devices: {0000:0e:00.0: {ids: 10de:2204}}\n"}),
    ),
    "PVP106": (host(change=_no_pmxcfs), GOOD),
    "PVP107": (
        host(reservations="0000:02:00.0 100 pid:42\n"),
        host(reservations="0000:02:00.0 100 pid:42\n", running={100: 42}),
    ),
    "PVP180": (
        host(config=HOOKED),
        host({"etc/systemd/system/timers.target.wants/pvepassthru-recover.timer": ""}, config=HOOKED),
    ),
    "PVP110": (host({"proc/cpuinfo": healthy.cpu("GenuineIntel", "ept")}), GOOD),
    "PVP111": (host(base={**without(INTEL, "sys/class/misc"), "sys/class/misc/rfkill/dev": ""}), GOOD),
    "PVP112": (host(iommu=False, base=without(INTEL, "sys/class/iommu", "sys/firmware/acpi/tables/DMAR")), GOOD),
    "PVP113": (host({**LOCKED, DKMS: "code"}), host({**LOCKED, DKMS: SIGNED})),
    "PVP114": (
        host(booted("quiet"), iommu=False, base=without(OLD, "sys/class/iommu")),
        host(booted("quiet intel_iommu=on"), base=OLD),
    ),
    "PVP115": (
        host(booted("intel_iommu=on,off"), iommu=False, base=without(OLD, "sys/class/iommu")),
        host(booted("intel_iommu=off intel_iommu=on")),
    ),
    "PVP116": (
        host(booted("amd_iommu=on"), base=healthy.AMD),
        host(booted("amd_iommu=force_isolation iommu=pt"), base=healthy.AMD),
    ),
    "PVP117": (host(booted("Intel_iommu=on I915.enable_gvt=1")), host(booted("intel_iommu=on BOOT_Option=Y"))),
    "PVP118": (host(booted("intel_iomu=on")), host(booted("intel_idle.max_cstate=1 i915.enable_guc=3 intel-iommu=on"))),
    "PVP119": (host(booted("quiet", "quiet intel_iommu=on")), host(booted("intel_iommu=on"))),
    "PVP120": (
        host({**booted("quiet"), "etc/kernel/cmdline": f"{healthy.ROOT} intel_iommu=on\n"}),
        host({**booted("intel_iommu=on"), "etc/kernel/cmdline": f"{healthy.ROOT} intel_iommu=on\n"}),
    ),
    "PVP121": (host(booted("pcie_acs_override=downstream,multifunction")), GOOD),
    "PVP122": (
        host({**booted("video=efifb:off"), "proc/fb": "0 simpledrmdrmfb\n"}),
        host({**booted("video=efifb:off"), "proc/fb": "0 EFI VGA\n"}),
    ),
    "PVP411": (
        host(change=_folder("etc/pve/mapping/pci.cfg")),
        host(mapping="ssd\n\tmap id=144d:a80a,iommugroup=4,node=pve,path=0000:02:00.0\n"),
    ),
    "PVP142": (host(base=without(INTEL, f"boot/initrd.img-{RELEASE}")), GOOD),
    "PVP143": (
        host({MODPROBE: "blacklist snd_emu10k1\n"}, newer=[MODPROBE]),
        host({MODPROBE: "blacklist snd_emu10k1\n"}, newer=[MODPROBE], change=_new_initramfs),
    ),
    "PVP144": (
        host(
            {"lib/modules/6.8.12-8-pve/modules.dep": "", "etc/modules": "", "sys/module/vfio/refcnt": ""},
            base=without(INTEL, f"lib/modules/{RELEASE}"),
        ),
        GOOD,
    ),
    "PVP145": (
        host(_dkms("6.8.4-2-pve"), change=SOURCE),
        host(_dkms(RELEASE), change=SOURCE),
    ),
    "PVP146": (
        host({f"boot/vmlinuz-{NEWER}": ""}),
        host({f"boot/vmlinuz-{NEWER}": "", "etc/kernel/proxmox-boot-pin": f"{RELEASE}\n"}),
    ),
    "PVP147": (host(UNREMAPPED), GOOD),
    "PVP148": (host({UNSAFE: "Y\n"}), GOOD),
    "PVP149": (
        host(devices={"0000:02:00.0": {"iommu_group": 2}}),
        host(devices={"0000:00:01.0": {"iommu_group": 4}}),
    ),
    "PVP150": (host(devices=_vfs(31, 31)), host(devices=_vfs(31, 32))),
    "PVP151": (host(RMRR, config=VM), host(RELAXED, config=VM)),
    "PVP152": (host(RMRR), host(RELAXED)),
    "PVP154": (
        host(
            config="".join(f"hostpci{n}: {a}\n" for n, a in enumerate(("00:02.0", "01:00", "41:00.0", "a1:00.0"))),
            devices={"0000:01:00.0": {"files": {"boot_vga": "1\n"}}},
        ),
        host(config="hostpci0: 01:00\n", devices={"0000:01:00.0": {"files": {"boot_vga": "1\n"}}}),
    ),
    "PVP155": (
        host({"sys/module/nouveau/refcnt": "0", "sys/module/nvidia/refcnt": "0"}),
        host({"sys/module/nvidia/refcnt": "0"}),
    ),
}
EXAMPLES: dict[str, tuple[Tree, Tree]] = {
    "PVP147": (
        Tree(VM, files={"proc/cpuinfo": healthy.cpu("GenuineIntel", "vmx"), **UNREMAPPED}),
        Tree(VM, files={"proc/cpuinfo": healthy.cpu("GenuineIntel", "vmx"), **UNREMAPPED, UNSAFE: "Y\n"}),
    ),
    "PVP151": (
        Tree(VM, files={"proc/cpuinfo": healthy.cpu("GenuineIntel", "vmx"), **RMRR}),
        Tree(VM, files={"proc/cpuinfo": healthy.cpu("GenuineIntel", "vmx"), **RELAXED}),
    ),
}
