# SPDX-License-Identifier: Apache-2.0
"""The life of a mediated device: create it under PVE's UUID, and remove it when nobody has it open.

Source: Linux Documentation/driver-api/vfio-mediated-device.rst; tests/kernel/sysfs_mdev.py has what each write answers.
"""

from __future__ import annotations

import errno

from pvepassthru.host import holders, locks, slow, state
from pvepassthru.host.deadline import Deadline, pause
from pvepassthru.host.inventory import DEVICES, MDEVS, Inventory, Mdev
from pvepassthru.model import pci
from pvepassthru.model.errors import BusyError, DeviceError
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.start import owners
from pvepassthru.model.text import shown

if TYPE_CHECKING:
    from pvepassthru.host.host import Host
    from pvepassthru.host.locks import Lock
    from pvepassthru.lifecycle.journal import Step
    from pvepassthru.lifecycle.work import Want, Work

KIND = "mdev"
HALF_CREATED_WAIT = 10.0
"""Seconds to wait for a create that another process has under way."""
INSTANCE_LOCK_WAIT = 2.0
"""Seconds to wait for an earlier write to this very instance."""
REMOVE_WAIT = 10.0
"""Seconds to wait for a remove, which blocks while a process has the device open."""
PARENT_WAIT = 15.0
"""Seconds to wait for each parent when there are others to choose from."""
GONE = frozenset({errno.ENOENT, errno.ENODEV})


def create(work: Work, want: Want, strategy: str = "order") -> None:
    """See that the wanted instance exists: adopt the one that is there, or create it on a parent with room.

    Of several parents it is the first in PVE's order, or the one that the strategy (model/placement.py) likes best.
    Raises DeviceError when it cannot be had, with the reason of each parent, and BusyError when a wait was too long.
    """
    with _instance_lock(work, want.uuid, want.candidates):
        parent = _adopt(work, want)
        if parent is not None:
            work.journal.found(KIND, f"{parent}/{want.uuid}")
            return
        blocked = _being_removed(work.host, want.uuid, want.candidates)
        if blocked is not None:
            raise blocked
        untried = list(want.candidates)
        refusals = {}
        while untried:
            held = _parent_locks(work, untried, strategy)
            try:
                parent = _best(work.host, want.type, untried, strategy, held)
                work.journal.gone(KIND, f"{parent}/{want.uuid}")  # PVE removed what an earlier start made
                refusal = _create_on(work, want, parent, held[parent])
            finally:
                for lock in held.values():
                    lock.release()
            if refusal is None:
                return
            untried.remove(parent)
            refusals[parent] = refusal
    words = "; ".join(f"on {parent}: {refusals[parent]}" for parent in want.candidates)
    raise DeviceError(
        f"cannot create mdev {shown(want.type)} for hostpci{want.entry} {words}",
        "stop a VM that uses one, choose a type on offer, or use a mapping with more devices",
    )


def undo(work: Work, step: Step) -> str | None:
    """Remove an instance that `create` made, if it is still that one and nobody has it open.

    Returns None when nothing of it remains, else why it was kept.
    """
    parent, _, uuid = step.target.partition("/")
    owner = pci.vmid_of_uuid(uuid)
    if owner is None or owner[1] != work.vmid:
        return f"its UUID is not one of VM {work.vmid}"
    _await_create(work, step)
    with _instance_lock(work, uuid, (parent,)) as lock:
        return _undo(work, step, parent, uuid, lock)


def await_writes(work: Work, step: Step) -> None:
    """Wait for a create or remove that outlived its hook. Raises BusyError, DeviceError when it waits for a process."""
    parent, _, uuid = step.target.partition("/")
    _await_create(work, step)
    _instance_lock(work, uuid, (parent,)).release()


def _undo(work: Work, step: Step, parent: str, uuid: str, lock: Lock) -> str | None:
    host = work.host
    found = complete(host, uuid, work.deadline)
    if found is None:
        return removal(host, uuid, parent)
    if found.type is None:  # removing it now would answer EAGAIN and take its `remove` file away for good
        return "the kernel is still creating it"
    if (found.parent, found.type) != (parent, step.after):
        work.voice.warn(f"mdev {uuid} is now {found.type} on {found.parent}, not the one made here: left alone")
        return None
    users = holders.wait_until_closed(host, f"{MDEVS}/{uuid}", Deadline(work.deadline.left(work.patience)))
    if users:
        return f"{holders.describe(users)} has it open"
    why = remove(host, uuid, parent, work.deadline, lock)
    if why is None:
        work.voice.say(f"gave back mdev {step.after} {step.target}")
    return why


def _instance_lock(work: Work, uuid: str, parents: tuple[str, ...]) -> Lock:
    """The lock of one instance, which a removal that outlived its hook holds until it has ended. Raises DeviceError."""
    try:
        return locks.take(work.host, state.device_lock_path(uuid), work.deadline, f"mdev {uuid}", INSTANCE_LOCK_WAIT)
    except BusyError as error:
        raise _being_removed(work.host, uuid, parents) or error from None


def _parent_lock(work: Work, parent: str, most: float | None = None) -> Lock:
    """The lock of a parent, held while choosing and creating. Raises BusyError."""
    return locks.take(work.host, state.device_lock_path(parent), work.deadline, f"mdev parent {parent}", most)


def _parent_locks(work: Work, untried: list[str], strategy: str) -> dict[str, Lock]:
    """The locks of the parents among which to choose: of the next one, or of all, if a strategy compares them.

    All are held until the instance is there, since only then others see it: else starts at the same time would choose
    the same GPU, or scatter over all. They are taken by address, so that nobody waits for him who waits for him. A
    parent with which another start is busy for long is left out, as long as there are others. Raises BusyError.
    """
    if strategy == "order" or len(untried) == 1:
        return {untried[0]: _parent_lock(work, untried[0])}
    held: dict[str, Lock] = {}
    late = []
    try:
        for parent in sorted(set(untried)):
            try:
                held[parent] = _parent_lock(work, parent, PARENT_WAIT)
            except BusyError as error:
                late.append(error)
    except BaseException:
        for lock in held.values():
            lock.release()
        raise
    if not held:
        raise late[0]
    return held


def _best(host: Host, kind: str, untried: list[str], strategy: str, held: dict[str, Lock]) -> str:
    """The parent, of those whose locks are held, on which a strategy puts one more instance."""
    if len(held) == 1:
        return next(iter(held))
    from pvepassthru.host import capacity  # noqa: PLC0415 - only who asks for a strategy pays for it
    from pvepassthru.model import placement  # noqa: PLC0415 - likewise

    ranking = placement.ranked(capacity.gpus(Inventory(host), untried), kind, strategy)
    return next(parent for parent in ranking if parent in held)


def _await_create(work: Work, step: Step) -> None:
    """Wait for a create that may have outlived its hook: it holds the parent's lock until it has ended.

    Raises BusyError.
    """
    if not step.done:
        _parent_lock(work, step.target.partition("/")[0], HALF_CREATED_WAIT).release()


def _adopt(work: Work, want: Want) -> str | None:
    """The parent of the instance that is there already and fits, or None; DeviceError when it does not fit."""
    found = complete(work.host, want.uuid, work.deadline)
    if found is None:
        return None
    what = f"cannot use mdev {want.uuid} for hostpci{want.entry}"
    if found.type is None:
        raise BusyError(f"{what}: the kernel is still creating it", "see what its driver says in the kernel log")
    if found.type != want.type:
        raise DeviceError(
            f"{what}: it exists with type {found.type} on {found.parent}, not {want.type}",
            f"see who made it, then: echo 1 > {MDEVS}/{want.uuid}/remove",
        )
    if found.parent not in want.candidates:
        raise DeviceError(
            f"{what}: it exists on {found.parent}, not on {' or '.join(want.candidates)}",
            f"see who made it, then: echo 1 > {MDEVS}/{want.uuid}/remove",
        )
    users = holders.device_holders(work.host, f"{MDEVS}/{want.uuid}")
    if users:
        raise DeviceError(f"{what}: {holders.describe(users)} has it open", "end that process, then start again")
    work.voice.say(f"adopted mdev {want.type} on {found.parent} ({want.uuid})")
    return found.parent


def _create_on(work: Work, want: Want, parent: str, lock: Lock) -> str | None:
    """Create the instance on one parent, whose lock is given. Returns None, or why it is not to be had there."""
    host = work.host
    inventory = Inventory(host)
    folder = f"{DEVICES}/{parent}/mdev_supported_types"
    if not want.type.isprintable() or not host.exists(f"{folder}/{want.type}"):
        return f"it offers {', '.join(host.names(folder)) or 'no mdev types'}"
    if inventory.mdev_available(parent, want.type) == 0:
        return _no_room(inventory, parent)
    if not work.deadline:
        raise BusyError(f"cannot create mdev {want.type} on {parent}: no time was left for it", "start again")
    step = work.journal.intend(KIND, f"{parent}/{want.uuid}", None, want.type)
    try:
        work.write(f"{folder}/{want.type}/create", want.uuid, work.deadline.left(), lock)
    except slow.StillBlockedError:
        raise BusyError(
            f"cannot create mdev {want.type} on {parent}: the kernel has not finished in time",
            "see what its driver says in the kernel log",
        ) from None
    except OSError as error:
        work.journal.undone(step, f"not created: {errno.errorcode.get(error.errno or 0, error.errno)}")
        if error.errno == errno.EEXIST:
            raise _being_removed(host, want.uuid, want.candidates) or DeviceError(
                f"cannot create mdev {want.uuid} for hostpci{want.entry}: somebody else has just created it",
                "start again",
            ) from error
        if error.errno in {errno.ENOSPC, errno.EUSERS}:
            return _no_room(Inventory(host), parent)
        return f"the kernel says {error.strerror}"
    made = Inventory(host).mdev(want.uuid)
    if (made.parent, made.type) != (parent, want.type):
        return f"it was created but is not there as {want.type} on {parent}; see the kernel log"
    work.journal.done(step)
    work.voice.say(f"created mdev {want.type} on {parent} ({want.uuid})")
    return None


def _no_room(inventory: Inventory, parent: str) -> str:
    users = owners(inventory.mdevs_of(parent))[1]
    return f"no instance left ({f'used by {users}' if users else 'none in use here'})"


def _being_removed(host: Host, uuid: str, parents: tuple[str, ...]) -> DeviceError | None:
    """The error for an instance whose removal waits, on whichever of these parents, or None."""
    for parent in parents:
        words = removal(host, uuid, parent)
        if words is not None:
            return DeviceError(
                f"cannot use mdev {uuid}: for an older one on {parent} {words}", "end that process, then try again"
            )
    return None


def removal(host: Host, uuid: str, parent: str) -> str | None:
    """Words for a removal that waits, or None: /sys/bus/mdev lists it no more, its parent's folder still does."""
    folder = f"{DEVICES}/{parent}/{uuid}"
    if not host.exists(folder):
        return None
    users = holders.describe(holders.device_holders(host, folder)) or "a process"
    return f"a removal is under way, and waits for {users} to close it"


def complete(host: Host, uuid: str, deadline: Deadline) -> Mdev | None:
    """The instance, or None; after waiting for a create that is under way, and with no type if that has not ended."""
    end = Deadline(deadline.left(HALF_CREATED_WAIT))
    while True:
        if not host.exists(f"{MDEVS}/{uuid}"):
            return None
        found = Inventory(host).mdev(uuid)
        if found.type is not None or not pause(end, 0.05):
            return found


def remove(host: Host, uuid: str, parent: str, deadline: Deadline, lock: Lock) -> str | None:
    """Remove an instance whose lock is given. Returns None when it is gone, else why it is not."""
    folder = f"{MDEVS}/{uuid}"
    try:
        slow.write(host, f"{folder}/remove", "1", deadline.left(REMOVE_WAIT), lock)
    except slow.StillBlockedError:
        return removal(host, uuid, parent)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return "the kernel is still creating it, and now only unbinding its parent's driver can remove it"
        if error.errno not in GONE:
            return f"the kernel says {error.strerror}"
    return "it is still there after its removal; see the kernel log" if host.exists(folder) else None
