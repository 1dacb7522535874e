# SPDX-License-Identifier: Apache-2.0
"""A change to a VM's config: per key its old and new value with the reason, who may make it, and in which order.

Source: the permission checks of qemu-server's PVE::API2::Qemu. A key that is in none of its lists is root@pam's alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.model import hostpci
from pvepassthru.model.property_string import PropertyError
from pvepassthru.model.vmconfig import is_hostpci

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pvepassthru.api.present import Present

PRIVILEGES = {
    "machine": "VM.Config.HWType",
    "vga": "VM.Config.HWType",
    "bios": "VM.Config.Options",
    "balloon": "VM.Config.Memory",
    "cpu": "VM.Config.CPU",
    "efidisk0": "VM.Config.Disk",
}
"""What the keys that we change need on the VM; any other one but hostpciN is root@pam's alone."""
ALLOCATING = "efidisk0"
"""The key whose value makes PVE create a volume; what is then in the config names that volume."""


class Need(NamedTuple):
    """A privilege on a path."""

    path: str
    privilege: str


class KeyChange(NamedTuple):
    """What is to become of one key."""

    key: str
    old: str | None
    """The value that the next start would use; None if it is not set."""
    new: str | None
    """None deletes the key."""
    reason: str
    """One sentence."""
    in_force: str | None = None
    """What a running VM has, which PVE asks permission for, too; None if it is not set, or not known apart."""

    @property
    def allocates(self) -> bool:
        """Whether PVE creates a volume for the value, so that the config does not have it as it was sent."""
        return self.key == ALLOCATING and self.new is not None

    @property
    def root_only(self) -> bool:
        """Whether only root@pam may make it, and by no token."""
        if not is_hostpci(self.key):
            return self.key not in PRIVILEGES
        return any(is_roots(text) for text in self._values if text is not None)

    @property
    def replaces_host(self) -> bool:
        """Whether it is root@pam's alone for what the key has now, and not for what it is to have."""
        return self.root_only and is_hostpci(self.key) and not (self.new is not None and is_roots(self.new))

    def needs(self, vmid: int) -> tuple[Need, ...]:
        """The privileges of a user other than root@pam; none if no other user may make it."""
        if self.root_only:
            return ()
        if is_hostpci(self.key):
            names = {name for text in self._values if (name := _mapping(text))}
            uses = (Need(f"/mapping/pci/{name}", "Mapping.Use") for name in sorted(names))
            return (*uses, Need(f"/vms/{vmid}", "VM.Config.HWType"))
        needs = (Need(f"/vms/{vmid}", PRIVILEGES[self.key]),)
        if self.allocates and self.new:
            return (*needs, Need(f"/storage/{self.new.partition(':')[0]}", "Datastore.AllocateSpace"))
        return needs

    @property
    def _values(self) -> tuple[str | None, ...]:
        """What its user must be allowed: PVE looks at what is in force, and the old value may have to return."""
        return self.in_force, self.old, self.new


class Write(NamedTuple):
    """What one request to PVE sets and deletes."""

    set: dict[str, str]
    delete: tuple[str, ...]
    revert: tuple[str, ...] = ()
    """Keys of which nothing is to wait any more; what is in force stays. Only the way back has such."""


class Change(NamedTuple):
    """All that is to change in a VM's config; empty when it is as required already."""

    before: Present
    after: Present
    """As it will be, with a new volume's value as it is sent."""
    keys: tuple[KeyChange, ...]
    notes: tuple[str, ...]
    """What is to be known besides: consequences, and what could not be told."""
    functions: tuple[str, ...]
    """The functions that the wish's devices are, of a mapping with several the first; PVE may take another one then."""

    @property
    def vmid(self) -> int:
        """The VM."""
        return self.before.vmid

    @property
    def node(self) -> str:
        """Its node."""
        return self.before.node

    @property
    def digest(self) -> str | None:
        """The digest of the config that the change was made from; None if it is not known."""
        return self.before.digest

    @property
    def only_removes(self) -> bool:
        """Whether it takes hostpci entries away, and does nothing else."""
        return bool(self.keys) and all(is_hostpci(one.key) and one.new is None for one in self.keys)

    def writes(self) -> tuple[Write, ...]:
        """The requests by which it is made, in order.

        PVE refuses a request of several keys in the middle and leaves a random part of the others pending, so each one
        needs one privilege only. First what is refused most: what is root's alone and hostpci entries, each on its own;
        a VM with an entry that its machine does not fit yet is refused by PVE, while one with another machine but no
        device would start. Last what creates a volume, which would be left over.
        """
        hard = [change for change in self.keys if change.root_only]
        mapped = [change for change in self.keys if is_hostpci(change.key) and not change.root_only]
        plain = [change for change in self.keys if change not in hard and change not in mapped]
        privileges = dict.fromkeys(PRIVILEGES[change.key] for change in plain if not change.allocates)
        groups = [[change] for change in (*hard, *mapped)]
        groups += [
            [change for change in plain if PRIVILEGES[change.key] == privilege and not change.allocates]
            for privilege in privileges
        ]
        groups += [[change] for change in plain if change.allocates]
        return tuple(_write(group) for group in groups)


def _write(changes: Iterable[KeyChange]) -> Write:
    listed = tuple(changes)
    return Write(
        {change.key: change.new for change in listed if change.new is not None},
        tuple(change.key for change in listed if change.new is None),
    )


def is_roots(text: str) -> bool:
    """Whether only root@pam may set or delete this hostpci value: it names an address, a ROM file, or nothing."""
    try:
        entry = hostpci.parse(0, text)
    except PropertyError:
        return True
    return entry.host is not None or entry.romfile is not None or entry.mapping is None


def _mapping(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return hostpci.parse(0, text).mapping
    except PropertyError:
        return None
