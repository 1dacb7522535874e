# SPDX-License-Identifier: Apache-2.0
"""The functions that a start takes from the host as a whole: in which order what is done to them, and what stays.

    1. the functions that the VM gets are reserved in PVE's file, all at once; where another VM was faster, and a
       mapping has other devices, all is looked at anew;
    2. the policy's services are stopped, consoles and framebuffers let go;
    3. nobody on the host may have one open: the start ends here then, and the host's drivers still have all;
    4. reset method and power states by the policy; each function is taken from its driver; BARs by the policy;
       overrides; each function is bound to VFIO's driver.

What has a driver of VFIO already is left alone, and stays with it after the stop. Everything is journalled in this
order and undone in the reverse one (lifecycle/drivers.py). What is to stay with VFIO after a stop is dropped from the
journal when the start's preparation is complete: a start that fails gives back all.
"""

from __future__ import annotations

from pvepassthru.host import holders, users
from pvepassthru.host.inventory import Inventory
from pvepassthru.lifecycle import drivers, reserve
from pvepassthru.lifecycle.work import Function
from pvepassthru.model.errors import DeviceError, PassthruError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.rules.subject import chosen, group_mates

if TYPE_CHECKING:
    from collections.abc import Collection

    from pvepassthru.lifecycle.journal import Step
    from pvepassthru.lifecycle.work import Work
    from pvepassthru.model.policy import DevicePolicy, Policies, Service
    from pvepassthru.rules.subject import Subject

VFIO_PCI = "vfio-pci"
KEEP = "keep"
SERVICE = "service"
"""Kind of the steps of lifecycle/services.py,"""
CONSOLES = frozenset({"console", "framebuffer"})
"""kinds of those of lifecycle/console.py,"""
OTHERS = frozenset({"mdev", "vgpu"})
"""and of those that are not about whole functions."""


class Handover(NamedTuple):
    """What a start takes from the host."""

    functions: tuple[Function, ...]
    """Those that the VM gets, then their group mates."""
    policies: Policies
    vmid: int
    backup: bool
    """Whether a backup starts the VM, and the policy lets that take nothing that is in use."""
    subject: Subject

    def policy(self, function: Function) -> DevicePolicy:
        """The owner's policy for a function."""
        return self.policies.device(self.subject.inventory, function.address, function.mapping, self.vmid)

    def has(self, target: str) -> bool:
        """Whether a step's target is one of these functions, or something of it."""
        return any(function.address == target.partition("/")[0] for function in self.functions)

    def services(self) -> tuple[Service, ...]:
        """The units that are to be stopped for them."""
        if self.backup:
            return ()
        devices = {function.address: function.mapping for function in self.functions}
        return self.policies.services(self.subject.inventory, devices)


def plan(subject: Subject, policies: Policies) -> Handover | None:
    """What a start of this VM takes from the host as a whole; None if that is nothing."""
    if subject.config.template:
        return None
    taken: dict[str, Function] = {}
    own: set[str] = set()
    pairs = [(device, functions) for device, functions in chosen(subject) if not device.nvidia]
    for device, functions in pairs:
        own.update(functions)
        for address in functions:
            function = Function(address, device.index, device.entry.mapping or None, passed=True)
            if device.bound_to_vfio or _variant(policies, subject, function):
                taken[address] = function
    for device, functions in pairs:
        for mate in group_mates(subject, functions) if device.bound_to_vfio else ():
            if mate not in own:
                taken.setdefault(mate, Function(mate, device.index, None, passed=False))
    if not taken:
        return None
    asks = policies.of(subject.vmid).on_backup != "handover"
    backup = asks and subject.section.get("lock") == "backup"
    return Handover(tuple(taken.values()), policies, subject.vmid, backup, subject)


def _variant(policies: Policies, subject: Subject, function: Function) -> bool:
    """Whether the policy names another driver than vfio-pci: for an entry with driver=keep that is the owner's word."""
    wanted = policies.device(subject.inventory, function.address, function.mapping, subject.vmid).driver
    return wanted not in {VFIO_PCI, KEEP}


def carried(work: Work, wanted: Handover) -> set[int]:
    """The numbers of a left-over journal's steps that this start needs, once their writes have ended.

    Raises BusyError when such a write does not end.
    """
    units = {service.unit for service in wanted.services()}
    found = set()
    for step in work.journal.steps:
        if step.kind == SERVICE:
            needed = step.target in units
        elif step.kind in CONSOLES:
            needed = any(wanted.policy(function).console == "release" for function in wanted.functions)
        else:
            needed = step.kind not in OTHERS and wanted.has(step.target)
        if needed:
            found.add(step.number)
            if step.kind in {drivers.KIND, drivers.OVERRIDE_KIND, drivers.UNBIND_KIND}:
                drivers.await_writes(work, step)
    return found


def reserved(work: Work, wanted: Handover) -> None:
    """Reserve what the VM gets, for `take`.

    Raises DeviceError, and nothing is reserved, when another VM has one of the functions or their group mates: it was
    faster, since the gate has seen them free. Raises BusyError when PVE's lock is not to be had.
    """
    passed = [function.address for function in wanted.functions if function.passed]
    reserve.reserve(work, passed, [function.address for function in wanted.functions if not function.passed])


def choices(wanted: Handover) -> int:
    """How many alternatives the VM's entries have together: so often can another VM be faster."""
    return sum(len(device.alternatives) for device in wanted.subject.resolution.passed if not device.mdev)


def take(work: Work, wanted: Handover) -> None:
    """Take the functions from the host once they are reserved.

    Raises DeviceError and BusyError, and what was done is in the journal.
    """
    plans = [(function, wanted.policy(function)) for function in wanted.functions]
    passed = [(function.address, policy) for function, policy in plans if function.passed]
    for address, policy in passed:
        drivers.note(work, address, rescan=policy.rescan)
    _end_quarantines(work, wanted)
    moving = [(function, policy) for function, policy in plans if _moves(work, wanted, function, policy)]
    for function, policy in moving:
        drivers.need(work, function.address, policy.driver)
    if not wanted.backup:
        _stop_services(work, wanted)
    if any(policy.console == "release" for _, policy in plans):
        _release_consoles(work, wanted)
    _look_for_users(work, wanted, [function.address for function, _ in moving])
    for function, policy in plans:
        _apply(work, function, policy)
    _move(work, wanted, moving)


def _move(work: Work, wanted: Handover, moving: Collection[tuple[Function, DevicePolicy]]) -> None:
    """Take functions from their drivers and bind them to VFIO's: each thing to all before the next."""
    for function, policy in moving:
        named = _target(wanted, function) not in {"stay", "former"}
        drivers.unbind(work, function.address, policy.seconds, always=named)
    for function, policy in moving:
        _resize(work, function, policy)
    for function, policy in moving:
        drivers.set_override(work, function.address, policy.driver)
    for function, policy in moving:
        had = work.journal.of(drivers.UNBIND_KIND, function.address)
        drivers.bind(work, function.address, policy.driver, policy.seconds)
        work.voice.say(
            f"bound {function.address} to {policy.driver}{f' (was {had.before})' if had and had.before else ''}"
        )


def complete(work: Work, wanted: Handover) -> None:
    """Note what the functions are given back to after the stop, where that is not what they had before."""
    try:
        for function in wanted.functions:
            address = function.address
            bound, unbound = (work.journal.of(kind, address) for kind in (drivers.KIND, drivers.UNBIND_KIND))
            target = _target(wanted, function)
            _note_stay(work, wanted, function, stays=target == "stay")
            if target == "stay":
                for step in (bound, unbound):
                    if step is not None:
                        work.journal.undone(step, "stays")
                if bound is not None:
                    work.voice.say(f"{address} will stay with {bound.after} after the stop")
            elif unbound is not None:
                _note_driver(work, wanted, unbound, None if target == "former" else target)
    except PassthruError as error:
        work.voice.warn(f"not all devices will be given back as the policy says: {error.message}")


def _note_stay(work: Work, wanted: Handover, function: Function, *, stays: bool) -> None:
    """Note why a function stays with VFIO's driver after the stop, if it does: the stop tells of it."""
    look = work.journal.of(drivers.HEALTH_KIND, function.address)
    if look is None:
        return
    why = None
    if work.journal.of(drivers.KIND, function.address) is None:
        why = look.before or drivers.WAS_THERE  # a start that failed later has noted why
    elif stays:
        why = drivers.AUTO if wanted.policy(function).give_back == "auto" else drivers.STAY
    if why != look.before:
        work.journal.amend(look, before=why, after=look.after)


def _note_driver(work: Work, wanted: Handover, step: Step, driver: str | None) -> None:
    """Note that a function goes to this driver after the stop, or to its former one, which the step keeps noting."""
    if driver is not None and wanted.subject.inventory.driver_available(driver) is False:
        work.voice.warn(
            f"the policy's give_back: {driver} for {step.target} is no driver that is loaded, nor a module of this "
            f"kernel; without it {step.target} goes back to {step.before or 'no driver, as before'}"
        )
    elif driver is not None:
        work.voice.say(f"{step.target} will go to {driver} after the stop")
    if step.after != driver:
        work.journal.amend(step, before=step.before, after=driver)


def _target(wanted: Handover, function: Function) -> str:
    """`stay`, `former`, or a driver's name."""
    give_back = wanted.policy(function).give_back
    if give_back != "auto":
        return give_back
    inventory = wanted.subject.inventory
    slot = inventory.in_slot(function.address.partition(".")[0])
    return "stay" if any(inventory.pci_class(other).startswith("03") for other in slot) else "former"


def _moves(work: Work, wanted: Handover, function: Function, policy: DevicePolicy) -> bool:
    """Whether a function is to be bound now. Raises DeviceError when PVE would undo what the policy wants."""
    address, driver = function.address, policy.driver
    if driver == KEEP:
        return False
    keeps = any(device.entry.keeps_driver for device, functions in chosen(wanted.subject) if address in functions)
    if driver != VFIO_PCI and not keeps:
        raise DeviceError(
            f"the policy wants {driver} for {address}, but PVE binds it to vfio-pci, since hostpci{function.entry} has "
            "no driver=keep",
            "add driver=keep to that entry, or take the driver out of the policy",
        )
    now = drivers.current(work.host, address)
    if now == driver:
        work.journal.found(drivers.KIND, address)
        return bool(policy.bars) and work.journal.of(drivers.KIND, address) is None
    return now is None or "vfio" not in now or driver != VFIO_PCI


def _look_for_users(work: Work, wanted: Handover, moving: Collection[str]) -> None:
    """See that no program of the host has one of these functions open, now that services and consoles are gone.

    Raises DeviceError, which names function, node and processes.
    """
    found = users.users(Inventory(work.host), moving)
    if found:
        words = "; ".join(f"{holders.describe(held)} has {node} of {address} open" for address, node, held in found[:4])
        if wanted.backup:
            hint = (
                f"a backup starts VM {work.vmid}: free the device before it, or set on_backup: handover in the policy"
            )
        else:
            hint = "end that process, or name its unit under services in the policy"
        raise DeviceError(f"cannot take {found[0][0]} from the host: {words}", hint)


def _stop_services(work: Work, wanted: Handover) -> None:
    found = wanted.services()
    if found:
        from pvepassthru.lifecycle import services  # noqa: PLC0415 - only where a policy has some

        services.stop(work, found)


def _release_consoles(work: Work, wanted: Handover) -> None:
    from pvepassthru.lifecycle import console  # noqa: PLC0415 - only where a policy wants it

    if wanted.backup:
        console.refuse(work, wanted.functions, wanted.policies)
    else:
        console.release(work, wanted.functions, wanted.policies)


def _end_quarantines(work: Work, wanted: Handover) -> None:
    """Forget those that fell off the bus once and answer again: a VM has them now."""
    for address in sorted(wanted.subject.around.quarantined):
        if wanted.has(address):
            from pvepassthru.lifecycle import health  # noqa: PLC0415 - few hosts have any

            health.forget_if_well(work, address)


def _apply(work: Work, function: Function, policy: DevicePolicy) -> None:
    if policy.reset_method is not None or policy.d3cold is not None:
        from pvepassthru.lifecycle import settings  # noqa: PLC0415 - few policies have any

        settings.apply(work, function, policy)


def _resize(work: Work, function: Function, policy: DevicePolicy) -> None:
    if policy.bars:
        from pvepassthru.lifecycle import settings  # noqa: PLC0415 - as above

        settings.resize(work, function, policy)
