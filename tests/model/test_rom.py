# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvepassthru.model import rom
from tests.rom_images import BLOCK, DEVICE, EFI, LEGACY, both, image

IMAGES = st.lists(
    st.builds(
        image,
        st.sampled_from([LEGACY, EFI, 1, 0xE0]),
        ids=st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)),
        devices=st.lists(st.integers(1, 0xFFFF), max_size=8).map(tuple),
        blocks=st.integers(1, 4),
        last=st.just(value=False),
        machine=st.sampled_from(sorted(rom.MACHINES)),
    ),
    min_size=1,
    max_size=5,
)


def reasons(data: bytes) -> list[str]:
    return [fault.reason for fault in rom.parse(data).faults]


def test_legacy_and_efi() -> None:
    found = rom.parse(both())
    assert found == rom.Rom(
        2048,
        0,
        "",
        (
            rom.Image(0, "legacy", 0, *DEVICE, (), 0x030000, 1024, False, None, False, True),  # noqa: FBT003 - in order
            rom.Image(1024, "EFI", 3, *DEVICE, (), 0x030000, 1024, True, 0x8664, True, None),  # noqa: FBT003 - in order
        ),
        (),
        (),
    )
    assert found.image("EFI") == found.images[1]
    assert found.image("other") is None


@given(IMAGES)
def test_chain_is_read_as_it_was_built(images: list[bytes]) -> None:
    data = b"".join(images)
    found = rom.parse(data)
    assert b"".join(data[each.offset : each.offset + each.length] for each in found.images) == data
    assert [fault.reason for fault in found.faults] == ["no-last"]
    assert found.faults[0].offset == len(data)
    assert found.strays == ()
    single = [rom.parse(each).images[0] for each in images]
    assert [each._replace(offset=0, checksum_fits=None) for each in found.images] == [
        each._replace(checksum_fits=None) for each in single
    ]
    assert [each.checksum_fits for each in found.images if each.kind == "legacy"][:1] in ([], [True])


@given(st.binary(max_size=4096))
def test_never_raises(data: bytes) -> None:
    rom.parse(data)
    rom.parse(b"\x55\xaa" + data)


@given(st.binary(max_size=64), st.integers(0, 2047))
def test_mutated_rom_never_raises(junk: bytes, place: int) -> None:
    data = both()
    found = rom.parse(data[:place] + junk + data[place + len(junk) :])
    assert all(0 <= each.offset < found.size for each in (*found.images, *found.strays))
    assert bool(found.images) or bool(found.faults)


@given(st.integers(0, 2047))
def test_each_truncation_is_a_fault(length: int) -> None:
    faults = rom.parse(both()[:length]).faults
    assert {fault.reason for fault in faults} & {"no-signature", "truncated", "no-last", "no-pcir"}


def test_vendor_header_is_told_with_its_length() -> None:
    found = rom.parse(b"NVGI" + b"\x55\xaa" * 510 + both())
    assert (found.header, found.header_name) == (1024, "NVGI")
    assert [each.offset for each in found.images] == [1024, 2048]
    assert [fault.reason for fault in found.faults] == ["header"]
    assert 'a header "NVGI" of 1024 bytes' in found.faults[0].message


def test_header_need_not_be_whole_blocks() -> None:
    found = rom.parse(b"\0\1\2" + both())
    assert (found.header, found.header_name, len(found.images)) == (3, "", 2)


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"", ["no-signature"]),
        (b"\x55", ["no-signature"]),
        (b"\x55\xaa", ["no-pcir"]),
        (b"MZ" + bytes(4096), ["no-signature"]),
        (image(says=0), ["no-length"]),
        (image(says=3), ["truncated"]),
        (image(blocks=1, last=False) + bytes(BLOCK), ["no-last"]),
        (image(EFI, signature=0), ["bad-efi"]),
        (image(LEGACY) + b"trailing", []),
    ],
)
def test_faults(data: bytes, expected: list[str]) -> None:
    assert reasons(data) == expected


def test_words_of_a_file_without_an_image() -> None:
    assert rom.parse(b"\xff" * 512).faults[0].message == "holds nothing but the byte ff"
    assert "starts with 4d 5a instead of 55 aa" in rom.parse(b"MZ12").faults[0].message
    assert "starts with nothing instead" in rom.parse(b"").faults[0].message


def test_images_beside_the_chain_are_strays() -> None:
    behind = rom.parse(image(LEGACY, last=True) + image(EFI))
    assert [each.kind for each in behind.images] == ["legacy"]
    assert [(each.kind, each.offset) for each in behind.strays] == [("EFI", 1024)]
    broken = rom.parse(image(LEGACY, blocks=2, says=1, last=False) + image(EFI))
    assert [each.offset for each in broken.strays] == [1024]
    assert [fault.reason for fault in broken.faults] == ["no-last"]


def test_device_list() -> None:
    found = rom.parse(image(EFI, devices=(0x1111, 0x2222))).images[0]
    assert found.devices == (0x1111, 0x2222)
    assert found.is_for(0x10DE, 0x2222)
    assert found.is_for(0x10DE, 0x2204)
    assert not found.is_for(0x10DE, 0x3333)
    assert not found.is_for(0x1002, 0x2222)


def test_older_data_structures_have_no_device_list() -> None:
    assert rom.parse(image(devices=(0x1111,), revision=0)).images[0].devices == ()


def test_any_device_of_a_vendor() -> None:
    found = rom.parse(image(EFI, ids=(0x8086, 0xFFFF))).images[0]
    assert found.is_for(0x8086, 0x4680)
    assert not found.is_for(0x10DE, 0x4680)


def test_device_list_that_runs_off_the_end() -> None:
    data = bytearray(image(EFI, blocks=1))
    data[0x1C + 8 : 0x1C + 10] = (BLOCK - 0x1C - 3).to_bytes(2, "little")
    data[-3:] = b"\x01\x02\x03"
    assert rom.parse(bytes(data)).images[0].devices == (0x0201,)


def test_checksum() -> None:
    assert rom.parse(image(LEGACY, bad_sum=True)).images[0].checksum_fits is False
    without_size = bytearray(image(LEGACY))
    without_size[2] = 0
    assert rom.parse(bytes(without_size)).images[0].checksum_fits is None


@pytest.mark.parametrize(
    "block",
    [
        image(blocks=1, last=False, devices=tuple(range(1, 200))),
        b"\x55\xaa" * (BLOCK // 2),
        bytes(BLOCK),
    ],
    ids=["images", "signatures", "zeros"],
)
def test_the_largest_rom_is_read_in_time(block: bytes) -> None:
    """16 MiB of what costs most; the limit is generous, an algorithm that is not linear takes minutes."""
    data = b"X" + block * (rom.LARGEST // BLOCK - 1)
    started = time.process_time()
    rom.parse(data)
    rom.parse(data[1:])
    assert time.process_time() - started < 20
