# SPDX-License-Identifier: Apache-2.0
"""A node's PCI functions, their mdev types, and what a start and `check-node` find wrong with them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pvepassthru.model import hostpci, property_string
from pvepassthru.model import mapping as schema
from pvepassthru.model.property_string import PropertyError
from tests.api.fake_pve import marks
from tests.api.fake_pve.request import failed, invalid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.api.fake_pve.data import Device
    from tests.api.fake_pve.mappingtext import Mapping
    from tests.api.fake_pve.request import Call, Json
    from tests.api.fake_pve.state import State, Vm

HIDDEN = "05;06;0b"
"""Classes that the list leaves out unless it is told otherwise: memory, bridges, processors."""
_ADDRESS = re.compile(r"(?:[0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]")
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]+")


def listed(call: Call) -> Json:
    """GET nodes/NODE/hardware/pci."""
    blacklist = call.get("pci-class-blacklist")
    hidden = [word for word in re.split(r"[\s,;]+", HIDDEN if blacklist is None else blacklist) if word]
    verbose = call.get("verbose") is None or call.flag("verbose")
    devices = call.state.nodes[call.uri["node"]].pci
    ordered = sorted(devices, key=lambda device: (len(device.id), device.id))
    shown = [device for device in ordered if not device.class_.startswith(tuple(hidden))]
    return [_row(device, devices, verbose=verbose) for device in shown]


def _row(device: Device, devices: Iterable[Device], *, verbose: bool) -> Json:
    row: dict[str, Json] = {
        "id": device.id,
        "class": f"0x{device.class_}",
        "vendor": f"0x{device.vendor}",
        "device": f"0x{device.device}",
        "iommugroup": device.group,
    }
    if device.mdev is not None:
        row["mdev"] = 1
    if not verbose:
        return row
    row |= device.names
    if device.subsystem:
        vendor, _, number = device.subsystem.partition(":")
        row |= {"subsystem_vendor": f"0x{vendor}", "subsystem_device": f"0x{number}"}
    if device.physfn:
        row["physfn"] = device.physfn
    functions = sorted(other.id for other in devices if other.physfn == device.id)
    if functions:
        row["virtfns"] = {f"virtfn{index}": address for index, address in enumerate(functions)}
    return row


def methods(call: Call) -> Json:
    """GET nodes/NODE/hardware/pci/ID: what can be asked of it."""
    _check_id(call.uri["id"])
    return [{"method": "mdev"}]


def mdev_types(call: Call) -> Json:
    """GET nodes/NODE/hardware/pci/ID/mdev: of a function, or of the first function of a mapping on the node."""
    node, word = call.uri["node"], call.uri["id"]
    _check_id(word)
    if not _ADDRESS.fullmatch(word):
        mapping = call.state.mappings.get(word)
        entries = [entry for entry in _entries(mapping) if entry["node"] == node] if mapping else []
        if not entries:
            return []
        word = entries[0]["path"].partition(";")[0]
    device = call.state.device(node, word if word.count(":") > 1 else f"0000:{word}")
    found: list[Json] = []
    for kind in (device.mdev or ()) if device else ():
        row: dict[str, Json] = {"type": kind.type, "available": kind.available, "description": kind.description}
        found.append(row | ({"name": kind.name} if kind.name else {}))
    return found


def _check_id(word: str) -> None:
    if not _ADDRESS.fullmatch(word) and not _NAME.fullmatch(word):
        raise invalid({"pci-id-or-mapping": "neither an address nor a mapping"})


def _entries(mapping: Mapping) -> list[dict[str, str]]:
    return [property_string.parse(line, schema.KEYS) for line in mapping.map]


def faults(state: State, node: str, name: str) -> list[tuple[str, str]]:
    """What is wrong with a mapping on a node, at most one thing: severity and message."""
    mapping = state.mappings[name]
    entries = [entry for entry in _entries(mapping) if entry["node"] == node]
    if not entries:
        return [("warning", f"{name} has no device on {node}")]
    for entry in entries:
        for number, path in enumerate(entry["path"].split(";")):
            device = state.device(node, path)
            if device is None:
                return [("error", f"{path} is not there")]
            if text := _differs(mapping, entry, device, first=not number):
                return [("error", f"{name}: {text}")]
    return []


def _differs(mapping: Mapping, entry: dict[str, str], device: Device, *, first: bool) -> str | None:
    """What does not fit; PVE compares the group of an entry's first path only."""
    expected = {"id": f"{device.vendor}:{device.device}"}
    if device.subsystem:
        expected["subsystem-id"] = device.subsystem
    if device.group >= 0:
        expected["iommugroup"] = str(device.group)
    for key in ("id", "subsystem-id", *(("iommugroup",) if first else ())):
        if entry.get(key) != expected.get(key):
            return f"{key} of {device.id} is {expected.get(key)}, not {entry.get(key)}"
    flag = mapping.options.get("mdev", "0") == "1"
    if flag != (device.mdev is not None):
        return f"the mdev flag is {int(flag)}, which {device.id} is not"
    return None


def check_start(state: State, vm: Vm) -> None:
    """Refuse to start a VM whose hostpci entries name what is not there."""
    values = vm.config.main
    for key in sorted(key for key in values if key.startswith("hostpci")):
        try:
            entry = hostpci.parse(0, values[key])
        except PropertyError:
            continue  # dropped with a warning
        if (entry.host is None) == (entry.mapping is None):
            raise failed(f"{key} needs a host or a mapping")
        if entry.mapping is not None:
            _check_mapping(state, vm.node, entry.mapping)
        for host in (entry.host or "").split(";") if entry.host else ():
            full = host if host.count(":") > 1 else f"0000:{host}"
            if not any(device.id.startswith(full) for device in state.nodes[vm.node].pci):
                raise failed(f"{key}: no function {host}")


def _check_mapping(state: State, node: str, name: str) -> None:
    if name not in state.mappings:
        raise failed(f"mapping '{name}' {marks.NOT_FOUND}")
    for _, text in faults(state, node, name):
        raise failed(text)
