# SPDX-License-Identifier: Apache-2.0
"""From what is required of a VM and its present config to the complete change. Pure: no file and no API is asked.

Existing entries are kept, and what is as required already stays untouched, so that applying twice changes nothing. The
result is held to what PVE itself decides (model/resolve.py) before it is returned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.api import entries, removal, surroundings
from pvepassthru.api.choice import Chooser, igd_among
from pvepassthru.api.draft import Draft
from pvepassthru.api.reach import Reach
from pvepassthru.api.wish import IGD
from pvepassthru.model import resolve
from pvepassthru.model.errors import DeviceError, PassthruError, UsageError
from pvepassthru.model.text import listed, shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pvepassthru.api.change import Change
    from pvepassthru.api.chosen import Choice
    from pvepassthru.api.hardware import NodeHardware
    from pvepassthru.api.present import Present
    from pvepassthru.api.wish import Device, Wish
    from pvepassthru.model.hostpci import HostpciEntry
    from pvepassthru.model.mapping import Mappings
    from pvepassthru.model.problem import Problem

PASSING = frozenset({"mdev-no-instance", "mdev-uuid-taken", "vgpu-type-not-available", "vgpu-no-alternative"})
"""Problems that come and go with what else runs on the node: a note, not a refusal."""
GPU = "gpu"
"""The kind of devices that can be a display."""
INTEL = "8086"


def generate(
    present: Present,
    wish: Wish,
    hardware: NodeHardware,
    mappings: Mappings,
    taken: Mapping[str, str] | None = None,
) -> Change:
    """The change that makes a VM have what is required; without keys when it has it already.

    `taken` says of functions that are not to be chosen who has them (`VM 101`). Raises UsageError for a wish that is
    ambiguous or contradicts the config, NotFoundError for what is not there, and DeviceError for what cannot be had or
    what PVE would refuse.
    """
    if present.node != hardware.node:
        message = f"VM {present.vmid} is on node {present.node}, and the hardware is that of {hardware.node}"
        raise UsageError(message, "ask for the hardware of the VM's own node")
    draft = Draft(present, hardware)
    gone = removal.write(draft, wish.remove, _reach(present, hardware, mappings))
    reach = Reach(_by_index(draft.kept), hardware, mappings, taken or {}, gone)
    devices = igd_among(wish.devices, reach) if wish.igd else wish.devices
    devices = tuple(one if _is_named(one) else one._replace(addresses=(IGD,)) for one in devices)
    devices = _primary_among(devices) if wish.primary_gpu else devices
    chooser = Chooser(reach)
    choices = chooser.choose(devices, by_mapping=wish.by_mapping)
    for note in chooser.notes:
        draft.note(note)
    choices = [_as_it_is(choice) for choice in choices]
    display = _display(wish, choices, draft)
    _check_igd(choices, draft)
    entries.write(draft, choices, display, (_rom_for(wish, choices, display, draft), wish.rom))
    if choices or not wish.remove:  # what stays may not be right, and a removal alone touches nothing else
        surroundings.machine_type(draft)
    surroundings.firmware(draft, wish, display)
    surroundings.display(draft, display)
    if choices:
        surroundings.balloon(draft)
    surroundings.cpu(draft, wish, choices)
    surroundings.numa(draft, wish, choices)
    surroundings.hookscript(draft, wish)
    removal.say(draft, gone, _reach(present, hardware, mappings))
    _say(draft, choices)
    functions = tuple(dict.fromkeys(address for choice in choices for address in choice.functions))
    _hold_to_pve(draft, draft.change(functions).after, mappings)
    return draft.change(functions)


def generate_all(  # noqa: PLR0913 - as `generate`, and where errors go
    presents: Sequence[Present],
    wishes: Mapping[int, Wish],
    hardware: NodeHardware,
    mappings: Mappings,
    taken: Mapping[str, str] | None = None,
    *,
    failed: dict[int, PassthruError] | None = None,
) -> list[Change]:
    """The changes of several VMs of one node, in the order of `presents`; none is given what another one gets.

    What a wish names by its address goes to that VM, whatever comes first. With `failed` an error of one VM is put
    there, and the others are gone on with. Raises as `generate`.
    """
    claimed = dict(taken or {})
    named: dict[int, dict[str, str]] = {}
    for present in presents:
        devices = wishes[present.vmid].devices if present.vmid in wishes else ()
        selectors = [selector for device in devices if not device.mdev for selector in device.addresses]
        named[present.vmid] = dict.fromkeys(hardware.reached(selectors), f"VM {present.vmid}")
    changes = []
    for present in presents:
        if present.vmid in wishes:
            others = claimed | {
                address: who for vmid, own in named.items() if vmid != present.vmid for address, who in own.items()
            }
            others = {address: who for address, who in others.items() if who != f"VM {present.vmid}"}
            try:
                change = generate(present, wishes[present.vmid], hardware, mappings, others)
            except PassthruError as error:
                if failed is None:
                    raise
                failed[present.vmid] = error
                continue
            own = [address for address in change.functions if not hardware.functions[address].mdev_parent]
            claimed |= dict.fromkeys(own, f"VM {present.vmid}")
            changes.append(change)
    return changes


def _reach(
    config: Present, hardware: NodeHardware, mappings: Mappings, taken: Mapping[str, str] | None = None
) -> Reach:
    return Reach(_by_index(config.section.entries), hardware, mappings, taken or {})


def _by_index(found: Mapping[int, HostpciEntry]) -> list[HostpciEntry]:
    return [entry for _, entry in sorted(found.items())]


def _is_named(device: Device) -> bool:
    return bool(device.addresses or device.ids or device.kind or device.vf_of or device.mapping or device.mdev)


def _primary_among(devices: tuple[Device, ...]) -> tuple[Device, ...]:
    """The devices with the one that is named by its class as the display, so that a GPU with outputs is chosen."""
    gpus = [at for at, one in enumerate(devices) if one.kind == GPU and not one.mdev]
    if len(gpus) != 1 or any(one.primary or one.igd for one in devices):
        return devices
    return tuple(one._replace(primary=at == gpus[0]) for at, one in enumerate(devices))


def _as_it_is(choice: Choice) -> Choice:
    """A device whose entry passes it in legacy mode already is wanted so."""
    legacy = choice.entry is not None and choice.entry.legacy_igd
    return choice._replace(device=choice.device._replace(igd=True)) if legacy else choice


# ---- which device is what


def _display(wish: Wish, choices: list[Choice], draft: Draft) -> Choice | None:
    """The device that is the VM's display, or None. Raises UsageError."""
    legacy = [choice for choice in choices if choice.device.igd]
    found = [choice for choice in choices if choice.device.primary]
    if wish.primary_gpu and not found:
        found = [choice for choice in choices if _shows(choice, draft)]
        if not found:
            raise UsageError("none of the VM's devices is a GPU with outputs", "name one, for example --device gpu")
        if len(found) > 1:
            words = listed(choice.device.words for choice in found)
            raise UsageError(f"several of the VM's devices are GPUs: {words}", "say in a file which one is primary")
    if found and legacy and found != legacy:
        raise UsageError("igd makes the Intel GPU the VM's display already", "leave out primary_gpu")
    chosen = next(iter(found or legacy), None)
    if chosen and not chosen.device.igd:
        if not _shows(chosen, draft):
            message = f"{chosen.device.words} is no GPU with outputs, so it cannot be the VM's display"
            raise UsageError(message, "leave out primary_gpu")
        others = [one.key for one in draft.kept.values() if one.x_vga and one != chosen.entry]
        if others:
            raise UsageError(f"{listed(others)} is the primary GPU already (x-vga=1)", "remove x-vga=1 there first")
    return chosen


def _shows(choice: Choice, draft: Draft) -> bool:
    """Whether a GPU with outputs is passed whole."""
    gpu = None if choice.mdev else draft.gpu(choice)
    return gpu is not None and gpu.has_outputs


def _rom_for(wish: Wish, choices: list[Choice], display: Choice | None, draft: Draft) -> Choice | None:
    """The device that the wish's ROM file is for, or None. Raises UsageError."""
    if not wish.rom:
        return None
    whole = [choice for choice in choices if not choice.mdev]
    fitting = [display] if display else [choice for choice in whole if draft.gpu(choice)] or whole
    if len(fitting) != 1:
        has = f"{len(fitting)} devices could have it" if fitting else "no device is passed whole"
        raise UsageError(f"the ROM file {shown(wish.rom)} is for one device, and {has}", "say it of a device in a file")
    return fitting[0]


def _check_igd(choices: list[Choice], draft: Draft) -> None:
    """Raise UsageError when a device in legacy mode is not what PVE and QEMU take for the Intel GPU."""
    for choice in choices:
        if not choice.device.igd:
            continue
        gpu = draft.gpu(choice)
        if len(choice.functions) != 1 or not choice.functions[0].endswith("02.0"):
            message = f"igd is for the Intel GPU at 00:02.0, and {choice.device.words} is {listed(choice.functions)}"
            raise UsageError(message, "leave out igd")
        if gpu is None or gpu.vendor != INTEL:
            found = draft.hardware.functions[choice.functions[0]]
            raise UsageError(f"igd is for an Intel GPU, and {found.words} is none", "leave out igd")
        others = [one.key for one in draft.kept.values() if one.legacy_igd and one != choice.entry]
        if others:
            raise UsageError(f"{listed(others)} has legacy-igd=1 already", "there is one such entry in a VM")


# ---- what is to be known besides


def _say(draft: Draft, choices: list[Choice]) -> None:
    """Note what follows from the devices, and what could not be told."""
    if draft.empty:
        return
    before = draft.before
    if before.config.template:
        draft.note("this is a template: PVE passes no device to it, and its clones take the entries over")
    _say_of_host(draft, choices)
    for one in before.config.main.dropped:
        draft.note(f'PVE drops "{shown(one.key)}: {shown(one.value)}" of the present config, and any change removes it')
    new = [draft.hardware.functions[one] for choice in choices if choice.entry is None for one in choice.functions]
    if draft.hardware.unknown and any(not one.physfn for one in new):
        draft.note(draft.hardware.unknown)


def _say_of_host(draft: Draft, choices: list[Choice]) -> None:
    """Note what the host loses by devices that are newly passed whole."""
    taken = {address for choice in choices for address in choice.functions}
    new = [address for choice in choices if not choice.mdev and choice.entry is None for address in choice.functions]
    for mate in draft.hardware.mates(new):
        if mate.address not in taken:
            draft.note(f"PVE takes {mate.words} from the host as well: it is in the same IOMMU group")
    for function in (draft.hardware.functions[address] for address in new):
        if function.console:
            draft.note(f"{function.words} shows the host's own console, which goes dark when the VM starts")
        if function.use:
            draft.note(f"the host needs {function.words}: {function.use}")


def _hold_to_pve(draft: Draft, after: Present, mappings: Mappings) -> None:
    """Raise DeviceError when PVE would refuse to start the VM for what is new, and note what it refused before."""
    for one in after.section.dropped:
        words = "; ".join(fault.message for fault in one.faults)
        raise UsageError(f"PVE would drop {one.key}: {shown(one.value)}, since {words}", one.faults[0].hint)
    both = (
        _reach(after, draft.hardware, mappings).both_ways() - _reach(draft.before, draft.hardware, mappings).both_ways()
    )
    for whole, mediated in sorted(both):
        message = f"{whole} would pass the device whole on which {mediated} has a mediated device"
        raise UsageError(message, "keep one of the two")
    known = {(problem.code, problem.key) for problem in _problems(draft.before, draft.hardware, mappings)}
    for problem in _problems(after, draft.hardware, mappings):
        message = f"{problem.key}: {problem.message}"
        if (problem.code, problem.key) in known:
            draft.note(f"PVE does not start the VM as it was before, nor as it will be: {message}")
        elif problem.code in PASSING:
            draft.note(f"PVE does not start the VM as things are now: {message}")
        else:
            raise DeviceError(f"PVE would refuse to start VM {after.vmid} with {message}", problem.hint)


def _problems(present: Present, hardware: NodeHardware, mappings: Mappings) -> tuple[Problem, ...]:
    """Why PVE does not start the VM; of a template, its clones."""
    return resolve.resolve(present.section, mappings, hardware, hardware.node, present.vmid).problems
