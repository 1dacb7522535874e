# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvepassthru.host import capacity
from pvepassthru.host.host import Host
from pvepassthru.host.inventory import Inventory
from pvepassthru.model import placement, profile
from tests import tree

if TYPE_CHECKING:
    from pathlib import Path

PF, UUID = "0000:08:00.0", "f715f63c-0d00-4007-9c5a-b07b0c6c05de"
TYPES = {
    "nvidia-744": ("1Q", 1024, 16),
    "nvidia-745": ("2Q", 2048, 8),
    "nvidia-746": ("4Q", 4096, 4),
    "nvidia-754": ("4C", 4096, 4),
}


def described(name: str, memory: int, most: int, available: int) -> dict[str, str]:
    description = f"num_heads=4, frl_config=60, framebuffer={memory}M, max_resolution=7680x4320, max_instance={most}"
    return {"available": str(available), "name": f"NVIDIA A2-{name}", "description": description}


def ampere(tmp_path: Path, instances: dict[int, str | None]) -> Inventory:
    """A GPU before kernel 6.8: each of its 16 VFs is an mdev parent that takes one instance of what still fits."""
    held = {TYPES[kind][1] for kind in instances.values() if kind}
    left = 16 - sum(16 // TYPES[kind][2] for kind in instances.values() if kind)
    devices: dict[str, dict[str, Any]] = {PF: {"vendor": "0x10de", "class": "0x030200"}}
    for number in range(16):
        rooms = {
            kind: int(number not in instances and held <= {memory} and left >= 16 // most)
            for kind, (_, memory, most) in TYPES.items()
        }
        types = {kind: described(*TYPES[kind], available) for kind, available in rooms.items()}
        made = {f"{UUID[:-2]}{number:02}": instances[number]} if number in instances else {}
        devices[vf(number)] = {"physfn": PF, "mdev": {"types": types, "instances": made}}
    root = tree.build(tmp_path, {"devices": devices})
    for number in range(16):
        tree.link(root, f"{tree.DEVICES}/{PF}/virtfn{number}", f"{tree.DEVICES}/{vf(number)}")
    return Inventory(Host(root))


def vf(number: int) -> str:
    number += 4
    return f"0000:08:{number // 8:02x}.{number % 8}"


def test_vfs_share_their_gpu(tmp_path: Path) -> None:
    """Three of 4 GB are there: each free VF says 1, and the GPU has room for one more."""
    inventory = ampere(tmp_path, {0: "nvidia-746", 1: "nvidia-746", 5: "nvidia-754"})
    (gpu,) = gpus = capacity.gpus(inventory, capacity.parents(inventory))
    assert (gpu.address, gpu.rule, gpu.used) == (PF, "equal", {"nvidia-746": 2, "nvidia-754": 1})
    assert sum(place.room["nvidia-746"] for place in gpu.places) == 13
    assert placement.room(gpus, "nvidia-746") == (1,)
    assert placement.room(gpus, "nvidia-744") == (0,)
    assert placement.plan(gpus, "nvidia-754", 2, "pack") == ((vf(2),), 0)


def test_what_is_on_other_functions_counts(tmp_path: Path) -> None:
    """A mapping need not have all VFs of a GPU."""
    inventory = ampere(tmp_path, {0: "nvidia-746"})
    (gpu,) = gpus = capacity.gpus(inventory, [vf(9), vf(3), vf(9)])
    assert [(place.address, place.position) for place in gpu.places] == [(vf(9), 0), (vf(3), 1)]
    assert not gpu.free
    assert placement.room(gpus, "nvidia-746") == (2,)
    assert placement.ranked(gpus, "nvidia-746", "pack") == (vf(9), vf(3))


def test_one_that_is_being_created(tmp_path: Path) -> None:
    inventory = ampere(tmp_path, {0: None})
    (gpu,) = capacity.gpus(inventory, [vf(1)])
    assert gpu.used == {"": 1}
    assert not gpu.free


def test_offers(tmp_path: Path) -> None:
    inventory = ampere(tmp_path, {})
    offers = capacity.offers(capacity.gpus(inventory, capacity.parents(inventory)))
    assert [(offer.profile.id, offer.room) for offer in offers] == [
        ("nvidia-744", 16),
        ("nvidia-745", 8),
        ("nvidia-746", 4),
        ("nvidia-754", 4),
    ]
    assert [offer.profile.name for offer in profile.choose(offers, 2048)] == [
        "NVIDIA A2-2Q",
        "NVIDIA A2-4Q",
        "NVIDIA A2-4C",
    ]


def test_exclusive_is_the_drivers_way(tmp_path: Path) -> None:
    """One GPU shows that types do not go together; the free one beside it has the same driver."""
    kinds = {1: 4, 2: 2, 4: 1}
    parents = {}
    for bus, used in ((3, True), (4, False)):
        types = {
            f"tbmdev-{units}": {
                "available": str((4 - used) // units if units == 1 or not used else 0),
                "description": f"units={units}, max_instance={most}",
            }
            for units, most in kinds.items()
        }
        instances = {UUID: "tbmdev-1"} if used else {}
        parents[f"0000:{bus:02}:00.0"] = {"mdev": {"types": types, "instances": instances}}
    inventory = Inventory(Host(tree.build(tmp_path, {"devices": parents})))
    gpus = capacity.gpus(inventory, parents)
    assert [gpu.rule for gpu in gpus] == ["exclusive", "exclusive"]
    assert placement.plan(gpus, "tbmdev-2", 9, "spread").placed == ("0000:04:00.0",) * 2
    assert placement.plan(gpus, "tbmdev-1", 3, "spread").placed == ("0000:04:00.0", "0000:03:00.0", "0000:04:00.0")


def test_nothing_there(tmp_path: Path) -> None:
    inventory = Inventory(Host(tree.build(tmp_path, {"devices": {PF: {}}})))
    assert capacity.parents(inventory) == ()
    assert capacity.gpus(inventory, ()) == ()
    assert placement.room(capacity.gpus(inventory, [PF]), "nvidia-1") == (0,)
