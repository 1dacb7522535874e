# SPDX-License-Identifier: Apache-2.0
"""A hook phase as PVE runs it: under the VM's lock, one sentence a line, and an exit code that only pre-start minds."""

from __future__ import annotations

import os
import time

from pvepassthru.host import locks, signals, slow, state
from pvepassthru.host.deadline import Deadline
from pvepassthru.host.host import open_host
from pvepassthru.lifecycle import phases
from pvepassthru.lifecycle.journal import Journal
from pvepassthru.lifecycle.phases import Start
from pvepassthru.lifecycle.work import Voice, Work
from pvepassthru.model.errors import EndedError, PassthruError
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

    from pvepassthru.host.host import Host


def run(root: str, vmid: int, phase: str, environment: Mapping[str, str], node: str | None = None) -> int:
    """Run one phase of one VM and return the exit code: only a failing pre-start has another than 0."""
    return run_on(open_host(root, node), vmid, phase, environment)


def run_on(host: Host, vmid: int, phase: str, environment: Mapping[str, str]) -> int:
    """As `run`, on a host that is there already. How it went is noted (state.note_run)."""
    started = time.monotonic()
    open_streams()
    say = _TaskLog(host, vmid)
    code = _run(host, vmid, phase, environment, say)
    took = int((time.monotonic() - started) * 1000)
    state.note_run(host, state.Run(vmid, phase, int(host.now() * 1000), took, code, say.warnings))
    return code if phase == "pre-start" else 0


def _run(host: Host, vmid: int, phase: str, environment: Mapping[str, str], say: _TaskLog) -> int:
    """Run one phase and return 0, or the exit code of the error that ended it."""
    if phase == "pre-start":  # it undoes itself before it ends; the other phases may be killed at any point
        signals.handle(_end)
    else:
        signals.usual_interrupt()
    try:
        run_phase(host, vmid, phase, Start(environment, finish=signals.ignore), Voice(say.info, say.warning, say.error))
    except PassthruError as error:
        say.error(str(error))
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - a task log must not get a traceback, nor a post-stop fail
        say.error(f"a bug of pvepassthru, please report it: {type(error).__name__}: {error}")
        return PassthruError.exit_code
    return 0


def run_phase(  # noqa: PLR0913 - what varies is by keyword
    host: Host,
    vmid: int,
    phase: str,
    start: Start,
    voice: Voice,
    *,
    patience: float | None = None,
) -> None:
    """Run one phase under the VM's lock, telling `voice` of it. Raises PassthruError.

    `start` is for pre-start; `patience` is how many seconds a post-stop waits for a QEMU that is still going
    (phases.PATIENCE, if not given).
    """
    deadline = Deadline(phases.BUDGET[phase])
    waits = phases.PATIENCE if patience is None else patience
    state.prepare(host)
    with locks.take(host, state.vm_lock_path(vmid), deadline, f"VM {vmid}"), slow.Writer(host) as writer:
        work = Work(host, vmid, Journal(host, vmid), deadline, waits, voice, writer)
        if phase == "pre-start":
            phases.pre_start(work, start)
        elif phase == "post-start":
            phases.post_start(work)
        elif phase == "pre-stop":
            phases.pre_stop(work)
        else:
            phases.post_stop(work)


def open_streams() -> None:
    """Open what the caller closed of stdin, stdout and stderr, so that no file of ours gets its number."""
    while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        pass
    os.close(fd)


def _end(number: int, _frame: object) -> NoReturn:
    signals.ignore()
    raise EndedError(f"the hook was ended by signal {signals.ENDING[number]}")


class _TaskLog:
    """Says things to the task log; warnings and errors also to syslog, since a post-stop's output may reach no log."""

    def __init__(self, host: Host, vmid: int) -> None:
        self.warnings = 0
        self._vmid = vmid
        self._syslog = not host.root and not host.simulated

    def info(self, sentence: str) -> None:
        _print(1, f"pvepassthru: {sentence}")

    def warning(self, sentence: str) -> None:
        self.warnings += 1
        _print(2, f"pvepassthru: warning: {sentence}")
        self._log("warning", sentence)

    def error(self, sentence: str) -> None:
        _print(2, f"pvepassthru: error: {sentence}")
        self._log("error", sentence)

    def _log(self, level: str, sentence: str) -> None:
        if not self._syslog:
            return
        import syslog  # noqa: PLC0415 - only when there is something to tell

        syslog.openlog(f"pvepassthru[{self._vmid}]", 0, syslog.LOG_DAEMON)
        priority = syslog.LOG_ERR if level == "error" else syslog.LOG_WARNING
        syslog.syslog(priority, one_line(sentence))


def _print(stream: int, sentence: str) -> None:
    try:
        os.write(stream, (one_line(sentence) + "\n").encode("utf-8", "backslashreplace"))
    except OSError:  # the reader is gone; the work goes on
        pass
