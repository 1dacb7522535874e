# SPDX-License-Identifier: Apache-2.0
"""The little of a kernel that the conformance data assumes: PVE's writes take effect on a folder tree.

Lifecycle tests use SimHost or a real kernel instead; this one exists so that the emulator can be judged without either.
"""

from __future__ import annotations

import errno
import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DEVICES = "/sys/bus/pci/devices"
MDEVS = "/sys/bus/mdev/devices"


def failure(number: int, path: str) -> OSError:
    """The error of a write."""
    return OSError(number, os.strerror(number), path)


class TreeKernel:
    """Its `write` answers to PVE's writes over the tree below `root`."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._undo: list[Callable[[], object]] = []

    def undo(self) -> None:
        """Take all writes back, so that a tree serves many cases."""
        while self._undo:
            self._undo.pop()()

    def write(self, path: str, value: str) -> None:
        """Take a write. Raises OSError as a kernel does where the conformance data depends on it."""
        real = self.root + path
        if not os.path.exists(real):
            raise failure(errno.ENOENT, path)
        folder, name = os.path.split(real)
        device = f"{self.root}{DEVICES}/{value}"
        if name == "unbind":
            target = os.readlink(f"{device}/driver")
            os.unlink(f"{device}/driver")
            self._undo.append(lambda: os.symlink(target, f"{device}/driver"))
        elif name == "bind":
            os.symlink(os.path.relpath(os.path.realpath(folder), device), f"{device}/driver")
            self._undo.append(lambda: os.unlink(f"{device}/driver"))
        elif name == "create":
            self._create(folder, value)
            self._undo.append(lambda: self._remove(os.path.realpath(f"{self.root}{MDEVS}/{value}")))
        elif name == "remove":
            self._remove(os.path.realpath(folder))
        elif name == "current_vgpu_type":
            before = _read(real)
            _write(real, f"{value}\n")
            self._undo.append(lambda: _write(real, before))
        elif name not in ("new_id", "reset"):
            raise failure(errno.EACCES, path)

    def _create(self, folder: str, uuid: str) -> None:
        available = self._available(folder)
        instance = os.path.join(os.path.dirname(os.path.dirname(folder)), uuid)
        listed = f"{self.root}{MDEVS}/{uuid}"
        if os.path.lexists(listed):
            raise failure(errno.EEXIST, folder)
        if available < 1:
            raise failure(errno.ENOSPC, folder)
        self._set_available(folder, available - 1)
        os.makedirs(instance)
        os.symlink(f"../mdev_supported_types/{os.path.basename(folder)}", f"{instance}/mdev_type")
        group = f"{self.root}/sys/kernel/iommu_groups/{900 + int(uuid[:8]) * 10 + int(uuid[-1])}"
        os.makedirs(group, exist_ok=True)
        os.symlink(os.path.relpath(group, instance), f"{instance}/iommu_group")
        _write(f"{instance}/remove", "")
        os.makedirs(os.path.dirname(listed), exist_ok=True)
        os.symlink(os.path.relpath(instance, os.path.dirname(listed)), listed)

    def _remove(self, instance: str) -> None:
        kind = os.path.realpath(f"{instance}/mdev_type")
        os.unlink(f"{self.root}{MDEVS}/{os.path.basename(instance)}")
        shutil.rmtree(instance)
        self._set_available(kind, self._available(kind) + 1)

    def _available(self, kind: str) -> int:
        return int(_read(f"{kind}/available_instances"))

    def _set_available(self, kind: str, count: int) -> None:
        _write(f"{kind}/available_instances", f"{count}\n")


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
