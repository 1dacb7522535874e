# SPDX-License-Identifier: Apache-2.0
"""All that a report of a host holds, as plain values: what the commands find, put together once.

What cannot be read is no reason to have no report: it is among `notes`. What configs and policies say is masked as in
a snapshot of the host (host/masks.py), since a report is made to be shown.
"""

from __future__ import annotations

import os
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import pvepassthru
from pvepassthru.host import packages, sriov, vms
from pvepassthru.host.masks import Masks
from pvepassthru.host.snapshot import SnapshotHost
from pvepassthru.model.errors import NotFoundError, PassthruError
from pvepassthru.model.text import listed
from pvepassthru.report import held, instances, readiness, room
from pvepassthru.report.functions import Functions
from pvepassthru.report.judgement import judge, shape
from pvepassthru.report.virtual_functions import PhysicalFunctions
from pvepassthru.rules import catalogue, explanation, silence
from pvepassthru.rules.catalogue import BY_CODE
from pvepassthru.rules.subject import Surroundings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeVar

    from pvepassthru.host.host import Host
    from pvepassthru.model.finding import Finding
    from pvepassthru.rules.catalogue import HostState
    from pvepassthru.rules.subject import Subject

    T = TypeVar("T")

FORMAT = 1
GENERATOR = "pvepassthru report"
"""How a page says what made it (the HTML standard's meta name=generator), in its first lines."""
SEVERITIES = ("error", "warning", "info")
_VMS = re.compile(r"\bVMs? ((?:\d{3,9}(?:, | and )?)+)")
LONGEST = 1000
"""Characters of one text of a host; the rest is cut, and the number of all said."""
_MOST_UNREADABLE = 50
"""So many paths that could not be read are named."""
_NO_STATUS: dict[str, Any] = {"journals": [], "orphans": [], "quarantines": []}


def gather(host: Host, made: int) -> dict[str, Any]:
    """What a report holds, in the shape of docs/json.md. `made`: the time of the report, in seconds since the epoch."""
    return _Gathering(host, made).contents()


class _Gathering:
    """One look at a host."""

    def __init__(self, host: Host, made: int) -> None:
        self.host = host
        self.around = Surroundings(host)
        self._made = made
        self._notes: list[str] = []
        self._findings: list[dict[str, Any]] = []
        self._masks = Masks()
        self._view = Functions(self.around)
        self._known = frozenset(self.around.inventory.addresses())
        self._vmids = frozenset(vms.vmids(host))

    def contents(self) -> dict[str, Any]:
        inventory, host = self.around.inventory, self.host
        if not host.root and os.geteuid():
            self._notes.append("it was not made by root, who alone may read all of this host")
        if not host.names(vms.PVE):
            self._notes.append(f"{vms.PVE} is absent or empty, so nothing is known of VMs and mappings")
        nothing: list[dict[str, Any]] = []
        states = catalogue.host_states(self.around)
        guests = self._guests()
        for state in states:
            for finding in state.findings:
                self._add(finding, None, silence.named(finding))
        functions = [self._view.function(address) for address in inventory.addresses()]
        found = {
            "readiness": readiness.shape(host, states),
            "devices": [self._device(row) for row in self._view.shapes(functions)],
            "buses": self._view.buses(functions),
            "rooms": self._or_note(lambda: room.rooms(host, inventory), nothing),
            "instances": self._or_note(lambda: instances.instances(host, inventory), nothing),
            "physical_functions": self._physical_functions(),
            "vms": guests,
            "held": self._or_note(lambda: held.held(host), _NO_STATUS),
            "findings": self._sorted(),
        }
        found = {**self._masked(found), "explanations": self._explanations(states)}
        return {"format": FORMAT, "about": self._about(), **found}

    def _about(self) -> dict[str, Any]:
        host = self.host
        manager = packages.read(host).get("pve-manager")
        taken = isinstance(host, SnapshotHost)
        return {
            "node": self._text(host.node),
            "pve": self._text(manager.version) if manager else None,
            "kernel": self._text(host.text("/proc/sys/kernel/osrelease") or "") or None,
            "version": pvepassthru.__version__,
            "made": self._made,
            "source": "snapshot" if taken else "files" if host.root else "host",
            "file": os.path.basename(host.file) if isinstance(host, SnapshotHost) else host.root or None,
            "taken": int(host.now()) if taken else None,
            "notes": [self._text(note) for note in dict.fromkeys(self._notes)],
            "unreadable": self._unreadable(),
        }

    def _unreadable(self) -> list[str]:
        unread = self.host.unreadable
        lines = [f"{path}: {os.strerror(unread[path])}" for path in sorted(unread)[:_MOST_UNREADABLE]]
        more = len(unread) - len(lines)
        return [self._text(line) for line in lines] + ([f"and {more} more"] if more > 0 else [])

    # ---- parts

    def _device(self, row: dict[str, Any]) -> dict[str, Any]:
        inventory, address = self.around.inventory, row["address"]
        return {
            **row,
            "name": self._view.ids.name(row["vendor"], row["device"]),
            "bridge": inventory.is_bridge(address),
            "uses": [use._asdict() for use in self.around.uses.of(address)],
        }

    def _physical_functions(self) -> list[dict[str, Any]]:
        view = self._or_note(lambda: PhysicalFunctions(self.around, self._view.all_owners), None)
        if view is None:
            return []
        found = []
        for address in sriov.physical_functions(self.host):
            row = self._or_note(partial(self._physical_function, view, address), None)
            if row:
                functions = [{name: vf[name] for name in vf if name != "network"} for vf in row["functions"]]
                found.append({**row, "functions": functions})
        self._notes += view.warnings
        return found

    def _physical_function(self, view: PhysicalFunctions, address: str) -> dict[str, Any]:
        return view.shape(sriov.read(self.host, address))

    def _guests(self) -> list[dict[str, Any]]:
        found = []
        for vmid in sorted(self._vmids):
            try:
                subject, findings = judge(self.around, vmid, lenient=True)
            except NotFoundError:  # it was removed, or migrated, since it was listed
                continue
            except PassthruError as error:
                self._notes.append(str(error))
                continue
            for finding in findings:
                self._add(finding, vmid, self._about_devices(subject, finding))
            entries = subject.section.entries
            found.append(
                {
                    "vmid": vmid,
                    "name": subject.section.get("name"),
                    "running": self.around.running(vmid) is not None,
                    "entries": [
                        {"key": entries[index].key, "value": subject.section.get(entries[index].key)}
                        for index in sorted(entries)
                    ],
                    "devices": shape(subject, findings)["devices"],
                }
            )
        return found

    def _about_devices(self, subject: Subject, finding: Finding) -> list[str]:
        """The functions that a finding of a VM names, else those that its entry may pass."""
        named = silence.named(finding)
        if named:
            return named
        key = finding.where.rpartition(" ")[2]
        passed = [device for device in subject.resolution.passed if device.entry.key == key]
        return [address for device in passed for addresses in device.alternatives for address in addresses]

    # ---- findings

    def _add(self, finding: Finding, vmid: int | None, devices: Iterable[str]) -> None:
        known = [address for address in dict.fromkeys(devices) if address in self._known]
        of = [vmid] if vmid is not None else [number for number in _named_vms(finding) if number in self._vmids]
        self._findings.append({**finding._asdict(), "vms": of, "devices": known})

    def _sorted(self) -> list[dict[str, Any]]:
        """Findings, the worst first and what is silenced last; each has its number."""
        rows = sorted(
            self._findings,
            key=lambda row: (
                *(row["silenced"] is not None, SEVERITIES.index(row["severity"]), row["code"]),
                *(row["vms"], row["where"], row["message"]),
            ),
        )
        return [{"id": number, **row} for number, row in enumerate(rows, 1)]

    def _explanations(self, states: list[HostState]) -> dict[str, dict[str, Any]]:
        codes = {state.rule.code for state in states} | {row["code"] for row in self._findings}
        return {
            code: {"title": explanation.title(BY_CODE[code]), **explanation.parts(BY_CODE[code].explanation)}
            for code in sorted(codes)
        }

    # ---- what must not be in it, and what could not be read

    def _or_note(self, read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except PassthruError as error:
            self._notes.append(str(error))
            return otherwise

    def _masked(self, value: Any) -> Any:  # noqa: ANN401 - whatever JSON has
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, dict):
            return {name: self._masked(one) for name, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._masked(one) for one in value]
        return value

    def _text(self, text: str) -> str:
        cut = text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text)} characters)"
        data = cut.encode("utf-8", "surrogateescape")
        return self._masks.plain(self._masks.words(data)).decode("utf-8", "surrogateescape")


def _named_vms(finding: Finding) -> list[int]:
    """The VMs that a finding of the host names: `VM 100`, `VMs 100, 101 and 102`, or the config of one."""
    found = [word for words in _VMS.findall(finding.message) for word in re.findall(r"\d+", words)]
    if finding.where.startswith(f"{vms.CONFIGS}/"):
        found.append(finding.where.removeprefix(f"{vms.CONFIGS}/").partition(".conf")[0])
    return list(dict.fromkeys(vmid for word in found if (vmid := vms.vmid_of(word)) is not None))


def summary(contents: dict[str, Any]) -> str:
    """One line on what was found: `2 errors, 1 warning`."""
    told = [row["severity"] for row in contents["findings"] if row["silenced"] is None]
    counts = [(told.count(severity), severity) for severity in SEVERITIES]
    words = [
        f"{count} {name}" if count == 1 or name == "info" else f"{count} {name}s" for count, name in counts if count
    ]
    return listed(words) or "no findings"
