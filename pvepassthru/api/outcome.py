# SPDX-License-Identifier: Apache-2.0
"""How a change that was not made has ended, in words: no more than what was read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.api import permission, restore
from pvepassthru.model.errors import (
    ApiError,
    ApiPartialError,
    ApiUnreachableError,
    ApiUnsureError,
    PassthruError,
)
from pvepassthru.model.text import listed, one_line, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pvepassthru.api.change import Change, KeyChange, Write
    from pvepassthru.api.reading import Reading
    from pvepassthru.api.restore import Undone


def failure(change: Change, former: Reading, undone: Undone, cause: BaseException) -> BaseException:
    """The error for a change that was not made; `cause` is why it was not.

    ApiPartialError and ApiUnsureError when the former config is not there again, or that cannot be told; else one of
    the class of `cause`, of which it is known by then that nothing is left.
    """
    if undone.left:
        return _left(change, former, undone, cause)
    doubt = "one of its writes got no clear answer, and it was read: " if isinstance(cause, ApiUnsureError) else ""
    words = [f"{_where(undone.now)} is as it was: {doubt}{_words(cause)}", *_besides(change, former, undone)]
    message = "; ".join(words)
    if isinstance(cause, ApiError):
        kind = ApiUnreachableError if doubt else type(cause)
        hint = "repeat it" if doubt else cause.hint
        return kind(message, hint, status=cause.status, words=cause.words, fields=cause.fields)
    return retold(cause, message)


def retold(cause: BaseException, message: str) -> BaseException:
    """What ended something, with what came of it in words: the same, or one of the same class."""
    if isinstance(cause, PassthruError):
        return type(cause)(message, cause.hint)
    if isinstance(cause, KeyboardInterrupt):
        return KeyboardInterrupt(message)
    cause.add_note(message)
    return cause


def interrupted(change: Change, writes: Iterable[Write], error: BaseException) -> BaseException:
    """The interruption of the way back, with what may be left."""
    keys = [key for write in writes for key in restore.keys(write)]
    return type(error)(f"interrupted on the way back: {listed(keys)} of VM {change.vmid} may have their new values")


def _left(change: Change, former: Reading, undone: Undone, cause: BaseException) -> ApiError:
    now = undone.now
    theirs = [key for key in undone.left if restore.is_over_theirs(former, now, key)]
    why = undone.why.message if undone.why else "they do not stay as they are written"
    finish = permission.qm_set(change.vmid, {one.key: one.new for one in change.keys if one.new != now.value(one.key)})
    ours = set(undone.left).difference(theirs)
    undo = permission.qm_set(change.vmid, {one.key: one.old for one in change.keys if one.key in ours})
    undo += f" --revert {','.join(theirs)}" if theirs else ""
    states = "; ".join(_state(one, now) for one in change.keys if one.key in undone.left)
    look = f"see how it is (qm pending {change.vmid}, as root on node {now.node})"
    hint = f"{look}; to undo it: {undo}; to finish it: {finish}"
    if undone.fresh:
        message = (
            f"{_where(now)} has a part of the change, which could not be undone ({why}): {states}; its other keys are "
            f"as before; it was given up because of this: {_words(cause)}"
        )
        return ApiPartialError(message, hint)
    message = (
        f"it is not known how {_where(now)} is, since nothing could be read of it any more ({why}): when last read, "
        f"{states}; what was sent after that may have been done or not; before that: {_words(cause)}"
    )
    known = any(now.value(one.key) == one.new != one.old for one in change.keys if one.key in undone.left)
    return (ApiPartialError if known else ApiUnsureError)(message, hint)


def _state(one: KeyChange, now: Reading) -> str:
    """How a key is, in words."""
    text = now.value(one.key)
    how = "is not set" if text is None else f"is {shown(text)}"
    age = "as before" if text == one.old else "new"
    return f"{one.key} {how} ({age}{', pending' if now.waits(one.key) else ''})"


def _besides(change: Change, former: Reading, undone: Undone) -> list[str]:
    """What is to be known of a VM that is as it was."""
    now = undone.now
    words = []
    if now.node != change.node:
        words.append(f"it is on node {now.node} by now")
    if undone.others:
        words.append(f"somebody else has set {listed(undone.others)} meanwhile, which stays")
    own = {one.key for one in change.keys}
    taken = [key for key in former.waiting if key not in own and not now.waits(key)]
    if taken:
        words.append(f"pending values of others took effect with the writes: {listed(taken)}")
    for key, text in undone.volumes.items():
        words.append(
            f"volume {shown(text)} is left as {key}: if nobody needs it, qm set {now.vmid} --delete {key} removes it"
        )
    return words


def _where(now: Reading) -> str:
    return f"VM {now.vmid} on node {now.node}"


def _words(cause: BaseException) -> str:
    if isinstance(cause, PassthruError):
        return cause.message
    return (
        "the change was interrupted" if isinstance(cause, KeyboardInterrupt) else one_line(str(cause)) or "it was ended"
    )
