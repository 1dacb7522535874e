# SPDX-License-Identifier: Apache-2.0
"""For all tests: a clean environment, no test skipped unseen, and one worker for the tests that share a guest."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Generator

ALLOWED_SKIPS = ("only on Debian 12", "only on Debian 13")
"""With CI=true a skipped test is a failure, unless its reason starts with one of these."""

settings.register_profile("project", deadline=None, print_blob=True)  # machines that run tests are shared and slow
settings.load_profile("project")


def pytest_configure() -> None:
    """Take away what a developer's shell may say to the program."""
    for name in [name for name in os.environ if name.startswith(("PVEPASSTHRU_ROOT", "PVE_", "NO_COLOR"))]:
        del os.environ[name]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the kernel tests of one file on one worker, so that they can share a booted guest."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        if item.get_closest_marker("kernel") and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.name))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count a skip that must not be as a failure."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Count a whole file skipped as a failure too."""
    report = yield
    if report.skipped:
        _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("CI") != "true" or not isinstance(report.longrepr, tuple):
        return
    path, line, text = report.longrepr
    reason = text.removeprefix("Skipped: ")
    if not reason.startswith(ALLOWED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"{path}:{line}: skipped, which CI does not allow: {reason}"


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter that runs the tests, to run programs with."""
    return sys.executable
