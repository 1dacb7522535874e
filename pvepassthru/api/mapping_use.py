# SPDX-License-Identifier: Apache-2.0
"""Which VMs of the cluster use a mapping: by what they have in force, and by what their next start takes.

Source: the configs of the VMs, one request each; templates are among them, since their clones take the entries over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import survey
from pvepassthru.model.errors import ApiError, ApiMissingError
from pvepassthru.model.text import listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pvepassthru.api.client import Client
    from pvepassthru.api.cluster import Vm
    from pvepassthru.api.present import Present
    from pvepassthru.api.survey import NodeVms
    from pvepassthru.model.errors import PassthruError


class Use(NamedTuple):
    """An entry of a VM by a mapping."""

    mapping: str
    vmid: int
    node: str
    key: str
    running: bool = False
    """Whether the VM runs, or PVE does not know it."""
    leaving: bool = False
    """Whether only the VM as it runs has it: its next start does without."""
    shared: bool = False
    """Whether it takes a mediated device, so that others may have the same device of the mapping."""

    @property
    def words(self) -> str:
        """Who it is, in words."""
        until = ", until it stops" if self.leaving else ""
        return f"VM {self.vmid} ({self.key}{until}) on node {self.node}"


class Uses(NamedTuple):
    """What the VMs use, as far as it could be read."""

    found: tuple[Use, ...]
    """By mapping and VMID."""
    unread: tuple[tuple[str | None, PassthruError], ...]
    """What could not be read, by node; None: on any node, as VMs that he does not see or that move."""

    def of(self, name: str) -> tuple[Use, ...]:
        """The uses of one mapping."""
        return tuple(one for one in self.found if one.mapping == name)


def read(client: Client) -> Uses:
    """What all VMs use that this user may see. Raises ApiError when the cluster cannot be read."""
    known = survey.overview(client)
    places = {vm.node for vm in known.vms.values()}
    nodes = [node for node in known.nodes.values() if node.name in places]
    walked = survey.walk(client, nodes, known.vms.values(), _of_node, matters=survey.passes, held=True)
    found = {use for uses in walked.found for use in uses}
    unread = [(_place(one, walked.unread), _named(one)) for one in walked.failures]
    unread += [(None, _unlisted(vm)) for _, vm in sorted(known.vms.items()) if vm.node not in known.nodes]
    hidden = survey.unseen(client)
    return Uses(tuple(sorted(found)), (*unread, *([(None, hidden)] if hidden else [])))


def freeing(users: Sequence[Use]) -> str:
    """How VMs are made to do without a mapping, in words: what is only in force goes as the VM stops."""
    stop = sorted({one.vmid for one in users if one.leaving})
    first = next((one for one in users if not one.leaving), None)
    ways = [f"stop VM {listed(stop)} first, whose next start does without it"] if stop else []
    if first is not None:
        ways.append(f"take the entries away first, such as pvepassthru config {first.vmid} --remove {first.key}")
    return "; ".join(ways)


def of_vm(present: Present, *, running: bool) -> tuple[Use, ...]:
    """What one VM uses, by what it has in force and by what its next start takes."""
    later = {(entry.mapping, entry.key) for entry in present.section.entries.values()}
    return tuple(
        Use(
            entry.mapping,
            present.vmid,
            present.node,
            entry.key,
            running,
            leaving=(entry.mapping, entry.key) not in later,
            shared=entry.wants_mdev,
        )
        for entry in {
            (entry.mapping, entry.key): entry
            for entry in (*present.config.main.entries.values(), *present.section.entries.values())
        }.values()
        if entry.mapping
    )


def _of_node(vms: NodeVms) -> list[Use]:
    return [use for present in vms.presents for use in of_vm(present, running=present.vmid in vms.running)]


def _place(failure: survey.Failure, unread: Mapping[str, tuple[int, ...]]) -> str | None:
    """Where what could not be read may be; None, which is any node, for a VM that is not where it was known to be.

    Such a one may have gone on by the time of a write; `unread` are the VMs that could not be read, by node.
    """
    if failure.node is None or failure.vmid is None:
        return failure.node
    moved = failure.vmid not in unread.get(failure.node, ()) or isinstance(failure.error, ApiMissingError)
    return None if moved else failure.node


def _unlisted(vm: Vm) -> PassthruError:
    """Why a VM of a node that the list of nodes has not is not read."""
    message = f"VM {vm.vmid} on node {vm.node}: that node is not among those of the cluster"
    return ApiError(message, "has it just joined or left? pvecm status tells; then run this again")


def _named(failure: survey.Failure) -> PassthruError:
    """A failure's error, with the VM or node in its sentence."""
    what = f"node {failure.node}" if failure.vmid is None else f"VM {failure.vmid} on node {failure.node}"
    return type(failure.error)(f"{what}: {failure.error.message}", failure.error.hint)
