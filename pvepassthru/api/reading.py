# SPDX-License-Identifier: Apache-2.0
"""A VM's config at one moment, key by key: what is in force, and what waits for the next start. Read, never guessed.

Source: nodes/N/qemu/V/pending, which tells both and the digest in one answer, so that no write can come between.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import cluster
from pvepassthru.model.errors import ApiError, ApiMissingError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pvepassthru.api.client import Client

PATIENCE = 20.0
"""Seconds for which the state is asked for again after something went wrong; PVE waits 10 s for a VM's lock."""
PAUSES = (0.5, 1.0, 2.0, 3.0)
"""Seconds between these questions; the last for all further ones."""
SETTLING = (0.5, 1.0, 2.0, 3.0, 3.0, 2.5)
"""Seconds between looks at what a write without a clear answer has done; 12 s, since PVE waits 10 s for its lock."""
NO_SETTINGS = frozenset({"description", "digest"})
"""What is no setting of the VM."""
UNUSED = "unused"
"""How the keys begin by which PVE itself keeps volumes that no other key names."""


class Reading(NamedTuple):
    """A VM's config at one moment."""

    vmid: int
    node: str
    digest: str
    main: dict[str, str]
    """What is in force."""
    pending: dict[str, str]
    """What waits for the next start, or of a VM that does not run for the next write."""
    deletes: frozenset[str]
    """The keys whose deletion waits; of what is not set there is nothing to delete."""

    def value(self, key: str) -> str | None:
        """What a key will have at the next start; None if it is not set."""
        if key in self.pending:
            return self.pending[key]
        return None if key in self.deletes else self.main.get(key)

    def waits(self, key: str) -> bool:
        """Whether something of this key is pending."""
        return key in self.pending or key in self.deletes

    @property
    def waiting(self) -> tuple[str, ...]:
        """The keys of which something is pending, sorted."""
        return tuple(sorted(self.pending.keys() | self.deletes))

    @property
    def keys(self) -> frozenset[str]:
        """All keys that are set or pending."""
        return frozenset(self.main) | self.pending.keys() | self.deletes

    @property
    def lock(self) -> str | None:
        """The operation that PVE keeps the VM locked for, such as `backup`; None for none."""
        return self.main.get("lock") or self.pending.get("lock")

    def same(self, other: Reading, key: str) -> bool:
        """Whether a key is the same in both, what waits of it too."""
        return (
            self.main.get(key) == other.main.get(key)
            and self.pending.get(key) == other.pending.get(key)
            and (key in self.deletes) == (key in other.deletes)
        )


def read(client: Client, vmid: int, node: str) -> Reading:
    """A VM's config on this node. Raises ApiError, and ApiMissingError when it is not there (any more)."""
    path = f"nodes/{node}/qemu/{vmid}/pending"
    answer = client.get(path)
    rows = answer if isinstance(answer, list) else []
    found = [row for row in rows if isinstance(row, dict) and isinstance(row.get("key"), str)]
    digest = next((str(row["value"]) for row in found if row["key"] == "digest" and "value" in row), "")
    if not digest:
        raise ApiError(f"{client.where} answered GET {path} with something else than PVE does", "is it a PVE node?")
    settings = [row for row in found if row["key"] not in NO_SETTINGS]
    return Reading(
        vmid,
        node,
        digest,
        {row["key"]: _text(row["value"]) for row in settings if "value" in row},
        {row["key"]: _text(row["pending"]) for row in settings if "pending" in row},
        frozenset(row["key"] for row in settings if row.get("delete") and "value" in row),
    )


def read_surely(client: Client, vmid: int, node: str) -> Reading:
    """As `read`, asked again for some seconds when it fails, and on the node where the VM is by then.

    Raises ApiError when it cannot be read for all that.
    """
    deadline = time.monotonic() + PATIENCE
    turn = 0
    while True:
        try:
            return read(client, vmid, node)
        except ApiMissingError as error:
            node = _elsewhere(client, vmid) or node
            why: ApiError = error
        except ApiError as error:
            why = error
        if time.monotonic() >= deadline:
            raise why
        pause(turn, deadline)
        turn += 1


def pause(turn: int, deadline: float) -> None:
    """Wait a little before something is tried once more, not beyond `deadline` (of time.monotonic)."""
    time.sleep(min(PAUSES[min(turn, len(PAUSES) - 1)], max(deadline - time.monotonic(), 0.0)))


def runs(client: Client, vmid: int, node: str) -> bool:
    """Whether a VM runs at this moment; cluster/resources says it some seconds late. Raises ApiError."""
    answer = client.get(f"nodes/{node}/qemu/{vmid}/status/current")
    return isinstance(answer, dict) and answer.get("status") == "running"


def changed(before: Reading, now: Reading, ours: Iterable[str]) -> tuple[str, ...]:
    """The keys but for `ours` that somebody has changed, sorted.

    That a write made pending values of others effective is PVE's doing, and so is where it keeps volumes without a key.
    """
    keys = before.keys | now.keys
    others = (key for key in keys.difference(ours) if not key.startswith(UNUSED))
    return tuple(
        sorted(
            key
            for key in others
            if not now.same(before, key) and (now.waits(key) or now.value(key) != before.value(key))
        )
    )


def _elsewhere(client: Client, vmid: int) -> str | None:
    """The node where the VM is by what the cluster says; None if that cannot be told."""
    try:
        return cluster.vm(client, vmid).node
    except ApiError:
        return None


def _text(value: object) -> str:
    return str(int(value) if isinstance(value, bool) else value)
