# SPDX-License-Identifier: Apache-2.0
"""`pip install .` into an environment of its own, as pipx does it: for the API from a workstation."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import pytest

import pvepassthru
from tests.packaging.package import NAME, PROJECT, said

if TYPE_CHECKING:
    from pathlib import Path

PINS = ("requirements/workstation.txt", "requirements/build.txt")

pytestmark = pytest.mark.kernel  # not for --fast: it asks the package index


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}


def test_it_comes_works_is_renewed_and_goes(tmp_path: Path) -> None:
    source, venv = tmp_path / "source", tmp_path / "venv"
    for name in said("git", "ls-files").splitlines():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, source / name)
    gone = source / NAME / "gone.py"
    gone.write_text("GONE = True\n", encoding="utf-8")
    (source / NAME / "model" / "gone.json").write_text("{}\n", encoding="utf-8")
    as_it_was = files(source)
    said(sys.executable, "-m", "venv", venv)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    constraints = {"PIP_CONSTRAINT": " ".join(str(PROJECT / name) for name in PINS), "TMPDIR": str(tmp_path)}
    before = files(venv)

    said(*pip, "install", source, **constraints)
    assert files(source) == as_it_was, "nothing is left in the sources"
    assert not list(tmp_path.glob("pvepassthru-build-*")), "nor beside them"
    (library,) = (venv / "lib").glob("python3*/site-packages")
    assert (library / NAME / "gone.py").exists()
    program = venv / "bin" / NAME
    assert said(program, "--version") == f"{NAME} {pvepassthru.__version__}\n"
    assert said(program, "demo").count("\n") > 20
    host, page, numbers = tmp_path / "host", tmp_path / "host.html", tmp_path / "host.prom"
    said(program, "demo", "--keep", host)
    assert str(page) in said(program, "--root", host, "report", "--output", page)
    assert "</html>" in page.read_text("utf-8")
    said(program, "--root", host, "metrics", "--output", numbers)
    assert f'{NAME}_build_info{{version="{pvepassthru.__version__}"}} 1' in numbers.read_text("utf-8")
    code = f"import {NAME}, {NAME}.api.client; print({NAME}.__file__)"
    assert said(venv / "bin" / "python", "-I", "-c", code).strip() == str(library / NAME / "__init__.py")

    # what is gone from the sources is gone from the next installation
    gone.unlink()
    (source / NAME / "model" / "gone.json").unlink()
    said(*pip, "install", "--no-deps", "--force-reinstall", source, **constraints)
    assert not [name for name in files(venv) if "gone" in name]
    wanted = set(said("git", "ls-files", NAME).splitlines())
    assert wanted == {f"{NAME}/{name}" for name in files(library / NAME) if (library / NAME / name).is_file()}

    said(*pip, "uninstall", "--yes", NAME)
    assert not [name for name in files(venv) - before if NAME in name]
