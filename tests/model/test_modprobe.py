# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pvepassthru.model import modprobe, sysfs_conf, vfio_ids

NAMES = st.text("abcdefgh_-0123", min_size=1, max_size=12)
TEXTS = st.text(st.sampled_from("abo=:,#;\\ \t\n\r\"'\0\udcff") | st.characters(), max_size=200)


def lines(text: str) -> list[tuple[int, str, str, str]]:
    return [(line.number, line.command, line.module, line.rest) for line in modprobe.parse(text, "/f")[0]]


@pytest.mark.parametrize(
    "text,expected",
    [
        ("options vfio-pci ids=1:2\n", [(1, "options", "vfio_pci", "ids=1:2")]),
        ("\n\n  blacklist\tnouveau  # why\n", [(3, "blacklist", "nouveau", "# why")]),
        ("# options a b\n#options a b\n", []),
        (
            "options vfio-pci \\\n  ids=1:2\nblacklist x\\\n",
            [(1, "options", "vfio_pci", "ids=1:2"), (3, "blacklist", "x", "")],
        ),
        ("softdep snd-hda-intel pre: vfio-pci post: x\r\n", [(1, "softdep", "snd_hda_intel", "pre: vfio-pci post: x")]),
        ("alias pci:v000010DEd* vfio-pci", [(1, "alias", "pci:v000010DEd*", "vfio-pci")]),
        (
            "install a /bin/false\nremove a b\nweakdep a b",
            [(1, "install", "a", "/bin/false"), (2, "remove", "a", "b"), (3, "weakdep", "a", "b")],
        ),
        ("", []),
        ("\\", []),
    ],
)
def test_lines(text: str, expected: list[tuple[int, str, str, str]]) -> None:
    assert lines(text) == expected
    assert modprobe.parse(text, "/f")[1] == ()


@pytest.mark.parametrize(
    "text,why",
    [
        ("Options vfio-pci ids=1:2", "Options is no command of modprobe"),
        ("options", "no module is named"),
        ("options vfio-pci", "nothing follows vfio-pci"),
        ("include /etc/x", "include is obsolete"),
        ("blacklist \\\n\n", "no module is named"),
    ],
)
def test_lines_that_kmod_passes_over(text: str, why: str) -> None:
    good, (bad,) = modprobe.parse(f"# one\n{text}\n", "/f")
    assert (good, bad.why, bad.where) == ((), why, "/f:2")


@given(st.lists(st.tuples(NAMES, st.text('abc=,:0 "', max_size=9)), max_size=6))
def test_what_is_written_is_read_back(written: list[tuple[str, str]]) -> None:
    text = "".join(f"options {name} x{rest}\n" for name, rest in written)
    expected = [(n, "options", modprobe.plain(name), f"x{rest}".strip()) for n, (name, rest) in enumerate(written, 1)]
    assert lines(text) == expected


@given(TEXTS)
@example("options a b\\\n\\\n\\")
def test_any_text_is_read(text: str) -> None:
    good, bad = modprobe.parse(text, "/f")
    count = text.count("\n") + 1
    numbers = sorted([line.number for line in good] + [line.number for line in bad])
    assert len(set(numbers)) == len(numbers)
    assert all(1 <= number <= count for number in numbers)
    assert all(line.module and line.command in modprobe.COMMANDS for line in good)
    assert all(isinstance(name, str) for line in good for name, _ in line.settings)
    assert all(1 <= number <= count for number, _ in modprobe.listed(text))


def test_settings() -> None:
    (line,), _ = modprobe.parse('options drm edid="a b" vblank-off=1 poll ids=1:2,3:4\n', "/f")
    assert line.settings == (("edid", "a b"), ("vblank_off", "1"), ("poll", ""), ("ids", "1:2,3:4"))


def test_listed() -> None:
    text = "# modules\n\nvfio\n  vfio-pci option\n;loop\nkvmgt # why\n"
    assert modprobe.listed(text) == ((3, "vfio"), (4, "vfio-pci"), (6, "kvmgt"))


# ---- vfio-pci ids=


@pytest.mark.parametrize("text", ["10de", "10de:", ":1", "10de:22041:g", "10de-2204", "1:2:3:4:5:6:7", "123456789:1"])
def test_ids_that_the_kernel_passes_over(text: str) -> None:
    assert [one.values for one in vfio_ids.parse(text)] == [None]


def test_ids_fit() -> None:
    gpu = ("10de", "2204", "1043", "87b5", "030000")
    fitting = [
        "10de:2204",
        "0x10DE:2204",
        " 10de:2204",
        "10de:2204 ",
        "10de:2204:1043",
        "10de:2204:1043:87b5",
        "10de:2204:ffffffff:ffffffff:030000:ffff00",
    ]
    other = ["10de:2205", "10de:2204:1044", "10de:2204:1043:0000", "10de:2204:1043:87b5:040000:ffff00", "10de"]
    assert [one.text for one in vfio_ids.parse(",".join([*fitting, *other])) if one.fits(*gpu)] == fitting
    assert not any(one.fits("", "", "", "", "") for one in vfio_ids.parse(",".join(fitting)))


@given(TEXTS)
def test_any_ids_are_read(text: str) -> None:
    found = vfio_ids.parse(text)
    assert ",".join(one.text for one in found) == ",".join(part for part in text.split(",") if part)
    assert all(isinstance(one.fits("10de", "2204", "", "", "030000"), bool) for one in found)


@given(st.lists(st.integers(0, 0xFFFF), min_size=2, max_size=4))
def test_an_id_fits_its_own_device(numbers: list[int]) -> None:
    texts = [f"{number:04x}" for number in numbers]
    (one,) = vfio_ids.parse(":".join(texts))
    vendor, device, subvendor, subdevice = (*texts, "abcd", "ef01")[:4]
    assert one.fits(vendor, device, subvendor, subdevice, "020000")


# ---- sysfs.conf


def test_sysfs_conf() -> None:
    text = (
        "# comment\nclass/net/eth0/device/sriov_numvfs = 4 # four\nmode a/b = 0600\nowner a/b = root\n"
        "a/b=1\n/c d\ne =\nf = 1 2\ng\n"
    )
    found = [(line.number, line.attribute, line.value) for line in sysfs_conf.parse(text)]
    assert found == [
        (2, "class/net/eth0/device/sriov_numvfs", "4"),
        (5, "a/b", "1"),
        (6, "/c", "d"),
        (7, "e", None),
        (8, "f", None),
        (9, "g", None),
    ]
    assert sysfs_conf.parse("/c d")[0].path == "/sys/c"


@given(TEXTS)
def test_any_sysfs_conf_is_read(text: str) -> None:
    assert all(line.attribute and "#" not in line.attribute for line in sysfs_conf.parse(text))
