# SPDX-License-Identifier: Apache-2.0
"""Which processes have a device open: the links in /proc/PID/fd.

Opening /dev/vfio/GROUP to see whether it is busy would make a QEMU that opens it at that moment fail, so we only look.
"""

from __future__ import annotations

import os

from pvepassthru.host.deadline import pause
from pvepassthru.host.host import ABSENT
from pvepassthru.model.errors import PassthruError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pvepassthru.host.deadline import Deadline
    from pvepassthru.host.host import Host


VFIO = "/dev/vfio/"


class Holder(NamedTuple):
    """A process that has a device open."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.name})"


def vfio_nodes(host: Host, device: str) -> tuple[str, ...]:
    """The device nodes through which a function or mdev (its sysfs folder) can be opened, whether they exist or not.

    The group's node /dev/vfio/N, and the cdev /dev/vfio/devices/vfioN of kernels with VFIO_DEVICE_CDEV. Source: Linux
    Documentation/driver-api/vfio.rst.
    """
    group = host.link(f"{device}/iommu_group")
    nodes = [f"/dev/vfio/{group}"] if group else []
    nodes += [f"/dev/vfio/devices/{name}" for name in host.names(f"{device}/vfio-dev")]
    return tuple(nodes)


def opened(host: Host, under: str | tuple[str, ...] = VFIO) -> dict[str, tuple[Holder, ...]]:
    """VFIO's device nodes that are open, each with its processes by pid; needs root to see those of other users.

    Or others, whose paths start with `under` (`/dev/dri/`).

    Raises PassthruError when the processes cannot be listed: nobody can tell then.
    """
    found: dict[str, list[Holder]] = {}
    proc = host.path("/proc")
    try:
        pids = os.listdir(proc)
    except OSError as error:
        if error.errno in ABSENT:
            return {}
        raise PassthruError(
            f"cannot tell who has devices open: cannot read /proc: {error.strerror}", "run this as root"
        ) from error
    for pid in pids:
        nodes = _open_nodes(f"{proc}/{pid}/fd", under) if pid.isdecimal() else set()
        if nodes:
            holder = Holder(int(pid), host.text(f"/proc/{pid}/comm") or _argv0(host, pid) or "?")
            for node in nodes:
                found.setdefault(node, []).append(holder)
    return {node: tuple(sorted(users)) for node, users in found.items()}


def holders(host: Host, nodes: Iterable[str]) -> tuple[Holder, ...]:
    """The processes that have one of these device nodes open, by pid. Raises as `opened`."""
    wanted = set(nodes)
    found = opened(host) if wanted else {}
    return tuple(sorted({user for node in wanted for user in found.get(node, ())}))


def device_holders(host: Host, device: str) -> tuple[Holder, ...]:
    """The processes that have a function or mdev (its sysfs folder) open through VFIO."""
    return holders(host, vfio_nodes(host, device))


def wait_until_closed(host: Host, device: str, deadline: Deadline) -> tuple[Holder, ...]:
    """Who has a function or mdev open when nobody does or the time is over. Raises as `opened`."""
    nodes = set(vfio_nodes(host, device))
    users = holders(host, nodes)
    while users and pause(deadline, 0.1):
        users = tuple(user for user in users if nodes & _open_nodes(f"{host.path('/proc')}/{user.pid}/fd"))
        users = users or holders(host, nodes)  # somebody else meanwhile
    return users


def describe(found: tuple[Holder, ...]) -> str:
    """Words for holders, the first four by name."""
    words = ", ".join(map(str, found[:4]))
    return f"{words} and {len(found) - 4} more" if len(found) > 4 else words


def _open_nodes(folder: str, under: str | tuple[str, ...] = VFIO) -> set[str]:
    """The device nodes under `under` that the process with this folder of descriptors has open."""
    found: set[str] = set()
    try:
        entries = os.listdir(folder)
    except OSError:  # the process has just ended, or is another user's
        return found
    for entry in entries:
        try:
            target = os.readlink(f"{folder}/{entry}")
        except OSError:
            continue
        if target.startswith(under):
            found.add(target)
    return found


def _argv0(host: Host, pid: str) -> str | None:
    line = host.text(f"/proc/{pid}/cmdline")
    return line.split("\0", 1)[0].rpartition("/")[2] if line else None
