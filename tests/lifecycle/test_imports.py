# SPDX-License-Identifier: Apache-2.0
"""Which modules the hookscript loads: every start of a VM that has it waits for them."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests import golden
from tests.scenarios.world import PARENTS, SCRIPT, mdev

if TYPE_CHECKING:
    from tests.scenarios.world import SimWorld, World

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "modules")
"""Has a file for each phase, written anew by pytest --regenerate."""
SLOW = {
    *("argparse", "dataclasses", "enum", "filelock", "functools", "inspect", "logging", "pathlib", "re", "signal"),
    *("subprocess", "typing", "yaml"),
}
"""None of these may be loaded on the fast path."""
ANYWAY = {"errno", "select"}
"""C modules of the interpreter itself, which newer Pythons have loaded at their start."""
QUICK = ["gc", "pvepassthru", "pvepassthru.lifecycle", "pvepassthru.lifecycle.quick"]


def loaded(*words: str, root: str = "", code: int = 0, python: str = sys.executable) -> set[str]:
    """The modules that `python3 -I WORDS` imports after its own start, by what -X importtime reports."""
    done = subprocess.run(
        [python, "-I", "-X", "importtime", *words],
        cwd="/",
        env={"PATH": "/sbin:/bin:/usr/sbin:/usr/bin", "LC_ALL": "C", "PVE_MIGRATED_FROM": "", "PVEPASSTHRU_ROOT": root},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert len(lines) > 10, done.stderr
    return {line.rpartition("|")[2].strip() for line in lines[1:]}


def hook(world: World, phase: str, code: int = 0) -> set[str]:
    """What a phase of VM 100 imports beyond bare Python."""
    return loaded(SCRIPT, "100", phase, root=world.root, code=code) - loaded("-c", "pass")


def compare(found: set[str], name: str, *, regenerate: bool) -> None:
    """See that what was loaded is what the golden file has; Python's private modules vary, and do not count."""
    names = {name if name.startswith("pvepassthru") else name.partition(".")[0] for name in found}
    kept = sorted(name for name in names - ANYWAY if not name.startswith(("pvepassthru.host.sim", "_")))
    advice = "run pytest --regenerate if that is meant, and see ./dev bench"
    golden.compare(kept, f"{GOLDEN}/{name}.txt", advice, regenerate=regenerate)


@pytest.mark.parametrize("phase", ["pre-start", "post-start", "pre-stop", "post-stop"])
def test_vm_without_hostpci(world: World, phase: str) -> None:
    world.pve.define(100, "memory: 512\n")
    assert sorted(hook(world, phase)) == QUICK


@pytest.mark.parametrize("phase", ["post-start", "pre-stop", "post-stop"])
def test_vm_without_journal(world: World, phase: str) -> None:
    world.pve.define(100, "hostpci0: 0000:05:00.0\n")
    assert sorted(hook(world, phase)) == QUICK


@pytest.mark.parametrize("phase", ["pre-start", "post-start", "pre-stop", "post-stop"])
def test_mdev(world: World, phase: str, *, regenerate: bool) -> None:
    """What a phase with one mdev loads."""
    world.pve.define(100, mdev(1))
    if phase != "pre-start":
        assert world.hook(100, "pre-start").code == 0
    found = hook(world, phase)
    if phase == "pre-start":
        assert world.mdevs()
    assert not {name for name in found if name.partition(".")[0] in SLOW}
    compare(found, phase, regenerate=regenerate)


def test_nothing_slow_when_placed_by_policy(world: World) -> None:
    """Once a start has checked the policy, others need no YAML for it; the planner itself needs nothing slow."""
    world.map("vgpu", PARENTS)
    world.pve.define(100, "hostpci0: mapping=vgpu,mdev=tbmdev-1\n")
    without = hook(world, "pre-start")
    assert world.hook(100, "post-stop").code == 0
    world.pve.cluster.put("/etc/pvepassthru.yaml", "placement: spread\n")
    assert world.hook(100, "pre-start").code == 0
    assert world.hook(100, "post-stop").code == 0
    more = hook(world, "pre-start") - without
    assert "pvepassthru.model.placement" in more
    assert not {name for name in more if name.partition(".")[0] in SLOW}, "but a mapping is read with patterns"


def test_nothing_slow_when_refused(world: World) -> None:
    world.pve.define(100, mdev(1).replace("tbmdev-1", "tbmdev-9"))
    assert not hook(world, "pre-start", code=5) & SLOW


def test_gpu(world: SimWorld, *, regenerate: bool) -> None:
    """What a start with a whole GPU loads; nothing of it is slow."""
    world.drive_gpu()
    world.pve.define(100, "machine: q35\nhostpci0: 0000:01:00,pcie=1\n")
    found = hook(world, "pre-start")
    assert world.driver("0000:01:00.0") == "vfio-pci"
    assert not {name for name in found if name.partition(".")[0] in SLOW}
    compare(found, "gpu", regenerate=regenerate)
