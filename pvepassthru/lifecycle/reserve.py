# SPDX-License-Identifier: Apache-2.0
"""A VM's functions in PVE's reservation file: kept for its start, and asked for again before anything is given back.

PVE drops its reservations before post-stop. So whoever undoes something reserves the functions first: one that is
another VM's by then is left alone.
"""

from __future__ import annotations

from pvepassthru.host import reservations
from pvepassthru.model.errors import DeviceError
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pvepassthru.lifecycle.journal import Step
    from pvepassthru.lifecycle.work import Work

KIND = "reserve"


def reserve(work: Work, functions: Sequence[str], beside: Iterable[str] = ()) -> None:
    """Reserve functions in PVE's file, all or none, for longer than this phase can last, and journal each.

    Raises DeviceError when one of them, or of what is `beside` them, is another VM's, and BusyError when PVE's lock is
    not to be had; in the journal they are then as before.
    """
    fresh = [function for function in functions if work.journal.of(KIND, function) is None]
    befores = [reservations.own(work.host, function, work.vmid) for function in fresh]
    steps = [
        work.journal.intend(KIND, function, before, str(work.vmid))
        for function, before in zip(fresh, befores, strict=True)
    ]
    seconds = int(work.deadline.seconds)
    try:
        reservations.reserve(work.host, functions, work.vmid, seconds, work.deadline, beside=beside)
    except DeviceError:
        for step in steps:
            work.journal.undone(step, "another VM's")
        raise
    for step in steps:
        work.journal.done(step)


def undo(work: Work, step: Step) -> str | None:
    """Drop the reservation that `reserve` made, unless the VM had one before or runs with it. Returns None."""
    held = reservations.own(work.host, step.target, work.vmid)
    if step.before is None and not (held or "").startswith("pid:"):  # PVE's own, of the VM's QEMU
        reservations.release(work.host, [step.target], work.vmid, work.deadline)
    return None


def while_ours(work: Work, functions: Iterable[str], what: str, deed: Callable[[], str | None]) -> str | None:
    """Do something to functions while they are reserved for this VM, and return what the deed returns.

    Returns, without the deed, why not when one of them is another VM's by now; `what` names them then. Raises as the
    deed, and BusyError.
    """
    wanted = sorted(functions)
    absent = [function for function in wanted if reservations.own(work.host, function, work.vmid) is None]
    if not absent:
        return deed()
    try:
        reservations.reserve(work.host, wanted, work.vmid, int(work.deadline.seconds), work.deadline)
    except DeviceError as error:
        return f"{what} is no longer this VM's: {error.message}"
    try:
        return deed()
    finally:
        # what a step of the journal reserved is let go with that step
        new = [function for function in absent if work.journal.of(KIND, function) is None]
        if new:
            reservations.release(work.host, new, work.vmid, work.deadline)
