# SPDX-License-Identifier: Apache-2.0
"""Making the mappings and the changes of a migration, and the way back of mappings that no VM has after all."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import apply as vm_changes
from pvepassthru.api import hindrance, mapping_apply, mapping_use, mappings, outcome
from pvepassthru.model import pci
from pvepassthru.model.errors import ApiError, EndedError, PassthruError
from pvepassthru.model.text import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pvepassthru.api.apply import Result
    from pvepassthru.api.change import Change
    from pvepassthru.api.client import Client
    from pvepassthru.api.mapping_apply import Written
    from pvepassthru.api.mapping_plan import Plan
    from pvepassthru.api.migration import Migration


class Outcome(NamedTuple):
    """What became of it."""

    results: tuple[Result, ...]
    """One a VM whose config was to change."""
    notes: tuple[str, ...]
    """What is to be known of the mappings."""
    gone: frozenset[str] = frozenset()
    """New mappings that are not there: they were removed again, since no VM has them."""


def check(client: Client, migration: Migration) -> None:
    """Raise UsageError when this client cannot write the mappings that are needed; what can be done is in its hint."""
    ways = [way for one in migration.plans for way in _ways(one)]
    vms = " ".join(str(one.vmid) for one in migration.changes if one.keys)
    hint = f"take a profile with root@pam's password, over https to this node, and migrate VM {vms} by that"
    if all(ways):
        steps = "; ".join(f"pvepassthru mapping apply {way}" for way in ways)
        hint = (
            f"with --profile and a profile that has a token: {steps}; then here: pvepassthru migrate-to-mapping {vms}"
        )
    mapping_apply.check(client, (one.name for one in migration.plans), hint)


def _ways(plan_: Plan) -> list[str]:
    """The words of `mapping apply` for each line that a mapping gets; empty where there are none for a line."""
    entries = [line.entry for one in plan_.lines if one.new for line in (mappings.line(one.new),) if line.entry]
    return [
        f"{plan_.name} --device {shlex.quote(';'.join(entry.paths))} --only --node {entry.node}"
        if len({pci.slot(path) for path in entry.paths}) == 1
        else ""
        for entry in entries
    ]


def apply(
    client: Client,
    migration: Migration,
    *,
    take_pending: bool = False,
    tell: Callable[[Result], None] | None = None,
) -> Outcome:
    """Make the mappings, then the VMs' changes, each as a whole or not at all; what stands in the way is said before.

    Mappings that were made for VMs whose change failed are removed again where nobody has them. `tell` is told of each
    VM as it is done. Raises before the first write as `check`, and as hindrance.check for any of the VMs; and what
    mapping_apply.apply raises, after which no VM is changed. KeyboardInterrupt and EndedError, and
    whatever else ends the work, come through after the same way back, with what was done and what was not in words.
    """
    changes = [one for one in migration.changes if one.keys]
    check(client, migration)
    for each in changes:
        hindrance.check(client, each, take_pending=take_pending)
    made: dict[str, Written] = {}
    notes: list[str] = []
    results: list[Result] = []
    try:
        for plan_ in migration.plans:
            written = mapping_apply.apply(client, plan_)
            if written:
                made[plan_.name] = written
                notes += [f"mapping {plan_.name}: {written.note}"] if written.note else []
        for result in vm_changes.apply_all(client, changes, take_pending=take_pending):
            results.append(result)
            if tell is not None:
                tell(result)
    except ApiError as error:
        left = _take_back(client, migration.plans, made, (), [error.message])
        if not left:
            raise
        raise mapping_apply.told(error, "; ".join((error.message, *left))) from error
    except BaseException as error:
        own = _own(error)
        words = [*own, *_so_far(changes, results, *own), *notes, *_left_by(client, migration.plans, made, results)]
        raise outcome.retold(error, "; ".join(words)) from error
    done = [result.change for result in results if result.applied]
    names = frozenset(made)
    if len(done) < len(changes):
        notes += _take_back(client, migration.plans, made, done, [*_so_far(changes, results), *notes])
    return Outcome(tuple(results), tuple(notes), names - made.keys())


def _own(cause: BaseException) -> list[str]:
    """The words of what ended the work, if it has some."""
    own = (cause.message if isinstance(cause, PassthruError) else str(cause)).strip()
    return [own] if own else []


def _so_far(changes: Sequence[Change], results: Sequence[Result], own: str = "") -> list[str]:
    """What became of the VMs when something ended the work, in words; its own say what became of the one at work."""
    done = [result.change.vmid for result in results if result.applied]
    left = [one.vmid for one in changes[len(results) :] if f"VM {one.vmid} " not in own]
    words = [f"changed: VM {listed(done)}"] if done else []
    return words + ([f"not changed: VM {listed(left)}"] if left else [])


def _left_by(client: Client, plans: Sequence[Plan], made: dict[str, Written], results: Iterable[Result]) -> list[str]:
    """The way back of mappings after something has ended the work: what was removed, and what stays or may stay."""
    words = []
    unsure = next((one for one in plans if one.name not in made and one.changed), None)
    if unsure is not None:  # what came of its write nobody has looked at
        words.append(f"mapping {unsure.name} is as it was or as planned: the same command again tells")
    done = [result.change for result in results if result.applied]
    try:
        return words + _take_back(client, plans, made, done, [])
    except (KeyboardInterrupt, EndedError) as again:
        return words + _own(again)


def _take_back(
    client: Client, plans: Iterable[Plan], made: dict[str, Written], done: Iterable[Change], said: Iterable[str]
) -> list[str]:
    """As `_taken_back`. What ends it comes through with `said` and with what may be left, in words."""
    try:
        return _taken_back(client, plans, made, done)
    except (KeyboardInterrupt, EndedError) as ended:
        words = f"interrupted on the way back, so mapping {listed(made)} may be left, though no VM may have it"
        raise outcome.retold(ended, "; ".join((*said, *_own(ended), words))) from ended


def _taken_back(client: Client, plans: Iterable[Plan], made: dict[str, Written], done: Iterable[Change]) -> list[str]:
    """Remove the new mappings that no VM has, from `made` too; what was removed, and what stays, in sentences.

    `done` are the changes that were made. What fails at it is not worth another error.
    """
    needed = {(entry.mapping, one.node) for one in done for entry in one.after.section.entries.values()}
    notes, new = [], []
    for plan_ in plans:
        if plan_.name not in made:
            continue
        nodes_ = list(dict.fromkeys(line.node for line in plan_.lines if line.new))
        idle = [node for node in nodes_ if (plan_.name, node) not in needed]
        if not plan_.before and idle == nodes_:
            new.append(plan_)
        elif idle:
            notes.append(f"mapping {plan_.name} keeps what it got for {listed(idle)}, though no VM of these has it now")
    try:
        used = _used(client) if any(made[one.name].ours for one in new) else {}
    except ApiError as error:
        why = f"whether a VM has it cannot be told ({error.message})"
        return [*notes, *(f"the new mapping {one.name} stays: {why}" for one in new)]
    for one in new:
        if one.name in used:
            notes.append(f"the new mapping {one.name} stays: VM {used[one.name]} has it by now")
        else:
            notes.append(_removed(client, one, made))
    return notes


def _removed(client: Client, plan_: Plan, made: dict[str, Written]) -> str:
    """Remove a mapping that no VM has, from `made` too; what came of it."""
    written = made[plan_.name]
    try:
        if mapping_apply.take_back(client, plan_, written):
            del made[plan_.name]
            return f"mapping {plan_.name} was removed again, since no VM has it"
    except ApiError as error:
        return f"the new mapping {plan_.name} stays, though no VM has it: {error.message}"
    whose = "changed" if written.ours else "made"
    return f"mapping {plan_.name} stays, since somebody else {whose} it meanwhile"


def _used(client: Client) -> dict[str, int]:
    """The mappings that VMs have, or will have, each with one of the VMs. Raises ApiError when that cannot be told."""
    uses = mapping_use.read(client)
    if uses.unread:
        raise ApiError(str(uses.unread[0][1]))
    return {one.mapping: one.vmid for one in uses.found}
