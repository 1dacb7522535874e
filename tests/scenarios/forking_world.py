# SPDX-License-Identifier: Apache-2.0
"""The guest's world with our programs in forks of the test's own process.

Starting an interpreter takes the guest's emulated processor several times as long as the work. The suite of flows
starts real ones; those with very many starts and commands use this. Only the standard library.
"""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import select
import signal
import subprocess
import sys
import time
import traceback
from typing import TYPE_CHECKING

import pvepassthru.cli
from pvepassthru.cli import main as cli
from pvepassthru.lifecycle import quick
from tests.kernel import guest
from tests.pve import hook
from tests.scenarios.world import GuestWorld, prepare_guest

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

HIGHEST_FD = 4096
OF_THE_API = ("proxmoxer", "requests")
"""What only commands that go through the PVE API need. No suite has such a one, and to load it takes seconds."""


def prepare_forks() -> None:
    """In the guest, once: as prepare_guest, and load what each fork would else load itself."""
    prepare_guest()
    importlib.import_module("pvepassthru.lifecycle.hook")
    importlib.import_module("pvepassthru.host.policy_file")
    for name in OF_THE_API:
        sys.modules[name] = None  # type: ignore[assignment]  # so that it cannot be imported
    for found in pkgutil.iter_modules(pvepassthru.cli.__path__, "pvepassthru.cli."):
        try:
            importlib.import_module(found.name)
        except ModuleNotFoundError as error:
            if error.name not in OF_THE_API:
                raise


class ForkingWorld(GuestWorld):
    """The guest itself; hooks and commands run in forks."""

    def __init__(self) -> None:
        super().__init__()
        self.pve.begin = begin


def begin(command: list[str], environment: dict[str, str]) -> hook.Program:
    """As tests.pve.hook.begin; the installed hookscript and the command line start as forks."""
    if command[0] == guest.HOOK:
        return Fork(lambda: quick.main(command), command, environment)
    if command[1:3] == ["-m", "pvepassthru"]:
        return Fork(lambda: cli.main(command[3:]), command, environment)
    return hook.begin(command, environment)


class Fork:
    """A program of ours: a call in a forked process that returns its exit code; see tests.pve.hook.Program."""

    def __init__(self, call: Callable[[], int], command: list[str], environment: dict[str, str]) -> None:
        self.returncode = 0
        self._command = command
        self._receiver, sender = os.pipe()
        sys.stdout.flush()
        self._pid = os.fork()
        if self._pid == 0:
            _be(call, environment, sender)
        os.close(sender)

    def communicate(self, *, timeout: float) -> tuple[bytes, None]:
        """What it and its children print until the last of them has closed its output. Raises TimeoutExpired."""
        end = time.monotonic() + timeout
        output = bytearray()
        while select.select([self._receiver], [], [], max(0.0, end - time.monotonic()))[0]:
            chunk = os.read(self._receiver, 65536)
            if not chunk:
                return bytes(output), None
            output += chunk
        raise subprocess.TimeoutExpired(self._command, timeout, bytes(output))

    def kill(self) -> None:
        """Kill it; not its children."""
        os.kill(self._pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._receiver)
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


def _be(call: Callable[[], int], environment: dict[str, str], sender: int) -> None:
    """Be a program of its own, with nothing open but its output, and end."""
    code = 99
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        for fd, number in ((nothing, 0), (sender, 1), (sender, 2)):
            os.dup2(fd, number)
        os.closerange(3, HIGHEST_FD)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115 - until _exit
        sys.stderr.reconfigure(line_buffering=True, errors="backslashreplace")
        gc.freeze()  # what is the test's own is not to be closed here
        os.chdir("/")
        os.environ.clear()
        os.environ.update(environment)
        code = call()
    except SystemExit as error:
        code = 0 if error.code is None else error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - what a real process would end with
        os.write(2, traceback.format_exc().encode())
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
