# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pvepassthru.model import label
from pvepassthru.model.label import Label
from tests.storage import zfs_label

GUID = 7812345678901234567


def test_lvm() -> None:
    for sector in range(4):
        start = bytes(512 * sector) + b"LABELONE" + bytes(4096)
        assert label.parse(start) == Label("LVM2_member")
    assert label.parse(bytes(2048) + b"LABELONE" + bytes(4096)) is None


def test_md() -> None:
    superblock = bytes.fromhex("fc4e2ba9") + (1).to_bytes(4, "little")
    assert label.parse(superblock + bytes(8192)) == Label("linux_raid_member")
    assert label.parse(bytes(4096) + superblock + bytes(8192)) == Label("linux_raid_member")
    assert label.parse(bytes(8) + superblock + bytes(8192)) is None


def test_zfs() -> None:
    assert label.parse(zfs_label("rpool", GUID)) == Label("zfs_member", "rpool", str(GUID))
    assert label.parse(zfs_label("a-pool.of: mine", GUID)) == Label("zfs_member", "a-pool.of: mine", str(GUID))


def test_a_cache_device_of_zfs_names_no_pool() -> None:
    assert label.parse(zfs_label(None, None)) is None


def test_nothing() -> None:
    assert label.parse(b"") is None
    assert label.parse(bytes(label.BYTES)) is None
    assert label.parse(zfs_label("rpool", GUID)[:20_000][:16_400]) is None


@given(st.binary(max_size=400))
def test_damage_is_survived(damage: bytes) -> None:
    """Whatever stands in a label, and wherever it ends."""
    start = zfs_label("rpool", GUID)
    for place in (16 * 1024, 16 * 1024 + 12, 16 * 1024 + 40):
        label.parse(start[:place] + damage + start[place + len(damage) :])
        label.parse(start[:place] + damage)
    label.parse(damage)


@given(st.integers(0, 16 * 1024 + 400))
def test_half_a_label_is_survived(length: int) -> None:
    found = label.parse(zfs_label("rpool", GUID)[:length])
    assert found is None or found.kind == "zfs_member"
