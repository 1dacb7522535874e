# SPDX-License-Identifier: Apache-2.0
"""What all commands have in common: output that cannot be written, bugs, missing modules, the node's name."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pvepassthru.cli import explain
from pvepassthru.cli.main import COMMANDS, build_parser, main
from tests import tree
from tests.kernel import guest

if TYPE_CHECKING:
    from pathlib import Path

CLOSED = "pvepassthru: cannot write the output: standard output is closed\n"
FULL = "pvepassthru: cannot write the output: No space left on device\n"
WITHOUT_FILELOCK = (
    "import sys; sys.modules['filelock'] = None; from pvepassthru.cli.main import main; sys.exit(main(sys.argv[1:]))"
)


@pytest.fixture
def root(tmp_path: Path) -> str:
    return tree.build(tmp_path, configs={100: "memory: 512\n"})


def shell(python: str, words: str, redirection: str, *, before: str = "") -> tuple[int, str]:
    """Run the program with its output redirected by bash; returns its exit code and standard error."""
    done = subprocess.run(
        ["/bin/bash", "-c", f"{before} exec {python} -m pvepassthru {words} {redirection}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=guest.PROJECT,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", ["--help", "--version", "explain PVP201", "explain --all", "explain --all --json"])
@pytest.mark.parametrize("before", ["", "PYTHONUNBUFFERED=1"], ids=["buffered", "unbuffered"])
def test_full_output(words: str, before: str, python: str) -> None:
    assert shell(python, words, ">/dev/full", before=before) == (5, FULL)


def test_full_output_and_error(python: str) -> None:
    assert shell(python, "explain --all", ">/dev/full 2>/dev/full") == (5, "")


@pytest.mark.parametrize(
    "words", ["--help", "--version", "recover --help", "demo", "explain --all", "validate --all", "status", "plan 100"]
)
def test_closed_output(words: str, root: str, python: str) -> None:
    assert shell(python, f"--root {root} {words}", ">&-") == (5, CLOSED)


@pytest.mark.parametrize(
    "words, code",
    [("explain X", 3), ("bogus", 2), ("validate", 2), ("validate x", 2), ("--node=. status", 2), ("recover", 7)],
)
def test_closed_error_output(words: str, code: int, root: str, python: str) -> None:
    """What cannot be said is not put among the output."""
    os.chmod(tree.folder(root, "run/pvepassthru"), 0o777)
    assert shell(python, f"--root {root} {words}", "2>&- | cat >&2", before="set -o pipefail;") == (code, "")


def test_closed_streams_are_no_files_of_ours(python: str) -> None:
    """What a child of ours does with its standard streams must not reach a lock file."""
    code = "import os; from pvepassthru.cli.main import main; main(['status']); os.fstat(0); os.fstat(1)"
    command = ["/bin/bash", "-c", f'exec {python} -c "{code}" <&- >&-']
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=guest.PROJECT)
    assert (done.returncode, done.stderr) == (0, CLOSED)


def test_hook_needs_no_output(root: str, python: str) -> None:
    """PVE goes by its exit code, and a start must not fail for want of a reader."""
    assert shell(python, f"--root {root} hook 100 pre-start", ">&-") == (0, "")


def test_reader_that_has_left(python: str) -> None:
    done = subprocess.run(
        ["/bin/bash", "-c", f"{python} -m pvepassthru explain --all --json | true; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=guest.PROJECT,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_reader_that_leaves_the_demo(python: str) -> None:
    """Whichever of its commands finds out."""
    with subprocess.Popen(
        [python, "-m", "pvepassthru", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=guest.PROJECT,
    ) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        while not demo.stdout.readline().startswith("$ pvepassthru validate"):
            pass
        demo.stdout.close()
        assert demo.stderr.read() == ""
    assert demo.returncode == 0


def test_empty_root_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVEPASSTHRU_ROOT", "")
    assert build_parser().parse_args(["status"]).root == "/"


def test_bug_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object) -> int:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(explain, "run", broken)
    assert main(["explain", "PVP201"]) == 5
    assert capsys.readouterr().err == (
        "pvepassthru: RuntimeError: two\\nlines; this is a bug of pvepassthru, please report this\n"
    )
    monkeypatch.setenv("PVEPASSTHRU_DEBUG", "1")
    with pytest.raises(RuntimeError):
        main(["explain", "PVP201"])


@pytest.mark.parametrize("words", [["validate", "--all"], ["plan", "100"], ["mdev", "list"], ["status"]])
def test_without_filelock(words: list[str], root: str) -> None:
    """Only recover takes PVE's locks with it."""
    command = [sys.executable, "-c", WITHOUT_FILELOCK, "--root", root]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False, cwd=guest.PROJECT)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run([*command, "recover"], capture_output=True, text=True, check=False, cwd=guest.PROJECT)
    assert (done.returncode, done.stderr) == (
        5,
        "pvepassthru: the Python module filelock is missing; install python3-filelock\n",
    )


@pytest.mark.parametrize("node", ["", "../other", "a/b", "-a", "a-", "a.b", "\u00e4", "a\n"])
def test_node_is_no_path(node: str, root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", root, f"--node={node}", "status"]) == 2
    assert "is no node's name" in capsys.readouterr().err


@pytest.mark.parametrize("node", ["a", "pve-1", "1"])
def test_node(node: str, root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", root, "--node", node, "status"]) == 2
    assert capsys.readouterr().err == (
        f"pvepassthru: --node {node} is no node of this cluster; {root}/etc/pve/nodes has pve\n"
    )
    tree.folder(root, f"etc/pve/nodes/{node}")
    assert main(["--root", root, "--node", node, "status"]) == 0


def test_node_where_no_nodes_are_known(tmp_path: Path) -> None:
    """A captured tree need not have them."""
    assert main(["--root", str(tmp_path), "--node", "a", "status"]) == 0


def test_every_command_has_a_module(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit) as caught:
            main([name, "--help"])
        assert caught.value.code == 0
        assert f"pvepassthru {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_argument_has_its_help(name: str) -> None:
    subparsers = build_parser([name])._subparsers
    assert subparsers is not None
    (commands,) = subparsers._group_actions
    assert isinstance(commands.choices, dict)
    for action in commands.choices[name]._actions:
        assert action.help or action.choices, action
