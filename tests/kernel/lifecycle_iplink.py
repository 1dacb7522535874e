# SPDX-License-Identifier: Apache-2.0
"""Network settings of VFs through the real ip and the real kernel, of a PF that the test driver tbnic makes a card of.

QEMU has no network card with SR-IOV. What a card's own driver does with the settings nobody can show here; that they
reach it, and are read back, these tests do.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from tests.kernel import guest
from tests.kernel.checks import check, holds
from tests.kernel.guest import PCI, PHYSICAL_FUNCTION, read, write
from tests.scenarios import vfs
from tests.scenarios.forking_world import ForkingWorld, prepare_forks
from tests.scenarios.world import VFS, failed, reset_guest, said, went

TEST_LIMIT = 300.0
KERNELS = ("6.12",)  # enough with one: netlink of VFs is an interface that stays, and sysfs_pci.py has VFs on both
SUITE_LIMIT = 900.0
NET = "tbnic0"
OWN_MAC = "52:54:00:0b:0e:01"
PF_FOLDER = f"{PCI}/{PHYSICAL_FUNCTION}"
SETTINGS = """driver: vfio-pci
mac: stable
vlan: 100
qos: 3
spoofchk: false
trust: true
state: enable
max_tx_rate: 900
min_tx_rate: 10
vf: {1: {mac: "02:00:00:00:00:aa", vlan: 7, qos: 0}}"""


def prepare() -> None:
    """As for all suites, with the card's driver."""
    prepare_forks()
    subprocess.run(["insmod", os.path.join(os.path.dirname(os.environ["TBMDEV"]), "tbnic.ko")], check=True)
    with open("/etc/machine-id", "w", encoding="ascii") as file:
        file.write("0123456789abcdef0123456789abcdef\n")


def setup() -> None:
    """As for all suites, with the PF bound to the card's driver, its interface down, and without a policy."""
    if os.path.exists(vfs.POLICY):
        os.unlink(vfs.POLICY)
    if guest.link(f"{PF_FOLDER}/driver") == "tbnic":
        write(f"{PF_FOLDER}/sriov_numvfs", "0")
        write(f"{PF_FOLDER}/driver/unbind", PHYSICAL_FUNCTION)
    reset_guest()
    for name in ("needs_up", "no_rate", "forgets"):
        _let(name, on=False)
    guest.bind(PHYSICAL_FUNCTION, "tbnic")


def _let(name: str, *, on: bool = True) -> None:
    write(f"/sys/module/tbnic/parameters/{name}", "Y" if on else "N")


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], stdout=subprocess.PIPE, text=True, check=True).stdout


def _vf(number: int) -> dict[str, Any]:
    """What ip says of a VF."""
    (link,) = json.loads(_ip("-json", "link", "show", "dev", NET))
    found: dict[str, Any] = link["vfinfo_list"][number]
    return found


def test_settings() -> None:
    """All of them arrive; a second time nothing is changed; what somebody changes is mended, and that alone."""
    world = ForkingWorld()
    vfs._policy(world, 3, SETTINGS)
    output = world.run("sriov", "apply")
    said(output, "made 3 VFs", "vlan 100, qos 3, spoofchk off, trust on, state enable", f"({VFS[2]}) to vfio-pci")
    first = _vf(0)
    check("vlan", first["vlan_list"], [{"vlan": 100, "qos": 3}])
    check("rate", first["rate"], {"max_tx": 900, "min_tx": 10})
    seen = [first["spoofchk"], first["trust"], first["link_state"]]
    check("switches", seen, [False, True, "enable"])
    holds("a MAC that is local and unicast", int(first["address"][:2], 16) & 3 == 2)
    check("the second VF's own", (_vf(1)["address"], _vf(1)["vlan_list"]), ("02:00:00:00:00:aa", [{"vlan": 7}]))
    holds("the third VF's differs from the first's", _vf(2)["address"] != first["address"])
    said(world.run("sriov", "apply"), "nothing was changed")
    _ip("link", "set", "dev", NET, "vf", "2", "vlan", "5")
    _ip("link", "set", "dev", NET, "vf", "2", "trust", "off")
    output = world.run("sriov", "apply")
    check("what was mended", output, f"set of VF 2 ({VFS[2]}): vlan 100, qos 3, trust on\n")
    shown = json.loads(world.run("sriov", "show", PHYSICAL_FUNCTION, "--json"))
    check("shown", [vf["network"]["vlan"] for vf in shown["functions"]], [100, 7, 100])


def test_stable_macs() -> None:
    """They are the same after the VFs were made anew, and when the PF's own address was changed."""
    world = ForkingWorld()
    vfs._policy(world, 2, "mac: stable")
    world.run("sriov", "apply")
    before = [_vf(number)["address"] for number in range(2)]
    write(f"{PF_FOLDER}/sriov_numvfs", "0")
    _ip("link", "set", "dev", NET, "address", "02:11:22:33:44:55")
    said(world.run("sriov", "apply"), "made 2 VFs")
    check("the same", [_vf(number)["address"] for number in range(2)], before)
    holds("two", before[0] != before[1])


def test_what_the_driver_does_not_do() -> None:
    """A refusal and a setting that is taken and not kept are errors that name the setting; the others are set."""
    world = ForkingWorld()
    _let("no_rate")
    vfs._policy(world, 2, "vlan: 9\nvf: {0: {max_tx_rate: 100}}")
    said(world.run("sriov", "apply", code=1), "vf 0 max_tx_rate 100 min_tx_rate 0 failed", "not supported")
    check("the other VF", _vf(1)["vlan_list"], [{"vlan": 9}])
    _let("forgets")
    vfs._policy(world, 2, "trust: true")
    said(world.run("sriov", "apply", code=1), f"cannot set trust of VF 0 of {NET} to on", "it reads off")


def test_no_vfs_and_no_error() -> None:
    """A driver that makes none with its interface down, and says that all went well: the VFs are counted."""
    world = ForkingWorld()
    _let("needs_up")
    said(
        world.run("sriov", "set", PHYSICAL_FUNCTION, "2", code=5), "took the write, but 0 VFs", f"ip link set {NET} up"
    )
    _ip("link", "set", "dev", NET, "up")
    said(world.run("sriov", "set", PHYSICAL_FUNCTION, "2"), "made 2 VFs")
    check("two", read(f"{PF_FOLDER}/sriov_numvfs"), "2")


def test_made_by_a_start() -> None:
    """A start makes missing VFs with their network settings, or does not go on; once it can, it completes them."""
    world = ForkingWorld()
    vfs._policy(world, 2, "in_hook: true\nvlan: 100\nmax_tx_rate: 50")
    world.pve.define(100, f"hostpci0: {VFS[0]}\n")
    _let("no_rate")
    said(failed(world.pve.start(100), "hook-failed"), "max_tx_rate 50 min_tx_rate 0 failed")
    check("made, and not set up", (read(f"{PF_FOLDER}/sriov_numvfs"), _vf(0)["rate"]["max_tx"]), ("2", 0))
    said(failed(world.pve.start(100), "hook-failed"), "max_tx_rate 50 min_tx_rate 0 failed")
    _let("no_rate", on=False)
    went(world.pve.start(100))
    check("vlan and rate", (_vf(0)["vlan_list"], _vf(0)["rate"]["max_tx"]), ([{"vlan": 100}], 50))
    went(world.pve.stop(100))
