# SPDX-License-Identifier: Apache-2.0
"""The hosts of the pages: the hardware that each page is about, and the VMs that are to have it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.api.fake_pve.data import Cluster, Device, Node, Token, User
from tests.docs.hosts import BUS, NODE, RESETS, Board
from tests.rules import healthy

if TYPE_CHECKING:
    from tests.docs.hosts import Boot

GPU: dict[str, dict[str, Any]] = {
    "0000:01:00.0": {
        "vendor": "0x10de",
        "device": "0x2204",
        "class": "0x030000",
        "subsystem_vendor": "0x1458",
        "subsystem_device": "0x403b",
        "iommu_group": 2,
        "driver": "nouveau",
        "reset": True,
        "files": {"reset_method": "bus\n", "boot_vga": "0\n"},
    },
    "0000:01:00.1": {
        "vendor": "0x10de",
        "device": "0x1aef",
        "class": "0x040300",
        "subsystem_vendor": "0x1458",
        "subsystem_device": "0x403b",
        "iommu_group": 2,
        "driver": "snd_hda_intel",
        "reset": True,
        "files": {"reset_method": "bus\n"},
    },
}
VM = "name: {name}\nmachine: q35\nbios: ovmf\ncores: 8\ncpu: host\nmemory: 16384\nballoon: 0\nostype: {ostype}\n"
VM += "efidisk0: local-lvm:vm-{vmid}-disk-0,efitype=4m,size=4M\nscsi0: local-lvm:vm-{vmid}-disk-1,size=64G\n"
VM += "scsihw: virtio-scsi-single\n"


def vm(vmid: int, name: str, ostype: str = "l26", more: str = "") -> str:
    """A VM's config as PVE's own dialog makes it, for a guest with UEFI."""
    return VM.format(vmid=vmid, name=name, ostype=ostype) + more


IGPU = {
    "vendor": "0x8086",
    "device": "0x4680",
    "class": "0x030000",
    "iommu_group": 0,
    "driver": "i915",
    "files": {"boot_vga": "1\n"},
}
CONSOLES: dict[str, str | bytes] = {
    "sys/class/vtconsole/vtcon0/name": "(S) dummy device\n",
    "sys/class/vtconsole/vtcon0/bind": "0\n",
    "sys/class/vtconsole/vtcon1/name": "(M) frame buffer device\n",
    "sys/class/vtconsole/vtcon1/bind": "1\n",
    f"{BUS}/0000:01:00.0/graphics/fb0/name": "nouveaudrmfb\n",
}
SRIOV = {"sriov_numvfs": "0\n", "sriov_drivers_autoprobe": "1\n"}


def _nic(function: int, group: int) -> dict[str, Any]:
    more = {"sriov_totalvfs": "64\n", "sriov_offset": "16\n", "sriov_stride": "1\n", "sriov_vf_device": "154c\n"}
    return {
        "vendor": "0x8086",
        "device": "0x1572",
        "class": "0x020000",
        "subsystem_vendor": "0x8086",
        "subsystem_device": f"0x000{7 if function == 0 else 0}",
        "iommu_group": group,
        "driver": "i40e",
        "reset": True,
        "files": {**SRIOV, **more, "reset_method": "flr bus\n", "numa_node": "0\n"},
    }


NIC_NETS: dict[str, str | bytes] = {
    f"{BUS}/0000:81:00.{n}/net/enp129s0f{n}/{name}": text
    for n in (0, 1)
    for name, text in (("address", f"3c:fd:fe:00:10:0{n}\n"), ("addr_assign_type", "0\n"), ("operstate", "up\n"))
}
HBA = {
    "vendor": "0x1000",
    "device": "0x0097",
    "class": "0x010700",
    "subsystem_vendor": "0x1000",
    "subsystem_device": "0x30e0",
    "iommu_group": 20,
    "driver": "mpt3sas",
    **RESETS,
}
HBA_DISKS: dict[str, str | bytes] = {
    f"{BUS}/0000:04:00.0/host8/target8:0:{n}/8:0:{n}:0/block/{name}/dev": f"8:{16 * n + 16}\n"
    for n, name in enumerate(("sda", "sdb"))
}
P4_TYPES = {
    "nvidia-63": ("GRID P4-1Q", 8),
    "nvidia-64": ("GRID P4-2Q", 4),
    "nvidia-65": ("GRID P4-4Q", 2),
}


def _p4(group: int) -> dict[str, Any]:
    types = {
        name: {
            "available": str(count),
            "name": title,
            "description": f"num_heads=4, frl_config=60, framebuffer={8192 // count}M, max_instance={count}\n",
        }
        for name, (title, count) in P4_TYPES.items()
    }
    return {
        "vendor": "0x10de",
        "device": "0x1bb3",
        "class": "0x030200",
        "subsystem_vendor": "0x10de",
        "subsystem_device": "0x11d8",
        "iommu_group": group,
        "driver": "nvidia",
        "mdev": {"types": types},
        "reset": True,
        "files": {"reset_method": "flr bus\n"},
    }


P4_UNITS = {"types": {name: {"units": 8 // count} for name, (_, count) in P4_TYPES.items()}, "capacity": 8}
A2_TYPES = {
    "744": {"name": "NVIDIA A2-1Q", "units": 1},
    "745": {"name": "NVIDIA A2-2Q", "units": 2},
    "746": {"name": "NVIDIA A2-4Q", "units": 4},
}
A2 = {
    "vendor": "0x10de",
    "device": "0x25b6",
    "class": "0x030200",
    "subsystem_vendor": "0x10de",
    "subsystem_device": "0x157e",
    "iommu_group": 41,
    "driver": "nvidia",
    "reset": True,
    "files": {
        **SRIOV,
        "sriov_totalvfs": "16\n",
        "sriov_offset": "4\n",
        "sriov_stride": "1\n",
        "sriov_vf_device": "25b6\n",
        "reset_method": "flr bus\n",
    },
}


def _gvt(devices: dict[str, dict[str, Any]], boot: Boot) -> dict[str, str]:
    """i915 offers types of GVT-g when it is told to, and kvmgt is loaded."""
    told = "i915.enable_gvt=1" in boot.parameters or boot.options.get("i915 enable_gvt") == "1"
    loaded = "kvmgt" in boot.modules
    if told and loaded:
        text = "low_gm_size: {}MB\nhigh_gm_size: {}MB\nfence: 4\nresolution: {}\nweight: {}\n"
        kinds = {4: (128, 512, "1920x1200", 4), 8: (64, 384, "1024x768", 2)}
        types = {
            f"i915-GVTg_V5_{number}": {"available": "1" if number == 4 else "2", "description": text.format(*values)}
            for number, values in kinds.items()
        }
        devices["0000:00:02.0"]["mdev"] = {"types": types}
    files = {"sys/module/i915/parameters/enable_gvt": "Y\n" if told else "N\n"}
    return {**files, "sys/module/kvmgt/refcnt": "0\n"} if loaded else files


GVT_PARAMETERS: dict[str, str | bytes] = {
    healthy.DEP: str(healthy.INTEL[healthy.DEP]) + "kernel/drivers/gpu/drm/i915/kvmgt.ko:\n",
}
GVT_UNITS = {"types": {"i915-GVTg_V5_4": {"units": 2}, "i915-GVTg_V5_8": {"units": 1}}, "capacity": 2}
VGPU_MAPPING = "vgpu\n\tmdev 1\n" + "".join(
    f"\tmap id=10de:1bb3,iommugroup={group},node={NODE},path=0000:{bus}:00.0,subsystem-id=10de:11d8\n"
    for bus, group in (("41", 41), ("42", 42))
)


# ---- a cluster that one sees by its API only


def _model(names: str, vendor: str, device: str, class_: str, subsystem: str) -> dict[str, Any]:
    vendor_name, device_name = names.split(": ")
    return {
        "vendor": vendor,
        "device": device,
        "class_": class_,
        "subsystem": subsystem,
        "names": {"vendor_name": vendor_name, "device_name": device_name},
    }


def _rtx(slot: str, group: int) -> tuple[Device, Device]:
    gpu = _model("NVIDIA Corporation: GA102 [GeForce RTX 3090]", "10de", "2204", "030000", "1458:403b")
    sound = _model("NVIDIA Corporation: GA102 High Definition Audio Controller", "10de", "1aef", "040300", "1458:403b")
    return Device(f"{slot}.0", group=group, **gpu), Device(f"{slot}.1", group=group, **sound)


def _x710(slot: str, group: int, vfs: int) -> list[Device]:
    pf = _model("Intel Corporation: Ethernet Controller X710", "8086", "1572", "020000", "8086:0007")
    vf = _model("Intel Corporation: Ethernet Virtual Function 700 Series", "8086", "154c", "020000", "8086:0000")
    return [
        Device(f"{slot}.0", group=group, **pf),
        *(
            Device(f"{slot[:-2]}02.{number}", group=group + 1 + number, physfn=f"{slot}.0", **vf)
            for number in range(vfs)
        ),
    ]


def cluster() -> Cluster:
    """Three nodes: two GPUs of one model on pve1 and one on pve2, VFs on all; a user and a token for automation."""
    vms = {
        100: vm(100, "render-1"),
        101: vm(101, "render-2"),
        102: vm(102, "router", more="hostpci0: 0000:03:02.0,pcie=1\n"),
    }
    roles = {
        "/": "PVEAuditor",
        "/vms": "PVEVMAdmin",
        "/mapping/pci": "PVEMappingAdmin",
        "/storage": "PVEDatastoreUser",
    }
    token = Token("0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9", separate=False)
    return Cluster(
        {
            "pve1": Node([*_rtx("0000:01:00", 2), *_rtx("0000:41:00", 41), *_x710("0000:03:00", 10, 4)], vms),
            "pve2": Node([*_rtx("0000:81:00", 81), *_x710("0000:03:00", 10, 4)], {200: vm(200, "desktop")}),
            "pve3": Node(_x710("0000:03:00", 10, 4)),
        },
        {"automation@pve": User("not used", roles, {"passthru": token})},
        name="lab",
    )


BOARDS: dict[str, Board] = {
    "cluster": Board({}, {}),
    "first": Board(
        {"0000:00:02.0": IGPU, **GPU},
        {
            100: vm(100, "workstation", "win11", "hostpci0: 0000:01:00,pcie=1,x-vga=1\nvga: none\n").replace(
                "machine: q35\n", ""
            )
        },
        files={"proc/fb": "0 i915drmfb\n"},
    ),
    "fresh": Board(
        {"0000:00:02.0": IGPU, **GPU},
        {100: vm(100, "workstation", "win11")},
        kernel="6.5.13-5-pve",
        parameters="quiet Intel_iommu=on",
        files={"proc/fb": "0 i915drmfb\n", "etc/modules": "vfio\nvfio_iommu_type1\nvfio_pci\nvfio_virqfd\n"},
    ),
    "gpu": Board(
        {"0000:00:02.0": IGPU, **GPU},
        {100: vm(100, "workstation", "win11")},
        files={"proc/fb": "0 i915drmfb\n"},
    ),
    "no-snippets": Board(
        {"0000:00:02.0": IGPU, **GPU},
        {100: vm(100, "workstation", "win11")},
        files={
            "proc/fb": "0 i915drmfb\n",
            "etc/pve/storage.cfg": "dir: local\n\tpath /var/lib/vz\n\tcontent iso,vztmpl,backup\n\n"
            "lvmthin: local-lvm\n\tthinpool data\n\tvgname pve\n\tcontent rootdir,images\n",
        },
    ),
    "gpu-only": Board(
        {**GPU, "0000:01:00.0": {**GPU["0000:01:00.0"], "files": {"reset_method": "bus\n", "boot_vga": "1\n"}}},
        {100: vm(100, "desktop", "win11")},
        files={"proc/fb": "0 nouveaudrmfb\n", **CONSOLES},
        settings={
            "devices": {"0000:01:00.0": {"driver": "nouveau"}, "0000:01:00.1": {"driver": "snd_hda_intel"}},
            "drivers": {"nouveau": {"framebuffer": True}, "snd_hda_intel": {}},
        },
    ),
    "nic": Board(
        {"0000:81:00.0": _nic(0, 81), "0000:81:00.1": _nic(1, 82)},
        {100: vm(100, "router"), 101: vm(101, "firewall")},
        files=NIC_NETS,
        settings={"devices": {f"0000:81:00.{n}": {"vf": {"driver": "iavf"}} for n in (0, 1)}, "drivers": {"iavf": {}}},
        drivers=("iavf", "i40e"),
    ),
    "hba": Board({"0000:04:00.0": HBA}, {100: vm(100, "nas")}, files=HBA_DISKS, drivers=("mpt3sas",)),
    "gvt": Board(
        {"0000:00:02.0": {**IGPU, "device": "0x1912"}},
        {100: vm(100, "desktop"), 101: vm(101, "media")},
        kernel="6.5.13-5-pve",
        files=GVT_PARAMETERS,
        at_boot=_gvt,
        settings={"devices": {"0000:00:02.0": {"mdev": GVT_UNITS}}},
    ),
    "vgpu-old": Board(
        {"0000:41:00.0": _p4(41), "0000:42:00.0": _p4(42)},
        {vmid: vm(vmid, f"cad-{vmid - 99}", "win11") for vmid in (100, 101, 102)},
        kernel="6.5.13-5-pve",
        parameters="quiet intel_iommu=on",
        mapping=VGPU_MAPPING,
        settings={"devices": {f"0000:{bus}:00.0": {"mdev": P4_UNITS} for bus in (41, 42)}},
    ),
    "vgpu-new": Board(
        {"0000:41:00.0": A2},
        {vmid: vm(vmid, f"cad-{vmid - 99}", "win11") for vmid in (100, 101)},
        drivers=("nvidia",),
        settings={
            "devices": {"0000:41:00.0": {"vf": {"driver": "nvidia"}, "vgpu": {"types": A2_TYPES, "capacity": 16}}},
            "drivers": {"nvidia": {}},
        },
    ),
}
