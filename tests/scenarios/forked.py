# SPDX-License-Identifier: Apache-2.0
"""The hook, or `pvepassthru recover`, in a forked process that can be killed at any change to the outside world.

A fork spares the start of an interpreter: in the guest that takes ten times as long as the work. Only the standard
library.
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pvepassthru.cli import main as cli
from pvepassthru.cli import recover as _recover
from pvepassthru.lifecycle import hook as _hook
from pvepassthru.lifecycle import quick
from tests.kernel import killed
from tests.kernel.checks import holds
from tests.scenarios.world import SCRIPT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.scenarios.world import World

LOADED = (_hook, _recover)
"""Modules that a forked hook would else load itself, each time anew."""
VMID = 100
"""Of the VM whose hook is killed."""
MOST_CHANGES = 4096


class Done(NamedTuple):
    """How a forked call ended."""

    code: int
    """Its exit code, or the negative number of the signal that ended it."""
    output: str
    changes: list[str]
    """Who made each change: `main`, or `child` for a child of its own, in capitals when it failed."""
    names: list[str]
    """What each change was, if that was asked for."""


class _Counter(killed.Killer):
    """As the Killer, and notes who made each change."""

    MAKERS: ClassVar = ("", "main", "child", "MAIN", "CHILD")

    def __init__(self, at: killed.At, pause: float) -> None:
        super().__init__(at)
        self._pause = pause
        self._who = mmap.mmap(-1, MOST_CHANGES)
        self._number = 0

    def _next(self, what: str) -> int:
        self._number = super()._next(what)
        self._note()
        return self._number

    def _around(self, name: str, real: Callable[..., Any], changes: Callable[..., bool]) -> Callable[..., Any]:
        def trying(*words: Any, **named: Any) -> Any:  # noqa: ANN401 - whatever the real function takes and returns
            try:
                return real(*words, **named)
            except OSError:
                if changes(*words, **named):
                    self._note(failed=2)
                raise

        return super()._around(name, trying, changes)

    def _kill(self) -> None:
        super()._kill()
        time.sleep(self._pause)

    def _note(self, failed: int = 0) -> None:
        self._who[self._number] = (1 if os.getpid() == self.main else 2) + failed

    def changes(self) -> list[str]:
        count = int.from_bytes(self._count[:8], "little")
        return [self.MAKERS[place] for place in self._who[1 : count + 1]]


def forked(
    call: Callable[[], int], at: killed.At | None = None, *, when: Callable[[], bool] | None = None, pause: float = 0.0
) -> Done:
    """Run a call in a forked process to its end, or kill it: as killed.py does, a spared child going on only after a
    `pause` of so many seconds, or as soon as `when()` is true.
    """
    at = at or killed.At()
    counter = _Counter(at, pause)
    output = os.memfd_create("output")
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115 - until _exit
            counter.main = os.getpid()
            counter.install()
            code = call()
            sys.stdout.flush()
        except BaseException:  # noqa: BLE001 - what a real process would end with
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    if when is not None:
        while not when() and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    text = os.pread(output, 1 << 20, 0).decode("utf-8", "replace")
    os.close(output)
    names: list[str] = []
    if at.log:
        with open(at.log, encoding="utf-8", errors="replace") as file:
            names = file.read().splitlines()
    return Done(code, text, counter.changes(), names)


def hook(world: World, phase: str, vmid: int = VMID) -> Callable[[], int]:
    """The hookscript's work."""

    def call() -> int:
        os.environ["PVEPASSTHRU_ROOT"] = world.root
        return quick.main([SCRIPT, str(vmid), phase])

    return call


def recover(world: World, *words: str) -> Callable[[], int]:
    """`pvepassthru recover`, which ends with 1 when it had to keep something."""

    return lambda: cli.main([*(["--root", world.root] if world.root else []), "recover", *words])


def ran(done: Done, code: int = 0) -> Done:
    """A forked call that ended with this exit code and without a traceback; else AssertionError."""
    holds(f"no traceback: {done.output}", "Traceback" not in done.output)
    if done.code != code:
        raise AssertionError(f"exit code {done.code}, expected {code}: {done.output}")
    return done
