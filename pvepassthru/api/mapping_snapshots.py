# SPDX-License-Identifier: Apache-2.0
"""Which snapshots of VMs use a mapping: a VM that is rolled back to one wants it again.

Sources: nodes/N/qemu/V/snapshot, one request a VM, and its config with `snapshot`, one request a snapshot.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pvepassthru.api import cluster, present, survey
from pvepassthru.model.errors import ApiError, ApiMissingError
from pvepassthru.model.text import listed, shown

if TYPE_CHECKING:
    from collections.abc import Collection

    from pvepassthru.api.client import Client
    from pvepassthru.api.cluster import Vm

_CURRENT = "current"
"""What PVE calls the VM as it is, in the list of its snapshots."""


def notes(client: Client, name: str, nodes: Collection[str] | None = None) -> tuple[str, ...]:
    """What is to be known of snapshots that use a mapping, of VMs on these nodes, or all; one sentence a VM.

    Raises ApiError when the VMs cannot be listed; what fails of one VM is a sentence, too.
    """
    vms = [vm for vm in cluster.vms(client).values() if nodes is None or vm.node in nodes]
    with ThreadPoolExecutor(survey.JOBS) as pool:
        found = pool.map(lambda vm: _of_vm(client, name, vm), vms)
        return tuple(note for note in found if note)


def _of_vm(client: Client, name: str, vm: Vm) -> str:
    """The sentence on one VM; empty where there is nothing to say."""
    try:
        using = [shown(one) for one in _snapshots(client, vm) if _uses(client, vm, one, name)]
    except ApiMissingError:  # removed or migrated since it was listed
        return ""
    except ApiError as error:
        return f"whether a snapshot of VM {vm.vmid} on node {vm.node} uses it cannot be told: {error.message}"
    if not using:
        return ""
    what, verb = ("snapshot", "uses") if len(using) == 1 else ("snapshots", "use")
    where = f"{what} {listed(using)} of VM {vm.vmid} on node {vm.node}"
    return f"{where} {verb} it: after a rollback the VM does not start there"


def _snapshots(client: Client, vm: Vm) -> list[str]:
    rows = cluster.rows(client, f"nodes/{vm.node}/qemu/{vm.vmid}/snapshot")
    return [str(row["name"]) for row in rows if row.get("name") not in {None, _CURRENT}]


def _uses(client: Client, vm: Vm, snapshot: str, name: str) -> bool:
    options = cluster.snapshot_options(client, vm.vmid, vm.node, snapshot)
    entries = present.of_api(vm.vmid, vm.node, options).section.entries.values()
    return any(entry.mapping == name for entry in entries)
