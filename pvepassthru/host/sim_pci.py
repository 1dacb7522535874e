# SPDX-License-Identifier: Apache-2.0
"""PCI drivers, resets, removal and rescan of a simulated host.

Facts: Linux drivers/base/{bus,dd}.c, drivers/pci/{pci-driver,pci-sysfs,pci}.c, Documentation/ABI/testing/sysfs-bus-pci,
and the project's measurements on kernels 6.1 and 6.12 (tests/kernel).
"""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING

from pvepassthru.host import sim_mdev, sim_vfio
from pvepassthru.host.inventory import DEVICES
from pvepassthru.host.sim_number import parse_integer
from pvepassthru.host.sim_tree import DRIVERS, STASH, fail

if TYPE_CHECKING:
    from pvepassthru.host.sim_tree import Entry, Tree

ID = re.compile(r"\s*(?:0[xX])?([0-9a-fA-F]+)", re.ASCII)
OVERRIDE_MAX = 4094
"""Bytes that driver_override takes: a page less the newline."""
CONTROLS = ("bind", "new_id", "remove_id", "unbind")
OF_DRIVER = ("mdev_supported_types", "nvidia")
"""What a function shows only while its driver is bound."""
RESETS = frozenset({"device_specific", "acpi", "flr", "af_flr", "pm", "bus", "cxl_bus"})
"""Names of reset methods that the kernel knows."""


# ---- which driver takes a function


def override(tree: Tree, folder: str) -> str | None:
    """A function's driver_override, or None."""
    text = tree.text(f"{folder}/driver_override")
    return None if text in {None, "", "(null)"} else text


def is_loaded(tree: Tree, driver: str) -> bool:
    """Whether a driver is there: by its folder, by the settings, or by a function that is bound to it."""
    if tree.exists(f"{DRIVERS}/{driver}") or driver in tree.settings.drivers():
        return True
    return any(tree.link(f"{DEVICES}/{address}/driver") == driver for address in tree.names(DEVICES))


def native(tree: Tree, address: str, folder: str) -> str | None:
    """The driver that takes a function by itself: by the settings, else the one it was first seen bound to."""
    remembered: str | None = tree.settings.native(address) or tree.recall("native", address)
    if remembered is None and override(tree, folder) is None and tree.driver(folder) != "vfio-pci":
        return tree.driver(folder)
    return remembered


def matches(tree: Tree, address: str, folder: str, driver: str) -> bool:
    """Whether a driver matches a function: by driver_override alone if there is one, else by ids."""
    wanted = override(tree, folder)
    if wanted is not None:
        return wanted == driver
    return native(tree, address, folder) == driver or _has_id(tree, driver, *_ids(tree, folder))


def _ids(tree: Tree, folder: str) -> tuple[int, int]:
    return tuple(int(tree.text(f"{folder}/{name}") or "0", 16) for name in ("vendor", "device"))  # type: ignore[return-value] # two names, so two numbers


def _has_id(tree: Tree, driver: str, vendor: int, device: int) -> bool:
    return (vendor, device) in tree.settings.ids(driver) or [vendor, device] in (tree.recall("new_id", driver) or [])


def attach_any(tree: Tree, address: str) -> None:
    """Plan what the kernel does for an unbound function: offer it to the drivers until one takes it."""
    folder = tree.device(address)
    if folder is None or tree.driver(folder):
        return
    known = [native(tree, address, folder), *tree.settings.drivers(), *tree.dynamic_drivers()]
    for driver in dict.fromkeys([override(tree, folder), *known]):
        if driver and is_loaded(tree, driver) and matches(tree, address, folder, driver) and not probe(tree, address, driver):
            return


# ---- binding


def probe(tree: Tree, address: str, driver: str) -> int:
    """Plan that a driver takes an unbound function that it matches; returns 0, or the errno of its refusal."""
    folder = tree.device(address)
    if folder is None or _probes_not(tree, folder):
        return errno.ENODEV
    if driver == "vfio-pci":
        is_bridge = (tree.text(f"{folder}/class") or "").startswith("0x0604") or tree.exists(f"{folder}/pci_bus")
        if is_bridge or sim_vfio.group(tree, folder) is None:
            return errno.EINVAL
        if tree.exists(f"{folder}/virtfn0"):
            return errno.EBUSY
    if not tree.exists(f"{DRIVERS}/{driver}"):
        add_driver(tree, driver)
    tree.connect(f"{folder}/driver", f"{DRIVERS}/{driver}")
    tree.connect(f"{DRIVERS}/{driver}/{address}", folder)
    if driver == "vfio-pci":
        sim_vfio.add_nodes(tree, folder)
    is_parent = sim_mdev.add_types(tree, folder, driver)
    made = sim_mdev.add_vgpu(tree, folder, driver) or is_parent
    for name in OF_DRIVER:
        stash = f"{STASH}/{address}/{driver}/{name}"
        if not made and tree.exists(stash):
            tree.move(stash, f"{folder}/{name}")
            is_parent = is_parent or name == "mdev_supported_types"
    if is_parent:
        sim_mdev.list_parent(tree, folder)
    return 0


def _probes_not(tree: Tree, folder: str) -> bool:
    """Whether this is a VF that its PF's sriov_drivers_autoprobe leaves alone; driver_override goes before that."""
    pf = tree.link(f"{folder}/physfn")
    pf_folder = tree.device(pf) if pf else None
    return (
        pf_folder is not None
        and override(tree, folder) is None
        and tree.text(f"{pf_folder}/sriov_drivers_autoprobe") == "0"
    )


def add_driver(tree: Tree, driver: str) -> None:
    """Plan a driver's folder."""
    for name in CONTROLS:
        tree.file(f"{DRIVERS}/{driver}/{name}", "")


def start_detach(tree: Tree, address: str) -> Entry:
    """Plan what unbinding shows at once; returns what `advance_detach` goes on with."""
    folder = tree.device(address) or ""
    driver = tree.driver(folder)
    if driver:
        if tree.recall("native", address) is None and native(tree, address, folder) == driver:
            tree.remember("native", address, driver)
        if not tree.exists(f"{DRIVERS}/{driver}"):  # a captured tree may lack it
            add_driver(tree, driver)
        tree.remove(f"{DRIVERS}/{driver}/{address}")
        tree.remove(f"{folder}/driver")
        sim_mdev.unlist_parent(tree, folder)
    return {"address": address, "driver": driver}


def advance_detach(tree: Tree, detach: Entry) -> bool:
    """Go on with an unbinding; False while someone has the function, or an mdev instance of it, open."""
    address, driver = detach["address"], detach["driver"]
    folder = tree.device(address)
    if driver is None or folder is None:
        return True
    is_held = sim_vfio.held(tree, folder) if "vfio" in driver or tree.exists(f"{folder}/vfio-dev") else False
    if not sim_mdev.remove_all(tree, folder) or is_held:
        return False
    sim_vfio.remove_nodes(tree, folder)
    sim_mdev.clear_vgpu(tree, folder, driver)
    for name in OF_DRIVER:
        if tree.exists(f"{folder}/{name}"):
            stash = f"{STASH}/{address}/{driver}/{name}"
            if sim_mdev.is_made_by(tree, folder, driver, name) or tree.exists(stash):
                tree.remove(f"{folder}/{name}")
            else:
                tree.move(f"{folder}/{name}", stash)
    return True


# ---- the files of the bus and of drivers


def _named(value: str) -> str:
    return value.removesuffix("\n")


def drivers_probe(tree: Tree, value: str) -> None:
    """Write to drivers_probe: fine whether or not a driver takes the function. Raises OSError."""
    address = _named(value)
    if tree.device(address) is None:
        fail(errno.ENODEV, "/sys/bus/pci/drivers_probe")
    tree.check_unlocked(address)
    attach_any(tree, address)


def bind(tree: Tree, driver: str, value: str) -> None:
    """Write to a driver's `bind`. Raises OSError."""
    path, address = f"{DRIVERS}/{driver}/bind", _named(value)
    folder = tree.device(address)
    if folder is None or not matches(tree, address, folder, driver):
        fail(errno.ENODEV, path)
    tree.check_unlocked(address)
    if tree.driver(folder):
        fail(errno.EBUSY, path)
    refusal = probe(tree, address, driver)
    if refusal:
        fail(refusal, path)


def unbind(tree: Tree, driver: str, value: str) -> Entry:
    """Begin a write to a driver's `unbind`; `advance_unbind` goes on. Raises OSError."""
    path, address = f"{DRIVERS}/{driver}/unbind", _named(value)
    folder = tree.device(address)
    if folder is None:
        fail(errno.ENODEV, path)
    tree.check_unlocked(address)
    if tree.driver(folder) != driver:
        fail(errno.ENODEV, path)
    return {"kind": "unbind", "devices": [address], "detach": start_detach(tree, address)}


def advance_unbind(tree: Tree, entry: Entry) -> int | None:
    """Go on with an unbind: None while it blocks, then 0."""
    return 0 if advance_detach(tree, entry["detach"]) else None


def _parse_ids(value: str, path: str) -> tuple[int, int]:
    """The vendor and device of a new_id or remove_id line; more fields are read over."""
    vendor = ID.match(value)
    device = ID.match(value, vendor.end()) if vendor else None
    if vendor is None or device is None or not value[vendor.end() :][:1].isspace():
        fail(errno.EINVAL, path)
    return int(vendor[1], 16), int(device[1], 16)


def new_id(tree: Tree, driver: str, value: str) -> None:
    """Write to a driver's new_id: from then on it matches these ids, and it takes unbound functions at once."""
    path = f"{DRIVERS}/{driver}/new_id"
    ids = _parse_ids(value, path)
    if _has_id(tree, driver, *ids):
        fail(errno.EEXIST, path)
    tree.remember("new_id", driver, [*(tree.recall("new_id", driver) or []), list(ids)])
    for address in tree.names(DEVICES):
        folder = tree.device(address)
        if folder and not tree.driver(folder) and _ids(tree, folder) == ids and matches(tree, address, folder, driver):
            tree.check_unlocked(address)
            probe(tree, address, driver)


def remove_id(tree: Tree, driver: str, value: str) -> None:
    """Write to a driver's remove_id; what is bound stays bound. Raises OSError."""
    path = f"{DRIVERS}/{driver}/remove_id"
    ids = list(_parse_ids(value, path))
    known = tree.recall("new_id", driver) or []
    if ids not in known:
        fail(errno.ENODEV, path)
    tree.remember("new_id", driver, [other for other in known if other != ids])


# ---- the files of a function


def set_override(tree: Tree, folder: str, value: str) -> None:
    """Write to driver_override: all up to the first newline counts, an empty one clears it. Raises OSError."""
    path = f"{folder}/driver_override"
    if len(value.encode()) > OVERRIDE_MAX:
        fail(errno.EINVAL, path)
    tree.check_unlocked(folder.rpartition("/")[2])
    tree.file(path, value.partition("\n")[0] or "(null)")


def _supported(tree: Tree, folder: str) -> list[str]:
    """The reset methods that a function has now: those first seen, without `bus` when it is not alone on its bus."""
    address = folder.rpartition("/")[2]
    first = tree.recall("reset_method", address)
    if first is None:
        first = tree.text(f"{folder}/reset_method")
        tree.remember("reset_method", address, first)
    bus = address[: address.rindex(":") + 1]
    alone = not any(name.startswith(bus) and name != address for name in tree.names(DEVICES))
    return [method for method in first.split() if method != "bus" or alone]


def reset(tree: Tree, folder: str, value: str) -> None:
    """Write to `reset`. Raises OSError: EINVAL for all but 1, ENOTTY when no method works."""
    path = f"{folder}/reset"
    if parse_integer(value, path) != 1:
        fail(errno.EINVAL, path)
    tree.check_unlocked(folder.rpartition("/")[2])
    methods = tree.text(f"{folder}/reset_method")
    if methods is not None and not set(methods.split()) & set(_supported(tree, folder)):
        fail(errno.ENOTTY, path)


def set_reset_method(tree: Tree, folder: str, value: str) -> None:
    """Write to reset_method: names in their order, `default`, or nothing for none. Raises OSError."""
    path = f"{folder}/reset_method"
    supported = _supported(tree, folder)
    methods = value.split()
    if methods == ["default"]:
        methods = supported
    if not set(methods) <= set(supported):
        fail(errno.EINVAL, path)
    tree.file(path, " ".join(methods))


# ---- removal and rescan


def vanish(tree: Tree, folder: str, value: str) -> Entry | None:
    """Begin a write to a function's `remove`; `advance_vanish` goes on. Raises OSError."""
    path = f"{folder}/remove"
    if tree.is_virtual(folder):  # VFs have no such file
        fail(errno.ENOENT, path)
    if not value or parse_integer(value, path) == 0:
        return None
    check_no_rescan(tree)
    below = [name for name in tree.names(DEVICES) if (tree.device(name) or "").startswith(folder + "/")]
    queue = [*sorted(below, key=lambda name: -len(tree.device(name) or "")), folder.rpartition("/")[2]]
    tree.check_unlocked(*queue)
    return {"kind": "vanish", "devices": queue, "queue": list(queue), "detach": None}


def advance_vanish(tree: Tree, entry: Entry) -> int | None:
    """Go on with a removal: None while it blocks, then 0."""
    while entry["queue"]:
        address = entry["queue"][0]
        entry["detach"] = entry["detach"] or start_detach(tree, address)
        if not advance_detach(tree, entry["detach"]):
            return None
        folder = tree.device(address)
        if folder is not None:
            group = sim_vfio.group(tree, folder)
            tree.remember("removed", address, {"folder": folder, "group": group})
            sim_vfio.leave_group(tree, folder)
            if folder != f"{DEVICES}/{address}":
                tree.remove(f"{DEVICES}/{address}")
            tree.file(f"{folder}/driver_override", "(null)")
            tree.move(folder, f"{STASH}/{address}/removed")
            tree.know(address, None)
        entry["queue"].pop(0)
        entry["detach"] = None
    return 0


def check_no_rescan(tree: Tree) -> None:
    """Raise DeviceLockedError while a removal or sriov_numvfs=0 blocks; the kernel does one at a time."""
    if any(entry["kind"] in {"vanish", "numvfs"} for entry in tree.waiting):
        tree.check_unlocked(*(name for entry in tree.waiting for name in entry.get("devices", ())))


def rescan(tree: Tree, value: str, path: str, below: str = "/sys/") -> None:
    """Write to `rescan`: functions that were removed below this folder come back. Raises OSError."""
    if parse_integer(value, path) == 0:
        return
    check_no_rescan(tree)
    back = [name for name, removed in tree.remembered("removed").items() if removed["folder"].startswith(below)]
    for address in sorted(back, key=lambda name: len(tree.recall("removed", name)["folder"])):
        removed = tree.recall("removed", address)
        folder = removed["folder"]
        tree.move(f"{STASH}/{address}/removed", folder)
        tree.know(address, folder)
        if folder != f"{DEVICES}/{address}":
            tree.connect(f"{DEVICES}/{address}", folder)
        if removed["group"] is not None:
            tree.connect(f"{sim_vfio.GROUPS}/{removed['group']}/devices/{address}", folder)
        tree.remember("removed", address, None)
        attach_any(tree, address)
