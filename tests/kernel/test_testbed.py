# SPDX-License-Identifier: Apache-2.0
"""The testbed itself: what comes of a command, of a guest that dies, and of one that does not end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.kernel import suites, testbed

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(name="kernel")
def make_kernel() -> str:
    return suites.available(testbed.KERNELS[testbed.release()][0] if testbed.kernels() else "6.1")


@pytest.mark.kernel
def test_a_command(kernel: str, tmp_path: Path) -> None:
    mark = testbed.PROJECT / "build/written-in-the-guest"
    commands = f"echo out; echo error >&2; pwd; touch '{mark}' && ls '{mark}'; echo back > /share/file; exit 7"
    result = testbed.run(kernel, commands, testbed.Boot(120, share=tmp_path))
    assert result.code == 7, result.console
    assert result.output.split() == ["out", "error", str(testbed.PROJECT), str(mark)]
    assert not mark.exists()
    assert (tmp_path / "file").read_text() == "back\n"
    assert testbed.STARTED in result.console


@pytest.mark.kernel
def test_a_guest_that_dies(kernel: str) -> None:
    result = testbed.run(kernel, "echo before; sleep 0.2; echo c > /proc/sysrq-trigger", testbed.Boot(120))
    assert result.code == testbed.DIED
    assert result.output.split() == ["before"]
    assert "Kernel panic" in result.console


@pytest.mark.kernel
def test_a_guest_that_does_not_end(kernel: str) -> None:
    assert testbed.run(kernel, "sleep 600", testbed.Boot(2)).code == testbed.LIMIT_REACHED


@pytest.mark.kernel
def test_a_build_is_not_repeated(kernel: str) -> None:
    folder = testbed.build(kernel)
    before = (folder / "initrd.cpio").stat().st_mtime_ns
    assert testbed.build(kernel) == folder
    assert (folder / "initrd.cpio").stat().st_mtime_ns == before


def test_missing_packages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(testbed, "TOOLS", {"no-such-program": "that-package", "sh": "dash"})
    assert testbed.missing() == ["that-package"]
    with pytest.raises(testbed.TestbedError, match="apt-get install that-package"):
        testbed.build("6.1")
    assert testbed.main(["true"]) == 2
    assert "that-package" in capsys.readouterr().err


def test_a_checkout_that_make_cannot_take(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(testbed, "TOOLS", {})
    monkeypatch.setattr(testbed, "BUILD", tmp_path / "with a blank")
    with pytest.raises(testbed.TestbedError, match="blank, colon or comma"):
        testbed.build("6.1")


@pytest.mark.parametrize("ci", [False, True])
def test_no_guest_here_is_a_skip_and_in_ci_a_failure(monkeypatch: pytest.MonkeyPatch, *, ci: bool) -> None:
    monkeypatch.setattr(testbed, "TOOLS", {"no-such-program": "that-package"})
    monkeypatch.setenv("CI", "true" if ci else "")
    with pytest.raises(pytest.fail.Exception if ci else pytest.skip.Exception, match="that-package"):
        suites.available(testbed.KERNELS["12"][-1])


def test_a_kernel_that_the_archive_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testbed, "release", lambda: "13")
    monkeypatch.setattr(testbed, "TOOLS", {})
    assert testbed.kernels() == ("6.12",)
    assert suites.available("6.12") == "6.12"
    with pytest.raises(pytest.skip.Exception, match="only on Debian 12"):
        suites.available("6.1")


def test_static_programs_are_told_from_others() -> None:
    with open("/bin/sh", "rb") as shell:
        assert not testbed._is_static(shell.read())
    interpreter = b"\x7fELF".ljust(0x20, b"\0") + (64).to_bytes(8, "little")
    header = interpreter.ljust(0x36, b"\0") + (56).to_bytes(2, "little") + (1).to_bytes(2, "little")
    assert testbed._is_static(header.ljust(64, b"\0") + (1).to_bytes(4, "little").ljust(56, b"\0"))
    assert not testbed._is_static(header.ljust(64, b"\0") + (3).to_bytes(4, "little").ljust(56, b"\0"))


def test_only_the_standard_library() -> None:
    text = (suites.HERE / "testbed.py").read_text(encoding="utf-8")
    imported = [line.split()[1] for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert set(imported) <= sys.stdlib_module_names
