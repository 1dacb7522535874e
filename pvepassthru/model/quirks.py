# SPDX-License-Identifier: Apache-2.0
"""Devices of which a fault is known, by vendor and device id as sysfs has them without 0x.

Sources: the device table of the module vendor-reset; Linux drivers/pci/quirks.c.
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
