# SPDX-License-Identifier: Apache-2.0
"""Put what the rules read of this host into a file, on which every command works offline with --root FILE.

Left out are descriptions, cloud-init's values, passwords, keys, IP addresses and serial numbers; MAC addresses become
pseudonyms. Names of nodes, VMs, storages and interfaces stay. Look into it before you give it away: tar tvJf FILE.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pvepassthru
from pvepassthru.cli import written
from pvepassthru.cli.words import print_error
from pvepassthru.host import collector
from pvepassthru.host.contents import ROWS
from pvepassthru.host.masks import Masks
from pvepassthru.model.errors import EXIT_FINE, PassthruError, UsageError
from pvepassthru.model.text import listed

if TYPE_CHECKING:
    import argparse

    from pvepassthru.host.host import Host

TEMPORARY = ".part"
"""Ending of the file while it is being written."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-o", "--output", metavar="FILE.tar.xz", help="where to put it; only you can read it")
    what.add_argument("--list", action="store_true", help="say which files a snapshot holds, and take none")
    parser.add_argument("--full", action="store_true", help="leave nothing out: with all secrets in these files")
    parser.add_argument("--force", action="store_true", help="overwrite the file if it is there")


def run(args: argparse.Namespace, host: Host) -> int:
    """Write the snapshot and say what could not be read; returns 0.

    Raises UsageError for a bad file name or one that is there, PassthruError when it cannot be written.
    """
    if args.list:
        _print_list()
        return EXIT_FINE
    if not args.output.endswith(".tar.xz"):
        raise UsageError(f"cannot write a snapshot to {args.output}: its name must end with .tar.xz", "-o FILE.tar.xz")
    _need_place(args.output, force=args.force)
    try:
        taken = _write(host, args.output, full=args.full)
    except OSError as error:
        hint = "give a file in a folder that you may write, on a disk with room"
        raise PassthruError(f"cannot write the snapshot {args.output}: {error.strerror}", hint) from error
    if taken.unreadable:
        hint = "" if os.geteuid() == 0 else "; run this as root for a whole one"
        print_error(
            f"pvepassthru: {len(taken.unreadable)} files could not be read, and are noted as such in the snapshot: "
            f"{listed(taken.unreadable, 4)}{hint}"
        )
    size = os.stat(args.output).st_size
    print(f"{args.output}: {taken.files} files of {host.node} in {-(-size // 1024)} KiB{_warning(full=args.full)}")
    return EXIT_FINE


def _need_place(path: str, *, force: bool) -> None:
    """Raise UsageError when there is something at `path` that is not to be replaced; by force a file or a link is."""
    try:
        there = written.kind(path)
    except OSError:  # the write will tell
        return
    if there == "other":
        hint = "give the name of a file"
        raise UsageError(f"cannot write a snapshot to {path}: it is there and is no plain file", hint)
    if there != "nothing" and not force:
        raise UsageError(f"cannot write a snapshot to {path}: it is there already", "add --force to overwrite it")


def _warning(*, full: bool) -> str:
    return "; it holds secrets: give it to nobody whom you would not give the host" if full else ""


def _write(host: Host, path: str, *, full: bool) -> collector.Taken:
    """Write the file beside its place, then put it there. Raises OSError."""
    temporary = path + TEMPORARY
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, 0o600)
            taken = collector.take(host, file, pvepassthru.__version__, full=full)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return taken


def _print_list() -> None:
    for row in ROWS:
        for folder in row.folder.split():
            what = "names only" if row.how is Masks.nothing else "as they are" if row.how is Masks.plain else "reduced"
            print(f"{folder}: {row.names or 'the folder'} ({what})")
