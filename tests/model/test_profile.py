# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from pvepassthru.model.profile import Offer, Profile, choose, megabytes, read

P4 = "num_heads=4, frl_config=60, framebuffer=2048M, max_resolution=7680x4320, max_instance=4"
GVT = "low_gm_size: 128MB\nhigh_gm_size: 512MB\nfence: 4\nresolution: 1920x1200\nweight: 4"


@pytest.mark.parametrize(
    "type_id, name, description, expected",
    [
        ("nvidia-64", "GRID P4-2Q", P4, Profile("nvidia-64", "GRID P4-2Q", 2048, 4, "P4", "Q")),
        ("nvidia-557", "NVIDIA A40-4Q", None, Profile("nvidia-557", "NVIDIA A40-4Q", 4096, None, "A40", "Q")),
        (
            "nvidia-9",
            "NVIDIA RTX6000-Ada-8C",
            None,
            Profile("nvidia-9", "NVIDIA RTX6000-Ada-8C", 8192, None, "RTX6000-Ada", "C"),
        ),
        ("nvidia-1", "GRID M60-0B", None, Profile("nvidia-1", "GRID M60-0B", 512, None, "M60", "B")),
        ("nvidia-2", "NVIDIA DC-1-24Q", None, Profile("nvidia-2", "NVIDIA DC-1-24Q", 24576, 7, "DC", "Q", 1)),
        ("nvidia-3", "GRID A100-2-10CME", None, Profile("nvidia-3", "GRID A100-2-10CME", 10240, 3, "A100", "C", 2)),
        ("nvidia-4", "Testbed 1Q", None, Profile("nvidia-4", "Testbed 1Q", None, None)),
        ("nvidia-5", None, "framebuffer=1024M", Profile("nvidia-5", None, 1024, None)),
        ("i915-GVTg_V5_4", "GVTg_V5_4", GVT, Profile("i915-GVTg_V5_4", "GVTg_V5_4", 640, 4)),
        ("i915-GVTg_V5_8", None, None, Profile("i915-GVTg_V5_8", None, 448, 8)),
        ("i915-GVTg_V5_", None, None, Profile("i915-GVTg_V5_", None, None, None)),
        ("tbmdev-2", "Testbed 2Q", "units=2, max_instance=2", Profile("tbmdev-2", "Testbed 2Q", None, 2)),
        ("mtty-2", "Dual-port 4-1Q", "x\x00=,,", Profile("mtty-2", "Dual-port 4-1Q", None, None)),
    ],
)
def test_read(type_id: str, name: str | None, description: str | None, expected: Profile) -> None:
    assert read(type_id, name, description) == expected


def test_time_sliced() -> None:
    assert read("nvidia-64", "GRID P4-2Q", P4).time_sliced
    assert not read("nvidia-2", "NVIDIA DC-1-24Q", None).time_sliced
    assert not read("i915-GVTg_V5_4", None, GVT).time_sliced


@pytest.mark.parametrize(
    "text, expected",
    [
        ("4096M", 4096),
        ("128MB", 128),
        ("4G", 4096),
        ("4 GiB", 4096),
        ("4gb", 4096),
        ("1T", 1048576),
        ("512", 512),
        ("", None),
        (None, None),
        ("G", None),
        ("-1G", None),
        ("1.5G", None),
        ("4K", None),
        ("४G", None),
    ],
)
def test_megabytes(text: str | None, expected: int | None) -> None:
    assert megabytes(text) == expected


def test_choose() -> None:
    def offer(name: str, room: int) -> Offer:
        return Offer(read(f"nvidia-{name}", f"NVIDIA A16-{name}", None), room)

    offers = [offer("8Q", 2), offer("4A", 3), offer("4Q", 3), offer("4C", 4), offer("2Q", 9), offer("16Q", 0)]
    unknown = Offer(Profile("mtty-1", None, None, None), 20)
    best = [found.profile.id for found in choose([unknown, *offers], 3000)]
    assert best == ["nvidia-4C", "nvidia-4Q", "nvidia-4A", "nvidia-8Q"]
    assert [found.profile.id for found in choose(offers, 4096, 4)] == ["nvidia-4C"]
    assert choose(offers, 16384) == ()
    assert choose(offers, 0, 0)[0].profile.id == "nvidia-2Q"
