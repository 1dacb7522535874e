# SPDX-License-Identifier: Apache-2.0
"""Every test of every suite that runs in the guest, on each kernel, shown as a test of its own."""

from __future__ import annotations

import os

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
    release = testbed.release()
    if kernel not in testbed.KERNELS.get(release, ()) and kernel in testbed.KERNELS["12"]:
        pytest.skip(f"only on Debian 12: the archive of this system ({release or 'no Debian'}) has no kernel {kernel}")
    if packages := testbed.missing():
        pytest.skip(f"no guest here: apt-get install {' '.join(packages)}")
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


def test_ci_has_every_kernel() -> None:
    """What CI runs on must be able to boot something: a release without kernels would skip everything."""
    if os.environ.get("CI") == "true":
        assert testbed.kernels(), "this system's archive has no kernel that is tested; run CI on Debian 12 or 13"
        assert not testbed.missing()
