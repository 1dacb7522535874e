# SPDX-License-Identifier: Apache-2.0
"""All nodes of a cluster with their VMs, read with several requests at a time and given on node by node.

One request a VM, few a node. What cannot be read is told beside what can: a node that is down costs its own VMs only.
A node's VMs are handed over as soon as all of them are there, so that no more is held than what is at work.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from pvepassthru.api import cluster as answers
from pvepassthru.api import mappings, mirror, permission, present
from pvepassthru.api.transport import CONNECTIONS
from pvepassthru.model.errors import (
    ApiConflictError,
    ApiDeniedError,
    ApiError,
    ApiMissingError,
    ApiUnreachableError,
    UsageError,
)
from pvepassthru.model.text import counted
from pvepassthru.model.vmconfig import is_hostpci

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pvepassthru.api.client import Client
    from pvepassthru.api.cluster import Node, Vm
    from pvepassthru.api.hardware import Answer
    from pvepassthru.api.present import Present
    from pvepassthru.model.errors import PassthruError
    from pvepassthru.model.mapping import Mappings

Found = TypeVar("Found")
JOBS = 8
"""Requests at a time, if nothing else is said."""
MOST_JOBS = CONNECTIONS
"""More connections than these are not kept for the next request (api/transport.py)."""
_NO_LOGIN = 401
_OTHER_RELEASE = (500, 501)
"""What PVE answers of HA's groups from 9 on, and of its rules before: there is no such thing."""
_ANY_MAPPING = ("Mapping.Audit", "Mapping.Use", "Mapping.Modify")


class Overview(NamedTuple):
    """What all nodes have in common."""

    nodes: dict[str, Node]
    vms: dict[int, Vm]
    """Those that this user may see."""
    mappings: Mappings
    cluster: mirror.Cluster
    """Its nodes, HA and backup jobs."""

    def some(self, names: Iterable[str]) -> list[Node]:
        """The nodes of these names."""
        return [self.nodes[name] for name in names]


class NodeVms(NamedTuple):
    """A node with those of its VMs that were asked for."""

    name: str
    presents: tuple[Present, ...]
    """By VMID."""
    running: frozenset[int]
    """Those that run, and those of which PVE does not know it."""


class Failure(NamedTuple):
    """What could not be looked at, and why."""

    node: str | None
    """None: it may be on any node."""
    vmid: int | None
    """None: the node as a whole, or what is left of it."""
    error: PassthruError

    def __str__(self) -> str:
        if self.node is None:
            return str(self.error)
        what = f"node {self.node}" if self.vmid is None else f"VM {self.vmid} on node {self.node}"
        return f"{what}: {self.error}"


class Survey(NamedTuple, Generic[Found]):
    """What came of all nodes."""

    found: tuple[Found, ...]
    """By node."""
    failures: tuple[Failure, ...]
    """By node, then by VMID; the node's own first."""
    read: int
    """VMs whose configs were read, of nodes that did not fail as a whole."""
    unread: dict[str, tuple[int, ...]]
    """By node the VMs of which it is not known what they have there; none of nodes that failed as a whole."""


def overview(client: Client) -> Overview:
    """What all nodes have in common, in seven requests. Raises ApiError: it needs Sys.Audit on /."""
    nodes = answers.nodes(client)
    cluster = mirror.Cluster(
        tuple(nodes),
        _rows(client, "cluster/ha/resources"),
        _rows(client, "cluster/ha/groups", other_release=True),
        _rows(client, "cluster/ha/rules", other_release=True),
        _rows(client, "cluster/backup"),
    )
    return Overview(nodes, answers.vms(client), mappings.plain(mappings.read(client)), cluster)


def _rows(client: Client, path: str, *, other_release: bool = False) -> Sequence[Answer]:
    try:
        return answers.rows(client, path)
    except ApiError as error:
        if other_release and error.status in _OTHER_RELEASE:
            return ()
        raise


def sees_all_mappings(client: Client) -> bool:
    """Whether this user sees every mapping; PVE leaves out those that he may not, without a word. Raises ApiError."""
    has = permission.granted(client, "/mapping/pci")
    return any(has.get(word) for word in _ANY_MAPPING)


def unseen(client: Client) -> ApiDeniedError | None:
    """Why there may be VMs that this user does not see, since PVE leaves them out without a word; None: he sees all.

    A path below /vms on which somebody took the privilege away is not noticed. Raises ApiError.
    """
    if client.is_root:
        return None
    if permission.granted(client, "/vms").get("VM.Audit"):  # 0: not passed on to the VMs below
        return None
    return ApiDeniedError(
        f"{client.user} may not see all VMs, and those that it does not see may have devices",
        "seeing all VMs needs VM.Audit on /vms",
    )


def passes(options: Mapping[str, object]) -> bool:
    """Whether a VM has, or claims, a device by its options."""
    return any(map(is_hostpci, options))


def walk(  # noqa: PLR0913 - what varies is by keyword
    client: Client,
    nodes: Iterable[Node],
    vms: Iterable[Vm],
    visit: Callable[[NodeVms], Found],
    *,
    matters: Callable[[Answer], bool],
    held: bool = False,
    jobs: int = JOBS,
    progress: Callable[[int, int], None] | None = None,
) -> Survey[Found]:
    """What `visit` says of each of these nodes with those of its VMs, of all these, that matter by their options.

    With `held` the config of a VM that runs has what is in force and what is pending apart, since the VM has the former
    until it stops; `matters` is told of the keys of both. Else it has the pending changes applied.

    `visit` is called in one of `jobs` threads, and may raise ApiError: then the node as a whole is a failure.
    `progress` is told, one thread at a time, how many VMs of how many were looked at. Raises UsageError for a number of
    jobs that cannot be.
    """
    if not 1 <= jobs <= MOST_JOBS:
        raise UsageError(f"{jobs} requests at a time cannot be", f"give a number from 1 to {MOST_JOBS}")
    return _Walk(client, visit, matters, progress, held=held).run(nodes, vms, jobs)


class _OnNode:
    """What is known of a node's VMs so far; `lock` is held for each look and change."""

    def __init__(self, name: str, vms: list[Vm]) -> None:
        self.name = name
        self.vms = vms
        self.lock = threading.Lock()
        self.left = len(vms)
        self.presents: list[Present] = []
        self.read = 0
        self.failures: list[Failure] = []
        self.gone: list[tuple[Vm, ApiError]] = []
        self.down: ApiError | None = None

    def failed(self) -> Iterator[Failure]:
        """The node's failure, then those of its VMs."""
        if self.down is not None:
            missed = len(self.vms) - len(self.failures) - len(self.gone)  # what was read is not handed over either
            rest = f" ({counted(missed, 'VM')} not looked at)" if missed else ""
            error = type(self.down)(f"{self.down.message}{rest}", self.down.hint, status=self.down.status)
            yield Failure(self.name, None, error)
        yield from self.failures


class _Walk(Generic[Found]):
    """One walk over a cluster."""

    def __init__(
        self,
        client: Client,
        visit: Callable[[NodeVms], Found],
        matters: Callable[[Answer], bool],
        progress: Callable[[int, int], None] | None,
        *,
        held: bool,
    ) -> None:
        self.client = client
        self.held = held
        self.visit = visit
        self.matters = matters
        self.progress = progress
        self.found: dict[str, Found] = {}
        self.lost: ApiError | None = None
        """Why nothing can be asked any more: no host answers, or the login is refused."""
        self.done = 0
        self.total = 0
        self._work: Iterator[tuple[_OnNode, Vm | None]] = iter(())
        self._lock = threading.Lock()
        self._asking = threading.Lock()

    def run(self, asked: Iterable[Node], vms: Iterable[Vm], jobs: int) -> Survey[Found]:
        nodes = []
        known = list(vms)
        for one in asked:
            nodes.append(_OnNode(one.name, [vm for vm in known if vm.node == one.name]))
            if not one.online:
                nodes[-1].down = ApiUnreachableError(
                    f"it is offline, as {self.client.where} says", "see why it is down"
                )
        self.total = sum(len(node.vms) for node in nodes)
        everything: list[tuple[_OnNode, Vm | None]] = [(node, None) for node in nodes if not node.vms]
        everything += [(node, vm) for node in nodes for vm in node.vms]
        self._work = iter(everything)
        with ThreadPoolExecutor(jobs) as pool:
            try:
                for worker in [pool.submit(self._run) for _ in range(jobs)]:
                    worker.result()
            finally:
                self._work = iter(())  # so that after an error, or Ctrl-C, the others end
        moved = self._settle(nodes)
        failures = [failure for node in nodes for failure in node.failed()]
        failures.sort(key=lambda failure: (failure.node or "", failure.vmid or 0))
        found = tuple(self.found[name] for name in sorted(self.found))
        unread: dict[str, tuple[int, ...]] = {}
        here = ((one.node, one.vmid) for one in failures if one.vmid is not None and one.vmid not in moved)
        for name, vmid in sorted([*((node or "", vmid) for node, vmid in here), *((moved[one], one) for one in moved)]):
            unread[name] = (*unread.get(name, ()), vmid)
        return Survey(found, tuple(failures), sum(node.read for node in nodes if node.down is None), unread)

    # ---- in the threads

    def _run(self) -> None:
        """Do what is left to do, one VM after the other; None for a node that has none."""
        while True:
            with self._lock:
                node, vm = next(self._work, (None, None))
            if node is None:
                return
            if vm is None:
                self._finish(node)
            else:
                self._look(node, vm)

    def _look(self, node: _OnNode, vm: Vm) -> None:
        """Read one VM; who reads the last of a node hands the node over."""
        if node.down is None and self.lost is None:
            try:
                kept = self._read(vm)
            except ApiError as error:
                self._note(node, vm, error)
            else:
                with node.lock:
                    node.read += 1
                    node.presents += kept
        self._step()
        with node.lock:
            node.left -= 1
            last = not node.left
        if last:
            self._finish(node)

    def _read(self, vm: Vm) -> list[Present]:
        """A VM that matters, by one request. Raises ApiError."""
        if self.held and vm.may_run:
            rows = answers.held_rows(self.client, vm.vmid, vm.node)
            if not self.matters({str(row.get("key")): row.get("pending", row.get("value")) for row in rows}):
                return []
            return [present.of_api(vm.vmid, vm.node, {}, rows)]
        options = answers.next_options(self.client, vm.vmid, vm.node)
        return [present.of_api(vm.vmid, vm.node, options)] if self.matters(options) else []

    def _note(self, node: _OnNode, vm: Vm, error: ApiError) -> None:
        """What an error at a VM says: of the VM, of its node, or of the whole cluster."""
        whole = self._is_lost(error)
        with node.lock:
            if whole or isinstance(error, ApiUnreachableError):
                node.down = node.down or self.lost or error
            elif isinstance(error, ApiMissingError):
                node.gone.append((vm, error))
            else:
                node.failures.append(Failure(vm.node, vm.vmid, error))

    def _is_lost(self, error: ApiError) -> bool:
        """Whether there is no use in asking on: the login is refused, or the host itself does not answer any more."""
        with self._asking:
            if self.lost is None:
                if isinstance(error, ApiDeniedError) and error.status == _NO_LOGIN:
                    self.lost = error
                elif isinstance(error, ApiUnreachableError) and error.status is None:
                    try:
                        self.client.get("version")
                    except ApiError as reason:
                        self.lost = reason
            return self.lost is not None

    def _finish(self, node: _OnNode) -> None:
        """Hand a node over that can be reached."""
        if self.lost is not None:
            node.down = node.down or self.lost
        if node.down is not None:
            return
        node.presents.sort(key=lambda one: one.vmid)
        running = frozenset(vm.vmid for vm in node.vms if vm.may_run)
        try:
            found = self.visit(NodeVms(node.name, tuple(node.presents), running))
        except ApiError as error:
            node.down = error
        else:
            with self._lock:
                self.found[node.name] = found
        node.presents = []

    def _step(self) -> None:
        with self._lock:
            self.done += 1
            if self.progress is not None:
                self.progress(self.done, self.total)

    # ---- afterwards

    def _settle(self, nodes: list[_OnNode]) -> dict[int, str]:
        """Tell VMs that were removed meanwhile, which are no failure, from those that went to another node: which."""
        moved: dict[int, str] = {}
        gone = [(node, vm, error) for node in nodes for vm, error in node.gone]
        if not gone:
            return moved
        try:
            now = answers.vms(self.client)
        except ApiError:
            now = {vm.vmid: vm for _, vm, _ in gone}
        for node, vm, error in gone:
            here = now.get(vm.vmid)
            if here is None:
                continue
            if here.node != vm.node:
                moved[vm.vmid] = here.node
                error = ApiConflictError(  # noqa: PLW2901 - a better word for it
                    f"it has gone to node {here.node} while it was looked at", "run this again"
                )
            node.failures.append(Failure(vm.node, vm.vmid, error))
        return moved
