# SPDX-License-Identifier: Apache-2.0
"""What every step of a phase needs: the host, the VM, its journal, the time left, and somebody to tell."""

from __future__ import annotations

from pvepassthru.host import slow
from pvepassthru.model.errors import BusyError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvepassthru.host.deadline import Deadline
    from pvepassthru.host.host import Host
    from pvepassthru.host.locks import Lock
    from pvepassthru.host.slow import Writer
    from pvepassthru.lifecycle.journal import Journal


class Voice(NamedTuple):
    """Somebody to tell; each takes one sentence."""

    say: Callable[[str], None]
    """What was done."""
    warn: Callable[[str], None]
    """What is wrong, though it does not stop the phase."""
    fail: Callable[[str], None]
    """What stops the phase, where that is more than what its PassthruError says."""


class Work(NamedTuple):
    """One run of a phase for one VM. Whoever makes it holds the VM's lock."""

    host: Host
    vmid: int
    journal: Journal
    deadline: Deadline
    patience: float
    """Seconds to wait for a process that still has a device open, before its step is kept."""
    voice: Voice
    writer: Writer | None = None
    """The process for writes that may block, if there are to be several; else each has its own."""

    def write(self, path: str, value: str, seconds: float, lock: Lock) -> None:
        """Write to an attribute of the kernel's in another process. Raises as slow.Writer.write."""
        if self.writer is None:
            slow.write(self.host, path, value, seconds, lock)
        else:
            self.writer.write(path, value, seconds, lock)

    def attempt(self, what: str, path: str, value: str, seconds: float, lock: Lock) -> None:
        """As `write`, with words for what cannot be done when it is late. Raises OSError as the kernel, BusyError."""
        limit = self.deadline.left(seconds)
        try:
            self.write(path, value, limit, lock)
        except slow.StillBlockedError:
            why = f"cannot {what}: {path} has not answered within {limit:.0f} s"
            raise BusyError(why, "see the kernel log") from None


class Want(NamedTuple):
    """A mediated device or vGPU that a VM needs before it starts."""

    entry: int
    """Index of the hostpci entry."""
    kind: str
    """`mdev`: an instance on a classic mdev parent; `vgpu`: the type of a VF with NVIDIA's vendor interface."""
    type: str
    """The mdev type's id, or the vGPU type's number."""
    candidates: tuple[str, ...]
    """Addresses of the parents, or of the one VF, in PVE's order."""
    uuid: str
    """The instance's UUID, which PVE derives from entry and VM; empty for a vGPU type."""
    mapping: str | None = None
    """The mapping that the candidates are alternatives of, for the policy on where it is placed."""


class Function(NamedTuple):
    """A PCI function that a start takes from the host as a whole."""

    address: str
    entry: int
    """Index of the hostpci entry that names it, or with whose function it shares an IOMMU group."""
    mapping: str | None
    """The mapping by which that entry names it, or None."""
    passed: bool
    """Whether the VM gets it; else it is a member of the group that PVE takes along."""
