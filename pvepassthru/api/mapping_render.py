# SPDX-License-Identifier: Apache-2.0
"""A mapping's plan in words, as a diff for people, and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.model.text import counted, one_line

if TYPE_CHECKING:
    from typing import Any

    from pvepassthru.api.mapping_plan import Plan
    from pvepassthru.api.mapping_removal import Removal
    from pvepassthru.api.mappings import Stored
    from pvepassthru.model.errors import PassthruError


def diff(plan: Plan, refusal: PassthruError | None = None) -> str:
    """What is to become of a mapping, line by line with the reasons; what else is to be known, and why not."""
    nodes = dict.fromkeys(line.node for line in plan.after.lines if line.node)
    size = f"{counted(len(plan.after.lines), 'device')} on {counted(len(nodes), 'node')}"
    what = "new" if plan.before is None else "changed" if plan.changed else "nothing to change"
    lines = [f"mapping {plan.name}: {what}, {size}"]
    for flag, now, was in _flags(plan):
        lines += [f"- {flag} {int(was)}"] if plan.before and was != now else []
        lines += [f"+ {flag} {int(now)}"] if was != now else []
    for change in plan.lines:
        lines += [f"- map {change.old}"] if change.old is not None else []
        lines += [f"+ map {change.new}"] if change.new is not None else []
        lines.append(f"    {change.reason}")
    for node in plan.moved:
        lines.append(f"order on node {node}:")
        lines += [f"    {line.text}" for line in plan.after.lines if line.node == node]
    for stale in plan.stale:
        lines += [f"! map {stale.text}", f"    it stays, and does not fit: {stale.why}"]
    lines += [f"note: {note}" for note in plan.notes]
    lines += [f"refused: {refusal}"] if refusal else []
    return "".join(f"{one_line(line)}\n" for line in lines)


def shape(plan: Plan, refusal: PassthruError | None = None) -> dict[str, Any]:
    """The plan as JSON has it (docs/json.md)."""
    return {
        "mapping": plan.name,
        "changed": plan.changed,
        "before": None if plan.before is None else _stored(plan.before),
        "after": _stored(plan.after),
        "digest": plan.before.digest if plan.before else None,
        "changes": [change._asdict() for change in plan.lines],
        "moved": list(plan.moved),
        "stale": [stale._asdict() for stale in plan.stale],
        "refused": refusal.message if refusal else None,
        "hint": refusal.hint or None if refusal else None,
        "notes": list(plan.notes),
    }


def removal_diff(removal: Removal) -> str:
    """What goes of a mapping, line by line, what stands in the way, and what is to be known besides."""
    gone = counted(len(removal.lines), "device")
    what = f"to be removed, with {gone}"
    if removal.after is not None:
        what = f"{gone} to be removed, {counted(len(removal.after.lines), 'device')} left"
    lines = [f"mapping {removal.name}: {what}"]
    lines += [f"- map {line.text}" for line in removal.lines]
    lines += [f"note: {note}" for note in removal.notes]
    lines += [f"refused: {removal.refusal}"] if removal.refusal else []
    return "".join(f"{one_line(line)}\n" for line in lines)


def removal_shape(removal: Removal) -> dict[str, Any]:
    """A removal as JSON has it (docs/json.md)."""
    return {
        "mapping": removal.name,
        "before": _stored(removal.before),
        "after": None if removal.after is None else _stored(removal.after),
        "digest": removal.before.digest,
        "removed": [line.text for line in removal.lines],
        "users": [{"vmid": one.vmid, "node": one.node, "key": one.key} for one in removal.users],
        "refused": removal.refusal.message if removal.refusal else None,
        "hint": removal.refusal.hint or None if removal.refusal else None,
        "notes": list(removal.notes),
    }


def _stored(stored: Stored) -> dict[str, Any]:
    return {
        "mdev": stored.mdev,
        "live_migration_capable": stored.live_migration,
        "map": [line.text for line in stored.lines],
    }


def _flags(plan: Plan) -> list[tuple[str, bool, bool]]:
    before = plan.before
    return [
        ("mdev", plan.after.mdev, bool(before and before.mdev)),
        ("live-migration-capable", plan.after.live_migration, bool(before and before.live_migration)),
    ]
