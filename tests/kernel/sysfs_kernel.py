# SPDX-License-Identifier: Apache-2.0
"""What only a real kernel shows: processes that cannot be killed, files opened before, VFIO's own answers."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

from pvepassthru.host.host import WAITING
from tests.kernel import guest
from tests.kernel.checks import check, holds
from tests.kernel.sysfs import (
    MDEVS,
    NIC,
    ONE,
    PARENT,
    PCI,
    PF,
    UUIDS,
    Started,
    create,
    numvfs,
    override,
    prepare,
    setup,
    take,
    unbind,
    vfs,
    wait_until,
)

if TYPE_CHECKING:
    from tests.kernel.sysfs import Machine

__all__ = ["prepare", "setup"]
SHARING = ("0000:07:01.0", "0000:07:02.0")
"""Two functions behind the bridge, in one group with it."""


def state_of(pid: int) -> str:
    """A process's state as in /proc: D for uninterruptible sleep."""
    return guest.read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0]


def opened(device: str) -> str:
    """The outcome of opening a device: ok, or the name of its errno."""
    try:
        with guest.held(device):
            return "ok"
    except OSError as error:
        return errno.errorcode[error.errno or errno.EIO]


def test_killed_remover(machine: Machine) -> None:
    check("create", create(machine, PARENT, ONE, UUIDS[0]), "ok")
    with machine.held(UUIDS[0]):
        remover = Started(machine, f"{MDEVS}/{UUIDS[0]}/remove", "1")
        wait_until("unlisted", lambda: not machine.host.exists(f"{MDEVS}/{UUIDS[0]}"))
        os.kill(remover.pid, signal.SIGKILL)
        wait_until("in uninterruptible sleep", lambda: state_of(remover.pid) == "D")
        holds("goes on after SIGKILL", remover.running(0.5))
        holds("its instance stays", machine.host.exists(f"{PCI}/{PARENT}/{UUIDS[0]}"))
    holds("ends with the close", not remover.running(5.0))
    check("removed", machine.host.exists(f"{PCI}/{PARENT}/{UUIDS[0]}"), expected=False)


def test_remove_through_a_file_opened_before(machine: Machine) -> None:
    check("create", create(machine, PARENT, ONE, UUIDS[0]), "ok")
    path = f"{MDEVS}/{UUIDS[0]}/remove"
    before = os.open(path, os.O_WRONLY)
    guest.write(path, "1")
    try:
        os.write(before, b"1")
        seen = "ok"
    except OSError as error:
        seen = errno.errorcode[error.errno or errno.EIO]
    check("remove", seen, "ENODEV")


def test_group_that_is_not_viable(machine: Machine) -> None:
    first, second = SHARING
    take(machine, first, "vfio-pci")
    check("alone in its group", opened(first), "ok")
    unbind(machine, second)
    override(machine, second, "tbvgpu")
    guest.write(guest.PROBE, second)
    check("with a sibling on a host driver", opened(first), "EPERM")


def test_group_that_is_open(machine: Machine) -> None:
    take(machine, NIC, "vfio-pci")
    with machine.held(NIC):
        check("opened again", opened(NIC), "EBUSY")
    check("after the close", opened(NIC), "ok")


def test_readers_wait_while_vfs_are_removed(machine: Machine) -> None:
    """Host.read has a process of its own for these; newer stable kernels read driver_override without the lock."""
    take(machine, PF, "tbvgpu")
    check("1", numvfs(machine, "1"), "ok")
    vf = vfs(machine)[0]
    take(machine, vf, "vfio-pci")
    with machine.held(vf):
        writer = Started(machine, f"{PCI}/{PF}/sriov_numvfs", "0")
        wait_until("VF unlisted", lambda: not vfs(machine))
        readers = {name: _reader(f"{PCI}/{PF}{name}") for name in WAITING}
        wait_until("one sleeps", lambda: state_of(readers["/sriov_numvfs"]) == "D")
    check("ends with the close", writer.outcome(), "ok")
    check("the readers too", [os.waitpid(reader, 0)[1] for reader in readers.values()], [0] * len(WAITING))


def _reader(path: str) -> int:
    pid = os.fork()
    if pid == 0:
        guest.read(path)
        os._exit(0)
    return pid
