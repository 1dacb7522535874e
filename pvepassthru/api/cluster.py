# SPDX-License-Identifier: Apache-2.0
"""What the API tells of a cluster: its nodes, VMs, mappings and hardware as values. It reads, and never writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pvepassthru.api import hardware, present
from pvepassthru.model.errors import ApiError, ApiMissingError
from pvepassthru.model.text import listed, number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pvepassthru.api.client import Client
    from pvepassthru.api.hardware import NodeHardware
    from pvepassthru.api.present import Present

ALL_CLASSES = {"pci-class-blacklist": ""}
"""Without it nodes/N/hardware/pci leaves out memory controllers, bridges and processors."""


class Node(NamedTuple):
    """A node of the cluster."""

    name: str
    online: bool


class Vm(NamedTuple):
    """Where a VM is, and whether it runs."""

    vmid: int
    node: str
    running: bool
    template: bool
    lock: str | None
    """The operation that PVE keeps it locked for, such as `backup`."""
    unknown: bool = False
    """Whether PVE does not know if it runs: its node is offline, or the status service there hangs."""

    @property
    def may_run(self) -> bool:
        """Whether it runs as far as is known, so that its devices are not to be called free."""
        return self.running or self.unknown


def nodes(client: Client) -> dict[str, Node]:
    """The nodes of the cluster by name. Raises ApiError."""
    found = [
        Node(str(entry["node"]), entry.get("status") == "online")
        for entry in _entries(client, "nodes")
        if entry.get("node")
    ]
    return {node.name: node for node in sorted(found)}


def vms(client: Client) -> dict[int, Vm]:
    """The VMs that this user may see, by number. Raises ApiError."""
    found = (_vm(entry) for entry in _entries(client, "cluster/resources", type="vm") if entry.get("type") == "qemu")
    return {vm.vmid: vm for vm in sorted(vm for vm in found if vm is not None)}


def vm(client: Client, vmid: int) -> Vm:
    """One VM. Raises ApiMissingError when it is not there, or not to be seen by this user, and ApiError."""
    known = vms(client)
    if vmid not in known:
        raise ApiMissingError(
            f"{client.user} sees no VM {vmid} in the cluster of {client.where}",
            f"its VMs are {listed(map(str, known))}" if known else "seeing a VM needs VM.Audit on it",
        )
    return known[vmid]


def config(client: Client, vmid: int, node: str) -> Present:
    """A VM's config with what is pending told apart, in two requests. Raises ApiError.

    A change between the two is noticed by the digest when something is written.
    """
    path = f"nodes/{node}/qemu/{vmid}"
    answer = _object(client, f"{path}/config", current=1)
    return present.of_api(vmid, node, answer, _entries(client, f"{path}/pending"))


def next_config(client: Client, vmid: int, node: str) -> Present:
    """A VM's config as its next start takes it, in one request, which tells nothing of what is pending.

    Raises ApiError.
    """
    return present.of_api(vmid, node, next_options(client, vmid, node))


def next_options(client: Client, vmid: int, node: str) -> dict[str, Any]:
    """The options that `next_config` reads, as the API answers them. Raises ApiError."""
    return _object(client, f"nodes/{node}/qemu/{vmid}/config")


def snapshot_options(client: Client, vmid: int, node: str, snapshot: str) -> dict[str, Any]:
    """The options that a VM has in a snapshot, as the API answers them. Raises ApiError."""
    return _object(client, f"nodes/{node}/qemu/{vmid}/config", snapshot=snapshot)


def held_rows(client: Client, vmid: int, node: str) -> list[dict[str, Any]]:
    """What a VM has in force and what is pending, as /pending answers it, in one request. Raises ApiError."""
    return _entries(client, f"nodes/{node}/qemu/{vmid}/pending")


def node_hardware(
    client: Client, node: str, parents: Callable[[NodeHardware], Iterable[str]] = hardware.parents
) -> NodeHardware:
    """A node's PCI functions, with the types of those that `parents` names of them, by default of all that have some.

    In one request, and one for each that is named. Raises ApiError.
    """
    functions = _entries(client, f"nodes/{node}/hardware/pci", **ALL_CLASSES)
    found = hardware.of_api(node, functions, {})
    wanted = tuple(parents(found))
    types = {address: _entries(client, f"nodes/{node}/hardware/pci/{address}/mdev") for address in wanted}
    return hardware.of_api(node, functions, types) if types else found


def rows(client: Client, path: str, **params: object) -> list[dict[str, Any]]:
    """What a GET answers that gives a list of objects. Raises ApiError."""
    return _entries(client, path, **params)


def _entries(client: Client, path: str, **params: object) -> list[dict[str, Any]]:
    """A list of objects. Raises ApiError when the answer is none."""
    answer = client.get(path, **params)
    if not isinstance(answer, list) or not all(isinstance(entry, dict) for entry in answer):
        raise _odd(client, path)
    return answer


def _object(client: Client, path: str, **params: object) -> dict[str, Any]:
    """An object. Raises ApiError when the answer is none."""
    answer = client.get(path, **params)
    if not isinstance(answer, dict):
        raise _odd(client, path)
    return answer


def _odd(client: Client, path: str) -> ApiError:
    return ApiError(f"{client.where} answered GET {path} with something else than PVE does", "is that host a PVE node?")


def _vm(entry: dict[str, Any]) -> Vm | None:
    vmid, lock = number(str(entry.get("vmid", ""))), entry.get("lock")
    if vmid is None or not entry.get("node"):
        return None
    status = entry.get("status")
    return Vm(
        vmid,
        str(entry["node"]),
        status == "running",
        bool(number(str(entry.get("template", 0)))),
        str(lock) if lock else None,
        status not in {"running", "stopped"},
    )
