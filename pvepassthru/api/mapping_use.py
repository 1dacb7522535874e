# SPDX-License-Identifier: Apache-2.0
"""Which VMs of the cluster use a mapping: by what they have in force, and by what their next start takes.

Source: the configs of the VMs, one request each; templates are among them, since their clones take the entries over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import survey

if TYPE_CHECKING:
    from pvepassthru.api.client import Client
    from pvepassthru.model.errors import PassthruError


class Use(NamedTuple):
    """An entry of a VM by a mapping."""

    mapping: str
    vmid: int
    node: str
    key: str

    @property
    def words(self) -> str:
        """Who it is, in words."""
        return f"VM {self.vmid} ({self.key}) on node {self.node}"


class Uses(NamedTuple):
    """What the VMs use, as far as it could be read."""

    found: tuple[Use, ...]
    """By mapping and VMID."""
    unread: tuple[tuple[str | None, PassthruError], ...]
    """What could not be read, by node; None: VMs that this user does not see, on any node."""

    def of(self, name: str) -> tuple[Use, ...]:
        """The uses of one mapping."""
        return tuple(one for one in self.found if one.mapping == name)


def read(client: Client) -> Uses:
    """What all VMs use that this user may see. Raises ApiError when the cluster cannot be read."""
    known = survey.overview(client)
    places = {vm.node for vm in known.vms.values()}
    nodes = [node for node in known.nodes.values() if node.name in places]
    walked = survey.walk(client, nodes, known.vms.values(), lambda vms: vms.presents, matters=survey.passes, held=True)
    found = {
        Use(entry.mapping, present.vmid, present.node, entry.key)
        for presents in walked.found
        for present in presents
        for entry in (*present.section.entries.values(), *present.config.main.entries.values())
        if entry.mapping
    }
    unread = [(one.node, _named(one)) for one in walked.failures]
    hidden = survey.unseen(client)
    return Uses(tuple(sorted(found)), (*unread, *([(None, hidden)] if hidden else [])))


def _named(failure: survey.Failure) -> PassthruError:
    """A failure's error, with the VM or node in its sentence."""
    what = f"node {failure.node}" if failure.vmid is None else f"VM {failure.vmid} on node {failure.node}"
    return type(failure.error)(f"{what}: {failure.error.message}", failure.error.hint)
