# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

import pytest

from pvepassthru.api import present
from pvepassthru.api.change import Change, KeyChange, Need, Write

if TYPE_CHECKING:
    from pvepassthru.api.present import Present

VM = Need("/vms/100", "VM.Config.HWType")


@pytest.mark.parametrize(
    "key,old,new,needs",
    [
        ("hostpci0", None, "0000:01:00", None),
        ("hostpci0", "mapping=gpu", "0000:01:00", None),
        ("hostpci0", "01:00", "mapping=gpu", None),
        ("hostpci0", "01:00", None, None),
        ("hostpci0", None, "mapping=gpu,romfile=x.rom", None),
        ("hostpci0", " ", "mapping=gpu", None),
        ("hostpci0", "garbage", "mapping=gpu", None),
        ("hostpci0", None, "mapping=gpu", (Need("/mapping/pci/gpu", "Mapping.Use"), VM)),
        ("hostpci0", "mapping=gpu", None, (Need("/mapping/pci/gpu", "Mapping.Use"), VM)),
        (
            *("hostpci0", "mapping=gpu", "mapping=a1,driver=keep"),
            (Need("/mapping/pci/a1", "Mapping.Use"), Need("/mapping/pci/gpu", "Mapping.Use"), VM),
        ),
        ("machine", None, "q35", (VM,)),
        ("vga", "std", "none", (VM,)),
        ("bios", None, "ovmf", (Need("/vms/100", "VM.Config.Options"),)),
        ("balloon", "1", "0", (Need("/vms/100", "VM.Config.Memory"),)),
        ("cpu", None, "host", (Need("/vms/100", "VM.Config.CPU"),)),
        (
            *("efidisk0", None, "zfs1:1,efitype=4m"),
            (Need("/vms/100", "VM.Config.Disk"), Need("/storage/zfs1", "Datastore.AllocateSpace")),
        ),
        ("hookscript", None, "local:snippets/x", None),
        ("affinity", None, "0-3", None),
        ("args", None, "-foo", None),
    ],
)
def test_who_may_make_it(key: str, old: str | None, new: str | None, needs: tuple[Need, ...] | None) -> None:
    """As the facts of the API have it; None is root@pam alone."""
    change = KeyChange(key, old, new, "x")
    assert change.root_only == (needs is None)
    assert change.needs(100) == (needs or ())


@pytest.mark.parametrize(
    "in_force,needs",
    [
        ("01:00", ()),
        ("mapping=a1", (Need("/mapping/pci/a1", "Mapping.Use"), Need("/mapping/pci/gpu", "Mapping.Use"), VM)),
    ],
)
def test_what_is_in_force_counts_too(in_force: str, needs: tuple[Need, ...]) -> None:
    change = KeyChange("hostpci0", "mapping=gpu", None, "x", in_force)
    assert change.root_only == (needs == ())
    assert change.needs(100) == needs


def test_the_order_of_writes() -> None:
    """First what is refused most, each on its own; each request needs one privilege; a new volume last."""
    now = present.of_file(100, "pve1", b"")
    keys = (
        KeyChange("hostpci0", None, "mapping=gpu,pcie=1", "x"),
        KeyChange("hostpci1", None, "04:00.0,pcie=1", "x"),
        KeyChange("efidisk0", None, "zfs1:1", "x"),
        KeyChange("machine", "pc", None, "x"),
        KeyChange("vga", None, "none", "x"),
        KeyChange("bios", None, "ovmf", "x"),
        KeyChange("hookscript", None, "local:snippets/x", "x"),
    )
    assert Change(now, now, keys, (), ()).writes() == (
        Write({"hostpci1": "04:00.0,pcie=1"}, ()),
        Write({"hookscript": "local:snippets/x"}, ()),
        Write({"hostpci0": "mapping=gpu,pcie=1"}, ()),
        Write({"vga": "none"}, ("machine",)),
        Write({"bios": "ovmf"}, ()),
        Write({"efidisk0": "zfs1:1"}, ()),
    )


# ---- the present config


def test_a_file_has_the_digest_that_pve_gives_it() -> None:
    data = b"memory: 512\n#a note\n"
    now = present.of_file(100, "pve1", data)
    assert now.digest == hashlib.sha1(data, usedforsecurity=False).hexdigest()
    assert now.values == {"memory": "512"}
    assert now.changed({"memory": None, "cores": "2"}).text == b"cores: 2\n"
    assert now.changed({}).digest is None


CONFIG = {
    "hostpci0": "0000:01:00,pcie=1,x-vga=1",
    "name": "vm100",
    "boot": " ",
    "memory": "512",
    "cores": 1,
    "onboot": True,
    "meta": "creation-qemu=10.1.2,ctime=1795371285",
    "digest": "888c",
    "description": "a\nhostpci1: 04:00.0",
}


def test_by_the_api() -> None:
    now = present.of_api(100, "pve1", CONFIG)
    assert (now.digest, now.get("cores"), now.get("onboot"), now.get("boot")) == ("888c", "1", "1", " ")
    assert [entry.host for entry in now.section.entries.values()] == ["0000:01:00"]
    assert now.get("description") is None
    assert not now.config.has_pending


def test_by_the_api_with_what_is_pending() -> None:
    """As it answers after a refused request of several keys, and for a key that is to be deleted."""
    pending: list[dict[str, object]] = [
        {"key": "machine", "value": "q35"},
        {"key": "cores", "value": 1, "pending": 2},
        {"key": "hostpci0", "pending": "0000:03:10.0,pcie=1"},
        {"key": "vga", "value": "std", "delete": 1},
        {"key": "digest", "value": "888c"},
        {"key": "description", "value": "x\nmemory: 1"},
        {"value": "no key"},
    ]
    now = present.of_api(100, "pve1", {"digest": "888c"}, pending)
    assert now.config.main.get("cores") == "1"
    assert now.config.has_pending
    assert now.values == {"machine": "q35", "cores": "2", "hostpci0": "0000:03:10.0,pcie=1"}


def test_odd_answers_do_not_break_it() -> None:
    odd: dict[str, object] = {
        "hostpci0": None,
        "a\nhostpci1": "04:00.0",
        "b": "1\nhostpci2: 04:00.0",
        "c": ["x"],
        "d": 1.5,
    }
    now: Present = present.of_api(100, "pve1", odd)
    assert now.values == {"d": "1.5"}
    assert now.digest is None


TRANSCRIPTS = os.path.join(os.path.dirname(__file__), "../../../shared/facts/api-transcripts.jsonl")


def test_recorded_answers() -> None:
    """Each recorded config of a VM is read to the last key."""
    if not os.path.exists(TRANSCRIPTS):
        pytest.skip("no recorded API: there is no api-transcripts.jsonl beside the checkout")
    seen = 0
    with open(TRANSCRIPTS, encoding="utf-8") as file:
        calls = [json.loads(line) for line in file]
    for call in calls:
        data = (call["response_body"] or {}).get("data") if isinstance(call["response_body"], dict) else None
        if call["method"] == "GET" and call["path"].endswith("/config") and isinstance(data, dict):
            now = present.of_api(100, "pve1", data)
            options = {key: str(value) for key, value in data.items() if key not in {"digest", "description"}}
            assert now.values == options
            assert now.digest == data["digest"]
            seen += 1
    assert seen > 3
