# SPDX-License-Identifier: Apache-2.0
"""A program that stands for `ip`: it keeps the settings of VFs in a file and answers in the JSON of iproute2.

QEMU has no network card with SR-IOV; tests/kernel/sysfs_iplink.py asks the real ip, of a test driver's interface.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def _entry(number: int, vf: dict[str, Any]) -> dict[str, Any]:
    """A VF as iproute2 6.1 prints it."""
    vlan = {name: vf[name] for name in ("vlan", "qos") if vf[name]}
    return {
        "vf": number,
        "link_type": "ether",
        "address": vf["mac"],
        "broadcast": "ff:ff:ff:ff:ff:ff",
        **({"vlan_list": [vlan]} if vlan else {}),
        "rate": {"max_tx": vf["max_tx_rate"], "min_tx": vf["min_tx_rate"]},
        "spoofchk": vf["spoofchk"] == "on",
        "link_state": vf["state"],
        "trust": vf["trust"] == "on",
        "query_rss_en": False,
    }


def _main() -> int:
    path, log, *words = sys.argv[1:]
    with open(log, "a", encoding="utf-8") as file:
        file.write(" ".join(words) + "\n")
    with open(path, encoding="utf-8") as file:
        state = json.load(file)
    if words == ["-json", "-details", "link", "show", "dev", state["net"]]:
        vfs = [_entry(number, vf) for number, vf in enumerate(state["vfs"])]
        json.dump([{"ifname": state["net"], "address": state["mac"], "vfinfo_list": vfs}], sys.stdout)
        return 0
    if words[:5] != ["link", "set", "dev", state["net"], "vf"]:
        sys.stderr.write(f'Cannot find device "{words[-1]}"\n')
        return 1
    number, pairs = int(words[5]), dict(zip(words[6::2], words[7::2], strict=True))
    if state["refuse"] in pairs:
        sys.stderr.write("RTNETLINK answers: Operation not supported\n")
        return 2
    for name, value in pairs.items():
        if name != state["forget"]:
            number_like = name in {"vlan", "qos", "max_tx_rate", "min_tx_rate"}
            state["vfs"][number][name] = int(value) if number_like else value
    with open(path, "w", encoding="utf-8") as file:
        json.dump(state, file)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
