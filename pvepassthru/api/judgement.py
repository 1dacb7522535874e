# SPDX-License-Identifier: Apache-2.0
"""What the rules say of a VM as it would be after a change, on its own node: the same rules as those of `validate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.host import vms
from pvepassthru.host.overlay import Overlay
from pvepassthru.model.vmconfig import is_hostpci
from pvepassthru.rules import catalogue, silence
from pvepassthru.rules import subject as subjects
from pvepassthru.rules.subject import Surroundings

if TYPE_CHECKING:
    from pvepassthru.api.change import Change
    from pvepassthru.host.host import Host
    from pvepassthru.model.finding import Finding


class Judgement(NamedTuple):
    """What the rules find of a VM after a change."""

    new: tuple[Finding, ...]
    """What they do not find of it as it is."""
    remaining: tuple[Finding, ...]
    """What they find of it as it is, too."""
    gone: tuple[Finding, ...]
    """What the change puts right."""
    moot: tuple[Finding, ...] = ()
    """What they find no more only because an entry goes: the setting that it is about stays as it is."""
    only_removes: bool = False
    """Whether the change does nothing but take entries away, which is never refused."""

    @property
    def findings(self) -> dict[str, tuple[Finding, ...]]:
        """The findings by what has become of them: `new`, `remaining`, `gone`, `moot`."""
        return {"new": self.new, "remaining": self.remaining, "gone": self.gone, "moot": self.moot}

    @property
    def refused(self) -> bool:
        """Whether the change brings an error that nobody silenced; taking an entry away brings none that was not."""
        return not self.only_removes and any(
            finding.severity == "error" and finding.silenced is None for finding in self.new
        )


def judge(host: Host, change: Change) -> Judgement:
    """What the rules say of a change to a VM of this host, other VMs as they are. Raises as rules.subject.load.

    Lines of the config that PVE drops are gone after any change: PVE writes the whole file anew. A finding that is told
    of another entry once its own one goes, such as of a group that both have, stays.
    """
    path = vms.config_path(change.vmid)
    before = _findings(host, change.vmid)
    after = _findings(Overlay(host, {path: change.after.text}), change.vmid)
    known, present = {_mark(finding) for finding in before}, {_mark(finding) for finding in after}
    ended = [finding for finding in before if _mark(finding) not in present]
    new = [finding for finding in after if _mark(finding) not in known]
    if change.only_removes:
        for finding in new[:]:
            former = next((one for one in ended if one.code == finding.code), None)
            if former is not None:
                ended.remove(former)
                new.remove(finding)
    return Judgement(
        tuple(new),
        tuple(finding for finding in after if finding not in new),
        tuple(finding for finding in ended if not _is_moot(finding, change)),
        tuple(finding for finding in ended if _is_moot(finding, change)),
        change.only_removes,
    )


def _is_moot(finding: Finding, change: Change) -> bool:
    """Whether a finding ends with an entry that goes, while the other setting that it is about stays as it is."""
    key = finding.where.rpartition(" ")[2]
    stays = change.before.get(key) is not None and change.before.get(key) == change.after.get(key)
    return stays and not is_hostpci(key) and any(is_hostpci(one.key) and one.new is None for one in change.keys)


def _findings(host: Host, vmid: int) -> list[Finding]:
    around = Surroundings(host)
    subject = subjects.load(host, vmid, pending=True, around=around)
    found = silence.of_vm(silence.silences(around), subject, catalogue.findings(subject))
    return [_without_line(finding) for finding in found]


def _without_line(finding: Finding) -> Finding:
    """The finding without the line of the config, since no file has the lines of what would be."""
    place, space, key = finding.where.partition(" ")
    file, colon, line = place.rpartition(":")
    where = f"{file}{space}{key}" if colon and line.isdecimal() and file.endswith(".conf") else finding.where
    return finding._replace(where=where)


def _mark(finding: Finding) -> tuple[str, str, str]:
    """What tells a finding from another."""
    return finding.code, finding.where, finding.message
