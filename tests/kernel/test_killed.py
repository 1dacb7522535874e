# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.kernel import killed
from tests.kernel.killed import At

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import os, sys
folder = sys.argv[1]
os.mkdir(folder + "/made")
fd = os.open(folder + "/made/file", os.O_WRONLY | os.O_CREAT)
os.write(fd, b"first\\n")
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    with open("/dev/null"):
        os.write(fd, b"child\\n")
    os.write(writer, b"x")
    os._exit(0)
os.close(writer)
os.read(reader, 1)
os.waitpid(child, 0)
os.write(fd, b"second\\n")
os.rename(folder + "/made/file", folder + "/made/renamed")
with open(folder + "/made/more", "a"):
    pass
os.unlink(folder + "/made/renamed")
sys.exit(int(sys.argv[2]))
"""
STATES: tuple[tuple[str, dict[str, str | None]], ...] = (
    ("", {}),
    ("mkdir", {"made": None}),
    ("open", {"made": None, "made/file": ""}),
    ("write", {"made": None, "made/file": "first\n"}),
    ("write", {"made": None, "made/file": "first\nchild\n"}),
    ("write", {"made": None, "made/file": "first\nchild\n"}),  # the pipe
    ("write", {"made": None, "made/file": "first\nchild\nsecond\n"}),
    ("rename", {"made": None, "made/renamed": "first\nchild\nsecond\n"}),
    ("open", {"made": None, "made/renamed": "first\nchild\nsecond\n", "made/more": ""}),
    ("unlink", {"made": None, "made/more": ""}),
)
"""The changes of the script, each with what there is after it."""


@pytest.fixture(name="script")
def make_script(tmp_path: Path) -> Path:
    path = tmp_path / "script"
    path.write_text(SCRIPT)
    (tmp_path / "tree").mkdir()
    return path


def state(tree: Path) -> dict[str, str | None]:
    return {str(path.relative_to(tree)): None if path.is_dir() else path.read_text() for path in tree.rglob("*")}


def run(words: list[str]) -> int:
    return subprocess.run(words, check=False, timeout=30, stdin=subprocess.DEVNULL).returncode


def test_changes_are_counted_over_the_children(script: Path, tmp_path: Path) -> None:
    seen = killed.changes(str(script), str(tmp_path / "tree"), "0")
    assert [line.split()[0] for line in seen] == [name for name, _ in STATES[1:]]
    assert seen[0] == f"mkdir {tmp_path}/tree/made"
    assert seen[2] == f"write {tmp_path}/tree/made/file"
    assert seen[4].startswith("write pipe:")
    assert state(tmp_path / "tree") == STATES[-1][1]


@pytest.mark.parametrize("number", range(1, len(STATES)))
def test_killed_before(script: Path, tmp_path: Path, number: int) -> None:
    tree = tmp_path / "tree"
    assert run(killed.command(str(script), str(tree), "0", at=At(before=number))) == -signal.SIGKILL
    assert state(tree) == STATES[number - 1][1]


@pytest.mark.parametrize("number", range(1, len(STATES)))
def test_killed_after(script: Path, tmp_path: Path, number: int) -> None:
    tree = tmp_path / "tree"
    assert run(killed.command(str(script), str(tree), "0", at=At(after=number))) == -signal.SIGKILL
    assert state(tree) == STATES[number][1]


def test_a_spared_child_goes_on(script: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    words = killed.command(str(script), str(tree), "0", at=At(before=4, spare_child=True))
    done = subprocess.run(words, check=False, timeout=30, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert done.returncode == -signal.SIGKILL  # read to the end of stdout, which the child has open, so it is over
    assert state(tree) == STATES[4][1]


def test_a_script_that_ends_earlier(script: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    assert run(killed.command(str(script), str(tree), "7", at=At(before=len(STATES)))) == 7
    assert state(tree) == STATES[-1][1]


def test_the_script_sees_its_own_arguments(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("import sys\nprint(sys.argv, __name__, sys.flags.isolated)\n")
    words = killed.command(str(script), "100", "--before", "pre-start", at=At(before=5))
    done = subprocess.run(words, check=True, timeout=30, stdout=subprocess.PIPE, text=True)
    assert done.stdout == f"{[str(script), '100', '--before', 'pre-start']} __main__ 1\n"
