# SPDX-License-Identifier: Apache-2.0
"""What `attach` and `detach` have in common: VM after VM, what became of each, and what is said of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pvepassthru.cli.words import print_error, print_json
from pvepassthru.lifecycle.attachment import Done
from pvepassthru.model.errors import EXIT_FINE, EndedError, PassthruError, UsageError
from pvepassthru.model.text import one_line, shown

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator

    from pvepassthru.host.host import Host


def need_own(args: argparse.Namespace, host: Host) -> None:
    """Raise UsageError where a change is wanted of another tree than this host's: qm would change this host."""
    if host.root and not args.dry_run:
        raise UsageError(
            f"--root {shown(args.root)} is another tree, whose VMs no program changes", "add --dry-run, or run it there"
        )


class Result(NamedTuple):
    """What became of one VM."""

    vmid: int
    done: Done | None
    error: PassthruError | None
    """Why nothing was done."""


def each(vmids: Iterable[int], do: Callable[[int], Done]) -> Iterator[Result]:
    """What became of each VM, one after the other; one that fails does not stop the others. Raises EndedError."""
    for number in dict.fromkeys(vmids):
        try:
            yield Result(number, do(number), None)
        except EndedError:
            raise
        except PassthruError as error:
            yield Result(number, None, error)


def tell(args: argparse.Namespace, results: Iterable[Result], head: dict[str, Any]) -> int:
    """Print each result as it comes, or with --json all behind `head`; the exit code is that of the first error."""
    code = EXIT_FINE
    rows = []
    for number, done, error in results:
        rows.append({**(done or Done(number, "failed", None, None))._asdict(), "error": str(error) if error else None})
        if error is not None:
            print_error(f"pvepassthru: {error}")
            code = code or error.exit_code
        if done is not None and not args.json:
            _print(done, dry_run=args.dry_run)
        for warning in done.warnings if done else ():
            print_error(f"pvepassthru: warning: {warning}")
    if args.json:
        print_json({**head, "vms": rows})
    return code


def _print(done: Done, *, dry_run: bool) -> None:
    now = f"hookscript {shown(done.hookscript)}" if done.hookscript else "no hookscript"
    chained = f", with {shown(done.former)} chained to it" if done.former else ""
    words = {
        "already": f"has {now} already{chained}",
        "attached": f"{'would have' if dry_run else 'has'} {now}{chained}",
        "detached": f"{'would have' if dry_run else 'has'} {now} again",
        "forgotten": f"the note of its former hookscript {'would be' if dry_run else 'is'} forgotten",
        "none": "nothing to take off",
    }
    print(f"VM {done.vmid}: {words[done.state]}", flush=True)
    for command in done.commands if dry_run else ():
        print(f"  {one_line(command)}")
