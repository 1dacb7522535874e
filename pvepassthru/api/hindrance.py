# SPDX-License-Identifier: Apache-2.0
"""What stands in the way of a change, all of it told before the first write, and with the preview already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.api import cluster, permission, reading, volumes
from pvepassthru.model.errors import ApiConflictError, ApiError, ApiMissingError
from pvepassthru.model.text import listed, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.api.change import Change
    from pvepassthru.api.client import Client
    from pvepassthru.api.reading import Reading
    from pvepassthru.model.errors import PassthruError

LOCKS = {
    "backup": "a backup is at work: repeat when it has ended",
    "clone": "it is being cloned: repeat when that has ended",
    "create": "it is being made: repeat when that has ended",
    "migrate": "it is being migrated: repeat when that has ended, with the hardware of the node where it is then",
    "rollback": "it is being rolled back: repeat when that has ended",
    "snapshot": "a snapshot is being made: repeat when that has ended",
    "snapshot-delete": "a snapshot is being removed: repeat when that has ended",
    "suspended": "it hibernates: start it, which takes up its saved memory with the devices that it had, and repeat",
    "suspending": "it is being hibernated: repeat when it has been started again",
}
"""What a lock means for somebody who wants to change the VM. Source: PVE::QemuConfig."""
UNKNOWN_LOCK = "wait until what holds the lock has ended"
LEFT_OVER = "if it is left over from a crash: qm unlock {vmid}, on node {node}"


def check(client: Client, change: Change, *, take_pending: bool) -> Reading:
    """The VM's config as it is before the first write.

    Raises ApiConflictError when the VM has another config or node by now, is locked, or has pending values of others
    that any write would make effective; ApiDeniedError for what this user may not; ApiMissingError for a storage or a
    hookscript that is not there, as far as this user may read that; and ApiError. The first of these that applies says
    all others, too.
    """
    try:
        now = reading.read(client, change.vmid, change.node)
    except ApiMissingError as error:
        raise _moved(client, change) or error from error
    found: list[PassthruError] = [*_found(client, change, now, take_pending=take_pending)]
    found += volumes.absent(client, change)
    if not found:
        return now
    messages = "; besides, ".join(error.message for error in found)
    hints = "; ".join(error.hint for error in found if error.hint)
    raise type(found[0])(f"{messages}; nothing was sent", hints)


def foreseen(client: Client | None, change: Change) -> tuple[PassthruError, ...]:
    """What would stand in the way of a change as things are now, each once; it only reads, and never raises ApiError.

    It is what `check` looks at. Without a client only the lock is looked at.
    """
    if not change.keys:
        return ()
    if client is None:
        lock = change.before.config.main.get("lock")
        return (_locked(change.vmid, change.node, lock),) if lock else ()
    try:
        now = reading.read(client, change.vmid, change.node)
        return (*_found(client, change, now, take_pending=False), *volumes.absent(client, change))
    except ApiError as error:
        return (error,)


def _found(client: Client, change: Change, now: Reading, *, take_pending: bool) -> Iterator[ApiError]:
    where = f"VM {now.vmid} on node {now.node}"
    differ = [one.key for one in change.keys if now.value(one.key) != one.old]
    if change.digest not in {None, now.digest} or differ:
        keys = f" ({listed(differ)})" if differ else ""
        yield ApiConflictError(
            f"the config of {where} has been changed since it was read{keys}",
            "read it again and repeat",
        )
    if now.lock:
        yield _locked(now.vmid, now.node, now.lock)
    lacks = permission.lacks(client, change)
    if lacks:
        yield permission.refusal(client, change, lacks)
    own = {one.key for one in change.keys}
    others = [key for key in now.waiting if key not in own]
    if others and not take_pending and not reading.runs(client, now.vmid, now.node):
        values = {key: now.pending[key] for key in others if key in now.pending}
        gone = [key for key in others if key in now.deletes]
        told = [f"{key}: {shown(text)}" for key, text in values.items()] + [f"{key} deleted" for key in gone]
        yield ApiConflictError(
            f"{where} does not run and has pending changes of others ({listed(told)}), which any write makes effective",
            f"take them along (--with-pending), or forget them: qm set {now.vmid} --revert {','.join(others)}",
        )


def _locked(vmid: int, node: str, lock: str) -> ApiConflictError:
    message = f"VM {vmid} on node {node} is locked ({shown(lock)}), so PVE changes nothing of it"
    return ApiConflictError(message, f"{LOCKS.get(lock, UNKNOWN_LOCK)}; {LEFT_OVER.format(vmid=vmid, node=node)}")


def _moved(client: Client, change: Change) -> ApiConflictError | None:
    """The error for a VM that is on another node by now; None where it is not."""
    known = cluster.vms(client).get(change.vmid)
    if known is None or known.node == change.node:
        return None
    return ApiConflictError(
        f"VM {change.vmid} is on node {known.node} by now, and the change was made for {change.node}; nothing was sent",
        "repeat it, with the hardware of the node where it is",
    )
