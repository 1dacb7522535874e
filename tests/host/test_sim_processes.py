# SPDX-License-Identifier: Apache-2.0
"""The simulated kernel among several processes, and under kill -9."""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host.sim import SimHost
from pvepassthru.host.sim_settings import tbmdev_settings
from tests.host import machine
from tests.host.machine import (
    DRIVERS,
    MDEVS,
    NIC,
    OTHER,
    PARENT,
    PCI,
    PF,
    RESCAN,
    UUIDS,
    VFS,
    Child,
    attempt,
    available,
    create,
    driver,
    opened,
    remove,
    take,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable

TYPES = f"{PCI}/{PARENT}/mdev_supported_types"
NUMVFS = f"{PCI}/{PF}/sriov_numvfs"
CHANGING = ("mkdir", "open", "rename", "rmdir", "symlink", "unlink", "write")
"""Functions of os before which a process is killed."""


def outcomes(children: list[Child]) -> list[str]:
    return sorted(child.outcome() for child in children)


def test_eight_creators_on_four_instances(plain: SimHost) -> None:
    for _ in range(5):
        children = [Child(plain, f"{TYPES}/tbmdev-1/create", uuid) for uuid in UUIDS]
        assert outcomes(children) == ["ENOSPC"] * 4 + ["ok"] * 4
        found = plain.names(MDEVS)
        assert len(found) == 4
        assert available(plain) == ["0", "0", "0"]
        removers = [Child(plain, f"{MDEVS}/{uuid}/remove", "1") for uuid in found]
        assert outcomes(removers) == ["ok"] * 4
        assert available(plain) == ["4", "2", "1"]


def test_eight_creators_of_one_uuid(plain: SimHost) -> None:
    parents = [PARENT, OTHER] * 4
    children = [Child(plain, f"{PCI}/{parent}/mdev_supported_types/tbmdev-1/create", UUIDS[0]) for parent in parents]
    assert outcomes(children) == ["EEXIST"] * 7 + ["ok"]
    assert plain.names(MDEVS) == [UUIDS[0]]


def test_eight_removers(plain: SimHost) -> None:
    create(plain, UUIDS[0])
    children = [Child(plain, f"{MDEVS}/{UUIDS[0]}/remove", "1") for _ in range(8)]
    assert outcomes(children) == ["ENOENT"] * 7 + ["ok"]
    assert available(plain) == ["4", "2", "1"]


def test_creators_that_take_their_time(plain: SimHost) -> None:
    plain.configure(tbmdev_settings(delay_ms=100, capacity=2))
    children = [Child(plain, f"{TYPES}/tbmdev-1/create", uuid) for uuid in UUIDS]
    assert outcomes(children) == ["ENOSPC"] * 6 + ["ok"] * 2


def test_writers_of_numvfs(plain: SimHost) -> None:
    children = [Child(plain, NUMVFS, str(count)) for count in (1, 2, 3, 4)]
    assert outcomes(children) == ["EBUSY"] * 3 + ["ok"]
    assert len([vf for vf in VFS if plain.exists(f"{PCI}/{vf}")]) == int(plain.text(NUMVFS) or 0)


def test_writers_of_vgpu_types(plain: SimHost) -> None:
    take(plain, PF, "tbvgpu")
    plain.write(NUMVFS, "4")
    for vf in VFS:
        take(plain, vf, "tbvgpu")
    children = [Child(plain, f"{PCI}/{vf}/nvidia/current_vgpu_type", "101") for vf in VFS]
    assert outcomes(children) == ["ENOSPC"] * 2 + ["ok"] * 2


# ---- kill -9


def run_killed(work: Callable[[], object], before: int) -> bool:
    """Do `work` in a child that is killed before its changing call number `before`; whether it was, and not done."""
    pid = os.fork()
    if pid == 0:
        left = before

        def counting(function: Callable[..., object]) -> Callable[..., object]:
            def called(*args: object, **kwargs: object) -> object:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return called

        for name in CHANGING:
            setattr(os, name, counting(getattr(os, name)))
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def prepare_vgpu(host: SimHost) -> None:
    take(host, PF, "tbvgpu")
    host.write(NUMVFS, "2")
    take(host, VFS[0], "tbvgpu")
    take(host, VFS[1], "tbvgpu")


def prepare_two(host: SimHost) -> None:
    create(host, UUIDS[0])
    create(host, UUIDS[1])


def prepare_removed(host: SimHost) -> None:
    host.write(f"{PCI}/{PARENT}/remove", "1")


def nothing(_host: SimHost) -> None:
    pass


OPERATIONS: dict[str, tuple[Callable[[SimHost], object], str, str]] = {
    "mdev create": (nothing, f"{TYPES}/tbmdev-2/create", UUIDS[0]),
    "mdev remove": (prepare_two, f"{MDEVS}/{UUIDS[0]}/remove", "1"),
    "unbind a parent": (prepare_two, f"{DRIVERS}/tbmdev/unbind", PARENT),
    "override": (nothing, f"{PCI}/{NIC}/driver_override", "vfio-pci"),
    "new_id": (lambda host: machine.unbind(host, NIC), f"{DRIVERS}/vfio-pci/new_id", "8086 10d3"),
    "numvfs 3": (nothing, NUMVFS, "3"),
    "numvfs 0": (prepare_vgpu, NUMVFS, "0"),
    "vGPU type": (prepare_vgpu, f"{PCI}/{VFS[0]}/nvidia/current_vgpu_type", "101"),
    "remove a function": (prepare_two, f"{PCI}/{PARENT}/remove", "1"),
    "rescan": (prepare_removed, RESCAN, "1"),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_killed(name: str, root: str) -> None:
    """Whenever it is killed, the next user sees the operation done or not begun; and both do occur."""
    prepare, path, value = OPERATIONS[name]
    host = machine.build(f"{root}/first", nested=True)
    prepare(host)
    shutil.copytree(host.root, f"{root}/done", symlinks=True)
    done = SimHost(f"{root}/done")
    done.write(path, value)
    before, after = machine.snapshot(host), machine.snapshot(done)
    assert before != after
    seen = []
    calls = 0
    killed = True
    while killed:
        copy = f"{root}/{calls}"
        shutil.copytree(host.root, copy, symlinks=True)
        victim = SimHost(copy)
        killed = run_killed(lambda victim=victim: victim.write(path, value), calls)  # type: ignore[misc] # binds the loop's
        if not killed:
            assert not os.path.exists(f"{copy}/.sim/redo.json")
        found = machine.snapshot(SimHost(copy))
        assert found in (before, after), f"killed before call {calls}"
        seen.append(found == after)
        assert not os.path.exists(f"{copy}/.sim/redo.json")
        assert attempt(SimHost(copy), f"{PCI}/{NIC}/reset", "1") == "ok"
        shutil.rmtree(copy)
        calls += 1 if calls < 12 else 3  # every call up to where the changes begin, then every third
    assert seen == sorted(seen)
    assert seen[0] is False
    assert seen[-1] is True


def test_completing_is_killed_too(root: str) -> None:
    prepare, path, value = OPERATIONS["remove a function"]
    host = machine.build(f"{root}/first", nested=True)
    prepare(host)
    shutil.copytree(host.root, f"{root}/done", symlinks=True)
    done = SimHost(f"{root}/done")
    done.write(path, value)
    after = machine.snapshot(done)
    assert run_killed(lambda: host.write(path, value), 12)
    assert os.path.exists(f"{host.root}/.sim/redo.json")
    attempts = 0
    while run_killed(lambda: SimHost(host.root).exists("/sys"), attempts):
        attempts += 1
        assert attempts < 1000
    assert attempts > 5
    assert machine.snapshot(SimHost(host.root)) == after


def test_reading_completes_what_a_killed_writer_left(plain: SimHost) -> None:
    """It needs no new SimHost: who polls sysfs sees the kernel finish."""
    calls = 0
    while not os.path.exists(f"{plain.root}/.sim/redo.json"):
        calls += 1
        assert run_killed(lambda: plain.write(f"{TYPES}/tbmdev-1/create", UUIDS[0]), calls)
    assert plain.link(f"{MDEVS}/{UUIDS[0]}/mdev_type") == "tbmdev-1"
    assert not os.path.exists(f"{plain.root}/.sim/redo.json")


def test_killed_while_blocked(plain: SimHost) -> None:
    """A remover that is killed while it waits: the removal ends with the close all the same."""
    create(plain, UUIDS[0])
    folder = f"{PCI}/{PARENT}/{UUIDS[0]}"
    with opened(plain, folder):
        child = Child(plain, f"{MDEVS}/{UUIDS[0]}/remove", "1")
        wait_until(lambda: not plain.exists(f"{MDEVS}/{UUIDS[0]}"))
        os.kill(child.pid, signal.SIGKILL)
        assert child.outcome() == ""
        assert plain.exists(folder)
        assert create(plain, UUIDS[0]) == "EEXIST"
        assert available(plain) == ["3", "1", "0"]
    assert not plain.exists(folder)
    assert available(plain) == ["4", "2", "1"]
    assert [name for name in os.listdir(f"{plain.root}/.sim") if name.startswith("wait")] == []


def test_killed_while_unbinding_is_blocked(plain: SimHost) -> None:
    take(plain, NIC, "vfio-pci")
    with opened(plain, f"{PCI}/{NIC}"):
        child = Child(plain, f"{DRIVERS}/vfio-pci/unbind", NIC)
        wait_until(lambda: driver(plain, NIC) is None)
        os.kill(child.pid, signal.SIGKILL)
        child.outcome()
        other = Child(plain, f"{DRIVERS}/vfio-pci/bind", NIC)
        assert other.running()
    assert other.outcome() == "ok"
    assert driver(plain, NIC) == "vfio-pci"


def test_killed_creator_that_takes_its_time(plain: SimHost) -> None:
    plain.configure(tbmdev_settings(delay_ms=200))
    child = Child(plain, f"{TYPES}/tbmdev-1/create", UUIDS[0])
    wait_until(lambda: plain.exists(f"{MDEVS}/{UUIDS[0]}"))
    os.kill(child.pid, signal.SIGKILL)
    child.outcome()
    assert plain.link(f"{MDEVS}/{UUIDS[0]}/mdev_type") is None
    wait_until(lambda: plain.link(f"{MDEVS}/{UUIDS[0]}/mdev_type") == "tbmdev-1")
    plain.configure(tbmdev_settings())
    assert remove(plain, UUIDS[0]) == "ok"
