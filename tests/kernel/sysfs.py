# SPDX-License-Identifier: Apache-2.0
"""Writing to sysfs and seeing what comes of it, for the cases in sysfs_mdev.py and sysfs_pci.py.

Each case, a function `test_*`, gets a Machine, writes through its Host, and checks what it saw against what Linux 6.1
and 6.12 do. In the guest the runner calls them (test_guest.py), on a SimHost tree of the same machine test_sysfs.py
does, so that both are held to the same values. Nothing in a case may depend on which of the two it is.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from typing import TYPE_CHECKING, Protocol

from tests.kernel import guest
from tests.kernel.checks import check, holds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from pvepassthru.host.host import Host

PCI, DRIVERS, PROBE, MDEVS = guest.PCI, guest.DRIVERS, guest.PROBE, guest.MDEVS
GPU = "0000:01:00.0"
PF = guest.PHYSICAL_FUNCTION
PARENT, OTHER_PARENT = guest.PARENTS
NIC = "0000:05:00.0"
BRIDGE = "0000:06:00.0"
ABSENT = "0000:0f:00.0"
UUIDS = tuple(f"0000000{index}-0000-0000-0000-000000000100" for index in range(8))
ONE, TWO, FOUR = "tbmdev-1", "tbmdev-2", "tbmdev-4"


class Machine(Protocol):
    """The guest, or a SimHost tree of it."""

    host: Host

    def configure(self, **parameters: int) -> None:
        """Set capacity, full_errno, exclusive, delay_ms or core_count of the mdev test driver."""

    def held(self, device: str) -> AbstractContextManager[object]:
        """Have another process hold the device (a PCI address or an mdev's uuid) open."""


def attempt(machine: Machine, path: str, value: str) -> str:
    """The outcome of a write: ok, or the name of its errno."""
    try:
        machine.host.write(path, value)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


class Started:
    """A write in a process of its own."""

    def __init__(self, machine: Machine, path: str, value: str) -> None:
        self._receiver, sender = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.write(sender, attempt(machine, path, value).encode())
            finally:  # whatever happens, this is not the test
                os._exit(0)
        os.close(sender)

    def running(self, seconds: float) -> bool:
        """Whether it is still not done after so many seconds."""
        end = time.monotonic() + seconds
        while not os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if time.monotonic() >= end:
                return True
            time.sleep(0.01)
        return False

    def outcome(self, seconds: float = 20.0) -> str:
        """The outcome of the write, or "late"."""
        if self.running(seconds):
            os.kill(self.pid, signal.SIGKILL)
            return "late"
        os.waitpid(self.pid, 0)
        seen = os.read(self._receiver, 100).decode()
        os.close(self._receiver)
        return seen


def outcomes(started: Iterable[Started]) -> list[str]:
    return sorted(one.outcome() for one in started)


def type_path(parent: str, kind: str) -> str:
    return f"{PCI}/{parent}/mdev_supported_types/{kind}"


def create(machine: Machine, parent: str, kind: str, uuid: str) -> str:
    return attempt(machine, f"{type_path(parent, kind)}/create", uuid)


def available(machine: Machine, parent: str) -> list[str | None]:
    return [machine.host.text(f"{type_path(parent, kind)}/available_instances") for kind in (ONE, TWO, FOUR)]


def driver(machine: Machine, address: str) -> str | None:
    return machine.host.link(f"{PCI}/{address}/driver")


def unbind(machine: Machine, address: str) -> None:
    """Take a function from its driver; nvme lets a new VF go by itself, some time after it has taken it."""
    name = driver(machine, address)
    if name:
        seen = attempt(machine, f"{DRIVERS}/{name}/unbind", address)
        if seen != "ENODEV" or driver(machine, address):
            check(f"unbind {address} of {name}", seen, "ok")


def override(machine: Machine, address: str, name: str) -> None:
    check(f"override {address} {name!r}", attempt(machine, f"{PCI}/{address}/driver_override", name + "\n"), "ok")


def take(machine: Machine, address: str, name: str) -> None:
    """Bind a function to a driver by override and probe."""
    unbind(machine, address)
    override(machine, address, name)
    check(f"probe {address}", attempt(machine, PROBE, address), "ok")
    check(f"driver of {address}", driver(machine, address), name)


def wait_until(what: str, condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        holds(f"{what} within {seconds:g} s", time.monotonic() < end)
        time.sleep(0.01)


def numvfs(machine: Machine, value: str) -> str:
    return attempt(machine, f"{PCI}/{PF}/sriov_numvfs", value)


def vfs(machine: Machine) -> list[str]:
    names = machine.host.names(f"{PCI}/{PF}")
    return [machine.host.link(f"{PCI}/{PF}/{name}") or "" for name in names if name.startswith("virtfn")]


def prepare() -> None:
    """In the guest, once: load the drivers."""
    guest.load_drivers()
    guest.load_tbmdev()


def setup() -> None:
    """In the guest, before each case: the machine as it was."""
    guest.reset_machine()
