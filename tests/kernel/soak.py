# SPDX-License-Identifier: Apache-2.0
"""The crash and race tests with their full counts, on real kernels and on a simulated host: `./dev soak`.

It prints the counts, the seed and each result; with --write the results go into docs/soak.md.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import random
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from tests.kernel import suites, testbed
from tests.scenarios.counts import FULL, NOTE, VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SUITES = ("lifecycle_crash", "lifecycle_handover", "lifecycle_placement", "lifecycle_race")
SIMULATED = ("test_crash", "test_faults", "test_race")
"""Files of tests/lifecycle, which run on a simulated host: its sweeps are dense, and only there a write can fail."""
SIMULATED_LIMIT = 3600.0
"""Seconds for each of them."""
PAGE = os.path.join(testbed.PROJECT, "docs", "soak.md")
INTRODUCTION = """# Soak

`./dev soak` runs the crash and race tests of the hook on every real kernel that this Debian has, with full counts: each
change that a hook makes is a point where it is killed, then come rounds that are killed at random, and many VMs that
want four instances; and a network card and a GPU are handed over and given back a hundred times each. Then the same on
a simulated host, where also every write that a hook makes fails with each error, or never returns. `./dev test` runs
the same with small counts. Both fail unless afterwards sysfs, drivers, PVE's reservation file and the journals are as
before, and what belongs to others was not touched.

A round: a VM with one mdev, with two on two parents, with a vendor vGPU, with a whole network card or GPU, or one whose
start fails half way; its pre-start or post-stop, or `pvepassthru recover`, is killed with SIGKILL before or after a
change, before a change of its child, which lives on, or at any time; then `pvepassthru recover`, or the next start and
stop.

    ./dev soak [--kernel 6.12] [--rounds 100] [--vms 64] [--seed NUMBER] [--write]

The same seed plays the same rounds, though not the same moments. `--write` renews what follows.
"""


class Ran(NamedTuple):
    """What came of one test on one kernel."""

    kernel: str
    suite: str
    test: str
    outcome: str
    seconds: float
    notes: tuple[str, ...]
    """What it counted."""
    words: str
    """Why it failed."""


def read(kernel: str, suite: suites.Suite, outcome: suites.Outcome) -> list[Ran]:
    """The results of a suite, one for each of its tests; one that did not run failed."""
    found = []
    for test in suite.tests:
        result = outcome.results.get(test)
        if result is None:
            found.append(Ran(kernel, suite.name, test, "failed", 0.0, (), f"did not run: {outcome.words}"))
            continue
        lines = result["checks"]
        noted = [str(line) for line in lines if str(line).startswith(NOTE)] if isinstance(lines, list) else []
        seconds = float(str(result["seconds"]))
        notes = tuple(line.removeprefix(NOTE) for line in noted)
        found.append(Ran(kernel, suite.name, test, str(result["outcome"]), seconds, notes, str(result["words"])))
    return found


def simulated() -> list[Ran]:
    """The results on a simulated host: one for each file, with pytest's last line as what it counted."""
    found = []
    for name in SIMULATED:
        begin = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", f"tests/lifecycle/{name}.py"]
        try:
            done = subprocess.run(
                command, cwd=testbed.PROJECT, capture_output=True, text=True, timeout=SIMULATED_LIMIT, check=False
            )
            code, output = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired:
            code, output = 1, f"not ended within {SIMULATED_LIMIT:.0f} s"
        last = output.rstrip().rpartition("\n")[2]
        outcome, words = ("failed", output[-6000:]) if code else ("passed", "")
        found.append(Ran("simulated", "", name, outcome, time.monotonic() - begin, (last.strip(" ="),), words))
    return found


def table(results: Iterable[Ran]) -> str:
    """The results as a Markdown table."""
    lines = ["| kernel | test | result | seconds | counted |", "|---|---|---|---|---|"]
    for one in results:
        name = one.test.removeprefix("test_").replace("_", " ")
        place = one.suite.removeprefix("lifecycle_")
        what = f"{place}: {name}" if place else name
        lines.append(f"| {one.kernel} | {what} | {one.outcome} | {one.seconds:.0f} | {', '.join(one.notes)} |")
    return "\n".join(lines) + "\n"


def tell(done: Sequence[Ran]) -> None:
    """Print results, and why some failed; what ended several is said once."""
    for one in done:
        print(
            f"{one.kernel} {one.suite} {one.test} {one.outcome} {one.seconds:.0f} s {', '.join(one.notes)}", flush=True
        )
    for words in dict.fromkeys(one.words for one in done if one.words):
        print(words, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 1 when a test failed, 2 when there is no kernel to test here."""
    parser = argparse.ArgumentParser(prog="./dev soak", description="Crashes, races and faults, in full counts.")
    parser.add_argument("--kernel", action="append", help="only this one, such as 6.12; may be given again")
    parser.add_argument("--rounds", type=int, default=FULL.rounds, help="crashes at random (default: %(default)s)")
    parser.add_argument("--vms", type=int, default=FULL.vms, help="VMs that race (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the rounds (default: a new one)")
    parser.add_argument("--write", action="store_true", help="put the results into docs/soak.md")
    options = parser.parse_args(arguments)
    kernels = options.kernel or testbed.kernels()
    if not kernels:
        print(f"this system's archive ({testbed.release() or 'no Debian'}) has no kernel to test", file=sys.stderr)
        return 2
    seed = options.seed or random.SystemRandom().randrange(1, 1_000_000)
    counts = f"rounds={options.rounds},vms={options.vms},seed={seed}"
    os.environ[VARIABLE] = counts  # the guests get it
    print(f"soak: {counts} on {', '.join(kernels)}", flush=True)
    begin = time.monotonic()
    results: list[Ran] = []
    for kernel in kernels:
        for suite in (one for one in suites.suites() if one.name in SUITES):
            try:
                done = read(kernel, suite, suites.boot(kernel, suite))
            except testbed.TestbedError as error:
                print(error, file=sys.stderr)
                return 2
            tell(done)
            results += done
    done = simulated()
    tell(done)
    results += done
    failed = [one for one in results if one.outcome != "passed"]
    minutes = (time.monotonic() - begin) / 60
    total = f"{len(results) - len(failed)} passed, {len(failed)} failed, in {minutes:.0f} minutes; {counts}"
    print(f"soak: {total}")
    if options.write:
        today = dt.datetime.now(dt.UTC).date().isoformat()
        with open(PAGE, "w", encoding="utf-8") as page:
            page.write(f"{INTRODUCTION}\n## Result of {today}\n\n{total}.\n\n{table(results)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
