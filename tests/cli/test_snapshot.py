# SPDX-License-Identifier: Apache-2.0
"""`snapshot`, and every command on its file: the same output as on the host, and a word where a command writes."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from pvepassthru.cli.main import main
from tests import tree
from tests.rules.example import DEVICES

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = "machine: q35\nhostpci0: 0000:01:00,pcie=1,x-vga=1\nhostpci1: mapping=absent\ncipassword: secret\n"


@pytest.fixture
def root(tmp_path: Path) -> str:
    configs: dict[int, str | bytes] = {
        100: CONFIG,
        101: "hostpci0: 0000:41:00.0,mdev=nvidia-63\n",
        102: "hostpci0: 0000:41:00.0,mdev=nvidia-65\n",
    }
    return tree.build(tmp_path / "host", {"devices": DEVICES}, node="pve", configs=configs, running={101: 42})


def words(root: str, line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["--root", root, *line.split()])
    output = capsys.readouterr()
    return code, output.out, output.err


COMMANDS = (
    "validate --all",
    "validate --all --json",
    "validate 100 101",
    "devices",
    "devices --json",
    "devices --groups",
    "devices --tree",
    "devices 01:00",
    "devices 41:00.0 --json",
    "mdev types",
    "mdev types --json",
    "mdev list --json",
    "status --json",
    "plan 101",
    "plan 100 --json",
)


def test_every_command_says_the_same(root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "pve.tar.xz")
    code, output, errors = words(root, f"snapshot -o {file}", capsys)
    assert (code, errors) == (0, "")
    assert output.startswith(f"{file}: ")
    assert " files of pve in " in output
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert os.listdir(tmp_path) == ["host", "pve.tar.xz"] or sorted(os.listdir(tmp_path)) == ["host", "pve.tar.xz"]
    for line in COMMANDS:
        assert words(file, line, capsys) == words(root, line, capsys), line


def test_commands_that_write_say_what_it_is(root: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "pve.tar.xz")
    assert main(["--root", root, "snapshot", "-o", file]) == 0
    with open(file, "rb") as stream:
        before = stream.read()
    capfd.readouterr()
    code, output, errors = words(file, "hook 102 pre-start", capfd)
    assert "created" in output, errors
    assert code == 0
    assert errors == (
        f"pvepassthru: {file} is a snapshot of pve: what this changes is a copy of it, and lost at the end\n"
    )
    with open(file, "rb") as stream:
        assert stream.read() == before
    assert words(file, "mdev list --json", capfd)[1] == "[]\n"


def test_secrets_only_with_full(root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output, _ = words(root, f"snapshot -o {tmp_path}/a.tar.xz --full", capsys)
    assert code == 0
    assert "it holds secrets" in output


def test_an_existing_file_stays(root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.tar.xz"
    file.write_text("mine")
    code, _, errors = words(root, f"snapshot -o {file}", capsys)
    assert code == 2
    assert "it is there already; add --force" in errors
    assert file.read_text() == "mine"
    os.chmod(file, 0o644)
    assert words(root, f"snapshot -o {file} --force", capsys)[0] == 0
    assert file.read_bytes() != b"mine"
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600


def test_what_is_no_plain_file_stays(root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.tar.xz"
    os.mkfifo(file)
    link = tmp_path / "b.tar.xz"
    link.symlink_to(file)
    for name in (file, link):
        code, _, errors = words(root, f"snapshot -o {name} --force", capsys)
        assert code == 2
        assert "it is there and is no plain file" in errors
    assert stat.S_ISFIFO(os.lstat(link).st_mode) is False
    assert stat.S_ISFIFO(os.lstat(file).st_mode)


@pytest.mark.parametrize("name, code", [("a.zip", 2), ("no/such/a.tar.xz", 5)])
def test_where_it_cannot_go(
    name: str, code: int, root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _, errors = words(root, f"snapshot -o {tmp_path}/{name}", capsys)
    assert found == code
    assert errors.count("\n") == 1


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["snapshot", "--list"]) == 0
    output = capsys.readouterr().out
    assert "/etc/pve/qemu-server: *.conf (reduced)\n" in output
    assert "/sys/firmware/acpi/tables: * (names only)\n" in output


@pytest.mark.parametrize("content", [b"", b"no archive", b"\xfd7zXZ\x00" + bytes(100)])
def test_no_snapshot(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.tar.xz"
    file.write_bytes(content)
    code, output, errors = words(str(file), "status", capsys)
    assert (code, output) == (4, "")
    assert errors.startswith(f"pvepassthru: {file} is ")
    assert errors.count("\n") == 1


def test_unreadable_snapshot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert words(f"{tmp_path}/absent.tar.xz", "status", capsys)[0] == 2
