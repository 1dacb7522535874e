# SPDX-License-Identifier: Apache-2.0
"""What the owner puts up with: `silence` in the policy files, which are root's.

A silenced finding is shown as such, with the owner's reason, and counts for no exit code; the hook does not refuse a
start on it. An entry for one device silences only what is said of that device: see `about`.
"""

from __future__ import annotations

from pvepassthru.model import pci
from pvepassthru.model.errors import PassthruError
from pvepassthru.model.policy import HOST_SAVING
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from pvepassthru.model.finding import Finding
    from pvepassthru.model.policy import Silence
    from pvepassthru.rules.subject import Subject, Surroundings


def silences(around: Surroundings) -> tuple[Silence, ...]:
    """What the policy silences; nothing with a policy that cannot be used (hosts.policy_unusable tells of that)."""
    try:
        return around.policies.silence
    except PassthruError:
        return ()


def of_vm(entries: tuple[Silence, ...], subject: Subject, found: list[Finding]) -> list[Finding]:
    """The findings of a VM, with the owner's reason on those that are silenced."""
    if not entries:
        return found
    return [_marked(finding, entry_for(entries, subject, finding)) for finding in found]


def of_host(entries: tuple[Silence, ...], found: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings of the host, with the owner's reason on those that are silenced."""
    return tuple(_marked(finding, silenced(entries, finding, None, named(finding))) for finding in found)


def entry_for(entries: tuple[Silence, ...], subject: Subject, finding: Finding) -> Silence | None:
    """The entry that silences a finding of a VM, or None."""
    candidates = [entry for entry in entries if entry.code == finding.code and entry.vmid in {None, subject.vmid}]
    return silenced(candidates, finding, subject.vmid, about(subject, finding)) if candidates else None


def silenced(
    entries: Iterable[Silence], finding: Finding, vmid: int | None, devices: Collection[str]
) -> Silence | None:
    """The first entry that silences a finding about these devices, or None. `vmid` is None for one of the host."""
    for entry in entries:
        if entry.code == finding.code and entry.vmid in {None, vmid} and (not entry.device or entry.device in devices):
            return entry
    return None


def about(subject: Subject, finding: Finding) -> set[str]:
    """The functions that a finding of a VM is about: those that it names, else all that its entry may pass.

    What it names counts only if it is of the entry or of its IOMMU groups, since a message may quote a VM's config. A
    finding that keeps the host's disks and network is about the first one that it names, which is the one at stake: the
    device that is passed, named behind a member of its group, does not stand for the whole group.
    """
    key = finding.where.rpartition(" ")[2]
    passed = subject.resolution.passed
    own = {
        address
        for device in [device for device in passed if device.entry.key == key] or passed
        for addresses in (device.addresses, *device.alternatives)
        for address in addresses
    }
    told = named(finding)
    if not told:
        return own
    if finding.code.startswith(HOST_SAVING):
        told = told[:1]
    return own.union(*(subject.inventory.group_members(address) for address in own)).intersection(told)


def named(finding: Finding) -> list[str]:
    """The full PCI addresses that a finding names in its message, then those in its place."""
    text = f"{finding.message} {finding.where}"
    words = "".join(char if char.isalnum() or char in ":." else " " for char in text).split()
    return [word for word in (word.strip(":.") for word in words) if pci.is_address(word)]


def _marked(finding: Finding, entry: Silence | None) -> Finding:
    return finding._replace(silenced=entry.reason) if entry else finding
