# SPDX-License-Identifier: Apache-2.0
"""Whether the hookscript is on the other nodes on which a VM may be started: where it is missing none starts."""

from __future__ import annotations

from pvepassthru.host import cluster, programs, snippets
from pvepassthru.lifecycle.attachment import own_config
from pvepassthru.model import jsontext, mapping, reachable
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import shown
from pvepassthru.rules.subject import MAPPINGS

if TYPE_CHECKING:
    from pvepassthru.host.host import Host
    from pvepassthru.host.snippets import Snippet
    from pvepassthru.model.mapping import Mappings

PVESH_SECONDS = 30.0
"""Seconds that pvesh may take, which asks another node by ssh."""


class Elsewhere:
    """The other nodes of the cluster, each asked once at most."""

    def __init__(self, host: Host, snippet: Snippet, *, is_put: bool = True) -> None:
        """`is_put`: whether the hookscript lies on its storage of this node; not so in a dry run before it is."""
        self._host = host
        self._snippet = snippet
        self._is_put = is_put
        self._asked: dict[str, str] = {}
        self._mappings: Mappings | None = None

    def missing(self, vmid: int) -> dict[str, str]:
        """Why each node that a VM of this node may reach lacks the hookscript, or may lack it; none if all have it.

        Raises as attachment.own_config.
        """
        found = {}
        for node in self._reachable(vmid):
            if node not in self._asked:
                self._asked[node] = self._why(node)
            if self._asked[node]:
                found[node] = self._asked[node]
        return found

    def _reachable(self, vmid: int) -> tuple[str, ...]:
        host = self._host
        nodes = cluster.nodes(host)
        if len(nodes) < 2:
            return ()
        resource = cluster.ha_resources(host).get(vmid)
        ha = reachable.Ha(resource.nodes if resource.strict else None) if resource else None
        entries = own_config(host, vmid).effective().entries.values()
        if self._mappings is None:
            try:
                self._mappings = mapping.parse(host.read(MAPPINGS))
            except OSError:  # none, then
                self._mappings = mapping.EMPTY
        return reachable.others(host.node, nodes, entries, self._mappings, ha)

    def _why(self, node: str) -> str:
        """Why the file may not be on a node; empty if it is there."""
        storage = self._snippet.storage
        if not snippets.is_on(storage, node):
            return f"storage {storage.id} is not for that node"
        if cluster.is_shared(storage) and not self._is_put:  # nobody can see it yet
            return ""
        pvesh = programs.find(self._host, "pvesh")
        if pvesh is None:
            return "it cannot be asked, there is no pvesh"
        path = f"/nodes/{node}/storage/{storage.id}/content"
        words = (pvesh, "get", path, "--content", snippets.CONTENT, "--output-format", "json")
        output = programs.run(self._host, words, PVESH_SECONDS)
        if output.code != 0:
            return f"it cannot be asked: {shown(' '.join(output.words.split()) or f'exit code {output.code}')}"
        try:
            rows = jsontext.loads(output.stdout.encode())
        except ValueError:
            return "it cannot be asked: pvesh printed no JSON"
        there = isinstance(rows, list) and any(
            isinstance(row, dict) and row.get("volid") == self._snippet.volume for row in rows
        )
        return "" if there else f"it has no {self._snippet.volume}"
