# SPDX-License-Identifier: Apache-2.0
"""Undo what the hooks of dead VMs left behind, and take back what is theirs without being in a journal.

A VM that is between pre-start and its QEMU does not run either. So a VM counts as dead only while we hold PVE's own
lock on its config, which PVE holds through a whole start, and find no live pid, no process in its scope and no vfio
holder. The lock is this node's: a VM that has moved to another node, or is just coming from there, is told by it too.
"""

from __future__ import annotations

import contextlib

from pvepassthru.host import filelocks, holders, slow, state, vms
from pvepassthru.host.deadline import Deadline
from pvepassthru.host.inventory import DEVICES
from pvepassthru.lifecycle import orphans
from pvepassthru.lifecycle.journal import Journal
from pvepassthru.lifecycle.undo import describe, tell_damage, undo_all, undo_step
from pvepassthru.lifecycle.work import Voice, Work
from pvepassthru.model.errors import BusyError, DeviceError, PassthruError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Literal

    from pvepassthru.host.host import Host
    from pvepassthru.lifecycle.journal import Step

    State = Literal["recovered", "would-recover", "kept", "gone", "alive", "busy", "failed", "postponed"]

LOCK_WAIT = 5.0
"""Seconds to wait for PVE's lock on a VM's config."""
VM_LOCK_WAIT = 2.0
UNDO_BUDGET = 6.0
"""Seconds for another hook or command of ours to end, and then for the steps of one VM. PVE waits 10 s for the lock
that we hold meanwhile, and a start must not fail for us; what does not fit stays in the journal for the next time."""
MOST = LOCK_WAIT + VM_LOCK_WAIT + UNDO_BUDGET
"""Seconds that one VM may take; a run that has less left does not begin with another."""


class Outcome(NamedTuple):
    """What recover did for one VM."""

    vmid: int
    state: State
    """`recovered`, `would-recover` (in a dry run), `kept` (something could not be undone), `gone` (nothing is left:
    somebody else has seen to it meanwhile), `alive`, `busy` (PVE works on the VM), `failed`, `postponed` (no time was
    left)."""
    reason: str
    """Why it is `alive`, `busy`, `failed` or `postponed`; else empty."""
    undone: tuple[str, ...]
    """Words for each step undone, or, in a dry run, that would be looked at."""
    kept: tuple[str, ...]
    """Words for each step kept, with the reason."""


def recover(
    host: Host, vmid: int, *, dry_run: bool, warn: Callable[[str], None], with_orphans: bool = False
) -> Outcome:
    """Undo the journal of one VM if that VM is dead; with `with_orphans` also what is provably its own beside that.

    Raises UnsafeError when the state folder cannot be trusted.
    """
    state.prepare(host)
    pid = vms.running_pid(host, vmid)
    if pid is not None:  # its locks are not needed to know, and so are left to those who work on it
        return Outcome(vmid, "alive", _runs_as(pid), (), ())
    try:
        with _held(host, vmid):
            journal = Journal(host, vmid)
            proven = with_orphans and orphans.is_of_this_node(host, vmid) and not journal.damaged
            more = orphans.left(host, vmid).steps if proven else ()
            if not (journal.exists or more):
                return Outcome(vmid, "gone", "", (), ())
            return _free(journal, orphans.Left(more, ()), dry_run=dry_run, warn=warn)
    except BusyError as error:
        return Outcome(vmid, "busy", error.message, (), ())
    except PassthruError as error:
        return Outcome(vmid, "failed", str(error), (), ())


def release(host: Host, vmid: int, *, dry_run: bool, warn: Callable[[str], None]) -> Outcome:
    """Undo all that is this VM's, by its journal or by PVE's UUID or reservation, because somebody asks for it by hand.

    Its state is `recovered`, `would-recover`, `kept` or `gone`. Raises DeviceError when the VM lives, BusyError when
    PVE or a hook works on it, InputError and UnsafeError when the journal cannot be used.
    """
    state.prepare(host)
    with _held(host, vmid):
        journal = Journal(host, vmid)
        left = orphans.left(host, vmid)
        if not (journal.exists or left.steps or left.kept):
            return Outcome(vmid, "gone", "", (), ())
        outcome = _free(journal, left, dry_run=dry_run, warn=warn)
    if outcome.state == "alive":
        raise DeviceError(f"cannot release VM {vmid}: {outcome.reason}", f"stop it first: qm stop {vmid}")
    return outcome


def sign_of_life(host: Host, vmid: int, steps: tuple[Step, ...]) -> str | None:
    """Why a VM does not count as dead, or None if it does. Whoever asks holds PVE's lock on its config."""
    pid = vms.running_pid(host, vmid)
    if pid is not None:
        return _runs_as(pid)
    scope = vms.scope_pids(host, vmid)
    if scope:
        return f"its scope still has process {', '.join(map(str, scope))}"
    for step in steps:
        users = holders.device_holders(host, device_folder(step))
        if users:
            return f"{holders.describe(users)} has {describe(step)} open"
    return None


def device_folder(step: Step) -> str:
    """The sysfs folder of what a step was done to."""
    return f"{DEVICES}/{step.target}"


@contextlib.contextmanager
def _held(host: Host, vmid: int) -> Iterator[None]:
    """Hold PVE's lock on a VM's config and ours on the VM. Raises BusyError and PassthruError."""
    config_lock = filelocks.hold(host, vms.config_lock_path(host, vmid), LOCK_WAIT, f"the config of VM {vmid}")
    with config_lock, filelocks.hold(host, state.vm_lock_path(vmid), VM_LOCK_WAIT, f"VM {vmid}"):
        yield


def _runs_as(pid: int) -> str:
    return f"it runs as process {pid}"


def _free(journal: Journal, left: orphans.Left, *, dry_run: bool, warn: Callable[[str], None]) -> Outcome:
    """Undo a journal and what is left beside it, with the VM's locks held, if the VM is dead."""
    host, vmid = journal.host, journal.vmid
    tell_damage(journal, warn)
    alive = sign_of_life(host, vmid, (*journal.steps, *left.steps))
    if alive is not None:
        return Outcome(vmid, "alive", alive, (), ())
    if dry_run:
        steps = (*journal.steps, *left.steps)
        return Outcome(vmid, "would-recover", "", tuple(describe(step) for step in steps), left.kept)
    undone: list[str] = []
    with slow.Writer(host) as writer:
        work = Work(host, vmid, journal, Deadline(UNDO_BUDGET), 0.0, Voice(undone.append, warn, warn), writer)
        kept = [*undo_all(work), *(one for step in left.steps if (one := undo_step(work, step)))]
    words = (*(f"{describe(one.step)}: {one.why}" for one in kept), *left.kept)
    return Outcome(vmid, "kept" if words else "recovered", "", tuple(undone), words)
