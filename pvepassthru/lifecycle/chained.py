# SPDX-License-Identifier: Apache-2.0
"""A hook phase of a VM that had another hookscript before ours: both are run, the other one around ours.

At pre-start and pre-stop it comes first, at post-start and post-stop last: it may free the device that ours takes, and
take it back. It is run as PVE runs it: path, VMID and phase as arguments, the same environment, folder and streams,
and no limit. What its exit code means is PVE's, too: at pre-start any other than 0 refuses the start.
"""

from __future__ import annotations

import errno
import os

from pvepassthru.host import chained, cluster, signals, snippets
from pvepassthru.host.host import Host
from pvepassthru.lifecycle import quick
from pvepassthru.model.errors import DeviceError, PassthruError
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import one_line, shown

if TYPE_CHECKING:
    import signal as c_signal

    from pvepassthru.model.chain import Link
else:
    import _signal as c_signal

FIRST = ("pre-start", "pre-stop")
"""Phases in which the other one comes first."""
_FORWARDED = (int(c_signal.SIGTERM), int(c_signal.SIGHUP))
_INTERRUPT = int(c_signal.SIGINT)
_IGNORED = (c_signal.SIGPIPE, c_signal.SIGXFSZ)
"""Python ignores these, and what it starts would, too."""


def main(argv: list[str]) -> int:
    """Run one hook phase (argv: script, VMID, phase) of both scripts and return the exit code for PVE."""
    if len(argv) != 3 or not quick.is_vmid(argv[1]) or argv[2] not in quick.PHASES:
        return quick.main(argv)
    host = Host(os.environ.get("PVEPASSTHRU_ROOT") or "/")
    try:
        link = chained.read(host).get(int(argv[1]))
    except PassthruError as error:
        _say(host, argv, f"it cannot be told which hookscript is chained to ours: {error}")
        if argv[2] == "pre-start":
            return error.exit_code
        link = None
    if link is None:
        return quick.main(argv)
    if argv[2] in FIRST:
        return _around(host, link, argv)
    ours = quick.main(argv)
    return _other(host, link, argv) or ours


def _around(host: Host, link: Link, argv: list[str]) -> int:
    """The exit code of a phase in which the other script comes first."""
    other = _other(host, link, argv)
    if argv[2] != "pre-start":
        return quick.main(argv) or other
    if other:
        return other
    ours = quick.main(argv)
    if ours:
        words = f"hookscript {shown(link.volume)} has run before; as after any start that fails, PVE does not run its"
        _say(host, argv, f"{words} post-stop")
    return ours


def _other(host: Host, link: Link, argv: list[str]) -> int:
    """The exit code of the other script, which was told of where it is not 0; 128 + N for signal N."""
    try:
        status = _run(host, link, argv)
    except PassthruError as error:
        _say(host, argv, str(error))
        return error.exit_code
    code = os.waitstatus_to_exitcode(status)
    if code:
        how = f"ended with {code}" if code > 0 else f"was ended by signal {-code}"
        then = f", so VM {argv[1]} does not start" if argv[2] == "pre-start" else ""
        _say(host, argv, f"hookscript {shown(link.volume)}, chained to ours, {how} at {argv[2]}{then}")
    return code if code >= 0 else 128 - code


def _run(host: Host, link: Link, argv: list[str]) -> int:
    """Run the other script and return its wait status. Raises DeviceError when it cannot be run."""
    path = host.path(_path(host, link, argv[1]))
    mask = signals.hold_back()
    try:
        if os.path.samefile(path, argv[0]):  # it would run itself for ever
            return 0
        pid = _spawn([path, *argv[1:]], mask)
    except OSError as error:
        raise DeviceError(
            f"cannot run hookscript {shown(link.volume)}, chained to ours: {error.strerror}", f"see {shown(path)}"
        ) from error
    else:
        return _wait(pid, mask)
    finally:
        signals.let_go(mask)


def _spawn(words: list[str], mask: set[int]) -> int:
    """Start a program as execvp(3), so as PVE: one without a first line that names another is sh's. Raises OSError."""
    try:
        return os.posix_spawn(words[0], words, os.environ, setsigmask=mask, setsigdef=_IGNORED)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
    return os.posix_spawn("/bin/sh", ["/bin/sh", *words], os.environ, setsigmask=mask, setsigdef=_IGNORED)


def _path(host: Host, link: Link, vmid: str) -> str:
    """Where the script is now. Raises DeviceError when PVE would not run it."""
    storages = cluster.storages(host)
    found = snippets.locate(storages, link.volume) if storages is not None else "storage.cfg cannot be read"
    why = found if isinstance(found, str) else snippets.fault(host, found.path)
    if isinstance(found, str) or why:
        way = f"pvepassthru detach {vmid}; pvepassthru attach {vmid}"
        raise DeviceError(
            f"cannot run hookscript {shown(link.volume)}, chained to ours: {why}",
            f"put it back and make it executable, or do without it: {way}",
        )
    return found.path


def _wait(pid: int, mask: set[int]) -> int:
    """Wait for a child and return its status; what is to end this process ends the child. `mask` is then in force."""

    def pass_on(number: int, _frame: object) -> None:
        os.kill(pid, number)

    old = {number: c_signal.signal(number, pass_on) for number in _FORWARDED}
    old[_INTERRUPT] = c_signal.signal(_INTERRUPT, _nothing)  # a terminal sends it to both
    signals.let_go(mask)
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it keeps its pid until nobody sends it signals any more
    finally:
        for number, handler in old.items():
            c_signal.signal(number, handler)
    return os.waitpid(pid, 0)[1]


def _nothing(_number: int, _frame: object) -> None:
    pass


def _say(host: Host, argv: list[str], sentence: str) -> None:
    """Say it to the task log, and to syslog; at pre-start it is why the VM does not start."""
    level = "error" if argv[2] == "pre-start" else "warning"
    try:
        os.write(2, f"pvepassthru: {level}: {one_line(sentence)}\n".encode("utf-8", "backslashreplace"))
    except OSError:  # nobody listens
        pass
    if not host.root:
        import syslog  # noqa: PLC0415 - only when there is something to tell

        syslog.openlog(f"pvepassthru[{argv[1]}]", 0, syslog.LOG_DAEMON)
        syslog.syslog(syslog.LOG_ERR if level == "error" else syslog.LOG_WARNING, one_line(sentence))
