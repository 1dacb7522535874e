# SPDX-License-Identifier: Apache-2.0
"""Running the hookscript as PVE does, and the log of a flow."""

from __future__ import annotations

import dataclasses
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.pve.config import PveError


class HookHangsError(AssertionError):
    """A hook, or a child that holds its output, does not end: PVE would hang."""


class HookRun(NamedTuple):
    """One run of the hookscript."""

    phase: str
    code: int
    output: str
    seconds: float
    migrated_from: str


def run(command: Sequence[str], phase: str, source: str, more: Mapping[str, str], limit: float) -> HookRun:
    """Run a hook with PVE's small environment, and read its output to EOF, whoever holds the other end.

    `source` is the node that a migration comes from. PVE has no limit; after `limit` seconds HookHangsError is raised.
    """
    environment = {"PATH": "/sbin:/bin:/usr/sbin:/usr/bin", "LC_ALL": "C", "PVE_MIGRATED_FROM": source, **more}
    begin = time.monotonic()
    with subprocess.Popen(
        [*command, phase],
        cwd="/",
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            raise HookHangsError(f"{' '.join(command)} {phase}: no end after {limit} s") from None
    return HookRun(phase, process.returncode, output.decode("utf-8", "replace"), time.monotonic() - begin, source)


@dataclasses.dataclass
class Log:
    """One flow: the hooks that ran, PVE's warnings and sysfs writes, and why it failed."""

    flow: str
    hooks: list[HookRun] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    writes: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    """PVE's own, tried ones too; not those of the hook."""
    error: PveError | None = None

    @property
    def ok(self) -> bool:
        """Whether the flow went through; a hook that fails after pre-start only warns."""
        return self.error is None

    @property
    def phases(self) -> list[str]:
        """The phases that ran, in order."""
        return [run.phase for run in self.hooks]

    @property
    def output(self) -> str:
        """All that the hooks printed."""
        return "".join(run.output for run in self.hooks)

    def __str__(self) -> str:
        lines = [f"{self.flow}: {self.error or 'ok'}", *(f"  warning: {text}" for text in self.warnings)]
        for one in self.hooks:
            lines.append(f"  {one.phase}: exit code {one.code}")
            lines += [f"    {line}" for line in one.output.splitlines()]
        lines += [f"  write: {path} <- {value}" for path, value in self.writes]
        return "\n".join(lines)
