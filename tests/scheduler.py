# SPDX-License-Identifier: Apache-2.0
"""Which worker of pytest-xdist gets which tests, and when.

The tests that share a guest, a tree of Debian or a browser go to one worker, every other test to any. The plugin's own
way, `--dist loadgroup`, does nothing with this pytest (its suffix to a test's id gets lost).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xdist.scheduler import loadscope  # type: ignore[import-untyped]  # the plugin has no types

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

GUESTS = 2
"""How many workers may have a guest at a time: it takes a processor, and most other tests wait much."""
GUEST_TESTS = ("tests/kernel/", "tests/doctor/", "tests/packaging/test_installation.py")
LONG = (
    "tests/packaging/test_installation.py",
    "tests/doctor/",
    "tests/report",
    "tests/kernel/test_guest.py",
    "tests/packaging/",
    "tests/api/test_property.py",
    "tests/api/test_mapping_property.py",
    "tests/api/test_apply_property.py",
    "tests/lifecycle/test_crash.py",
)
"""What takes long is begun first, in this order, so that no worker is alone with it at the end."""


class Scheduler(loadscope.LoadScopeScheduling):  # type: ignore[misc]  # the plugin has no types
    """The plugin's, with units of our own: a worker gets one after the other."""

    def __init__(self, config: pytest.Config, log: Any) -> None:  # noqa: ANN401 - pytest-xdist has no types
        super().__init__(config, log)
        self._guests: dict[object, list[dict[str, bool]]] = {}
        """What tests of guests each worker was given, and which of them are done."""
        self._in_order = False

    def _split_scope(self, nodeid: str) -> str:
        """The unit of work to which a test belongs."""
        path, _, name = nodeid.partition("::")
        if path.startswith("tests/report/"):
            return "tests/report"
        if not _is_guest(path):
            return nodeid
        machine = name.partition("[")[2].split("-")[:2]  # kernel and suite, see tests/kernel/test_guest.py; a release
        return path + "-".join(machine)

    def _next_for(self, node: object) -> str | None:
        """The unit of work that a worker may take now."""
        if not self._in_order:
            self._in_order = True
            first = sorted(filter(_is_long, self.workqueue), key=_rank)
            for scope in reversed(first):
                self.workqueue.move_to_end(scope, last=False)
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


def _is_guest(scope: str) -> bool:
    return scope.startswith(GUEST_TESTS)


def _is_long(scope: str) -> bool:
    return scope.startswith(LONG)


def _rank(scope: str) -> int:
    """The place in LONG."""
    return next(place for place, start in enumerate(LONG) if scope.startswith(start))


def _is_busy(units: list[dict[str, bool]]) -> bool:
    """Whether not all of a worker's tests of guests are done."""
    return any(not all(tests.values()) for tests in units)


def _first(queue: Iterable[str], *, guest: bool) -> str | None:
    """The first unit of work, that may be one of a guest or not."""
    return next((scope for scope in queue if guest or not _is_guest(scope)), None)
