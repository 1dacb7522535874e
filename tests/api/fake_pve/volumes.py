# SPDX-License-Identifier: Apache-2.0
"""Volumes that a config asks for, such as `efidisk0: local-lvm:1`; storages, and their content.

The allocation is in no transcript; it is as PVE's manual has it: `STORAGE:SIZE` makes a volume and is stored as its
name with its size.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.api.fake_pve import marks, options
from tests.api.fake_pve.request import denied, failed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.api.fake_pve.request import Call, Json
    from tests.api.fake_pve.state import Task, Vm

CREATED = 1795370678
"""When all content was made, in seconds."""
TOTAL, USED = 270553174016, 28546682880
_NEW = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*):([0-9]+(?:\.[0-9]+)?)")
READERS = ("Datastore.Audit", "Datastore.AllocateSpace")


def check(call: Call, node: str, values: Mapping[str, str]) -> None:
    """Refuse new volumes where there can be none, or where the sender may make none."""
    for key, value in values.items():
        match = _NEW.fullmatch(_split(value)[0]) if options.is_disk(key) else None
        if match is None:
            continue
        known = call.state.nodes[node].storages.get(match[1])
        if known is None:
            raise failed(f"storage '{match[1]}' {marks.ABSENT}")
        if "images" not in known.content.split(","):
            raise failed(f"storage '{match[1]}' holds no images")
        call.need(f"/storage/{match[1]}", "Datastore.AllocateSpace")


def _split(value: str) -> tuple[str, str]:
    """A disk's volume, and the rest of its value."""
    file, _, rest = value.removeprefix("file=").partition(",")
    return file, rest


def allocate(call: Call, vm: Vm, value: str) -> str:
    """A disk's value with its volume made, if it asks for a new one."""
    file, rest = _split(value)
    match = _NEW.fullmatch(file)
    if match is None:
        return value
    storage, gigabytes = match[1], match[2]
    known = call.state.nodes[vm.node].storages[storage]
    number = 0
    while (volume := _name(storage, known.type, call.vmid, number)) in call.state.volumes or volume in vm.text:
        number += 1
    call.state.volumes[volume] = call.vmid
    efi = "efitype=" in rest or "pre-enrolled-keys=" in rest
    large = "528K" if known.type == "dir" else "4M"
    size = (large if "efitype=4m" in rest else "128K") if efi else f"{gigabytes}G"
    parts = sorted([part for part in rest.split(",") if part] + [f"size={size}"])
    return ",".join([volume, *parts])


def _name(storage: str, kind: str, vmid: int, number: int) -> str:
    name = f"vm-{vmid}-disk-{number}"
    return f"{storage}:{vmid}/{name}.raw" if kind == "dir" else f"{storage}:{name}"


def listed(call: Call) -> Json:
    """GET nodes/NODE/storage: those that the sender may see, and that take a kind of content if one is named."""
    wanted = call.get("content")
    found: list[Json] = []
    for name, storage in call.state.nodes[call.uri["node"]].storages.items():
        if wanted and wanted not in storage.content.split(","):
            continue
        if call.may(f"/storage/{name}", *READERS):
            state: dict[str, Json] = {"storage": name, "type": storage.type, "content": storage.content}
            state |= {"active": 1, "enabled": 1, "shared": 0}
            state |= {"total": TOTAL, "used": USED, "avail": TOTAL - USED, "used_fraction": USED / TOTAL}
            found.append(state)
    return found


def content(call: Call) -> Json:
    """GET nodes/NODE/storage/STORAGE/content."""
    name, wanted = call.uri["storage"], call.get("content")
    storage = call.state.nodes[call.uri["node"]].storages.get(name)
    if storage is None:
        raise failed(f"storage '{name}' {marks.ABSENT}")
    found: list[Json] = []
    if wanted in {None, "snippets"} and "snippets" in storage.content.split(","):
        base: dict[str, Json] = {"content": "snippets", "format": "snippet", "size": 944, "ctime": CREATED}
        found += [{**base, "volid": f"{name}:snippets/{file}"} for file in storage.snippets]
    if wanted in {None, "images"}:
        base = {"content": "images", "format": "raw", "size": 4194304, "ctime": CREATED}
        made = call.state.volumes.items()
        found += [{**base, "volid": volid, "vmid": vmid} for volid, vmid in made if volid.startswith(f"{name}:")]
    return found


def volume(call: Call) -> Json:
    """GET nodes/NODE/storage/STORAGE/content/VOLUME."""
    name, volid = call.uri["storage"], call.uri["volume"]
    if not call.may(f"/storage/{name}", *READERS, "Datastore.Allocate"):
        raise denied()
    storage = call.state.nodes[call.uri["node"]].storages.get(name)
    file = volid.partition(":snippets/")[2]
    if storage is None or (file not in storage.snippets and volid not in call.state.volumes):
        raise failed(f"volume '{volid}' {marks.ABSENT}")
    return {"path": f"/var/lib/vz/snippets/{file}", "format": "raw", "size": 1024, "used": 4096}


def remove(call: Call) -> Json:
    """DELETE nodes/NODE/storage/STORAGE/content/VOLUME: a task."""
    name, volid = call.uri["storage"], call.uri["volume"]
    call.need(f"/storage/{name}", "Datastore.Allocate", "Datastore.AllocateSpace")
    node = call.uri["node"]

    def deed(_: Task) -> None:
        call.state.volumes.pop(volid, None)

    return call.state.task(node, "imgdel", name, call.user, deed).upid
