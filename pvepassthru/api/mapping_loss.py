# SPDX-License-Identifier: Apache-2.0
"""What a plan takes away from the VMs that use a mapping: devices that they need on their node.

PVE itself writes any mapping, whoever uses it; a VM for which nothing is left is then refused at its next start.
Source: the configs of the VMs (api/mapping_use.py), templates among them.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import mapping_use
from pvepassthru.model.errors import ApiConflictError, ApiError
from pvepassthru.model.text import counted, listed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pvepassthru.api.client import Client
    from pvepassthru.api.mapping_plan import Plan
    from pvepassthru.api.mapping_use import Use, Uses
    from pvepassthru.api.mappings import Stored


class Loss(NamedTuple):
    """What is left of a mapping on one node, and is too little for the VMs there."""

    node: str
    left: int
    """Devices."""
    users: tuple[Use, ...]
    """The entries of VMs on that node."""

    @property
    def words(self) -> str:
        """Who needs what, in words."""
        has = f"would be left with {counted(self.left, 'device') if self.left else 'no device'}"
        return f"node {self.node} {has} of it, and in use there: {listed(one.words for one in self.users)}"


def nodes(plan: Plan) -> tuple[str, ...]:
    """The nodes that lose devices by a plan, sorted; those of lines that are made right lose nothing."""
    return tuple(sorted(node for node, left in _left(plan).items() if left < _count(plan.before, node)))


def find(plan: Plan, uses: Uses) -> tuple[Loss, ...]:
    """Where too little is left: for what the VMs of a node have that run, or for what any one of them needs."""
    left = _left(plan)
    found = []
    for node in nodes(plan):
        users = tuple(one for one in uses.of(plan.name) if one.node == node)
        if left[node] < _needed(users):
            found.append(Loss(node, left[node], users))
    return tuple(found)


def read(client: Client, plan: Plan) -> ApiError | None:
    """Why a plan is not to be written; None if nothing stands in the way, and then nothing was asked if it takes none.

    An ApiConflictError names the VMs; else it cannot be told whether there are some. Raises ApiError when the cluster
    cannot be read.
    """
    return refusal(plan, mapping_use.read(client)) if nodes(plan) else None


def refusal(plan: Plan, uses: Uses) -> ApiError | None:
    """Why a plan is not to be written by what the VMs use; None if nothing stands in the way."""
    losses = find(plan, uses)
    if losses:
        words = "; ".join(loss.words for loss in losses)
        message = f"mapping {plan.name} is in use: {words}; nothing was changed"
        return ApiConflictError(message, mapping_use.freeing(losses[0].users))
    lose = nodes(plan)
    error = next((error for node, error in uses.unread if node is None or node in lose), None)
    if error is None:
        return None
    kind = type(error) if isinstance(error, ApiError) else ApiError
    return kind(
        f"whether a VM uses mapping {plan.name} cannot be told: {error.message}; nothing was changed", error.hint
    )


def _left(plan: Plan) -> dict[str, int]:
    """How many devices each node has after a plan, of those that had some."""
    had = {line.node for line in plan.before.lines if line.node} if plan.before else set()
    return {node: _count(plan.after, node) for node in had}


def _count(stored: Stored | None, node: str) -> int:
    return sum(line.node == node for line in stored.lines) if stored else 0


def _needed(users: Iterable[Use]) -> int:
    """How many devices these entries need: as many as run at once, and as one VM has; one for all that can share."""
    users = list(users)
    alone = [one for one in users if not one.shared]
    most = max(Counter(one.vmid for one in alone).values(), default=0)
    return max(most, sum(one.running for one in alone), int(bool(users)))
