# SPDX-License-Identifier: Apache-2.0
"""One policy file: its YAML checked against policy.schema.json, each slip with its line.

The schema's own keywords are those of host/slips.py, and for texts `selector` and `address`. Imported only where there
is a policy file: what it needs loads slowly.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.host import slips, strict_yaml
from pvepassthru.host.slips import KeyForm, Slip
from pvepassthru.host.vms import vmid_of
from pvepassthru.model import pci
from pvepassthru.model.policy import EVERY, HOST_SAVING, selector
from pvepassthru.model.text import number, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from pvepassthru.host.strict_yaml import Document

SCHEMA = os.path.join(os.path.dirname(__file__), "policy.schema.json")
LONGEST_UNIT = 255
LAST_BAR = 5


class Checked(NamedTuple):
    """A policy file."""

    document: dict[str, Any]
    """What it says, with devices and VMIDs written the one way; empty with slips."""
    slips: tuple[Slip, ...]
    """By line."""
    written: Document
    """What is written in it."""

    def line(self, place: Sequence[str]) -> int | None:
        """The line, from 1, of what stands at these keys of `document`; None if the file says nothing of it."""
        value: Any = self.written.value
        path = []
        for depth, name in enumerate(place):
            if not isinstance(value, dict):
                return None
            normal = NORMAL.get(place[0]) if depth == 1 else None
            key = next((key for key in value if (normal(key) if normal else key) == name), None)
            if key is None:
                return None
            path.append(key)
            value = value[key]
        return self.written.line(path)


def schema() -> dict[str, Any]:
    """The shipped JSON schema."""
    return slips.load(SCHEMA)


def check(data: bytes) -> Checked:
    """A policy file by its bytes. Raises strict_yaml.YamlError."""
    written = strict_yaml.parse(data)
    found = slips.Checker(schema(), KEYS, TEXTS).slips(written)
    if not found:
        found |= set(_unsaid(written))
    if found or not isinstance(written.value, dict):
        return Checked({}, tuple(sorted(found)), written)
    return Checked(_normal(written.value), (), written)


# ---- what JSON schema cannot say


def _key_vmid(key: str) -> str | None:
    return key if vmid_of(key) is not None else None


def _key_function(key: str) -> str | None:
    found = selector(key)
    return None if found is None or found.startswith("mapping:") else found


def _key_index(key: str) -> str | None:
    value = number(key)
    return None if value is None else str(value)


def _key_bar(key: str) -> str | None:
    value = number(key)
    return str(value) if value is not None and value <= LAST_BAR else None


def _key_unit(key: str) -> str | None:
    """Source: systemd.unit(5)."""
    plain = key.replace("@", "").replace(":", "").replace("-", "").replace("_", "").replace(".", "").replace("\\", "")
    fits = len(key) <= LONGEST_UNIT and plain.isalnum() and plain.isascii() and not key.startswith(("-", "."))
    return key if fits and "." in key else None


KEYS: dict[str, KeyForm] = {
    "vmid": KeyForm(_key_vmid, "VMID", "use numbers from 100"),
    "selector": KeyForm(selector, "device", "use an address, a slot, vendor:device or mapping:NAME"),
    "function": KeyForm(_key_function, "device", "use an address, a slot or vendor:device"),
    "index": KeyForm(_key_index, "number of a VF", "use numbers from 0"),
    "bar": KeyForm(_key_bar, "number of a BAR", f"use numbers from 0 to {LAST_BAR}"),
    "unit": KeyForm(_key_unit, "systemd unit", "write it in full, such as lightdm.service"),
}
"""What keys of a mapping can name: how one is written, its word, and what to do."""


def _is_address(text: str) -> bool:
    return pci.is_address(pci.with_domain(text.lower()))


TEXTS: dict[str, Callable[[str], bool]] = {
    "selector": lambda text: text == EVERY or selector(text) is not None,
    "address": _is_address,
}
"""Forms of texts."""


# ---- what no schema says


def _unsaid(document: Document) -> Iterator[Slip]:
    """Slips of a document that keeps to the schema."""
    value = document.value if isinstance(document.value, dict) else {}
    for at, entry in enumerate(value.get("silence") or ()):
        if entry["code"].startswith(HOST_SAVING) and not {"vm", "device"} <= set(entry):
            message = (
                f"silence entry {at + 1} silences {entry['code']}, which keeps the host's disks and network, too widely"
            )
            hint = "add vm and device: such a finding can be silenced for one VM and one device only"
            yield Slip(document.line(["silence", at]), message, hint)
    for section in ("devices", "sriov"):
        for key, settings in (value.get(section) or {}).items():
            name = selector(key) or ""
            if settings and "ids" in settings and name.count(":") != 2:
                message = f"{section}.{shown(key)} has ids, which only a rule by address or slot can expect"
                yield Slip(document.line([section, key, "ids"]), message, "leave it out")
    for key, settings in (value.get("sriov") or {}).items():
        yield from _vfs(document, ["sriov", key], settings)
    yield from _bars(document, value)


def _bars(document: Document, value: dict[str, Any]) -> Iterator[Slip]:
    """Sizes of BARs that are none."""
    places: list[tuple[list[str], Any]] = [(["defaults"], value.get("defaults"))]
    for section in ("vms", "devices"):
        places += [([section, key], settings) for key, settings in (value.get(section) or {}).items()]
    for path, settings in places:
        for bar, size in ((settings or {}).get("bars") or {}).items():
            count = int(size[:-1])
            if count & (count - 1):
                place = [*path, "bars", bar]
                yield Slip(document.line(place), f"{slips.words(place)} is {size}", "use a power of two, such as 256M")


def _vfs(document: Document, path: list[str], settings: dict[str, Any]) -> Iterator[Slip]:
    """Slips in what is said of the VFs of one PF."""
    own = settings.get("vf") or {}
    macs: dict[str, str] = {}
    for index, said in ((None, settings), *own.items()):
        place = path if index is None else [*path, "vf", index]
        here = {**settings, **(said or {})}
        if index is not None and int(index) >= settings["vfs"]:
            message = (
                f"{slips.words(place)} is for a VF that is not there: vfs is {settings['vfs']}, and the first one is 0"
            )
            yield Slip(document.line(place), message, "raise vfs, or leave it out")
        if here.get("max_tx_rate") and here.get("min_tx_rate", 0) > here["max_tx_rate"]:
            rates = f"a min_tx_rate of {here['min_tx_rate']} and a max_tx_rate of {here['max_tx_rate']}"
            message = f"{slips.words(place)} has {rates}"
            yield Slip(document.line(place), message, "let the first be no more than the second")
        if here.get("qos") and not here.get("vlan"):
            yield Slip(document.line(place), f"{slips.words(place)} has qos without a vlan", "say which vlan")
        mac = str((said or {}).get("mac", "keep")).lower()
        if mac not in {"keep", "stable"}:
            if index is None and settings["vfs"] > 1 + len(own):
                message = f"{slips.words(place)} gives one MAC to several VFs"
                yield Slip(document.line([*place, "mac"]), message, "use stable, or say it under vf by number")
            elif mac in macs:
                message = f"{slips.words(place)} has the MAC of {macs[mac]}"
                yield Slip(document.line([*place, "mac"]), message, "give each VF its own")
            macs[mac] = slips.words(place)


NORMAL: dict[str, Callable[[str], str | None]] = {
    "devices": selector,
    "sriov": selector,
    "vms": lambda key: str(vmid_of(key)),
}
"""How the keys of these sections are written the one way."""


def _normal(value: dict[str, Any]) -> dict[str, Any]:
    """The document with devices, VMIDs and addresses written the one way."""
    found = dict(value)
    for section, normal in NORMAL.items():
        if found.get(section):
            found[section] = {normal(key): settings for key, settings in found[section].items()}
    if found.get("services"):
        found["services"] = {
            unit: {**settings, "devices": [selector(one) or one for one in settings["devices"]]}
            for unit, settings in found["services"].items()
        }
    if found.get("silence"):
        found["silence"] = [
            {**entry, "device": pci.with_domain(entry["device"].lower())} if "device" in entry else entry
            for entry in found["silence"]
        ]
    return found
