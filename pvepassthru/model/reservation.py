# SPDX-License-Identifier: Apache-2.0
"""PVE's reservation file of PCI functions, /run/qemu-server/pci-id-reservations, as text.

A line is `ID VMID time:EPOCH` (a start that is under way) or `ID VMID pid:PID` (a VM that runs). Lines of another form
count for nothing and vanish with the next write; of several lines with one id the last counts. Source: behaviour of
qemu-server's reservation code (tests/conformance/reservations.json).
"""

from __future__ import annotations

from pvepassthru.model import pci
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import BLANKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Literal

    Error = Literal["reserved-in-use", "reserved-pending", "already-running-self"]

GRACE = 5
"""Seconds that PVE adds to the time asked for."""
_BLANKS = dict.fromkeys(map(ord, BLANKS), " ")


class Entry(NamedTuple):
    """One reservation."""

    id: str
    """The function's address; ids are compared as text."""
    vm: str
    """The VMID as written."""
    kind: str
    """`time` or `pid`."""
    value: str
    """Seconds since the epoch at which it ends, or the pid; as written."""

    @property
    def vmid(self) -> int:
        """The VMID as a number."""
        return _number(self.vm)

    def holder(self, running: Callable[[int], int | None]) -> int | None:
        """The pid of the VM that has the function, if it is reserved by pid and that VM runs with it; else None."""
        if self.kind != "pid":
            return None
        pid = _number(self.value)
        return pid if running(self.vmid) == pid else None

    def pending(self, now: int) -> bool:
        """Whether it is reserved by time, and not until now or earlier."""
        return self.kind == "time" and _number(self.value or "0") > now


class Reserved(NamedTuple):
    """What came of a request to reserve."""

    accepted: bool
    error: Error | None
    entry: Entry | None
    """The reservation in the way."""
    text: str | None
    """The file's new text, or None when nothing is to be written."""
    stale: tuple[Entry, ...]
    """Reservations of VMs that no longer run, taken over; PVE warns of each."""
    warns: bool
    """Whether PVE itself warns."""
    reason: str
    """Why an id is not to be had, in words; empty when all are."""

    @property
    def blocked(self) -> str:
        """The id that is not to be had, or nothing."""
        return self.entry.id if self.entry else ""


def parse(text: str) -> dict[str, Entry]:
    """The reservations by id. Never raises."""
    found: dict[str, Entry] = {}
    for line in text.split("\n"):
        if entry := _entry(line):
            found[entry.id] = entry
    return found


def _entry(line: str) -> Entry | None:
    """The reservation of a line, or None: its three words have one blank between them, of whichever kind."""
    words = line.translate(_BLANKS).split(" ")
    if len(words) != 3:
        return None
    name, vm, (kind, _, value) = words[0], words[1], words[2].partition(":")
    if kind not in {"time", "pid"} or not pci.is_selector(name) or not (vm.isdecimal() and value.isdecimal()):
        return None
    return Entry(name, vm, kind, value) if line.isascii() else None


def write(entries: Iterable[Entry]) -> str:
    """The file's text, sorted by id as PVE writes it."""
    return "".join(f"{entry.id} {entry.vm} {entry.kind}:{entry.value}\n" for entry in sorted(entries))


def describe(entry: Entry, now: int) -> str:
    """Who has a reserved function: `VM 101 is running with it (process 4242)`; `now` in seconds since the epoch."""
    if entry.kind == "pid":
        return f"VM {entry.vmid} is running with it (process {entry.value})"
    return f"VM {entry.vmid} has reserved it for a start, for {max(0, _number(entry.value or '0') - now)} s more"


def blocks(
    entry: Entry | None, vmid: int, now: int, running: Callable[[int], int | None]
) -> Literal["reserved-in-use", "reserved-pending"] | None:
    """Whether another VM's reservation keeps `vmid` from the function, and how."""
    if entry is None or entry.vmid == vmid:
        return None
    if entry.holder(running) is not None:
        return "reserved-in-use"
    return "reserved-pending" if entry.pending(now) else None


def reserve(  # noqa: PLR0913 - PVE's own request has these parts; a class of them would be unpacked at once
    text: str,
    ids: Iterable[str],
    vmid: int,
    now: int,
    *,
    timeout: int | None = None,
    pid: int | None = None,
    running: Callable[[int], int | None],
) -> Reserved:
    """Reserve functions for a VM, for `timeout` seconds and PVE's grace, or with the pid of the running VM.

    `now` is in seconds since the epoch, `running` gives the pid of a running VM. With neither timeout nor pid PVE
    writes entries that hold for nothing, and warns.
    """
    wanted = list(ids)
    entries = parse(text)
    stale: list[Entry] = []
    until = "" if timeout is None else str(now + timeout + GRACE)

    def answer(error: Error | None = None, entry: Entry | None = None, new: str | None = None) -> Reserved:
        warns = bool(stale) or (pid is None and timeout is None)
        reason = describe(entry, now) if entry else ""
        return Reserved(error is None, error, entry, new, tuple(stale), warns, reason)

    for name in wanted:
        entry = entries.get(name)
        value = until
        if entry is not None and entry.vmid == vmid:
            if entry.holder(running) is not None:
                return answer() if pid is None else answer("already-running-self", entry)
            if entry.kind == "time" and _number(entry.value) > _number(until or "0"):
                value = entry.value
        elif entry is not None:
            if error := blocks(entry, vmid, now, running):
                return answer(error, entry)
            if entry.kind == "pid":
                stale.append(entry)
        entries[name] = (
            Entry(name, str(vmid), "time", value) if pid is None else Entry(name, str(vmid), "pid", str(pid))
        )
    return answer(new=write(entries.values()) if wanted else None)


def remove(text: str, vmid: int, *, addresses: Iterable[str] | None = None) -> str:
    """The file's text without a VM's reservations: of these functions, or of all."""
    only = None if addresses is None else set(addresses)
    return write(
        entry for entry in parse(text).values() if entry.vmid != vmid or (only is not None and entry.id not in only)
    )


def held(text: str, vmid: int) -> tuple[str, ...]:
    """The ids that are reserved for a VM, sorted."""
    return tuple(sorted(entry.id for entry in parse(text).values() if entry.vmid == vmid))


def _number(digits: str) -> int:
    """Digits as a number; more of them than any epoch, pid or VMID has are as good as their first ones."""
    return int(digits[:30])
