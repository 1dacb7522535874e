# SPDX-License-Identifier: Apache-2.0
"""The requests of `fleet validate` with nothing around them: a session of requests a thread, the answers' JSON parsed.

    PVE_HOST=... PVE_USER=... PVE_PASSWORD=... PVE_CA_FILE=... python3 bare_requests.py JOBS

Prints how many VMs and nodes it asked for. The peer of bench/fleet.py.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests

FIRST = ("nodes", "cluster/ha/resources", "cluster/ha/groups", "cluster/ha/rules", "cluster/backup")
_mine = threading.local()
_ticket: dict[str, str] = {}


def session() -> requests.Session:
    """This thread's session."""
    if not hasattr(_mine, "session"):
        _mine.session = requests.Session()
        _mine.session.verify = os.environ["PVE_CA_FILE"]
        _mine.session.headers.update(_ticket)
    return _mine.session  # type: ignore[no-any-return]  # what was put there


def get(path: str) -> Any:  # noqa: ANN401 - JSON
    """What a GET answers."""
    answer = session().get(f"https://{os.environ['PVE_HOST']}/api2/json/{path}", timeout=30)
    return answer.json().get("data")


def main() -> int:
    """Ask for all; returns 0."""
    where = f"https://{os.environ['PVE_HOST']}/api2/json/access/ticket"
    who = {"username": os.environ["PVE_USER"], "password": os.environ["PVE_PASSWORD"]}
    login = requests.post(where, data=who, verify=os.environ["PVE_CA_FILE"], timeout=30).json()["data"]
    _ticket["Cookie"] = f"PVEAuthCookie={login['ticket']}"
    nodes = [get(path) for path in FIRST][0]
    vms = get("cluster/resources?type=vm")
    get("cluster/mapping/pci")
    paths = [f"nodes/{vm['node']}/qemu/{vm['vmid']}/config" for vm in vms]
    paths += [f"nodes/{node['node']}/hardware/pci?pci-class-blacklist=" for node in nodes]
    with ThreadPoolExecutor(int(sys.argv[1])) as pool:
        found = list(pool.map(get, paths))
    print(sum(answer is not None for answer in found[: len(vms)]), sum(bool(one) for one in found[len(vms) :]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
