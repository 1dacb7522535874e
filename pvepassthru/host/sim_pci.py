# SPDX-License-Identifier: Apache-2.0
"""Writes about drivers, resets, removal and rescan to the PCI bus of a simulated host.

Facts: Linux drivers/base/bus.c, drivers/pci/{pci-driver,pci-sysfs,pci}.c, Documentation/ABI/testing/sysfs-bus-pci, and
the project's measurements on kernels 6.1 and 6.12 (tests/kernel).
"""

from __future__ import annotations

import errno

from pvepassthru.host import sim_bind, sim_vfio
from pvepassthru.host.inventory import DEVICES
from pvepassthru.host.sim_number import parse_integer
from pvepassthru.host.sim_tree import DRIVERS, STASH, fail
from pvepassthru.model import bars
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from pvepassthru.host.sim_tree import Entry, Tree

OVERRIDE_MAX = 4094
"""Bytes that driver_override takes: a page less the newline."""


# ---- the files of the bus and of drivers


def _named(value: str) -> str:
    return value.removesuffix("\n")


def drivers_probe(tree: Tree, value: str) -> None:
    """Write to drivers_probe: fine whether or not a driver takes the function. Raises OSError."""
    address = _named(value)
    if tree.device(address) is None:
        fail(errno.ENODEV, "/sys/bus/pci/drivers_probe")
    tree.check_unlocked(address)
    sim_bind.attach_any(tree, address)


def bind(tree: Tree, driver: str, value: str) -> None:
    """Write to a driver's `bind`. Raises OSError."""
    path, address = f"{DRIVERS}/{driver}/bind", _named(value)
    folder = tree.device(address)
    if folder is None or not sim_bind.matches(tree, address, folder, driver):
        fail(errno.ENODEV, path)
    tree.check_unlocked(address)
    if tree.driver(folder):
        fail(errno.EBUSY, path)
    refusal = sim_bind.probe(tree, address, driver)
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
    return {"kind": "unbind", "devices": [address], "detach": sim_bind.start_detach(tree, address)}


def advance_unbind(tree: Tree, entry: Entry) -> int | None:
    """Go on with an unbind: None while it blocks, then 0."""
    return 0 if sim_bind.advance_detach(tree, entry["detach"]) else None


def _parse_ids(value: str, path: str) -> tuple[int, int]:
    """The vendor and device of a new_id or remove_id line; more fields are read over."""
    fields = value.split()
    try:
        return int(fields[0], 16), int(fields[1], 16)
    except (IndexError, ValueError):
        fail(errno.EINVAL, path)


def new_id(tree: Tree, driver: str, value: str) -> None:
    """Write to a driver's new_id: from then on it matches these ids, and it takes unbound functions at once."""
    path = f"{DRIVERS}/{driver}/new_id"
    ids = _parse_ids(value, path)
    if sim_bind.has_id(tree, driver, *ids):
        fail(errno.EEXIST, path)
    tree.remember("new_id", driver, [*(tree.recall("new_id", driver) or []), list(ids)])
    for address in tree.names(DEVICES):
        folder = tree.device(address)
        if folder is None or tree.driver(folder) or sim_bind.ids_of(tree, folder) != ids:
            continue
        if sim_bind.matches(tree, address, folder, driver):
            tree.check_unlocked(address)
            sim_bind.probe(tree, address, driver)


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


def set_d3cold(tree: Tree, folder: str, value: str) -> None:
    """Write to d3cold_allowed: any number but 0 is 1. Raises OSError: EINVAL."""
    path = f"{folder}/d3cold_allowed"
    tree.file(path, "1" if _number(value, path) else "0")


def _number(value: str, path: str) -> int:
    """As parse_integer, for attributes whose code turns every mistake into EINVAL."""
    try:
        return parse_integer(value, path)
    except OSError:
        fail(errno.EINVAL, path)


def set_power(tree: Tree, function: str, value: str) -> None:
    """Write to power/control: `on` wakes the function, `auto` lets it sleep when it likes. Raises OSError: EINVAL."""
    path = f"{function}/power/control"
    word = value.removesuffix("\n")
    if word not in {"on", "auto"}:
        fail(errno.EINVAL, path)
    tree.file(path, word)
    if word == "on" and tree.text(f"{function}/power/runtime_status") == "suspended":
        tree.file(f"{function}/power/runtime_status", "active")
        tree.file(f"{function}/power_state", "D0")
        _revive(tree, function)


def _revive(tree: Tree, folder: str) -> None:
    """Let the configuration space read what the settings say it does when the function is awake."""
    config = tree.settings.config(folder.rpartition("/")[2])
    if config is not None:
        tree.file(f"{folder}/config", config.decode("utf-8", "surrogateescape"))


def resize(tree: Tree, folder: str, name: str, value: str) -> None:
    """Write to resourceN_resize: the size as a bit number, 0 is 1 MB. Raises OSError.

    The BAR stays at its address here. Source: drivers/pci/pci-sysfs.c, drivers/pci/setup-res.c.
    """
    path, address = f"{folder}/{name}", folder.rpartition("/")[2]
    bit = _number(value, path)
    tree.check_unlocked(address)
    if tree.driver(folder):
        fail(errno.EBUSY, path)
    size = bars.MEGABYTE << min(bit, 63)
    if size not in bars.sizes(tree.text(path) or ""):
        fail(errno.EINVAL, path)
    room = tree.settings.bar_room(address)
    if room is not None and size > room:
        fail(errno.ENOSPC, path)
    lines = (tree.text(f"{folder}/resource") or "").split("\n")
    bar = int(name[len("resource") : -len("_resize")])
    start, _, flags = lines[bar].split()
    lines[bar] = f"{start} 0x{int(start, 16) + size - 1:016x} {flags}"
    tree.file(f"{folder}/resource", "\n".join(lines))


# ---- removal and rescan


def vanish(tree: Tree, folder: str, value: str) -> Entry | None:
    """Begin a write to a function's `remove`; `advance_vanish` goes on. Raises OSError."""
    path = f"{folder}/remove"
    if tree.is_virtual(folder):  # VFs have no such file
        fail(errno.ENOENT, path)
    if not value or parse_integer(value, path) == 0:
        return None
    sim_bind.check_no_rescan(tree)
    below = [name for name in tree.names(DEVICES) if (tree.device(name) or "").startswith(folder + "/")]
    queue = [*sorted(below, key=lambda name: -len(tree.device(name) or "")), folder.rpartition("/")[2]]
    tree.check_unlocked(*queue)
    return {"kind": "vanish", "devices": queue, "queue": list(queue), "detach": None}


def advance_vanish(tree: Tree, entry: Entry) -> int | None:
    """Go on with a removal: None while it blocks, then 0."""
    while entry["queue"]:
        address = entry["queue"][0]
        entry["detach"] = entry["detach"] or sim_bind.start_detach(tree, address)
        if not sim_bind.advance_detach(tree, entry["detach"]):
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


def rescan(tree: Tree, value: str, path: str, below: str = "/sys/") -> None:
    """Write to `rescan`: functions that were removed below this folder come back. Raises OSError."""
    if parse_integer(value, path) == 0:
        return
    sim_bind.check_no_rescan(tree)
    back = [name for name, removed in tree.remembered("removed").items() if removed["folder"].startswith(below)]
    for address in sorted(back, key=lambda name: len(tree.recall("removed", name)["folder"])):
        removed = tree.recall("removed", address)
        folder = removed["folder"]
        revived = tree.settings.config(address)
        if revived is None and _is_dead(tree, f"{STASH}/{address}/removed"):
            continue
        tree.move(f"{STASH}/{address}/removed", folder)
        tree.know(address, folder)
        if folder != f"{DEVICES}/{address}":
            tree.connect(f"{DEVICES}/{address}", folder)
        if removed["group"] is not None:
            tree.connect(f"{sim_vfio.GROUPS}/{removed['group']}/devices/{address}", folder)
        tree.remember("removed", address, None)
        if revived is not None:
            _revive(tree, folder)
        sim_bind.attach_any(tree, address)


def _is_dead(tree: Tree, folder: str) -> bool:
    """Whether a function's configuration space reads 0xFF everywhere: the kernel finds nothing there."""
    text = tree.text(f"{folder}/config") or "?"
    return not text.encode("utf-8", "surrogateescape").strip(b"\xff")
