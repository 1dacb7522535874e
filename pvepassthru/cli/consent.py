# SPDX-License-Identifier: Apache-2.0
"""Whether the user agrees to a change that was shown: by --yes, or by a word at the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pvepassthru.cli.words import print_error
from pvepassthru.model.errors import UsageError

if TYPE_CHECKING:
    import argparse

AGREED = frozenset({"y", "yes"})


def add_arguments(parser: argparse.ArgumentParser, does: str, *, of_vms: bool = False) -> argparse._ArgumentGroup:
    """Add --apply, which `does` what the command shows, and --yes; --with-pending too where VMs are changed.

    Returns their group, for what else a command has there.
    """
    making = parser.add_argument_group("making the change")
    making.add_argument("--apply", action="store_true", help=does)
    making.add_argument("--yes", action="store_true", help="do not ask before --apply")
    if of_vms:
        making.add_argument(
            "--with-pending",
            action="store_true",
            help="of a VM that does not run: let pending changes of others take effect with it",
        )
    return making


def given(question: str, *, yes: bool) -> bool:
    """Whether the user agrees. Raises UsageError where nobody can be asked and --yes was not given."""
    if yes:
        return True
    if not sys.stdin or not sys.stdin.isatty():
        raise UsageError("nothing was changed: there is no terminal to ask at", "add --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    try:
        return sys.stdin.readline().strip().lower() in AGREED
    except KeyboardInterrupt:
        print(file=sys.stderr)
        print_error("pvepassthru: nothing is changed, since the question was interrupted")
        raise
