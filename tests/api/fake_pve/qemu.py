# SPDX-License-Identifier: Apache-2.0
"""The endpoints of VMs but for the change of a config: reading, making, starting, stopping, deleting."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

from tests.api.fake_pve import change, hardware, marks, options, permission
from tests.api.fake_pve.configtext import Config
from tests.api.fake_pve.request import Param, denied, failed, integer, vmid
from tests.api.fake_pve.state import Vm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.api.fake_pve.request import Call, Json
    from tests.api.fake_pve.state import Task

NEW = {
    "vmid": Param(vmid, required=True),
    **{name: Param() for name in ("pool", "storage", "archive", "start", "unique", "force")},
}
"""The parameters of a new VM that are no keys of its config."""


def config(call: Call) -> Json:
    """GET config: with what is pending, or as it is now, or of a snapshot."""
    vm = call.state.vm(call.vmid, call.uri["node"])
    parts = vm.config
    snapshot = call.get("snapshot")
    if snapshot and snapshot not in parts.snapshots:
        raise failed(f"snapshot '{snapshot}' {marks.ABSENT}")
    now = parts.main if call.flag("current") else parts.effective()
    values = parts.snapshots[snapshot] if snapshot else now
    return {**options.answered(values), "digest": vm.digest}


def pending(call: Call) -> Json:
    """GET pending: every key with its value, and what waits for it."""
    vm = call.state.vm(call.vmid, call.uri["node"])
    parts = vm.config
    now, later = options.answered(parts.main), options.answered(parts.pending)
    answer: list[Json] = [{"key": "digest", "value": vm.digest}]
    for key in sorted({*now, *later, *parts.deletes}):
        row: dict[str, Json] = {"key": key}
        if key in now:
            row["value"] = now[key]
        if key in later:
            row["pending"] = later[key]
        if key in parts.deletes and (key in now or key not in later):
            row["delete"] = 1
        answer.append(row)
    return answer


def snapshots(call: Call) -> Json:
    """GET snapshot: the snapshots, and behind them the VM as it is."""
    vm = call.state.vm(call.vmid, call.uri["node"])
    parts = vm.config
    rows: list[Json] = [
        {"name": name, "snaptime": int(values.get("snaptime", "0")), "description": values.get("description", "")}
        for name, values in parts.snapshots.items()
    ]
    return [*rows, {"name": "current", "description": "You are here!", "running": int(vm.running), "digest": vm.digest}]


def create(call: Call) -> Json:
    """POST qemu: a task that makes a VM."""
    values = {name: items[-1] for name, items in call.params.items() if name not in NEW}
    number, node = int(call.get("vmid") or 0), call.uri["node"]
    permission.check_romfile(call, values)
    change.check_hookscript(call, node, values)
    permission.check_keys(call, number, values)
    for key, value in values.items():
        if key.startswith("hostpci"):
            permission.check_hostpci(call, number, key, value)
    if number in call.state.vms:
        raise failed(f"VM {number} {marks.EXISTS} on node '{call.state.vms[number].node}'")

    def deed(_: Task) -> None:
        _make(call, number, Vm(node, ""), values)

    return call.state.task(node, "qmcreate", number, call.user, deed).upid


def may_create(call: Call) -> None:
    """Refuse a sender who may not make this VM; PVE does not say what is missing."""
    number = call.get("newid") or call.get("vmid") or "0"
    if not call.may(f"/vms/{number}", "VM.Allocate"):
        raise denied()


def clone(call: Call) -> Json:
    """POST clone: a task that copies a VM."""
    number, node = int(call.get("newid") or 0), call.uri["node"]
    values = dict(call.state.vm(call.vmid, node).config.main)
    for key in sorted(values):
        if key.startswith("hostpci"):
            permission.check_hostpci(call, number, key, values[key])
    if number in call.state.vms:
        raise failed(f"VM {number} {marks.EXISTS}")
    values["name"] = call.get("name") or f"Copy-of-VM-{values.get('name', call.vmid)}"

    def deed(_: Task) -> None:
        _make(call, number, Vm(call.get("target") or node, ""), values)

    return call.state.task(node, "qmclone", call.vmid, call.user, deed).upid


def _make(call: Call, number: int, vm: Vm, values: Mapping[str, str]) -> None:
    fixed = {
        "boot": " ",
        "meta": f"creation-qemu=10.1.2,ctime={int(time.time())}",
        "smbios1": f"uuid={uuid.uuid4()}",
        "vmgenid": str(uuid.uuid4()),
    }
    vm.write(Config(main=fixed | dict(values)))
    call.state.vms[number] = vm


def destroy(call: Call) -> Json:
    """DELETE qemu/VMID: a task."""
    vm = call.state.vm(call.vmid, call.uri["node"])
    if vm.config.main.get("protection") == "1":
        raise failed(f"VM {call.vmid} is protected and stays")
    if vm.running:
        raise failed(f"VM {call.vmid} runs and stays")

    def deed(_: Task) -> None:
        call.state.vms.pop(call.vmid, None)

    return call.state.task(vm.node, "qmdestroy", call.vmid, call.user, deed).upid


def start(call: Call) -> Json:
    """POST status/start: a task, also for a VM that does not exist, and then a task that fails."""
    node = call.uri["node"]

    def deed(task: Task) -> None:
        vm = call.state.vm(call.vmid, node)
        if vm.running:
            raise failed(f"VM {call.vmid} runs already")
        change.take_effect(vm)
        _hook(vm, task, "pre-start")
        hardware.check_start(call.state, vm)
        vm.running = True
        _hook(vm, task, "post-start")

    return call.state.task(node, "qmstart", call.vmid, call.user, deed).upid


def stop(call: Call) -> Json:
    """POST status/stop or status/shutdown: a task."""
    node = call.uri["node"]

    def deed(task: Task) -> None:
        vm = call.state.vm(call.vmid, node)
        if vm.running:
            _hook(vm, task, "pre-stop")
            vm.running = False
            change.take_effect(vm)
            _hook(vm, task, "post-stop")

    return call.state.task(node, "qmstop", call.vmid, call.user, deed).upid


def _hook(vm: Vm, task: Task, phase: str) -> None:
    """What a hookscript says goes to the task's log."""
    if script := vm.config.main.get("hookscript"):
        task.log.append(f"{script} says: {phase}")


def listed(call: Call) -> Json:
    """GET nodes/NODE/qemu: the VMs of a node that the sender may see."""
    found: list[Json] = []
    for number, vm in sorted(call.state.vms.items()):
        if vm.node == call.uri["node"] and call.may(f"/vms/{number}", "VM.Audit"):
            found.append({**state_of(number, vm), "cpus": _cpus(vm.values)})
    return found


def current(call: Call) -> Json:
    """GET status/current."""
    vm = call.state.vm(call.vmid, call.uri["node"])
    managed = any(row.get("sid") == f"vm:{call.vmid}" for row in call.state.cluster.ha_resources)
    state = state_of(call.vmid, vm)
    values = vm.values
    return {
        **state,
        "cpus": _cpus(values),
        "clipboard": None,
        "ha": {"managed": int(managed)},
        "qmpstatus": state["status"],
    }


def state_of(number: int, vm: Vm) -> dict[str, Json]:
    """What the lists of VMs say of one."""
    values = vm.values
    row: dict[str, Json] = dict.fromkeys(("cpu", "disk", "maxdisk", "mem", "memhost", "netin", "netout", "uptime"), 0)
    row |= {"vmid": number, "name": values.get("name", f"VM {number}"), "maxmem": _memory(values)}
    row["status"] = "running" if vm.running else "stopped"
    row |= {key: values[key] for key in ("tags", "lock") if key in values}
    if values.get("template") == "1":
        row["template"] = 1
    if vm.running:
        row |= {"pid": 10_000 + number, "uptime": 60}
    return row


def resource(number: int, vm: Vm) -> dict[str, Json]:
    """What cluster/resources says of a VM."""
    values = vm.values
    row = state_of(number, vm) | {"id": f"qemu/{number}", "node": vm.node, "type": "qemu", "diskread": 0}
    row.pop("pid", None)
    return row | {"diskwrite": 0, "maxcpu": _cpus(values), "template": int(values.get("template", "0") == "1")}


def _cpus(values: Mapping[str, str]) -> int:
    counts = [values.get(key, "1") for key in ("cores", "sockets")]
    return int(counts[0]) * int(counts[1]) if all(integer(1)(count) is None for count in counts) else 1


def _memory(values: Mapping[str, str]) -> int:
    text = values.get("memory", "512").removeprefix("current=")
    return int(text) * 1024 * 1024 if text.isdecimal() else 0
