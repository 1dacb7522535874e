# SPDX-License-Identifier: Apache-2.0
"""Undo what a journal holds: in reverse, past failures, keeping what cannot be undone now."""

from __future__ import annotations

from pvepassthru.host import state
from pvepassthru.host.deadline import Deadline
from pvepassthru.lifecycle import mdev, reserve, vgpu
from pvepassthru.model.errors import PassthruError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from pvepassthru.lifecycle.journal import Journal, Step
    from pvepassthru.lifecycle.work import Work

UNDO: dict[str, Callable[[Work, Step], str | None]] = {
    mdev.KIND: mdev.undo,
    vgpu.KIND: vgpu.undo_type,
    reserve.KIND: reserve.undo,
}
"""Kind of step to what undoes it; each returns None when nothing of it remains, else why it was kept. More kinds, those
of functions that a VM gets as a whole, are in whole.UNDO."""

WORDS = {
    mdev.KIND: "mdev {after} {target}",
    vgpu.KIND: "vGPU type {after} on {target}",
    reserve.KIND: "the reservation of {target}",
    "service": "the stop of {target}",
    "unbind": "taking {target} from {before}",
    "override": "driver_override {after} of {target}",
    "driver": "binding {target} to {after}",
    "health": "a look at {target} after the stop",
    "console": "taking the console {target} off a GPU",
    "framebuffer": "unbinding {before} from {target}",
    "reset_method": "reset_method {after!r} of {target}",
    "d3cold": "d3cold_allowed {after} of {target}",
    "bar": "{after} bytes of {target}",
}
"""Kind of step to words for what it made."""


class Kept(NamedTuple):
    """A step that could not be undone."""

    step: Step
    why: str


def describe(step: Step) -> str:
    """Words for what a step made."""
    if step.kind == "unbind" and step.before is None:
        return f"giving {step.target} to {step.after or 'no driver'}"
    return WORDS.get(step.kind, "a step of unknown kind {kind} on {target}").format(
        kind=step.kind, target=step.target, before=step.before or "no driver", after=step.after
    )


def tell_damage(journal: Journal, warn: Callable[[str], None]) -> None:
    """Say what in a journal could not be understood."""
    for line in journal.damaged:
        warn(f"line {line} of {journal.path} is damaged and was passed over")
    if journal.lost:
        warn(
            f"{journal.path} is damaged: what its step {', '.join(map(str, sorted(journal.lost)))} did is "
            f"not known and not undone; see pvepassthru mdev list, and {state.damaged_path(journal.host, journal.vmid)}"
        )


def undo_all(work: Work, spare: Container[int] = ()) -> list[Kept]:
    """Undo every step but those whose numbers are in `spare`; remove the journal when none is left.

    Returns what had to be kept. Raises nothing of its own: a failure keeps the step. The patience is one for all steps
    that were kept: a QEMU that is still going has all of the VM's devices open.
    """
    kept: list[Kept] = []
    patience = work.patience
    for step in reversed(work.journal.steps):
        if step.number in spare:
            continue
        wait = Deadline(patience)
        one = undo_step(work._replace(patience=patience), step)
        if one is None:
            if step in work.journal.steps:  # a step may have to be noted where it was undone, under a lock
                _note(work, step)
        else:
            kept.append(one)
            patience = wait.left()
    if not work.journal.steps and work.journal.exists:
        try:
            work.journal.remove()
        except PassthruError as error:
            work.voice.warn(str(error))
    return kept


def undo_step(work: Work, step: Step) -> Kept | None:
    """Undo one step, which need not be in the journal, and note nothing. Returns it, with the reason, if it was kept.

    Raises nothing of its own.
    """
    why = _undo(work, step) if work.deadline else "no time was left for it"
    return None if why is None else Kept(step, why)


def undoing(kind: str) -> Callable[[Work, Step], str | None] | None:
    """What undoes steps of this kind, or None: this version does not know it."""
    if kind in UNDO:
        return UNDO[kind]
    from pvepassthru.lifecycle import whole  # noqa: PLC0415 - VMs with mediated devices only do not pay for it

    return whole.UNDO.get(kind)


def _undo(work: Work, step: Step) -> str | None:
    undo = undoing(step.kind)
    if undo is None:
        return f"this version does not know steps of kind {step.kind}; recover with the version that wrote it"
    try:
        return undo(work, step)
    except PassthruError as error:
        return error.message
    except OSError as error:
        return f"{error.filename or describe(step)}: {error.strerror}"


def _note(work: Work, step: Step) -> None:
    try:
        work.journal.undone(step, "undone")
    except PassthruError as error:  # the next look finds nothing of it
        work.voice.warn(str(error))
