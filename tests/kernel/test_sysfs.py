# SPDX-License-Identifier: Apache-2.0
"""The cases of sysfs behaviour on a SimHost tree of the guest's machine; test_guest.py runs them on real kernels."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.host.sim import SimHost
from pvepassthru.host.sim_settings import tbmdev_settings
from tests.kernel import guest, machine, runner, sysfs_display, sysfs_mdev, sysfs_pci, sysfs_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CASES = [case for suite in (sysfs_display, sysfs_mdev, sysfs_pci, sysfs_settings) for case in runner.tests_of(suite)]


class SimMachine:
    """A SimHost tree of the guest's machine."""

    def __init__(self, root: Path) -> None:
        machine.build(root, machine.read())
        self.host = SimHost(str(root))
        self._root = str(root)
        self._parameters: dict[str, int] = {}
        self.configure()

    def configure(self, **parameters: int) -> None:
        self._parameters.update(parameters)
        settings: dict[str, Any] = tbmdev_settings(**self._parameters)
        settings["drivers"] |= {"nvme": {}, "bochs-drm": {"framebuffer": True}}
        self.host.configure(settings)

    @contextmanager
    def held(self, device: str) -> Iterator[None]:
        """As /proc shows a process that has the device's group open."""
        folder = guest.MDEVS if "-" in device else guest.PCI
        group = self.host.link(f"{folder}/{device}/iommu_group")
        assert group is not None
        descriptor = f"{self._root}/proc/4242/fd/7"
        os.makedirs(os.path.dirname(descriptor))
        os.symlink(f"/dev/vfio/{group}", descriptor)
        try:
            yield
        finally:
            os.unlink(descriptor)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__.removeprefix("test_"))
def test_simulated(case: Callable[[SimMachine], None], tmp_path: Path) -> None:
    case(SimMachine(tmp_path))
