# SPDX-License-Identifier: Apache-2.0
"""Run one suite in the guest: every function `test_*` of a module of tests.kernel, in the order of the file.

    /usr/bin/python3 -m tests.kernel.runner lifecycle_mdev [NAME ...]

A test gets the guest's Machine if it takes a parameter. Each runs in a process of its own with a time limit
(TEST_LIMIT of the suite, seconds), after the suite's `setup()` if it has one, so that a test which blocks or dies takes
nothing with it. The suite's `prepare()` runs once before. One line a test is printed, then `N passed, N failed`, and
/share/results.json gets the results as JSON lines; the last line says that the suite came to its end.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING

from tests.kernel import checks, guest

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

TEST_LIMIT = 60.0
"""Seconds for one test, unless its suite has a TEST_LIMIT."""
RESULTS = "results.json"


def tests_of(suite: ModuleType) -> list[Callable[..., None]]:
    found = [value for name, value in vars(suite).items() if name.startswith("test_") and callable(value)]
    return [value for value in found if value.__module__ == suite.__name__]


def run_one(suite: ModuleType, test: Callable[..., None], limit: float) -> dict[str, object]:
    """Run one test in a child, and return what the host reads: name, outcome, seconds, checks, words."""
    start = time.monotonic()
    receiver, sender = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(receiver)
        os.setsid()
        words = ""
        try:
            if hasattr(suite, "setup"):
                suite.setup()
            if test.__code__.co_argcount:
                test(guest.Machine())
            else:
                test()
        except BaseException:  # noqa: BLE001 - whatever a test raises is its result
            words = traceback.format_exc()
        answer = json.dumps({"words": words, "checks": checks.done}).encode()
        while answer:
            answer = answer[os.write(sender, answer) :]
        os._exit(0)
    os.close(sender)
    answer = _read(receiver, start + limit)
    os.close(receiver)
    seconds = round(time.monotonic() - start, 2)
    try:
        os.killpg(pid, signal.SIGKILL)  # what it left running
    except ProcessLookupError:
        pass
    try:
        said = json.loads(answer)
    except ValueError:
        late = seconds >= limit
        said = {"words": f"did not end within {limit:g} s" if late else "its process died", "checks": []}
    outcome = "failed" if said["words"] else "passed"
    return {"name": test.__name__, "outcome": outcome, "seconds": seconds, **said}


def _read(receiver: int, end: float) -> bytes:
    """All that is written until the pipe closes, or what there is when the time is over."""
    data = b""
    while select.select([receiver], [], [], max(0.0, end - time.monotonic()))[0]:
        chunk = os.read(receiver, 65536)
        if not chunk:
            break
        data += chunk
        if data.endswith(b"}"):  # a child of the test may hold the pipe open
            break
    return data


def main(arguments: list[str]) -> int:
    name, *wanted = arguments
    if not guest.inside():
        print("this changes the machine that it runs on: only in the guest (tests/kernel/README.md)", file=sys.stderr)
        return 2
    suite = importlib.import_module(f"tests.kernel.{name}")
    if hasattr(suite, "prepare"):
        suite.prepare()
    counts = {"passed": 0, "failed": 0}
    limit = float(getattr(suite, "TEST_LIMIT", TEST_LIMIT))
    with open(f"{guest.SHARE}/{RESULTS}", "w", encoding="utf-8") as results:
        for test in tests_of(suite):
            if wanted and test.__name__ not in wanted:
                continue
            result = run_one(suite, test, limit)
            outcome = str(result["outcome"])
            counts[outcome] += 1
            print(f"{outcome} {test.__name__} {result['seconds']} s", flush=True)
            if result["words"]:
                print(result["words"], flush=True)
            results.write(json.dumps(result) + "\n")
            results.flush()
        results.write(json.dumps({"complete": True, **counts}) + "\n")
    print(f"{counts['passed']} passed, {counts['failed']} failed")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
