# SPDX-License-Identifier: Apache-2.0
"""The hostpci entries that a VM is to lose, and the settings that made sense only with them.

Those settings are named and left alone: what a guest does without them only its owner knows.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from pvepassthru.api import selection
from pvepassthru.api.surroundings import CPU_KEYS
from pvepassthru.model import property_string
from pvepassthru.model.pattern import ASCII, Pattern
from pvepassthru.model.property_string import PropertyError
from pvepassthru.model.text import listed, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pvepassthru.api.draft import Draft
    from pvepassthru.api.hardware import Function
    from pvepassthru.api.reach import Reach
    from pvepassthru.model.hostpci import HostpciEntry

OURS = ":snippets/pvepassthru"
"""How the volume of our hookscript ends."""
_NVIDIA = "10de"
_APART = Pattern(r"[^A-Za-z0-9]+", ASCII)


def write(draft: Draft, keys: Sequence[str], reach: Reach) -> tuple[HostpciEntry, ...]:
    """Take entries from a draft, and return those that were there.

    `reach` is that of the VM's entries as they are. One that is not there is a note, since that is as required. Where
    another value is pending, what is in force goes as well.
    """
    gone = []
    draft.barred = frozenset(keys)
    for key in keys:
        taken = next((one for one in reach.entries if one.entry.key == key), None)
        if draft.before.get(key) is None:
            draft.note(_absent(draft, key))
            continue
        what = ""
        if taken is not None:
            gone.append(taken.entry)
            found = [reach.hardware.functions[address].words for address in taken.functions]
            name = f"mapping {shown(taken.entry.mapping)}" if taken.entry.mapping else listed(found, 1)
            what = f": {name or 'its device is not there'}"
        now = draft.before.config.main.get(key)
        if now not in {None, draft.before.get(key)}:
            gone += [one for one in draft.before.config.main.entries.values() if one.key == key]
            what += f", which is pending; and what is in force, {shown(now)}"
        draft.set(key, None, f"{key} is to be removed{what}")
    return tuple(gone)


def _absent(draft: Draft, key: str) -> str:
    """Why there is nothing to remove."""
    vmid = draft.before.vmid
    if draft.before.config.main.get(key) is not None:
        return f"{key} of VM {vmid} is gone with the next start already"
    line = next((one for one in draft.before.config.main.dropped if one.key == key), None)
    if line is not None:
        what = f'"{key}: {shown(line.value)}"'
        return f"PVE drops {what}, so VM {vmid} has no {key} for it; the line goes with any change of the VM"
    return f"VM {vmid} has no {key}, so there is nothing to remove"


def say(draft: Draft, gone: Iterable[HostpciEntry], reach: Reach) -> None:
    """Note which settings made sense only with entries that go. `reach` is that of the entries as they were."""
    lost = tuple(gone)
    if not lost:
        return
    after = draft.entries()
    removed = [one for entry in lost for one in _functions(entry, reach)]
    kept = [one for entry in after for one in _functions(entry, reach)]
    for text in (*_of_display(draft, lost, removed), *_of_guest(draft, removed, kept), *_of_arguments(draft, lost)):
        draft.note(text)
    if not after:
        for text in _of_last(draft, removed):
            draft.note(text)


def _functions(entry: HostpciEntry, reach: Reach) -> list[Function]:
    """The functions that an entry passes whole."""
    if entry.wants_mdev:
        return []
    found = selection.alternatives(entry, reach.hardware, reach.mappings)
    return [reach.hardware.functions[address] for functions in found for address in functions]


def _of_display(draft: Draft, lost: Iterable[HostpciEntry], removed: Iterable[Function]) -> Iterator[str]:
    vmid, vga = draft.before.vmid, draft.value("vga") or ""
    if vga.removeprefix("type=") != "none":
        return
    after = draft.entries()
    if any(one.x_vga or one.legacy_igd for one in after):
        return
    shows = any(one.x_vga or one.legacy_igd for one in lost) or any(one.has_outputs for one in removed)
    if shows or not (after or _is_reached(draft)):  # without entries no rule says any more that nobody sees the VM
        keys = listed(dict.fromkeys(one.key for one in lost))
        how = f"qm set {vmid} --delete vga gives it one"
        yield f"vga: {vga} made sense with {keys}, and without it the VM has no display: {how}"


def _is_reached(draft: Draft) -> bool:
    """Whether there is a way to a VM without a display that its config tells of: a serial port or the guest agent."""
    agent = (draft.value("agent") or "0").split(",")[0].removeprefix("enabled=")
    return property_string.boolean(agent) is True or any(draft.value(f"serial{at}") for at in range(4))


def _of_guest(draft: Draft, removed: Iterable[Function], kept: Iterable[Function]) -> Iterator[str]:
    nvidia = any(one.vendor == _NVIDIA for one in removed) and not any(one.vendor == _NVIDIA for one in kept)
    try:
        values = property_string.parse(draft.value("cpu") or "kvm64", CPU_KEYS)
    except PropertyError:
        return
    if nvidia and property_string.boolean(values.get("hidden", "0")):
        yield "cpu: hidden=1 was for the NVIDIA driver of a device that goes; nothing else needs it"


def _of_arguments(draft: Draft, lost: Iterable[HostpciEntry]) -> Iterator[str]:
    named = set(_APART.split(draft.value("args") or ""))
    for key in dict.fromkeys(one.key for one in lost):
        if key in named:
            yield f"args names {key}, and QEMU does not start without what it names: change args as well, as root"


def _of_cpu(draft: Draft) -> Iterator[str]:
    """What `args` says of the CPU, which is mostly for a passed GPU."""
    words = (draft.value("args") or "").split()
    model = next((shown(after) for word, after in itertools.pairwise(words) if word in {"-cpu", "--cpu"}), "")
    if model:
        yield (
            f"args stays, and its -cpu {model} replaces the VM's cpu as before: if that was for a device, "
            f"qm set {draft.before.vmid} --delete args, or change it, as root"
        )


def _of_last(draft: Draft, removed: Iterable[Function]) -> Iterator[str]:
    """What is left of settings for devices when there is none any more."""
    vmid = draft.before.vmid
    yield from _of_cpu(draft)
    if draft.value("balloon") == "0":
        yield f"balloon: 0 is needed by no device any more: qm set {vmid} --delete balloon lets the VM give memory back"
    hookscript = draft.value("hookscript")
    if hookscript is not None and hookscript.endswith(OURS):
        how = f"qm set {vmid} --delete hookscript"
        yield f"hookscript {shown(hookscript)} has nothing to do once the VM has been stopped: {how} then, as root"
    affinity = draft.value("affinity")
    beside = {draft.hardware.numa.get(one.numa_node) for one in removed if one.numa_node is not None}
    if affinity is not None and affinity in beside:
        yield f"affinity: {affinity} are the CPUs beside a device that goes: qm set {vmid} --delete affinity, as root"
