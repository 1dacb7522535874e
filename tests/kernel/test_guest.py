# SPDX-License-Identifier: Apache-2.0
"""Every test of every suite that runs in the guest, on each kernel, shown as a test of its own."""

from __future__ import annotations

import pytest

from tests.kernel import suites, testbed

CASES = [
    pytest.param(
        kernel,
        suite,
        name,
        id=f"{kernel}-{suite.name}-{name.removeprefix('test_')}",
        marks=[pytest.mark.kernel],
    )
    for suite in suites.suites()
    for kernel in suite.kernels
    for name in suite.tests
]


@pytest.mark.parametrize("kernel,suite,name", CASES)
def test_in_guest(kernel: str, suite: suites.Suite, name: str) -> None:
    suites.available(kernel)
    outcome = suites.boot(kernel, suite)
    result = outcome.results.get(name)
    if result is None:
        pytest.fail(f"{name} did not run on {kernel}: {outcome.words}")
    if result["outcome"] != "passed":
        pytest.fail(f"on {kernel}: {result['words']}")
    assert outcome.complete or name != suite.tests[-1], outcome.words


def test_suites_have_tests() -> None:
    found = suites.suites()
    assert found
    for suite in found:
        assert suite.tests, suite.name
        assert len(set(suite.tests)) == len(suite.tests), f"{suite.name}: a test hides another of the same name"
        assert set(suite.kernels) <= set(testbed.KERNELS["12"]), suite.name
