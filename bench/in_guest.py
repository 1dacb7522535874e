# SPDX-License-Identifier: Apache-2.0
"""The part of the benchmark that runs in the guest, on a real kernel.

One pre-start with 8 mdevs against 8 times `mdevctl start`; and what the hook does to bind a network card to vfio-pci,
with its journal and locks but without the start of an interpreter, against `driverctl set-override`. Run by
bench/run.py through tests/kernel/testbed.py; writes the numbers of its rows as JSON to /share/bench.json.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time

from pvepassthru.host import state
from pvepassthru.host.deadline import Deadline
from pvepassthru.host.host import Host
from pvepassthru.lifecycle import drivers, shim_file
from pvepassthru.lifecycle.journal import Journal
from pvepassthru.lifecycle.undo import undo_all
from pvepassthru.lifecycle.work import Voice, Work
from tests.kernel import guest

COUNT = 8
ROUNDS = 5
VMID = 100
PARENT = guest.PARENTS[0]
NIC = "0000:05:00.0"
TYPE = "tbmdev-1"
UUIDS = [f"{index:08d}-0000-0000-0000-{VMID:012d}" for index in range(COUNT)]


def expect(count: int) -> None:
    """Check that so many of our instances are there. Raises RuntimeError: the measurement would mean nothing."""
    found = sum(os.path.exists(f"{guest.MDEVS}/{uuid}") for uuid in UUIDS)
    if found != count:
        raise RuntimeError(f"{found} instances are there, expected {count}")


def phase(name: str) -> float:
    """Run a hook phase; returns its seconds. Raises RuntimeError if it fails."""
    start = time.perf_counter()
    done = guest.hook(VMID, name)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{name} failed with {done.returncode}: {done.stdout}")
    return seconds


def mdevctl(action: str, *options: str) -> float:
    """Run `mdevctl ACTION` for every uuid, one after the other; returns the seconds in all."""
    start = time.perf_counter()
    for uuid in UUIDS:
        subprocess.run(["mdevctl", action, "-u", uuid, *options], stdin=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def driver() -> str | None:
    """The network card's driver."""
    return guest.link(f"{guest.PCI}/{NIC}/driver")


def take() -> float:
    """Bind the network card to vfio-pci as the hook does, and give it back; returns the seconds of the first.

    Raises RuntimeError when it is not there then.
    """
    host = Host("/")
    state.prepare(host)
    voice = Voice(_nothing, _nothing, _nothing)
    work = Work(host, VMID, Journal(host, VMID), Deadline(60.0), 0.0, voice)
    start = time.perf_counter()
    drivers.unbind(work, NIC, 15.0)
    drivers.set_override(work, NIC, "vfio-pci")
    drivers.bind(work, NIC, "vfio-pci", 15.0)
    seconds = time.perf_counter() - start
    if driver() != "vfio-pci" or undo_all(work) or driver() != "e1000e":
        raise RuntimeError(f"the network card has {driver()}")
    return seconds


def driverctl() -> float:
    """The same with driverctl, which is told to keep nothing for the next boot."""
    command = ["driverctl", "--nosave", "set-override", NIC, "vfio-pci"]
    start = time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
    seconds = time.perf_counter() - start
    if driver() != "vfio-pci":
        raise RuntimeError(f"driverctl left the network card with {driver()}")
    subprocess.run(["driverctl", "--nosave", "unset-override", NIC], stdin=subprocess.DEVNULL, check=True)
    if driver() != "e1000e":
        raise RuntimeError(f"driverctl gave the network card back to {driver()}")
    return seconds


def _nothing(_sentence: str) -> None:
    """Tell nobody."""


def mdevs() -> tuple[list[float], list[float]]:
    """The seconds of our pre-starts, and those of mdevctl, in turns."""
    guest.load_tbmdev(capacity=COUNT)
    guest.bind(PARENT, "tbmdev")
    guest.make_tree()
    guest.install()
    with open(guest.HOOK, "wb") as file:
        file.write(shim_file.text())  # what attach puts there
    entries = "".join(f"hostpci{index}: {PARENT},mdev={TYPE}\n" for index in range(COUNT))
    guest.vm(VMID, f"{entries}machine: q35\nmemory: 2048\nname: bench\n")
    ours, theirs = [], []
    for turn in range(ROUNDS + 1):
        hook = phase("pre-start")
        expect(COUNT)
        phase("post-stop")
        expect(0)
        peer = mdevctl("start", "-p", PARENT, "-t", TYPE)
        expect(COUNT)
        mdevctl("stop")
        expect(0)
        if turn:  # the first round only warms
            ours.append(hook)
            theirs.append(peer)
    return ours, theirs


def main() -> int:
    """Measure in turns; returns 0."""
    guest.load_drivers()
    binding = [(take(), driverctl()) for _ in range(ROUNDS + 1)][1:]
    rows = [mdevs(), tuple(zip(*binding, strict=True))]
    numbers = [
        {
            "interpreter": platform.python_version(),
            "ours_ms": statistics.median(ours) * 1000,
            "baseline_ms": statistics.median(theirs) * 1000,
        }
        for ours, theirs in rows
    ]
    with open(f"{guest.SHARE}/bench.json", "w", encoding="utf-8") as file:
        json.dump(numbers, file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
