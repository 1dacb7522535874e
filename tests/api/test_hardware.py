# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pvepassthru.api import hardware
from pvepassthru.model import mapping
from tests.api import node
from tests.api.told import mappings_of

if TYPE_CHECKING:
    from pathlib import Path

    from pvepassthru.api.hardware import Function

IGPU = {
    "iommugroup": 1,
    "id": "0000:00:02.0",
    "subsystem_device": "0x5912",
    "device_name": "HD Graphics 630",
    "mdev": 1,
    "vendor_name": "Intel Corporation",
    "device": "0x5912",
    "subsystem_vendor": "0x1849",
    "class": "0x030000",
    "subsystem_vendor_name": "ASRock Incorporation",
    "vendor": "0x8086",
}
"""One entry of a real answer."""


def test_an_entry_of_a_real_answer() -> None:
    kinds = [{"type": "i915-GVTg_V5_4", "description": "low_gm_size: 128MB\nhigh_gm_size: 512MB\n", "available": 1}]
    found = hardware.of_api("pve1", [IGPU], {"0000:00:02.0": kinds})
    function = found.functions["0000:00:02.0"]
    assert (function.ids, function.kind, function.group, function.mdev_parent) == ("8086:5912", "gpu", 1, True)
    assert function.words == "0000:00:02.0 (Intel Corporation HD Graphics 630)"
    ((profile, room),) = function.offers().values()
    assert (profile.framebuffer, room) == (640, 1)
    assert found.attribute("0000:00:02.0", "subsystem_vendor") == "0x1849"
    assert (found.iommu, found.vfio, found.numa, found.intel) == (True, None, {}, None)
    assert "does not tell" in found.unknown


@pytest.mark.parametrize(
    "entry",
    [{}, {"id": "01:00.0"}, {"id": None}, {"id": "nonsense"}, {"id": 3}, {"id": "0000:01:00"}, {"id": "0000:0A:00.0"}],
)
def test_what_is_no_function_is_left_out(entry: dict[str, object]) -> None:
    assert hardware.of_api("pve1", [entry], {}).functions == {}


def test_odd_values_do_not_break_it() -> None:
    entry: dict[str, object] = {
        "id": "0000:01:00.0",
        "iommugroup": "12",
        "virtfns": [],
        "mdev": "x",
        "class": None,
        "physfn": "",
    }
    function = hardware.of_api("pve1", [entry], {"0000:01:00.0": [{}, {"type": "a", "available": "3"}]}).functions[
        "0000:01:00.0"
    ]
    assert (function.group, function.vfs, function.mdev_parent, function.physfn) == (12, (), False, None)
    assert [(kind.id, kind.available) for kind in function.types] == [("a", 3)]
    assert (function.kind, function.pci_class) == (None, "")


def test_without_any_group_it_is_not_known_whether_there_is_an_iommu() -> None:
    found = hardware.of_api("pve1", [{"id": "0000:01:00.0", "iommugroup": -1}], {})
    assert found.iommu_present() is None
    assert found.group("0000:01:00.0") is None


def test_mdev_lists_are_asked_for_where_the_api_takes_the_id() -> None:
    assert hardware.parents(node.by_api()) == tuple(
        address for address, device in node.DEVICES.items() if "mdev" in device or "nvidia" in device
    )
    none = [{"id": "10000:e1:00.0", "mdev": 1}, {"id": "0000:01:00.0", "mdev": 0}]
    assert hardware.parents(hardware.of_api("pve1", none, {})) == ()


def test_both_roads_tell_the_same(tmp_path: Path) -> None:
    """Of what both can tell; what only the host tells is None or empty by the API."""
    host, api = node.on_host(node.build(tmp_path)), node.by_api()
    assert host.addresses() == api.addresses() == tuple(sorted(node.DEVICES))
    for address, told in api.functions.items():
        assert _common(host.functions[address]) == _common(told), address
        assert host.functions[address].attributes == told.attributes | {"irq": "16"}
        offered = host.functions[address].offers()
        assert {kind: room for kind, (_, room) in offered.items()} == {
            kind: room for kind, (_, room) in told.offers().items()
        }
        assert {kind: one.framebuffer for kind, (one, _) in offered.items()} == {
            kind: one.framebuffer for kind, (one, _) in told.offers().items()
        }
    assert host.slots == api.slots
    assert (host.numa[1], host.intel, host.vfio) == ("8-15,24-31", True, True)
    assert host.functions["0000:04:00.0"].numa_node == 1


def _common(function: Function) -> Function:
    """A function without what only one of the roads tells."""
    parent = function.mdev_parent or function.vendor_vgpu
    return function._replace(
        attributes={},
        name="",
        types=(),
        vgpu_types={},
        vgpu_current=None,
        vendor_vgpu=False,
        mdev_parent=parent,
        numa_node=None,
        bars=None,
    )


def test_mappings_are_read_as_from_the_file() -> None:
    told = mappings_of(node.MAPPINGS)
    read = mapping.parse(node.pci_cfg().encode())
    assert told.bad_lines == read.bad_lines == ()
    assert told.by_name.keys() == read.by_name.keys()
    for name, one in read.by_name.items():
        same = one._replace(line=0, entries=tuple(entry._replace(line=0) for entry in one.entries))
        assert told.by_name[name] == same


def test_no_line_of_a_mapping_can_be_made_by_another() -> None:
    answer = [{"id": "a1\nb2", "map": ["node=n,path=0000:01:00.0,id=10de:1b80\n\tmap node=n,path=0000:02:00.0,id=1:2"]}]
    assert mappings_of(answer).by_name == {}


def test_who_is_in_the_same_group(tmp_path: Path) -> None:
    found = node.on_host(node.build(tmp_path))
    assert [mate.address for mate in found.mates(["0000:01:00.0"])] == ["0000:01:00.1"]
    assert found.mates(["0000:01:00.0", "0000:01:00.1"]) == ()
    assert found.mates(["0000:05:00.0"]) == ()
