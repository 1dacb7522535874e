# SPDX-License-Identifier: Apache-2.0
"""How a VM's config is changed: PUT (at once) and POST (as a task) of nodes/NODE/qemu/VMID/config.

What is refused before anything is written: parameters of a wrong form, keys that are root's alone, a digest that is
not the present one, a lock. Then the worker writes key by key into [PENDING], and only there asks whether a hostpci
entry is allowed: a refusal leaves what it wrote so far. At the end a VM that does not run takes over all that is
pending, also what others left there; a running one only what can change while it runs.

`revert` writes what is in force again, or deletes what is only pending, by the worker like all else: so nothing of its
key waits then. PVE asks for no privilege of its own for that, but for hostpci entries and disks, as it writes them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.api.fake_pve import marks, options, permission, volumes
from tests.api.fake_pve.request import DIGEST, FLAG, UNKNOWN, Died, Param, failed, integer, invalid, missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.api.fake_pve.configtext import Config
    from tests.api.fake_pve.request import Call, Json
    from tests.api.fake_pve.state import Task, Vm

CONTROL = {
    "delete": Param(),
    "digest": DIGEST,
    "force": FLAG,
    "revert": Param(),
    "skiplock": FLAG,
}
"""The parameters that are no keys of the config."""
BACKGROUND = {"background_delay": Param(integer(1, 30))}
_SPLIT = re.compile(r"[\s,;]+")


def update(call: Call) -> Json:
    """PUT: changed when it answers null."""
    vm, values, deletes = _prepare(call)
    _work(call, vm, values, deletes)
    return None


def update_in_task(call: Call) -> Json:
    """POST: the UPID of the task that does it, or null if `background_delay` allows to wait and it is done."""
    vm, values, deletes = _prepare(call)

    def deed(_: Task) -> None:
        _work(call, vm, values, deletes)

    task = call.state.task(vm.node, "qmconfig", call.vmid, call.user, deed)
    return None if call.get("background_delay") and task.exit is not None else task.upid


def verify(given: Mapping[str, list[str]], control: Mapping[str, Param]) -> dict[str, str]:
    """What is wrong with parameters that are keys of a config, or one of `control`."""
    errors = missing(given, control)
    for name, (*_, value) in given.items():
        if name in control:
            problem = control[name].check(value)
        else:
            problem = options.problem(name, value) if options.option(name) else UNKNOWN
        if problem:
            errors[name] = problem
    return errors


def check_hookscript(call: Call, node: str, values: Mapping[str, str]) -> None:
    """Refuse a hookscript that is no executable file of a snippets directory."""
    value = values.get("hookscript")
    if value is None:
        return
    storage, colon, path = value.partition(":")
    if not colon or storage.startswith("/"):
        raise invalid({"hookscript": "this is no volume"})
    if storage not in call.state.nodes[node].storages:
        raise invalid({"hookscript": f"storage '{storage}' {marks.ABSENT}"})
    folder, _, name = path.partition("/")
    if folder != "snippets":
        raise invalid({"hookscript": "the volume is no snippet"})
    executable = call.state.nodes[node].storages[storage].snippets.get(name)
    if executable is None:
        raise invalid({"hookscript": f"script '{value}' {marks.ABSENT}"})
    if not executable:
        raise invalid({"hookscript": "the script cannot be executed"})


def _prepare(call: Call) -> tuple[Vm, dict[str, str], list[str]]:
    """All that is refused before a worker begins; the VM, the values to set and the keys to delete."""
    if call.flag("skiplock") and not call.root:
        raise invalid({"skiplock": "root alone may pass a lock by"})
    values = {name: items[-1] for name, items in call.params.items() if name not in CONTROL | BACKGROUND}
    deletes = [word.removeprefix("!") for word in _SPLIT.split(call.get("delete") or "") if word]
    reverts = [word for word in _SPLIT.split(call.get("revert") or "") if word]
    if not values and not deletes and not reverts:
        raise failed("there is nothing to set or to delete")
    permission.check_romfile(call, values)
    _check_names(values, {"delete": deletes, "revert": reverts})
    check_hookscript(call, call.uri["node"], values)
    permission.check_keys(call, call.vmid, {*values, *deletes})
    volumes.check(call, call.uri["node"], values)
    vm = call.state.vm(call.vmid, call.uri["node"])
    if call.get("digest") and call.get("digest") != vm.digest:
        raise failed(f"{marks.STALE_VM}: somebody else wrote")
    lock = vm.config.main.get("lock")
    if lock and not call.flag("skiplock"):
        raise failed(f"{marks.LOCKED} ({lock})")
    config = vm.config
    values |= {key: config.main[key] for key in reverts if key in config.main}
    deletes += [key for key in reverts if key not in config.main and key in config.pending]
    _check_memory(vm.values, values)
    return vm, values, deletes


def _check_memory(present: Mapping[str, str], values: Mapping[str, str]) -> None:
    """Refuse a memory size below the least that the balloon leaves."""
    if "memory" in values or "balloon" in values:
        after = {"memory": "512", "balloon": "0", **present, **values}
        if int(after["balloon"]) > int(after["memory"].removeprefix("current=")):
            raise failed("the balloon leaves more than there is")


def _check_names(values: Mapping[str, str], gone: Mapping[str, list[str]]) -> None:
    """Refuse keys to delete or to revert that there are not, or that are set in the same request."""
    for name, keys in gone.items():
        for key in keys:
            if options.option(key) is None:
                raise invalid({name: f"there is no option '{key}'"})
            if key in values:
                raise invalid({name: f"'{key}' cannot be set in the same request"})


def _work(call: Call, vm: Vm, values: dict[str, str], deletes: list[str]) -> None:
    """Write key by key, then let it take effect."""
    keys = [*deletes, *call.state.order(list(values))]
    for number, key in enumerate(keys):
        if call.dies and number == (len(keys) + 1) // 2:
            raise Died
        config = vm.config
        if key.startswith("hostpci"):
            former = config.main.get(key)
            new = values[key] if key in values else None if former else config.pending.get(key)
            permission.check_hostpci(call, call.vmid, key, former, new)
        if key in values:
            value = volumes.allocate(call, vm, values[key]) if options.is_disk(key) else values[key]
            if config.pending.get(key, "").partition(",")[0] != value.partition(",")[0]:
                _keep(config, key, config.pending.get(key))
            config.set(key, value)
        elif key.startswith("unused"):  # at once, with its volume
            call.state.volumes.pop(config.main.pop(key, ""), None)
        else:
            _keep(config, key, config.pending.get(key))
            config.delete(key)
        vm.write(config)
    if call.dies:
        raise Died
    take_effect(vm)


def take_effect(vm: Vm) -> None:
    """Take over what is pending: all of it, or of a running VM what can change while it runs."""
    config = vm.config
    config.deletes = [key for key in config.deletes if key in config.main]
    for key in dict.fromkeys([*config.deletes, *config.pending]):
        if not vm.running or key in options.FAST:
            _take_over(config, key)
    vm.write(config)


def _take_over(config: Config, key: str) -> None:
    former = config.main.pop(key, None)
    new = config.pending.pop(key, None)
    config.deletes = [other for other in config.deletes if other != key]
    if new is not None:
        config.main[key] = new
    if (former or "").partition(",")[0] != (new or "").partition(",")[0]:
        _keep(config, key, former)


def _keep(config: Config, key: str, value: str | None) -> None:
    """Keep a disk's volume that nothing names any more."""
    volume = (value or "").partition(",")[0]
    if options.is_disk(key) and volume and volume != "none":
        number = next(index for index in range(256) if f"unused{index}" not in config.main)
        config.main[f"unused{number}"] = volume
