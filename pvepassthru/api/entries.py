# SPDX-License-Identifier: Apache-2.0
"""The hostpci entries of a draft: a new one for each device that has none, others changed only where they must be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.model import hostpci
from pvepassthru.model.errors import UsageError
from pvepassthru.model.pci import MAX_INDEX
from pvepassthru.model.property_string import write as property_text
from pvepassthru.model.text import listed, shown

if TYPE_CHECKING:
    from pvepassthru.api.chosen import Choice
    from pvepassthru.api.draft import Draft
    from pvepassthru.model.hostpci import HostpciEntry

_GVT = "i915-"
"""How the types of GVT-g begin, whose devices are conventional PCI."""


def write(draft: Draft, choices: list[Choice], display: Choice | None, rom: tuple[Choice | None, str]) -> None:
    """Write the entries of all devices. `rom` is a device with its ROM file. Raises UsageError without a free index."""
    q35 = _will_be_q35(draft, choices)
    for choice in choices:
        options = {}
        if choice.device.igd:
            options["legacy-igd"] = "1"
        elif choice is display:
            options["x-vga"] = "1"
        file = choice.device.rom or (rom[1] if choice is rom[0] else "")
        if file:
            options["romfile"] = file
            _say_rom(draft, choice, file)
        if choice.entry is None:
            pcie = choice.device.pcie if choice.device.pcie is not None else q35 and _may_be_pcie(choice)
            _add(draft, choice, ({"pcie": "1"} if pcie else {}) | options)
        else:
            _alter(draft, choice, choice.entry, options)


def _say_rom(draft: Draft, choice: Choice, file: str) -> None:
    """Note of a ROM file that is new what the API does not tell: whether there is one."""
    now = choice.entry.options.get("romfile") if choice.entry else None
    if draft.hardware.unknown and file != now:
        where = f"{hostpci.ROMS}/{file} is on node {draft.hardware.node}"
        draft.note(f"the API does not tell whether {where}; without it the VM does not start")


def _will_be_q35(draft: Draft, choices: list[Choice]) -> bool:
    """Whether the machine will have PCIe: it has, or a device needs it, and nothing needs a machine without."""
    before = draft.before.section
    if draft.before.get("arch") == "aarch64":
        if any(choice.device.pcie for choice in choices):
            raise UsageError("pcie: true needs a q35 machine, which arch: aarch64 does not have", "leave out pcie")
        return False
    legacy = any(choice.device.igd for choice in choices) or any(one.legacy_igd for one in draft.kept.values())
    needed = any(choice.device.pcie or (choice.entry is None and _needs_pcie(draft, choice)) for choice in choices)
    return not legacy and (before.machine.q35 or needed)


def _needs_pcie(draft: Draft, choice: Choice) -> bool:
    """Whether it is a GPU that is passed whole: its drivers are made for PCIe cards."""
    return choice.device.pcie is None and not choice.mdev and draft.gpu(choice) is not None


def _may_be_pcie(choice: Choice) -> bool:
    return not choice.device.igd and not choice.mdev.startswith(_GVT)


# ---- one entry


def _add(draft: Draft, choice: Choice, options: dict[str, str]) -> None:
    """Write a new entry, at the first index that neither the config nor a line that PVE drops uses."""
    before = draft.before
    used = {entry.key for entry in draft.entries()} | {one.key for one in before.section.dropped} | before.values.keys()
    used |= draft.barred
    keys = [f"hostpci{index}" for index in range(MAX_INDEX + 1)]
    free = next((key for key in keys if key not in used), None)
    if free is None:
        message = f"VM {before.vmid} has no hostpci index left for {choice.device.words}: 0 to {MAX_INDEX} are in use"
        raise UsageError(message, "remove an entry, or pass several functions by one")
    where = {"mapping": choice.mapping} if choice.mapping else {"host": choice.host}
    values = where | ({"mdev": choice.mdev} if choice.mdev else {}) | options
    draft.set(free, property_text(values, hostpci.KEYS), _reason(draft, choice))


def _reason(draft: Draft, choice: Choice) -> str:
    """Why there is a new entry: what was wanted, and what it is here."""
    found = [draft.hardware.functions[address] for address in choice.functions[:1]]
    what = found[0].words if found else listed(choice.functions)
    wanted = choice.device.words
    more = f" and {len(choice.functions) - 1} more of its functions" if len(choice.functions) > 1 else ""
    if choice.mapping and choice.mdev:
        return f"{wanted} is wanted: {choice.mdev} of mapping {choice.mapping}"
    if choice.mapping and choice.pool > 1:
        where = f"one of its {choice.pool} devices on node {draft.hardware.node}, which PVE chooses at the start"
        return f"{wanted} is wanted: mapping {choice.mapping}, {where}"
    if choice.mapping:
        return f"{wanted} is wanted: mapping {choice.mapping}, on node {draft.hardware.node} {what}{more}"
    if choice.mdev:
        return f"{wanted} is wanted: {choice.mdev} on {what}"
    return f"{wanted} is wanted: {what}{more}"


def _alter(draft: Draft, choice: Choice, entry: HostpciEntry, options: dict[str, str]) -> None:
    """Change an entry that is there where it lacks what is required; all else of it stays."""
    whys = []
    values = dict(entry.options)
    host, mapping = entry.host, entry.mapping
    if choice.mapping and not entry.mapping:
        host, mapping = None, choice.mapping
        whys.append(f"the device is named by mapping {mapping}")
    elif choice.host and entry.host and choice.host != entry.host:
        host = choice.host
        whys.append(f"{choice.device.words} is wanted, and it had a part of it")
    for name, text in options.items():
        if values.get(name) != text:
            values[name] = text
            whys.append(f"{name}={shown(text)} is required")
    if choice.device.pcie is not None and entry.pcie != choice.device.pcie:
        values.pop("pcie", None)
        values |= {"pcie": "1"} if choice.device.pcie else {}
        whys.append("it is to be on PCIe" if choice.device.pcie else "it is not to be on PCIe")
    if choice.device.igd:
        spoiling = [
            name for name, text in values.items() if (name, text) in {("rombar", "0"), ("x-vga", "1"), ("pcie", "1")}
        ]
        for name in spoiling:
            del values[name]
            whys.append(f"{name} does not go with legacy mode")
    if whys:
        altered = entry._replace(host=host, mapping=mapping, options=values)
        draft.set(entry.key, hostpci.write(altered), "; ".join(whys))
