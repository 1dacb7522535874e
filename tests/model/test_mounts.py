# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pvepassthru.model import mounts
from pvepassthru.model.mounts import Mount, Swap

ROOT = "27 1 253:1 / / rw,relatime shared:1 - ext4 /dev/mapper/pve-root rw,errors=remount-ro"
ANONYMOUS = r"95 27 0:45 /@ /mnt/a\040b\134c rw,noexec shared:7 master:3 - btrfs /dev/sda3 rw,subvol=/@"


def test_mountinfo() -> None:
    assert mounts.mountinfo(f"{ROOT}\n{ANONYMOUS}\n") == (
        (
            Mount("253:1", "/", "ext4", "/dev/mapper/pve-root"),
            Mount("0:45", "/mnt/a b\\c", "btrfs", "/dev/sda3", noexec=True),
        ),
        None,
    )


def test_half_a_line_is_told() -> None:
    for length in range(1, len(ROOT) - len("rw,errors=remount-ro")):
        found, bad = mounts.mountinfo(f"{ANONYMOUS}\n{ROOT[:length]}")
        assert (len(found), bad) == (1, 2), ROOT[:length]
    assert mounts.mountinfo(ROOT[:-3])[1] is None


def test_mounts() -> None:
    assert mounts.mounts("/dev/sda2 /boot ext4 rw 0 0\nhalf\n") == ((Mount("", "/boot", "ext4", "/dev/sda2"),), 2)
    assert mounts.mounts("a /b c rw,noexec,relatime 0 0\nd /e f noexecs 0 0\n")[0] == (
        Mount("", "/b", "c", "a", noexec=True),
        Mount("", "/e", "f", "d"),
    )


def test_swaps() -> None:
    text = (
        "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        "/dev/dm-1                               partition\t8388604\t\t0\t\t-2\n"
        "/swap\\040file file 1 0 -3\n/half\n"
    )
    assert mounts.swaps(text) == ((Swap("/dev/dm-1", "partition"), Swap("/swap file", "file")), 4)


def test_the_mount_of_a_file() -> None:
    among = tuple(Mount("", point, "ext4", source) for point, source in (("/", "a"), ("/var", "b"), ("/var", "c")))
    assert mounts.mounted_at("/var/swap", among) == among[2]  # the later one lies over the other
    assert mounts.mounted_at("/variable/swap", among) == among[0]
    assert mounts.mounted_at("/swap", among[1:]) is None


@given(st.text())
def test_anything_else_is_survived(text: str) -> None:
    for parse in (mounts.mountinfo, mounts.mounts, mounts.swaps):
        found, bad = parse(text)
        assert bad is None or 1 <= bad <= text.count("\n") + 1
        assert len(found) <= text.count("\n") + 1


@given(st.text(alphabet=st.characters(codec="ascii", exclude_characters="\n\r\x00"), min_size=1))
def test_names_come_back(name: str) -> None:
    """The kernel writes what would break its lines as octal numbers."""
    escaped = "".join(f"\\{ord(char):03o}" if char in " \t\n\\#" else char for char in name)
    ((found,), _) = mounts.mountinfo(ROOT.replace(" / / ", f" / /{escaped} "))
    assert found.point == f"/{name}"
