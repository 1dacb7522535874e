# SPDX-License-Identifier: Apache-2.0
"""A GPU of two functions and a network card handed over and given back through the installed hook on a real kernel.

Their drivers are the host's own: bochs-drm, snd_hda_intel, e1000e. Each start's QEMU opens what it gets through VFIO.
Rounds: 5 each, in the soak as many as it says.
"""

from __future__ import annotations

import subprocess
import time

from tests.kernel.checks import check, holds
from tests.scenarios import crashes, handover
from tests.scenarios.counts import counts, full, note
from tests.scenarios.crashes import SITUATIONS
from tests.scenarios.forked import VMID, forked, hook
from tests.scenarios.forking_world import ForkingWorld, prepare_forks
from tests.scenarios.world import HOST_DRIVERS, NIC, reset_guest, said

prepare, setup = prepare_forks, reset_guest
KERNELS = ("6.12",)  # enough with one: sysfs_pci.py and sysfs_display.py show on both what it needs of a kernel
SUITE_LIMIT = 1500.0
TEST_LIMIT = 900.0


def test_nic() -> None:
    note("rounds", counts().handovers)
    handover.nic(ForkingWorld(), counts().handovers)


def test_gpu() -> None:
    note("rounds", counts().handovers)
    handover.gpu(ForkingWorld(), counts().handovers)


def test_gpu_stays() -> None:
    handover.gpu_stays(ForkingWorld())


def test_vfios_driver_is_not_loaded() -> None:
    """As after a boot on which nothing has used it: the start loads it, as PVE would."""
    world = ForkingWorld()
    subprocess.run(["/sbin/rmmod", "vfio_pci"], check=True)
    holds("gone", not world.host.exists("/sys/bus/pci/drivers/vfio-pci"))
    handover.nic(world, 1)


def test_group_mates() -> None:
    handover.group_mates(ForkingWorld())


def test_identical_devices() -> None:
    handover.identical_devices(ForkingWorld())


def test_override_of_others() -> None:
    handover.override_of_others(ForkingWorld())


def test_id_that_pve_left() -> None:
    handover.id_that_pve_left(ForkingWorld())


def test_open_on_the_host() -> None:
    handover.open_on_the_host(ForkingWorld())


def test_drivers_that_the_policy_names() -> None:
    """One that is none, and one that the kernel refuses for this device."""
    handover.driver_that_is_none(ForkingWorld())
    reset_guest()
    handover.driver_that_does_not_take_it(ForkingWorld())


def test_post_stop_of_a_vm_that_runs() -> None:
    handover.post_stop_of_a_vm_that_runs(ForkingWorld())
    handover.post_stop_while_qemu_ends(ForkingWorld())


def test_start_fails_after_the_hook() -> None:
    handover.start_fails_after_the_hook(ForkingWorld())


def test_held_after_the_stop() -> None:
    handover.held_after_the_stop(ForkingWorld())


def test_a_group_held_open_before_the_stop() -> None:
    """Another process than the VM's has the function open through VFIO: nothing is taken from it, and nothing hangs."""
    world = ForkingWorld()
    world.pve.define(100, handover.ONE_NIC)
    before = world.state()
    went_on = forked(hook(world, "pre-start"))
    check("pre-start", went_on.code, 0)
    with world.held(NIC) as pid, world.impatient():
        begin = time.monotonic()
        said(world.hook(100, "post-stop"), f"kept binding {NIC} to vfio-pci", f"process {pid} (")
        holds("in time", time.monotonic() - begin < 20)
        check("still with VFIO", world.driver(NIC), "vfio-pci")
    said(world.run("recover"), "VM 100: recovered")
    check("as before", world.state(), before)


def test_killed() -> None:
    """At a few of the changes of a start and a stop: one takes ten seconds here; SimHost and the soak have many."""
    world = ForkingWorld()
    for name in ("nic", "gpu"):
        situation = SITUATIONS[name]
        if name == "nic":
            crashes.furnish(world, situation.config)
        world.pve.define(VMID, situation.config)
        for phase in ("pre-start", "post-stop"):
            for how in crashes.WAYS if full() or name == "nic" else ("before",):
                number = crashes.sweep(world, situation, phase, how, most=0 if full() else 2, stride=6)
                note(f"{name} {phase} killed {how}", number)
    check("all given back", {one: world.driver(one) for one in HOST_DRIVERS}, HOST_DRIVERS)
