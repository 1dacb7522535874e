# SPDX-License-Identifier: Apache-2.0
"""What the policy sets on a function while a VM has it: reset methods, d3cold_allowed, sizes of resizable BARs.

`apply` comes before the function's driver is unbound, `resize` between unbind and bind: the kernel resizes only what no
driver has. Undoing a size therefore takes the function from vfio-pci and gives it back to vfio-pci: so a journal is
undone in reverse as it stands, and the driver's own step comes after that.

Source: Linux Documentation/ABI/testing/sysfs-bus-pci. reset_method and d3cold_allowed are measured on Linux 6.1 and
6.12 (tests/kernel/sysfs_settings.py); resourceN_resize, which no device of the testbed has, is read in
drivers/pci/pci-sysfs.c.
"""

from __future__ import annotations

import errno

from pvepassthru.host import holders, neighbours, quarantine
from pvepassthru.host.deadline import Deadline
from pvepassthru.host.inventory import DEVICES, Inventory
from pvepassthru.lifecycle import drivers, reserve
from pvepassthru.model import bars, quirks
from pvepassthru.model.errors import DeviceError
from pvepassthru.model.problem import plain_id
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from pvepassthru.lifecycle.journal import Step
    from pvepassthru.lifecycle.work import Function, Work
    from pvepassthru.model.policy import DevicePolicy

RESET = "reset_method"
"""Target: the address; before and after: the file's text."""
D3COLD = "d3cold"
"""Target: the address; before and after: 0 or 1."""
BAR = drivers.BAR_KIND
"""Target: ADDRESS/BAR, such as 0000:01:00.0/bar1; before and after: bytes."""
AUTO = "auto"
UNDO_SECONDS = 8.0
"""How long a write that gives something back may take, if the phase has so much time left: others have to be given
back, too."""
LOCK_WAIT = 2.0
"""Seconds for a function's lock: who holds it for longer has a write that hangs."""
_NO_EFFECT = "the kernel took the write to {}, but it still reads {}"
_WHY_NOT = {
    errno.ENOSPC: (
        "the bridge above has no room for it",
        'enable "Above 4G decoding" and "Resizable BAR" in the firmware, or leave the size as it is',
    ),
    errno.EBUSY: ("a driver or another user has its memory", "see who uses the device"),
}


def apply(work: Work, function: Function, device_policy: DevicePolicy) -> None:
    """Set what the policy wants of reset methods and d3cold_allowed; before the function's driver is unbound.

    Raises DeviceError when the kernel does not offer it, or a reset of the bus would hit others, and BusyError.
    """
    if device_policy.reset_method is not None:
        _set_reset(work, function.address, device_policy)
    if device_policy.d3cold is not None:
        _set_d3cold(work, function.address, device_policy)


def resize(work: Work, function: Function, device_policy: DevicePolicy) -> None:
    """Give resizable BARs the policy's sizes; while no driver has the function.

    Raises DeviceError when the device or its bridge cannot do it, and BusyError.
    """
    for bar, size in device_policy.bars:
        _resize(work, function.address, bar, size, device_policy.seconds)


def undo_reset(work: Work, step: Step) -> str | None:
    """Give a function its former reset methods back. Returns None when nothing of it remains, else why it was kept."""
    path = f"{DEVICES}/{step.target}/reset_method"
    if work.host.text(path) != step.after:
        return None
    return reserve.while_ours(work, [step.target], step.target, lambda: _undo_reset(work, step, path))


def undo_d3cold(work: Work, step: Step) -> str | None:
    """Write the former d3cold_allowed. Returns None when nothing of it remains, else why it was kept."""
    path = f"{DEVICES}/{step.target}/d3cold_allowed"
    if work.host.text(path) != step.after:
        return None
    return reserve.while_ours(work, [step.target], step.target, lambda: _undo_d3cold(work, step, path))


def undo_bar(work: Work, step: Step) -> str | None:
    """Give a BAR its former size back. Returns None when nothing of it remains, else why it was kept.

    A function that vfio-pci has is taken from it for that, and bound to it again. One that another driver has by now
    is kept: the kernel resizes only what no driver has.
    """
    address, _, name = step.target.partition("/")
    bar = int(name.removeprefix("bar"))
    if _size(work, address, bar) != int(step.after or 0):
        return None
    return reserve.while_ours(work, [address], address, lambda: _undo_bar(work, step, address, bar))


# ---- reset methods


def _set_reset(work: Work, address: str, policy: DevicePolicy) -> None:
    path = f"{DEVICES}/{address}/reset_method"
    before = work.host.text(path)
    wanted = policy.reset_method or ""
    if before is None:
        if wanted == AUTO:
            return
        raise DeviceError(
            f"cannot set reset_method {wanted} on {address}: the kernel has no way to reset it",
            f"remove reset_method of {address} from the policy",
        )
    methods = wanted.split()
    if wanted == AUTO:
        methods = _best(work, address, before.split())
    elif "bus" in methods:
        found = neighbours.active(Inventory(work.host), address, work.vmid)
        if found:
            raise DeviceError(
                f"cannot let {address} be reset with its whole bus: that would hit {_listed(found)}",
                f"take bus out of reset_method of {address} in the policy, or pass them to the same VM",
            )
    after = " ".join(methods)
    if after == before:
        work.journal.found(RESET, address)
        return
    step = _intend(work, RESET, address, before, after)
    try:
        _write(work, address, path, after, policy.seconds)
    except OSError as error:
        why, hint = _why_refused(error, address, methods, before)
        raise DeviceError(f"cannot set reset_method {after} on {address}: {why}", hint) from error
    now = work.host.text(path)
    if now != after:
        raise DeviceError(
            f"cannot set reset_method {after} on {address}: the kernel took the write but reads {now}",
            "see the kernel log",
        )
    work.journal.done(step)
    work.voice.say(f"{address} is reset by {after}")


def _why_refused(error: OSError, address: str, methods: list[str], shown: str) -> tuple[str, str]:
    """Why the kernel takes no such reset methods where it shows these, and the way out."""
    if error.errno != errno.EINVAL:
        return error.strerror or str(error), "see the kernel log"
    if set(methods) <= set(shown.split()):
        return (
            "the kernel shows it, but refuses it now, as it does bus of a function that is no longer alone on its bus",
            f"take reset_method of {address} out of the policy, or name another method",
        )
    path = f"{DEVICES}/{address}/reset_method"
    return (
        f"the kernel offers {shown or 'none now'}",
        f"write one of these into the policy; echo default > {path} shows all that there are",
    )


def _best(work: Work, address: str, offered: list[str]) -> list[str]:
    """What the quirk table makes of the offered methods, without `bus` where that would hit others."""
    inventory = Inventory(work.host)
    device_id = (plain_id(inventory, address, "vendor", "device") or "").lower()
    methods = list(quirks.reset_methods(device_id, tuple(offered)))
    if "bus" in methods:
        found = neighbours.active(inventory, address, work.vmid)
        if found and methods != ["bus"]:
            methods.remove("bus")
            work.voice.warn(f"{address} is not reset with its whole bus, since that would hit {_listed(found)}")
        elif found:  # the kernel does not do it either; without any method PVE would refuse the start
            work.voice.warn(
                f"{address} can only be reset with its whole bus, which would hit {_listed(found)}, so it is not reset"
            )
    return methods or offered


def _listed(found: dict[str, str]) -> str:
    """Words for neighbours, the first three by name."""
    words = [f"{address} ({who})" for address, who in sorted(found.items())]
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def _undo_reset(work: Work, step: Step, path: str) -> str | None:
    why = _in_use(work, step.target)
    if why:
        return why
    try:
        _write(work, step.target, path, step.before or "\n", UNDO_SECONDS)
    except OSError as error:
        if error.errno != errno.EINVAL:
            return f"{path}: {error.strerror}"
        # a method that the kernel no longer has, since the device is no longer alone on its bus for instance
        work.voice.warn(f"{step.target} no longer has the reset methods {step.before}; it gets what the kernel offers")
        _write(work, step.target, path, "default", UNDO_SECONDS)
    else:
        if work.host.text(path) == step.after:
            return _NO_EFFECT.format(path, step.after)
    work.voice.say(f"{step.target} is reset by {work.host.text(path) or 'nothing'} again")
    return None


# ---- d3cold_allowed


def _set_d3cold(work: Work, address: str, policy: DevicePolicy) -> None:
    path = f"{DEVICES}/{address}/d3cold_allowed"
    before, after = work.host.text(path), "1" if policy.d3cold else "0"
    if before is None:
        work.voice.warn(f"{address} has no d3cold_allowed, which the policy sets: this kernel knows no power states")
        return
    if before == after:
        work.journal.found(D3COLD, address)
        return
    step = _intend(work, D3COLD, address, before, after)
    try:
        _write(work, address, path, after, policy.seconds)
    except OSError as error:
        raise DeviceError(
            f"cannot set d3cold_allowed {after} on {address}: {error.strerror}", "see the kernel log"
        ) from error
    if work.host.text(path) != after:
        work.voice.warn(f"d3cold_allowed of {address} stays {before}: the kernel takes the write and does nothing")
    else:
        work.voice.say(f"d3cold_allowed of {address} is {after}")
    work.journal.done(step)


def _undo_d3cold(work: Work, step: Step, path: str) -> str | None:
    why = _in_use(work, step.target)
    if why:
        return why
    _write(work, step.target, path, step.before or "0", UNDO_SECONDS)
    if work.host.text(path) == step.after:
        return _NO_EFFECT.format(path, step.after)
    work.voice.say(f"d3cold_allowed of {step.target} is {step.before or '0'} again")
    return None


# ---- BARs


def _resize(work: Work, address: str, bar: int, size: int, seconds: float) -> None:
    what = f"cannot make BAR {bar} of {address} {bars.words(size)} large"
    offered = bars.sizes(work.host.text(_resize_path(address, bar)) or "")
    if not offered:
        raise DeviceError(f"{what}: it is not resizable", f"remove it from `bars` of {address} in the policy")
    number = bars.number_of(size)
    if number is None or size not in offered:
        raise DeviceError(
            f"{what}: it can be {', '.join(map(bars.words, offered))}", "write one of these into the policy"
        )
    before = _size(work, address, bar)
    target = f"{address}/bar{bar}"
    if before is None:
        raise DeviceError(f"{what}: it has no address now", 'enable "Above 4G decoding" in the firmware')
    if before == size:
        work.journal.found(BAR, target)
        return
    step = _intend(work, BAR, target, str(before), str(size))
    _write_size(work, address, bar, size, seconds)
    now = _size(work, address, bar)
    if now != size:
        raise DeviceError(
            f"{what}: the kernel took the write, but it is {bars.words(now) if now else 'gone'}", "see the kernel log"
        )
    work.journal.done(step)
    work.voice.say(f"BAR {bar} of {address} is {bars.words(size)} large")


def _undo_bar(work: Work, step: Step, address: str, bar: int) -> str | None:
    why = _in_use(work, address)
    if why:
        return why
    if quarantine.standing(work.host, address):
        return f"{address} is in quarantine"
    driver = work.host.link(f"{DEVICES}/{address}/driver")
    if driver is not None and "vfio" not in driver:
        return f"{driver} has {address}, and the kernel resizes only what no driver has"
    if driver is not None:
        _write_driver(work, address, f"/sys/bus/pci/drivers/{driver}/unbind")
    try:
        _write_size(work, address, bar, int(step.before or 0), UNDO_SECONDS)
    finally:
        if driver is not None:
            _write_driver(work, address, f"/sys/bus/pci/drivers/{driver}/bind")
    if _size(work, address, bar) == int(step.after or 0):
        return f"the kernel took the write to {_resize_path(address, bar)}, but the size is the same"
    work.voice.say(f"BAR {bar} of {address} is {bars.words(int(step.before or 0))} large again")
    return None


def _write_size(work: Work, address: str, bar: int, size: int, seconds: float) -> None:
    """Resize a BAR. Raises DeviceError and BusyError."""
    try:
        _write(work, address, _resize_path(address, bar), str(bars.number_of(size)), seconds)
    except OSError as error:
        why, hint = _WHY_NOT.get(error.errno or 0, (f"the kernel says {error.strerror}", "see the kernel log"))
        raise DeviceError(f"cannot make BAR {bar} of {address} {bars.words(size)} large: {why}", hint) from error


def _write_driver(work: Work, address: str, path: str) -> None:
    try:
        _write(work, address, path, address, UNDO_SECONDS)
    except OSError as error:
        if error.errno not in {errno.ENODEV, errno.EBUSY}:  # unbound, or bound, by somebody else meanwhile
            raise DeviceError(f"cannot write {address} to {path}: {error.strerror}", "see the kernel log") from error


def _resize_path(address: str, bar: int) -> str:
    return f"{DEVICES}/{address}/resource{bar}_resize"


def _size(work: Work, address: str, bar: int) -> int | None:
    return bars.size_now(work.host.text(f"{DEVICES}/{address}/resource") or "", bar)


# ---- what all of them need


def _intend(work: Work, kind: str, target: str, now: str, after: str) -> Step:
    """Note a deed. What an earlier start found, and whose value still stands, is what will be given back."""
    old = work.journal.of(kind, target)
    step = work.journal.intend(kind, target, old.before if old and old.after == now else now, after)
    if old:
        work.journal.undone(old, "replaced")
    return step


def _in_use(work: Work, address: str) -> str | None:
    """Why a function cannot be changed now: a process still has it open when the patience is over."""
    users = holders.wait_until_closed(work.host, f"{DEVICES}/{address}", Deadline(work.deadline.left(work.patience)))
    return f"{holders.describe(users)} has {address} open" if users else None


def _write(work: Work, address: str, path: str, value: str, seconds: float) -> None:
    """Write to a function's attribute under its lock. Raises OSError as the kernel, and BusyError."""
    with drivers.lock_of(work, address, LOCK_WAIT) as lock:
        work.attempt(f"write {value.strip()} to {path}", path, value, seconds, lock)
