# SPDX-License-Identifier: Apache-2.0
"""What a VM needs for its devices: the complete change of its config, judged by the rules; with --apply it is made.

Everything is read by the API with --profile or PVE_HOST in the environment, else from this node's own files. --apply
always goes through the API; it asks first, or needs --yes. A change that brings a new error is refused: exit code 1.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

from pvepassthru.api import apply, proposal, wish
from pvepassthru.cli import changes, connection, consent
from pvepassthru.cli.words import print_error, vmid
from pvepassthru.host import signals, vms
from pvepassthru.model.errors import (
    EXIT_FINDINGS,
    EXIT_FINE,
    EndedError,
    InputError,
    NotFoundError,
    UsageError,
)
from pvepassthru.model.text import listed, shown

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Sequence

    from pvepassthru.api.apply import Result
    from pvepassthru.api.client import Client
    from pvepassthru.api.proposal import Proposal
    from pvepassthru.api.wish import Wish
    from pvepassthru.host.host import Host

MOST_BYTES = 8 << 20
"""Of a file of requirements."""
_SAID = (
    *("device", "vf_of", "mapping", "mdev", "min_framebuffer", "primary_gpu", "rom", "igd", "bios", "efi_storage"),
    *("hookscript", "numa", "hidden", "by_mapping", "remove"),
)
"""The arguments that say what is wanted, none of which goes with --file."""


_NUMA = "keep the VM to the CPUs of its devices' NUMA node; on the VM's own node only, since the API tells of none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("vmid", nargs="?", type=vmid, metavar="VMID", help="the VM; with --file only this one of it")
    wanted = parser.add_argument_group("what is wanted")
    wanted.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="DEVICE",
        help="an address (01:00.0, or 01:00 for all functions), vendor:device, gpu, nic or nvme; may be given again",
    )
    wanted.add_argument(
        "--vf-of", action="append", default=[], metavar="PF", help="a VF of this PF that is free; may be given again"
    )
    wanted.add_argument(
        "--mapping", action="append", default=[], metavar="NAME", help="this mapping; may be given again"
    )
    wanted.add_argument("--mdev", metavar="TYPE|best", help="a mediated device or vGPU of this type on the device")
    wanted.add_argument("--min-framebuffer", metavar="SIZE", help="the least graphics memory for --mdev best, as 4G")
    wanted.add_argument("--primary-gpu", action="store_true", help="the GPU is the VM's display")
    wanted.add_argument("--rom", metavar="FILE", help="a ROM file in /usr/share/kvm for the GPU, or the only device")
    wanted.add_argument("--igd", action="store_true", help="the Intel GPU, as first graphics card (legacy mode)")
    wanted.add_argument("--bios", metavar="ovmf|seabios", help="the firmware (default: the VM's, or what it needs)")
    wanted.add_argument("--efi-storage", metavar="STORAGE", help="for the EFI disk (default: that of the boot disk)")
    wanted.add_argument("--hookscript", metavar="VOLUME", help="such as local:snippets/pvepassthru")
    wanted.add_argument("--numa", action="store_true", help=_NUMA)
    wanted.add_argument("--hidden", action="store_true", help="do not let the guest see that it is a VM")
    wanted.add_argument("--by-mapping", action="store_true", help="name devices by mappings only, as non-root must")
    wanted.add_argument(
        "--remove",
        action="append",
        default=[],
        metavar="hostpciN",
        help="take this entry away, and leave all else as it is; may be given again",
    )
    wanted.add_argument("--file", metavar="FILE", help="requirements of many VMs, in YAML, in place of all these")
    shapes = parser.add_mutually_exclusive_group()
    shapes.add_argument(
        "--format", choices=changes.FORMATS, default="diff", help="how the change is shown (default: %(default)s)"
    )
    shapes.add_argument("--json", dest="format", action="store_const", const="json", help="the same as --format json")
    making = consent.add_arguments(parser, "make it, each VM's as a whole or not at all", of_vms=True)
    making.add_argument(
        "--stop-at-first", action="store_true", help="with --file: change no other VM after one that failed"
    )
    connection.add_arguments(parser)


def run(args: argparse.Namespace, host: Host) -> int:
    """Print the changes, and with --apply make them; 0, or 1 for a new error or a no to the question.

    A VM that fails does not stop the others; the first one's exit code is returned. Raises UsageError, NotFoundError,
    InputError, ApiError.
    """
    _check(args)
    wishes = _wishes(args)
    if not wishes:
        print_error(f"pvepassthru: {shown(args.file)} names no VM below vms, so there is nothing to change")
        changes.show(args.format, ())
        return EXIT_FINE
    if not _by_api(args, host, wishes):
        proposals = proposal.by_files(host, wishes, changes.note)
        proposals = proposals if args.apply else proposal.foreseen(None, proposals)
        end = _end(args, proposals)
        if end is not None:
            return end
        with connection.connect(args) as client:
            return _apply(args, client, proposals)
    with connection.connect(args) as client:
        here = host if host.names(vms.PVE) else None
        proposals = proposal.by_api(client, wishes, changes.note, here)
        proposals = proposals if args.apply else proposal.foreseen(client, proposals)
        end = _end(args, proposals)
        return _apply(args, client, proposals) if end is None else end


def _check(args: argparse.Namespace) -> None:
    """Raise UsageError when arguments do not go together."""
    if args.file is None and args.vmid is None:
        raise UsageError("config needs a VMID, or --file", "pvepassthru config 100 --device gpu")
    said = [name for name in _SAID if getattr(args, name)]
    if args.file is not None and said:
        raise UsageError(f"--file says what is wanted, and so does {_option(said[0])}", "leave out one of them")
    how = [name for name in ("yes", "with_pending", "stop_at_first") if getattr(args, name)]
    if not args.apply and how:
        raise UsageError(f"{_option(how[0])} says how --apply is done, and there is none", "add --apply")
    if not args.apply:
        return
    if os.path.isfile(args.root):
        raise UsageError(f"--root {shown(args.root)} is a snapshot, of which nothing can be applied", "leave it out")
    if args.yes:
        return
    if args.format != "diff":
        raise UsageError(f"--apply with --format {args.format} asks nothing, so it needs --yes", "add --yes")
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError("--apply asks first, and there is no terminal", "add --yes")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _wishes(args: argparse.Namespace) -> dict[int, Wish]:
    """What is wanted, by VM. Raises UsageError, NotFoundError, InputError."""
    if args.file is None:
        return {args.vmid: _wish(args)}
    from pvepassthru.api import wish_file  # noqa: PLC0415 - it needs jsonschema, which is slow to load

    try:
        with open(args.file, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {shown(args.file)}: {error.strerror}", "see its path and mode") from error
    if len(data) > MOST_BYTES:
        raise InputError(f"{shown(args.file)} is larger than {MOST_BYTES >> 20} MiB", "is it the right file?")
    wishes = wish_file.load(data, args.file)
    if args.vmid is None:
        return dict(sorted(wishes.items()))
    if args.vmid not in wishes:
        raise NotFoundError(f"{shown(args.file)} has nothing on VM {args.vmid}", f"it has {listed(sorted(wishes))}")
    return {args.vmid: wishes[args.vmid]}


def _wish(args: argparse.Namespace) -> Wish:
    return wish.of_arguments(
        devices=args.device,
        vf_of=args.vf_of,
        mappings=args.mapping,
        mdev_type=args.mdev or "",
        min_framebuffer=args.min_framebuffer or "",
        primary_gpu=args.primary_gpu,
        rom_file=args.rom or "",
        igd=args.igd,
        bios=args.bios or "",
        efi_storage=args.efi_storage or "",
        hook=args.hookscript or "",
        numa=args.numa,
        hidden=args.hidden,
        by_mapping=args.by_mapping,
        remove=args.remove,
    )


def _by_api(args: argparse.Namespace, host: Host, wishes: Iterable[int]) -> bool:
    """Whether everything is read by the API. Raises UsageError where what is read and what is changed differ."""
    far = bool(args.profile or os.environ.get("PVE_HOST"))
    if far or args.root == "/":
        far = far or not all(host.exists(vms.config_path(number)) for number in wishes)
        if far and args.node is not None:
            message = (
                "--node says whose files are read, and here everything is read by the API, which knows each VM's node"
            )
            raise UsageError(message, "leave it out")
        return far
    if args.apply:
        raise UsageError(
            f"--apply goes to a cluster's API, and --root {shown(args.root)} is only files of a host",
            "say with --profile which API is meant, or leave out --root",
        )
    return False


def _end(args: argparse.Namespace, proposals: Sequence[Proposal]) -> int | None:
    """Show the changes; the exit code if that is all, None if some are to be made."""
    todo = changes.ready(proposals) if args.apply else []
    code = changes.code(proposals)
    if args.stop_at_first and todo and code:
        print_error("pvepassthru: nothing is changed, since not every VM is ready for it (--stop-at-first)")
        todo = []
    if args.format not in changes.DATA or not todo:
        changes.show(args.format, proposals)
    if not todo:
        return code
    if consent.given(f"Change VM {listed((change.vmid for change in todo), 20)} so?", yes=args.yes):
        return None
    print_error("pvepassthru: nothing is changed, since the answer was no")
    return EXIT_FINDINGS


def _apply(args: argparse.Namespace, client: Client, proposals: Sequence[Proposal]) -> int:
    """Make the changes that are ready, and tell of each. Raises EndedError and KeyboardInterrupt."""
    results: dict[int, Result] = {}
    with undoing():
        for result in apply.apply_all(
            client, changes.ready(proposals), take_pending=args.with_pending, stop_at_first=args.stop_at_first
        ):
            results[result.change.vmid] = result
            changes.tell(args.format, result)
    left = [change.vmid for change in changes.ready(proposals) if change.vmid not in results]
    if left:
        print_error(f"pvepassthru: VM {listed(left)} not changed, since one before failed")
    if args.format in changes.DATA:
        changes.show(args.format, proposals, results)
    return changes.code(proposals, results)


@contextlib.contextmanager
def undoing() -> Iterator[None]:
    """Have signals that end the command end it by an error, after which what was written is given back."""

    def stop(number: int, _frame: object) -> None:
        raise EndedError(f"ended by {signals.ENDING[number]}")

    old = {}
    for number in signals.ENDING:
        if number != signal.SIGINT and signal.getsignal(number) != signal.SIG_IGN:
            old[number] = signal.signal(number, stop)
    try:
        yield
    except KeyboardInterrupt as error:
        print_error(f"pvepassthru: interrupted: {error}" if str(error) else "pvepassthru: interrupted")
        raise
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
