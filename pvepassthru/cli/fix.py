# SPDX-License-Identifier: Apache-2.0
"""`doctor --fix` and `doctor --undo`: the changes of a host's files, shown, made and taken back."""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import TYPE_CHECKING, Any

from pvepassthru.cli.words import print_error, print_json
from pvepassthru.host import backups, changes, filelocks, prepare, signals, tools
from pvepassthru.host.functions import virtual_functions
from pvepassthru.host.inventory import Inventory
from pvepassthru.model.errors import EXIT_FINE, DeviceError, InputError
from pvepassthru.model.text import listed, one_line
from pvepassthru.rules import catalogue
from pvepassthru.rules.demand import demand
from pvepassthru.rules.subject import Surroundings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from pvepassthru.host.backups import Change, Set
    from pvepassthru.host.host import Host
    from pvepassthru.host.prepare import Plan, Wishes
    from pvepassthru.host.tools import Run
    from pvepassthru.rules.catalogue import HostState

PATIENCE = 10.0
"""Seconds to wait for another doctor."""
UNDO = "pvepassthru doctor --undo"
AHEAD = "nothing was changed; the same command with --yes does it"


def fix(args: argparse.Namespace, host: Host) -> int:
    """Show what makes the host ready, and with --yes do it; returns 0.

    Raises what prepare.plan and changes.apply raise, BusyError when another doctor is at work, and DeviceError when a
    program that has to run afterwards fails.
    """
    wishes = prepare.Wishes(tuple(args.devices), args.method, args.unsafe_interrupts, tuple(args.max_vfs), args.gvt)
    if not args.yes:
        try:
            made = backups.owed(host)
        except InputError:  # only root can read the backups
            made = None
        plan = _with_owed(_plan(host, wishes), made)
        if args.json:
            _print_plan(plan, (), applied=False)
            return EXIT_FINE
        _show_plan(plan)
        _print_ahead(plan.commands)
        print(AHEAD if plan.changes or plan.commands else _nothing(host, plan))
        return EXIT_FINE
    with _told() as progress, filelocks.hold(host, changes.LOCK, PATIENCE, "the host's configuration"):
        made = backups.owed(host)
        plan = _with_owed(_plan(host, wishes), made)
        if not args.json:
            _show_plan(plan)
        if plan.changes:
            with progress.whole(f"the files are changed ({UNDO} takes that back)"):
                made = changes.apply(host, plan.changes, plan.commands)
                progress.left = _left(plan.commands)
        if not args.json and (plan.changes or plan.commands):
            print(f"files changed: {len(plan.changes)}; {UNDO} takes that back", flush=True)
        ran = _run(args, host, plan.commands, progress)
        if made and not any(one.code for one in ran):
            backups.ran(host, made)
    if args.json:
        _print_plan(plan, ran, applied=True)
    else:
        _print_runs(ran)
        print("a reboot is due" if plan.changes or plan.commands else _nothing(host, plan))
    _need_success(ran, f"the files are changed; mend what it says, then run this again; {UNDO} takes all back")
    return EXIT_FINE


def _plan(host: Host, wishes: Wishes) -> Plan:
    """The plan, with a note on each VM that wants a VF or mediated device of what is taken."""
    plan = prepare.plan(host, Inventory(host), wishes)
    if not plan.taken:
        return plan
    around = Surroundings(host)
    whole = set(plan.taken)
    parts = whole | {vf for address in whole for vf in virtual_functions(host, address)}
    notes = []
    for wish in (wish for guest in around.once(demand).guests.values() for wish in guest.wishes):
        wanted = {address for functions in wish.alternatives for address in functions}
        if wanted & (parts - whole if wish.whole else parts):
            part = "mediated device" if wish.mdev else "VF or vGPU"
            notes.append(f"VM {wish.vmid} ({wish.key}) wants a {part} of what vfio-pci takes")
    return plan._replace(notes=(*plan.notes, *sorted(notes)))


def _with_owed(plan: Plan, made: Set | None) -> Plan:
    """The plan with the commands that an earlier --fix has not run to their end."""
    commands = {*plan.commands, *(made.commands if made else ())}
    return plan._replace(commands=tuple(sorted(commands, key=lambda command: command != prepare.INITRAMFS)))


def undo(args: argparse.Namespace, host: Host) -> int:
    """Take the newest change of --fix back, or with --dry-run show that; returns 0.

    Raises NotFoundError when there is none, InputError when a file was changed since, BusyError when another doctor is
    at work, DeviceError when a file cannot be written, or a program that has to run afterwards fails.
    """
    if args.dry_run:
        made = backups.newest(host)
        restored = _restored(host, made)
        if args.json:
            print_json({"undone": made.name, "applied": False, **_json(restored, made.commands, ())})
            return EXIT_FINE
        print(f"takes back the change of {made.name}:")
        _print_changes(restored)
        _print_ahead(made.commands)
        print("nothing was changed; the same command without --dry-run does it")
        return EXIT_FINE
    with _told() as progress, filelocks.hold(host, changes.LOCK, PATIENCE, "the host's configuration"):
        made = backups.newest(host)
        restored = _restored(host, made)
        if not args.json:
            _print_changes(restored)
            sys.stdout.flush()
        with progress.whole(f"the files are as before {made.name}"):
            changes.undo(host, made)
            progress.left = _left(made.commands)
        if not args.json:
            print(progress.done, flush=True)
        ran = _run(args, host, made.commands, progress)
        failed = any(one.code for one in ran)
        if not failed or not restored:  # the second time: the older changes must not wait for a program for ever
            backups.close(host, made)
    if args.json:
        print_json({"undone": made.name, "applied": True, **_json(restored, made.commands, ran)})
    else:
        _print_runs(ran)
        print("a reboot is due" if restored else "no file had to be changed")
    again = "then run this again" if restored else f"run it by hand; the next {UNDO} takes the change before"
    _need_success(ran, f"the files are restored; mend what it says, {again}")
    return EXIT_FINE


def _restored(host: Host, made: Set) -> list[Change]:
    """The files that --undo changes. Raises ChangedSinceError, after it has said what was changed."""
    try:
        wanted = changes.restoring(host, made)
    except changes.ChangedSinceError as error:
        for line in error.lines:
            print_error(line)
        raise
    return [change for change in wanted if change.before != change.after]


class _Progress:
    """How far a change has come, in words for whoever interrupts it."""

    def __init__(self) -> None:
        self.done = "nothing was changed"
        self.left = ""
        self._waits = False
        self._came: int | None = None

    def stop(self, number: int, _frame: object) -> None:
        """Take a signal: end the command, at once or when the files are all changed."""
        if self._waits:
            self._came = number
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(128 + number)

    @contextlib.contextmanager
    def whole(self, done: str) -> Iterator[None]:
        """Let signals wait until the files are all changed, which is `done` then."""
        self._waits = True
        try:
            yield
            self.done = done
        finally:
            self._waits = False
        if self._came is not None:
            self.stop(self._came, None)


@contextlib.contextmanager
def _told() -> Iterator[_Progress]:
    """Have a signal that ends the command say first what is done and what is not."""
    progress = _Progress()
    old = {}
    for number in signals.ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            old[number] = signal.signal(number, progress.stop)
    try:
        yield progress
    except (KeyboardInterrupt, SystemExit):
        print_error(f"pvepassthru: interrupted: {progress.done}{progress.left}")
        raise
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _left(commands: Sequence[tuple[str, ...]]) -> str:
    words = " and ".join(" ".join(command) for command in commands)
    return f", but not for the boot: {words} has not come to its end; run the same command again" if words else ""


def _run(args: argparse.Namespace, host: Host, commands: Sequence[tuple[str, ...]], progress: _Progress) -> list[Run]:
    """Run the programs one after the other, up to the first that fails."""
    ran: list[Run] = []
    for number, command in enumerate(commands):
        progress.left = _left(commands[number:])
        ran.append(tools.run(host, command, chroot=args.chroot))
        if ran[-1].code:
            break
    progress.left = ""
    return ran


def _need_success(ran: Sequence[Run], hint: str) -> None:
    for one in ran:
        if one.code:
            raise DeviceError(f"{one.words} failed with exit code {one.code}", hint)


def _json(wanted: Sequence[Change], commands: Sequence[tuple[str, ...]], ran: Sequence[Run]) -> dict[str, Any]:
    return {
        "changes": [{"path": change.path, "why": change.why, "diff": changes.diff(change)} for change in wanted],
        "commands": [" ".join(command) for command in commands],
        "ran": [{"command": one.words, "code": one.code, "output": one.output} for one in ran],
        "reboot": bool(wanted or commands),
    }


def _print_plan(plan: Plan, ran: Sequence[Run], *, applied: bool) -> None:
    shape = _json(plan.changes, plan.commands, ran)
    print_json({"applied": applied and bool(plan.changes), "notes": list(plan.notes), **shape})


def _show_plan(plan: Plan) -> None:
    _print_changes(plan.changes)
    for note in plan.notes:
        print(f"note: {one_line(note)}")
    sys.stdout.flush()


def _is_error(state: HostState) -> bool:
    return any(finding.severity == "error" and finding.silenced is None for finding in state.findings)


def _nothing(host: Host, plan: Plan) -> str:
    """Why there is nothing to change, with what is wrong all the same."""
    errors = [state for state in catalogue.host_states(Surroundings(host)) if _is_error(state)]
    if plan.notes or errors:
        codes = sorted({state.rule.code for state in errors})
        found = f"; pvepassthru doctor still finds {listed(codes)}" if codes else ""
        return f"nothing to do in files that --fix writes{'; see the notes' if plan.notes else ''}{found}"
    return "nothing to do: the host's files have all that was asked for"


def _print_changes(wanted: Sequence[Change]) -> None:
    for change in wanted:
        print(f"{change.path}: {one_line(change.why)}")
        for line in changes.diff(change):
            print(f"  {line}")
        print()


def _print_ahead(commands: Sequence[tuple[str, ...]]) -> None:
    for command in commands:
        print(f"then: {' '.join(command)}")


def _print_runs(ran: Sequence[Run]) -> None:
    for one in ran:
        if one.code is None:
            print(f"run this yourself: {one.words} ({one_line(one.output)})")
        elif one.code:
            for line in one.output.splitlines():
                print(f"  {one_line(line)}")
        else:
            print(f"ran: {one.words}")
