# SPDX-License-Identifier: Apache-2.0
"""How many virtual functions a PF has: set, under the PF's lock, and counted afterwards.

The number goes through 0, since the kernel changes none but 0 (EBUSY); all VFs go with that, so it is refused while one
is in use. The lock is the one that hooks take for VFs of the PF. Sources: Linux drivers/pci/iov.c, sriov_numvfs_store;
tests/kernel/sysfs_pci.py has what each write answers.
"""

from __future__ import annotations

import errno

from pvepassthru.host import locks, slow, sriov, state
from pvepassthru.host.deadline import Deadline, pause
from pvepassthru.host.inventory import DEVICES
from pvepassthru.model import sriov_drivers
from pvepassthru.model.errors import BusyError, DeviceError, UsageError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import counted, listed

if TYPE_CHECKING:
    from pvepassthru.host.host import Host
    from pvepassthru.host.locks import Lock
    from pvepassthru.host.sriov import Pf

WRITE_LIMIT = 120.0
"""Seconds for one write to sriov_numvfs: some drivers take long for many VFs."""
AUTOPROBE_LIMIT = 5.0
"""Seconds for one to sriov_drivers_autoprobe, which waits for nobody in the kernel."""
LOCK_WAIT = 30.0
"""Seconds to wait for others who work on the PF."""
MANAGER_LIMIT = 60.0
"""Seconds for NVIDIA's sriov-manage."""
COUNT_WAIT = 30.0
"""Seconds for the VFs to appear after it, and for a number that was written to be read."""
_LOG = "see what the driver says in the kernel log"


class Wish(NamedTuple):
    """How many VFs a PF shall have."""

    address: str
    vfs: int
    autoprobe: bool = False
    """Whether the host's drivers take new VFs by themselves."""
    manager: str | None = None
    """NVIDIA's sriov-manage, if it is not at its usual place."""


class Change(NamedTuple):
    """What was done with a PF, or would be."""

    said: tuple[str, ...]
    """In sentences."""
    warnings: tuple[str, ...]


def take_lock(host: Host, address: str, deadline: Deadline) -> Lock:
    """The lock of a PF, which hooks take as well. Raises BusyError, UnsafeError and PassthruError."""
    state.prepare(host)
    return locks.take(host, state.device_lock_path(address), deadline, f"the VFs of {address}", LOCK_WAIT)


def look(host: Host, wish: Wish) -> Pf | None:
    """The PF whose number of VFs has to be changed, or None: it has that many. Changes nothing.

    Raises NotFoundError and UsageError for a wish that cannot be, DeviceError when a VF is in use or the PF has no
    driver that makes VFs, and BusyError when its VFs are being removed.
    """
    pf = sriov.read(host, wish.address)
    if pf.vfs == wish.vfs == len(pf.functions):
        return None
    _check(host, pf, wish)
    return pf


def plan(host: Host, pf: Pf, wish: Wish) -> Change:
    """What `set_number` would do with a PF that `look` returned."""
    present = len(pf.functions)
    said = [f"would remove {counted(present, 'VF')} of {pf.address}"] if present else []
    said += [f"would make {counted(wish.vfs, 'VF')} of {pf.address}"] if wish.vfs else []
    return Change(tuple(said), _warnings(host, pf))


def set_number(host: Host, pf: Pf, wish: Wish, lock: Lock, deadline: Deadline) -> Change:
    """Give a PF that `look` returned, under its lock, this many VFs; leaves its autoprobe as the wish says.

    Raises DeviceError when the driver refuses, or other than that many VFs are there afterwards, and BusyError when a
    write does not end in time.
    """
    present = len(pf.functions)
    warnings = _warnings(host, pf)
    if _managed(host, pf):
        return Change(_manage(host, pf, wish, deadline), warnings)
    said: tuple[str, ...] = ()
    if pf.vfs or present:
        _write(host, pf, 0, lock, deadline)
        said += (f"removed {counted(present, 'VF')} of {pf.address}",)
    if wish.vfs:
        if pf.autoprobe is not None and pf.autoprobe != wish.autoprobe:
            set_autoprobe(host, pf.address, lock, on=wish.autoprobe)
        _write(host, pf, wish.vfs, lock, deadline)
        _count(host, pf, wish.vfs)
        said += (f"made {counted(wish.vfs, 'VF')} of {pf.address}",)
    else:
        _count(host, pf, 0)
    return Change(said, warnings)


# ---- what is refused


def _check(host: Host, pf: Pf, wish: Wish) -> None:
    """Raise for a wish that cannot be, or must not be now."""
    what = _what(pf, wish)
    check_number(host, pf, wish)
    if pf.vfs is None:
        raise BusyError(
            f"{what}: its sriov_numvfs cannot be read; a removal of its VFs is under way{_who_blocks(host, pf)}",
            "end that process, then try again",
        )
    if pf.driver is None:
        raise DeviceError(f"{what}: it has no driver", "load the driver of the card, then try again")
    if pf.driver == "vfio-pci":
        hint = "stop its VM and give it back to the host's driver"
        raise DeviceError(f"{what}: it is bound to vfio-pci, to be passed whole", hint)
    down = [net for net in pf.nets[:1] if not sriov.is_up(host, net)]
    if pf.known.must_be_up and wish.vfs and down:
        why = f"its interface {down[0]} is down, and then {pf.driver} makes none and reports no error"
        raise DeviceError(f"{what}: {why}", f"ip link set {down[0]} up")
    used = sriov.Users(host).in_use(pf.functions) if pf.functions else []
    if used:
        raise DeviceError(f"{what}: that removes all VFs it has, of which some are in use ({listed(used, 4)})", _FREE)


def check_number(host: Host, pf: Pf, wish: Wish) -> None:
    """Raise UsageError for a number of VFs that the card or its driver never has."""
    what = _what(pf, wish)
    most = pf.known.most
    if wish.vfs < 0:
        raise UsageError(f"{what}: that is no number of VFs", f"give one from 0 to {pf.most}")
    if wish.vfs > pf.most:
        hint = f"give at most {pf.most}; some cards can be told to have more by their firmware's tool"
        raise UsageError(f"{what}: the card can have {pf.most}", hint)
    if most is not None and wish.vfs > most:
        raise UsageError(f"{what}: the driver {pf.driver} makes at most {most}", f"give at most {most}")
    if _managed(host, pf) and wish.vfs not in {0, pf.most}:
        raise UsageError(f"{what}: sriov-manage makes all {pf.most} at once", f"give 0 or {pf.most}")


def _what(pf: Pf, wish: Wish) -> str:
    return f"cannot give {pf.address} {counted(wish.vfs, 'VF')}"


def _there(count: int) -> str:
    return f"{counted(count, 'VF')} {'is' if count == 1 else 'are'}"


_FREE = "stop what uses them first; no VF was touched"


def _who_blocks(host: Host, pf: Pf) -> str:
    """Words for the processes that have VFs open which their PF may list no more."""
    found = sriov.expected(host, pf.address, pf.most) or ()
    lost = tuple(sriov.Vf(0, vf, None, None) for vf in found if host.exists(f"{DEVICES}/{vf}"))
    words = sriov.Users(host).in_use(lost)
    return f" ({listed(words, 4)})" if words else ""


def _warnings(host: Host, pf: Pf) -> tuple[str, ...]:
    """What people should know before: the host's own network on a PF whose link goes down meanwhile."""
    if not pf.known.resets_link:
        return ()
    from pvepassthru.host.inventory import Inventory  # noqa: PLC0415 - for few drivers only
    from pvepassthru.host.uses import Uses  # noqa: PLC0415 - as above

    uses = Uses(host, Inventory(host)).of(pf.address)
    if not uses:
        return ()
    details = listed([use.detail for use in uses], 2)
    return (f"{pf.driver} resets {pf.address} for this, and the host uses it: {details}; its link is down for seconds",)


# ---- sysfs


def set_autoprobe(host: Host, address: str, lock: Lock, *, on: bool) -> None:
    """Say whether the kernel offers a PF's VFs to drivers. Raises DeviceError, and BusyError when that does not end.

    It has a time of its own, since it comes also after what took all the time there was.

    Off, only driver_override binds one: PVE's own way (new_id, bind) gets ENODEV. So it is off while VFs are made, and
    then what it was.
    """
    path = f"{DEVICES}/{address}/sriov_drivers_autoprobe"
    try:
        slow.write(host, path, "1" if on else "0", AUTOPROBE_LIMIT, lock)
    except slow.StillBlockedError:
        raise BusyError(f"the kernel has not finished the write to {path}", _LOG) from None
    except OSError as error:
        raise DeviceError(f"cannot write {path}: {error.strerror}", _LOG) from error
    if (host.text(path) == "0") == on:
        raise DeviceError(f"cannot write {path}: the kernel took the write, but it reads {host.text(path)}", _LOG)


def _write(host: Host, pf: Pf, value: int, lock: Lock, deadline: Deadline) -> None:
    """Write sriov_numvfs. Raises DeviceError in words for what the kernel answers, BusyError when it does not."""
    path = f"{DEVICES}/{pf.address}/sriov_numvfs"
    what = f"cannot give {pf.address} {counted(value, 'VF')}" if value else f"cannot remove the VFs of {pf.address}"
    if not deadline:
        raise BusyError(f"{what}: no time was left for it", "try again")
    limit = deadline.left(WRITE_LIMIT)
    try:
        slow.write(host, path, str(value), limit, lock)
    except slow.StillBlockedError:
        raise BusyError(
            f"{what}: the kernel has not finished within {limit:.0f} s{_who_blocks(host, pf)}", _LOG
        ) from None
    except OSError as error:
        raise DeviceError(f"{what}: {_cause(pf, error)[0]}", _cause(pf, error)[1]) from error


def _cause(pf: Pf, error: OSError) -> tuple[str, str]:
    """Words for what the kernel answers to a write of sriov_numvfs, and the way out."""
    return {
        errno.ENOENT: (f"its driver {pf.driver} makes no VFs", "use a driver of the card that does SR-IOV"),
        errno.ERANGE: (f"the card can have {pf.most}", f"give at most {pf.most}"),
        errno.EBUSY: (
            "somebody else has just given it VFs, or works on it",
            "see pvepassthru sriov show, then try again",
        ),
        errno.ENOMEM: ("there is no room for their memory or bus numbers", sriov_drivers.NO_ROOM),
        errno.ENOSPC: ("there is no room for their memory or bus numbers", sriov_drivers.NO_ROOM),
        errno.EPERM: (
            f"the driver {pf.driver} does not allow it",
            "see whether a VF is assigned to a VM, and the kernel log",
        ),
        errno.EACCES: ("this user may not", "run this as root"),
        errno.EOPNOTSUPP: (f"the driver {pf.driver} does not support it now", _LOG),
        errno.EIO: ("the card or its firmware reports an error", _LOG),
    }.get(error.errno or 0, (f"the kernel says {error.strerror}", _LOG))


def _count(host: Host, pf: Pf, wanted: int) -> None:
    """Raise DeviceError unless sriov_numvfs and the VFs that are there are this many."""
    says = sriov.numvfs(host, pf.address, COUNT_WAIT)  # nobody removes any now: it only takes what a busy host takes
    there = len(sriov.functions(host, pf.address))
    if says == there == wanted:
        return
    hint = f"ip link set {pf.nets[0]} up, if it is down; {_LOG}" if pf.nets else _LOG
    raise DeviceError(
        f"cannot give {pf.address} {counted(wanted, 'VF')}: the driver {pf.driver} took the write, but "
        f"{_there(there)} there and "
        f"sriov_numvfs says {'nothing' if says is None else says}",
        hint,
    )


# ---- NVIDIA's sriov-manage


def _managed(host: Host, pf: Pf) -> bool:
    """Whether a program makes the VFs; for a copy of a host, on which nothing is run, its kernel is simulated."""
    vendor = host.text(f"{DEVICES}/{pf.address}/vendor") or ""
    return pf.known.manager is not None and vendor.lower() == "0x10de" and host.copy_of is None


def _manage(host: Host, pf: Pf, wish: Wish, deadline: Deadline) -> tuple[str, ...]:
    """Have NVIDIA's program make or remove the VFs; its exit code says nothing, so they are counted."""
    path = wish.manager or pf.known.manager or sriov_drivers.NVIDIA_MANAGER
    option = "-e" if wish.vfs else "-d"
    what = _what(pf, wish)
    from pvepassthru.host import programs  # noqa: PLC0415 - the hook needs it for NVIDIA's cards only

    done = programs.run(host, (path, option, pf.address), deadline.left(MANAGER_LIMIT))
    output = f"{done.stdout.strip()}\n{done.words}".strip()
    if done.code is None:
        raise DeviceError(f"{what}: {output}", "install NVIDIA's vGPU host driver, or set `manage` in the policy")
    end = Deadline(deadline.left(COUNT_WAIT))
    while len(sriov.functions(host, pf.address)) != wish.vfs:
        if not pause(end, 0.5):
            there = len(sriov.functions(host, pf.address))
            tail = "; ".join(output.splitlines()[-6:]) or "nothing"
            raise DeviceError(
                f"{what}: {path} {option} ended with {done.code}, but {_there(there)} there; it said: {tail}", _LOG
            )
    return (f"{path} {option} {pf.address}: {_there(wish.vfs)} there",)
