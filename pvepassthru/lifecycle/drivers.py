# SPDX-License-Identifier: Apache-2.0
"""A function taken from its driver and bound to VFIO's by driver_override; and all of that undone.

Three kinds of steps, so that undoing them in reverse gives a slot or group back as it must be: first each function is
taken from VFIO, then the overrides are what they were, then each function is bound to the driver that it had.

    unbind    before: the driver it had    after: the one that the policy names for it after the stop, or none
    override  before: as it was, or none   after: VFIO's driver
    driver    before: none                 after: VFIO's driver

Sources: Linux Documentation/ABI/testing/{sysfs-bus-pci,sysfs-driver}, drivers/base/{bus,dd}.c; tests/kernel has what
each write answers. An unbinding can block for ever, and the link to the driver is gone at once while it does: the child
that writes keeps the function's lock, and whoever looks at its driver takes that lock first.
"""

from __future__ import annotations

import errno

from pvepassthru.host import holders, locks, slow, state
from pvepassthru.host.deadline import Deadline
from pvepassthru.host.host import ABSENT, ATTRIBUTE_WAIT
from pvepassthru.host.inventory import DEVICES, Inventory
from pvepassthru.lifecycle import reserve
from pvepassthru.model.errors import BusyError, DeviceError
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvepassthru.host.host import Host
    from pvepassthru.host.locks import Lock
    from pvepassthru.lifecycle.journal import Step
    from pvepassthru.lifecycle.work import Work

UNBIND_KIND = "unbind"
OVERRIDE_KIND = "override"
KIND = "driver"
HEALTH_KIND = "health"
"""A function that is looked at after the stop; after: RESCAN or LOOK. It undoes nothing."""
RESCAN, LOOK = "rescan", "look"
BAR_KIND = "bar"
"""Of the steps about sizes of BARs (lifecycle/settings.py); target: ADDRESS/BAR."""
AUTO, STAY, WAS_THERE = "auto", "stay", "was there"
"""Its before, if the function stays with VFIO: GPUs do, the policy says so, or VFIO had it already. Else none."""
DRIVERS = "/sys/bus/pci/drivers"
SECONDS = 15.0
"""For each write of an undo, which asks no policy,"""
LEAST = 6.0
"""but not more than half of what is left of the phase, if that is more than these: others are to be given back, too."""
LOCK_WAIT = 10.0
"""Seconds for a start to wait for an earlier write to the same function,"""
UNDO_LOCK_WAIT = 2.0
"""and for an undo, which leaves the step to the next one then."""
NONE = frozenset({"", "(null)"})
"""What an empty driver_override reads."""


# ---- doing


def need(work: Work, address: str, driver: str) -> None:
    """See that VFIO's driver is there, before anything is taken from the host. Raises DeviceError."""
    if work.host.exists(f"{DRIVERS}/{driver}"):
        return
    from pvepassthru.host import programs  # noqa: PLC0415 - the first start after a boot only

    why = programs.load_driver(work.host, driver)
    if why is not None:
        raise DeviceError(f"cannot bind {address} to {driver}: {why}", f"modprobe {driver}")


def unbind(work: Work, address: str, seconds: float, *, always: bool = False) -> None:
    """Take a function from its driver, if it has one; with `always` a step is noted of one without, too.

    Raises DeviceError when the kernel refuses, BusyError when it does not finish within so many seconds.
    """
    with lock_of(work, address, LOCK_WAIT) as lock:
        driver = current(work.host, address)
        if driver is None:
            if always and work.journal.of(UNBIND_KIND, address) is None:
                work.journal.done(work.journal.intend(UNBIND_KIND, address, None, None))
            return
        work.journal.gone(KIND, address)
        work.journal.gone(UNBIND_KIND, address)
        step = work.journal.intend(UNBIND_KIND, address, driver, None)
        what = f"cannot take {address} from {driver}"
        _write(work, f"{DRIVERS}/{driver}/unbind", address, what, seconds=seconds, lock=lock)
        left = current(work.host, address)
        if left is not None:
            raise DeviceError(f"{what}: the kernel took the write, but {left} has it", "see the kernel log")
        work.journal.done(step)


def set_override(work: Work, address: str, driver: str) -> None:
    """Let only this driver take a function. Raises DeviceError and BusyError."""
    with lock_of(work, address, LOCK_WAIT) as lock:
        before = override(work.host, address)
        if before == driver:
            work.journal.found(OVERRIDE_KIND, address)
            return
        work.journal.gone(OVERRIDE_KIND, address)
        step = work.journal.intend(OVERRIDE_KIND, address, before, driver)
        what = f"cannot set driver_override of {address} to {driver}"
        _write(work, f"{DEVICES}/{address}/driver_override", driver + "\n", what, lock=lock)
        if override(work.host, address) != driver:
            raise DeviceError(f"{what}: it reads {override(work.host, address)}", "see the kernel log")
        work.journal.done(step)


def bind(work: Work, address: str, driver: str, seconds: float) -> None:
    """Bind a function, whose override is set, to VFIO's driver. Raises DeviceError and BusyError."""
    with lock_of(work, address, LOCK_WAIT) as lock:
        now = current(work.host, address)
        what = f"cannot bind {address} to {driver}"
        if now not in {None, driver}:
            raise DeviceError(f"{what}: {now} has taken it meanwhile", "start again")
        work.journal.gone(KIND, address)
        step = work.journal.intend(KIND, address, None, driver)
        if now is None:
            _write(work, f"{DRIVERS}/{driver}/bind", address, what, seconds=seconds, lock=lock)
            if current(work.host, address) != driver:
                raise DeviceError(f"{what}: the kernel took the write, but did not bind it", "see the kernel log")
        work.journal.done(step)


def note(work: Work, address: str, *, rescan: bool) -> None:
    """Note that a function is to be looked at after the stop, and whether it may be looked for on the bus again."""
    after = RESCAN if rescan else LOOK
    step = work.journal.of(HEALTH_KIND, address)
    if step is None or step.after != after:
        work.journal.gone(HEALTH_KIND, address)
        work.journal.done(work.journal.intend(HEALTH_KIND, address, None, after))


# ---- undoing


def undo_note(work: Work, step: Step) -> str | None:
    """Look whether a function that a VM had still answers; one that does not goes into quarantine. Returns None."""
    from pvepassthru.lifecycle import health  # noqa: PLC0415 - as in _release

    if "vfio" not in (current(work.host, step.target) or ""):
        return None  # undo_bind looked at it, or it never got so far

    def look() -> None:
        health.look(work, step.target, rescan=_may_rescan(work, step.target))

    _while_ours(work, step, look)  # one that is another VM's by now is that one's to look at
    return None


def _may_rescan(work: Work, address: str) -> bool:
    step = work.journal.of(HEALTH_KIND, address)
    return step is not None and step.after == RESCAN


def undo_bind(work: Work, step: Step) -> str | None:
    """Take a function from VFIO's driver, if that still has it, it is this VM's and nobody has it open.

    Returns None when nothing of it remains, else why it was kept. Raises BusyError, DeviceError.
    """
    await_writes(work, step, UNDO_LOCK_WAIT)
    if current(work.host, step.target) != step.after:
        return None
    return _while_ours(work, step, lambda: _release(work, step))


def _release(work: Work, step: Step) -> str | None:
    from pvepassthru.lifecycle import health  # noqa: PLC0415 - the first look at a function that a VM had

    host, address, driver = work.host, step.target, step.after
    why = health.look(work, address, rescan=_may_rescan(work, address))
    if why is not None:
        return why
    with lock_of(work, address, UNDO_LOCK_WAIT) as lock:
        if current(host, address) != driver:
            return None
        users = holders.describe(holders.device_holders(host, f"{DEVICES}/{address}"))
        if users:
            return f"{users} has it open"
        what = f"cannot take {address} from {driver}"
        _write(work, f"{DRIVERS}/{driver}/unbind", address, what, lock=lock)
        left = current(host, address)
    return None if left is None else f"the kernel took the write, but {left} has it"


def undo_override(work: Work, step: Step) -> str | None:
    """Write the override that a function had, if ours still stands, it is this VM's and nobody has it open.

    Returns None when nothing of it remains, else why it was kept. Raises BusyError, DeviceError.
    """
    await_writes(work, step, UNDO_LOCK_WAIT)
    if _is_kept(work, step.target):
        return f"{step.after} still has it"
    if override(work.host, step.target) != step.after:
        return None
    return _while_ours(work, step, lambda: _restore(work, step))


def _restore(work: Work, step: Step) -> str | None:
    address = step.target
    with lock_of(work, address, UNDO_LOCK_WAIT) as lock:
        if override(work.host, address) != step.after:
            return None
        what = f"cannot set driver_override of {address} back to {step.before or 'nothing'}"
        path = f"{DEVICES}/{address}/driver_override"
        _write(work, path, f"{step.before or ''}\n", what, lock=lock)
        left = override(work.host, address)
    return None if left == step.before else f"the kernel took the write, but it reads {left}"


def undo_unbind(work: Work, step: Step) -> str | None:
    """Bind a function to the driver that the policy named, or else to the one that it had, if this VM has it still.

    Nothing is done to one that has a driver. Returns None when nothing of it remains, else why it was kept. Raises
    BusyError, DeviceError.
    """
    await_writes(work, step, UNDO_LOCK_WAIT)
    address = step.target
    if _is_kept(work, address):
        return "VFIO still has it"
    if any(other.kind == BAR_KIND and other.target.startswith(f"{address}/") for other in work.journal.steps):
        return "a BAR of it has not its former size yet, and the kernel resizes only what no driver has"
    named, former = step.after, step.before
    if not (named or former) or current(work.host, address) or not work.host.exists(f"{DEVICES}/{address}"):
        return None

    def give_back() -> str | None:
        if named is None or named == former:
            return _give_back(work, step, former or "")
        try:
            why = _give_back(work, step, named)
        except DeviceError as error:
            why = error.message
        if why is None or current(work.host, address) is not None:
            return why
        instead = f"{former}, which it had, gets it" if former else "it has none, as before"
        work.voice.warn(f"{address} does not go to {named} as the policy's give_back says: {why}; {instead}")
        return _give_back(work, step, former) if former else None

    return _while_ours(work, step, give_back)


def _give_back(work: Work, step: Step, driver: str) -> str | None:
    """Bind a function to this driver, whose override may stand against it."""
    address = step.target
    if not work.host.exists(f"{DRIVERS}/{driver}"):
        return f"its driver {driver} is not loaded (modprobe it)"
    pinned = override(work.host, address)
    for_the_moment: Step | None = None
    # as it was before the start: another driver's, or none though VFIO's had the function, whose ids nobody knows
    if pinned != driver and (pinned is not None or "vfio" in driver):
        for_the_moment = work.journal.intend(OVERRIDE_KIND, address, pinned, driver)
        _pin(work, address, driver)
    try:
        with lock_of(work, address, UNDO_LOCK_WAIT) as lock:
            now = current(work.host, address)
            if now is None:
                what = f"cannot give {address} back to {driver}"
                _write(work, f"{DRIVERS}/{driver}/bind", address, what, lock=lock)
                now = current(work.host, address)
    finally:
        if for_the_moment is not None:
            _pin(work, address, pinned or "")
            work.journal.undone(for_the_moment, "undone")
    if now != driver:
        return f"{driver} does not take it back ({now or 'no driver'} has it); see the kernel log"
    work.voice.say(f"gave {address} back to {driver}")
    return None


def _pin(work: Work, address: str, driver: str) -> None:
    with lock_of(work, address, UNDO_LOCK_WAIT) as lock:
        what = f"cannot set driver_override of {address}"
        _write(work, f"{DEVICES}/{address}/driver_override", driver + "\n", what, lock=lock)


def _is_kept(work: Work, address: str) -> bool:
    """Whether the step that bound a function could not be undone: those before it wait for that one."""
    bound = work.journal.of(KIND, address)
    return bound is not None and current(work.host, address) == bound.after


def still_open(work: Work) -> str | None:
    """Who has a function open that the journal has with VFIO, in words, or None: the VM has let go of all."""
    for step in work.journal.steps:
        if step.kind == KIND and current(work.host, step.target) == step.after:
            users = holders.describe(holders.device_holders(work.host, f"{DEVICES}/{step.target}"))
            if users:
                return f"{users} has {step.target} open"
    return None


def await_writes(work: Work, step: Step, most: float = LOCK_WAIT) -> None:
    """Wait for a write to a function that outlived its hook. Raises BusyError."""
    lock_of(work, step.target, most).release()


# ---- the present


def current(host: Host, address: str) -> str | None:
    """The driver that has a function now, or None."""
    return host.link(f"{DEVICES}/{address}/driver")


def override(host: Host, address: str) -> str | None:
    """A function's driver_override, or None if it has none. Raises DeviceError, BusyError when it is locked."""
    path = f"{DEVICES}/{address}/driver_override"
    try:
        text = host.read(path).decode("utf-8", "surrogateescape").strip()
    except OSError as error:
        if error.errno in ABSENT:
            return None
        if error.errno != errno.ETIMEDOUT:
            raise DeviceError(f"cannot read {path}: {error.strerror}", "see the kernel log") from error
        raise BusyError(
            f"cannot read {path}: the kernel does not answer within {ATTRIBUTE_WAIT:.0f} s; something else is done "
            "with the function, such as its driver's probe, a reset, or a removal of its VFs that waits for their user",
            "end that, or the process that it waits for; the kernel log may say more",
        ) from None
    return None if text in NONE else text


def _while_ours(work: Work, step: Step, deed: Callable[[], str | None]) -> str | None:
    """Do something to a function while this VM has all of its IOMMU group reserved, and nobody has it open.

    The whole group: for a VM that has another of its functions, this one must stay with VFIO.
    """
    address = step.target
    inventory = Inventory(work.host)
    members = {other for other in inventory.group_members(address) if not inventory.has(other, "pci_bus")}

    def closed() -> str | None:
        end = Deadline(work.deadline.left(work.patience))
        users = holders.wait_until_closed(work.host, f"{DEVICES}/{address}", end)
        return f"{holders.describe(users)} has it open" if users else deed()

    return reserve.while_ours(work, members | {address}, address, closed)


def lock_of(work: Work, address: str, most: float) -> Lock:
    """The lock on what is written about a function: its own, of a VF its PF's. Raises BusyError."""
    owner = Inventory(work.host).physical_function(address) or address
    return locks.take(work.host, state.device_lock_path(owner), work.deadline, f"the driver of {address}", most)


def _write(  # noqa: PLR0913 - what varies is by keyword
    work: Work, path: str, value: str, what: str, *, seconds: float | None = None, lock: Lock
) -> None:
    """Write to an attribute that may block; `what` are words for what cannot be done when it fails.

    Raises DeviceError when the kernel refuses, BusyError when it does not finish within so many seconds.
    """
    if not work.deadline:
        raise BusyError(f"{what}: no time was left for it", "try again")
    if seconds is None:
        seconds = min(SECONDS, max(LEAST, work.deadline.left() / 2))
    limit = work.deadline.left(seconds)
    try:
        work.write(path, value, limit, lock)
    except slow.StillBlockedError:
        waits = _waits_for(work.host, path, value)
        raise BusyError(
            f"{what}: the kernel has not finished the write to {path} within {limit:.0f} s{waits}",
            "end what uses it; the kernel log may say more",
        ) from None
    except OSError as error:
        hint = "see the kernel log" if error.errno != errno.ENODEV else "see that it is there and that the driver fits"
        raise DeviceError(f"{what}: the kernel says {error.strerror} to {path}", hint) from error


def _waits_for(host: Host, path: str, address: str) -> str:
    """Words for what an unbinding may wait for: processes that have the function open, users of the driver's module."""
    folder, _, name = path.rpartition("/")
    if name != "unbind":
        return ""
    found = holders.describe(holders.device_holders(host, f"{DEVICES}/{address}"))
    if found:
        return f"; {found} has it open"
    module = host.link(f"{folder}/module")
    count = host.text(f"/sys/module/{module}/refcnt") if module else None
    if count in {None, "0"}:
        return ""
    others = ", ".join(host.names(f"/sys/module/{module}/holders"))
    return f"; module {module} is in use {count} times{f', by {others}' if others else ''}"
