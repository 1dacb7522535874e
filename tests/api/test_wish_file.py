# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pvepassthru.api import wish_file
from pvepassthru.api.wish import Device, Wish
from pvepassthru.model.errors import InputError

EXAMPLE = b"""
defaults:
  storage: local-zfs
  hookscript: local:snippets/pvepassthru
vms:
  100:
    devices:
      - device: 01:00
        primary_gpu: true
        rom: gpu.rom
      - nvme
  101:
    devices:
      - mdev: best
        min_framebuffer: 4G
      - {mapping: p4, mdev: nvidia-63}
      - vf_of: 03:00.0
        pcie: false
    by_mapping: true
    storage: local-lvm
  102:
    igd: true
    numa: true
    bios: seabios
    hidden: true
"""


SHIPPED = Path(__file__).parents[2] / "packaging" / "vms.example.yaml"


def test_the_shipped_example_has_every_setting() -> None:
    data = SHIPPED.read_bytes()
    found = wish_file.load(data, "vms.example.yaml")
    assert found[104].igd
    assert found[101].devices[2].framebuffer == 4096
    schema = wish_file.schema()
    parts = [
        schema["properties"]["defaults"],
        schema["properties"]["vms"]["additionalProperties"],
        schema["definitions"]["device"],
    ]
    written: dict[str, Any] = yaml.safe_load(data)
    vms = list(written["vms"].values())
    said = [[written["defaults"]], [written["defaults"], *vms], [one for vm in vms for one in vm.get("devices", ())]]
    for part, values in zip(parts, said, strict=True):
        assert set(part["properties"]) == {key for value in values if isinstance(value, dict) for key in value}


def test_example() -> None:
    found = wish_file.load(EXAMPLE, "vms.yaml")
    hook = "local:snippets/pvepassthru"
    assert found == {
        100: Wish(
            (Device(addresses=("0000:01:00",), primary=True, rom="gpu.rom"), Device(kind="nvme")),
            storage="local-zfs",
            hookscript=hook,
        ),
        101: Wish(
            (
                Device(mdev="best", framebuffer=4096),
                Device(mapping="p4", mdev="nvidia-63"),
                Device(vf_of="0000:03:00.0", pcie=False),
            ),
            by_mapping=True,
            storage="local-lvm",
            hookscript=hook,
        ),
        102: Wish(igd=True, numa=True, bios="seabios", hidden=True, storage="local-zfs", hookscript=hook),
    }


def test_the_schema_is_one_and_knows_each_setting() -> None:
    schema = wish_file.schema()
    jsonschema.Draft7Validator.check_schema(schema)
    of_vm = schema["properties"]["vms"]["additionalProperties"]["properties"]
    assert set(of_vm) == set(Wish._fields)
    of_device = set(schema["definitions"]["device"]["properties"])
    assert of_device == {
        *(set(Device._fields) - {"addresses", "ids", "kind", "framebuffer", "primary"}),
        *("device", "min_framebuffer", "primary_gpu"),
    }
    for name, rules in _properties(schema):
        assert rules.get("description") or "$ref" in rules, name


def _properties(schema: Any) -> list[tuple[str, dict[str, Any]]]:  # noqa: ANN401 - a schema
    found = []
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key in {"properties", "definitions"}:
                found += list(value.items())
            found += _properties(value)
    return found


@pytest.mark.parametrize(
    "text, line, message, hint",
    [
        ("vms:\n  100:\n    device: gpu\n", 3, "vms.100 has an unknown key device", "is devices meant?"),
        (
            "vms: {100: {devices: [{divice: gpu}]}}",
            1,
            "vms.100.devices entry 1 has an unknown key divice",
            "is device meant?",
        ),
        ("vms:\n  99: {igd: true}\n", 2, "vms has 99, which is no VMID", "use numbers from 100"),
        ("vms:\n  100:\n    igd: yes\n", 3, "vms.100.igd must be true or false, not yes", ""),
        ("vms:\n  100:\n    devices: gpu\n", 3, "vms.100.devices must be a list, not gpu", "begin each entry with `-`"),
        (
            "vms:\n  100:\n    devices:\n      - gpu\n      - 3\n",
            5,
            "vms.100.devices entry 2 is 3",
            "use an address, vendor:device",
        ),
        ("vms:\n  100:\n    bios: uefi\n", 3, "vms.100.bios is uefi", "use ovmf, seabios"),
        ("vms:\n  100:\n    devices:\n      - nic\n      - gpuu\n", 5, "entry 2: gpuu is no device", "is gpu meant?"),
        (
            "vms:\n  100:\n    devices:\n      - mdev: best\n        min_framebuffer: much\n",
            5,
            "min_framebuffer: much",
            "4G",
        ),
        (
            "vms:\n  100:\n    devices:\n      - device: 01:00\n        rom: ../x\n",
            5,
            "rom: ../x is no ROM file",
            "give the name",
        ),
        ("vms:\n  100: {devices: [{rom: x}]}\n", 2, "it is not said which device is wanted", "use an address"),
        ("defaults:\n  storage: a b\nvms:\n  100: {igd: true}\n", 2, "defaults.storage: a b is no name", "pvesm"),
        ("vms:\n  100: {}\n", 2, "vms.100: nothing is required", "name a device"),
        ("vms:\n  100:\n    igd: true\n  100:\n    igd: true\n", 4, "no YAML: 100 is there twice", "indentation"),
        ("vms:\n  0100: {igd: true}\n", 2, "0100, which is no VMID", "from 100"),
        ("", 1, "the file must be a mapping of keys to values, not empty", ""),
        ("{}", 1, "the file has no vms", "add it"),
        ("vms: [", 1, "no YAML", ""),
        ("vms: {100: null}", 1, "vms.100 must be a mapping of keys to values, not empty", ""),
    ],
)
def test_slips(text: str, line: int, message: str, hint: str) -> None:
    with pytest.raises(InputError) as raised:
        wish_file.load(text.encode(), "vms.yaml")
    assert raised.value.message.startswith(f"vms.yaml:{line}"), raised.value
    assert message in raised.value.message
    assert hint in raised.value.hint


def test_all_slips_are_told_by_line() -> None:
    checked = wish_file.check(b"vms:\n  100: {igd: 1}\n  101: {bios: x}\n  102: {devices: [gpuu]}\n")
    assert [slip.line for slip in checked.slips] == [2, 3]
    assert checked.wishes == {}
    later = wish_file.check(b"vms:\n  100: {devices: [gpuu]}\n  101: {igd: true}\n  102: {devices: [x, y]}\n")
    assert [(slip.line, slip.message) for slip in later.slips] == [
        (2, "vms.100.devices entry 1: gpuu is no device"),
        (4, "vms.102.devices entry 1: x is no device"),
    ]
    assert later.wishes == {}
    with pytest.raises(InputError, match=r"and 1 more"):
        wish_file.load(b"vms:\n  100: {igd: 1}\n  101: {bios: x}\n", "x")
