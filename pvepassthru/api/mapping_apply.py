# SPDX-License-Identifier: Apache-2.0
"""Writing a mapping: as planned, or as it was before, and it is said which.

PVE writes the file of all mappings as a whole, under a lock and only if the digest is still that of what was read, so
that there is nothing in between. What came of a write without a clear answer is read, never guessed.
Source: cluster/mapping/pci (POST for a new mapping, PUT with the whole `map` for one that is there).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import mapping_loss, mappings, permission, reading
from pvepassthru.model.errors import (
    ApiConflictError,
    ApiDeniedError,
    ApiError,
    ApiUnreachableError,
    ApiUnsureError,
    UsageError,
)
from pvepassthru.model.text import listed, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pvepassthru.api.client import Client
    from pvepassthru.api.mapping_plan import Plan
    from pvepassthru.api.mappings import Stored

MODIFY = "Mapping.Modify"
PATH = "/mapping/pci"
"""Where who makes or removes a mapping needs MODIFY; who changes one needs it below that, by its name."""
ROLES = "root@pam, and the roles Administrator and PVEMappingAdmin, have it"
OTHER_WAY = "take a profile with a token, over https to this node"
SETTLE = reading.SETTLING
"""Seconds between looks at a mapping whose write got no clear answer."""


class Written(NamedTuple):
    """What came of a write; the mapping is as planned."""

    stored: Stored
    """As PVE has it now."""
    note: str = ""
    """What is to be known of the way there; empty when the write was answered as it should be."""
    ours: bool = True
    """Whether it was this write that made it so; False when PVE refused it, and somebody else had done the same."""


def check(client: Client, names: Iterable[str], hint: str = OTHER_WAY) -> None:
    """Raise UsageError when this client cannot write these mappings at all: pvesh is given no lists (api/client.py)."""
    if client.profile.local and (wanted := listed(names)):
        message = f"mapping {wanted} cannot be written by pvesh, which {client.where} is asked by"
        raise UsageError(f"{message}; nothing was changed", hint)


def apply(client: Client, plan: Plan) -> Written | None:
    """Write what is planned, and read it back; None when there is nothing to change, and then nothing is asked.

    A plan that takes devices from a node is looked at once more: raises as mapping_loss.read tells when the VMs there
    need them. Raises else as `store`.
    """
    refusal = mapping_loss.read(client, plan)
    if refusal is not None:
        raise refusal
    return store(client, plan)


def store(client: Client, plan: Plan) -> Written | None:
    """The same without a look at who uses the mapping, for those who have looked.

    Raises before anything is written as `check`, and ApiDeniedError without Mapping.Modify; ApiConflictError when
    somebody else has changed the mappings since they were read, ApiUnreachableError when a write got no clear answer
    and was not done, and ApiError for what else PVE refuses: the mapping is as it was then. Raises ApiUnsureError when
    not even reading tells what came of it.
    """
    if not plan.changed:
        return None
    check(client, (plan.name,))
    path = f"/mapping/pci/{plan.name}" if plan.before else PATH
    need_privilege(client, "change" if plan.before else "make", plan.name, path)
    try:
        _write(client, plan)
    except ApiError as error:
        return _looked_up(client, plan, error)
    stored = read(client, plan.name)
    if not plan.after.same(stored):
        message = f"mapping {plan.name} was written, and is not as planned now: somebody else changed it meanwhile"
        raise ApiConflictError(message, "plan again")
    return Written(stored or plan.after)


def take_back(client: Client, plan: Plan, written: Written) -> bool:
    """Remove a mapping that `apply` made, as it says, if it is still just that; whether it was removed.

    PVE takes no digest for that, so whether somebody uses it by now is the caller's to look at just before. Raises
    ApiError.
    """
    if plan.before is not None or not written.ours or not plan.after.same(read(client, plan.name)):
        return False
    client.delete(f"{mappings.PATH}/{plan.name}")
    return True


def need_privilege(client: Client, verb: str, name: str, path: str) -> None:
    """Raise ApiDeniedError when this user lacks MODIFY on a path, which `verb` needs of a mapping."""
    if MODIFY not in permission.privileges(client, path):
        message = f"{client.user} may not {verb} mapping {name}: that needs {MODIFY} on {path}"
        raise ApiDeniedError(f"{message}; nothing was changed", ROLES)


def _write(client: Client, plan: Plan) -> None:
    lines = [line.text for line in plan.after.lines]
    flags = {
        key: now
        for key, now, was in (
            ("mdev", plan.after.mdev, plan.before and plan.before.mdev),
            ("live-migration-capable", plan.after.live_migration, plan.before and plan.before.live_migration),
        )
        if now != bool(was)
    }
    if plan.before is None:
        client.post(mappings.PATH, id=plan.name, map=lines, **flags)
    else:
        client.put(f"{mappings.PATH}/{plan.name}", map=lines, digest=plan.before.digest, **flags)


def _looked_up(client: Client, plan: Plan, error: ApiError) -> Written:
    """What came of a write that failed, or of which nobody knows. Raises ApiError unless it is as planned."""
    unsure = isinstance(error, ApiUnsureError)
    try:
        stored = settled(client, plan.name, SETTLE if unsure else (), lambda now: _as_before(plan, now))
    except ApiError as second:
        if not unsure:
            raise error from second
        message = f"it cannot be told whether mapping {plan.name} was changed: {error.message}; and {second.message}"
        raise ApiUnsureError(message, f"look at it: pvesh get /{mappings.PATH}/{plan.name}") from error
    if plan.after.same(stored):
        why = "the answer was lost, and it is as planned" if unsure else "somebody else did the same meanwhile"
        return Written(stored or plan.after, f"{why} ({error.message})", ours=unsure)
    if not _as_before(plan, stored):
        message = f"mapping {plan.name} was not changed as planned: somebody else changed it meanwhile"
        raise ApiConflictError(message, "plan again") from error
    if unsure:
        words = one_line(error.message)
        message = f"mapping {plan.name} was not changed: PVE gave no clear answer ({words}), and it is as it was"
        raise ApiUnreachableError(message, "run the same again") from error
    raise told(error, f"{error.message}; mapping {plan.name} is as it was") from error


def settled(
    client: Client, name: str, waits: Sequence[float], undone: Callable[[Stored | None], bool]
) -> Stored | None:
    """The mapping as it is, looked at again after each wait (in seconds) while a write is `undone`. Raises ApiError."""
    stored = read(client, name)
    for wait in waits:
        if not undone(stored):
            break
        time.sleep(wait)
        stored = read(client, name)
    return stored


def told(error: ApiError, message: str) -> ApiError:
    """The same error with another sentence."""
    return type(error)(message, error.hint, status=error.status, words=error.words, fields=error.fields)


def _as_before(plan: Plan, stored: Stored | None) -> bool:
    return stored is None if plan.before is None else plan.before.same(stored)


def read(client: Client, name: str) -> Stored | None:
    """The mapping as it is now; None if it is not there. Raises ApiError."""
    return mappings.read(client).get(name)
