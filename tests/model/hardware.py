# SPDX-License-Identifier: Apache-2.0
"""A host without any PCI device, for tests of what needs none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.host.inventory import Mdev

if TYPE_CHECKING:
    from pvepassthru.model.problem import Hardware, Instance


class NoHardware:
    """A host without any PCI device."""

    def addresses(self) -> tuple[str, ...]:
        return ()

    def in_slot(self, slot: str) -> tuple[str, ...]:  # noqa: ARG002 - a slot of no use
        return ()

    def attribute(self, address: str, name: str) -> str | None:
        raise AssertionError(f"{name} of {address}, which is not there, was asked for")

    def has(self, address: str, name: str) -> bool:
        raise AssertionError(f"{name} of {address}, which is not there, was asked for")

    def group(self, address: str) -> int | None:
        raise AssertionError(f"the group of {address}, which is not there, was asked for")

    def iommu_present(self) -> bool:
        return False

    def driver_available(self, name: str) -> bool:  # noqa: ARG002 - there is none
        return False

    def mdev_room(self, address: str) -> dict[str, int | None]:
        raise AssertionError(f"the types of {address}, which is not there, were asked for")

    def mdevs_of(self, parent: str) -> tuple[str, ...]:
        raise AssertionError(f"the instances of {parent}, which is not there, were asked for")

    def mdev(self, uuid: str) -> Instance:
        return Mdev(uuid, None, None)

    def vgpu_creatable(self, address: str) -> dict[str, str]:
        raise AssertionError(f"the types of {address}, which is not there, were asked for")

    def vgpu_current(self, address: str) -> str | None:
        raise AssertionError(f"the type of {address}, which is not there, was asked for")


NO_HARDWARE: Hardware = NoHardware()
