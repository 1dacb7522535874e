# SPDX-License-Identifier: Apache-2.0
"""Stand-ins of programs that set up drivers and VFs: modprobe, ip, NVIDIA's sriov-manage."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from pvepassthru.host.sriov import functions
from tests.docs.words import BadWordsError, say

if TYPE_CHECKING:
    from tests.docs.machine import Machine

DEVICES = "/sys/bus/pci/devices"


def modprobe(machine: Machine, words: list[str]) -> int:
    """`modprobe MODULE`: one that this host's kernel has."""
    (name,) = [word for word in words if word != "--"]
    folder = f"{machine.root}/sys/bus/pci/drivers/{name}"
    if not os.path.isdir(folder):
        raise BadWordsError(f"modprobe {name}: not a module that is known here")
    return 0


def ip(machine: Machine, words: list[str]) -> int:
    """`ip -json -details link show dev NET` and `ip link set dev NET vf N ...`: the kernel's settings of VFs."""
    *_, net = words[:6] if words[:2] != ["link", "set"] else words[:4]
    path = f"{machine.root}/run/ip-{net}.json"
    pf = os.path.basename(os.path.dirname(os.path.dirname(os.path.realpath(f"{machine.root}/sys/class/net/{net}"))))
    count = len(functions(machine.host, pf))
    settings: list[dict[str, Any]] = []
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            settings = json.load(file)
    fresh: dict[str, Any] = {"address": "00:00:00:00:00:00", "vlan": 0, "qos": 0, "spoofchk": True, "trust": False}
    fresh |= {"link_state": "auto", "max_tx": 0, "min_tx": 0}
    settings = [*settings, *(dict(fresh) for _ in range(count))][:count]
    if words[:4] == ["-json", "-details", "link", "show"]:
        with open(f"{machine.root}/sys/class/net/{net}/address", encoding="utf-8") as file:
            mac = file.read().strip()
        say(json.dumps([{"ifname": net, "address": mac, "vfinfo_list": [_vf(n, vf) for n, vf in enumerate(settings)]}]))
        return 0
    if words[:5] != ["link", "set", "dev", net, "vf"]:
        raise BadWordsError(f"ip {' '.join(words)}")
    for name, value in zip(words[6::2], words[7::2], strict=True):
        key = {"mac": "address", "state": "link_state", "max_tx_rate": "max_tx", "min_tx_rate": "min_tx"}.get(
            name, name
        )
        if key not in fresh:
            raise BadWordsError(f"ip {' '.join(words)}")
        was = fresh[key]
        settings[int(words[5])][key] = value == "on" if isinstance(was, bool) else type(was)(value)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(settings, file)
    return 0


def _vf(number: int, vf: dict[str, Any]) -> dict[str, Any]:
    """A VF as iproute2 6.1 prints it."""
    vlan = {name: vf[name] for name in ("vlan", "qos") if vf[name]}
    found = {
        "vf": number,
        "link_type": "ether",
        **{key: vf[key] for key in ("address", "spoofchk", "link_state", "trust")},
    }
    return {
        **found,
        **({"vlan_list": [vlan]} if vlan else {}),
        "rate": {"max_tx": vf["max_tx"], "min_tx": vf["min_tx"]},
    }


def sriov_manage(machine: Machine, words: list[str]) -> int:
    """NVIDIA's `sriov-manage -e|-d ADDRESS`: all VFs of a GPU, or none."""
    option, address = words
    total = machine.host.text(f"{DEVICES}/{address}/sriov_totalvfs")
    if option not in {"-e", "-d"} or total is None:
        raise BadWordsError(f"sriov-manage {' '.join(words)}")
    machine.host.write(f"{DEVICES}/{address}/sriov_numvfs", total if option == "-e" else "0")
    say(f"Enabling VFs on {address}" if option == "-e" else f"Disabling VFs on {address}")
    return 0
