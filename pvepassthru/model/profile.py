# SPDX-License-Identifier: Apache-2.0
"""What an mdev or vGPU type is, read from its name and description; and the choice of one by what is required.

Sources: NVIDIA's naming of vGPU types (BOARD-SIZE and the series' letter; MIG-backed ones BOARD-SLICES-SIZE, with
attributes behind the letter) and the descriptions that its driver writes; Linux drivers/gpu/drm/i915/gvt (GVT-g).
"""

from __future__ import annotations

from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import number

if TYPE_CHECKING:
    from collections.abc import Iterable

SERIES = "QCAB"
"""NVIDIA's series, first the one that can do most: workstations, computing, applications, desktops."""
MIG_SLICES = 7
"""Compute slices of a GPU in MIG mode."""
GVT_WEIGHTS = 16
"""What the weights of the GVT-g instances on one GPU add up to; type V5_N has 16/N."""
_GVT = "i915-GVTg_V"
_GVT_MEMORY = {8: 64 + 384, 4: 128 + 512, 2: 256 + 1024, 1: 512 + 2048}
"""MiB of graphics memory, low and high together, of the GVT-g type V4_N or V5_N."""
_UNITS = {"": 1, "M": 1, "G": 1024, "T": 1024 * 1024}


class Profile(NamedTuple):
    """One mdev or vGPU type; what its name and description do not tell is None."""

    id: str
    """As in `mdev=`: nvidia-63 or i915-GVTg_V5_4."""
    name: str | None
    framebuffer: int | None
    """Graphics memory in MiB; of GVT-g low and high together."""
    most: int | None
    """How many an empty GPU takes."""
    board: str | None = None
    """Of an NVIDIA type: A40, RTX6000-Ada."""
    series: str | None = None
    """Of an NVIDIA type: Q, A, B or C."""
    slices: int | None = None
    """Of a MIG-backed type, how many compute slices it needs; else None."""

    @property
    def time_sliced(self) -> bool:
        """Whether it is one of NVIDIA's types that share a GPU by time, whose sizes exclude each other by default."""
        return self.series is not None and self.slices is None and self.framebuffer is not None


class Offer(NamedTuple):
    """A type with how many more instances of it fit on all of the devices asked about."""

    profile: Profile
    room: int


def read(type_id: str, name: str | None, description: str | None) -> Profile:
    """The profile of a type, from the texts that sysfs has of it (a vendor vGPU type has only a name)."""
    said = _description(description)
    most = number(said.get("max_instance"))
    if type_id.startswith(_GVT):
        return _gvt(type_id, name, said)
    board, slices, size, series = _name(name) if type_id.startswith("nvidia-") else (None, None, None, None)
    if most is None and slices:
        most = MIG_SLICES // slices or None
    return Profile(type_id, name, megabytes(said.get("framebuffer")) or size, most, board, series, slices)


def size_of(name: str | None) -> int | None:
    """The size in a time-sliced vGPU type's name in GB (`A16-4Q`: 4), or None; MIG slices have no such limit."""
    _, slices, size, series = _name(name)
    return size // 1024 if size is not None and series and slices is None else None


def megabytes(text: str | None) -> int | None:
    """An amount of memory in MiB: `4096M`, `4G`, `4GB`, `4 GiB`, or a plain number of MiB; None if it is none."""
    word = (text or "").strip().upper()
    for ending in ("IB", "B"):
        if word.endswith(ending):
            word = word.removesuffix(ending)
            break
    unit = word[-1:] if word[-1:] in _UNITS else ""
    amount = number(word.removesuffix(unit).strip())
    return None if amount is None else amount * _UNITS[unit]


def choose(offers: Iterable[Offer], framebuffer: int, instances: int = 1) -> tuple[Offer, ...]:
    """The types with at least `framebuffer` MiB of which at least so many instances fit, the best one first.

    Best is the least memory, then the most instances, then the series that can do most, then the name.
    """
    fitting = [
        offer
        for offer in offers
        if (offer.profile.framebuffer or 0) >= max(1, framebuffer) and offer.room >= max(1, instances)
    ]
    return tuple(sorted(fitting, key=_rank))


def _rank(offer: Offer) -> tuple[int, int, int, str, str]:
    profile = offer.profile
    series = SERIES.index(profile.series) if profile.series else len(SERIES)
    return profile.framebuffer or 0, -offer.room, series, profile.name or "", profile.id


def _description(text: str | None) -> dict[str, str]:
    """The values of a description: NVIDIA's `a=1, b=2`, or GVT-g's lines `a: 1`."""
    parts = (part for line in (text or "").splitlines() for part in line.split(","))
    pairs = (part.partition("=" if "=" in part else ":") for part in parts)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _gvt(type_id: str, name: str | None, said: dict[str, str]) -> Profile:
    nth = number(type_id.rpartition("_")[2]) or 0
    sizes = [megabytes(said.get(key)) for key in ("low_gm_size", "high_gm_size")]
    known = [size for size in sizes if size is not None]
    weight = number(said.get("weight")) or 0
    most = GVT_WEIGHTS // weight if weight else nth or None
    return Profile(type_id, name, sum(known) if known else _GVT_MEMORY.get(nth), most)


def _name(name: str | None) -> tuple[str | None, int | None, int | None, str | None]:
    """Board, slices, MiB and series of an NVIDIA type's name; all None if it is not built like one."""
    head, dash, tail = (name or "").rpartition("-")
    digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
    series, attributes = tail[len(digits) : len(digits) + 1], tail[len(digits) + 1 :]
    size = number(digits[:9])
    board = head.rpartition(" ")[2]
    if not dash or size is None or not series or series not in SERIES or not board:
        return None, None, None, None
    left, _, middle = board.rpartition("-")
    slices = number(middle) if left else None
    if slices:
        whole = not attributes or (attributes.isalnum() and attributes.isupper())
        return (left, slices, size * 1024, series) if whole else (None, None, None, None)
    if attributes:
        return None, None, None, None
    return board, None, size * 1024 or 512, series  # the smallest of old boards, M60-0Q, has half a GB
