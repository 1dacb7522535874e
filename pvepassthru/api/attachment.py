# SPDX-License-Identifier: Apache-2.0
"""Giving a VM this tool's hookscript by the API: only as root@pam with its password, and only one that is there.

No snippet can be uploaded through the API, nor the file written that notes a former hookscript, so both are the node's
part (lifecycle/attachment.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.api import cluster, mappings
from pvepassthru.api.change import Change, KeyChange
from pvepassthru.model import reachable
from pvepassthru.model.errors import (
    ApiCertificateError,
    ApiConflictError,
    ApiDeniedError,
    ApiError,
    ApiMissingError,
    UsageError,
)
from pvepassthru.model.text import listed, shown

if TYPE_CHECKING:
    from pvepassthru.api.client import Client
    from pvepassthru.api.present import Present

KEY = "hookscript"
FILE = "snippets/pvepassthru"
_ON_NODE = "pvepassthru attach --shim-only"
_REASON = "it prepares the devices before a start, and gives them back after a stop"


def need_root(client: Client) -> None:
    """Raise ApiDeniedError for a user that may set no hookscript."""
    if not client.is_root:
        raise ApiDeniedError(
            f"{client.user} may set no hookscript: PVE lets only root@pam do that, with its password, and no token",
            "use a profile of root@pam with its password, or run pvepassthru attach as root on the VM's node",
        )


def plan(client: Client, vmid: int, storage: str | None, *, everywhere: bool = True) -> Change:
    """The change that gives a VM the hookscript, without keys if it has it; `everywhere`: only if no node lacks it.

    Raises ApiMissingError when there is no such VM, or no storage of its node has the hookscript; UsageError for a
    template; ApiConflictError when the VM has another hookscript, or another node that it may reach lacks ours; and
    ApiError.
    """
    vm = cluster.vm(client, vmid)
    if vm.template:
        raise UsageError(f"VM {vmid} is a template, which never starts", "attach the VMs that are made of it")
    now = cluster.config(client, vmid, vm.node)
    former = now.get(KEY)
    if former is not None and not former.endswith(f":{FILE}"):
        raise ApiConflictError(
            f"VM {vmid} has the hookscript {shown(former)}, and only its own node can chain one",
            f"as root on node {vm.node}: pvepassthru attach {vmid}",
        )
    if former is not None and (storage is None or former == f"{storage}:{FILE}"):
        return Change(now, now, (), (), ())
    volume = _volume(client, vm.node, storage)
    if everywhere:
        _need_everywhere(client, now, volume)
    key = KeyChange(KEY, former, volume, _REASON, now.config.main.get(KEY))
    return Change(now, now.changed({KEY: volume}), (key,), (), ())


def _volume(client: Client, node: str, storage: str | None) -> str:
    """The hookscript of this tool on a node's first storage that has it, or on this one.

    Raises ApiMissingError when there is none, and ApiError.
    """
    asked = []
    for row in cluster.rows(client, f"nodes/{node}/storage", content="snippets", enabled=1):
        name = str(row.get("storage", ""))
        if name and storage in {None, name}:
            asked.append(name)
            if _has(client, node, f"{name}:{FILE}"):
                return f"{name}:{FILE}"
    if storage is not None and not asked:
        raise ApiMissingError(
            f"node {node} has no storage {shown(storage)} for snippets", f"on node {node}: pvesm status"
        )
    where = f"{listed(asked)} has it not" if asked else "no storage there is for snippets"
    named = f" --storage {storage}" if storage else ""
    raise ApiMissingError(
        f"node {node} has no hookscript {FILE} ({where}), and the API takes no snippets",
        f"as root on that node: {_ON_NODE}{named}",
    )


def _need_everywhere(client: Client, now: Present, volume: str) -> None:
    """Raise ApiConflictError when a node that the VM may reach has no such file, or cannot be asked."""
    missing = {}
    nodes = cluster.nodes(client)
    managed = any(
        row.get("vmid") == now.vmid and row.get("hastate")
        for row in cluster.rows(client, "cluster/resources", type="vm")
    )
    ha = reachable.Ha() if managed else None
    entries = now.section.entries.values()
    for node in reachable.others(now.node, nodes, entries, mappings.plain(mappings.read(client)), ha):
        if not nodes[node].online:
            missing[node] = "it is offline"
            continue
        try:
            if not _has(client, node, volume):
                missing[node] = f"it has no {volume}"
        except ApiCertificateError:  # nothing of the cluster is to be believed then
            raise
        except ApiError as error:
            missing[node] = error.message
    if missing:
        command = f"{_ON_NODE} --storage {volume.partition(':')[0]}"
        raise ApiConflictError(
            reachable.lacking(now.vmid, missing), f"as root there: {command}; or leave it at that with --this-node-only"
        )


def _has(client: Client, node: str, volume: str) -> bool:
    storage = volume.partition(":")[0]
    rows = cluster.rows(client, f"nodes/{node}/storage/{storage}/content", content="snippets")
    return any(row.get("volid") == volume for row in rows)
