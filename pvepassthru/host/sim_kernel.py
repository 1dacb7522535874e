# SPDX-License-Identifier: Apache-2.0
"""The operations of SimHost: one at a time under the tree's lock, each as a list of changes that is written first.

host/sim.py tells what lies in DIR/.sim.
"""

from __future__ import annotations

import fcntl
import os
import time

from pvepassthru.host import sim_files, sim_mdev, sim_pci, sim_sriov
from pvepassthru.host.inventory import DEVICES
from pvepassthru.host.sim import FOLDER, LOCK, POLL, REDO
from pvepassthru.host.sim_settings import SETTINGS
from pvepassthru.host.sim_tree import DeviceLockedError, Tree, apply, locked, replace
from pvepassthru.model import jsontext
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from pvepassthru.host.sim_tree import Entry


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


class SimKernel:
    """What makes the writes of the simulated hosts below `root`."""

    def __init__(self, root: str) -> None:
        self.root = root

    def configure(self, settings: Mapping[str, Any]) -> None:
        """As SimHost.configure."""
        lock = self._lock()
        try:
            replace(self.root, SETTINGS, jsontext.dumps(dict(settings)))
            tree = self._settled_tree()
            before = jsontext.dumps(tree.waiting)
            for address in tree.names(DEVICES):
                folder = tree.device(address)
                if folder is not None:
                    sim_mdev.refresh(tree, folder)
            self._commit(tree, before)
        finally:
            os.close(lock)

    def write(self, path: str, value: str) -> None:
        """Write to a kernel attribute below /sys. Raises OSError with the kernel's errno, and InputError."""
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
            before = jsontext.dumps(tree.waiting)
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
            before = jsontext.dumps(tree.waiting)
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

    def settle(self) -> bool:
        """Complete what killed writers left, unless somebody is at it; returns whether a write still runs."""
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
            with open(self.root + REDO, "rb") as file:
                redo = jsontext.loads(file.read())
        except FileNotFoundError:
            return Tree(self.root, [])
        if redo["changes"]:
            self._carry_out(redo["changes"], redo["waiting"])
        tree = Tree(self.root, redo["waiting"])
        before = jsontext.dumps(tree.waiting)
        for entry in list(tree.waiting):
            if entry in tree.waiting and self._is_orphan(entry) and ADVANCE[entry["kind"]](tree, entry) is not None:
                tree.waiting.remove(entry)
                if "id" in entry:
                    os.unlink(f"{self.root}{FOLDER}/wait.{entry['id']}")
        if not tree.changes and jsontext.dumps(tree.waiting) == before:
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
        waiting = jsontext.dumps(tree.waiting)
        if len(tree.changes) == 1 and waiting == before and not tree.waiting:
            apply(self.root, tree.changes[0])
            return
        if tree.changes or waiting != before:
            replace(self.root, REDO, f'{{"changes": {jsontext.dumps(tree.changes)}, "waiting": {waiting}}}')
            self._carry_out(tree.changes, tree.waiting)

    def _carry_out(self, changes: list[list[str]], waiting: list[Entry]) -> None:
        for change in changes:
            apply(self.root, change)
        if waiting:
            replace(self.root, REDO, jsontext.dumps({"changes": [], "waiting": waiting}))
        else:
            os.unlink(self.root + REDO)

    def is_locked(self, path: str) -> bool:
        """Whether a write that still runs locks the function of this attribute."""
        address = path.rsplit("/", 2)[-2]
        try:
            with open(self.root + REDO, "rb") as file:
                redo = jsontext.loads(file.read())
        except FileNotFoundError:
            return False
        if redo["changes"]:  # its last changes are being made
            return True
        return any(address in locked(entry) for entry in redo["waiting"])
