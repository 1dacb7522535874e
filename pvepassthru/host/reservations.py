# SPDX-License-Identifier: Apache-2.0
"""PVE's own reservation file of PCI functions, edited under PVE's lock and in PVE's format.

Semantics: model/reservation.py; source: qemu-server, PVE::QemuServer::PCI. The lock is held for the edit only.
"""

from __future__ import annotations

import errno
import os
import time

from pvepassthru.host import locks, vms
from pvepassthru.host.host import TEMPORARY, way_out
from pvepassthru.model import reservation
from pvepassthru.model.errors import DeviceError, InputError, PassthruError
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pvepassthru.host.deadline import Deadline
    from pvepassthru.host.host import Host
    from pvepassthru.host.locks import Lock
    from pvepassthru.model.reservation import Reserved

FILE = "/run/qemu-server/pci-id-reservations"
LOCK = FILE + ".lock"
RESERVE_WAIT = 5.0
REMOVE_WAIT = 2.0
"""Seconds that PVE itself waits for the lock."""


def text(host: Host) -> str:
    """The reservation file as text, empty if there is none; reading takes no lock. Raises InputError."""
    try:
        return host.read(FILE).decode("utf-8", "replace")
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            return ""
        raise InputError(f"cannot read {FILE}: {error.strerror}") from error


def _lock(host: Host, deadline: Deadline, most: float) -> Lock:
    """PVE's lock, in a folder that PVE makes when it first needs it after a boot. Raises BusyError, PassthruError."""
    try:
        os.mkdir(host.path(os.path.dirname(FILE)), 0o755)
    except FileExistsError:
        pass
    except OSError as error:
        raise PassthruError(
            f"cannot make {os.path.dirname(FILE)}: {error.strerror}", way_out(error, "check that /run is writable")
        ) from error
    return locks.take(host, LOCK, deadline, "PVE's PCI reservations", most)


def reserve(  # noqa: PLR0913 - what varies is by keyword
    host: Host, addresses: Iterable[str], vmid: int, seconds: int, deadline: Deadline, *, beside: Iterable[str] = ()
) -> None:
    """Reserve functions for a VM that is about to start, for `seconds` and what PVE adds to it: all of them or none.

    What is `beside` them is not reserved, and must not be another VM's either. Raises DeviceError when another VM has
    one of them, BusyError when the lock is not to be had.
    """
    wanted, mates = tuple(addresses), tuple(beside)
    with _lock(host, deadline, RESERVE_WAIT):
        before, now = text(host), int(time.time())

        def asked(names: tuple[str, ...]) -> Reserved:
            def running(other: int) -> int | None:
                return vms.running_pid(host, other)

            return reservation.reserve(before, names, vmid, now, timeout=seconds, running=running)

        result = asked(wanted)
        refusal = asked((*wanted, *mates)) if mates and result.accepted else result
        if not refusal.accepted:
            raise DeviceError(
                f"cannot reserve {refusal.blocked} for VM {vmid}: {refusal.reason}",
                "stop that VM, or use another device",
            )
        if result.text is not None:
            _replace(host, result.text)


def own(host: Host, address: str, vmid: int) -> str | None:
    """A VM's own reservation of a function, if it has one that still holds, as in the file. Raises InputError."""
    entry = reservation.parse(text(host)).get(address)
    if entry is None or entry.vmid != vmid:
        return None
    holds = entry.pending(int(time.time())) or entry.holder(lambda other: vms.running_pid(host, other)) is not None
    return f"{entry.kind}:{entry.value}" if holds else None


def release(host: Host, addresses: Iterable[str], vmid: int, deadline: Deadline) -> None:
    """Drop a VM's reservations of these functions; others' and absent ones are left. Raises as `reserve`."""
    with _lock(host, deadline, REMOVE_WAIT):
        before = text(host)
        after = reservation.remove(before, vmid, addresses=tuple(addresses))
        if after != before:
            _replace(host, after)
        else:
            host.remove(FILE + TEMPORARY)  # what a killed writer left


def _replace(host: Host, content: str) -> None:
    try:
        host.replace(FILE, content.encode(), 0o644)
    except OSError as error:
        raise PassthruError(f"cannot write {FILE}: {error.strerror}", "check that /run is not full") from error
