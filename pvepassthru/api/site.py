# SPDX-License-Identifier: Apache-2.0
"""A node as changes of its VMs are generated and judged on it: its hardware, the mappings, and who has which device.

By the node's own files, or by the API. On the node itself its files tell more than the API, so they are taken where
they are those of the same VM: the config there has the digest that the API tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import cluster, hardware, mirror, present, survey
from pvepassthru.host import vms
from pvepassthru.host.overlay import Overlay
from pvepassthru.model.errors import PassthruError
from pvepassthru.model.text import listed
from pvepassthru.rules import subject
from pvepassthru.rules.demand import demand
from pvepassthru.rules.subject import Surroundings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pvepassthru.api.client import Client
    from pvepassthru.api.hardware import NodeHardware
    from pvepassthru.api.present import Present
    from pvepassthru.api.survey import Overview
    from pvepassthru.host.host import Host
    from pvepassthru.model.mapping import Mappings


class Site(NamedTuple):
    """A node with those of its VMs that are to be changed."""

    hardware: NodeHardware
    mappings: Mappings
    presents: tuple[Present, ...]
    """The configs of these VMs, in the order in which they were asked for."""
    host: Host
    """What the rules look at."""
    taken: dict[str, str]
    """Functions that a VM of the node surely takes, each with that VM (`VM 101`)."""
    unread: tuple[int, ...] = ()
    """Other VMs of the node whose configs this user may not read, so that it is not known what they have."""

    @property
    def note(self) -> str:
        """What could not be read, in a sentence; empty for nothing."""
        if not self.unread:
            return ""
        what = f"the config of VM {listed(self.unread)} on node {self.hardware.node} cannot be read"
        return f"{what}: a device that looks free may be theirs"


def of_files(host: Host, vmids: Iterable[int], failed: dict[int, PassthruError] | None = None) -> Site:
    """A node by its own files, which are those of `host`.

    With `failed` the error of one VM is put there, and the others are gone on with. Raises NotFoundError for a VM that
    is not there, InputError for one that cannot be read.
    """

    def ask(vmid: int) -> Present:
        return present.of_file(vmid, host.node, subject.read_config(host, vmid, vms.config_path(vmid)))

    return _local(host, _wanted(ask, vmids, failed))


def of_api(  # noqa: PLR0913 - what varies is by keyword
    client: Client,
    known: Overview,
    node: str,
    vmids: Iterable[int],
    *,
    here: Host | None = None,
    failed: dict[int, PassthruError] | None = None,
) -> Site:
    """A node of a cluster by the API, in one request for each of its VMs and few besides; `here` is the host that asks.

    `failed` as `of_files`. Raises ApiError.
    """
    wanted = _wanted(lambda vmid: cluster.config(client, vmid, node), vmids, failed)
    if here is not None and here.node == node and all(_is_here(here, one) for one in wanted):
        return _local(here, wanted)
    functions = cluster.node_hardware(client, node)
    others = survey.walk(
        client, known.some([node]), known.vms.values(), lambda vms: vms, matters=survey.passes, held=True
    )
    for lost in others.failures:
        if lost.vmid is None:
            raise lost.error
    own = {one.vmid for one in wanted}
    presents = [one for vms in others.found for one in vms.presents if one.vmid not in own]
    every = [*wanted, *presents]
    running = frozenset(vm.vmid for vm in known.vms.values() if vm.node == node and vm.may_run)
    host = mirror.host(functions, known.mappings, every, cluster=known.cluster, running=running)
    still = {one.vmid: one.held.text for one in every if one.vmid in running and one.config.has_pending}
    unread = tuple(lost.vmid for lost in others.failures if lost.vmid is not None)
    return Site(functions, known.mappings, wanted, host, _taken(Surroundings(host), still), unread)


def _wanted(
    ask: Callable[[int], Present], vmids: Iterable[int], failed: dict[int, PassthruError] | None
) -> tuple[Present, ...]:
    """The configs of these VMs. Raises what `ask` raises, unless that is to be put into `failed`."""
    found = []
    for vmid in vmids:
        try:
            found.append(ask(vmid))
        except PassthruError as error:
            if failed is None:
                raise
            failed[vmid] = error
    return tuple(found)


def _local(host: Host, presents: tuple[Present, ...]) -> Site:
    around = Surroundings(host)
    still = {}
    for vmid in vms.vmids(host):
        if around.running(vmid) is not None:
            one = _own(host, vmid)
            if one is not None and one.config.has_pending:
                still[vmid] = one.held.text
    return Site(hardware.of_host(around), around.mappings_read[0], presents, host, _taken(around, still))


def _own(host: Host, vmid: int) -> Present | None:
    """A VM by the host's own file, or None where that cannot be read."""
    try:
        return present.of_file(vmid, host.node, host.read(vms.config_path(vmid)))
    except OSError:
        return None


def _is_here(host: Host, one: Present) -> bool:
    """Whether the host's own file of a VM is what the API tells of it."""
    own = _own(host, one.vmid)
    return own is not None and own.digest == one.digest


def _taken(around: Surroundings, still: Mapping[int, bytes]) -> dict[str, str]:
    """The functions that VMs surely take at their next start, and those that running ones surely have until they stop.

    `still` has what is in force of the running VMs that have pending changes, each as a config's text.
    """
    taken: dict[str, str] = {}
    if still:
        files = {vms.config_path(vmid): text for vmid, text in still.items()}
        now = Surroundings(Overlay(around.host, files)).once(demand).wanted
        taken = {address: f"VM {wishes[0].vmid}" for address, wishes in now.items()}
    wanted = around.once(demand).wanted
    return taken | {address: f"VM {wishes[0].vmid}" for address, wishes in wanted.items()}
