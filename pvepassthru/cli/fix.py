# SPDX-License-Identifier: Apache-2.0
"""`doctor --fix` and `doctor --undo`: the changes of a host's files, shown, made and taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvepassthru.cli.words import print_error, print_json
from pvepassthru.host import backups, changes, filelocks, prepare, tools
from pvepassthru.host.inventory import Inventory
from pvepassthru.model.errors import EXIT_FINE, DeviceError, InputError
from pvepassthru.model.text import one_line

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from pvepassthru.host.backups import Change, Set
    from pvepassthru.host.host import Host
    from pvepassthru.host.prepare import Plan
    from pvepassthru.host.tools import Run

PATIENCE = 10.0
"""Seconds to wait for another doctor."""
UNDO = "pvepassthru doctor --undo"


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
        _show_fix(args, _with_owed(prepare.plan(host, Inventory(host), wishes), made), (), applied=False)
        return EXIT_FINE
    with filelocks.hold(host, changes.LOCK, PATIENCE, "the host's configuration"):
        made = backups.owed(host)
        plan = _with_owed(prepare.plan(host, Inventory(host), wishes), made)
        if plan.changes:
            made = changes.apply(host, plan.changes, plan.commands)
        ran = _run(args, host, plan.commands)
        if made and not any(one.code for one in ran):
            backups.ran(host, made)
    _show_fix(args, plan, ran, applied=True)
    _need_success(ran, f"the files are changed; mend what it says, then run this again; {UNDO} takes all back")
    return EXIT_FINE


def _with_owed(plan: Plan, made: Set | None) -> Plan:
    """The plan with the commands that an earlier --fix has not run to their end."""
    commands = {*plan.commands, *(made.commands if made else ())}
    return plan._replace(commands=tuple(sorted(commands, key=lambda command: command != prepare.INITRAMFS)))


def undo(args: argparse.Namespace, host: Host) -> int:
    """Take the newest change of --fix back; returns 0.

    Raises NotFoundError when there is none, InputError when a file was changed since, BusyError when another doctor is
    at work, DeviceError when a file cannot be written, or a program that has to run afterwards fails.
    """
    with filelocks.hold(host, changes.LOCK, PATIENCE, "the host's configuration"):
        made = backups.newest(host)
        try:
            wanted = changes.restoring(host, made)
        except changes.ChangedSinceError as error:
            for line in error.lines:
                print_error(line)
            raise
        changes.undo(host, made)
        ran = _run(args, host, made.commands)
        if not any(one.code for one in ran):
            backups.close(host, made)
    restored = [change for change in wanted if change.before != change.after]
    if args.json:
        print_json({"undone": made.name, **_json(restored, made.commands, ran)})
    else:
        _print_changes(restored)
        print(f"the files are as before {made.name}")
        _print_runs(ran)
        print("a reboot is due" if restored else "no file had to be changed")
    _need_success(ran, f"the files are restored; mend what it says, then run {UNDO} again")
    return EXIT_FINE


def _run(args: argparse.Namespace, host: Host, commands: Sequence[tuple[str, ...]]) -> list[Run]:
    """Run the programs one after the other, up to the first that fails."""
    ran: list[Run] = []
    for command in commands:
        ran.append(tools.run(host, command, chroot=args.chroot))
        if ran[-1].code:
            break
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


def _show_fix(args: argparse.Namespace, plan: Plan, ran: Sequence[Run], *, applied: bool) -> None:
    if args.json:
        shape = _json(plan.changes, plan.commands, ran)
        print_json({"applied": applied and bool(plan.changes), "notes": list(plan.notes), **shape})
        return
    _print_changes(plan.changes)
    for note in plan.notes:
        print(f"note: {one_line(note)}")
    if not plan.changes and not plan.commands:
        print("nothing to do: the host's files have all that was asked for")
    elif applied:
        print(f"files changed: {len(plan.changes)}; {UNDO} takes that back")
        _print_runs(ran)
        print("a reboot is due")
    else:
        for command in plan.commands:
            print(f"then: {' '.join(command)}")
        print("nothing was changed; the same command with --yes does it")


def _print_changes(wanted: Sequence[Change]) -> None:
    for change in wanted:
        print(f"{change.path}: {one_line(change.why)}")
        for line in changes.diff(change):
            print(f"  {line}")
        print()


def _print_runs(ran: Sequence[Run]) -> None:
    for one in ran:
        if one.code is None:
            print(f"run this yourself: {one.words} ({one_line(one.output)})")
        elif one.code:
            for line in one.output.splitlines():
                print(f"  {one_line(line)}")
        else:
            print(f"ran: {one.words}")
