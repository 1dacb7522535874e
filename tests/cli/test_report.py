# SPDX-License-Identifier: Apache-2.0
"""Where `report` puts its page. What is in it: tests/report."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from pvepassthru.cli.main import main
from tests import tree
from tests.report.made import Seen


@pytest.fixture
def root(tmp_path: Path) -> str:
    device = {"vendor": "0x10de", "device": "0x2204", "class": "0x030000", "iommu_group": 1}
    return tree.build(tmp_path / "host", {"devices": {"0000:01:00.0": device}}, configs={100: "hostpci0: 02:00\n"})


def test_a_page_for_its_owner_alone(root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "host.html"
    assert main(["--root", root, "report", "-o", str(page)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{page}: pve, 1 error")
    assert page.stat().st_mode & 0o777 == 0o600
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert sorted(os.listdir(tmp_path)) == ["host", "host.html"]


def test_standard_output(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", root, "report", "-o", "-"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("<!DOCTYPE html>")
    assert out.rstrip().endswith("</html>")


def test_standard_output_without_unicode(root: str, python: str) -> None:
    """Style and script stay as they are, since no reference means anything there."""
    clean = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [python, "-m", "pvepassthru", "--root", root, "report", "-o", "-"]
    done = subprocess.run(command, env=clean, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    page = done.stdout.decode("ascii")
    wide = subprocess.run(command, env={**clean, "PYTHONIOENCODING": "utf-8"}, capture_output=True, check=True)
    assert Seen(page).scripts == Seen(wide.stdout.decode()).scripts
    assert Seen(page).words == Seen(wide.stdout.decode()).words


def test_a_report_is_replaced_and_keeps_its_mode(root: str, tmp_path: Path) -> None:
    page = tmp_path / "host.html"
    assert main(["--root", root, "report", "-o", str(page)]) == 0
    page.chmod(0o644)
    before = page.stat().st_ino
    assert main(["--root", root, "report", "-o", str(page)]) == 0
    assert page.stat().st_mode & 0o777 == 0o644
    assert page.stat().st_ino != before


def test_another_file_is_replaced_by_force_only(root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "mine.html"
    page.write_text("<!DOCTYPE html><title>my page</title>")
    assert main(["--root", root, "report", "-o", str(page)]) == 2
    assert "it is there and is no report; give another name, or add --force" in capsys.readouterr().err
    assert "my page" in page.read_text(encoding="utf-8")
    assert main(["--root", root, "report", "-o", str(page), "--force"]) == 0
    assert "my page" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["plain", "report", "nothing"])
def test_a_link_is_replaced_by_force_only(
    kind: str, root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, other = tmp_path / "page.html", tmp_path / "other.html"
    page.symlink_to(other)
    if kind == "plain":
        other.write_text("mine")
    elif kind == "report":
        assert main(["--root", root, "report", "-o", str(other)]) == 0
    before = other.read_bytes() if other.exists() else b""
    assert main(["--root", root, "report", "-o", str(page)]) == 2
    assert "it is there and is a link; give another name, or add --force" in capsys.readouterr().err
    assert main(["--root", root, "report", "-o", str(page), "--force"]) == 0
    assert not page.is_symlink()
    assert (other.read_bytes() if other.exists() else b"") == before


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "to a device", "to a folder"])
def test_what_is_no_plain_file_stays(
    kind: str, force: list[str], root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """/dev/null, say, which all programs need."""
    page = tmp_path / "page.html"
    if kind == "fifo":
        os.mkfifo(page)
    elif kind == "folder":
        page.mkdir()
    elif kind.startswith("to a"):
        page.symlink_to("/dev/null" if kind == "to a device" else tmp_path)
    else:
        page = device(tmp_path)
    before = os.lstat(page)
    assert main(["--root", root, "report", "-o", str(page), *force]) == 2
    assert "it is there and is no plain file; give the name of a file, or - for" in capsys.readouterr().err
    assert os.lstat(page)[:4] == before[:4]


def device(folder: Path) -> Path:
    """A character device: one of our own for root, and else one that nobody but root could replace."""
    if os.geteuid() != 0:
        return Path("/dev/null")
    path = folder / "null"
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:  # root of a container that may make none; a folder has to stay likewise
        path.mkdir()
    return path


def test_a_folder_that_is_not_there(root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", root, "report", "-o", str(tmp_path / "gone" / "page.html")]) == 5
    assert "cannot write the report" in capsys.readouterr().err


def test_a_full_disk_leaves_the_former_page(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "host.html"
    assert main(["--root", root, "report", "-o", str(page)]) == 0
    before = page.read_bytes()

    def full(_fd: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    assert main(["--root", root, "report", "-o", str(page)]) == 5
    assert "No space left on device" in capsys.readouterr().err
    assert page.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["host", "host.html"]


@pytest.mark.parametrize("words", [[], ["-o", "x.html", "--json"]])
def test_wrong_usage(words: list[str], root: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--root", root, "report", *words])


def test_json_needs_no_jinja(root: str, python: str) -> None:
    """It is for pages; the machine that asks for JSON may have none."""
    code = (
        "import sys; sys.modules['jinja2'] = None; from pvepassthru.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [python, "-c", code, "--root", root, "report"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([*command, "-o", "-"], capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert "the Python module jinja2 is missing; install python3-jinja2" in done.stderr
