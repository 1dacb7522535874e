# SPDX-License-Identifier: Apache-2.0
"""The little of a kernel that the conformance data assumes: PVE's writes take effect on a folder tree.

Lifecycle tests use SimHost or a real kernel instead; this one exists so that the emulator can be judged without either.
"""

from __future__ import annotations

import errno
import os


class TreeKernel:
    """Its `write` answers to PVE's writes over the tree below `root`."""

    def __init__(self, root: str) -> None:
        self.root = root

    def write(self, path: str, value: str) -> None:
        """Take a write. Raises OSError as a kernel does where the conformance data depends on it."""
        real = self.root + path
        if not os.path.exists(real):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        folder, name = os.path.split(real)
        if name == "unbind":
            os.unlink(os.path.join(self._device(value), "driver"))
        elif name == "bind":
            os.symlink(os.path.relpath(os.path.realpath(folder), self._device(value)), self._device(value) + "/driver")
        elif name == "create":
            self._create(folder, value)
        elif name == "current_vgpu_type":
            with open(real, "w", encoding="ascii") as file:
                file.write(f"{value}\n")
        elif name not in ("new_id", "reset"):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)

    def _device(self, address: str) -> str:
        return f"{self.root}/sys/bus/pci/devices/{address}"

    def _create(self, folder: str, uuid: str) -> None:
        with open(f"{folder}/available_instances", encoding="ascii") as file:
            available = int(file.read())
        instance = os.path.join(os.path.dirname(os.path.dirname(folder)), uuid)
        if os.path.exists(instance):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), folder)
        if available < 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder)
        os.makedirs(instance)
        os.symlink(f"../mdev_supported_types/{os.path.basename(folder)}", f"{instance}/mdev_type")
        with open(f"{folder}/available_instances", "w", encoding="ascii") as file:
            file.write(f"{available - 1}\n")
