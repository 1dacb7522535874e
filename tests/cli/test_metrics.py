# SPDX-License-Identifier: Apache-2.0
"""Where `metrics` puts its text. What is in it: tests/report/test_metrics.py."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from pvepassthru.cli.main import main
from pvepassthru.host import state
from pvepassthru.host.host import Host
from pvepassthru.model.errors import PassthruError, UsageError
from tests import tree

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> str:
    device = {"vendor": "0x10de", "device": "0x2204", "class": "0x030000", "iommu_group": 1}
    config = "name: b\u00fccher\nhostpci0: 01:00\n"
    made = tree.build(tmp_path / "host", {"devices": {"0000:01:00.0": device}}, configs={100: config})
    state.prepare(Host(made))
    state.note_run(Host(made), state.Run(100, "pre-start", 1_795_000_000_000, 20, 5, 1))
    return made


def series(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name.removeprefix("pvepassthru_"), *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_standard_output(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", root, "metrics"]) == 0
    found = series(capsys.readouterr().out)
    assert found["hook_last_run_exit_code", "100", "pre-start"] == 5
    assert found["devices", "configured", "none"] == 1
    assert found["collection_duration_seconds",] > 0


def test_a_file_for_all_to_read_in_one_piece(root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out" / "host.prom"
    path.parent.mkdir()
    umask = os.umask(0o077)
    try:
        assert main(["--root", root, "metrics", "-o", str(path)]) == 0
        before = path.stat().st_ino
        assert main(["--root", root, "metrics", "-o", str(path)]) == 0
    finally:
        os.umask(umask)
    assert path.stat().st_ino != before
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(path.parent) == ["host.prom"]
    assert series(path.read_text("utf-8"))["vm_info", "100", "b\u00fccher"] == 1
    assert capsys.readouterr().out == ""


def test_a_failed_write_leaves_the_file_that_was_there(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out" / "host.prom"
    path.parent.mkdir()
    path.write_text("before\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchmod", full)
    assert main(["--root", root, "metrics", "-o", str(path)]) == PassthruError.exit_code
    assert f"cannot write the metrics {path}: No space left on device" in capsys.readouterr().err
    assert (os.listdir(path.parent), path.read_text()) == (["host.prom"], "before\n")


def test_a_folder_that_is_not_there(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", root, "metrics", "-o", "/no/such/host.prom"]) == PassthruError.exit_code
    assert "No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["host.txt", "prom", "host.prom.gz"])
def test_a_name_that_node_exporter_would_not_read(
    name: str, root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", root, "metrics", "-o", str(tmp_path / name)]) == UsageError.exit_code
    assert "node_exporter reads .prom files only" in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_what_is_no_plain_file_is_not_replaced(root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "host.prom"
    for target in ("/dev/null", str(tmp_path), "host.txt"):
        path.symlink_to(target)
        assert main(["--root", root, "metrics", "-o", str(path)]) == UsageError.exit_code
        assert "no plain file; give the name of a file, or - for standard output" in capsys.readouterr().err
        assert path.is_symlink()
        path.unlink()


def test_a_snapshot(root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has the notes of the hook's runs too."""
    taken = str(tmp_path / "host.tar.xz")
    assert main(["--root", root, "snapshot", "-o", taken]) == 0
    capsys.readouterr()
    assert main(["--root", taken, "metrics"]) == 0
    assert series(capsys.readouterr().out)["hook_last_run_timestamp_seconds", "100", "pre-start"] == 1_795_000_000


def test_a_terminal_without_unicode(root: str, python: str) -> None:
    clean = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [python, "-m", "pvepassthru", "--root", root, "metrics"]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 'name="b' in done.stdout
    assert done.stdout.endswith("# EOF\n")


def test_without_the_library(root: str, python: str) -> None:
    code = f"""
import sys
from pvepassthru.cli.main import main

class Absent:
    @staticmethod
    def find_spec(name, *_):
        if name == "prometheus_client":
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent)
sys.exit(main(["--root", {root!r}, "metrics"]))
"""
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == PassthruError.exit_code
    assert "install python3-prometheus-client" in done.stderr
