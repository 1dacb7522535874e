# SPDX-License-Identifier: Apache-2.0
"""Whole functions taken from the host for a VM and given back: a network card, a GPU of two functions, group mates.

A stop here is the hook's: PVE's own part of it is done before. What a policy says is written with each scenario.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from tests.kernel import guest
from tests.kernel.checks import check, holds
from tests.scenarios.hook_process import HookProcess
from tests.scenarios.world import (
    AUDIO,
    GPU,
    HOST_DRIVERS,
    NIC,
    OTHER,
    PARENT,
    PCI,
    PF,
    failed,
    refused,
    said,
    went,
)

if TYPE_CHECKING:
    from tests.scenarios.world import World

SLOT = "0000:01:00"
ONE_NIC, ONE_GPU = f"hostpci0: {NIC}\n", f"hostpci0: {SLOT},pcie=1\nmachine: q35\n"
FORMER = f"devices:\n  '{SLOT}': {{give_back: former}}\n"
MATE, CHOSEN = "0000:07:01.0", "0000:07:02.0"
"""One IOMMU group."""
VFIO = "vfio-pci"
DRIVERS = "/sys/bus/pci/drivers"


def _bound(world: World, *addresses: str) -> None:
    for address in addresses:
        check(f"{address} on VFIO", (world.driver(address), world.override(address)), (VFIO, VFIO))


def _rounds(world: World, vmid: int, addresses: tuple[str, ...], rounds: int) -> None:
    """Start and stop so many times; each time all is as before."""
    before = world.state()
    for number in range(rounds):
        went(world.pve.start(vmid))
        _bound(world, *addresses)
        log = went(world.pve.stop(vmid))
        said(log, *(f"gave {address} back to {before['drivers'][address]}" for address in addresses))
        check(f"as before, round {number}", world.state(), before)


# ---- there and back


def nic(world: World, rounds: int = 5) -> None:
    """A network card goes to VFIO with the start and back to its driver with the stop."""
    world.pve.define(100, ONE_NIC)
    _rounds(world, 100, (NIC,), rounds)


def gpu(world: World, rounds: int = 5) -> None:
    """Both functions of a GPU, by a policy that gives them back."""
    world.drive_gpu()
    world.policy(FORMER)
    world.pve.define(100, ONE_GPU)
    _rounds(world, 100, (GPU, AUDIO), rounds)


def gpu_stays(world: World) -> None:
    """Without a policy all functions of a slot with a display stay with VFIO; the next start finds them there."""
    world.drive_gpu()
    world.pve.define(100, ONE_GPU)
    for again in (False, True):
        log = went(world.pve.start(100))
        holds(f"bound once: {log}", ("bound " in log.output) != again)
        why = ", which had them before the start" if again else " (give_back: auto keeps GPUs there); give_back: former"
        stay = f"{GPU} and {AUDIO} stay on {VFIO}{why}"
        said(world.run("plan", "100", "post-stop"), stay)
        log = went(world.pve.stop(100))
        check(f"said once: {log}", log.output.count(stay), 1)
        holds(f"nothing is undone: {log}", "undone" not in log.output)
        for address in (GPU, AUDIO):
            check(f"{address} stays", (world.driver(address), world.override(address)), (VFIO, "(null)"))
        check("nothing left", (world.journals(), world.reservations()), ([], {}))


def gpu_goes_back_when_its_start_fails(world: World) -> None:
    """What would stay after a stop is given back by a pre-start that fails."""
    world.drive_gpu()
    world.pve.define(100, f"{ONE_GPU}hostpci1: {NIC}\n")
    before = world.state()
    world.host.write(f"{PCI}/{NIC}/driver/unbind", NIC)
    world.policy(f"devices:\n  '{NIC}': {{driver: mlx5_vfio_pci}}\n")
    said(failed(world.pve.start(100), "hook-failed"), "mlx5_vfio_pci", NIC, "driver=keep")
    world.host.write("/sys/bus/pci/drivers_probe", NIC)
    check("as before", world.state(), before)


def given_to_a_named_driver(world: World) -> None:
    """A function that had no driver gets the one that the policy names, but not from a start that fails."""
    world.unbind(NIC)
    world.policy(f"devices:\n  '{NIC}': {{give_back: e1000e}}\n")
    world.pve.define(100, ONE_NIC)
    went(world.pve.start(100))
    _bound(world, NIC)
    said(went(world.pve.stop(100)), f"gave {NIC} back to e1000e")
    check("the driver", (world.driver(NIC), world.override(NIC)), ("e1000e", "(null)"))


def stays_by_policy(world: World) -> None:
    world.policy(f"devices:\n  '{NIC}': {{give_back: stay}}\n")
    world.pve.define(100, ONE_NIC)
    went(world.pve.start(100))
    said(went(world.pve.stop(100)), f"{NIC} stays on {VFIO}, as the policy's give_back says")
    check("stays", (world.driver(NIC), world.override(NIC)), (VFIO, "(null)"))
    check("nothing left", (world.journals(), world.reservations()), ([], {}))


def left_alone(world: World) -> None:
    """What VFIO has already stays with it, and driver=keep is obeyed."""
    world.unbind(NIC)
    world.host.write(f"{PCI}/{NIC}/driver_override", VFIO)
    world.host.write("/sys/bus/pci/drivers_probe", NIC)
    before = world.state()
    world.pve.define(100, ONE_NIC)
    went(world.pve.start(100))
    check("no step about its driver", [step.split()[0] for step in world.kept(100)], ["reserve", "health"])
    went(world.pve.stop(100))
    check("as before", world.state(), before)
    world.drive_gpu()
    world.pve.define(101, f"hostpci0: {GPU},driver=keep\n")
    world.hook(101, "pre-start")
    check("kept", world.driver(GPU), HOST_DRIVERS[GPU])


def group_mates(world: World) -> None:
    """What shares the IOMMU group goes with the function, and back; bridges stay."""
    world.pve.define(100, f"hostpci0: {CHOSEN}\n")
    before = world.state() | {"mate": world.driver(MATE), "bridge": world.driver("0000:06:00.0")}
    went(world.pve.start(100))
    _bound(world, CHOSEN, MATE)
    check("the bridge", world.driver("0000:06:00.0"), before["bridge"])
    went(world.pve.stop(100))
    check("the mate's driver", (world.driver(MATE), world.override(MATE)), ("tbmdev", "(null)"))
    check("no driver", (world.driver(CHOSEN), world.override(CHOSEN)), (None, "(null)"))
    check("as before", world.state() | {"mate": world.driver(MATE), "bridge": before["bridge"]}, before)


def identical_devices(world: World) -> None:
    """Of two devices with the same ids only the one that is named moves; the other keeps its driver all the time."""
    world.pve.define(100, f"hostpci0: {PARENT}\n")
    before = world.state()
    went(world.pve.start(100))
    check("drivers", (world.driver(PARENT), world.driver(OTHER)), (VFIO, "tbmdev"))
    went(world.pve.stop(100))
    check("as before", world.state(), before)


# ---- overrides and ids that others set


def override_of_others(world: World) -> None:
    """An override that was there is there again, one against the driver that the function had, too."""
    for value in ("e1000e", VFIO):
        world.host.write(f"{PCI}/{NIC}/driver_override", value)
        world.pve.define(100, ONE_NIC)
        before = world.state()
        went(world.pve.start(100))
        _bound(world, NIC)
        went(world.pve.stop(100))
        check(f"as before, with {value}", world.state(), before)
    world.host.write(f"{PCI}/{NIC}/driver_override", "\n")


def id_that_pve_left(world: World) -> None:
    """vfio-pci has the device's id by PVE's new_id: the host's driver gets it back all the same."""
    ids = [(world.host.text(f"{PCI}/{NIC}/{name}") or "")[2:] for name in ("vendor", "device")]
    world.host.write(f"{DRIVERS}/{VFIO}/new_id", " ".join(ids))
    try:
        nic(world, 1)
    finally:
        world.host.write(f"{DRIVERS}/{VFIO}/remove_id", " ".join(ids))


# ---- in use on the host


def open_on_the_host(world: World) -> None:
    """The start fails before anything is unbound, and names the process."""
    world.drive_gpu()
    world.pve.define(100, ONE_GPU)
    with world.opened("/dev/dri/card0") as pid:
        words = refused(world, 100, f"process {pid} (", f"/dev/dri/card0 of {GPU} open", "services")
        holds(f"nothing was unbound: {words}", "bound " not in words)
    with world.opened("/dev/snd/controlC0") as pid:
        refused(world, 100, f"process {pid} (", AUDIO)
    went(world.pve.start(100))
    went(world.pve.stop(100))


def backup(world: World) -> None:
    """A backup takes nothing that is in use, and the sentence names it; the policy can allow it."""
    world.drive_gpu()
    world.pve.define(100, ONE_GPU)
    before = world.state()
    with world.opened("/dev/dri/card0") as pid:
        log = failed(world.pve.backup(100), "hook-failed")
        said(log, "a backup starts VM 100", f"process {pid} (", "on_backup")
    check("as before", world.state(), before)
    went(world.pve.backup(100))


# ---- what a start that failed leaves


def start_fails_after_the_hook(world: World) -> None:
    """PVE runs no post-stop then: the next start takes over what is there, and the stop gives all back."""
    world.drive_gpu()
    world.policy(FORMER)
    world.pve.define(100, f"{ONE_GPU}hostpci1: {NIC}\n")
    before = world.state()
    failed(world.pve.start(100, fail="command"), "injected-command")
    _bound(world, GPU, AUDIO, NIC)
    log = went(world.pve.start(100))
    holds(f"no function moved again: {log}", "bound " not in log.output and "gave " not in log.output)
    _bound(world, GPU, AUDIO, NIC)
    went(world.pve.stop(100))
    check("as before", world.state(), before)


def recovered(world: World) -> None:
    """After a start that failed `recover` gives all back, and `status` tells of it before."""
    world.drive_gpu()
    world.policy(FORMER)
    world.pve.define(100, ONE_GPU)
    before = world.state()
    failed(world.pve.start(100, fail="command"), "injected-command")
    said(world.run("status"), "VM 100: prepared", f"taking {GPU} from bochs-drm", f"binding {AUDIO} to {VFIO}")
    said(world.run("recover"), "VM 100: recovered", f"gave {GPU} back to bochs-drm")
    check("as before", world.state(), before)


def entry_gone_after_a_start_that_failed(world: World) -> None:
    """What the next start does not need is given back by it."""
    world.pve.define(100, ONE_NIC)
    before = world.state()
    failed(world.pve.start(100, fail="command"), "injected-command")
    world.pve.define(100, "memory: 512\nhostpci0: 0000:07:02.0\n")
    said(went(world.pve.start(100)), f"gave {NIC} back to e1000e")
    went(world.pve.stop(100))
    check("as before", world.state(), before)


def planned(world: World) -> None:
    """`plan` says what the hook would do, and does nothing."""
    world.drive_gpu()
    world.pve.define(100, ONE_GPU)
    before = world.state()
    words = world.run("plan", "100")
    said(words, f"bound {GPU} to {VFIO} (was bochs-drm)", f"bound {AUDIO} to {VFIO}")
    said(words, f"{GPU} will stay with {VFIO} after the stop", f"{AUDIO} will stay with {VFIO} after the stop")
    world.policy(f"devices:\n  '{GPU}': {{give_back: bochs-drm}}\n  '{AUDIO}': {{give_back: former}}\n")
    words = world.run("plan", "100")
    said(words, f"{GPU} will go to bochs-drm after the stop")
    holds(f"nothing special of the other: {words}", f"{AUDIO} will" not in words)
    check("as before", world.state(), before)


# ---- after the stop


def held_after_the_stop(world: World) -> None:
    """A QEMU that outlives its kill keeps the function; later recover gives it back."""
    world.pve.define(100, ONE_NIC)
    before = world.state()
    went(world.pve.start(100))
    with world.impatient():
        log = went(world.pve.stop(100, qemu="lingers"))
        said(log, f"kept binding {NIC} to {VFIO}", "has it open", "recover")
    _bound(world, NIC)
    world.pve.end_qemu(100)
    said(world.run("recover"), "VM 100: recovered")
    check("as before", world.state(), before)


def post_stop_of_a_vm_that_runs(world: World) -> None:
    """The hook called by hand touches nothing of a VM that runs; the stop gives all back later."""
    world.drive_gpu()
    world.policy(FORMER)
    world.pve.define(100, ONE_GPU + f"hostpci1: {NIC}\nhostpci2: {OTHER},mdev=tbmdev-1\n")
    before = world.state()
    went(world.pve.start(100))
    during, kept = world.state(), world.kept(100)
    with world.impatient():
        said(world.hook(100, "post-stop"), f"VM 100 runs as process {world.pve.running(100)}: nothing is given back")
    check("untouched", (world.state(), world.kept(100)), (during, kept))
    said(went(world.pve.stop(100)), f"gave {NIC} back to e1000e")
    check("as before", world.state(), before)


def post_stop_while_qemu_ends(world: World) -> None:
    """Right after its SIGTERM QEMU still runs, as on the target of an aborted migration: post-stop waits for it."""
    world.pve.define(100, ONE_NIC)
    before = world.state()
    went(world.pve.start(100))
    hook = HookProcess(world, 100, "post-stop")
    holds("it is at work", guest.wait_for(lambda: hook.has_open("100.lock")))
    _bound(world, NIC)
    world.pve.end_qemu(100)
    hook.end()
    said(hook.output, f"gave {NIC} back to e1000e")
    os.unlink(f"{world.root}/run/qemu-server/100.pid")
    check("as before", world.state() | {"reservations": ""}, before | {"reservations": ""})


def held_all_together(world: World) -> None:
    """A QEMU that outlives its kill has all of the VM's devices: they are waited for together, not one by one."""
    world.drive_gpu()
    world.policy(FORMER)
    world.pve.define(100, f"{ONE_GPU}hostpci1: {NIC}\n")
    before = world.state()
    went(world.pve.start(100))
    with world.bent("patience=3"):
        begun = time.monotonic()
        log = went(world.pve.stop(100, qemu="lingers"))
        seconds = time.monotonic() - begun
        said(log, *(f"kept binding {address} to {VFIO}" for address in (GPU, AUDIO, NIC)))
        holds(f"waited once, not six times: {seconds:.1f} s", 3 <= seconds < (9 if world.simulated else 16))
    world.pve.end_qemu(100)
    said(world.run("recover"), "VM 100: recovered")
    check("as before", world.state(), before)


def another_vm_has_it_by_now(world: World) -> None:
    """What another VM has reserved meanwhile stays as it is, until that one has given it back."""
    world.pve.define(100, ONE_NIC)
    before = world.state()
    went(world.pve.start(100))
    world.pve.end_qemu(100)
    world.pve.reserved().remove(100)
    world.pve.reserved().reserve([NIC], 101, timeout=60)
    said(world.hook(100, "post-stop"), f"kept binding {NIC} to {VFIO}", "no longer this VM's")
    _bound(world, NIC)
    world.pve.reserved().remove(101)
    os.unlink(f"{world.root}/run/qemu-server/100.pid")
    said(world.run("recover"), "VM 100: recovered")
    check("the driver", (world.driver(NIC), world.override(NIC)), ("e1000e", "(null)"))
    check("as before", world.state()["drivers"], before["drivers"])


def mate_of_another_vm(world: World) -> None:
    """A group mate is not given back while another VM has a function of the group reserved."""
    world.pve.define(100, f"hostpci0: {CHOSEN}\n")
    failed(world.pve.start(100, fail="command"), "injected-command")
    world.pve.reserved().remove(100)
    world.pve.reserved().reserve([MATE], 101, timeout=60)
    said(world.hook(100, "post-stop"), "no longer this VM's")
    _bound(world, CHOSEN, MATE)
    world.pve.reserved().remove(101)
    said(world.run("recover"), "VM 100: recovered")
    check("the mate", (world.driver(MATE), world.override(MATE)), ("tbmdev", "(null)"))


def taken_back_by_the_administrator(world: World) -> None:
    """Who binds the function elsewhere while the VM is stopped, and undoes nothing, has undone it."""
    world.pve.define(100, ONE_NIC)
    failed(world.pve.start(100, fail="command"), "injected-command")
    world.unbind(NIC)
    world.host.write(f"{PCI}/{NIC}/driver_override", "\n")
    world.host.write(f"{DRIVERS}/e1000e/bind", NIC)
    check("exit code", world.hook(100, "post-stop").code, 0)
    check("left alone", (world.driver(NIC), world.override(NIC)), ("e1000e", "(null)"))
    check("nothing left", (world.journals(), world.reservations().get(NIC)), ([], None))


def driver_that_is_none(world: World) -> None:
    """A driver of the policy that is not there: the start says so, and the function goes back to its former one."""
    world.policy(f"devices:\n  '{NIC}': {{give_back: igbb}}\n")
    world.pve.define(100, ONE_NIC)
    before = world.state()
    said(went(world.pve.start(100)), f"warning: the policy's give_back: igbb for {NIC}", "goes back to e1000e")
    said(
        went(world.pve.stop(100)), f"{NIC} does not go to igbb as the policy's give_back", f"gave {NIC} back to e1000e"
    )
    check("as before", world.state(), before)
    world.unbind(NIC)
    before = world.state()
    went(world.pve.start(100))
    said(went(world.pve.stop(100)), "as the policy's give_back says", "it has none, as before")
    check("as before", world.state(), before)


def driver_that_does_not_take_it(world: World) -> None:
    """A driver of the policy that is no driver of such a device: the former one gets it."""
    world.policy(f"devices:\n  '{NIC}': {{give_back: nvme}}\n")
    world.pve.define(100, ONE_NIC)
    before = world.state()
    went(world.pve.start(100))
    said(went(world.pve.stop(100)), f"{NIC} does not go to nvme", "give_back", f"gave {NIC} back to e1000e")
    check("as before", world.state(), before)


def policy_corrected_between_two_starts(world: World) -> None:
    """What a start that failed noted does not hold the next one: its policy counts."""
    world.policy(f"devices:\n  '{NIC}': {{give_back: nvme}}\n")
    world.pve.define(100, ONE_NIC)
    before = world.state()
    failed(world.pve.start(100, fail="command"), "injected-command")
    world.policy("")
    went(world.pve.start(100))
    log = went(world.pve.stop(100))
    holds(f"without a word: {log}", "give_back" not in log.output)
    check("as before", world.state(), before)


def vf_keeps_its_driver(world: World) -> None:
    """With driver=keep a VF stays with the driver that it has."""
    (first,) = world.make_vfs(1)
    before = world.state()
    world.pve.define(100, f"hostpci0: {first},driver=keep\nhostpci1: {NIC}\n")
    world.hook(100, "pre-start")
    check("kept", world.driver(first), before["drivers"][first])
    check("the other function", world.driver(NIC), VFIO)
    world.hook(100, "post-stop")
    check("as before", world.state()["drivers"], before["drivers"])


def vfs(world: World) -> None:
    """Two VFs go to two VMs and back to their driver, each by itself; PF and the third VF are not touched."""
    first, second, third = world.make_vfs(3)
    before = world.state()
    holds(f"the host's driver has all: {before['drivers']}", all(before["drivers"][one] for one in (PF, first, third)))
    for vmid, one in ((100, first), (101, second)):
        world.pve.define(vmid, f"hostpci0: {one}\n")
        said(went(world.pve.start(vmid)), f"bound {one} to {VFIO} (was {before['drivers'][one]})")
    _bound(world, first, second)
    check("PF and the other VF", [world.driver(one) for one in (PF, third)], [before["drivers"][PF]] * 2)
    said(went(world.pve.stop(100)), f"gave {first} back to {before['drivers'][first]}")
    check("the first one", (world.driver(first), world.override(first)), (before["drivers"][first], "tbvgpu"))
    _bound(world, second)
    failed(world.pve.start(100, fail="command"), "injected-command")
    went(world.pve.stop(101))
    said(world.run("recover"), "VM 100: recovered", f"gave {first} back")
    check("as before", world.state(), before)
