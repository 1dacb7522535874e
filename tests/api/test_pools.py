# SPDX-License-Identifier: Apache-2.0
"""A mapping serves a device, or it is said which would, and how one is made; nobody is sent in a circle."""

from __future__ import annotations

import re

import pytest

from pvepassthru.api import present, wish
from pvepassthru.api.generate import generate
from pvepassthru.model.errors import NotFoundError, UsageError
from tests.api import node
from tests.api.told import mappings_of

API = node.by_api()
EMPTY = present.of_file(100, node.NODE, b"")
MAPPINGS = mappings_of(node.MAPPINGS)
PORT = {
    "id": "ports",
    "map": [f"node={node.NODE},path=0000:03:00.0,id=8086:10fb,subsystem-id=8086:7a11,iommugroup={{}}"],
}


def test_a_class_of_which_mappings_have_several() -> None:
    asked = wish.of_arguments(devices=["gpu"], by_mapping=True)
    with pytest.raises(UsageError, match="more than one GPU is free on node pve1") as error:
        generate(EMPTY, asked, API, MAPPINGS)
    words = "name a mapping, of which PVE takes what is free: --mapping gpu or igd or p4"
    assert error.value.hint == words
    found = generate(EMPTY, wish.of_arguments(mappings=["gpu"], by_mapping=True), API, MAPPINGS)
    assert found.keys[0].new == "mapping=gpu,pcie=1"


@pytest.mark.parametrize(
    "device, hint",
    [
        ("01:00.0", "mapping gpu has more, of which PVE takes what is free: --mapping gpu"),
        ("03:10.0", "mapping vfs has more, of which PVE takes what is free: --mapping vfs"),
        (
            "06:00.0",
            (
                "only root@pam can name a device by its address; have a mapping made: "
                "pvepassthru mapping apply NAME --node pve1 --device 0000:06:00.0 --only"
            ),
        ),
    ],
)
def test_an_address_that_no_mapping_has_alone(device: str, hint: str) -> None:
    with pytest.raises(NotFoundError, match=re.escape(f"no mapping has just 0000:{device} of node pve1")) as error:
        generate(EMPTY, wish.of_arguments(devices=[device], by_mapping=True), API, MAPPINGS)
    assert error.value.hint == hint


def test_vfs_that_vanish_with_a_device_of_a_mapping_are_told() -> None:
    port = {**PORT, "map": [text.format(API.functions["0000:03:00.0"].group) for text in PORT["map"]]}
    found = generate(EMPTY, wish.of_arguments(mappings=["ports"]), API, mappings_of([*node.MAPPINGS, port]))
    assert "0000:03:00.0 of mapping ports has 2 VFs, which vanish when it is passed" in found.notes
    found = generate(EMPTY, wish.of_arguments(mappings=["vfs"]), API, MAPPINGS)
    assert not any("vanish" in note for note in found.notes)


def test_a_mapping_without_a_device_here_says_how_it_gets_one() -> None:
    with pytest.raises(NotFoundError, match="mapping elsewhere has no device on node pve1") as error:
        generate(EMPTY, wish.of_arguments(mappings=["elsewhere"]), API, MAPPINGS)
    way = "pvepassthru mapping apply elsewhere --node pve1 --device DEVICE"
    assert error.value.hint == f"it has devices on pve2; add one of pve1: {way}"
