# SPDX-License-Identifier: Apache-2.0
"""Running the hookscript as PVE does, and the log of a flow."""

from __future__ import annotations

import dataclasses
import subprocess
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from tests.pve.config import PveError


PATH = "/sbin:/bin:/usr/sbin:/usr/bin"


class HookHangsError(AssertionError):
    """A hook, or a child that holds its output, does not end: PVE would hang."""


class HookRun(NamedTuple):
    """One run of the hookscript."""

    phase: str
    code: int
    output: str
    seconds: float
    migrated_from: str


def environment_of(source: str, more: Mapping[str, str]) -> dict[str, str]:
    """What PVE gives a hook, and what a test adds; `source` is the node that a migration comes from."""
    return {"PATH": PATH, "LC_ALL": "C", "PVE_MIGRATED_FROM": source, **more}


class Program(Protocol):
    """What is used of subprocess.Popen."""

    returncode: int

    def communicate(self, *, timeout: float) -> tuple[bytes, Any]: ...
    def kill(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


Begin = Callable[[list[str], dict[str, str]], Program]
"""Starts a program with this environment."""


def begin(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a program as PVE does a hook; its output is both stdout and stderr."""
    return subprocess.Popen(
        command,
        cwd="/",
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(program: Program, limit: float) -> str:
    """Read a program's output to EOF, whoever holds the other end, and wait for it.

    PVE has no limit; after so many seconds the program is killed, and HookHangsError raised.
    """
    with program:
        try:
            output = program.communicate(timeout=limit)[0]
        except subprocess.TimeoutExpired as error:
            program.kill()
            raise HookHangsError(f"no end after {limit:g} s: {' '.join(error.cmd)}") from None
    return output.decode("utf-8", "replace")


def run(command: Sequence[str], phase: str, environment: dict[str, str], limit: float, start: Begin = begin) -> HookRun:
    """Run a hook, with what `environment_of` returns. Raises HookHangsError."""
    began = time.monotonic()
    program = start([*command, phase], environment)
    output = finish(program, limit)
    seconds = time.monotonic() - began
    return HookRun(phase, program.returncode, output, seconds, environment["PVE_MIGRATED_FROM"])


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
