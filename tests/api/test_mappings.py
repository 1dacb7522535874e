# SPDX-License-Identifier: Apache-2.0
"""Mappings as they are stored: nothing of what people wrote is lost, and the same in other words is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pvepassthru.api import mappings
from pvepassthru.model import mapping
from pvepassthru.model.errors import ApiMissingError
from tests.api.mapping_cluster import GPU_LINE

if TYPE_CHECKING:
    from pvepassthru.api.mappings import Stored

ENTRY = {"id": "gpu", "type": "pci", "digest": "d", "map": [GPU_LINE], "description": "any\nwords"}


def of(**more: object) -> Stored:
    return mappings.of_api([{**ENTRY, **more}])["gpu"]


@pytest.mark.parametrize(
    "more, mdev, live", [({}, False, False), ({"mdev": 1}, True, False), ({"live-migration-capable": "1"}, False, True)]
)
def test_what_the_api_answers(more: dict[str, object], mdev: bool, live: bool) -> None:  # noqa: FBT001 - parameters of the test
    found = of(**more)
    assert (found.name, found.mdev, found.live_migration, found.digest) == ("gpu", mdev, live, "d")
    assert [line.text for line in found.lines] == [GPU_LINE]
    assert found.mapping.on("pve1")[0].paths == ("0000:01:00",)


def test_odd_answers() -> None:
    found = mappings.of_api([{"id": "b", "map": GPU_LINE}, {"id": "a", "map": None, "mdev": "x"}, {"map": []}])
    assert list(found) == ["a", "b"]
    assert (found["a"].lines, found["a"].mdev, found["a"].digest) == ((), False, None)
    assert found["b"].lines[0].node == "pve1"


def test_a_line_written_and_read() -> None:
    line = mappings.line(GPU_LINE)
    assert line.entry is not None
    assert mappings.text_of(line.entry) == GPU_LINE
    bare = line.entry._replace(paths=("0000:03:00.0", "0000:03:00.1"), subsystem_id=None, iommugroup=None)
    assert mappings.text_of(bare) == "node=pve1,path=0000:03:00.0;0000:03:00.1,id=10de:1b80"
    assert mappings.line("node=pve1,path=x") == mappings.Line("node=pve1,path=x", None)


def test_the_same_in_other_words() -> None:
    turned = ",".join(reversed(GPU_LINE.split(",")))
    assert of().same(of(map=[turned], digest="e"))
    assert not of().same(of(map=[f"{GPU_LINE},description=mine"]))
    assert not of().same(of(map=[GPU_LINE, GPU_LINE]))
    assert not of().same(of(mdev=1))
    assert not of().same(of(**{"live-migration-capable": 1}))
    assert not of().same(None)


def test_an_unknown_name() -> None:
    mappings.need(["gpu"], "gpu")
    with pytest.raises(ApiMissingError, match="nor any other that this user may see; pvepassthru mapping apply NAME"):
        mappings.need([], "gpu")


@pytest.mark.parametrize(
    "known, words",
    [
        (["gpu", "nic"], "is gpu meant?"),
        (["nvme", "storage"], "the mappings are: nvme, storage"),
        ([], "pvepassthru mapping apply NAME --device DEVICE makes one"),
    ],
)
def test_what_may_be_meant(known: list[str], words: str) -> None:
    assert mapping.instead("gup", known) == words


@pytest.mark.parametrize("said, mdev", [(True, True), (1, True), ("1", True), (False, False), ("0", False)], ids=repr)
def test_a_flag(said: object, *, mdev: bool) -> None:
    assert of(mdev=said).mdev is mdev
