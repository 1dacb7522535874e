# SPDX-License-Identifier: Apache-2.0
"""The command `demo`: what it keeps, and what it leaves alone."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from pvepassthru.cli.main import main
from tests.host.machine import memory_folder, unprivileged

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("there", [True, False], ids=["empty", "new"])
def test_keep(there: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: FBT001 - a parameter
    folder = tmp_path / "a" / "demo"
    if there:
        folder.mkdir(parents=True)
    assert main(["demo", "--keep", str(folder)]) == 0
    assert "Nothing is left behind." in capsys.readouterr().out
    assert main(["--root", str(folder), "validate", "100"]) == 0


@pytest.mark.parametrize(
    "name, why",
    [
        ("used", "it is not empty"),
        ("file", "Not a directory"),
        ("file/demo", "Not a directory"),
        ("link", "that leads nowhere"),
    ],
)
def test_keep_writes_nothing_over(name: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "used" / "etc").mkdir(parents=True)
    (tmp_path / "used" / "etc" / "hostname").write_text("mine\n")
    (tmp_path / "file").write_text("mine\n")
    (tmp_path / "link").symlink_to("nowhere")
    assert main(["demo", "--keep", str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert why in err
    assert err.endswith("; give a new or an empty folder\n")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        *("file", "link", "used", "used/etc", "used/etc/hostname"),
    ]
    assert (tmp_path / "used" / "etc" / "hostname").read_text() == "mine\n"


def test_keep_without_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--keep="]) == 2
    assert "leads nowhere" in capsys.readouterr().err


def test_keep_where_nothing_may_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    with memory_folder() as folder:
        os.chmod(folder, 0o555)
        with unprivileged():
            assert main(["demo", "--keep", f"{folder}/demo"]) == 5
    assert "Permission denied; give a folder that you may write" in capsys.readouterr().err


def test_signals_are_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    """A pre-start that is done takes no notice of Ctrl-C, but the demo goes on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["demo"]) == 0
        capsys.readouterr()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
