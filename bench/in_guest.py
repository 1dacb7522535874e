# SPDX-License-Identifier: Apache-2.0
"""The part of the benchmark that runs in the guest: one pre-start with 8 mdevs against 8 times `mdevctl start`.

Run by bench/run.py through tests/kernel/testbed.py; writes its row's numbers as JSON to /share/bench.json.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time

from tests.kernel import guest

COUNT = 8
ROUNDS = 5
VMID = 100
PARENT = guest.PARENTS[0]
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


def main() -> int:
    """Measure in turns; returns 0."""
    guest.load_drivers()
    guest.load_tbmdev(capacity=COUNT)
    guest.bind(PARENT, "tbmdev")
    guest.make_tree()
    guest.install()
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
    numbers = {
        "interpreter": platform.python_version(),
        "ours_ms": statistics.median(ours) * 1000,
        "baseline_ms": statistics.median(theirs) * 1000,
    }
    with open(f"{guest.SHARE}/bench.json", "w", encoding="utf-8") as file:
        json.dump(numbers, file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
