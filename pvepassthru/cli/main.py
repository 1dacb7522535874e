# SPDX-License-Identifier: Apache-2.0
"""The command line: one module a command, each with add_arguments(parser) and run(args, host) -> exit code.

Exit codes: 0 fine, 1 findings, 2 wrong usage, 3 and up by error class (model/errors.py), the same everywhere.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys

import pvepassthru
from pvepassthru.cli.parser import Parser
from pvepassthru.cli.words import drop, print_error, scratch
from pvepassthru.host.host import open_host
from pvepassthru.lifecycle.hook import open_streams
from pvepassthru.model.errors import PassthruError, UsageError
from pvepassthru.model.mapping import NODE_NAME
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import listed, one_line, shown

if TYPE_CHECKING:
    import argparse
    from collections.abc import Container, Iterator, Sequence
    from typing import Any, TextIO

    from pvepassthru.host.host import Host

COMMANDS = {
    "validate": "check what a start of a VM would pass through",
    "doctor": "whether the host is ready, and what makes it so",
    "explain": "what a finding's code means and how to fix it",
    "devices": "the PCI functions, by IOMMU group or bus, and the VMs that use them",
    "policy": "what the owner's policy files say, and whether they are right",
    "config": "what a VM needs for its devices: show the change of its config, and make it through the API",
    "plan": "what a hook phase would do, without doing it",
    "hook": "run a hook phase, as the hookscript does",
    "mdev": "mediated device types and instances, and where more fit",
    "sriov": "physical functions and their virtual functions: show, set, apply what the policy says",
    "mapping": "the cluster's PCI mappings: plan one for all nodes, write it, check all against the hardware",
    "migrate-to-mapping": "make hostpci entries by an address into entries by a mapping",
    "fleet": "all nodes of a cluster by the API: their VMs checked, and where devices are left",
    "attach": "give VMs the hookscript; one that they have is run with it",
    "detach": "take the hookscript off VMs; a former one is there again",
    "status": "what this tool holds, for which VM, in which state",
    "recover": "undo what hooks of dead VMs left behind",
    "release": "give back what a VM that does not run still holds, or end a quarantine",
    "report": "a picture of this host as one HTML page",
    "metrics": "this host as numbers for Prometheus (node_exporter's textfile collector)",
    "snapshot": "this host in a file, for others to look at",
    "demo": "the life of some VMs on a simulated host",
}
"""Command to its one-line help; pvepassthru/cli/COMMAND.py, with _ for -, is its module."""
WRITING = frozenset({"hook", "recover", "release"})
WRITING_OPTIONS = ("fix", "undo", "writes")
"""Commands, and options of others, that change a host."""
FAR = frozenset({"mapping", "migrate-to-mapping", "fleet"})
"""Commands that ask a cluster's API for everything, and read no host's files."""
NODES = "/etc/pve/nodes"
PACKAGES = {
    "filelock": "python3-filelock",
    "jinja2": "python3-jinja2",
    "jsonschema": "python3-jsonschema",
    "prometheus_client": "python3-prometheus-client",
    "yaml": "python3-yaml",
    "proxmoxer": "python3-proxmoxer",
    "requests": "python3-requests",
}
"""Python module to the Debian package that has it."""


def build_parser(only: Container[str] = COMMANDS) -> Parser:
    """The parser; with `only`, that of these commands, which spares loading the others."""
    parser = Parser(prog="pvepassthru", description=pvepassthru.__doc__)
    parser.add_argument("--version", action="version", version=f"pvepassthru {pvepassthru.__version__}")
    root = "the host's files, or a snapshot of a host (default: PVEPASSTHRU_ROOT of the environment, or /)"
    parser.add_argument("--root", default=_root(), metavar="DIR|FILE", help=root)
    node = "whose entries of the cluster's mappings count (default: the host name of that root)"
    parser.add_argument("--node", metavar="NAME", help=node)
    profile = "of the commands that ask the API, here or behind the command: a profile of api.yaml"
    parser.add_argument("--profile", metavar="NAME", help=profile)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        if name not in only:
            commands.add_parser(name, help=summary)
            continue
        module = importlib.import_module(_module(name))
        module.add_arguments(commands.add_parser(name, help=summary, description=module.__doc__))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors become one sentence on standard error."""
    words = sys.argv[1:] if argv is None else argv
    open_streams()
    try:
        with (
            contextlib.redirect_stdout(_Output(sys.stdout)),
            contextlib.redirect_stderr(sys.stderr or io.StringIO()),  # argparse would take standard output for None
        ):
            return run(words)
    except PassthruError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:  # the reader of our output has left: nobody to tell
        drop(sys.stdout)
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if os.environ.get("PVEPASSTHRU_DEBUG"):
            raise
        return _fail(_why(error))


def run(words: Sequence[str]) -> int:
    """Run one command and return its exit code. Raises what the command raises, and PassthruError."""
    try:
        args = build_parser(words).parse_args(words)
    except SystemExit:  # --help and --version have printed
        sys.stdout.flush()
        raise
    _settle(args)
    if os.path.isfile(args.root):
        return _run_on_snapshot(args)
    if not os.path.isdir(args.root):
        hint = "give a folder that holds a host's files, or a file of `pvepassthru snapshot`"
        raise UsageError(f"--root {args.root} is not a folder", hint)
    return _run_on(args, open_host(os.path.abspath(args.root), args.node))


def _settle(args: argparse.Namespace) -> None:
    """Put together what stands before the command and behind it. Raises UsageError for what goes with no such command.

    A root of the environment is for the commands that read a host's files, and none of the others' concern.
    """
    own = getattr(args, "own_profile", None)
    if args.profile is not None and not getattr(args, "asks_api", False):
        asking = "config, mapping, migrate-to-mapping, fleet and attach do"
        raise UsageError(f"--profile says which API is asked, and {args.command} asks none", asking)
    if args.profile is not None and own is not None and own != args.profile:
        raise UsageError(f"--profile is given twice, as {shown(args.profile)} and {shown(own)}", "keep one of them")
    args.profile = args.profile if own is None else own
    if args.command in FAR and args.root != _root():
        message = f"--root says whose files are read, and {args.command} reads none: it asks a cluster's API"
        raise UsageError(message, "leave it out; --profile says which cluster is meant")
    if args.command in FAR and args.node is not None:
        message = f"--node before the command says whose files are read, and {args.command} reads none"
        behind = f"behind {args.command} it says which node alone is looked at, where there is such an option"
        raise UsageError(message, behind)


def _root() -> str:
    """The root where no option says one."""
    return os.environ.get("PVEPASSTHRU_ROOT") or "/"


def _run_on_snapshot(args: argparse.Namespace) -> int:
    """Run a command on the host that a snapshot holds."""
    from pvepassthru.host import snapshot  # noqa: PLC0415 - only then; it needs an archive's modules

    if getattr(args, "chroot", False):
        raise UsageError("no program of a snapshot is ever run", "leave out --chroot")
    with scratch("pvepassthru-snapshot-") as folder:
        try:
            host = snapshot.load(args.root, folder, args.node)
        except OSError as error:
            raise PassthruError(
                f"cannot unpack {args.root} in {folder}: {error.strerror}", "make room there"
            ) from error
        if args.command in WRITING or any(getattr(args, option, False) for option in WRITING_OPTIONS):
            what = f"a snapshot of {one_line(host.taken_on)}: what this changes is a copy of it, and lost at the end"
            print_error(f"pvepassthru: {args.root} is {what}")
        return _run_on(args, host)


def _run_on(args: argparse.Namespace, host: Host) -> int:
    if args.node is not None:
        _need_node(host, args.node)
    code = importlib.import_module(_module(args.command)).run(args, host)
    sys.stdout.flush()
    return int(code)


def _module(command: str) -> str:
    return f"pvepassthru.cli.{command.replace('-', '_')}"


def _need_node(host: Host, node: str) -> None:
    """Raise UsageError when this is no node's name, or not one of the host's cluster where its nodes are known."""
    if not NODE_NAME.fullmatch(node):
        raise UsageError(f"--node {one_line(node)} is no node's name", "give a host name without its domain")
    nodes = host.names(NODES)
    if nodes and node not in nodes:
        raise UsageError(f"--node {node} is no node of this cluster", f"{host.path(NODES)} has {listed(nodes)}")


def _fail(sentence: str, code: int = PassthruError.exit_code) -> int:
    """Say why the command failed, on one line, and return its exit code."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        drop(sys.stdout)
    print_error(f"pvepassthru: {sentence}")
    return code


def _why(error: Exception) -> str:
    """Words for an error that no command should let through."""
    if isinstance(error, ModuleNotFoundError) and error.name in PACKAGES:
        return f"the Python module {error.name} is missing; install {PACKAGES[error.name]}"
    return f"{type(error).__name__}: {error}; this is a bug of pvepassthru, please report this"


class _Output:
    """Standard output, None if it is closed.

    What goes wrong with it is told from what goes wrong with a host's files.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a stream has
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if self._stream is None:
            raise PassthruError("cannot write the output: standard output is closed")
        with _telling():
            return self._stream.write(text)

    def flush(self) -> None:
        if self._stream is not None:
            with _telling():
                self._stream.flush()


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise PassthruError(f"cannot write the output: {error.strerror}") from error
