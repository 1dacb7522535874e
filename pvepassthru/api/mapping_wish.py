# SPDX-License-Identifier: Apache-2.0
"""Which devices a mapping is to hold, from words of a command line or from what the mapping has already."""

from __future__ import annotations

from typing import NamedTuple

from pvepassthru.api import wish
from pvepassthru.api.wish import Device
from pvepassthru.model import mapping, pci
from pvepassthru.model.errors import UsageError
from pvepassthru.model.mapping import NODE_NAME
from pvepassthru.model.pattern import ASCII, Pattern
from pvepassthru.model.text import listed, shown

IDS = Pattern(r"[0-9a-f]{4}:[0-9a-f]{4}", ASCII)
"""`vendor:device`, in small letters."""


class Sought(NamedTuple):
    """Which devices a mapping is to hold; one of the first two says it."""

    device: Device = Device()
    """By addresses, ids or class."""
    vf_of: str = ""
    """The address of a PF, or `vendor:device` of its model."""
    subsystem: str = ""
    """`vendor:device` of the subsystem that they have; empty for any."""
    mdev: bool = False
    """Whether only those with mediated devices are meant."""
    only: bool = False
    """Whether only the device at the address is meant, and none of its kind elsewhere."""
    own: tuple[tuple[str, str], ...] = ()
    """Nodes and selectors of what the mapping has already; such devices count as named by their addresses."""

    @property
    def words(self) -> str:
        """What is sought, in words."""
        which = f"VFs of {self.vf_of}" if self.vf_of else self.device.words
        more = f" with subsystem {self.subsystem}" if self.subsystem else ""
        return f"{which}{more}" + (" with mediated devices" if self.mdev else "")


def of_arguments(
    device: str = "", vf_of: str = "", subsystem: str = "", *, mdev: bool = False, only: bool = False
) -> Sought:
    """What words of a command line mean. Raises UsageError."""
    if bool(device) == bool(vf_of):
        hint = "for example --device 10de:1b80, --device 0000:01:00, --device gpu or --vf-of 0000:03:00.0"
        raise UsageError("one of --device and --vf-of says what the mapping is to hold", hint)
    plain = subsystem.strip().lower()
    if plain and not IDS.fullmatch(plain):
        raise UsageError(f"{shown(subsystem)} is no subsystem's id", "write vendor:device, such as 1462:3362")
    if vf_of and only:
        raise UsageError("--only is for the device at an address", "a VF has one too: --device 0000:03:10.0 --only")
    if vf_of:
        word = vf_of.strip().lower()
        return Sought(vf_of=word if IDS.fullmatch(word) else wish.pf(vf_of), subsystem=plain, mdev=mdev)
    wanted = wish.device(device)
    if len({pci.slot(selector) for selector in wanted.addresses}) > 1:
        raise UsageError(f"{shown(device)} names functions of several slots", "a device of a mapping is of one slot")
    if only and not wanted.addresses:
        raise UsageError("--only is for the device at an address", "for example --device 0000:01:00 --only")
    return Sought(wanted, subsystem=plain, mdev=mdev, only=only)


def of_mapping(one: mapping.Mapping) -> Sought:
    """What a mapping holds already. Raises UsageError when that is nothing, or of several models."""
    models = dict.fromkeys(entry.id.lower() for entry in one.entries)
    if len(models) != 1:
        what = f"devices of {len(models)} models ({listed(models)})" if models else "no device"
        raise UsageError(f"mapping {one.name} has {what}", "say which devices are meant: --device or --vf-of")
    subsystems = {entry.subsystem_id.lower() if entry.subsystem_id else "" for entry in one.entries}
    own = tuple((entry.node, path) for entry in one.entries for path in entry.paths)
    subsystem = next(iter(subsystems)) if len(subsystems) == 1 else ""
    return Sought(Device(ids=next(iter(models))), subsystem=subsystem, own=own)


def name(word: str) -> str:
    """The name of a mapping that is to be made or changed. Raises UsageError."""
    if not mapping.is_name(word):
        hint = "two characters or more: a letter, then letters, digits, - and _"
        raise UsageError(f"{shown(word)} is no name of a mapping", hint)
    return word


def excluded(word: str) -> tuple[str, str]:
    """The node, empty for all, and the selector of a device that is not to be taken. Raises UsageError."""
    plain = word.strip()
    node, _, rest = plain.partition(":")
    whole, part = (pci.with_domain(text.lower()) for text in (plain, rest))
    if pci.is_selector(whole):
        return "", whole
    if not NODE_NAME.fullmatch(node) or not pci.is_selector(part):
        hint = "write an address or a slot, such as 0000:03:00.0, or with its node pve1:0000:03:00.0"
        raise UsageError(f"{shown(word)} is no device", hint)
    return node, part
