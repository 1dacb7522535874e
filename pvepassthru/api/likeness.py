# SPDX-License-Identifier: Apache-2.0
"""What makes two functions devices of one kind: their ids, those of the subsystem, and whether they are VFs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pvepassthru.api.hardware import Function


class Likeness(NamedTuple):
    """What one function of a device is."""

    ids: str
    subsystem: str | None
    virtual: bool
    number: str = ""
    """The function's number in its slot, where that matters."""


def of(function: Function, *, numbered: bool = False) -> Likeness:
    """What a function is; `numbered` where its number in the slot matters."""
    texts = [function.attributes.get(name) for name in ("subsystem_vendor", "subsystem_device")]
    known = [text.removeprefix("0x") for text in texts if text is not None]
    subsystem = ":".join(known) if len(known) == len(texts) else None
    return Likeness(function.ids, subsystem, bool(function.physfn), function.address[-1] if numbered else "")


def words(shape: Iterable[Likeness]) -> str:
    """The functions of a device in words."""
    found = [f"{one.ids} (subsystem {one.subsystem})" if one.subsystem else one.ids for one in shape]
    return " with ".join(found)
