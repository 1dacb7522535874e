# SPDX-License-Identifier: Apache-2.0
"""The hardware of a cluster's nodes, as far as they can be asked; one that cannot is named with the reason."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import cluster, survey
from pvepassthru.model.errors import ApiCertificateError, ApiError, ApiMissingError, ApiUnreachableError
from pvepassthru.model.text import listed, nearest, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pvepassthru.api.client import Client
    from pvepassthru.api.hardware import NodeHardware


class Nodes(NamedTuple):
    """What was asked of some nodes, or all."""

    known: tuple[str, ...]
    """All nodes of the cluster, sorted."""
    asked: tuple[str, ...]
    """Those that were to be looked at, sorted."""
    hardware: dict[str, NodeHardware]
    """Of those that answered, by node."""
    unread: dict[str, ApiError]
    """Why the others could not be read, by node."""

    @property
    def everywhere(self) -> bool:
        """Whether all nodes were to be looked at."""
        return self.asked == self.known


def read(client: Client, names: Sequence[str] = ()) -> Nodes:
    """The hardware of these nodes, or of all; types of mediated devices are not asked for.

    Raises ApiMissingError for a node that the cluster has not, and the first node's error when none can be read.
    """
    known = cluster.nodes(client)
    asked = chosen(known, names)
    unread: dict[str, ApiError] = {name: _offline(name) for name in asked if not known[name].online}
    hardware: dict[str, NodeHardware] = {}
    online = [name for name in asked if name not in unread]
    with ThreadPoolExecutor(survey.JOBS) as pool:
        for name, found in zip(online, pool.map(lambda name: _hardware(client, name), online), strict=True):
            if isinstance(found, ApiError):
                unread[name] = found
            else:
                hardware[name] = found
    if not hardware:
        nothing = ApiError(f"{client.where} tells of no node", "is that host a PVE node?")
        raise next((unread[name] for name in asked), nothing)
    return Nodes(tuple(known), asked, hardware, unread)


def chosen(known: Iterable[str], names: Iterable[str]) -> tuple[str, ...]:
    """The nodes that are named, or all; sorted. Raises ApiMissingError for one that is not known."""
    every = sorted(known)
    for name in names:
        if name not in every:
            near = nearest(name, every)
            hint = f"is {near} meant?" if near else f"its nodes are {listed(every)}"
            raise ApiMissingError(f"the cluster has no node {shown(name)}", hint)
    return tuple(sorted(set(names)) or every)


def _hardware(client: Client, node: str) -> NodeHardware | ApiError:
    try:
        return cluster.node_hardware(client, node, lambda _: ())
    except ApiCertificateError:  # nothing of the cluster is to be believed then
        raise
    except ApiError as error:
        return error


def _offline(node: str) -> ApiUnreachableError:
    return ApiUnreachableError(f"node {node} is offline", "see why; what it has in the cluster stays as it is")
