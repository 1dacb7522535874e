# SPDX-License-Identifier: Apache-2.0
"""A hook phase that goes on beside the test, to send it signals or to run several at once."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from tests.kernel import guest
from tests.kernel.checks import holds

if TYPE_CHECKING:
    from tests.scenarios.world import World


class HookProcess:
    """A hook phase that goes on beside the test."""

    def __init__(self, world: World, vmid: int, phase: str) -> None:
        self._phase = phase
        self._reader, writer = os.pipe()
        self.output = ""
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job has it ignored
                for stream in (1, 2):
                    os.dup2(writer, stream)
                os.chdir("/")
                more = {"PVEPASSTHRU_ROOT": world.root} if world.root else {}
                environment = {"PATH": "/sbin:/bin:/usr/sbin:/usr/bin", "LC_ALL": "C", "PVE_MIGRATED_FROM": "", **more}
                os.execve(world.pve.hook[0], [*world.pve.hook, str(vmid), phase], environment)  # noqa: S606 - no shell is wanted
            finally:
                os._exit(127)
        os.close(writer)

    def has_open(self, name: str) -> bool:
        """Whether the hook, and not the test's child that becomes it, has a file of this name open."""
        folder = f"/proc/{self.pid}"
        try:
            if not guest.read(f"{folder}/cmdline").endswith(f"{self._phase}\0"):
                return False
            return any(os.readlink(f"{folder}/fd/{fd}").endswith(f"/{name}") for fd in os.listdir(f"{folder}/fd"))
        except OSError:
            return False

    def end(self, number: int = 0) -> None:
        """Send a signal, wait for the end, and read what was said."""
        if number:
            os.kill(self.pid, number)
        with os.fdopen(self._reader, encoding="utf-8", errors="replace") as reader:
            self.output = reader.read()
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        holds(f"no traceback: {self.output}", "Traceback" not in self.output)
