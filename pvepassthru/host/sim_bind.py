# SPDX-License-Identifier: Apache-2.0
"""Which driver takes a function of a simulated host, and what binding and unbinding do.

Facts: Linux drivers/base/dd.c, drivers/pci/{pci-driver,iov}.c, drivers/vfio/pci, and the project's measurements on
kernels 6.1 and 6.12 (tests/kernel).
"""

from __future__ import annotations

import errno

from pvepassthru.host import sim_display, sim_mdev, sim_vfio
from pvepassthru.host.inventory import DEVICES
from pvepassthru.host.sim_tree import DRIVERS, STASH, DeviceLockedError
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from pvepassthru.host.sim_tree import Entry, Tree

CONTROLS = ("bind", "new_id", "remove_id", "unbind")
"""The files of a driver."""
OF_DRIVER = (sim_mdev.TYPES, sim_mdev.VENDOR, "drm", "sound")
"""What a function shows only while its driver is bound."""


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
    return native(tree, address, folder) == driver or has_id(tree, driver, *ids_of(tree, folder))


def ids_of(tree: Tree, folder: str) -> tuple[int, int]:
    """A function's vendor and device."""
    return int(tree.text(f"{folder}/vendor") or "0", 16), int(tree.text(f"{folder}/device") or "0", 16)


def has_id(tree: Tree, driver: str, vendor: int, device: int) -> bool:
    """Whether a driver matches these ids, by itself or after a write to its new_id."""
    return (vendor, device) in tree.settings.ids(driver) or [vendor, device] in (tree.recall("new_id", driver) or [])


def attach_any(tree: Tree, address: str) -> None:
    """Plan what the kernel does for an unbound function: offer it to the drivers until one takes it."""
    folder = tree.device(address)
    if folder is None or tree.driver(folder):
        return
    known = [native(tree, address, folder), *tree.settings.drivers(), *tree.remembered("new_id")]
    for driver in dict.fromkeys([override(tree, folder), *known]):
        is_candidate = driver and is_loaded(tree, driver) and matches(tree, address, folder, driver)
        if driver and is_candidate and probe(tree, address, driver) == 0:
            return


# ---- binding


def probe(tree: Tree, address: str, driver: str) -> int:
    """Plan that a driver takes an unbound function that it matches; returns 0, or the errno of its refusal."""
    folder = tree.device(address)
    if folder is None or _probes_not(tree, folder):
        return errno.ENODEV
    if driver == "vfio-pci" and (refusal := _refusal_of_vfio(tree, folder)):
        return refusal
    if not tree.exists(f"{DRIVERS}/{driver}"):
        add_driver(tree, driver)
    tree.connect(f"{folder}/driver", f"{DRIVERS}/{driver}")
    tree.connect(f"{DRIVERS}/{driver}/{address}", folder)
    if driver == "vfio-pci":
        sim_vfio.add_nodes(tree, folder)
    sim_display.driver_came(tree, folder, driver)
    for name in OF_DRIVER:
        stash = f"{STASH}/{address}/{driver}/{name}"
        if name in sim_mdev.made_by(tree, folder, driver):
            sim_mdev.make(tree, folder, driver, name)
        elif tree.exists(stash):
            tree.move(stash, f"{folder}/{name}")
    if tree.exists(f"{folder}/{sim_mdev.TYPES}"):
        sim_mdev.list_parent(tree, folder)
    return 0


def _refusal_of_vfio(tree: Tree, folder: str) -> int:
    """The errno with which vfio-pci refuses a function, or 0: no bridges, nothing without IOMMU, no PFs with VFs."""
    is_bridge = (tree.text(f"{folder}/class") or "").startswith("0x0604") or tree.exists(f"{folder}/pci_bus")
    if is_bridge or sim_vfio.group(tree, folder) is None:
        return errno.EINVAL
    return errno.EBUSY if any(name.startswith("virtfn") for name in tree.names(folder)) else 0


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
    vfs = None
    if driver:
        if tree.settings.removes_vfs(driver):
            vfs = start_vf_removal(tree, folder)
        if tree.recall("native", address) is None and native(tree, address, folder) == driver:
            tree.remember("native", address, driver)
        if not tree.exists(f"{DRIVERS}/{driver}"):  # a captured tree may lack it
            add_driver(tree, driver)
        tree.remove(f"{DRIVERS}/{driver}/{address}")
        tree.remove(f"{folder}/driver")
        sim_mdev.unlist_parent(tree, folder)
        sim_display.disappear(tree, folder)
    return {"address": address, "driver": driver, "vfs": vfs}


def advance_detach(tree: Tree, detach: Entry) -> bool:
    """Go on with an unbinding; False while someone has the function, or an mdev instance of it, open."""
    address, driver = detach["address"], detach["driver"]
    folder = tree.device(address)
    if folder is None:
        return True
    if not sim_mdev.remove_all(tree, folder) or (detach["vfs"] and not advance_vf_removal(tree, detach["vfs"])):
        return False
    if driver is None:
        return True
    if ("vfio" in driver or tree.exists(f"{folder}/vfio-dev")) and sim_vfio.held(tree, folder):
        return False
    sim_vfio.remove_nodes(tree, folder)
    sim_mdev.clear_vgpu(tree, folder, driver)
    for name in OF_DRIVER:
        if tree.exists(f"{folder}/{name}"):
            stash = f"{STASH}/{address}/{driver}/{name}"
            if name in sim_mdev.made_by(tree, folder, driver) or tree.exists(stash):
                tree.remove(f"{folder}/{name}")
            else:
                tree.move(f"{folder}/{name}", stash)
    return True


# ---- removing VFs


def check_no_rescan(tree: Tree) -> None:
    """Raise DeviceLockedError while a removal of functions blocks; the kernel does one at a time."""
    if any(entry["kind"] in {"vanish", "numvfs"} or (entry.get("detach") or {}).get("vfs") for entry in tree.waiting):
        raise DeviceLockedError


def start_vf_removal(tree: Tree, folder: str) -> Entry:
    """Prepare to remove all VFs of a PF; returns what `advance_vf_removal` goes on with."""
    links = (name for name in tree.names(folder) if name.startswith("virtfn") and name[6:].isdecimal())
    names = sorted(links, key=lambda name: int(name[6:]))
    queue = [[name, tree.link(f"{folder}/{name}")] for name in names]
    if queue:
        check_no_rescan(tree)
        tree.check_unlocked(*(address for _, address in queue if address))
    return {"pf": folder, "queue": queue, "detach": None}


def advance_vf_removal(tree: Tree, removal: Entry) -> bool:
    """Go on with it, VF by VF; False while one is open: that is unlisted in its PF, the later ones are not."""
    while removal["queue"]:
        name, address = removal["queue"][0]
        folder = tree.device(address)
        if removal["detach"] is None:
            tree.remove(f"{removal['pf']}/{name}")
            tree.remove(f"{folder}/physfn")
            removal["detach"] = start_detach(tree, address)
        if not advance_detach(tree, removal["detach"]):
            return False
        if folder:
            sim_vfio.leave_group(tree, folder)
            tree.remove(f"{DEVICES}/{address}")
            tree.remove(folder)
            tree.remove(f"{STASH}/{address}")
            tree.know(address, None)
        for kind in ("native", "creatable", "reset_method"):
            if tree.recall(kind, address) is not None:
                tree.remember(kind, address, None)
        removal["queue"].pop(0)
        removal["detach"] = None
    tree.file(f"{removal['pf']}/sriov_numvfs", "0")
    return True
