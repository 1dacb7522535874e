# SPDX-License-Identifier: Apache-2.0
"""On which nodes a VM may be started."""

from __future__ import annotations

import pytest

from pvepassthru.model import hostpci, mapping, reachable
from pvepassthru.model.reachable import Ha

NODES = ("pve1", "pve2", "pve3")
MAPPINGS = mapping.parse(
    b"gpu\n\tmap id=10de:1b80,node=pve1,path=0000:01:00.0\n\tmap id=10de:1b80,node=pve2,path=0000:01:00.0\n"
)


@pytest.mark.parametrize(
    "entries, ha, expected",
    [
        ([], None, ("pve2", "pve3")),
        (["01:00"], None, ()),
        (["mapping=gpu"], None, ("pve2",)),
        (["mapping=gpu", "01:00"], None, ()),
        (["mapping=none"], None, ()),
        (["01:00"], Ha(), ("pve2", "pve3")),
        (["01:00"], Ha(("pve1", "pve3")), ("pve3",)),
        (["mapping=gpu"], Ha(), ("pve2",)),
        (["mapping=gpu"], Ha(("pve1", "pve3")), ()),
        ([], Ha(("pve1",)), ()),
    ],
)
def test_others(entries: list[str], ha: Ha | None, expected: tuple[str, ...]) -> None:
    parsed = [hostpci.parse(index, text) for index, text in enumerate(entries)]
    assert reachable.others("pve1", NODES, parsed, MAPPINGS, ha) == expected
