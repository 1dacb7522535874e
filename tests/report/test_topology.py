# SPDX-License-Identifier: Apache-2.0
"""Where the pictures put things, before any browser draws them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvepassthru.report import topology
from pvepassthru.report.topology import FEW, Topology

if TYPE_CHECKING:
    from pvepassthru.report.topology import Picture
    from tests.report.made import Made


def pictures(made: Made) -> list[Picture]:
    return list(Topology(made.contents["devices"], {}).pictures(made.contents["buses"]))


def check(picture: Picture) -> None:
    """Nothing overlaps, regions hold their functions and no others, and all is inside."""
    bottom = 0
    for node in picture.nodes:
        assert node.y > bottom
        bottom = node.y + node.height
        assert node.parent is None or picture.nodes[node.parent].y < node.y
    assert bottom < picture.height
    end = 0
    for region in picture.regions:
        assert region.y > end
        end = region.y + region.height
    assert end < picture.height
    for node in picture.nodes:
        around = [region for region in picture.regions if region.y <= node.y < region.y + region.height]
        assert [region.group for region in around] == ([] if node.group is None else [node.group])
        assert all(region.y + region.height >= node.y + node.height and region.depth <= node.depth for region in around)


def test_every_function_is_in_one_place(rich: Made, many: Made) -> None:
    for made in (rich, many):
        drawn = pictures(made)
        for picture in drawn:
            check(picture)
        shown = [node.address for picture in drawn for node in picture.nodes if node.kind != "folded"]
        folded = [row["address"] for row in made.contents["devices"] if row["physical_function"]]
        assert sorted([*shown, *folded]) == [row["address"] for row in made.contents["devices"]]
        assert len({picture.id for picture in drawn}) == len(drawn)


def test_a_group_that_is_spread_says_so(rich: Made) -> None:
    regions = [region for picture in pictures(rich) for region in picture.regions if region.group == 9]
    assert [region.elsewhere for region in regions] == [1, 2]
    assert len({region.style for region in regions}) == 1
    (alone,) = [region for picture in pictures(rich) for region in picture.regions if region.group == 30]
    assert alone.style is None


def test_many_virtual_functions_are_one_node(rich: Made) -> None:
    (node,) = [node for picture in pictures(rich) for node in picture.nodes if node.kind == "folded"]
    assert (node.address, node.driver) == ("0000:21:00.0", "16 VFs")
    assert node.lines == (("name", "in 16 IOMMU groups"), ("vm", "VMs have 1 of them"))
    drawn = Topology(rich.contents["devices"], {102: "router"})
    (pf,) = [one for one in topology.branches(rich.contents["buses"]) if one["address"] == node.address]
    unfolded = drawn.unfolded(node.address, pf["children"])
    check(unfolded)
    assert len(unfolded.nodes) == 16
    assert [one.lines for one in unfolded.nodes if one.lines] == [(("vm", "● VM 102 router, has it"),)]


def test_the_words_for_those_who_do_not_see_it(rich: Made) -> None:
    words = {picture.title: picture.description for picture in pictures(rich)}
    assert words["root port 0000:00:01.0"].startswith(
        "3 functions in 1 IOMMU group; of several functions is group 1; wanted by VM 100."
    )
    assert set(words) == {
        *("bus 0000:00", "root port 0000:00:01.0", "root port 0000:00:02.0", "root port 0000:00:03.0", "bus 0000:41")
    }


def row(address: str, group: int | None, *, bridge: bool, pf: str | None) -> dict[str, Any]:
    return {
        "address": address,
        "group": group,
        "bridge": bridge,
        "physical_function": pf,
        "class": "0x060400",
        "name": "x",
        "uses": [],
        "vms": [],
        "vgpu": None,
        "driver": None,
    }


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3), st.booleans()), max_size=40))
def test_any_tree_is_drawn(made: list[tuple[int, int, bool]]) -> None:
    """Each function with the place of what is above it, its group (0 for none), and whether it is a VF of that."""
    branches: list[dict[str, Any]] = []
    tops: list[dict[str, Any]] = []
    rows = []
    for place, (above, group, virtual) in enumerate(made):
        address = f"0000:{place:02x}:00.0"
        branch: dict[str, Any] = {"address": address, "children": []}
        parent = branches[above] if above < len(branches) else None
        (parent["children"] if parent else tops).append(branch)
        pf = parent["address"] if parent and virtual else None
        rows.append(row(address, group or None, bridge=place % 2 == 0, pf=pf))
        branches.append(branch)
    drawn = list(Topology(rows, {}).pictures([{"bus": "0000:00", "functions": tops}]))
    for picture in drawn:
        check(picture)
    shown = sum(node.kind != "folded" for picture in drawn for node in picture.nodes)
    folding = [branch for branch in branches if branch["children"]]
    assert shown == len(rows) or any(len(branch["children"]) > FEW for branch in folding)


def test_a_picture_grows_with_its_functions_only(many: Made) -> None:
    for picture in pictures(many):
        assert picture.height <= 40 + 160 * len(picture.nodes)


@pytest.mark.parametrize("depth", [1, 60])
def test_deep_buses_stay_inside(depth: int) -> None:
    rows = [row(f"0000:{place:02x}:00.0", place, bridge=True, pf=None) for place in range(depth)]
    branch: dict[str, Any] = {"address": rows[-1]["address"], "children": []}
    for one in reversed(rows[:-1]):
        branch = {"address": one["address"], "children": [branch]}
    (picture,) = Topology(rows, {}).pictures([{"bus": "0000:00", "functions": [branch]}])
    check(picture)
    assert max(node.depth for node in picture.nodes) == min(depth - 1, topology.DEEPEST)
