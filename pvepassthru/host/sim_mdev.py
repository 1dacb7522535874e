# SPDX-License-Identifier: Apache-2.0
"""Mediated devices and vendor vGPU types of a simulated host.

Facts: Linux drivers/vfio/mdev, Documentation/ABI/testing/sysfs-bus-vfio-mdev, and the project's measurements on kernels
6.1 and 6.12 (tests/kernel).
"""

from __future__ import annotations

import errno
import time

from pvepassthru.host import sim_vfio
from pvepassthru.host.inventory import MDEVS
from pvepassthru.host.sim_number import parse_decimal, parse_integer
from pvepassthru.host.sim_tree import fail
from pvepassthru.model.pci import is_uuid
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from pvepassthru.host.sim_settings import MdevSpec, VgpuSpec
    from pvepassthru.host.sim_tree import Entry, Tree

TYPES = "mdev_supported_types"
VENDOR = "nvidia"
"""The folder of the vendor vGPU interface."""
PARENTS = "/sys/class/mdev_bus"
GONE_AT_ONCE = ("driver", "mdev_type", "power", "remove", "subsystem", "uevent")
"""What an instance loses as soon as its removal starts; iommu_group and vfio-dev stay until nobody has it open."""


# ---- parents


def refresh(tree: Tree, folder: str) -> None:
    """Plan that a function shows what new settings make of it: its types, their room, and its vendor vGPU types."""
    driver = tree.driver(folder)
    for name in made_by(tree, folder, driver or ""):
        if not tree.exists(f"{folder}/{name}"):
            make(tree, folder, driver or "", name)
    if tree.exists(f"{folder}/{TYPES}"):
        list_parent(tree, folder)
    spec = _spec(tree, folder)
    if spec.capacity is not None or spec.core_count:
        _count_all(tree, folder, spec)
    vgpu = tree.settings.vgpu(_physical(tree, folder), driver)
    if vgpu and tree.exists(f"{folder}/{VENDOR}/current_vgpu_type"):
        _offer(tree, folder, vgpu)


def made_by(tree: Tree, folder: str, driver: str) -> list[str]:
    """The folders that binding a driver to a function makes by the settings: TYPES, VENDOR, both or none."""
    makes_types = bool(tree.settings.mdev(_name(folder), driver).names)
    spec = tree.settings.vgpu(_physical(tree, folder), driver)
    makes_vendor = spec is not None and bool(spec.names) and not tree.exists(f"{folder}/sriov_totalvfs")
    return [TYPES] * makes_types + [VENDOR] * makes_vendor


def make(tree: Tree, folder: str, driver: str, name: str) -> None:
    """Plan one of the folders of `made_by`."""
    if name == TYPES:
        _add_types(tree, folder, tree.settings.mdev(_name(folder), driver))
    elif spec := tree.settings.vgpu(_physical(tree, folder), driver):
        tree.file(f"{folder}/{VENDOR}/current_vgpu_type", "0")
        _offer(tree, folder, spec)


def _add_types(tree: Tree, parent: str, spec: MdevSpec) -> None:
    for type_id, name in spec.names.items():
        folder = f"{parent}/{TYPES}/{type_id}"
        tree.folder(f"{folder}/devices")
        tree.file(f"{folder}/name", name)
        tree.file(f"{folder}/device_api", "vfio-pci")
        tree.file(f"{folder}/create", "")
        tree.file(f"{folder}/available_instances", "0")
    if spec.capacity is not None or spec.core_count:
        _count_all(tree, parent, spec)


def list_parent(tree: Tree, parent: str) -> None:
    """Plan that a device with types is listed as an mdev parent."""
    tree.connect(f"{PARENTS}/{_name(parent)}", parent)


def unlist_parent(tree: Tree, parent: str) -> None:
    """Plan that a device is not listed as an mdev parent any more."""
    tree.remove(f"{PARENTS}/{_name(parent)}")


def remove_all(tree: Tree, parent: str) -> bool:
    """Plan that all instances of a parent go with its driver; False while one is open or a create still runs."""
    busy = {entry["uuid"] for entry in tree.waiting if entry.get("parent") == parent}
    for uuid in tree.instances(parent):
        if uuid not in busy:
            tree.waiting.append(start_remove(tree, f"{parent}/{uuid}"))
    for entry in [entry for entry in tree.waiting if entry["kind"] == "remove" and entry["parent"] == parent]:
        if advance_remove(tree, entry) is not None:
            tree.waiting.remove(entry)
    return not any(entry.get("parent") == parent for entry in tree.waiting)


# ---- create


def create(tree: Tree, parent: str, type_id: str, value: str) -> Entry | None:
    """Begin a create; returns the entry that `advance_create` goes on with. Raises OSError."""
    path = f"{parent}/{TYPES}/{type_id}/create"
    if not value:
        return None
    if len(value.encode()) not in {36, 37} or not is_uuid(value[:36]):
        fail(errno.EINVAL, path)
    uuid = value[:36].lower()
    if any(entry["kind"] in {"unbind", "vanish"} and _name(parent) in entry["devices"] for entry in tree.waiting):
        fail(errno.ENODEV, path)
    if tree.exists(f"{MDEVS}/{uuid}") or any(entry.get("uuid") == uuid for entry in tree.waiting):
        fail(errno.EEXIST, path)
    spec = _spec(tree, parent)
    if spec.core_count and len(tree.instances(parent)) >= spec.core_count:
        fail(errno.EUSERS, path)
    folder = f"{parent}/{uuid}"
    tree.folder(folder)
    tree.file(f"{folder}/remove", "")
    tree.file(f"{folder}/uevent", "")
    tree.connect(f"{folder}/subsystem", "/sys/bus/mdev")
    tree.connect(f"{MDEVS}/{uuid}", folder)
    return {"kind": "create", "uuid": uuid, "parent": parent, "type": type_id, "until": _after(spec)}


def advance_create(tree: Tree, entry: Entry) -> int | None:
    """Go on with a create: None while it still runs, then 0 or its errno."""
    if time.time_ns() < entry["until"]:
        return None
    parent, uuid, type_id = entry["parent"], entry["uuid"], entry["type"]
    folder = f"{parent}/{uuid}"
    spec = _spec(tree, parent)
    if not spec.core_count and _room(tree, parent, spec, type_id) == 0:
        _drop(tree, folder)
        return spec.full_errno
    sim_vfio.join_group(tree, folder)
    sim_vfio.add_nodes(tree, folder)
    tree.connect(f"{parent}/{TYPES}/{type_id}/devices/{uuid}", folder)
    tree.connect(f"{folder}/mdev_type", f"{parent}/{TYPES}/{type_id}")
    _count(tree, entry)
    return 0


# ---- remove


def remove(tree: Tree, folder: str, value: str) -> Entry | None:
    """Begin a remove; returns the entry that `advance_remove` goes on with. Raises OSError."""
    path = f"{folder}/remove"
    if not tree.exists(path):
        fail(errno.ENOENT, path)
    if not value or parse_integer(value, path) == 0:
        return None
    tree.remove(path)
    if not tree.exists(f"{folder}/mdev_type"):  # still being created; the file stays away for good
        return {"kind": "refused", "errno": errno.EAGAIN}
    return start_remove(tree, folder)


def start_remove(tree: Tree, folder: str) -> Entry:
    """Plan what an instance loses at once; returns the entry that `advance_remove` goes on with."""
    parent, _, uuid = folder.rpartition("/")
    type_id = tree.link(f"{folder}/mdev_type")
    tree.remove(f"{MDEVS}/{uuid}")
    tree.remove(f"{parent}/{TYPES}/{type_id}/devices/{uuid}")
    for name in GONE_AT_ONCE:
        tree.remove(f"{folder}/{name}")
    until = _after(_spec(tree, parent))
    return {"kind": "remove", "uuid": uuid, "parent": parent, "type": type_id, "until": until}


def advance_remove(tree: Tree, entry: Entry) -> int | None:
    """Go on with a remove: None while the instance is open or the driver takes its time, then 0."""
    folder = f"{entry['parent']}/{entry['uuid']}"
    if time.time_ns() < entry["until"] or sim_vfio.held(tree, folder):
        return None
    sim_vfio.remove_nodes(tree, folder)
    sim_vfio.leave_group(tree, folder)
    _drop(tree, folder)
    if entry["type"] is not None:
        _count(tree, entry)
    return 0


def _after(spec: MdevSpec) -> int:
    """When the driver will be done, in nanoseconds since the epoch."""
    return time.time_ns() + int(spec.delay * 1e9)


def _drop(tree: Tree, folder: str) -> None:
    tree.remove(f"{MDEVS}/{_name(folder)}")
    tree.remove(folder)


# ---- capacity


def _name(folder: str) -> str:
    return folder.rpartition("/")[2]


def _spec(tree: Tree, parent: str) -> MdevSpec:
    name = _name(parent)
    detaching = (entry.get("detach") or {} for entry in tree.waiting)
    was = next((detach["driver"] for detach in detaching if detach.get("address") == name), None)
    return tree.settings.mdev(name, tree.driver(parent) or was)


def _room(tree: Tree, parent: str, spec: MdevSpec, type_id: str) -> int | None:
    """How many more instances of a type there is room for, or None where nothing counts them."""
    uuids = tree.instances(parent)
    if spec.core_count:
        return max(0, spec.core_count - len(uuids))
    if spec.capacity is None:
        text = tree.text(f"{parent}/{TYPES}/{type_id}/available_instances")
        return int(text) if text and text.isdecimal() else None
    removing = {entry["uuid"]: entry["type"] for entry in tree.waiting if entry["kind"] == "remove"}
    types = [tree.link(f"{parent}/{uuid}/mdev_type") or removing.get(uuid) for uuid in uuids]
    used = [found for found in types if found is not None]  # what is still being created takes no room yet
    if spec.exclusive and any(found != type_id for found in used):
        return 0
    left = spec.capacity - sum(spec.units.get(found, 1) for found in used)
    return max(0, left) // spec.units.get(type_id, 1)


def _count(tree: Tree, entry: Entry) -> None:
    """Plan the available_instances files after the instance of a create came or that of a remove went."""
    parent, type_id = entry["parent"], entry["type"]
    spec = _spec(tree, parent)
    if spec.capacity is None and not spec.core_count:
        left = _room(tree, parent, spec, type_id)
        if left is not None:
            left += 1 if entry["kind"] == "remove" else -1
            tree.file(f"{parent}/{TYPES}/{type_id}/available_instances", str(left))
    else:
        _count_all(tree, parent, spec)


def _count_all(tree: Tree, parent: str, spec: MdevSpec) -> None:
    for type_id in tree.names(f"{parent}/{TYPES}"):
        path = f"{parent}/{TYPES}/{type_id}"
        tree.file(f"{path}/available_instances", str(_room(tree, parent, spec, type_id)))
        if spec.capacity is not None and type_id in spec.names:
            units = spec.units[type_id]
            tree.file(f"{path}/description", f"units={units}, max_instance={spec.capacity // units}")


# ---- NVIDIA's vendor vGPU interface


def set_vgpu(tree: Tree, folder: str, value: str) -> None:
    """Set or clear the vGPU type of a function. Raises OSError."""
    path = f"{folder}/{VENDOR}/current_vgpu_type"
    if not tree.exists(path):
        fail(errno.ENOENT, path)
    if not value:
        return
    wanted = str(parse_decimal(value, path))
    current = tree.text(path) or "0"
    spec = tree.settings.vgpu(_physical(tree, folder), tree.driver(folder))
    if wanted != "0":
        if wanted not in (spec.names if spec else _own_types(tree, folder)):
            fail(errno.EINVAL, path)
        if current != "0":
            fail(errno.EBUSY, path)
        if spec and spec.units[wanted] > _left(tree, folder, spec):
            fail(spec.full_errno, path)
    elif sim_vfio.held(tree, folder):
        fail(errno.EBUSY, path)
    tree.file(path, wanted)
    if spec:
        for sibling in _siblings(tree, folder):
            _offer(tree, sibling, spec)
    else:
        _offer_own(tree, folder, wanted)


def clear_vgpu(tree: Tree, folder: str, driver: str) -> None:
    """Plan that a function whose driver goes has no vGPU type any more."""
    if (tree.text(f"{folder}/{VENDOR}/current_vgpu_type") or "0") != "0":
        tree.file(f"{folder}/{VENDOR}/current_vgpu_type", "0")
        spec = tree.settings.vgpu(_physical(tree, folder), driver)
        if spec is None:
            _offer_own(tree, folder, "0")
        for sibling in _siblings(tree, folder):
            if spec and sibling != folder:
                _offer(tree, sibling, spec)


def _physical(tree: Tree, folder: str) -> str:
    """The address of a function's PF, or its own."""
    return tree.link(f"{folder}/physfn") or _name(folder)


def _siblings(tree: Tree, folder: str) -> list[str]:
    """All functions with the vendor interface that share the PF of `folder`, itself included."""
    pf = tree.device(_physical(tree, folder))
    links = [name for name in tree.names(pf or folder) if name.startswith("virtfn")]
    found = {tree.device(tree.link(f"{pf}/{name}") or "") for name in links} | {folder}
    return sorted(other for other in found if other and tree.exists(f"{other}/{VENDOR}/current_vgpu_type"))


def _left(tree: Tree, folder: str, spec: VgpuSpec) -> int:
    types = (tree.text(f"{other}/{VENDOR}/current_vgpu_type") or "0" for other in _siblings(tree, folder))
    return spec.capacity - sum(spec.units.get(found, 1) for found in types if found != "0")


def _offer(tree: Tree, folder: str, spec: VgpuSpec) -> None:
    """Plan creatable_vgpu_types: what there is room for, and nothing where a type is set."""
    is_set = (tree.text(f"{folder}/{VENDOR}/current_vgpu_type") or "0") != "0"
    left = 0 if is_set else _left(tree, folder, spec)
    lines = ["ID    : vGPU Name"] if spec.header else []
    lines += [f"{type_id:<6}: {name}" for type_id, name in spec.names.items() if spec.units[type_id] <= left]
    tree.file(f"{folder}/{VENDOR}/creatable_vgpu_types", "\n".join(lines))


def _own_types(tree: Tree, folder: str) -> list[str]:
    """The type ids that a function without settings knows: those that it offered at first."""
    text = tree.recall("creatable", _name(folder)) or tree.text(f"{folder}/{VENDOR}/creatable_vgpu_types") or ""
    ids = (line.partition(":")[0].strip() for line in text.splitlines())
    return [type_id for type_id in ids if type_id.isdecimal()]


def _offer_own(tree: Tree, folder: str, current: str) -> None:
    path = f"{folder}/{VENDOR}/creatable_vgpu_types"
    text = tree.recall("creatable", _name(folder))
    if text is None:
        text = tree.text(path) or ""
        tree.remember("creatable", _name(folder), text)
    lines = text.splitlines()
    if current != "0":
        lines = [line for line in lines if not line.partition(":")[0].strip().isdecimal()]
    tree.file(path, "\n".join(lines))
