# SPDX-License-Identifier: Apache-2.0
"""The fake PVE in a process of its own, where the time or the memory of a client is to be measured.

    with Apart(cluster) as pve:
        connect(pve.host, port=pve.port, ca=pve.ca_file)

Its state is out of reach there.
"""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, NamedTuple

from tests.api.fake_pve.server import FakePve

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from types import TracebackType

    from tests.api.fake_pve.data import Cluster

LONGEST_START = 60.0
"""Seconds; the process imports everything anew."""


class Place(NamedTuple):
    """How to reach it."""

    host: str
    port: int
    ca_file: str
    fingerprint: str


class Apart:
    """A cluster that another process serves, from entering the context to leaving it."""

    def __init__(self, cluster: Cluster) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, cluster), daemon=True)
        self._theirs = theirs

    def __enter__(self) -> Place:
        self._process.start()
        self._theirs.close()
        if not self._ours.poll(LONGEST_START):
            self._process.kill()
            raise TimeoutError("the fake PVE does not come up in its process")
        place: Place = self._ours.recv()
        return place

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ours.close()
        self._process.join()
        self._process.close()


def _serve(pipe: Connection[Place, None], cluster: Cluster) -> None:
    """Serve until the other end of the pipe is closed."""
    with FakePve(cluster) as pve:
        pipe.send(Place(pve.host, pve.port, pve.ca_file, pve.fingerprint))
        try:
            pipe.recv()
        except EOFError:
            pass
