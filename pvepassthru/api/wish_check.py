# SPDX-License-Identifier: Apache-2.0
"""What a program says in a wish, held to what a command line may say: types, words, and whether they go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.api import wish
from pvepassthru.api.wish import Device, Wish
from pvepassthru.model import pci
from pvepassthru.model.errors import UsageError
from pvepassthru.model.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

_WORDS: dict[str, Callable[[str], str]] = {
    "ids": wish.ids,
    "kind": wish.kind,
    "vf_of": wish.pf,
    "mapping": wish.mapping,
    "mdev": wish.mdev,
    "rom": wish.rom,
    "bios": wish.firmware,
    "storage": wish.storage,
    "hookscript": wish.hookscript,
}
"""The fields that are texts, and how a text that is not empty is checked and written the one way."""


def sound(said: object) -> Wish:
    """The wish that a program says, its words written the one way. Raises UsageError for one that means nothing."""
    if not isinstance(said, Wish):
        hint = "import Wish from pvepassthru.api, and name the devices: Wish((Device(kind='gpu'),))"
        raise UsageError(f"{_value(said)} is no Wish", hint)
    devices = []
    for at, one in enumerate(_several("devices", said.devices, 'Wish((Device(kind="gpu"),))')):
        if not isinstance(one, Device):
            raise UsageError(f"{_value(one)} in devices of a Wish is no Device", "such as Device(kind='gpu')")
        devices.append(_device(one, f"devices[{at}]."))
    remove = (_text("remove", word) for word in _several("remove", said.remove, 'remove=("hostpci0",)'))
    found = said._replace(
        devices=tuple(devices),
        remove=tuple(dict.fromkeys(wish.entry(word) for word in remove)),
        **{name: _plain(name, value) for name, value in said._asdict().items() if name not in {"devices", "remove"}},
    )
    return wish.checked(found)


def vmid(said: object) -> int:
    """The VMID that a program says. Raises UsageError when it is no number."""
    if not isinstance(said, int) or isinstance(said, bool):
        raise UsageError(f"{_value(said)} is no VMID", "it is a number, such as 100")
    return said


def _device(one: Device, where: str) -> Device:
    """A device whose fields are as they should be. Raises UsageError."""
    words = _several(f"{where}addresses", one.addresses, 'addresses=("0000:01:00.0",)')
    addresses = tuple(_address(_text(f"{where}addresses", word)) for word in words)
    rest = {name: _plain(name, value, where) for name, value in one._asdict().items() if name != "addresses"}
    return one._replace(addresses=addresses, **rest)


def _plain(name: str, value: Any, where: str = "") -> Any:  # noqa: ANN401 - each field has its own type
    """A field that is no tuple. Raises UsageError."""
    if name in _WORDS:
        text = _text(where + name, value)
        return _WORDS[name](text) if text else ""
    if name == "framebuffer":
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise UsageError(f"{where}{name} is a number of MiB, and {_value(value)} is none", "such as 4096")
    elif not isinstance(value, bool) and not (name == "pcie" and value is None):
        allowed = "True, False or None" if name == "pcie" else "True or False"
        raise UsageError(f"{where}{name} is {allowed}, and not {_value(value)}", "leave it out where it is not wanted")
    return value


def _several(where: str, value: object, example: str) -> Iterable[object]:
    """The parts of a field that is a tuple; one alone is a text or a device by mistake. Raises UsageError."""
    if isinstance(value, Device | Wish) or not isinstance(value, tuple | list):
        raise UsageError(f"{where} is a tuple, and {_value(value)} is none", f"write it with a comma: {example}")
    return value


def _text(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{where} is a text, and {_value(value)} is none", 'empty ("") where it is not wanted')
    return value


def _address(word: str) -> str:
    selector = pci.with_domain(word.strip().lower())
    if ";" in selector or not pci.are_selectors(selector):
        hint = "write it as lspci does: 0000:01:00.0, or 0000:01:00 for all functions"
        raise UsageError(f"{shown(word)} is no address of a device", hint)
    return selector


def _value(value: object) -> str:
    """A value in words; of what is no plain one only the type, since it may be long."""
    return shown(str(value)) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
