# SPDX-License-Identifier: Apache-2.0
"""What the policy sets on devices while a VM has them, the host's console, and devices that fall off the bus.

What only a simulated host can show are resizable BARs and dead devices.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests import tree
from tests.kernel.checks import check
from tests.scenarios.crashes import Situation
from tests.scenarios.world import AUDIO, GPU, HOST_DRIVERS, NIC, PCI, SimWorld, failed, refused, said, went

if TYPE_CHECKING:
    from tests.scenarios.world import World

SLOT = "0000:01:00"
CONFIG = f"hostpci0: {SLOT},pcie=1\nhostpci1: {NIC}\nmachine: q35\n"
POLICY = f"""\
devices:
  '{SLOT}': {{give_back: former, console: release, restore_framebuffer: true}}
  '{NIC}': {{reset_method: bus pm, d3cold: false, rescan: true}}
"""
BARS = f"  '{GPU}': {{bars: {{0: 256M}}}}\n"
EVERYTHING = Situation(CONFIG, (GPU, AUDIO, NIC))
"""A VM whose start uses all that a policy can set; `furnish` makes its host."""
RESOURCE = "0x00000000fc000000 0x00000000fcffffff 0x0000000000042208\n"
HEADER, DEAD = bytes([0x86, 0x80, 0xD3, 0x10]) * 16, b"\xff" * 64
LAST_RESORT = "if that does not help, shut the host down and power it off"
FBCON = "(M) frame buffer device"


def furnish(world: World) -> None:
    """The host's drivers have GPU and network card, the console is on the GPU; simulated, its BAR 0 is resizable."""
    world.drive_gpu()
    if world.simulated:
        tree.put(world.root, f"{PCI[1:]}/{GPU}/resource", RESOURCE)
        tree.put(world.root, f"{PCI[1:]}/{GPU}/resource0_resize", "0000000000000ff0\n")
        for address in (GPU, AUDIO, NIC):
            tree.put(world.root, f"{PCI[1:]}/{address}/config", HEADER)
    world.policy(POLICY + (BARS if world.simulated else ""))
    world.pve.define(100, CONFIG)


# ---- on real kernels too


def everything(world: World) -> None:
    """All of it at once: set while the VM has its devices, and as before afterwards, twice."""
    furnish(world)
    before = world.state() | _bar(world)
    check("the console is on the GPU", world.consoles(), {"(S) dummy device": "0", FBCON: "1"})
    for number in (1, 2):
        log = went(world.pve.start(100))
        check("drivers", [world.driver(address) for address in EVERYTHING.made], ["vfio-pci"] * 3)
        check("reset", world.host.text(f"{PCI}/{NIC}/reset_method"), "bus pm")
        check("d3cold", world.host.text(f"{PCI}/{NIC}/d3cold_allowed"), "0")
        check("the console is on no display", world.consoles(), {"(S) dummy device": "1"})
        said(log, f"took the console vtcon1 off {GPU}", f"{NIC} is reset by bus pm")
        if world.simulated:
            check("BAR", (_bar(world)["resource"] or "").split()[1], "0x000000010bffffff")
        log = went(world.pve.stop(100))
        check(f"as before, round {number} ({log})", world.state() | _bar(world), before)


def console_comes_back_when_the_start_fails(world: World) -> None:
    """PVE fails after the hook, and recover gives back driver and console."""
    furnish(world)
    before = world.state() | _bar(world)
    world.pve.define(100, CONFIG.replace(f"hostpci1: {NIC}", f"hostpci1: {NIC},bogus=1"))
    failed(world.pve.start(100), "hook-failed")
    check("as before", world.state() | _bar(world), before)


def backup_takes_no_console(world: World) -> None:
    """A GPU with the host's console, which a start would take off it, is in use for a backup."""
    furnish(world)
    before = world.state() | _bar(world)
    log = failed(world.pve.backup(100), "hook-failed")
    said(log, f"cannot take {GPU} from the host", "its console (vtcon1)", "a backup starts VM 100", "on_backup")
    check("as before", world.state() | _bar(world), before)
    world.policy(f"defaults: {{on_backup: handover}}\n{POLICY}")
    said(went(world.pve.backup(100)), f"took the console vtcon1 off {GPU}")
    check("as before", world.state() | _bar(world), before)


def reset_method_that_is_not_offered(world: World) -> None:
    furnish(world)
    world.policy(POLICY.replace("bus pm", "flr"))
    refused(world, 100, f"cannot set reset_method flr on {NIC}: the kernel offers pm bus")


def nothing_without_a_policy(world: World) -> None:
    """Consoles, reset methods and power states are not touched."""
    furnish(world)
    world.policy("devices: {}\n")
    world.pve.define(100, f"hostpci0: {NIC}\n")
    before = world.state()
    went(world.pve.start(100))
    check("the console", world.consoles(), before["consoles"])
    check("reset", world.host.text(f"{PCI}/{NIC}/reset_method"), before["reset methods"][NIC])
    check("d3cold", world.host.text(f"{PCI}/{NIC}/d3cold_allowed"), before["d3cold"][NIC])
    went(world.pve.stop(100))
    check("as before", world.state(), before)


def _bar(world: World) -> dict[str, str | None]:
    return {"resource": world.host.read(f"{PCI}/{GPU}/resource").decode() if world.simulated else None}


# ---- simulated


def _fell(world: World, address: str = NIC, config: bytes = DEAD) -> None:
    """Let a function fall off the bus while its VM runs, or come back."""
    tree.put(world.root, f"{PCI[1:]}/{address}/config", config)


def quarantine(world: SimWorld) -> None:
    """A card that is dead after the stop gets no driver, refuses starts, and is given back when it answers again."""
    furnish(world)
    world.policy(POLICY.replace("rescan: true", "rescan: false"))
    world.pve.define(101, f"hostpci0: {NIC}\n")
    before = world.state()
    went(world.pve.start(100))
    _fell(world)
    log = world.pve.stop(100)
    said(log, f"{NIC} fell off the bus: its configuration space reads 0xFF everywhere", "in quarantine", LAST_RESORT)
    said(log, f"when it answers again: pvepassthru release {NIC}, then pvepassthru recover")
    check("stays with VFIO", world.driver(NIC), "vfio-pci")
    check("the GPU went back", world.driver(GPU), HOST_DRIVERS[GPU])
    said(world.run("status"), f"in quarantine: {NIC} fell off the bus", "pvepassthru release")
    for vmid in (100, 101):
        said(failed(world.pve.start(vmid), "hook-failed"), "PVP256", "in quarantine since VM 100 stopped", LAST_RESORT)
    check("the GPU stays with the host", world.driver(GPU), HOST_DRIVERS[GPU])
    said(world.run("release", NIC, code=5), "still reads 0xFF everywhere", LAST_RESORT)
    said(world.run("recover", code=1), "fell off the bus")
    _fell(world, config=HEADER)
    said(world.run("release", NIC), "its quarantine has ended", "pvepassthru release 100")
    said(world.run("release", "100"), "VM 100: recovered")
    check("as before", world.state(), before)


def answers_again_by_itself(world: SimWorld) -> None:
    """The next start sees that the card answers, and asks nobody."""
    furnish(world)
    world.policy(POLICY.replace("rescan: true", "rescan: false"))
    before = world.state()
    went(world.pve.start(100))
    _fell(world)
    world.pve.stop(100)
    _fell(world, config=HEADER)
    said(went(world.pve.start(100)), f"{NIC} answers again: its quarantine ends")
    check("no quarantine while it runs", _quarantines(world), [])
    went(world.pve.stop(100))
    check("as before", world.state(), before)
    check("no quarantine", _quarantines(world), [])


def rescan_brings_it_back(world: SimWorld) -> None:
    """With the policy's rescan the card is removed and found again; its own driver has it then."""
    world.devices[NIC] = {"config": HEADER.hex()}
    furnish(world)
    before = world.state()
    went(world.pve.start(100))
    _fell(world)
    said(world.pve.stop(100), "answers again since it was removed and looked for again")
    now = world.state()
    check("as before", now | {"reset methods": 0, "d3cold": 0}, before | {"reset methods": 0, "d3cold": 0})
    check("no quarantine", _quarantines(world), [])


def bus_reset_beside_the_host(world: SimWorld) -> None:
    """A bus reset of a function whose neighbour the host uses is refused before anything is taken."""
    world.policy("devices:\n  '0000:07:01.0': {reset_method: bus}\n")
    for name in ("0000:07:01.0", "0000:07:02.0"):
        os.unlink(f"{world.root}{PCI}/{name}/iommu_group")
        group = f"sys/kernel/iommu_groups/9{name[-3]}"
        tree.folder(world.root, f"{group}/devices")
        tree.link(world.root, f"{PCI[1:]}/{name}/iommu_group", group)
        tree.link(world.root, f"{group}/devices/{name}", f"{PCI[1:]}/{name}")
        os.unlink(f"{world.root}/sys/kernel/iommu_groups/15/devices/{name}")
    world.host.write(f"{PCI}/0000:07:02.0/driver_override", "e1000e")
    world.host.write("/sys/bus/pci/drivers_probe", "0000:07:02.0")
    world.pve.define(100, "hostpci0: 0000:07:01.0\n")
    refused(world, 100, "cannot let 0000:07:01.0 be reset with its whole bus", "the host's driver e1000e")


def resized_on_vfio(world: SimWorld) -> None:
    """A GPU that vfio-pci has had since an earlier stop, by no override and no id, is resized and is with it again."""
    furnish(world)
    world.unbind(GPU)
    world.host.write(f"{PCI}/{GPU}/driver_override", "vfio-pci")
    world.host.write("/sys/bus/pci/drivers_probe", GPU)
    world.host.write(f"{PCI}/{GPU}/driver_override", "\n")
    before = world.state() | _bar(world)
    said(went(world.pve.start(100)), f"BAR 0 of {GPU} is 256M large")
    check("with it", world.driver(GPU), "vfio-pci")
    log = went(world.pve.stop(100))
    check(f"as before: {log}", world.state() | _bar(world), before)


def planned(world: SimWorld) -> None:
    """A plan shows all steps, and changes nothing."""
    furnish(world)
    before = world.state() | _bar(world)
    said(
        world.run("plan", "100"),
        f"took the console vtcon1 off {GPU}",
        f"{NIC} is reset by bus pm",
        f"d3cold_allowed of {NIC} is 0",
        f"BAR 0 of {GPU} is 256M large",
        f"bound {GPU} to vfio-pci",
    )
    check("as before", world.state() | _bar(world), before)


def _quarantines(world: World) -> list[str]:
    return [name for name in world.host.names("/run/pvepassthru") if name.endswith(".quarantine")]


SIMULATED = (
    planned,
    resized_on_vfio,
    quarantine,
    answers_again_by_itself,
    rescan_brings_it_back,
    bus_reset_beside_the_host,
)
EVERYWHERE = (
    everything,
    console_comes_back_when_the_start_fails,
    backup_takes_no_console,
    reset_method_that_is_not_offered,
    nothing_without_a_policy,
)
