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
    from collections.abc import Generator, Iterable

ALLOWED_SKIPS = ("only on Debian 12", "only on Debian 13", "no captured server")
"""With CI=true a skipped test is a failure, unless its reason starts with one of these."""

GUESTS = 2
"""How many workers may have a guest at a time."""

# Machines that run tests are shared and slow. CI proves the same thing of the same code each time; new inputs are
# looked for in every run by hand.
settings.register_profile("project", deadline=None, print_blob=True, derandomize=os.environ.get("CI") == "true")
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
    At most GUESTS workers have a guest at a time: a guest takes a processor, and most other tests wait much.
    """
    from xdist.scheduler import loadscope  # type: ignore[import-untyped]  # noqa: PLC0415 - no types; only if used

    class Guests(loadscope.LoadScopeScheduling):  # type: ignore[misc]  # the plugin has no types
        def __init__(self) -> None:
            super().__init__(config, log)
            self._guests: dict[object, list[dict[str, bool]]] = {}
            """What tests of guests each worker was given, and which of them are done."""

        def _split_scope(self, nodeid: str) -> str:
            path, _, name = nodeid.partition("::")
            if not _is_guest(path):
                return nodeid
            kernel_and_suite = name.partition("[")[2].split("-")[:2]  # see the ids in tests/kernel/test_guest.py
            return path + "-".join(kernel_and_suite)

        def _next_for(self, node: object) -> str | None:
            """The unit of work that a worker may take now."""
            others = [units for other, units in self._guests.items() if other is not node and other in self.nodes]
            return _first(self.workqueue, guest=sum(map(_is_busy, others)) < GUESTS)

        def _assign_work_unit(self, node: object) -> None:
            scope = self._next_for(node)
            if scope is None:
                return
            if _is_guest(scope):
                self._guests.setdefault(node, []).append(self.workqueue[scope])
            self.workqueue.move_to_end(scope, last=False)  # where the plugin takes it from
            super()._assign_work_unit(node)

        def _reschedule(self, node: Any) -> None:  # noqa: ANN401 - pytest-xdist has no types
            if not node.shutting_down and self._next_for(node) is None:
                node.shutdown()  # after what it has; the guests that are left are for those who have one
            else:
                super()._reschedule(node)

    return Guests()


def _is_guest(scope: str) -> bool:
    return scope.startswith(("tests/kernel/", "tests/doctor/"))


def _is_busy(units: list[dict[str, bool]]) -> bool:
    """Whether not all of a worker's tests of guests are done."""
    return any(not all(tests.values()) for tests in units)


def _first(queue: Iterable[str], *, guest: bool) -> str | None:
    """The first unit of work, that may be one of a guest or not."""
    return next((scope for scope in queue if guest or not _is_guest(scope)), None)


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
