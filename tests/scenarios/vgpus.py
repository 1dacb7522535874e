# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's vendor vGPU interface on VFs. Nothing is ever reserved under another VMID than the starting VM's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.kernel.checks import check, holds
from tests.scenarios.world import NIC, PARENT, PCI, START, failed, refused, said, went

if TYPE_CHECKING:
    from tests.scenarios.world import World

KINDS = ONE_UNIT, TWO_UNITS, FOUR_UNITS = "100", "101", "102"
"""vGPU types of the test driver, by what they take of the four units of a PF."""


def vgpu(vf: str, kind: str = TWO_UNITS, index: int = 0) -> str:
    """A config line."""
    return f"hostpci{index}: {vf},mdev=nvidia-{kind}\n"


def _others(world: World) -> None:
    """Reservations of other VMs, a stale one and a foreign line, that nobody may touch."""
    lines = [f"{PARENT} 777 time:4102444800", f"{NIC} 778 time:4102444800"]
    world.pve.cluster.put("/run/qemu-server/pci-id-reservations", "".join(f"{line}\n" for line in lines))


OTHERS = {PARENT: "777 time", NIC: "778 time"}


def vgpu_life(world: World) -> None:
    """Reserved in PVE's file under this VM, type set and read back; gone after the stop."""
    vf, other = world.make_vfs(2)
    _others(world)
    before = world.state()
    world.pve.define(100, vgpu(vf))
    run = world.hook(100, "pre-start")
    check(f"exit code: {run}", run.code, 0)
    said(run, f"set vGPU type {TWO_UNITS} on {vf}")
    check("set", world.vgpus(), {vf: TWO_UNITS})
    check("reserved for this VM alone", world.reservations(), {**OTHERS, vf: "100 time"})
    check("journal", world.kept(100), [f"reserve {vf} 100", f"vgpu {vf} {TWO_UNITS}"])
    check("undone", world.hook(100, "post-stop").code, 0)
    check("as before", world.state(), before)

    log = went(world.pve.start(100))
    check("phases", log.phases, START)
    check("PVE has nothing to write", log.writes, [])
    check("reserved by PVE", world.reservations(), {**OTHERS, vf: "100 pid"})
    check("the other VF is free", world.vgpus(), {vf: TWO_UNITS})
    offers = world.host.text(f"{PCI}/{other}/nvidia/creatable_vgpu_types") or ""
    check("and offers what is left", [kind for kind in KINDS if kind in offers.split()], [ONE_UNIT, TWO_UNITS])
    went(world.pve.stop(100))
    check("as before", world.state(), before)


def vgpu_start_fails(world: World) -> None:
    """The next start settles what is left, or recover does."""
    (vf,) = world.make_vfs(1)
    before = world.state()
    world.pve.define(100, vgpu(vf))
    for place in ("command", "qemu"):
        failed(world.pve.start(100, fail=place), f"injected-{place}")
        check("the journal stays", world.journals(), ["100.journal"])
        said(went(world.pve.start(100)), "an earlier start left a journal")
        check("set", world.vgpus(), {vf: TWO_UNITS})
        check("one reservation", world.reservations(), {vf: "100 pid"})
        check("one step each", world.kept(100), [f"reserve {vf} 100", f"vgpu {vf} {TWO_UNITS}"])
        went(world.pve.stop(100))
        check("as before", world.state(), before)
        failed(world.pve.start(100, fail=place), f"injected-{place}")
        said(world.run("recover"), "VM 100: recovered")
        check("as before", world.state(), before)


def vgpu_is_set_already(world: World) -> None:
    """Taken as it is; what we did not set, a start that fails leaves set."""
    (vf,) = world.make_vfs(1)
    world.set_vgpu(vf, TWO_UNITS)
    before = world.state()
    world.pve.define(100, vgpu(vf))
    said(failed(world.pve.start(100, fail="command"), "injected-command"), f"is already set on {vf}")
    said(world.run("recover"), "VM 100: recovered")
    check("as before", world.state(), before)
    went(world.pve.start(100))
    went(world.pve.stop(100))
    check("PVE reset it", world.vgpus(), {})
    check("nothing is reserved", world.reservations(), {})


def vgpu_of_another_type(world: World) -> None:
    """Left of an earlier start, and nobody has it open: reset, then set."""
    (vf,) = world.make_vfs(1)
    world.set_vgpu(vf, FOUR_UNITS)
    world.pve.define(100, vgpu(vf))
    log = went(world.pve.start(100))
    said(log, f"set vGPU type {TWO_UNITS} on {vf}", f"has vGPU type {FOUR_UNITS} set")
    check("set", world.vgpus(), {vf: TWO_UNITS})
    check("reserved", world.reservations(), {vf: "100 pid"})
    went(world.pve.stop(100))
    check("reset", world.vgpus(), {})


def vgpu_is_held(world: World) -> None:
    """Another process has the VF open with another type, or with this one."""
    (vf,) = world.make_vfs(1)
    world.pve.define(100, vgpu(vf))
    for kind in (FOUR_UNITS, TWO_UNITS):
        world.set_vgpu(vf, kind)
        with world.held(vf) as pid:
            refused(world, 100, f"process {pid} (", vf)
        check("untouched", world.vgpus(), {vf: kind})
        world.set_vgpu(vf, "0")


def vgpu_without_room(world: World) -> None:
    """The VFs of a PF share its units."""
    first, second = world.make_vfs(2)
    world.pve.define(101, vgpu(first, FOUR_UNITS))
    went(world.pve.start(101))
    world.pve.define(100, vgpu(second, ONE_UNIT))
    refused(world, 100, "PVP221", second, f"vGPU type {ONE_UNIT}")
    check("only VM 101's", world.reservations(), {first: "101 pid"})


def vgpu_of_another_vm(world: World) -> None:
    """A VF that another VM has, or has reserved, is refused, and the reservation stays that VM's."""
    (vf,) = world.make_vfs(1)
    world.pve.define(100, vgpu(vf))
    world.pve.define(101, vgpu(vf))
    went(world.pve.start(101))
    refused(world, 100, "PVP420", vf, "VM 101")
    went(world.pve.stop(101))
    world.pve.reserved().reserve([vf], 101, timeout=60)
    refused(world, 100, "PVP421", vf, "VM 101")
    check("still VM 101's", world.reservations(), {vf: "101 time"})


def vgpu_went_to_another_vm(world: World) -> None:
    """PVE drops its reservations before post-stop: an equal type on the VF is not ownership."""
    (vf,) = world.make_vfs(1)
    before = world.state()
    for vmid in (100, 101):
        world.pve.define(vmid, vgpu(vf))
    went(world.pve.start(100))
    went(world.pve.stop(100, post_stop=0))
    went(world.pve.start(101))
    taken = world.state()
    log = went(world.pve.post_stop(100))
    check("exit code", log.hooks[0].code, 0)
    said(log, f"kept vGPU type {TWO_UNITS} on {vf}", "VM 101")
    check("untouched", world.state(), taken)
    words = world.run("recover", code=None)
    holds(f"not recovered, since it is VM 101's: {words}", "kept vGPU type" in words or "VM 100: skipped" in words)
    check("untouched", world.state(), taken)
    went(world.pve.stop(101))
    said(world.run("recover"), "VM 100: recovered")
    check("as before", world.state(), before)


def vgpu_reserved_before_post_stop(world: World) -> None:
    """As above, while the other VM has only reserved it so far."""
    (vf,) = world.make_vfs(1)
    before = world.state()
    world.pve.define(100, vgpu(vf))
    failed(world.pve.start(100, fail="command"), "injected-command")
    world.pve.reserved().remove(100)
    world.pve.reserved().reserve([vf], 101, timeout=60)
    run = world.hook(100, "post-stop")
    check("exit code", run.code, 0)
    said(run, "kept vGPU type", "VM 101")
    check("still VM 101's", world.reservations(), {vf: "101 time"})
    check("still set", world.vgpus(), {vf: TWO_UNITS})
    world.pve.reserved().remove(101)
    said(world.run("recover"), "VM 100: recovered")
    check("as before", world.state(), before)


def vgpu_alternatives(world: World) -> None:
    """With several VFs the choice is PVE's, and the hook touches none; it only sees that the type is on offer."""
    vfs = world.make_vfs(3)
    before = world.state()
    world.map("gpu", vfs)
    config = f"hostpci0: mapping=gpu,mdev=nvidia-{TWO_UNITS}\n"
    for vmid in (100, 101, 102):
        world.pve.define(vmid, config)
    run = world.hook(100, "pre-start")
    check(f"exit code: {run}", run.code, 0)
    check("untouched", world.state(), before)
    for vmid in (100, 101):
        check("no journal of ours", went(world.pve.start(vmid)).hooks[0].code, 0)
    check("PVE chose", world.vgpus(), dict.fromkeys(vfs[:2], TWO_UNITS))
    check("PVE reserved", world.reservations(), {vfs[0]: "100 pid", vfs[1]: "101 pid"})
    refused(world, 102, "PVP422", "VM 100", "VM 101")
    for vmid in (100, 101):
        went(world.pve.stop(vmid))
    check("as before", world.state(), before)


def vgpu_second_entry_fails(world: World) -> None:
    """The second VF has no room for its type: the first one's type and reservation go again."""
    first, second = world.make_vfs(2)
    world.pve.define(100, vgpu(first) + vgpu(second, FOUR_UNITS, 1))
    said(refused(world, 100, second), f"set vGPU type {TWO_UNITS} on {first}", "gave back vGPU type")


def vgpu_and_mdev(world: World) -> None:
    """Both kinds in one VM; the failing second one undoes the first."""
    (vf,) = world.make_vfs(1)
    world.pve.define(100, vgpu(vf) + f"hostpci1: {PARENT},mdev=tbmdev-2\n")
    before = world.state()
    went(world.pve.start(100))
    check("set", world.vgpus(), {vf: TWO_UNITS})
    check("made", list(world.mdevs().values()), [f"{PARENT} tbmdev-2"])
    went(world.pve.stop(100))
    check("as before", world.state(), before)


def vgpu_qemu_lingers(world: World) -> None:
    """PVE cannot reset the type while QEMU lives, and drops its reservation all the same."""
    (vf,) = world.make_vfs(1)
    before = world.state()
    world.pve.define(100, vgpu(vf))
    went(world.pve.start(100))
    pid = world.pve.running(100)
    with world.impatient():
        log = went(world.pve.stop(100, qemu="lingers"))
    said(log, "kept vGPU type", f"process {pid} (")
    check("no reservation is left behind", world.reservations(), {})
    check("still set", world.vgpus(), {vf: TWO_UNITS})
    said(world.run("recover"), "VM 100: skipped")
    world.pve.define(101, vgpu(vf))
    said(failed(world.pve.start(101), "hook-failed"), f"process {pid} (", vf)
    check("nothing is reserved", world.reservations(), {})
    world.pve.end_qemu(100)
    said(world.run("recover"), "VM 100: recovered")
    check("as before", world.state(), before)


def vgpu_driver_goes(world: World) -> None:
    """The VF lost its driver, and with it its type, between start and stop."""
    (vf,) = world.make_vfs(1)
    world.pve.define(100, vgpu(vf))
    failed(world.pve.start(100, fail="command"), "injected-command")
    world.unbind(vf)
    run = world.hook(100, "post-stop")
    check("exit code", run.code, 0)
    check("no journal", world.journals(), [])
    check("nothing is reserved", world.reservations(), {})
