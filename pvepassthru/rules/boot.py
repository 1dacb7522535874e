# SPDX-License-Identifier: Apache-2.0
"""Which VM gets which device when the node boots and starts all VMs that start by themselves, one after the other.

As PVE takes them: VMs by `startup` order, then by VMID; of a mapping the first device that is free and fits.
What is assumed of a driver is what cannot make a shortage out of nothing: mediated devices that exist now leave room of
their own type, and vGPU sizes exclude each other only where no sign of NVIDIA's mixed-size mode is seen.
"""

from __future__ import annotations

from pvepassthru.model import pci
from pvepassthru.model.profile import size_of
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.rules.demand import demand

if TYPE_CHECKING:
    from typing import Literal

    from pvepassthru.rules.demand import Wish
    from pvepassthru.rules.subject import Surroundings

    Cause = Literal["pool", "mdev", "vgpu", "size"]
    _Why = tuple[Cause, tuple[int, ...], str]


class Shortage(NamedTuple):
    """An entry for which nothing is left."""

    wish: Wish
    cause: Cause
    takers: tuple[int, ...]
    """The other VMs that have it then, in the order of their starts."""
    detail: str
    """Of sizes: which GPU, and its size."""


def shortages(around: Surroundings) -> dict[int, tuple[Shortage, ...]]:
    """What VMs lack after a boot, by VMID; ask through `around.once`."""
    wanted = around.once(demand)
    starting = sorted(
        (guest for guest in wanted.guests.values() if guest.starts), key=lambda guest: (guest.order, guest.vmid)
    )
    node = _Node(around, frozenset(guest.vmid for guest in starting))
    for guest in starting:
        for wish in guest.wishes:
            node.start(wish)
    return {vmid: tuple(lacks) for vmid, lacks in node.lacking.items()}


class _Node:
    """The devices of a node while it boots. A place in a mapping only moves on, so all starts together are linear."""

    def __init__(self, around: Surroundings, starting: frozenset[int]) -> None:
        self.inventory = around.inventory
        self.starting = starting
        self.lacking: dict[int, list[Shortage]] = {}
        self.used: dict[str, int] = {}
        """VMs by function."""
        self.places: dict[tuple[object, str | None], int] = {}
        """By pool and type, how many of its alternatives are of no more use."""
        self.room: dict[tuple[str, str], int | None] = {}
        """Instances left by parent and mdev type; None where that cannot be told."""
        self.instances: dict[tuple[str, str], list[int]] = {}
        """VMs that have an instance, by parent and type."""
        self.sizes: dict[str, tuple[int, int]] = {}
        """The size that a GPU is set to, and by which VM."""
        self.names: dict[str, dict[str, str]] = {}
        self.mixed: dict[str, bool] = {}
        self.disturbed: dict[str, bool] = {}
        """By GPU whether it has mediated devices that nobody makes again after a boot: they hide what room there is."""
        self.busy: dict[tuple[str, str], bool] = {}
        """By GPU and vGPU type whether another type is set on one of its VFs."""
        self.causes: dict[tuple[object, str | None], _Why] = {}
        """By pool and type why nothing is left."""
        self.vfs: dict[str, list[str]] | None = None

    def start(self, wish: Wish) -> None:
        """Give an entry its device, or note what is lacking."""
        if wish.mdev:
            self._start_mdev(wish, wish.mdev)
        elif wish.functions:
            self._take(wish, wish.functions)
        else:
            self._choose(wish)

    def _lack(self, wish: Wish, why: _Why) -> None:
        cause, users, detail = why
        takers = tuple(vmid for vmid in users if vmid != wish.vmid)
        if takers:  # else the VM's own entries take all, or nothing fits at all: rules on the VM alone tell of that
            self.lacking.setdefault(wish.vmid, []).append(Shortage(wish, cause, takers, detail))

    # ---- whole devices and vendor vGPUs

    def _take(self, wish: Wish, functions: tuple[str, ...]) -> None:
        if any(function in self.used for function in functions):
            return  # two VMs name the same function: rules of their own tell of that
        if wish.nvidia:
            gpu, size = self._sized(functions[0], wish.nvidia)
            if size and self._excluded(gpu, size):
                self._lack(wish, self._size_cause(gpu))
                return
            self._set(gpu, size, wish)
        self.used.update(dict.fromkeys(functions, wish.vmid))

    def _choose(self, wish: Wish) -> None:
        """Of a mapping with several alternatives the first that is free and fits."""
        key = (wish.pool, wish.nvidia)
        place = self.places.get(key, 0)
        while place < len(wish.alternatives) and not self._fits(wish, wish.alternatives[place]):
            place += 1
        self.places[key] = place
        if place == len(wish.alternatives):
            if key not in self.causes:
                self.causes[key] = self._cause_of_pool(wish)
            self._lack(wish, self.causes[key])
            return
        functions = wish.alternatives[place]
        if wish.nvidia:
            self._set(*self._sized(functions[0], wish.nvidia), wish)
        self.used.update(dict.fromkeys(functions, wish.vmid))

    def _fits(self, wish: Wish, functions: tuple[str, ...]) -> bool:
        if any(function in self.used for function in functions):
            return False
        if not wish.nvidia:
            return True
        gpu, size = self._sized(functions[0], wish.nvidia)
        return self._can_offer(functions[0], wish.nvidia) and not (size and self._excluded(gpu, size))

    def _can_offer(self, address: str, kind: str) -> bool:
        """Whether a VF has or offers this type now, or may offer it once another that its GPU has now is gone."""
        if self.inventory.vgpu_current(address) is None:
            return False
        if kind in self.inventory.vgpu_creatable(address) or self.inventory.vgpu_current(address) == kind:
            return True
        gpu = self._gpu(address)
        if (gpu, kind) not in self.busy:
            has = {self.inventory.vgpu_current(vf) for vf in self._vfs(gpu)}
            self.busy[gpu, kind] = bool(has - {None, "0", kind})
        return self.busy[gpu, kind]

    def _cause_of_pool(self, wish: Wish) -> _Why:
        """Why no alternative is left: another size on the GPU of one that is free, or other VMs have all."""
        kind = wish.nvidia or ""
        for functions in wish.alternatives if kind else ():
            gpu, size = self._sized(functions[0], kind)
            free = functions[0] not in self.used and self._can_offer(functions[0], kind)
            if free and size and self._excluded(gpu, size):
                return self._size_cause(gpu)
        users = (self.used[name] for functions in wish.alternatives for name in functions if name in self.used)
        return ("vgpu" if kind else "pool", tuple(dict.fromkeys(users)), "")

    # ---- classic mediated devices

    def _start_mdev(self, wish: Wish, kind: str) -> None:
        parents = [functions[0] for functions in wish.alternatives]
        key = (wish.pool or parents[0], kind)
        place = self.places.get(key, 0)
        while place < len(parents) and self._no_room(parents[place], kind):
            place += 1
        self.places[key] = place
        if place < len(parents):
            self._create(wish, parents[place], kind)
            return
        if key not in self.causes:
            sized = next((parent for parent in parents if self._left(parent, kind) != 0), None)
            users = (vmid for parent in parents for vmid in self.instances.get((parent, kind), ()))
            self.causes[key] = (
                self._size_cause(self._gpu(sized)) if sized else ("mdev", tuple(dict.fromkeys(users)), "")
            )
        self._lack(wish, self.causes[key])

    def _no_room(self, parent: str, kind: str) -> bool:
        size = self._mdev_size(parent, kind)
        return self._left(parent, kind) == 0 or bool(size and self._excluded(self._gpu(parent), size))

    def _left(self, parent: str, kind: str) -> int | None:
        """Instances of a type that a parent can still have in this boot; None if that cannot be told."""
        key = (parent, kind)
        if key not in self.room:
            self.room[key] = self._capacity(parent, kind)
        return self.room[key]

    def _capacity(self, parent: str, kind: str) -> int | None:
        if not self.inventory.has(parent, f"mdev_supported_types/{kind}"):
            return 0
        gpu = self._gpu(parent)
        if gpu not in self.disturbed:
            owners = (pci.vmid_of_uuid(uuid) for vf in self._vfs(gpu) for uuid in self.inventory.mdevs_of(vf))
            self.disturbed[gpu] = not all(owner and owner[1] in self.starting for owner in owners)
        left = self.inventory.mdev_available(parent, kind)
        if self.disturbed[gpu] or left is None:
            return None
        return left + sum(self.inventory.mdev(uuid).type == kind for uuid in self.inventory.mdevs_of(parent))

    def _create(self, wish: Wish, parent: str, kind: str) -> None:
        left = self._left(parent, kind)
        self.room[parent, kind] = None if left is None else left - 1
        self.instances.setdefault((parent, kind), []).append(wish.vmid)
        self._set(self._gpu(parent), self._mdev_size(parent, kind), wish)

    # ---- sizes

    def _size_cause(self, gpu: str) -> _Why:
        size, first = self.sizes[gpu]
        return ("size", (first,), f"{gpu} is set to {size} GB then")

    def _gpu(self, address: str) -> str:
        return self.inventory.physical_function(address) or address

    def _sized(self, address: str, kind: str) -> tuple[str, int | None]:
        """The GPU of a VF, and the size of a vendor vGPU type there."""
        gpu = self._gpu(address)
        if gpu not in self.names:
            self.names[gpu] = {
                number: name for vf in self._vfs(gpu) for number, name in self.inventory.vgpu_creatable(vf).items()
            }
        return gpu, size_of(self.names[gpu].get(kind))

    def _vfs(self, gpu: str) -> list[str]:
        if self.vfs is None:
            self.vfs = {}
            for address in self.inventory.addresses():
                if self.inventory.has(address, "nvidia") or self.inventory.has(address, "mdev_supported_types"):
                    self.vfs.setdefault(self._gpu(address), []).append(address)
        return self.vfs.get(gpu, [gpu])

    def _mdev_size(self, parent: str, kind: str) -> int | None:
        return size_of(self.inventory.attribute(parent, f"mdev_supported_types/{kind}/name"))

    def _set(self, gpu: str, size: int | None, wish: Wish) -> None:
        if size is not None:
            self.sizes.setdefault(gpu, (size, wish.vmid))

    def _excluded(self, gpu: str, size: int) -> bool:
        """Whether a GPU that is set to another size cannot take this one."""
        if gpu not in self.sizes or self.sizes[gpu][0] == size:
            return False
        if gpu not in self.mixed:
            self.mixed[gpu] = self._is_mixed(gpu)
        return not self.mixed[gpu]

    def _is_mixed(self, gpu: str) -> bool:
        """Whether what the GPU's functions have and offer now shows that it takes sizes side by side."""
        placed: set[int | None] = set()
        offered: set[int | None] = set()
        for address in self._vfs(gpu):
            _, current = self._sized(address, self.inventory.vgpu_current(address) or "0")
            placed.add(current)
            offered |= {size_of(name) for name in self.inventory.vgpu_creatable(address).values()}
            for uuid in self.inventory.mdevs_of(address):
                placed.add(self._mdev_size(address, self.inventory.mdev(uuid).type or ""))
            for kind, left in self.inventory.mdev_room(address).items():
                if left:
                    offered.add(self._mdev_size(address, kind))
        placed.discard(None)
        offered.discard(None)
        return len(placed) > 1 or bool(placed and offered - placed)
