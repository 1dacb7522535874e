# SPDX-License-Identifier: Apache-2.0
"""Virtual functions of a simulated host.

Facts: Linux drivers/pci/iov.c, Documentation/ABI/testing/sysfs-bus-pci, and the project's measurements on kernels 6.1
and 6.12 (tests/kernel).
"""

from __future__ import annotations

import errno

from pvepassthru.host import sim_bind, sim_vfio
from pvepassthru.host.inventory import DEVICES
from pvepassthru.host.sim_number import parse_integer, parse_switch
from pvepassthru.host.sim_tree import fail
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from pvepassthru.host.sim_tree import Entry, Tree

U16 = 1 << 16
DEFAULT_OFFSET = 16
"""Routing ids from a PF to its first VF where sysfs does not say."""
SHARED = ("class", "revision", "subsystem_vendor", "subsystem_device", "numa_node")
"""Attributes that a VF has from its PF."""
OWN = {"irq": "0", "enable": "0", "driver_override": "(null)", "reset": "", "reset_method": "flr"}


def set_numvfs(tree: Tree, folder: str, value: str) -> Entry | None:
    """Begin a write to sriov_numvfs; returns what `advance_numvfs` goes on with. Raises OSError."""
    path, address = f"{folder}/sriov_numvfs", folder.rpartition("/")[2]
    if not value:
        return None
    try:
        wanted = parse_integer(value, path)
    except OSError as error:
        fail(errno.EINVAL if error.errno == errno.ERANGE else error.errno or errno.EINVAL, path)
    if wanted >= U16:
        fail(errno.EINVAL, path)
    if wanted > int(tree.text(f"{folder}/sriov_totalvfs") or 0):
        fail(errno.ERANGE, path)
    tree.check_unlocked(address)
    present = int(tree.text(path) or 0)
    if wanted == present:
        return None
    driver = tree.driver(folder)
    if driver is None or (not tree.settings.sriov(driver) and wanted):
        fail(errno.ENOENT, path)
    if wanted == 0:
        return {"kind": "numvfs", "devices": [address], "vfs": sim_bind.start_vf_removal(tree, folder)}
    if present:
        fail(errno.EBUSY, path)
    sim_bind.check_no_rescan(tree)
    _create(tree, folder, wanted)
    return None


def set_autoprobe(tree: Tree, folder: str, value: str) -> None:
    """Write to sriov_drivers_autoprobe. Raises OSError."""
    path = f"{folder}/sriov_drivers_autoprobe"
    tree.file(path, str(int(parse_switch(value, path))))


def advance_numvfs(tree: Tree, entry: Entry) -> int | None:
    """Go on with the removal of VFs: None while one is open, then 0."""
    return 0 if sim_bind.advance_vf_removal(tree, entry["vfs"]) else None


# ---- creating


def _address(pf: str, distance: int) -> str:
    """The address that lies this many routing ids behind a PF's."""
    domain, bus, rest = pf.split(":")
    device, _, function = rest.partition(".")
    routing_id = (int(bus, 16) << 8 | int(device, 16) << 3 | int(function)) + distance
    return f"{domain}:{routing_id >> 8:02x}:{routing_id >> 3 & 31:02x}.{routing_id & 7}"


def _create(tree: Tree, folder: str, number: int) -> None:
    pf = folder.rpartition("/")[2]
    spec = tree.settings.vf(pf)
    offset = spec.offset or int(tree.text(f"{folder}/sriov_offset") or DEFAULT_OFFSET)
    stride = spec.stride or int(tree.text(f"{folder}/sriov_stride") or 1)
    addresses = [_address(pf, offset + stride * index) for index in range(number)]
    if any(tree.device(address) for address in addresses):
        fail(errno.EBUSY, f"{folder}/sriov_numvfs")
    for index, address in enumerate(addresses):
        _add(tree, folder, address, index)
        if spec.driver:
            tree.remember("native", address, spec.driver)
        tree.know(address, f"{folder.rpartition('/')[0]}/{address}")
        sim_bind.attach_any(tree, address)
    tree.file(f"{folder}/sriov_numvfs", str(number))


def _add(tree: Tree, pf_folder: str, address: str, index: int) -> None:
    parent, _, pf = pf_folder.rpartition("/")
    folder = f"{parent}/{address}"
    spec = tree.settings.vf(pf)
    device = tree.text(f"{pf_folder}/sriov_vf_device")
    device = f"0x{device.removeprefix('0x').rjust(4, '0')}" if device else tree.text(f"{pf_folder}/device")
    tree.folder(folder)
    tree.file(f"{folder}/vendor", spec.vendor or tree.text(f"{pf_folder}/vendor") or "0x0000")
    tree.file(f"{folder}/device", spec.device or device or "0x0000")
    for name in SHARED:
        text = tree.text(f"{pf_folder}/{name}")
        if text is not None:
            tree.file(f"{folder}/{name}", text)
    for name, text in {
        "irq": "0",
        "enable": "0",
        "driver_override": "(null)",
        "reset": "",
        "reset_method": "flr",
    }.items():
        tree.file(f"{folder}/{name}", text)
    if folder != f"{DEVICES}/{address}":
        tree.connect(f"{DEVICES}/{address}", folder)
    if sim_vfio.group(tree, pf_folder) is not None:
        sim_vfio.join_group(tree, folder)
    tree.connect(f"{folder}/physfn", pf_folder)
    tree.connect(f"{pf_folder}/virtfn{index}", folder)
