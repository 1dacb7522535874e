# SPDX-License-Identifier: Apache-2.0
"""A picture of this host as one HTML page: readiness, findings, topology, devices, VMs, vGPUs and virtual functions.

The page needs no other file and no network, and prints. It holds no secrets, but it names nodes, VMs and devices.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pvepassthru.cli import written
from pvepassthru.cli.words import print_error, print_json
from pvepassthru.model.errors import EXIT_FINE, PassthruError, UsageError
from pvepassthru.model.text import one_line
from pvepassthru.report.contents import GENERATOR, gather, summary

if TYPE_CHECKING:
    import argparse

    from pvepassthru.host.host import Host

HEAD = 4096
"""Bytes in which a report says that it is one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    what = parser.add_mutually_exclusive_group(required=True)
    where = (
        "where to put the page; - for standard output. A report that is there is replaced; at first only you read it"
    )
    what.add_argument("-o", "--output", metavar="FILE.html", help=where)
    what.add_argument("--json", action="store_true", help="what the page is made of, as JSON (docs/json.md)")
    parser.add_argument(
        "--force", action="store_true", help="replace FILE even if it is another file, or a link to one"
    )


def run(args: argparse.Namespace, host: Host) -> int:
    """Write the report and say what it found; returns 0.

    Raises UsageError for a file that is no report, PassthruError when it cannot be written.
    """
    if args.output and args.output != written.STDOUT:
        _need_report(args.output, force=args.force)
    contents = gather(host, int(time.time()))
    if args.json:
        print_json(contents)
        return EXIT_FINE
    from pvepassthru.report.page import page  # noqa: PLC0415 - Jinja2 is for pages only

    text = page(contents)
    if args.output == written.STDOUT:
        written.say(text, "xmlcharrefreplace")
        return EXIT_FINE
    try:
        written.replace(args.output, text.encode())
    except OSError as error:
        hint = "give a file in a folder that you may write, on a disk with room"
        raise PassthruError(f"cannot write the report {args.output}: {error.strerror}", hint) from error
    missing = len(contents["about"]["notes"]) + len(contents["about"]["unreadable"])
    if missing:
        print_error("pvepassthru: note: not all could be read; the page says what is missing")
    print(one_line(f"{args.output}: {host.node}, {summary(contents)}"))
    return EXIT_FINE


def _need_report(path: str, *, force: bool) -> None:
    """Raise UsageError when there is something at `path` that no report may be put in place of.

    A report of ours may be replaced; by force another plain file, and a link to one, too.
    """
    hint = "give another name, or add --force to replace it"
    try:
        there = written.kind(path)
        if there == "other":
            what, hint = (
                "it is there and is no plain file",
                f"give the name of a file, or {written.STDOUT} for standard output",
            )
        elif there == "nothing" or force:
            return
        elif there == "link":
            what = "it is there and is a link"
        else:
            with open(path, "rb") as file:
                if GENERATOR.encode() in file.read(HEAD):
                    return
            what = "it is there and is no report"
    except OSError as error:
        if force:
            return  # the write will tell
        what = f"it is there and cannot be read ({error.strerror})"
    raise UsageError(f"cannot write the report {path}: {what}", hint)
