# SPDX-License-Identifier: Apache-2.0
"""What is required of many VMs, in one YAML file: checked against wish.schema.json, each slip with its line.

Imported only where there is such a file: what it needs loads slowly.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import wish
from pvepassthru.api.wish import Device, Wish
from pvepassthru.host import slips, strict_yaml
from pvepassthru.host.slips import KeyForm, Slip
from pvepassthru.host.strict_yaml import YamlError
from pvepassthru.host.vms import vmid_of
from pvepassthru.model.errors import InputError, UsageError
from pvepassthru.model.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SCHEMA = os.path.join(os.path.dirname(__file__), "wish.schema.json")
KEYS = {"vmid": KeyForm(lambda key: key if vmid_of(key) is not None else None, "VMID", "use numbers from 100")}
"""What the keys of a mapping can name."""
_WORDS: dict[str, Callable[[str], str]] = {
    "rom": wish.rom,
    "storage": wish.storage,
    "hookscript": wish.hookscript,
    "mapping": wish.mapping,
    "mdev": wish.mdev,
    "vf_of": wish.pf,
}
"""How texts are checked, and written the one way."""
_NAMES = {"primary_gpu": "primary", "min_framebuffer": "framebuffer"}
"""Keys of a device whose fields have other names."""


class Checked(NamedTuple):
    """A file of requirements."""

    wishes: dict[int, Wish]
    """By VMID; empty with slips."""
    slips: tuple[Slip, ...]
    """By line."""


def schema() -> dict[str, Any]:
    """The shipped JSON schema."""
    return slips.load(SCHEMA)


def check(data: bytes) -> Checked:
    """The requirements in these bytes. Raises strict_yaml.YamlError for what is no YAML."""
    written = strict_yaml.parse(data)
    found = slips.Checker(schema(), KEYS, {}).slips(written)
    if found or not isinstance(written.value, dict):
        return Checked({}, tuple(sorted(found)))
    defaults = written.value.get("defaults") or {}
    wishes = {}
    for key, said in written.value["vms"].items():
        path: list[object] = ["vms", key]
        try:
            reader = _Reader(path)
            wishes[int(key)] = reader.wish({**defaults, **said})
        except UsageError as error:
            place = path if path[:2] == ["vms", key] and _is_there(written.value, path) else ["defaults", path[-1]]
            found.add(Slip(written.line(place), f"{slips.words(place)}: {error.message}", error.hint))
    return Checked({} if found else wishes, tuple(sorted(found)))


def load(data: bytes, path: str) -> dict[int, Wish]:
    """The requirements by VMID; `path` names the file. Raises InputError with the first slip and its line."""
    try:
        checked = check(data)
    except YamlError as error:
        where = f"{shown(path)}:{error.line}" if error.line else shown(path)
        raise InputError(f"{where} is no YAML: {error}", "see its indentation, colons and quotes") from error
    if checked.slips:
        first, *others = checked.slips
        more = f" (and {len(others)} more)" if others else ""
        raise InputError(f"{shown(path)}:{first.line}: {first.message}{more}", first.hint)
    return checked.wishes


def _is_there(value: object, path: list[object]) -> bool:
    for step in path:
        if isinstance(value, dict):
            if step not in value:
                return False
            value = value[step]
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return False
    return True


class _Reader:
    """Makes a wish of what is said of a VM; `path` is where it is read, and stays there when it is no good."""

    def __init__(self, path: list[object]) -> None:
        self.path = path

    def wish(self, said: dict[str, Any]) -> Wish:
        """The wish. Raises UsageError."""
        devices = []
        for at, value in enumerate(said.get("devices") or ()):
            self.path += ["devices", at]
            devices.append(self._device(value))
            del self.path[-2:]
        fields = {key: self._value(key, value) for key, value in said.items() if key not in {"devices", "remove"}}
        if said.get("remove"):
            fields["remove"] = self._entries(said["remove"])
        return wish.checked(Wish(tuple(devices), **fields))

    def _entries(self, words: list[str]) -> tuple[str, ...]:
        for at, word in enumerate(words):
            self.path += ["remove", at]
            wish.entry(word)
            del self.path[-2:]
        return tuple(dict.fromkeys(words))

    def _device(self, value: str | dict[str, Any]) -> Device:
        if isinstance(value, str):
            return wish.device(value)
        fields = {_NAMES.get(key, key): self._value(key, one) for key, one in value.items() if key != "device"}
        if "device" not in value:
            return wish.checked(Wish((Device(**fields),))).devices[0]
        self.path.append("device")
        named = wish.device(value["device"])
        self.path.pop()
        return wish.checked(Wish((named._replace(**fields),))).devices[0]

    def _value(self, key: str, value: Any) -> Any:  # noqa: ANN401 - what the schema allows
        self.path.append(key)
        if key == "min_framebuffer":
            value = wish.framebuffer(str(value))
        elif key in _WORDS:
            value = _WORDS[key](value)
        self.path.pop()
        return value
