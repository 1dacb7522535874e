# SPDX-License-Identifier: Apache-2.0
"""The suites that run in the guest, as the host sees them: their tests by name, and what came of a boot.

A suite is a file `lifecycle_*.py` or `sysfs_*.py` here. It is read, not imported: it may need the guest.
"""

from __future__ import annotations

import ast
import functools
import json
import os
import shlex
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.kernel import testbed

HERE = Path(__file__).resolve().parent
SUITE_LIMIT = 240.0
"""Seconds for the boot of a suite, unless it has a SUITE_LIMIT of its own."""
ALL_KERNELS = ("6.1", "6.12")
KERNEL_ARGUMENTS = "intel_iommu=on"


class Suite(NamedTuple):
    """One file of tests for the guest."""

    name: str
    tests: tuple[str, ...]
    limit: float
    kernels: tuple[str, ...]
    kernel_arguments: str
    disks: bool = False


class Outcome(NamedTuple):
    """What came of one suite on one kernel."""

    results: dict[str, dict[str, object]]
    """Test to its result, as the runner wrote it."""
    complete: bool
    words: str
    """The end of what the guest said, for people."""


def suites() -> list[Suite]:
    """All suites, sorted by name."""
    return [_suite(path) for path in sorted([*HERE.glob("lifecycle_*.py"), *HERE.glob("sysfs_*.py")])]


def available(kernel: str) -> str:
    """The kernel, if it can be booted here; else the test that asks is skipped, and with CI=true it fails."""
    release = testbed.release()
    if release and release != "12" and kernel not in testbed.kernels():
        pytest.skip(f"only on Debian 12: the archive of Debian {release} has no kernel {kernel}")
    reason = ""
    if not testbed.kernels():
        reason = "kernels for the guest are taken from the archives of Debian 12 and 13; this is another system"
    elif packages := testbed.missing():
        reason = f"the guest needs packages: apt-get install {' '.join(packages)}"
    if reason and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    return kernel


def _suite(path: Path) -> Suite:
    body = ast.parse(path.read_text(encoding="utf-8"), str(path)).body
    tests = tuple(node.name for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))
    values: dict[str, object] = {}
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in {"SUITE_LIMIT", "KERNELS", "KERNEL_ARGUMENTS", "DISKS"}:
                values[name] = ast.literal_eval(node.value)
    limit = values.get("SUITE_LIMIT", SUITE_LIMIT)
    kernels = values.get("KERNELS", ALL_KERNELS)
    arguments = values.get("KERNEL_ARGUMENTS", KERNEL_ARGUMENTS)
    if not isinstance(limit, int | float) or not isinstance(kernels, tuple) or not isinstance(arguments, str):
        raise TypeError(f"{path.name}: SUITE_LIMIT is a number, KERNELS a tuple of names, KERNEL_ARGUMENTS a text")
    return Suite(path.stem, tests, float(limit), kernels, arguments, values.get("DISKS") is True)


@functools.cache
def boot(kernel: str, suite: Suite, *tests: str) -> Outcome:
    """Boot a kernel and run a suite (or only some of its tests) in it, once a process. Raises TestbedError."""
    words = shlex.join(["/usr/bin/python3", "-m", "tests.kernel.runner", suite.name, *tests])
    with tempfile.TemporaryDirectory(prefix="testbed.") as share:
        boot_with = testbed.Boot(suite.limit, suite.kernel_arguments, Path(share), disks=suite.disks)
        done = testbed.run(kernel, words, boot_with)
        results: dict[str, dict[str, object]] = {}
        complete = False
        path = Path(share) / "results.json"
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                result = json.loads(line)
            except ValueError:
                continue  # the guest died while it wrote this line
            complete = complete or "complete" in result
            if "name" in result:
                results[result["name"]] = result
    ends = {testbed.LIMIT_REACHED: f"the guest was killed after {suite.limit:g} s", testbed.DIED: "the guest died"}
    how = ends.get(done.code, f"exit code {done.code}")
    return Outcome(results, complete, f"{how}\n{done.output[-6000:]}\n--- console\n{done.console[-2000:]}")
