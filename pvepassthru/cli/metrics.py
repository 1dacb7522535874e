# SPDX-License-Identifier: Apache-2.0
"""A host as numbers for Prometheus: devices, mediated devices, virtual functions, journals, findings, hook runs.

It is OpenMetrics text, of which node_exporter's textfile collector understands all. docs/metrics.md has the names.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pvepassthru.cli import written
from pvepassthru.model.errors import EXIT_FINE, PassthruError, UsageError
from pvepassthru.report import metrics
from pvepassthru.report.contents import gather
from pvepassthru.report.held import runs

if TYPE_CHECKING:
    import argparse

    from pvepassthru.host.host import Host

FOR_ALL = 0o644
"""node_exporter has a user of its own."""
ENDING = ".prom"
"""node_exporter passes over files whose names end otherwise."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    where = (
        "put the text there, in one piece and for all to read, as node_exporter's textfile collector wants it "
        "(default: -, standard output)"
    )
    parser.add_argument("-o", "--output", metavar="FILE.prom", default=written.STDOUT, help=where)


def run(args: argparse.Namespace, host: Host) -> int:
    """Write the metrics; returns 0. Raises UsageError for a FILE that cannot be one, PassthruError if it fails."""
    if args.output != written.STDOUT:
        _need_file(args.output)
    started = time.monotonic()
    contents = gather(host, int(time.time()))
    text = metrics.text(metrics.Collection(contents, runs(host), time.time(), time.monotonic() - started))
    if args.output == written.STDOUT:
        written.say(text, "backslashreplace")
        return EXIT_FINE
    try:
        written.replace(args.output, text.encode(), FOR_ALL)
    except OSError as error:
        hint = "give a file in a folder that there is and that you may write, on a disk with room"
        raise PassthruError(f"cannot write the metrics {args.output}: {error.strerror}", hint) from error
    return EXIT_FINE


def _need_file(path: str) -> None:
    """Raise UsageError for a name that node_exporter would not read, and for what is there and no plain file."""
    if not path.endswith(ENDING):
        hint = f"end its name in {ENDING}, or leave out -o for standard output"
        raise UsageError(f"cannot write the metrics {path}: node_exporter reads {ENDING} files only", hint)
    try:
        there = written.kind(path)
    except OSError:  # the write will tell
        return
    if there not in {"nothing", "file"}:
        hint = f"give the name of a file, or {written.STDOUT} for standard output"
        raise UsageError(f"cannot write the metrics {path}: it is there and is no plain file", hint)
