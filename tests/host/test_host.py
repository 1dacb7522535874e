# SPDX-License-Identifier: Apache-2.0
"""The host's files: reading never raises where it says so, and writing raises what the kernel says."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host.host import Host, open_host
from pvepassthru.host.sim import SimHost
from tests import tree

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mock import MockerFixture


@pytest.fixture
def files(tmp_path: Path) -> Host:
    return Host(str(tmp_path))


def put(host: Host, path: str, content: str | bytes) -> None:
    tree.put(host.root, path, content)


def refusal(caught: pytest.ExceptionInfo[OSError]) -> str:
    return errno.errorcode[caught.value.errno or 0]


# ---- reading


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 65535, 65536, 65537, 3_000_000])
def test_read_of_any_size(files: Host, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    put(files, "/etc/file", content[:size])
    assert files.read("/etc/file") == content[:size]


def test_read_in_short_pieces(files: Host, mocker: MockerFixture) -> None:
    """Some files of proc come in pieces shorter than asked for."""
    put(files, "/etc/file", b"abcdefg")
    read = os.read
    mocker.patch("os.read", side_effect=lambda fd, _size: read(fd, 2))
    assert files.read("/etc/file") == b"abcdefg"


def test_read_refuses_what_is_too_large(files: Host) -> None:
    put(files, "/etc/file", b"x" * 200_000)
    with pytest.raises(OSError, match="large") as caught:
        files.read("/etc/file", 100_000)
    assert refusal(caught) == "EFBIG"


def test_read_raises_what_the_kernel_says(files: Host) -> None:
    tree.folder(files.root, "/etc/folder")
    os.symlink("loop", f"{files.root}/etc/loop")
    put(files, "/etc/file", "")
    expected = {"/etc/absent": "ENOENT", "/etc/folder": "EISDIR", "/etc/loop": "ELOOP", "/etc/file/x": "ENOTDIR"}
    for path, name in expected.items():
        with pytest.raises(OSError, match=r"^\[Errno") as caught:
            files.read(path)
        assert refusal(caught) == name


def test_read_never_waits_for_a_fifo(files: Host) -> None:
    os.mkfifo(f"{files.root}/fifo")
    assert files.read("/fifo") == b""


def test_text(files: Host) -> None:
    put(files, "/value", " 0x10de \n")
    put(files, "/bytes", b"\xff\x00\n")
    assert files.text("/value") == "0x10de"
    assert files.text("/bytes") == "\udcff\0"
    assert files.unreadable == {}


def test_absent_is_not_unreadable(files: Host) -> None:
    put(files, "/file", "")
    for path in ("/absent", "/file/below"):
        assert files.text(path) is None
        assert files.names(path) == []
        assert files.link(path) is None
        assert files.resolve(path) is None
        assert not files.exists(path)
    assert files.link("/file") is None
    assert files.names("/file") == []
    assert files.unreadable == {}


def test_unreadable_is_noted(files: Host) -> None:
    os.symlink("loop", f"{files.root}/loop")
    tree.folder(files.root, "/folder")
    assert files.text("/folder") is None
    assert files.text("/loop") is None
    assert files.names("/loop/x") == []
    assert files.resolve("/loop/y") is None
    assert not files.exists("/loop/z")
    expected = {"/folder": errno.EISDIR, **dict.fromkeys(("/loop", "/loop/x", "/loop/y", "/loop/z"), errno.ELOOP)}
    assert files.unreadable == expected


def test_names_are_sorted(files: Host) -> None:
    for name in ("b", "a", "C"):
        put(files, f"/folder/{name}", "")
    assert files.names("/folder") == ["C", "a", "b"]


def test_link_may_dangle(files: Host) -> None:
    os.symlink("../../bus/pci/drivers/nvidia", f"{files.root}/driver")
    assert files.link("/driver") == "nvidia"
    assert not files.exists("/driver")


def test_resolve_stays_below_the_root(files: Host, tmp_path: Path) -> None:
    tree.put(tmp_path, "/usr/share/kvm/rom.bin")
    tree.link(tmp_path, "/usr/share/kvm/link", "/usr/share/kvm/rom.bin")
    os.symlink("/etc/passwd", tmp_path / "usr/share/kvm/out")
    os.symlink("../" * 30 + "etc/passwd", tmp_path / "usr/share/kvm/up")
    assert files.resolve("/usr/share/kvm/link") == "/usr/share/kvm/rom.bin"
    assert files.resolve("/usr/share/kvm/../kvm/rom.bin") == "/usr/share/kvm/rom.bin"
    assert files.resolve("/usr/share/kvm/out") is None
    assert files.resolve("/usr/share/kvm/up") is None
    assert files.resolve("/") == "/"


def test_resolve_below_a_root_that_is_a_link(tmp_path: Path) -> None:
    tree.put(tmp_path, "/real/etc/file")
    os.symlink("real", tmp_path / "link")
    assert Host(f"{tmp_path}/link").resolve("/etc/file") == "/etc/file"


def test_resolve_does_not_take_a_neighbour_for_the_root(tmp_path: Path) -> None:
    tree.put(tmp_path, "/root2/file")
    tree.folder(tmp_path, "/root")
    os.symlink("../root2/file", tmp_path / "root/file")
    assert Host(f"{tmp_path}/root").resolve("/file") is None


# ---- the node


@pytest.mark.parametrize(
    "path, content, node",
    [
        ("/etc/hostname", "pve1\n", "pve1"),
        ("/etc/hostname", "pve1.example.org\n", "pve1"),
        ("/proc/sys/kernel/hostname", "pve2\n", "pve2"),
        ("/etc/other", "", "localhost"),
    ],
)
def test_node(files: Host, path: str, content: str, node: str) -> None:
    put(files, path, content)
    assert files.node == node
    assert Host(files.root, "given").node == "given"


def test_node_of_this_machine() -> None:
    assert Host().node == os.uname().nodename.split(".")[0]


# ---- writing


def test_write_is_one_write(files: Host, mocker: MockerFixture) -> None:
    put(files, "/attribute", "")
    spy = mocker.spy(os, "write")
    files.write("/attribute", "0000:01:00.0\n")
    assert [call.args[1] for call in spy.call_args_list] == [b"0000:01:00.0\n"]
    with pytest.raises(FileNotFoundError):
        files.write("/absent", "1")


def test_append(files: Host, mocker: MockerFixture) -> None:
    put(files, "/journal", "one\n")
    files.append("/journal", "two\n")
    assert files.read("/journal") == b"one\ntwo\n"
    os.symlink("journal", f"{files.root}/link")
    for path, name in (("/absent", "ENOENT"), ("/link", "ELOOP")):
        with pytest.raises(OSError, match=path) as caught:
            files.append(path, "x")
        assert refusal(caught) == name
    mocker.patch("os.write", return_value=1)
    with pytest.raises(OSError, match="/journal") as caught:
        files.append("/journal", "three\n")
    assert refusal(caught) == "ENOSPC"


def test_replace(files: Host) -> None:
    put(files, "/run/file", "old")
    files.replace("/run/file", b"new", 0o640)
    assert files.read("/run/file") == b"new"
    assert stat.S_IMODE(os.stat(f"{files.root}/run/file").st_mode) == 0o640
    assert files.names("/run") == ["file"]


def test_replace_that_fails_leaves_the_old(files: Host, mocker: MockerFixture) -> None:
    put(files, "/run/file", "old")
    mocker.patch("os.write", side_effect=OSError(errno.ENOSPC, "full"))
    with pytest.raises(OSError, match="full"):
        files.replace("/run/file", b"new")
    assert files.read("/run/file") == b"old"
    assert files.names("/run") == ["file"]


def test_replace_in_an_absent_folder(files: Host) -> None:
    with pytest.raises(FileNotFoundError):
        files.replace("/absent/file", b"new")


def test_remove(files: Host) -> None:
    put(files, "/file", "")
    files.remove("/file")
    files.remove("/file")
    assert not files.exists("/file")
    tree.folder(files.root, "/folder")
    with pytest.raises(OSError, match="/folder"):
        files.remove("/folder")


# ---- which host


def test_open_host(tmp_path: Path) -> None:
    assert type(open_host()) is Host
    assert open_host().root == ""
    host = open_host(f"{tmp_path}/", "pve")
    assert isinstance(host, SimHost)
    assert (host.root, host.node, host.simulated) == (str(tmp_path), "pve", True)
