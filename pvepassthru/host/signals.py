# SPDX-License-Identifier: Apache-2.0
"""The signals that may end a hook, without the module signal.

That one makes enums of all signals, and imports enum and functools for it (python3 -X importtime). What it wraps is in
_signal, of every CPython.
"""

from __future__ import annotations

from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    import signal as c_signal
    from collections.abc import Callable
else:
    import _signal as c_signal

ENDING = {int(c_signal.SIGTERM): "SIGTERM", int(c_signal.SIGINT): "SIGINT", int(c_signal.SIGHUP): "SIGHUP"}
"""Signals that would end a hook half way, by number."""


def hold_back() -> set[int]:
    """Let these signals wait from now on; returns what `let_go` takes."""
    return set(c_signal.pthread_sigmask(c_signal.SIG_BLOCK, ENDING))


def let_go(mask: set[int]) -> None:
    """Take in what was held back, as before `hold_back`."""
    c_signal.pthread_sigmask(c_signal.SIG_SETMASK, mask)


def handle(handler: Callable[[int, object], object]) -> None:
    """Call `handler`, with the number, when one of them comes."""
    for number in ENDING:
        c_signal.signal(number, handler)


def usual_interrupt() -> None:
    """Let Ctrl-C end the process at once, as it does any program; Python's own handler would print a traceback.

    Where it was ignored from the start, as for a process in the background, it stays so.
    """
    if c_signal.getsignal(c_signal.SIGINT) != c_signal.SIG_IGN:
        c_signal.signal(c_signal.SIGINT, c_signal.SIG_DFL)


def ignore() -> None:
    """Take no notice of them any more, nor of one that has come just now: with SIG_IGN Python would complain of it."""
    handle(_nothing)


def ignore_to_the_end() -> None:
    """Take no notice of them until the process is gone: Python drops handlers of its own when it begins to end."""
    mask = hold_back()  # what came before is taken in here
    for number in ENDING:
        c_signal.signal(number, c_signal.SIG_IGN)
    let_go(mask)


def _nothing(_number: int, _frame: object) -> None:
    pass
