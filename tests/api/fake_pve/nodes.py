# SPDX-License-Identifier: Apache-2.0
"""The endpoints of the cluster, of nodes, and of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.api.fake_pve import marks, qemu, volumes
from tests.api.fake_pve.request import Param, Refusal, denied, enum, failed

if TYPE_CHECKING:
    from tests.api.fake_pve.request import Call, Json
    from tests.api.fake_pve.state import Task

RESOURCES = {"type": Param(enum("vm", "storage", "node", "sdn"))}
_MEMORY = 25276502016


def version(call: Call) -> Json:
    """GET version."""
    text = call.state.version
    return {"version": text, "release": ".".join(text.split(".")[:2]), "repoid": "0123456789abcdef"}


def listed(call: Call) -> Json:
    """GET nodes."""
    return [_node(call, name) for name in call.state.nodes]


def _node(call: Call, name: str) -> Json:
    online = name not in call.state.down
    row: dict[str, Json] = {"id": f"node/{name}", "node": name, "type": "node", "level": ""}
    row |= {"status": "online" if online else "offline", "ssl_fingerprint": call.state.fingerprint(name)}
    if online and call.may(f"/nodes/{name}", "Sys.Audit"):
        row |= {"cpu": 0.02, "maxcpu": 2, "mem": 941285376, "maxmem": _MEMORY, "uptime": 5720}
        row |= {"disk": volumes.USED, "maxdisk": volumes.TOTAL}
    return row


def status(call: Call) -> Json:
    """GET nodes/NODE/status."""
    kernel: dict[str, Json] = {"machine": "x86_64", "release": "6.14.8-2-pve", "sysname": "Linux", "version": "#1 SMP"}
    processor: dict[str, Json] = {"cores": 2, "cpus": 2, "family": "26", "flags": "fpu", "hvm": "1", "mhz": "2600.000"}
    processor |= {"model": "fake", "sockets": 1, "user_hz": 100, "vendor": "AuthenticAMD"}
    free = volumes.TOTAL - volumes.USED
    memory: dict[str, Json] = {"available": _MEMORY, "free": _MEMORY, "total": _MEMORY, "used": 0}
    disk: dict[str, Json] = {"avail": free, "free": free, "total": volumes.TOTAL, "used": volumes.USED}
    return {
        "boot-info": {"mode": "efi"},
        "cpu": 0,
        "cpuinfo": processor,
        "current-kernel": kernel,
        "idle": 0,
        "ksm": {"shared": 0},
        "kversion": "Linux 6.14.8-2-pve #1 SMP",
        "loadavg": ["0.18", "0.17", "0.24"],
        "memory": memory,
        "pveversion": f"pve-manager/{call.state.version}/0123456789abcdef",
        "rootfs": disk,
        "swap": {"free": 0, "total": 0, "used": 0},
        "uptime": 5732,
        "wait": 0,
    }


def resources(call: Call) -> Json:
    """GET cluster/resources: what the sender may see of VMs, nodes and storages."""
    wanted, state = call.get("type"), call.state
    found: list[Json] = []
    if wanted in {None, "vm"}:
        for number, vm in sorted(state.vms.items()):
            if not call.may(f"/vms/{number}", "VM.Audit"):
                continue
            if vm.node in state.down or vm.node in state.stale:
                row: dict[str, Json] = {"id": f"qemu/{number}", "vmid": number, "node": vm.node}
                found.append({**row, "type": "qemu", "status": "unknown"})
            else:
                found.append(qemu.resource(number, vm))
    if wanted in {None, "node"}:
        found += [_node(call, name) for name in state.nodes]
    if wanted in {None, "storage"}:
        found += [
            {"id": f"storage/{node}/{name}", "node": node, "storage": name, "type": "storage", "status": "available"}
            for node in state.nodes
            for name in state.nodes[node].storages
            if call.may(f"/storage/{name}", *volumes.READERS)
        ]
    return found


def cluster_status(call: Call) -> Json:
    """GET cluster/status; this answer is in no transcript."""
    state = call.state
    found: list[Json] = []
    if len(state.nodes) > 1:
        quorate = int(2 * (len(state.nodes) - len(state.down)) > len(state.nodes))
        head: dict[str, Json] = {"type": "cluster", "id": "cluster", "name": state.cluster.name}
        found.append({**head, "nodes": len(state.nodes), "quorate": quorate, "version": len(state.nodes)})
    for number, name in enumerate(state.nodes, 1):
        row: dict[str, Json] = {"type": "node", "id": f"node/{name}", "name": name, "ip": f"192.0.2.{number}"}
        row |= {"level": "", "local": int(name == call.node), "nodeid": number, "online": int(name not in state.down)}
        found.append(row)
    return found


def next_id(call: Call) -> Json:
    """GET cluster/nextid."""
    number = 100
    while number in call.state.vms:
        number += 1
    return str(number)


def ha_resources(call: Call) -> Json:
    """GET cluster/ha/resources."""
    return [{**row} for row in call.state.cluster.ha_resources]


def ha_groups(call: Call) -> Json:
    """GET cluster/ha/groups, which rules replaced in PVE 9."""
    if _major(call) >= 9:
        raise failed("there are rules now, and no groups")
    return [{**row} for row in call.state.cluster.ha_groups]


def backup_jobs(call: Call) -> Json:
    """GET cluster/backup."""
    return [{**row} for row in call.state.cluster.backup_jobs]


def _major(call: Call) -> int:
    return int(call.state.version.partition(".")[0])


def ha_rules(call: Call) -> Json:
    """GET cluster/ha/rules."""
    if _major(call) < 9:
        raise Refusal(501, f"there is no {call.method} of {call.path}")
    return [{**row} for row in call.state.cluster.ha_rules]


def task_status(call: Call) -> Json:
    """GET nodes/NODE/tasks/UPID/status; the task goes on while it is asked for."""
    task = _task(call)
    if task.exit is None:
        if task.polls:
            task.polls -= 1
        else:
            task.end()
    row: dict[str, Json] = {"upid": task.upid, "node": task.node, "type": task.type, "id": task.id, "user": task.user}
    row |= {"pid": task.number, "pstart": task.number, "starttime": task.start}
    return row | ({"status": "running"} if task.exit is None else {"status": "stopped", "exitstatus": task.exit})


def task_log(call: Call) -> Json:
    """GET nodes/NODE/tasks/UPID/log."""
    return [{"n": number, "t": text} for number, text in enumerate(_task(call).log, 1)]


def _task(call: Call) -> Task:
    task = call.state.tasks.get(call.uri["upid"])
    if task is None:
        raise failed(f"task '{call.uri['upid']}' {marks.ABSENT}")
    if task.user.partition("!")[0] != call.user.partition("!")[0] and not call.may(f"/nodes/{task.node}", "Sys.Audit"):
        raise denied(f"/nodes/{task.node}, Sys.Audit")
    return task
