# SPDX-License-Identifier: Apache-2.0
"""The machine on which the commands of a page are run: a simulated PVE node, and programs that stand for others.

`pvepassthru` runs in this process, on the node's tree; nothing of this machine is changed. What the tool would have
programs of a real node do (`ip`, `qm`, `update-grub`), the same stand-ins do here (tests/docs/stand_ins.py).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sys
import tempfile
from typing import TYPE_CHECKING, NamedTuple, TextIO

import yaml

from pvepassthru import __version__
from pvepassthru.cli import attachment
from pvepassthru.cli.main import main
from pvepassthru.host import programs, signals, tools
from pvepassthru.host.programs import Output
from pvepassthru.host.sim import SimHost
from tests import tree
from tests.api.fake_pve.server import FakePve
from tests.docs import boards, hosts
from tests.docs.words import BadWordsError
from tests.pve.flows import Pve
from tests.scenarios import attached

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

    from pvepassthru.host.host import Host
    from tests.docs.hosts import Board


class Done(NamedTuple):
    """What came of a command."""

    printed: str
    """On both streams."""
    code: int


class NoSuchProgramError(Exception):
    """A page runs a program for which there is no stand-in."""


class Machine:
    """A node, from its first boot on a page to the page's end."""

    def __init__(self, folder: Path, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.board = board
        self.root = str(folder / "host")
        self.home = str(folder / "home")
        self.interpreter = attached.interpreter(folder / "python", package=True)
        _add_packages(self.interpreter)
        self.aliases: dict[str, str] = {}
        """What stands in what is printed for what a page shows."""
        hosts.install(self.root, board)
        self.host = SimHost(self.root)
        self.pve = self._pve()
        monkeypatch.setenv("PVEPASSTHRU_ROOT", self.root)
        monkeypatch.setenv("HOME", self.home)
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.chdir(folder)
        monkeypatch.setattr(os, "fsync", lambda _fd: None)
        monkeypatch.setattr(programs, "find", lambda _host, name: f"/usr/sbin/{name}")
        monkeypatch.setattr(programs, "run", self._run_program)
        monkeypatch.setattr(tools, "run", self._run_tool)
        monkeypatch.setattr(attachment, "need_own", lambda _args, _host: None)
        from tests.docs import stand_ins  # noqa: PLC0415 - its functions take a Machine

        self.programs = stand_ins.PROGRAMS
        self.version = __version__

    def _pve(self) -> Pve:
        return Pve(self.root, node=hosts.NODE, write=self.host.write)

    def reboot(self) -> None:
        """Boot anew: what runs ends, and the disk says how the hardware is driven."""
        hosts.boot(self.root, self.board)
        self.host = SimHost(self.root)
        self.pve = self._pve()

    def put(self, path: str, text: str) -> None:
        """Put a file there for its owner alone; `~` is the home of who reads the page."""
        real = path.replace("~", self.home, 1) if path.startswith("~") else self.root + path
        os.chmod(tree.put("/", real, text), 0o600)

    def close(self) -> None:
        """End what was started."""
        self.pve.close()

    # ---- commands of a page

    def run(self, words: str) -> Done:
        """Run a command as a shell would: quotes, and `>` to a file. Raises NoSuchProgramError, ValueError."""
        parts = shlex.split(words, comments=True)
        target = None
        if len(parts) > 2 and parts[-2] == ">":
            parts, target = parts[:-2], parts[-1]
        with captured() as printed:
            if target is None:
                code = self._program(parts)
            else:
                with captured(streams=(1,)) as said:
                    code = self._program(parts)
                self._write(target, "".join(said))
        text = "".join(printed)
        for is_so, shown in {**self.aliases, self.root: ""}.items():
            text = text.replace(is_so, shown)
        return Done(text, code)

    def _program(self, words: list[str]) -> int:
        return self.pvepassthru(words[1:]) if words[0] == "pvepassthru" else self.stand_in(words)

    def _write(self, path: str, text: str) -> None:
        if path.startswith("/sys/"):
            self.host.write(path, text.rstrip("\n") or "\n")
        else:
            tree.put(self.root, path, text)

    def pvepassthru(self, words: list[str]) -> int:
        """Run the command itself; returns its exit code."""
        outside = [word for word in words if word.startswith(("/", "~"))]
        if outside:
            raise BadWordsError(f"{outside[0]} would be a file of the machine that runs the tests")
        handlers = {number: signal.getsignal(number) for number in signals.ENDING}
        try:
            return main(words)
        except SystemExit as end:
            return int(end.code or 0)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def stand_in(self, words: list[str]) -> int:
        """Run the stand-in of a program; returns its exit code. Raises NoSuchProgramError, BadWordsError."""
        program = self.programs.get(words[0])
        if program is None:
            raise NoSuchProgramError(f"nothing stands for the program {words[0]}")
        return program(self, words[1:])

    # ---- programs that the tool runs

    def _run_program(
        self, _host: Host, command: tuple[str, ...], _seconds: float, _keep: tuple[int, ...] = ()
    ) -> Output:
        with captured() as printed:
            code = self.stand_in([os.path.basename(command[0]), *command[1:]])
        text = "".join(printed)
        return Output(code, text if code == 0 else "", "" if code == 0 else text.strip())

    def _run_tool(self, _host: Host, command: tuple[str, ...], *, chroot: bool = False) -> tools.Run:
        assert not chroot
        with captured() as printed:
            code = self.stand_in(list(command))
        return tools.Run(command, code, "".join(printed))


class Workstation(Machine):
    """A machine without PVE, from which one reaches the hosts pve1.example.org and pve2.example.org of a cluster."""

    def __init__(self, folder: Path, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, board, monkeypatch)
        shutil.rmtree(f"{self.root}/etc/pve")
        self.api = FakePve(boards.cluster(), doors=("pve1", "pve2"))
        self.api.__enter__()
        self.aliases = {f"{self.api.host}:{port}": f"{node}.example.org" for node, port in self.api.ports.items()}

    def put(self, path: str, text: str) -> None:
        """As Machine.put, with the cluster's real hosts; beside api.yaml is its CA's certificate."""
        for is_so, shown in self.aliases.items():
            text = text.replace(shown, is_so)
        super().put(path, text)
        if os.path.basename(path) == "api.yaml":
            shutil.copy(self.api.ca_file, f"{os.path.dirname(path.replace('~', self.home, 1))}/pve-root-ca.pem")

    def close(self) -> None:
        """End what was started."""
        super().close()
        self.api.__exit__(None, None, None)


def _add_packages(interpreter: str) -> None:
    """Let a Python find what Debian's packages of the hook's dependencies would bring: those of this process."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = os.path.dirname(os.path.dirname(yaml.__file__))
    place = f"{os.path.dirname(os.path.dirname(interpreter))}/lib/{version}/site-packages"
    tree.put(place, "packages.pth", f"{packages}\n")


@contextlib.contextmanager
def captured(streams: tuple[int, ...] = (1, 2)) -> Iterator[list[str]]:
    """What is printed meanwhile on these streams, by this process and its children, at the end in the list."""
    found: list[str] = []
    with tempfile.TemporaryFile() as file, _led_to(file.fileno(), streams):
        yield found
        sys.stdout.flush()
        sys.stderr.flush()
        file.seek(0)
        found.append(file.read().decode("utf-8", "replace"))


@contextlib.contextmanager
def _led_to(fd: int, streams: tuple[int, ...]) -> Iterator[None]:
    """Lead streams, of Python and below it, to an open file."""
    before: tuple[TextIO, TextIO] = (sys.stdout, sys.stderr)
    for stream in before:
        stream.flush()
    saved = [os.dup(number) for number in streams]
    for number in streams:
        os.dup2(fd, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, encoding="utf-8", closefd=False) for number in (1, 2))
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before
        for number, old in zip(streams, saved, strict=True):
            os.dup2(old, number)
            os.close(old)
