# SPDX-License-Identifier: Apache-2.0
"""The command `hook` ends as the hookscript does."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pvepassthru.lifecycle.quick import PHASES
from tests import tree
from tests.kernel import guest

if TYPE_CHECKING:
    from pathlib import Path

HOOKSCRIPT = os.path.join(guest.PROJECT, "hookscripts/pvepassthru")
PROGRAMS = ("command", "hookscript")


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A host whose policy has a mistake."""
    root = tree.build(tmp_path, configs={100: "memory: 512\n", 101: "hostpci0: 0000:0f:00.0\n"})
    tree.put(tmp_path, "etc/pvepassthru.yaml", "defaults: 1\n")
    return root


def run(program: str, root: str, vmid: int, phase: str, **variables: str) -> tuple[int, bytes]:
    """Run a phase with the `command` or the `hookscript`; returns the exit code and all that was said."""
    command = ["-m", "pvepassthru", "hook"] if program == "command" else [HOOKSCRIPT]
    environment = {**os.environ, "PVEPASSTHRU_ROOT": root, **variables}
    done = subprocess.run(
        [sys.executable, *command, str(vmid), phase],
        cwd=guest.PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_to_do(program: str, phase: str, root: str) -> None:
    """Neither the policy nor the state folder matters then."""
    assert run(program, root, 100, phase) == (0, b"")
    assert not os.path.exists(os.path.join(root, "run/pvepassthru"))


@pytest.mark.parametrize("program", PROGRAMS)
def test_something_to_do(program: str, root: str) -> None:
    code, said = run(program, root, 101, "pre-start")
    assert code == 4
    assert b"defaults must be a mapping" in said


@pytest.mark.parametrize("program", PROGRAMS)
def test_migrated_from(program: str, root: str) -> None:
    """Then the source node's config counts."""
    tree.put(root, "etc/pve/nodes/other/qemu-server/100.conf", "hostpci0: 0000:0f:00.0\n")
    assert run(program, root, 100, "pre-start", PVE_MIGRATED_FROM="other")[0] == 4


LATE = """
import os, signal, sys
from pvepassthru.cli.main import main

class Late:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGTERM):
        kill(pid, number)

late = Late()
sys.exit(main(sys.argv[1:]))
"""
"""A SIGTERM that comes when Python takes itself down."""


def test_signal_when_all_is_done(root: str) -> None:
    """The exit code is the phase's then, not the signal's."""
    done = subprocess.run(
        [sys.executable, "-c", LATE, "--root", root, "hook", "101", "pre-start"],
        cwd=guest.PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert (done.returncode, b"defaults must be a mapping" in done.stdout) == (4, True)
