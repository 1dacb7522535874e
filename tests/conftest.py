# SPDX-License-Identifier: Apache-2.0
"""For all tests: a clean environment, no test skipped unseen, and one worker for the tests that share a guest."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Generator

ALLOWED_SKIPS = ("only on Debian 12", "only on Debian 13", "no captured server")
"""With CI=true a skipped test is a failure, unless its reason starts with one of these."""

settings.register_profile("project", deadline=None, print_blob=True)  # machines that run tests are shared and slow
settings.load_profile("project")

pytest.register_assert_rewrite("tests.golden")  # so that it shows what differs


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take --regenerate."""
    parser.addoption("--regenerate", action="store_true", help="write the golden files anew")


def pytest_configure() -> None:
    """Take away what a developer's shell may say to the program."""
    for name in [name for name in os.environ if name.startswith(("PVEPASSTHRU_", "PVE_", "NO_COLOR"))]:
        del os.environ[name]
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job has it ignored, and its children


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:  # noqa: ANN401 - pytest-xdist has no types
    """Send the tests that share a booted guest, or a tree of Debian, to one worker, every other test to any.

    The plugin's own way, `--dist loadgroup`, does nothing with this pytest (its suffix to a test's id gets lost).
    """
    from xdist.scheduler import loadscope  # type: ignore[import-untyped]  # noqa: PLC0415 - no types; only if used

    class Guests(loadscope.LoadScopeScheduling):  # type: ignore[misc]  # the plugin has no types
        def _split_scope(self, nodeid: str) -> str:
            path, _, name = nodeid.partition("::")
            if not path.startswith(("tests/kernel/", "tests/doctor/")):
                return nodeid
            kernel_and_suite = name.partition("[")[2].split("-")[:2]  # see the ids in tests/kernel/test_guest.py
            return path + "-".join(kernel_and_suite)

    return Guests(config, log)


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


@pytest.fixture
def regenerate(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written anew."""
    return bool(request.config.getoption("--regenerate"))


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter that runs the tests, to run programs with."""
    return sys.executable
