# SPDX-License-Identifier: Apache-2.0
"""How the commands that look at everything grow with a host's functions and with its VMs."""

from __future__ import annotations

import tempfile
from typing import NamedTuple

from bench import hosts
from bench.measure import Program, in_turns

COMMANDS = {
    "validate --all": ["validate", "--all"],
    "doctor": ["doctor"],
    "devices --json": ["devices", "--json"],
    "report --json": ["report", "--json"],
}
FEW_VMS = 50


class Scale(NamedTuple):
    """How large the hosts are, and how often each is measured."""

    functions: tuple[int, ...] = (256, 512, 1024, 2048, 4096)
    vms: tuple[int, ...] = (64, 128, 256, 512, 1024)
    rounds: int = 3


class Curve(NamedTuple):
    """How long commands take by the size of a host."""

    name: str
    """Of its file."""
    title: str
    what: str
    """What is counted."""
    sizes: tuple[int, ...]
    times: dict[str, list[float]]
    """Command to its milliseconds, for each of the sizes."""

    def doubling(self, command: str) -> float:
        """By how much the last doubling of the size lengthened a command: 2 is linear, 4 quadratic."""
        *_, half, whole = self.times[command]
        return whole / half


def measure(command: str, python: str, memory: str | None, scale: Scale | None = None) -> list[Curve]:
    """Both curves, of hosts that are made in the folder `memory`; `command` is Python code. Raises BenchError."""
    functions, vms, rounds = scale or Scale()
    most, few = 4 * vms[-1], min(FEW_VMS, functions[0] // 4)
    by_functions = _times(command, python, memory, [(count, few) for count in functions], rounds)
    by_vms = _times(command, python, memory, [(most, count) for count in vms], rounds)
    return [
        Curve("functions", f"Time by PCI functions, {few} VMs", "PCI functions", functions, by_functions),
        Curve("vms", f"Time by VMs, {most} PCI functions", "VMs", vms, by_vms),
    ]


def _times(
    command: str, python: str, memory: str | None, sizes: list[tuple[int, int]], rounds: int
) -> dict[str, list[float]]:
    """Command to its milliseconds on hosts of so many functions and VMs."""
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for functions, vms in sizes:
        with tempfile.TemporaryDirectory(prefix="bench.", dir=memory) as folder:
            hosts.validate_host(folder, vms, functions)
            start = [python, "-I", "-c", command, "--root", folder, "--node", "pve"]
            times = in_turns([Program([*start, *words]) for words in COMMANDS.values()], rounds)
        for name, milliseconds in zip(COMMANDS, times, strict=True):
            found[name].append(milliseconds)
    return found
