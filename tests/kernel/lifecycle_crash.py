# SPDX-License-Identifier: Apache-2.0
"""The hook killed before and after its changes, on a real kernel: afterwards all is as before.

Here at a few changes that lie evenly; the soak has all of them, and a simulated host has all of them in every run.
"""

from __future__ import annotations

import signal
import subprocess

from tests.kernel import guest, killed
from tests.kernel.checks import check
from tests.scenarios import crashes, rounds
from tests.scenarios.counts import counts, full, note
from tests.scenarios.crashes import SITUATIONS
from tests.scenarios.forked import VMID
from tests.scenarios.world import GuestWorld, prepare_guest, reset_guest, said

prepare, setup = prepare_guest, reset_guest
SUITE_LIMIT = 1500.0
TEST_LIMIT = 1200.0
FEW = 4
"""Of each sweep, unless the full counts are asked for."""


def _sweep(name: str, phase: str, *hows: str) -> None:
    world = GuestWorld()
    crashes.furnish(world, SITUATIONS[name].config)
    for how in hows or crashes.WAYS:
        number = crashes.sweep(world, SITUATIONS[name], phase, how, most=0 if full() else FEW)
        note(f"killed {'before, its child spared' if how == 'spared' else how}", number)


def test_mdev_pre_start() -> None:
    _sweep("mdev", "pre-start")


def test_mdev_post_stop() -> None:
    _sweep("mdev", "post-stop")


def test_vgpu_pre_start() -> None:
    _sweep("vgpu", "pre-start")


def test_vgpu_post_stop() -> None:
    _sweep("vgpu", "post-stop")


def test_a_failing_start() -> None:
    _sweep("fails", "pre-start", "before")


def test_torn_journals() -> None:
    world = GuestWorld()
    crashes.furnish(world, SITUATIONS["mdev"].config)
    for phase in ("pre-start", "post-stop"):
        note(f"journal torn at {phase}", crashes.torn_writes(world, "mdev", phase, sizes=(1, 30)))


def test_a_slow_write_outlives_its_hook() -> None:
    world = GuestWorld()
    crashes.furnish(world, SITUATIONS["mdevs"].config)
    for phase, way in (
        ("pre-start", "recover"),
        ("pre-start", "next"),
        ("post-stop", "recover"),
        ("post-stop", "next"),
    ):
        crashes.slow_write(world, "mdevs", phase, way)


def test_the_installed_script_killed() -> None:
    """As the sweeps, through everything: hookscript, installed package, recover from the command line."""
    world = GuestWorld()
    situation = SITUATIONS["mdev"]
    crashes.furnish(world, situation.config)
    before = crashes.warm_up(world, situation)
    for phase in ("pre-start", "post-stop"):
        crashes.lead_up(world, situation, phase)
        names = killed.changes(guest.HOOK, str(VMID), phase)
        write = next(number for number, name in enumerate(names, 1) if name.startswith("write /sys/"))
        crashes.stop(world)
        crashes.lead_up(world, situation, phase)
        done = subprocess.run(killed.command(guest.HOOK, str(VMID), phase, at=killed.At(after=write)), check=False)
        check(f"{phase} killed after its write", done.returncode, -signal.SIGKILL)
        check("journal", world.journals(), [f"{VMID}.journal"])
        said(world.run("recover", str(VMID)), f"VM {VMID}: recovered")
        crashes.as_before(world, before, phase)


def test_at_random() -> None:
    wanted = counts()
    note("seed", wanted.seed)
    note("rounds", wanted.rounds)
    for kind, number in sorted(rounds.play(GuestWorld(), wanted.rounds, wanted.seed).items()):
        note(kind, number)
