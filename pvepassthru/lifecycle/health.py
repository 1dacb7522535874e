# SPDX-License-Identifier: Apache-2.0
"""A function after a stop: whether it still answers, and what becomes of one that fell off the bus.

All of its configuration space reads 0xFF then. No driver is given such a function: many crash on it. It goes into
quarantine (host/quarantine.py), which refuses starts with it, until it answers again or the host reboots.
"""

from __future__ import annotations

from pvepassthru.host import holders, quarantine, reservations, vms
from pvepassthru.host.deadline import Deadline, pause
from pvepassthru.host.inventory import DEVICES, Inventory
from pvepassthru.lifecycle import drivers
from pvepassthru.model import pci, quirks, reservation
from pvepassthru.model.errors import BusyError
from pvepassthru.model.problem import plain_id
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from pvepassthru.lifecycle.work import Work

WAKE_SECONDS = 3.0
"""How long a sleeping function may take to wake up; PCI Express gives it 1 s after a reset."""
RESCAN_SECONDS = 15.0
RESCAN = "/sys/bus/pci/rescan"
ASLEEP = frozenset({"suspended", "suspending", "resuming"})
"""What power/runtime_status says of a function that may be without power. Source: sysfs-devices-power."""


def look(work: Work, address: str, *, rescan: bool = False) -> str | None:
    """Why a function must not be given back to a driver of the host: it fell off the bus. None: it answers.

    Puts it in quarantine then, or ends that when it answers again. With `rescan` (the policy's) it is removed from the
    bus and looked for again first, once. Nobody may have the function open any more. Raises PassthruError when the
    quarantine cannot be noted.
    """
    known = quarantine.read(work.host, address)
    found = _answers(work, address)
    if found:
        _forget(work, address)
    if found or (known is None and found is None):
        return None
    if known:
        return known.why
    tried = ""
    if rescan:
        why_not = _why_no_rescan(work, address) or _rescan(work, address)
        if why_not is None:
            work.voice.warn(f"{address} fell off the bus, and answers again since it was removed and looked for again")
            return None
        tried = f" ({why_not})"
    why = f"{address} fell off the bus: its configuration space reads 0xFF everywhere{tried}{_reported(work, address)}"
    quarantine.put(work.host, address, work.vmid, why)
    work.voice.warn(f"{why}; it is in quarantine and gets no driver; {quarantine.way_out(address)}")
    return why


def forget_if_well(work: Work, address: str) -> None:
    """End the quarantine of a function that a start takes if it answers again. Raises PassthruError."""
    if not quarantine.standing(work.host, address):
        _forget(work, address)


def _forget(work: Work, address: str) -> None:
    if quarantine.read(work.host, address):
        quarantine.drop(work.host, address)
        work.voice.say(f"{address} answers again: its quarantine ends")


def _answers(work: Work, address: str) -> bool | None:
    """As quarantine.answers, of a function that is awake, if it can be woken; None of one that cannot be judged."""
    host = work.host
    found = quarantine.answers(host, address)
    if found is not False or host.text(f"{DEVICES}/{address}/power/runtime_status") not in ASLEEP:
        return found
    control = f"{DEVICES}/{address}/power/control"
    before = host.text(control)
    _try(work, address, control, "on")
    end = Deadline(work.deadline.left(WAKE_SECONDS))
    while host.text(f"{DEVICES}/{address}/power/runtime_status") in ASLEEP and pause(end, 0.05):
        pass
    asleep = host.text(f"{DEVICES}/{address}/power/runtime_status") in ASLEEP
    found = quarantine.answers(host, address)
    if before == "auto":
        _try(work, address, control, before)
    if found is False and asleep:
        work.voice.warn(f"{address} sleeps and does not wake up, so nobody can tell whether it is well")
        return None
    return found


def _try(work: Work, address: str, path: str, value: str) -> str | None:
    """Write to an attribute; why it failed, or None. Raises BusyError for the lock."""
    with drivers.lock_of(work, address, RESCAN_SECONDS) as lock:
        try:
            work.attempt(f"write {value} to {path}", path, value, RESCAN_SECONDS, lock)
        except BusyError as error:
            return error.message
        except OSError as error:
            return f"{path}: {error.strerror}"
    return None


def _reported(work: Work, address: str) -> str:
    """Words for a device that is known to do so."""
    device_id = (plain_id(Inventory(work.host), address, "vendor", "device") or "").lower()
    name = quirks.lost_until_reboot(device_id)
    return f"; {name} was reported to do so until the host reboots" if name else ""


def _why_no_rescan(work: Work, address: str) -> str | None:
    """Why a function is not removed from the bus, or None: that would harm nobody."""
    inventory = Inventory(work.host)
    if inventory.physical_function(address):
        return "a virtual function cannot be removed"
    if inventory.virtual_functions(address):
        return "it is not removed, since its virtual functions would go with it"
    entries = reservation.parse(reservations.text(work.host))
    now = int(work.host.now())
    for other in inventory.in_slot(pci.slot(address)):
        entry = entries.get(other)
        if entry and reservation.blocks(entry, work.vmid, now, lambda number: vms.running_pid(work.host, number)):
            return f"it is not removed, since VM {entry.vmid} has {other} of its slot"
        users = holders.device_holders(work.host, f"{DEVICES}/{other}")
        if users:
            return f"it is not removed, since {holders.describe(users)} has {other} of its slot open"
    return None


def _rescan(work: Work, address: str) -> str | None:
    """Remove a function from the bus and look for it again; why that did not help, or None."""
    work.voice.say(f"{address} fell off the bus: removing it and looking for it again")
    failed = _try(work, address, f"{DEVICES}/{address}/remove", "1")
    failed = _try(work, address, RESCAN, "1") or failed
    if failed:
        return f"removing it and looking for it again failed: {failed}"
    found = quarantine.answers(work.host, address)
    if found is None:
        return "it was removed and did not come back"
    return None if found else "removing it and looking for it again did not help"
