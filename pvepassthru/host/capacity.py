# SPDX-License-Identifier: Apache-2.0
"""The GPUs of a host with what is on them and what they still offer, as model/placement.py plans with them.

Sources: Linux Documentation/ABI/testing/sysfs-bus-vfio-mdev; NVIDIA's vendor interface, tests/kernel/tbmdev.
"""

from __future__ import annotations

from pvepassthru.model import profile
from pvepassthru.model.placement import Gpu, Place, room, rule_of
from pvepassthru.model.profile import Offer
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from pvepassthru.host.inventory import Inventory
    from pvepassthru.model.profile import Profile

VENDOR = "nvidia-"
"""How the types of NVIDIA's vendor interface are written in `mdev=`, before their number."""


def gpus(inventory: Inventory, addresses: Iterable[str], taken: Container[str] = ()) -> tuple[Gpu, ...]:
    """The GPUs that these functions (mdev parents, or VFs with the vendor interface) belong to, in their order.

    What is on a GPU counts wherever it is, on its other functions too. VFs in `taken`, which somebody has reserved,
    offer nothing.
    """
    grouped: dict[str, dict[str, int]] = {}
    for position, address in enumerate(dict.fromkeys(addresses)):
        grouped.setdefault(inventory.physical_function(address) or address, {})[address] = position
    found = [_gpu(inventory, address, positions, taken) for address, positions in grouped.items()]
    exclusive = [frozenset(gpu.profiles) for gpu in found if gpu.rule == "exclusive"]  # the same driver shows it there
    return tuple(
        gpu._replace(rule="exclusive") if gpu.rule == "shared" and frozenset(gpu.profiles) in exclusive else gpu
        for gpu in found
    )


def parents(inventory: Inventory) -> tuple[str, ...]:
    """The functions that offer mdev or vGPU types, or have a vGPU type set, sorted."""
    return tuple(
        address
        for address in inventory.addresses()
        if inventory.has(address, "mdev_supported_types") or inventory.vgpu_current(address) is not None
    )


def offers(found: tuple[Gpu, ...]) -> tuple[Offer, ...]:
    """Every type that these GPUs know, with how many more of it fit on all of them together, sorted by its id."""
    profiles = {kind: known for gpu in found for kind, known in gpu.profiles.items()}
    return tuple(Offer(profiles[kind], sum(room(found, kind))) for kind in sorted(profiles))


def _gpu(inventory: Inventory, address: str, positions: dict[str, int], taken: Container[str]) -> Gpu:
    profiles: dict[str, Profile] = {}
    used: dict[str, int] = {}
    for function in dict.fromkeys((address, *positions, *inventory.virtual_functions(address))):
        for uuid in inventory.mdevs_of(function):
            kind = inventory.mdev(uuid).type or ""  # none yet, or none any more: it is being created, or removed
            used[kind] = used.get(kind, 0) + 1
        current = inventory.vgpu_current(function)
        if current not in {None, "", "0"}:
            used[f"{VENDOR}{current}"] = used.get(f"{VENDOR}{current}", 0) + 1
    places = []
    for function, position in positions.items():
        left: dict[str, int] = {}
        for kind, available in inventory.mdev_room(function).items():
            if kind not in profiles:
                named = inventory.mdev_type(function, kind)
                profiles[kind] = profile.read(kind, named.name, named.description)
            left[kind] = 1 if available is None else available
        current = inventory.vgpu_current(function)
        for number, name in inventory.vgpu_creatable(function).items():
            profiles.setdefault(f"{VENDOR}{number}", profile.read(f"{VENDOR}{number}", name, None))
            left[f"{VENDOR}{number}"] = int(current == "0" and function not in taken)
        places.append(Place(function, position, left))
    return Gpu(address, tuple(places), used, profiles, rule_of(places, used, profiles))
