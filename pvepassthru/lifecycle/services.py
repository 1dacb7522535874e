# SPDX-License-Identifier: Apache-2.0
"""systemd's units that a policy has stopped while a VM has devices of the host, and started again afterwards.

A unit that several VMs need stopped is started when the last of them has given its devices back: each notes it in its
own journal, and looks at those of the others under a lock of the unit.
"""

from __future__ import annotations

from pvepassthru.host import locks, state, units
from pvepassthru.lifecycle import drivers
from pvepassthru.lifecycle.journal import Journal
from pvepassthru.model.errors import BusyError, PassthruError
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from pvepassthru.host.locks import Lock
    from pvepassthru.lifecycle.journal import Step
    from pvepassthru.lifecycle.work import Work
    from pvepassthru.model.policy import Service

KIND = "service"


def stop(work: Work, services: tuple[Service, ...]) -> None:
    """Stop those of these units that run. Raises DeviceError when one does not stop in time, and BusyError."""
    for service in services:
        unit = service.unit
        with _lock(work, unit) as lock:
            runs = units.is_running(work.host, unit)
            if not runs and (work.journal.of(KIND, unit) or not _others(work, unit)):
                continue  # not ours to start again, or noted already
            step = work.journal.of(KIND, unit) or work.journal.intend(KIND, unit, "active", "stopped")
            if runs:
                if not work.deadline:
                    raise BusyError(f"cannot stop {unit}: no time was left for it", "start again")
                units.stop(work.host, unit, work.deadline.left(service.seconds), lock)
                work.voice.say(f"stopped {unit}")
            work.journal.done(step)


def undo(work: Work, step: Step) -> str | None:
    """Start a unit that `stop` stopped, unless it runs, or another VM's journal has it stopped, too.

    Returns None when nothing of it remains, else why it was kept: the VM's QEMU is still going, and the unit would find
    its device gone. systemd starts it on its own time. Raises DeviceError when systemd refuses.
    """
    unit = step.target
    why = drivers.still_open(work)
    if why:
        return why
    with _lock(work, unit):
        if not units.is_running(work.host, unit):
            others = _others(work, unit)
            if others:
                work.voice.say(f"{unit} stays stopped for VM {', '.join(map(str, others))}")
            else:
                units.start(work.host, unit)
                work.voice.say(f"started {unit} again")
        work.journal.undone(step, "undone")  # under the lock: the next one must not count on us any more
    return None


def _lock(work: Work, unit: str) -> Lock:
    return locks.take(work.host, state.device_lock_path(unit), work.deadline, unit)


def _others(work: Work, unit: str) -> list[int]:
    """Other VMs whose journals have the unit stopped; one that cannot be read is told of, and not counted."""
    found = []
    for vmid in state.journals(work.host):
        if vmid == work.vmid:
            continue
        try:
            if Journal(work.host, vmid).of(KIND, unit):
                found.append(vmid)
        except PassthruError as error:
            work.voice.warn(f"not known whether VM {vmid} needs {unit} stopped: {error.message}")
    return found
