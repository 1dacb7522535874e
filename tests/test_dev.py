# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType
    from unittest.mock import MagicMock

    from pytest_mock import MockerFixture

ROOT = Path(__file__).resolve().parent.parent


def load() -> ModuleType:
    loader = SourceFileLoader("dev", str(ROOT / "dev"))
    spec = importlib.util.spec_from_loader("dev", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


@pytest.fixture
def dev() -> ModuleType:
    return load()


@pytest.fixture
def called(dev: ModuleType, mocker: MockerFixture) -> MagicMock:
    """What the commands call, with all set-up done already."""
    mocker.patch.object(dev, "need_venv")
    mocker.patch.object(dev, "need_newest")
    mocker.patch.object(dev, "need_packages")
    mocker.patch.object(dev, "need_axe")
    return mocker.patch.object(dev, "call", return_value=0)


def answer(stdout: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], code, stdout, "")


def test_usage_names_every_command() -> None:
    done = subprocess.run([ROOT / "dev", "--help"], stdout=subprocess.PIPE, text=True, check=True)
    for name in ("demo", "test", "lint", "format", "kernel", "bench", "docs", "picture", "soak", "fuzz"):
        assert re.search(rf"^  {name} +\S", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("arguments", [[], ["nonsense"]])
def test_wrong_usage_is_2(dev: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert dev.main(arguments) == 2
    err = capsys.readouterr().err
    assert "usage: ./dev COMMAND" in err
    assert ("there is no command 'nonsense'" in err) == bool(arguments)


def test_lint_takes_no_arguments(dev: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert dev.main(["lint", "x"]) == 2
    assert "takes no arguments, not x" in capsys.readouterr().err


def test_fast_leaves_out_the_kernels_and_their_packages(dev: ModuleType, called: MagicMock) -> None:
    assert dev.main(["test", "--fast", "tests/model", "-k", "pci"]) == 0
    (command,) = called.call_args.args
    assert command[-3:] == ["tests/model", "-k", "pci"]
    assert "not kernel" in command
    assert not dev.need_packages.called
    assert not dev.need_axe.called


def test_test_has_the_kernels_and_the_newest_proxmoxer(dev: ModuleType, called: MagicMock) -> None:
    assert dev.main(["test"]) == 0
    everything, again = called.call_args_list
    assert "not kernel" not in everything.args[0]
    assert again.args[0][-len(dev.NEWEST_TESTS) :] == list(dev.NEWEST_TESTS)
    assert again.kwargs["PYTHONPATH"].split(os.pathsep)[0] == dev.NEWEST
    dev.need_packages.assert_called_once_with(
        dev.KERNEL_PACKAGES + dev.BROWSER_PACKAGES + dev.DEB_PACKAGES + dev.DEB_TEST_PACKAGES
    )
    assert dev.need_axe.called
    assert all((ROOT / name).exists() for name in dev.NEWEST_TESTS)


@pytest.mark.parametrize("codes, expected", [((0, 1), 1), ((1, 0), 1), ((0, 0), 0)])
def test_both_runs_count(dev: ModuleType, called: MagicMock, codes: tuple[int, int], expected: int) -> None:
    called.side_effect = codes
    assert dev.main(["test"]) == expected


def test_the_newest_packages_are_got_once(dev: ModuleType, mocker: MockerFixture, tmp_path: Path) -> None:
    mocker.patch.object(dev, "ROOT", str(tmp_path))
    mocker.patch.object(dev, "NEWEST", str(tmp_path / "newest"))
    (tmp_path / "requirements").mkdir()
    (tmp_path / dev.NEWEST_REQUIREMENTS).write_text("a==1\n")
    get = mocker.patch.object(dev, "quietly", side_effect=lambda *_: (tmp_path / "newest").mkdir())
    dev.need_newest()
    dev.need_newest()
    assert get.call_count == 1
    (tmp_path / dev.NEWEST_REQUIREMENTS).write_text("a==2\n")
    dev.need_newest()
    assert get.call_count == 2


def test_axe_is_got_once_and_again_after_a_change(dev: ModuleType, mocker: MockerFixture, tmp_path: Path) -> None:
    mocker.patch.object(dev, "ROOT", str(tmp_path))
    (tmp_path / dev.AXE).mkdir(parents=True)
    (tmp_path / dev.AXE / "package-lock.json").write_text("1")
    get = mocker.patch.object(dev, "quietly")
    dev.need_axe()
    dev.need_axe()
    assert get.call_count == 1
    (tmp_path / dev.AXE / "package-lock.json").write_text("2")
    dev.need_axe()
    assert get.call_count == 2


def test_what_npm_gets_is_pinned_by_its_hash() -> None:
    lock = json.loads((ROOT / "tests/report/npm/package-lock.json").read_text(encoding="utf-8"))
    got = {name: package for name, package in lock["packages"].items() if name}
    assert got
    assert all(package["integrity"].startswith("sha512-") and "resolved" not in package for package in got.values())


def test_lint_goes_on_after_a_failure_and_fails(
    dev: ModuleType, called: MagicMock, capsys: pytest.CaptureFixture[str]
) -> None:
    called.side_effect = lambda command: int(os.path.basename(command[0]) == "ruff")
    assert dev.main(["lint"]) == 1
    assert [os.path.basename(call.args[0][0]) for call in called.call_args_list] == [
        *["ruff", "ruff", "mypy", "mypy", "mypy", "lint-imports"]
    ]
    assert capsys.readouterr().err.count("dev: failed: ruff") == 2


def test_fuzz_hands_its_arguments_on(dev: ModuleType, called: MagicMock) -> None:
    assert dev.main(["fuzz", "--count", "3"]) == 0
    assert called.call_args.args[0][1:] == ["-m", "bench.fuzz_rom", "--count", "3"]


def test_soak_hands_its_arguments_on(dev: ModuleType, called: MagicMock) -> None:
    assert dev.main(["soak", "--rounds", "3"]) == 0
    assert called.call_args.args[0][1:] == ["-m", "tests.kernel.soak", "--rounds", "3"]
    assert dev.need_packages.called


def test_tools_do_not_get_the_callers_settings(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVEPASSTHRU_ROOT", "/elsewhere")
    monkeypatch.setenv("PYTHONSTARTUP", "/elsewhere")
    assert {name for name in dev.environment() if name.startswith(("PVE", "PYTHON"))} == {"PYTHONPATH"}
    check = "import os; raise SystemExit(os.environ['PVEPASSTHRU_SOAK'] != '1')"
    assert dev.call([sys.executable, "-c", check], PVEPASSTHRU_SOAK="1") == 0


def test_format_keeps_to_the_given_paths(dev: ModuleType, called: MagicMock) -> None:
    assert dev.main(["format", "dev"]) == 0
    assert called.call_args.args[0][1:] == ["format", "--", os.path.abspath("dev")]


def test_without_root_it_says_what_is_missing(
    dev: ModuleType, mocker: MockerFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    mocker.patch.object(dev, "is_root", return_value=False)
    mocker.patch.object(dev.shutil, "which", return_value="/usr/bin/dpkg-query")
    run = mocker.patch.object(dev.subprocess, "run", return_value=answer("cpio installed\ngcc config-files\n"))
    assert dev.main(["kernel", "true"]) == 2
    said = capsys.readouterr().err
    assert "as root run: apt-get install --yes --no-install-recommends qemu-system-x86 busybox-static kmod gcc " in said
    assert run.call_count == 1


def test_as_root_it_installs_only_what_is_missing(dev: ModuleType, mocker: MockerFixture) -> None:
    mocker.patch.object(dev, "is_root", return_value=True)
    mocker.patch.object(dev.shutil, "which", return_value="/usr/bin/dpkg-query")
    run = mocker.patch.object(dev.subprocess, "run", return_value=answer("cpio installed\n"))
    dev.need_packages(["cpio", "gcc"])
    assert [call.args[0][:2] for call in run.call_args_list[1:]] == [["apt-get", "update"], ["apt-get", "install"]]
    assert run.call_args.args[0][-1] == "gcc"


def test_nothing_is_installed_when_all_is_there(dev: ModuleType, mocker: MockerFixture) -> None:
    mocker.patch.object(dev.shutil, "which", return_value="/usr/bin/dpkg-query")
    run = mocker.patch.object(dev.subprocess, "run", return_value=answer("cpio installed\n"))
    dev.need_packages(["cpio"])
    assert run.call_count == 1


def test_a_failing_set_up_shows_its_output(dev: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(dev.SetupError, match="failed with 3; try again"):
        dev.quietly(["sh", "-c", "echo what went wrong; exit 3"], dict(os.environ), "try again")
    assert "what went wrong" in capsys.readouterr().err


def test_venv_is_made_once_and_again_after_a_change(dev: ModuleType, mocker: MockerFixture, tmp_path: Path) -> None:
    mocker.patch.object(dev, "ROOT", str(tmp_path))
    mocker.patch.object(dev, "VENV", str(tmp_path / ".venv"))
    (tmp_path / ".venv").mkdir()
    (tmp_path / "requirements").mkdir()
    for name in dev.REQUIREMENTS:
        (tmp_path / name).write_text("a==1\n")
    make = mocker.patch.object(dev, "make_venv")
    dev.need_venv()
    dev.need_venv()
    assert make.call_count == 1
    (tmp_path / dev.REQUIREMENTS[1]).write_text("a==2\n")
    dev.need_venv()
    assert make.call_count == 2


def test_a_failed_venv_is_tried_again(dev: ModuleType, mocker: MockerFixture, tmp_path: Path) -> None:
    mocker.patch.object(dev, "ROOT", str(tmp_path))
    mocker.patch.object(dev, "VENV", str(tmp_path / ".venv"))
    (tmp_path / "requirements").mkdir()
    for name in dev.REQUIREMENTS:
        (tmp_path / name).write_text("a==1\n")
    make = mocker.patch.object(dev, "make_venv", side_effect=dev.SetupError("no index"))
    for _ in range(2):
        with pytest.raises(dev.SetupError):
            dev.need_venv()
    assert make.call_count == 2


def test_every_installed_package_is_pinned() -> None:
    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    pinned = {}
    for name in ("requirements/build.txt", "requirements/dev.txt"):
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                match = re.fullmatch(r"([\w.-]+)==([\w.]+)(?:; python_version (<|>=) \"3\.(\d+)\")?", line)
                assert match, line
                package, version, order, minor = match.groups()
                if order is None or (sys.version_info[1] < int(minor)) == (order == "<"):
                    pinned[plain(package)] = version
    assert os.path.realpath(sys.prefix) == str(ROOT / ".venv"), "run the tests with ./dev test"
    installed = {plain(found.name): found.version for found in importlib.metadata.distributions()}
    installed.pop("pip", None)
    assert installed == pinned


SKIPPING = """
import pytest
def test_runs(): pass
def test_skips(): pytest.skip("no such tool")
def test_allowed(): pytest.skip("only on Debian 13: its kernel")
"""


def pytest_in(folder: Path, ci: str, *options: str) -> str:
    (folder / "conftest.py").write_bytes((ROOT / "tests/conftest.py").read_bytes())
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(folder),
        "--basetemp",  # pytest keeps the folders of few runs, and these would take the place of real ones
        str(folder / "temporary"),
        *options,
        str(folder),
    ]
    clean = {
        **os.environ,
        "CI": ci,
        "PYTHONPATH": str(ROOT),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
    }
    return subprocess.run(command, cwd=folder, env=clean, stdout=subprocess.PIPE, text=True, check=False).stdout


@pytest.mark.parametrize("options", [[], ["-n", "1", "--dist", "loadgroup"]])
def test_a_skip_fails_in_ci_only(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "test_it.py").write_text(SKIPPING)
    assert "1 failed, 1 passed, 1 skipped" in pytest_in(tmp_path, "true", *options)
    assert "1 passed, 2 skipped" in pytest_in(tmp_path, "", *options)


def test_a_skipped_file_fails_in_ci_only(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    said = pytest_in(tmp_path, "true")
    assert "1 error" in said
    assert "skipped, which CI does not allow" in said
    assert "1 skipped" in pytest_in(tmp_path, "")


NOTING = """
import os, time
import pytest
def note(word):
    with open(os.environ["NOTED"], "a") as file: file.write(word + " " + os.environ["PYTEST_XDIST_WORKER"] + chr(10))
"""
GUEST = """
@pytest.mark.parametrize("suite", ["6.1-one-a", "6.1-one-b", "6.1-two-a", "6.1-two-b", "6.1-three-a", "6.1-three-b"])
def test_guest(suite):
    note("begin")
    time.sleep(0.5)
    note("end")
"""
OTHERS = """
@pytest.mark.parametrize("number", range(20))
def test_other(number):
    note("other")
"""


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_two_workers_have_guests_and_the_others_all_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setenv("NOTED", str(tmp_path / "noted"))
    (tmp_path / "tests/kernel").mkdir(parents=True)
    (tmp_path / "tests/kernel/test_guest.py").write_text(NOTING + GUEST)
    (tmp_path / "tests/test_other.py").write_text(NOTING + OTHERS)
    assert "26 passed" in pytest_in(tmp_path, "true", "-n", str(workers), "--dist", "loadgroup")
    noted = [line.split() for line in (tmp_path / "noted").read_text().splitlines()]
    running, most = 0, 0
    for word, _ in noted:
        running += {"begin": 1, "end": -1, "other": 0}[word]
        most = max(most, running)
    assert most == min(workers, 2)
    assert len(noted) == 2 * 6 + 20


def test_what_takes_long_is_begun_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTED", str(tmp_path / "noted"))
    for name in ("lifecycle/test_crash", "test_other", "report/test_page"):
        path = tmp_path / f"tests/{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(NOTING + f"def test_one(): note({name!r})\ndef test_two(): note({name!r})\n")
    assert "6 passed" in pytest_in(tmp_path, "true", "-n", "1", "--dist", "loadgroup")
    noted = [line.split()[0] for line in (tmp_path / "noted").read_text().splitlines()]
    assert noted == [name for name in ("report/test_page", "lifecycle/test_crash", "test_other") for _ in range(2)]


def test_demo(dev: ModuleType) -> None:
    done = subprocess.run(
        [os.path.join(ROOT, "dev"), "demo"],
        cwd="/",
        env=dev.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "Nothing is left behind." in done.stdout
