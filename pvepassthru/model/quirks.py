# SPDX-License-Identifier: Apache-2.0
"""Devices of which a fault is known, by vendor and device id as sysfs has them without 0x.

Sources: the device table of the module vendor-reset (device-db.h); Linux drivers/pci/quirks.c; reports in the forums of
Proxmox and Level1Techs and in the trackers of the kernel and of ROCm, of devices that read 0xFF after a reset.
"""

from __future__ import annotations

_AMD_FAMILIES = {
    "Polaris 10": "67c0 67c1 67c2 67c4 67c7 67c8 67c9 67ca 67cc 67cf 67d0 67df 6fdf",
    "Polaris 11": "67e0 67e1 67e3 67e7 67e8 67e9 67eb 67ef 67ff",
    "Polaris 12": "6980 6981 6985 6986 6987 6995 6997 699f",
    "Vega 10": "6860 6861 6862 6863 6864 6867 6868 6869 686a 686b 686c 686d 686e 686f 687f",
    "Vega 20": "66a0 66a1 66a2 66a3 66a4 66a7 66af",
    "Arcturus": "738c",
    "Navi 10": "7310 7312 7318 7319 731a 731b 731e 731f",
    "Navi 14": "7340 7341 7347 734f",
    "Navi 12": "7360 7362",
}
_VENDOR_RESET = {f"1002:{word}": family for family, words in _AMD_FAMILIES.items() for word in words.split()}
_LOST = {
    "1002:7550": "RX 9070",
    "1002:7590": "Navi 44",
    "1002:15bf": "the GPU of Phoenix",
    "1002:164e": "the GPU of Raphael",
    "10de:2c05": "RTX 5070 Ti",
    "1002:740f": "Instinct 740f",
    "1002:75a3": "MI355X",
}
"""What people reported to fall off the bus for good."""
_NO_FLR = frozenset({"1022:149c", "8086:1502", "8086:1503"})


def vendor_reset(device_id: str) -> str | None:
    """The family of an AMD GPU that the host cannot reset without the module vendor-reset, or None."""
    return _VENDOR_RESET.get(device_id)


def hangs_on(device_id: str) -> str | None:
    """The reset method (as in `reset_method`) that hangs this device, or None; newer kernels leave it out."""
    vendor, _, device = device_id.partition(":")
    if (
        vendor == "10de"
        and len(device) == 4
        and ((device[:2] == "23" and device[2:3] in set("4567")) or device == "1eb8")
    ):
        return "bus"
    return "flr" if device_id in _NO_FLR else None


def lost_until_reboot(device_id: str) -> str | None:
    """The name of a device that was reported to stay off the bus, once it fell off, until the host reboots; or None."""
    return _LOST.get(device_id)


def reset_methods(device_id: str, offered: tuple[str, ...]) -> tuple[str, ...]:
    """The reset methods that suit a device best, of those that the kernel offers, which may be all.

    The vendor's own goes before all others where the module vendor-reset brings it; what hangs the device is left out.
    """
    if vendor_reset(device_id) and "device_specific" in offered:
        return ("device_specific",)
    return tuple([method for method in offered if method != hangs_on(device_id)])
