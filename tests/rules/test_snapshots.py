# SPDX-License-Identifier: Apache-2.0
"""On a snapshot of a host the rules find what they find on the host itself: the examples of all rules, both ways.

When this fails for a new rule, what it reads is missing in pvepassthru/host/contents.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import collector, snapshot
from pvepassthru.host.host import Host
from pvepassthru.model.errors import PassthruError
from pvepassthru.rules import catalogue
from pvepassthru.rules import subject as subjects
from tests.rules import example
from tests.rules.test_rules import EXAMPLES, HOST_EXAMPLES

if TYPE_CHECKING:
    from pathlib import Path

    from pvepassthru.model.finding import Finding

NOT_TAKEN = ("/dev/disk/by-id/", "/proc/self/", "/usr/share/misc/", "/usr/share/hwdata/")
"""What has another name in a snapshot, what a process reads of itself, and what every machine has."""


class Recorder(Host):
    """A host that notes which of its files were read or looked for."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.asked: set[str] = set()

    def read(self, path: str, limit: int = 64 * 1024 * 1024) -> bytes:
        self.asked.add(path)
        return super().read(path, limit)

    def head(self, path: str, size: int) -> bytes:
        self.asked.add(path)
        return super().head(path, size)

    def names(self, path: str) -> list[str]:
        self.asked.add(path)
        return super().names(path)

    def link(self, path: str) -> str | None:
        self.asked.add(path)
        return super().link(path)

    def resolve(self, path: str) -> str | None:
        self.asked.add(path)
        return super().resolve(path)

    def exists(self, path: str) -> bool:
        self.asked.add(path)
        return super().exists(path)


def say(host: Host, now: int) -> list[tuple[str, str, str]]:
    """All that the rules say: of the host with each rule's state, then of its VM."""
    around = subjects.Surroundings(host)
    around.now = now
    said: list[tuple[str, str, str]] = []
    for state in catalogue.host_states(around):
        said += [(state.rule.code, state.state, state.why)]
        said += [words(finding, host) for finding in state.findings]
    try:
        subject = subjects.load(host, example.VM, pending=True, around=around, lenient=True)
    except PassthruError as error:
        return [*said, ("", "", str(error).replace(host.root, ""))]
    return said + [words(finding, host) for finding in catalogue.findings(subject)]


def words(finding: Finding, host: Host) -> tuple[str, str, str]:
    message = re.sub(r"(?<=/dev/disk/by-id/)[^ ,]+", "NAME", finding.message)  # which a snapshot does not tell
    return finding.code, finding.where, message.replace(host.root, "")


CASES = {
    f"{code} {kind} {which}": (pair[place], kind)
    for kind, examples in (("VM", EXAMPLES), ("host", HOST_EXAMPLES))
    for code, pair in examples.items()
    for place, which in enumerate(("bad", "good"))
}


@pytest.mark.parametrize("name", CASES)
def test_findings_are_those_of_the_host(name: str, tmp_path: Path) -> None:
    built = CASES[name][0].build(tmp_path / "host")
    with (tmp_path / "host.tar.xz").open("wb") as file:
        collector.take(built, file, "test")
    (tmp_path / "copy").mkdir()
    copy = snapshot.load(str(tmp_path / "host.tar.xz"), str(tmp_path / "copy"))
    source = Recorder(built.root)
    now = int(copy.now())
    assert say(copy, now) == say(source, now)
    assert copy.node == source.node
    missing = [
        path
        for path in sorted(source.asked)
        if Host(built.root).exists(path) and path not in source.unreadable and not path.startswith(NOT_TAKEN)
        if not (Host(copy.root).exists(path) or Host(copy.root).link(path) is not None)
    ]
    assert missing == []
