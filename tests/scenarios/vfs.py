# SPDX-License-Identifier: Apache-2.0
"""Scenarios of virtual functions: made, refused, set up by the policy, missing at a start.

The PF is an NVMe controller: QEMU has no network card with SR-IOV, so MACs and their like are in test_iplink.py, and
in the guest in sysfs_iplink.py, where the test driver stands for such a card.
"""

from __future__ import annotations

import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from pvepassthru.cli.main import main
from pvepassthru.host.host import open_host
from tests.kernel import guest, killed
from tests.kernel.checks import check, holds
from tests.kernel.sysfs import Started
from tests.scenarios import forked
from tests.scenarios.crashes import points
from tests.scenarios.world import NIC, PCI, PF, RESERVATIONS, VFS, failed, said, went

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.scenarios.world import World

NUMVFS = f"{PCI}/{PF}/sriov_numvfs"
AUTOPROBE = f"{PCI}/{PF}/sriov_drivers_autoprobe"
POLICY = "/etc/pvepassthru.yaml"


def _driven(world: World, driver: str = "tbvgpu") -> None:
    """Give the PF a driver that makes VFs."""
    world.host.write(f"{PCI}/{PF}/driver_override", driver)
    world.host.write("/sys/bus/pci/drivers_probe", PF)
    check("PF's driver", world.host.link(f"{PCI}/{PF}/driver"), driver)


def _policy(world: World, vfs: int, more: str = "") -> None:
    """Write a policy for the PF."""
    text = f"sriov:\n  {PF}:\n    vfs: {vfs}\n" + "".join(f"    {line}\n" for line in more.split("\n") if line)
    real = world.host.path(POLICY)
    os.makedirs(os.path.dirname(real), exist_ok=True)
    with open(real, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(real, 0o600)


def _state(world: World) -> dict[str, Any]:
    """The PF's VFs with their drivers and overrides, and its autoprobe."""
    host = world.host
    found = {vf: f"{PCI}/{vf}" for vf in VFS if host.exists(f"{PCI}/{vf}")}
    return {
        "numvfs": host.text(NUMVFS),
        "autoprobe": host.text(AUTOPROBE),
        "drivers": {vf: host.link(f"{folder}/driver") for vf, folder in found.items()},
        "overrides": {vf: host.text(f"{folder}/driver_override") for vf, folder in found.items()},
    }


def _shape(world: World) -> Any:  # noqa: ANN401 - JSON
    return json.loads(world.run("sriov", "show", PF, "--json"))


def up_and_down(world: World) -> None:
    """0 to 4, two VMs hold two, any change is refused and says why; stopped: 2, then 0."""
    _driven(world)
    before = _state(world)
    said(world.run("sriov", "set", PF, "4", "--dry-run"), f"would make 4 VFs of {PF}")
    check("a dry run", _state(world), before)
    said(world.run("sriov", "set", PF, "4"), f"made 4 VFs of {PF}")
    check("4", _state(world)["drivers"], dict.fromkeys(VFS))
    check("autoprobe is what it was", _state(world)["autoprobe"], before["autoprobe"])
    said(world.run("sriov", "set", PF, "4"), "nothing was changed")
    for vmid, vf in ((100, VFS[0]), (101, VFS[2])):
        world.pve.define(vmid, f"hostpci0: {vf}\n")
        went(world.pve.start(vmid))
    running = _state(world)
    for count in ("2", "0"):
        output = world.run("sriov", "set", PF, count, code=5)
        said(output, f"cannot give {PF} {count} VFs", VFS[0], "VM 100", VFS[2], "VM 101", "no VF was touched")
    check("untouched", _state(world), running)
    rows = {vf["address"]: vf for vf in _shape(world)["functions"]}
    check("who", [[vm["vmid"] for vm in rows[vf]["vms"] if vm["has"]] for vf in VFS], [[100], [], [101], []])
    holds("in use", all((rows[vf]["in_use"] is not None) == (vf in {VFS[0], VFS[2]}) for vf in VFS))
    went(world.pve.stop(100))
    said(world.run("sriov", "set", PF, "2", code=5), VFS[2], "VM 101")
    went(world.pve.stop(101))
    said(world.run("sriov", "set", PF, "2"), f"removed 4 VFs of {PF}", f"made 2 VFs of {PF}")
    check("2", sorted(_state(world)["drivers"]), list(VFS[:2]))
    said(world.run("sriov", "set", PF, "0"), f"removed 2 VFs of {PF}")
    check("as before", _state(world), before)


def open_without_a_vm(world: World) -> None:
    """A process that has a VF open is named, though no VM has it."""
    _driven(world)
    world.run("sriov", "set", PF, "2")
    world.host.write(f"{PCI}/{VFS[1]}/driver_override", "vfio-pci")
    world.host.write("/sys/bus/pci/drivers_probe", VFS[1])
    with world.held(VFS[1]) as pid:
        said(world.run("sriov", "set", PF, "4", code=5), VFS[1], f"process {pid} (", "has it open")
        check("still two", world.host.text(NUMVFS), "2")
    world.run("sriov", "set", PF, "0")


def wishes_that_cannot_be(world: World) -> None:
    """Each with its own sentence and exit code, and nothing is changed."""
    said(world.run("sriov", "set", PF, "2", code=5), PF, "has no driver")
    _driven(world)
    said(world.run("sriov", "set", PF, "5", code=2), "the card can have 4")
    said(world.run("sriov", "set", PF, "-1", code=2), "no number of VFs")
    said(world.run("sriov", "set", NIC, "1", code=3), "can have no virtual functions")
    said(world.run("sriov", "set", "0000:0f:00.0", "1", code=3), "no PCI function")
    said(world.run("sriov", "set", "eth0", "1", code=2), "no PCI address")
    check("none", world.host.text(NUMVFS), "0")
    said(world.run("sriov", "show"), PF)


def applied_twice(world: World) -> None:
    """The policy is made so, then nothing changes any more; the drivers of VFs that nobody uses follow it."""
    _driven(world)
    _policy(world, 3, "driver: vfio-pci\nvf: {1: {driver: tbvgpu}}")
    before = _state(world)
    said(world.run("sriov", "apply", "--dry-run"), f"would make 3 VFs of {PF}")
    check("a dry run", _state(world), before)
    said(world.run("sriov", "apply"), f"made 3 VFs of {PF}", f"({VFS[1]}) to tbvgpu", f"({VFS[2]}) to vfio-pci")
    applied = _state(world)
    drivers = {VFS[0]: "vfio-pci", VFS[1]: "tbvgpu", VFS[2]: "vfio-pci"}
    overrides = dict.fromkeys(VFS[:3], "(null)")
    check("applied", applied, {**before, "numvfs": "3", "drivers": drivers, "overrides": overrides})
    said(world.run("sriov", "apply"), "all as the policy says", "nothing was changed")
    shape = json.loads(world.run("sriov", "apply", "--json"))
    check("JSON", [(pf["changed"], pf["error"]) for pf in shape["pfs"]], [([], None)])
    check("a second time", _state(world), applied)
    world.host.write(f"{PCI}/{VFS[0]}/driver/unbind", VFS[0])
    said(world.run("sriov", "apply"), f"bound VF 0 ({VFS[0]}) to vfio-pci")
    check("mended", _state(world), applied)
    _policy(world, 0)
    world.run("sriov", "apply")
    check("as before", _state(world), before)
    check("nothing is left in /run", [name for name in world.host.names("/run/pvepassthru") if ".vfs" in name], [])


def applied_while_in_use(world: World) -> None:
    """What is in use stays as it is, and is told: the number as an error, a driver as a warning."""
    _driven(world)
    world.run("sriov", "set", PF, "2")
    world.pve.define(100, f"hostpci0: {VFS[0]}\n")
    went(world.pve.start(100))
    running = _state(world)
    _policy(world, 2, "driver: tbvgpu")
    said(world.run("sriov", "apply"), "stays with the driver vfio-pci", "VM 100", f"({VFS[1]}) to tbvgpu")
    check("the VM's VF", _state(world)["drivers"], {**running["drivers"], VFS[1]: "tbvgpu"})
    _policy(world, 4)
    said(world.run("sriov", "apply", code=1), "error: ", VFS[0], "VM 100")
    check("still two", _state(world)["numvfs"], "2")
    went(world.pve.stop(100))
    world.run("sriov", "apply")
    check("four", sorted(_state(world)["drivers"]), list(VFS))


def while_another_writes(world: World) -> None:
    """Somebody else writes sriov_numvfs meanwhile: one of the two wins, and the command says what came of its own."""
    _driven(world)
    other = Started(world, NUMVFS, "2")
    output = world.run("sriov", "set", PF, "3", code=None)
    outcome = other.outcome()
    count = world.host.text(NUMVFS)
    if count == "3":
        said(output, f"made 3 VFs of {PF}")
    else:
        check(f"the other one: {output}", (count, outcome), ("2", "ok"))
        said(output, f"cannot give {PF} 3 VFs")
    check("as many as are said", len(_state(world)["drivers"]), int(count or 0))


def two_at_once(world: World) -> None:
    """Two of us do not meet: the PF's lock lets one after the other."""
    _driven(world)
    _policy(world, 4)
    outputs: list[str] = []
    runs = [threading.Thread(target=lambda: outputs.append(world.run("sriov", "apply"))) for _ in range(3)]
    for one in runs:
        one.start()
    for one in runs:
        one.join()
    check("one made them", sum(f"made 4 VFs of {PF}" in output for output in outputs), 1)
    check("the others found them", sum("nothing was changed" in output for output in outputs), 2)
    check("all there", _state(world)["numvfs"], "4")


def removal_that_hangs(world: World) -> None:
    """Somebody's own 0 waits for a VF that is open: we say so within seconds, and name the process; nothing hangs."""
    _driven(world)
    world.run("sriov", "set", PF, "2")
    world.host.write(f"{PCI}/{VFS[0]}/driver_override", "vfio-pci")
    world.host.write("/sys/bus/pci/drivers_probe", VFS[0])
    with world.held(VFS[0]) as pid:
        writer = Started(world, NUMVFS, "0")
        listed = f"{PCI}/{PF}/virtfn0"
        holds("begun", guest.wait_for(lambda: not world.host.exists(listed)))
        begun = time.monotonic()
        output = world.run("sriov", "set", PF, "4", code=6)
        said(output, "cannot be read", VFS[0], f"process {pid} (")
        holds("within its limit", time.monotonic() - begun < 60)
        check("shown as unknown", _shape(world)["vfs"], None)
        begun = time.monotonic()
        world.run("devices", "--json")
        world.pve.define(100, f"hostpci0: {PF}\n")
        world.run("validate", "100", code=None)
        world.hook(100, "pre-start")
        holds("nor does anything else hang", time.monotonic() - begun < 60)
    check("ends with the close", writer.outcome(), "ok")
    # The reader that was left behind ends now, too; until it has, nobody asks again.
    holds("none", guest.wait_for(lambda: open_host(world.root or "/").text(NUMVFS) == "0"))


# ---- in the hook


def made_by_the_start(world: World) -> None:
    """A VF that is missing is made at pre-start, with all that the policy says; a stop leaves it there."""
    _driven(world)
    _policy(world, 3, "in_hook: true\ndriver: vfio-pci")
    world.pve.define(100, f"hostpci0: {VFS[1]}\n")
    before = _state(world)
    log = went(world.pve.start(100))
    said(log, f"made 3 VFs of {PF}", f"bound VF 1 ({VFS[1]}) to vfio-pci")
    check("three", _state(world)["drivers"], dict.fromkeys(VFS[:3], "vfio-pci"))
    holds("reserved", VFS[1] in (world.host.text(RESERVATIONS) or ""))
    went(world.pve.stop(100))
    check("they stay", _state(world)["numvfs"], "3")
    log = went(world.pve.start(100))
    holds(f"made once: {log}", "made" not in log.output)
    went(world.pve.stop(100))
    _policy(world, 0)
    world.run("sriov", "apply")
    check("as before", _state(world), before)


def made_for_a_mapping(world: World) -> None:
    """Every alternative of a mapping must be there for PVE; they are VFs, and are made."""
    _driven(world)
    world.run("sriov", "set", PF, "2")
    world.map("nvme", VFS[:2], mdev=False)
    world.run("sriov", "set", PF, "0")
    _policy(world, 2, "in_hook: true")
    world.pve.define(100, "hostpci0: mapping=nvme\n")
    said(went(world.pve.start(100)), f"made 2 VFs of {PF}")
    went(world.pve.stop(100))


def not_made_by_the_start(world: World) -> None:
    """Without `in_hook` a start only says who would; and it never changes a number that is not 0."""
    _driven(world)
    world.pve.define(100, f"hostpci0: {VFS[3]}\n")
    _policy(world, 4)
    log = failed(world.pve.start(100), "hook-failed")
    said(log, "not in a hook", "pvepassthru sriov apply", "PVP201")
    check("none", _state(world)["numvfs"], "0")
    world.run("sriov", "set", PF, "2")
    _policy(world, 4, "in_hook: true")
    log = failed(world.pve.start(100), "hook-failed")
    said(log, f"cannot make {VFS[3]}", "has 2 VFs, the policy says 4", f"sriov set {PF} 4")
    check("two", _state(world)["numvfs"], "2")
    _policy(world, 3, "in_hook: true")
    log = failed(world.pve.start(100), "hook-failed")
    said(log, "PVP201", VFS[3])


def planned(world: World) -> None:
    """A dry run of pre-start says that it would make them, and makes none."""
    _driven(world)
    _policy(world, 2, "in_hook: true")
    world.pve.define(100, f"hostpci0: {VFS[0]}\n")
    said(world.run("plan", "100"), f"made 2 VFs of {PF}")
    check("none", _state(world)["numvfs"], "0")


# ---- crashes


def _killed(world: World, how: str, *, hook: bool) -> None:
    """Kill what makes VFs at its changes; done once more, all is as the policy says, autoprobe is what it was."""
    _driven(world)
    _policy(world, 2, "driver: vfio-pci\nin_hook: true")
    world.pve.define(100, f"hostpci0: {VFS[1]}\n")
    before = _state(world)

    def sriov(*words: str) -> Callable[[], int]:
        return lambda: main([*(["--root", world.root] if world.root else []), "sriov", *words])

    call = forked.hook(world, "pre-start") if hook else sriov("apply")
    makers = forked.ran(forked.forked(call)).changes
    wanted = {**before, "numvfs": "2", "drivers": dict.fromkeys(VFS[:2], "vfio-pci")}
    wanted["overrides"] = dict.fromkeys(VFS[:2], "(null)")
    check("without a kill", _state(world), wanted)
    numbers = points(makers, how, every=False)
    numbers = numbers if how == "spared" else numbers[how == "after" :: 2]  # what is before one is after another
    numbers = numbers if world.simulated else numbers[::2]  # each takes ten seconds there
    holds(f"changes to kill at: {makers}", len(numbers) >= 2)
    for number in numbers:
        if hook:
            forked.ran(forked.forked(forked.hook(world, "post-stop")))
        forked.ran(forked.forked(sriov("set", PF, "0")))
        check(f"{number}: none", _state(world), before)
        before_it, after_it = (None, number) if how == "after" else (number, None)
        done = forked.forked(call, killed.At(before_it, after_it, how == "spared"), pause=0.2)
        holds(f"{number}: no traceback: {done.output}", "Traceback" not in done.output)
        forked.ran(forked.forked(call))
        check(f"{how} {number} of {len(makers)}", _state(world), wanted)
        unfinished = [name for name in world.host.names("/run/pvepassthru") if name.endswith(".vfs")]
        check(f"{number}: all set up", unfinished, [])


def apply_killed_before(world: World) -> None:
    _killed(world, "before", hook=False)


def apply_killed_after(world: World) -> None:
    _killed(world, "after", hook=False)


def apply_killed_while_its_child_goes_on(world: World) -> None:
    _killed(world, "spared", hook=False)


def start_killed_while_its_child_goes_on(world: World) -> None:
    _killed(world, "spared", hook=True)
