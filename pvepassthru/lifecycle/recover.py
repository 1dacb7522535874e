# SPDX-License-Identifier: Apache-2.0
"""Undo what the hooks of dead VMs left behind.

A VM that is between pre-start and its QEMU does not run either. So a VM counts as dead only while we hold PVE's own
lock on its config, which PVE holds through a whole start, and find no live pid, no process in its scope and no vfio
holder.
"""

from __future__ import annotations

from pvepassthru.host import filelocks, holders, state, vms
from pvepassthru.host.deadline import Deadline
from pvepassthru.host.inventory import DEVICES
from pvepassthru.lifecycle.journal import Journal
from pvepassthru.lifecycle.undo import describe, tell_damage, undo_all
from pvepassthru.lifecycle.work import Voice, Work
from pvepassthru.model.errors import BusyError, PassthruError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvepassthru.host.host import Host
    from pvepassthru.lifecycle.journal import Step

LOCK_WAIT = 5.0
"""Seconds to wait for PVE's lock on a VM's config."""
VM_LOCK_WAIT = 2.0
UNDO_BUDGET = 6.0
"""Seconds for another hook or command of ours to end, and then for the steps of one VM. PVE waits 10 s for the lock
that we hold meanwhile, and a start must not fail for us; what does not fit stays in the journal for the next time."""


class Outcome(NamedTuple):
    """What recover did for one VM."""

    vmid: int
    state: str
    """`recovered`, `would-recover` (in a dry run), `kept` (some steps could not be undone), `alive`, `busy` (PVE works
    on the VM), `failed`."""
    reason: str
    """Why it is `alive`, `busy` or `failed`; else empty."""
    undone: tuple[str, ...]
    """Words for each step undone, or, in a dry run, that would be looked at."""
    kept: tuple[str, ...]
    """Words for each step kept, with the reason."""


def recover(host: Host, vmid: int, *, dry_run: bool, warn: Callable[[str], None]) -> Outcome:
    """Undo the journal of one VM if that VM is dead. Raises UnsafeError when the state folder cannot be trusted."""
    state.check(host)
    try:
        config_lock = filelocks.hold(host, vms.config_lock_path(host, vmid), LOCK_WAIT, f"the config of VM {vmid}")
        with config_lock, filelocks.hold(host, state.vm_lock_path(vmid), VM_LOCK_WAIT, f"VM {vmid}"):
            return _recover_locked(host, vmid, dry_run=dry_run, warn=warn)
    except BusyError as error:
        return Outcome(vmid, "busy", error.message, (), ())
    except PassthruError as error:
        return Outcome(vmid, "failed", str(error), (), ())


def sign_of_life(host: Host, vmid: int, steps: tuple[Step, ...]) -> str | None:
    """Why a VM does not count as dead, or None if it does. Whoever asks holds PVE's lock on its config."""
    pid = vms.running_pid(host, vmid)
    if pid is not None:
        return f"it runs as process {pid}"
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


def _recover_locked(host: Host, vmid: int, *, dry_run: bool, warn: Callable[[str], None]) -> Outcome:
    journal = Journal(host, vmid)
    tell_damage(journal, warn)
    alive = sign_of_life(host, vmid, journal.steps)
    if alive is not None:
        return Outcome(vmid, "alive", alive, (), ())
    steps = tuple(describe(step) for step in journal.steps)
    if dry_run:
        return Outcome(vmid, "would-recover", "", steps, ())
    undone: list[str] = []
    work = Work(host, vmid, journal, Deadline(UNDO_BUDGET), 0.0, Voice(undone.append, warn, warn))
    kept = tuple(f"{describe(kept.step)}: {kept.why}" for kept in undo_all(work))
    return Outcome(vmid, "kept" if kept else "recovered", "", tuple(undone), kept)
