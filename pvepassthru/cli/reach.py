# SPDX-License-Identifier: Apache-2.0
"""What commands on a whole cluster have in common: which one, which of its nodes, and what could not be looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.api import survey
from pvepassthru.cli import connection
from pvepassthru.cli.words import print_error

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable
    from typing import Any

    from pvepassthru.api.survey import Failure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which cluster is meant, what of it, and how fast."""
    connection.add_arguments(parser)
    parser.add_argument(
        "--node", dest="nodes", action="append", default=[], metavar="NAME", help="only this node; several times if so"
    )
    parser.add_argument(
        "--jobs", type=int, default=survey.JOBS, metavar="N", help="requests at a time (default: %(default)s)"
    )


def say_failures(failures: Iterable[Failure]) -> None:
    """Say on standard error what could not be looked at."""
    for failure in failures:
        print_error(f"pvepassthru: {failure}")


def failure_shapes(failures: Iterable[Failure]) -> list[dict[str, Any]]:
    """The JSON shapes of what could not be looked at (docs/json.md)."""
    return [
        {
            "node": failure.node,
            "vmid": failure.vmid,
            "code": failure.error.exit_code,
            "message": failure.error.message,
            "hint": failure.error.hint,
        }
        for failure in failures
    ]
