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

import errno
import fcntl
import json
import os
import time

from pvepassthru.host import sim_files, sim_mdev, sim_pci, sim_sriov
from pvepassthru.host.host import MAX_FILE, Host
from pvepassthru.host.inventory import DEVICES
from pvepassthru.host.sim_settings import SETTINGS
from pvepassthru.host.sim_tree import DeviceLockedError, Tree, apply, locked, replace
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from pvepassthru.host.sim_tree import Entry

FOLDER = "/.sim"
LOCK = "/.sim/lock"
REDO = "/.sim/redo.json"
POLL = 0.005
"""Seconds between two looks at whether a blocked write can go on."""


def _refused(_tree: Tree, entry: Entry) -> int:
    """The outcome of a write that changes something and fails all the same."""
    return int(entry["errno"])


ADVANCE: dict[str, Callable[[Tree, Entry], int | None]] = {
    "create": sim_mdev.advance_create,
    "remove": sim_mdev.advance_remove,
    "unbind": sim_pci.advance_unbind,
    "vanish": sim_pci.advance_vanish,
    "numvfs": sim_sriov.advance_numvfs,
    "refused": _refused,
}


class SimHost(Host):
    """A host below a folder, with a simulated kernel behind its sysfs."""

    simulated = True

    def __init__(self, root: str, node: str | None = None) -> None:
        super().__init__(root, node)
        self._redo = self.root + REDO

    # ---- settings

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Put these settings (host/sim_settings.py) in the place of the present ones, as if loaded by the drivers.

        Raises OSError.
        """
        lock = self._lock()
        try:
            replace(self.root, SETTINGS, json.dumps(settings, indent=1))
            tree = self._settled_tree()
            before = json.dumps(tree.waiting)
            for address in tree.names(DEVICES):
                folder = tree.device(address)
                if folder is not None:
                    sim_mdev.refresh(tree, folder)
            self._commit(tree, before)
        finally:
            os.close(lock)

    # ---- reading, after completing what a killed writer left

    def read(self, path: str, limit: int = MAX_FILE) -> bytes:
        """As Host.read. The kernel has a reader of sriov_numvfs wait while its VFs are being removed."""
        while self._settle() and path.endswith("/sriov_numvfs") and self._is_locked(path):
            time.sleep(POLL)
        return super().read(path, limit)

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
        ticket, running = self._begin(path, value)
        try:
            while running is not None:
                time.sleep(POLL)
                running = self._go_on(running, path)
        finally:
            if ticket is not None:
                os.close(ticket)

    def _begin(self, path: str, value: str) -> tuple[int | None, str | None]:
        """Do a write or its beginning, once no other one locks its device; then its ticket's lock and its id."""
        while True:
            try:
                return self._try_to_begin(path, value)
            except DeviceLockedError:
                time.sleep(POLL)

    def _try_to_begin(self, path: str, value: str) -> tuple[int | None, str | None]:
        lock = self._lock()
        try:
            tree = self._settled_tree()
            tree.adopt()
            before = json.dumps(tree.waiting)
            entry = sim_files.write(tree, path, value)
            if entry is None:
                self._commit(tree, before)
                return None, None
            tree.waiting.append(entry)
            outcome = ADVANCE[entry["kind"]](tree, entry)
            if outcome is not None:
                tree.waiting.remove(entry)
                self._commit(tree, before)
                if outcome:
                    raise OSError(outcome, os.strerror(outcome), path)
                return None, None
            entry["id"] = f"{os.getpid()}-{time.monotonic_ns()}"
            ticket = self._flock(f"{FOLDER}/wait.{entry['id']}", fcntl.LOCK_EX)
            self._commit(tree, before)
            return ticket, entry["id"]
        finally:
            os.close(lock)

    def _go_on(self, running: str, path: str) -> str | None:
        """Go on with the write of this id: its id again while it still runs, then None. Raises its OSError."""
        lock = self._lock()
        try:
            tree = self._settled_tree()
            before = json.dumps(tree.waiting)
            entry = next(entry for entry in tree.waiting if entry.get("id") == running)
            outcome = ADVANCE[entry["kind"]](tree, entry)
            if outcome is not None:
                tree.waiting.remove(entry)
            self._commit(tree, before)
            if outcome is None:
                return running
            os.unlink(f"{self.root}{FOLDER}/wait.{running}")
        finally:
            os.close(lock)
        if outcome:
            raise OSError(outcome, os.strerror(outcome), path)
        return None

    # ---- the lock, and what a killed writer left

    def _flock(self, path: str, how: int) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            lock = os.open(self.root + path, flags, 0o600)
        except FileNotFoundError:
            os.mkdir(self.root + FOLDER, 0o700)
            lock = os.open(self.root + path, flags, 0o600)
        try:
            fcntl.flock(lock, how)
        except BaseException:
            os.close(lock)
            raise
        return lock

    def _lock(self) -> int:
        try:
            return self._flock(LOCK, fcntl.LOCK_EX)
        except FileExistsError:  # another process made the folder just now
            return self._flock(LOCK, fcntl.LOCK_EX)

    def _settle(self) -> bool:
        """Complete what killed writers left, unless somebody is at it; returns whether a write still runs."""
        if not os.access(self._redo, os.F_OK):
            return False
        try:
            lock = self._flock(LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # an operation is under way, or the tree is read-only
            return True
        try:
            return bool(self._settled_tree().waiting)
        finally:
            os.close(lock)

    def _settled_tree(self) -> Tree:
        """The tree, once what killed writers left is completed; only for the holder of the lock."""
        try:
            with open(self._redo, encoding="utf-8") as file:
                redo = json.load(file)
        except FileNotFoundError:
            return Tree(self.root, [])
        if redo["changes"]:
            self._carry_out(redo["changes"], redo["waiting"])
        tree = Tree(self.root, redo["waiting"])
        before = json.dumps(tree.waiting)
        for entry in list(tree.waiting):
            if entry in tree.waiting and self._is_orphan(entry) and ADVANCE[entry["kind"]](tree, entry) is not None:
                tree.waiting.remove(entry)
                if "id" in entry:
                    os.unlink(f"{self.root}{FOLDER}/wait.{entry['id']}")
        if not tree.changes and json.dumps(tree.waiting) == before:
            return tree
        self._commit(tree, before)
        return Tree(self.root, tree.waiting)

    def _is_orphan(self, entry: Entry) -> bool:
        """Whether nobody waits for this write any more: its process is dead, or another write began it."""
        if "id" not in entry:
            return True
        try:
            os.close(self._flock(f"{FOLDER}/wait.{entry['id']}", fcntl.LOCK_EX | fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def _commit(self, tree: Tree, before: str) -> None:
        """Write the redo list, then make its changes. `before` are the running writes as the list on disk has them."""
        waiting = json.dumps(tree.waiting)
        if len(tree.changes) == 1 and waiting == before and not tree.waiting:
            apply(self.root, tree.changes[0])
            return
        if tree.changes or waiting != before:
            replace(self.root, REDO, f'{{"changes": {json.dumps(tree.changes)}, "waiting": {waiting}}}')
            self._carry_out(tree.changes, tree.waiting)

    def _carry_out(self, changes: list[list[str]], waiting: list[Entry]) -> None:
        for change in changes:
            apply(self.root, change)
        if waiting:
            replace(self.root, REDO, json.dumps({"changes": [], "waiting": waiting}))
        else:
            os.unlink(self._redo)

    def _is_locked(self, path: str) -> bool:
        address = path.rsplit("/", 2)[-2]
        try:
            redo = json.loads(super().read(REDO))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return any(address in locked(entry) for entry in redo["waiting"])
