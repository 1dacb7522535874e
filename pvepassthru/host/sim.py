# SPDX-License-Identifier: Apache-2.0
"""SimHost: a host in a folder whose sysfs answers writes as the Linux kernel does.

It works on any tree with `sys/bus/pci/devices`, be its entries folders or, as in a capture of a real host, links. What
sysfs does not show of drivers and hardware is told by DIR/.sim/settings.json (host/sim_settings.py). A process has a
device open when DIR/proc/PID/fd/N is a link to /dev/vfio/GROUP or /dev/vfio/devices/vfioN; what then blocks on a real
host blocks here, without a limit.

DIR/.sim, made by the first write, holds besides:

- `lock`: flock'ed around every operation, never while a write blocks or takes its time;
- `redo.json`: the changes that an operation is about to make, and the writes that still run; it is there only then.
  Who comes next, reading or writing, completes what a killed writer left: a real kernel, too, finishes a write whose
  process is killed;
- `wait.ID`: flock'ed by the process whose write ID still runs, as long as it lives;
- `state.json`: what the simulation remembers: drivers that devices had first, ids of new_id, removed functions;
- `stash`: the folders of removed functions and of what a driver shows.

A simulated host has no read-protected attributes, its driver probes take no time, and a write that was killed while it
waited for another one's device lock is never made.
"""

from __future__ import annotations

import os
import time

from pvepassthru.host.host import MAX_FILE, WAITING, Host
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

FOLDER = "/.sim"
LOCK = "/.sim/lock"
REDO = "/.sim/redo.json"
POLL = 0.005
"""Seconds between two looks at whether a blocked write can go on."""


class SimHost(Host):
    """A host below a folder, with a simulated kernel behind its sysfs."""

    simulated = True

    def __init__(self, root: str, node: str | None = None) -> None:
        super().__init__(root, node)
        self._redo = self.root + REDO
        from pvepassthru.host.sim_kernel import SimKernel  # noqa: PLC0415 - it needs the names above

        self._kernel = SimKernel(self.root)

    # ---- settings

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Put these settings (host/sim_settings.py) in the place of the present ones, as if loaded by the drivers.

        Raises OSError.
        """
        self._kernel.configure(settings)

    # ---- reading, after completing what a killed writer left

    def at_once(self, path: str, limit: int = MAX_FILE) -> bytes:
        """As Host.at_once. The kernel has a reader of some attributes wait while a write has the function locked."""
        while self._settle() and path.endswith(WAITING) and self._kernel.is_locked(path):
            time.sleep(POLL)
        return super().at_once(path, limit)

    def read(self, path: str, limit: int = MAX_FILE) -> bytes:
        """As Host.read; who finds nobody at it reads at once, whoever begins just then."""
        if path.endswith(WAITING) and self.may_wait(path):
            return self._patiently(path)
        self._settle()
        return super().at_once(path, limit)

    def may_wait(self, path: str) -> bool:
        """As Host.may_wait."""
        return self._settle() and self._kernel.is_locked(path)

    def names(self, path: str) -> list[str]:
        """As Host.names."""
        self._settle()
        return super().names(path)

    def link(self, path: str) -> str | None:
        """As Host.link."""
        self._settle()
        return super().link(path)

    def resolve(self, path: str) -> str | None:
        """As Host.resolve."""
        self._settle()
        return super().resolve(path)

    def exists(self, path: str) -> bool:
        """As Host.exists."""
        self._settle()
        return super().exists(path)

    # ---- writing

    def write(self, path: str, value: str) -> None:
        """Write to a kernel attribute as Host.write does; outside /sys, to a plain file.

        Raises OSError with the kernel's errno, and InputError when the settings are malformed.
        """
        if not path.startswith("/sys/"):
            super().write(path, value)
            return
        self._kernel.write(path, value)

    def _settle(self) -> bool:
        """Complete what killed writers left, unless somebody is at it; returns whether a write still runs."""
        return os.access(self._redo, os.F_OK) and self._kernel.settle()
