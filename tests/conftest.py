# SPDX-License-Identifier: Apache-2.0
"""For all tests: a clean environment, and no test skipped unseen."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Generator

ALLOWED_SKIPS = ("only on Debian 12", "only on Debian 13", "no captured server")
"""With CI=true a skipped test is a failure, unless its reason starts with one of these."""

# Machines that run tests are shared and slow. CI has the same inputs each time, a run by hand its own.
settings.register_profile(
    "project",
    deadline=None,
    print_blob=True,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("project")

pytest.register_assert_rewrite("tests.golden")  # so that it shows what differs


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take --regenerate."""
    parser.addoption("--regenerate", action="store_true", help="write the golden files anew")


def pytest_configure() -> None:
    """Take away what a developer's shell may say to the program by the environment."""
    for name in [name for name in os.environ if name.startswith(("PVEPASSTHRU_", "PVE_", "NO_COLOR"))]:
        del os.environ[name]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """Let signals end a test and its children.

    Who starts the tests may have them ignored or held back; and a hook that ran in the process of the tests leaves it
    deaf to them, as it does its own.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:  # noqa: ANN401 - pytest-xdist has no types
    """Say which worker gets which tests, and when."""
    from tests.scheduler import Scheduler  # noqa: PLC0415 - it needs pytest-xdist, which is not always used

    return Scheduler(config, log)


def pytest_collection_finish() -> None:
    """Take what is there now out of the garbage collector's sight.

    It looks through all of it again and again, and what it looks at is copied in every child that a test forks.
    """
    gc.collect()
    gc.freeze()


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
