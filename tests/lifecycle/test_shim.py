# SPDX-License-Identifier: Apache-2.0
"""The shim as PVE runs it: with the package, and without it."""

from __future__ import annotations

import json
import os
import py_compile
import re
import subprocess
import sys
import types
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pvepassthru.lifecycle import shim
from tests import tree
from tests.lifecycle.test_imports import QUICK, loaded
from tests.scenarios import attached
from tests.scenarios.world import ALL, mdev

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.scenarios.world import SimWorld

PHASES = ALL


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python without the package."""
    return attached.interpreter(tmp_path_factory.mktemp("bare"), package=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python with the package."""
    return attached.interpreter(tmp_path_factory.mktemp("whole"), package=True)


def run(python: str, root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-I", str(root) + attached.OURS, *words],
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "PVEPASSTHRU_ROOT": str(root)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def host(tmp_path: Path) -> Path:
    tree.build(tmp_path, configs={100: "memory: 512\n"})
    attached.put_shim(str(tmp_path))
    return tmp_path


# ---- with the package


def test_life_of_a_vm(world: SimWorld, whole: str) -> None:
    """The shim does what the hookscript does."""
    world.pve.hook = [whole, "-I", attached.put_shim(world.root)]
    world.pve.define(100, mdev(1))
    before = world.state()
    assert world.hook(100, "pre-start").code == 0
    assert world.mdevs()
    for phase in PHASES[1:]:
        assert world.hook(100, phase).code == 0
    assert world.state() == before


def test_it_loads_nothing_else(world: SimWorld, whole: str) -> None:
    world.pve.define(100, "memory: 512\n")
    path = attached.put_shim(world.root)
    attached.chain(world.root, vmid=101)
    usual = loaded("-c", "pass", python=whole)
    for phase in PHASES:
        assert sorted(loaded(path, "100", phase, root=world.root, python=whole) - usual) == QUICK


def test_words_that_are_no_phase(host: Path, whole: str) -> None:
    done = run(whole, host, "100", "restart")
    assert done.returncode == 2
    assert "the hook was called with '100' 'restart'" in done.stderr


class Broken(NamedTuple):
    """A package with one damaged file."""

    file: str
    """Below the package's folder; with `.pyc` it is the compiled form."""
    damage: Callable[[bytes], bytes]
    error: str
    """The class of the exception that this makes, of Python 3.11 and later."""


BROKEN = {
    "part missing": Broken("nothing.py", lambda _: b"", "ModuleNotFoundError"),
    "empty": Broken("lifecycle/quick.py", lambda _: b"", "ImportError"),
    "zeroed": Broken("lifecycle/quick.py", lambda data: bytes(len(data)), "(SyntaxError|ValueError)"),
    "newer names": Broken("lifecycle/quick.py", lambda data: data + b"X = NOT_THERE\n", "NameError"),
    "truncated": Broken("lifecycle/quick.pyc", lambda data: data[:-20], "(EOFError|ValueError)"),
    "zeroed, compiled": Broken("lifecycle/quick.pyc", lambda data: data[:16] + bytes(len(data) - 16), "ValueError"),
    "zeroed package": Broken("__init__.py", lambda data: bytes(9 + len(data)), "(SyntaxError|ValueError)"),
}
QUICK_SOURCE = b"def main(argv):\n    import pvepassthru.%s\n    return 0\n"
"""Of a quick.py, which is all that the package has."""


def break_package(folder: Path, broken: Broken) -> str:
    """A Python with such a package."""
    python = attached.interpreter(folder, package=False)
    (packages,) = folder.glob("lib/*/site-packages")
    needs = b"nothing" if broken.file == "nothing.py" else b"lifecycle"
    for name, text in {
        "__init__.py": b"",
        "lifecycle/__init__.py": b"",
        "lifecycle/quick.py": QUICK_SOURCE % needs,
        "lifecycle/chained.py": b"from pvepassthru.lifecycle.quick import main\n",
    }.items():
        tree.put(packages, f"pvepassthru/{name}", text)
    path = f"{packages}/pvepassthru/{broken.file}"
    if broken.file.endswith(".pyc"):
        source = path.removesuffix("c")
        path = py_compile.compile(source, doraise=True) or ""
    if broken.file != "nothing.py":
        with open(path, "rb") as file:
            data = file.read()
        with open(path, "wb") as file:
            file.write(broken.damage(data))
    return python


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_package(name: str, host: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As in the middle of an upgrade, or after a power cut: nobody knows what of it would work."""
    python = break_package(tmp_path_factory.mktemp("damaged"), BROKEN[name])
    for phase, code in (("pre-start", 5), ("post-stop", 0)):
        done = run(python, host, "100", phase)
        assert done.returncode == code
        start = "pvepassthru: error: pvepassthru of this node is damaged "
        assert re.fullmatch(rf"{start}\({BROKEN[name].error}: .*\); install it again\n", done.stderr), done.stderr


def test_a_damaged_package_does_not_keep_the_chained_script(
    host: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The start is refused; later phases run it, since it may have something to give back."""
    python = break_package(tmp_path_factory.mktemp("damaged"), BROKEN["empty"])
    attached.chain(str(host))
    attached.other_ends_with(str(host), 7)
    assert run(python, host, "100", "pre-start").returncode == 5
    assert attached.notes(str(host)) == []
    assert run(python, host, "100", "post-stop").returncode == 7
    assert attached.notes(str(host)) == ["post-stop none"]


def test_folders_that_a_package_left_are_no_package(host: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As pip and dpkg leave them where somebody else's files lie."""
    folder = tmp_path_factory.mktemp("left")
    python = attached.interpreter(folder, package=False)
    (packages,) = folder.glob("lib/*/site-packages")
    tree.put(packages, "pvepassthru/lifecycle/__pycache__/x", "")
    done = run(python, host, "100", "pre-start")
    assert done.returncode == 0
    assert "pvepassthru is not installed on this node for" in done.stderr


def test_it_is_run_by_debians_python(host: Path) -> None:
    """By its own first line, whether that Python has the package or not."""
    with open(str(host) + attached.OURS, encoding="utf-8") as file:
        assert file.readline() == "#!/usr/bin/python3 -I\n"
    done = subprocess.run(
        [str(host) + attached.OURS, "100", "post-stop"],
        env={"PVEPASSTHRU_ROOT": str(host)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


# ---- without it


@pytest.mark.parametrize("phase", PHASES)
def test_without_the_package_vms_start(phase: str, host: Path, bare: str) -> None:
    done = run(bare, host, "100", phase)
    assert done.returncode == 0
    assert done.stdout == ""
    assert done.stderr == (
        f"pvepassthru: error: pvepassthru is not installed on this node for {bare} (No module named 'pvepassthru'), "
        "so no device is prepared or given back; install it again, or: qm set 100 --delete hookscript\n"
    )


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("code", [0, 7])
def test_without_the_package_the_chained_script_decides(phase: str, code: int, host: Path, bare: str) -> None:
    attached.chain(str(host))
    attached.other_ends_with(str(host), code)
    done = run(bare, host, "100", phase)
    assert done.returncode == code
    assert done.stdout == f"other: {phase}\n"
    assert attached.notes(str(host)) == [f"{phase} none"]
    assert done.stderr.count("\n") == 1


def test_without_the_package_another_vms_script_is_not_run(host: Path, bare: str) -> None:
    attached.chain(str(host), vmid=101)
    assert run(bare, host, "100", "pre-start").returncode == 0
    assert attached.notes(str(host)) == []


@pytest.mark.parametrize(
    "script, mode, code",
    [(None, 0o755, 1), (attached.NOTES, 0o644, 1), ("echo no first line\nexit 4\n", 0o755, 4)],
    ids=["gone", "not executable", "for sh"],
)
def test_without_the_package_a_script_as_pve_runs_it(
    script: str | None, mode: int, code: int, host: Path, bare: str
) -> None:
    attached.chain(str(host), script, mode=mode)
    done = run(bare, host, "100", "pre-start")
    assert done.returncode == code
    assert ("cannot be run" in done.stderr) == (code == 1)


@pytest.mark.parametrize("text", ['{"100"', '["100"]', '{"chained": {"100": 5}}', '{"chained": {"100": {"path": 1}}}'])
def test_without_the_package_a_damaged_file(text: str, host: Path, bare: str) -> None:
    """Which script is to run cannot be told: the start is refused, since that script may be needed."""
    tree.put(host, attached.HOOKS, text)
    done = run(bare, host, "100", "pre-start")
    assert done.returncode == 1
    assert "the hookscript that VM 100 had before cannot be run" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_package_it_does_not_run_itself(host: Path, bare: str) -> None:
    link = {"volume": "local:snippets/pvepassthru", "path": attached.OURS}
    tree.put(host, attached.HOOKS, json.dumps({"version": 1, "chained": {"100": link}}))
    assert run(bare, host, "100", "pre-start").returncode == 0


def test_what_it_runs_has_the_usual_signals(host: Path, bare: str) -> None:
    attached.chain(str(host), "#!/bin/sh\ngrep SigIgn /proc/self/status\n")
    assert run(bare, host, "100", "pre-start").stdout == "SigIgn:\t0000000000000000\n"


def test_the_sentence_goes_to_syslog_too(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    said: list[tuple[object, ...]] = []
    fake = types.SimpleNamespace(
        LOG_DAEMON=24,
        LOG_ERR=3,
        LOG_WARNING=4,
        openlog=lambda *words: said.append(words),
        syslog=lambda *w: said.append(w),
    )
    monkeypatch.setitem(sys.modules, "syslog", fake)
    monkeypatch.setitem(sys.modules, "pvepassthru.lifecycle.quick", None)
    monkeypatch.setattr(shim, "_HOOKS", "/nowhere/hooks.json")
    monkeypatch.delenv("PVEPASSTHRU_ROOT", raising=False)
    monkeypatch.setattr(sys, "argv", ["shim", "100", "post-stop"])
    assert shim.main(["shim", "100", "post-stop"]) == 0
    sentence = capfd.readouterr().err.removeprefix("pvepassthru: error: ").rstrip("\n")
    assert said == [("pvepassthru[100]", 0, 24), (3, sentence)]


@pytest.mark.parametrize("kind", ["loop", "folder"])
@pytest.mark.parametrize("package", ["whole", "bare"])
def test_a_file_that_cannot_be_read(package: str, kind: str, host: Path, request: pytest.FixtureRequest) -> None:
    """It may name a hookscript that the start needs, as a damaged one may; in other phases ours is run all the same."""
    python = request.getfixturevalue(package)
    if kind == "loop":
        os.symlink("pvepassthru-hooks.json", str(host) + attached.HOOKS)
    else:
        tree.folder(host, attached.HOOKS)
    why = "Too many levels of symbolic links" if kind == "loop" else "Is a directory"
    said = "cannot read /etc/pve/pvepassthru-hooks.json, which may name a hookscript that is to run with this tool's"
    done = run(python, host, "100", "pre-start")
    assert (done.returncode, done.stderr) == (4, f"pvepassthru: error: {said}: {why}\n")
    done = run(python, host, "100", "post-stop")
    assert done.returncode == 0
    assert done.stderr.startswith(f"pvepassthru: warning: {said}: {why}\n")
