# SPDX-License-Identifier: Apache-2.0
"""The command line: one module a command, each with add_arguments(parser) and run(args, host) -> exit code.

Exit codes: 0 fine, 1 findings, 2 wrong usage, 3 and up by error class (model/errors.py), the same everywhere.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import TYPE_CHECKING

import pvepassthru
from pvepassthru.host.host import open_host
from pvepassthru.model.errors import PassthruError, UsageError

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

COMMANDS = {
    "validate": "check what a start of a VM would pass through",
    "explain": "what a finding's code means and how to fix it",
    "plan": "what a hook phase would do, without doing it",
    "hook": "run a hook phase, as the hookscript does",
    "mdev": "mediated device types and instances",
    "status": "what this tool holds, for which VM, in which state",
    "recover": "undo what hooks of dead VMs left behind",
    "demo": "the life of two VMs on a simulated host",
}
"""Command to its one-line help; pvepassthru/cli/COMMAND.py is its module."""


def build_parser(only: Container[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser; with `only`, that of these commands, which spares loading the others."""
    parser = argparse.ArgumentParser(prog="pvepassthru", description=pvepassthru.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"pvepassthru {pvepassthru.__version__}")
    parser.add_argument(
        "--root", default=os.environ.get("PVEPASSTHRU_ROOT", "/"), metavar="DIR", help="the host's files (default: /)"
    )
    parser.add_argument("--node", metavar="NAME", help="the node's name (default: the host name of that root)")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        if name not in only:
            commands.add_parser(name, help=summary)
            continue
        module = importlib.import_module(f"pvepassthru.cli.{name}")
        module.add_arguments(commands.add_parser(name, help=summary, description=module.__doc__, allow_abbrev=False))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors become one sentence on standard error."""
    words = sys.argv[1:] if argv is None else argv
    args = build_parser(words).parse_args(words)
    try:
        if not os.path.isdir(args.root):
            raise UsageError(f"--root {args.root} is not a folder", "give a folder that holds a host's files")
        host = open_host(os.path.abspath(args.root), args.node)
        code = importlib.import_module(f"pvepassthru.cli.{args.command}").run(args, host)
        sys.stdout.flush()
    except PassthruError as error:
        print(f"pvepassthru: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output has left: nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    else:
        return int(code)
