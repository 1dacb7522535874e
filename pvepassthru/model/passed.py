# SPDX-License-Identifier: Apache-2.0
"""A device that a start passes through."""

from __future__ import annotations

from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pvepassthru.model.hostpci import HostpciEntry


class Passed(NamedTuple):
    """One hostpci entry, resolved on this host."""

    index: int  # type: ignore[assignment] # the field's own word; nobody asks these tuples for tuple.index
    entry: HostpciEntry
    alternatives: tuple[tuple[str, ...], ...]
    """The full addresses of each alternative, in PVE's order; one without a mapping of several."""
    addresses: tuple[str, ...]
    """The alternative that PVE takes first; for a classic mdev the candidate parents."""
    mdev: str | None
    """The classic mdev type, as written; None for `mdev=0`, which PVE takes for none."""
    nvidia: str | None
    """The number of the vGPU type, for VFs with NVIDIA's vendor interface."""
    multifunction: bool

    @property
    def bound_to_vfio(self) -> bool:
        """Whether PVE binds it, and all of its IOMMU group, to vfio-pci."""
        return not (self.mdev or self.nvidia or self.entry.keeps_driver)
