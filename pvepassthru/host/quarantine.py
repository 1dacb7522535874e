# SPDX-License-Identifier: Apache-2.0
"""Functions that fell off the bus: they stay where they are until they answer again, or the host reboots.

/run/pvepassthru/ADDRESS.quarantine, root's alone, holds one JSON object: the VM after whose stop it was noticed, when
(seconds since the epoch), and why. The evidence is the function itself: one that answers again is no longer in
quarantine, whatever the file says.
"""

from __future__ import annotations

import os
import time

from pvepassthru.host import slow, state
from pvepassthru.host.inventory import DEVICES
from pvepassthru.model import jsontext
from pvepassthru.model.errors import NotFoundError, PassthruError
from pvepassthru.model.pci import is_address
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pvepassthru.host.host import Host

HEADER = 64
"""Bytes of the configuration space that all functions have and everybody may read."""
READ_SECONDS = 5.0
"""A read wakes a function that sleeps without power, which takes up to a second; one that is gone answers at once."""


class Quarantine(NamedTuple):
    """Why a function must not be used."""

    address: str
    vmid: int
    """The VM after whose stop it was noticed."""
    since: int
    """Seconds since the epoch."""
    why: str
    """A sentence: what, where, why."""


def path(address: str) -> str:
    """Where a function's quarantine is noted."""
    return f"{state.FOLDER}/{address}{state.QUARANTINE}"


def read(host: Host, address: str) -> Quarantine | None:
    """What is noted of a function, or None; a file that makes no sense counts, and says so."""
    try:
        data = host.read(path(address))
    except OSError:
        return None
    try:
        record = jsontext.loads(data)
        return Quarantine(address, int(record["vmid"]), int(record["since"]), str(record["why"]))
    except (ValueError, KeyError, TypeError):
        return Quarantine(address, 0, 0, f"{address} is in quarantine, and {path(address)} does not say why")


def put(host: Host, address: str, vmid: int, why: str) -> None:
    """Put a function in quarantine. Raises PassthruError when that cannot be written."""
    record = {"vmid": vmid, "since": int(time.time()), "why": why}
    try:
        host.replace(path(address), (jsontext.dumps(record) + "\n").encode(), 0o600)
    except OSError as error:
        raise PassthruError(
            f"cannot write {path(address)}: {error.strerror}", "check that /run is writable and not full"
        ) from error


def drop(host: Host, address: str) -> None:
    """Forget what is noted of a function; nothing noted is fine. Raises PassthruError."""
    try:
        host.remove(path(address))
    except OSError as error:
        raise PassthruError(f"cannot remove {path(address)}: {error.strerror}", "see what is wrong with it") from error


def listed(host: Host) -> tuple[Quarantine, ...]:
    """All quarantines, by address."""
    found = (read(host, address) for address in sorted(state.quarantined(host)) if is_address(address))
    return tuple(quarantine for quarantine in found if quarantine)


def answers(host: Host, address: str) -> bool | None:
    """Whether a function answers: not all of its config space's header reads 0xFF. None without it, or if unreadable.

    The kernel wakes a function without power to read it. Raises nothing; waits READ_SECONDS at most.
    """
    try:
        header = slow.read(host.path(f"{DEVICES}/{address}/config"), HEADER, READ_SECONDS)
    except OSError:
        return None
    return bool(header.strip(b"\xff")) if header else None


def standing(host: Host, address: str) -> Quarantine | None:
    """The quarantine of a function that still does not answer, or None."""
    found = read(host, address)
    return found if found and not answers(host, address) else None


def way_out(address: str) -> str:
    """What may bring a function back that does not answer, for all who tell of one."""
    path = f"{DEVICES}/{address}"
    return (
        f"try: echo 1 > {path}/remove; echo 1 > /sys/bus/pci/rescan; if that does not help, shut the host down and "
        "power it off"
    )


def lift(host: Host, address: str, *, dry_run: bool = False) -> Quarantine:
    """End a function's quarantine by hand, or only see whether that can be, and return what it was.

    Raises NotFoundError when there is none, PassthruError when the function still does not answer: it would take the
    next VM's start down, or the host.
    """
    found = read(host, address)
    if found is None:
        raise NotFoundError(f"{address} is not in quarantine", "pvepassthru status shows what is")
    if not answers(host, address):
        there = os.path.lexists(host.path(f"{DEVICES}/{address}"))
        why = "its configuration space still reads 0xFF everywhere" if there else "it is not on the bus any more"
        raise PassthruError(
            f"cannot end the quarantine of {address}: {why}",
            way_out(address),
        )
    if not dry_run:
        drop(host, address)
    return found
