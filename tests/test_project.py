# SPDX-License-Identifier: Apache-2.0
"""What the project promises of its own files, beyond what ruff, mypy and import-linter check."""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import tokenize
import tomllib
import zipfile
from pathlib import Path

import pytest

import pvepassthru
from pvepassthru.cli import main
from pvepassthru.model import errors

ROOT = Path(__file__).resolve().parent.parent
SOURCE_SUFFIXES = {".py", ".c", ".h", ".sh", ".toml"}
LONGEST_MODULE = 400
FAST_PATH = ("pvepassthru/model", "pvepassthru/rules", "pvepassthru/lifecycle")
FAST_FILES = ("pvepassthru/host/host.py", "pvepassthru/host/inventory.py")
SLOW_MODULES = {"argparse", "dataclasses", "filelock", "inspect", "logging", "pathlib", "subprocess", "yaml"}
MACHINE_PATH = re.compile(r"/(?:home|work|root)/\w+")
REGISTRY = re.compile(
    r"\b(?:pypi|pythonhosted|npmjs|golang)\.(?:org|com)\b"
    r"|\b(?:deb|ftp|security|snapshot|download|enterprise)\.(?:debian|proxmox)\.(?:org|com)\b"
    r"|--(?:extra-index|index|find)-(?:url|links)"
)
EXCEPTIONS = {
    "noqa": re.compile(r"# noqa: [A-Z]+[0-9]+(?:, ?[A-Z]+[0-9]+)* - \S"),
    "type: ignore": re.compile(r"# type: ignore\[[\w, -]+\] +# \S"),
}
"""The mark of an exception from a linter, and its form: the code, then the reason."""


def project_files() -> list[str]:
    """What git has, or would take: paths relative to the project."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    return sorted(name for name in listed.split("\0") if name and (ROOT / name).is_file())


def first_line(path: Path) -> str:
    with path.open("rb") as file:
        return file.readline(200).decode("utf-8", "replace").rstrip("\n")


FILES = project_files()
SCRIPTS = [name for name in FILES if "." not in os.path.basename(name) and first_line(ROOT / name).startswith("#!")]
PYTHON = [name for name in FILES if name.endswith(".py") or (name in SCRIPTS and "python3" in first_line(ROOT / name))]
PACKAGE = [name for name in PYTHON if name.startswith("pvepassthru/")]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def comments(text: str) -> list[str]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [token.string for token in tokens if token.type == tokenize.COMMENT]


def imported(text: str) -> set[str]:
    """The top names of the modules that come with a source: not those in its functions or for type checkers only."""
    found: set[str] = set()
    queue: list[ast.AST] = [ast.parse(text)]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            queue.extend(node.orelse)
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            queue.extend(ast.iter_child_nodes(node))
    return found


def test_the_lists_are_not_empty() -> None:
    assert {"dev", ".ci/run"} <= set(SCRIPTS)
    assert {"dev", "pvepassthru/cli/main.py", "tests/test_project.py"} <= set(PYTHON)


def test_sources_have_their_licence() -> None:
    wrong = []
    for name in FILES:
        if Path(name).suffix in SOURCE_SUFFIXES or name in SCRIPTS:
            licence = "GPL-2.0" if name.startswith("tests/kernel/tbmdev/") and name.endswith(".c") else "Apache-2.0"
            if f"SPDX-License-Identifier: {licence}" not in "".join(read(name).splitlines()[:2]):
                wrong.append(name)
    assert not wrong


def test_modules_are_short() -> None:
    lengths = {name: len(read(name).splitlines()) for name in [*PACKAGE, "dev", "hookscripts/pvepassthru"]}
    assert not {name: lines for name, lines in lengths.items() if lines >= LONGEST_MODULE}


def test_packages_hold_nothing() -> None:
    """But for that of the library, which tests/api/test_library.py looks at."""
    wrong = []
    for name in sorted(set(PACKAGE) - {"pvepassthru/api/__init__.py"}):
        for statement in ast.parse(read(name)).body if name.endswith("/__init__.py") else ():
            docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            version = isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__version__"
            if not docstring and not version:
                wrong.append((name, ast.unparse(statement)))
    assert not wrong


def test_fast_path_imports_nothing_slow() -> None:
    fast = [name for name in PACKAGE if name.startswith(FAST_PATH) or name in FAST_FILES]
    slow = {name: imported(read(name)) & SLOW_MODULES for name in [*fast, "hookscripts/pvepassthru"]}
    assert not {name: modules for name, modules in slow.items() if modules}


def test_exceptions_from_lint_have_codes_and_reasons() -> None:
    wrong = []
    for name in PYTHON:
        for comment in comments(read(name)):
            for mark, form in EXCEPTIONS.items():
                if mark in comment and not form.search(comment):
                    wrong.append((name, comment))
    assert not wrong


def test_files_name_no_machine_and_no_registry() -> None:
    wrong = []
    for name in FILES:
        text = (ROOT / name).read_text(encoding="utf-8", errors="replace")
        wrong += [(name, match.group()) for form in (MACHINE_PATH, REGISTRY) for match in form.finditer(text)]
    assert not wrong


def test_hookscript_is_isolated_and_executable() -> None:
    script = ROOT / "hookscripts/pvepassthru"
    assert first_line(script) == "#!/usr/bin/python3 -I"
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("name", ["dev", ".ci/run"])
def test_script_is_executable(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)


def test_changelog_has_room_for_the_next_change() -> None:
    assert re.search(r"^## \[?Unreleased\]?$", read("CHANGELOG.md"), re.MULTILINE)


@pytest.mark.parametrize("command", sorted(main.COMMANDS))
def test_command_is_documented(command: str) -> None:
    documents = [name for name in FILES if name == "README.md" or re.fullmatch(r"docs/[\w-]+\.md", name)]
    assert any(re.search(rf"`pvepassthru {command}\b", read(name)) for name in documents)


def error_classes() -> list[type[errors.PassthruError]]:
    found = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return [kind for kind in found if issubclass(kind, errors.PassthruError)]


@pytest.mark.parametrize("kind", error_classes())
def test_exit_code_is_documented(kind: type[errors.PassthruError]) -> None:
    text = read("docs/exit-codes.md")
    if kind is errors.PassthruError:
        assert f"Code {kind.exit_code} also stands for `PassthruError`" in text
    else:
        assert f"\n| {kind.exit_code} | `{kind.__name__}` |" in text


def test_no_documented_exit_code_is_made_up() -> None:
    documented = re.findall(r"^\| (\d+) \| `(\w+)` \|", read("docs/exit-codes.md"), re.MULTILINE)
    assert {(int(code), name) for code, name in documented} == {
        (kind.exit_code, kind.__name__) for kind in error_classes() if kind is not errors.PassthruError
    }


def test_wheel_holds_package_and_hookscript(tmp_path: Path, python: str) -> None:
    source = tmp_path / "source"
    for name in FILES:
        if name in {"pyproject.toml", "setup.py", "README.md", "LICENSE"} or name.startswith(
            ("pvepassthru/", "hookscripts/", "packaging/")
        ):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "."]
    subprocess.run([*build, "--wheel-dir", str(tmp_path)], cwd=source, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"pvepassthru-{pvepassthru.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        info = f"pvepassthru-{pvepassthru.__version__}"
        metadata = archive.read(f"{info}.dist-info/METADATA").decode()
        points = archive.read(f"{info}.dist-info/entry_points.txt").decode()
    assert set(PACKAGE) <= held
    assert f"{info}.data/data/share/pvepassthru/hookscripts/pvepassthru" in held
    assert f"{info}.data/data/share/pvepassthru/policy.example.yaml" in held
    assert f"{info}.data/data/share/pvepassthru/vms.example.yaml" in held
    assert f"{info}.data/data/share/pvepassthru/grafana/pvepassthru.json" in held
    assert "pvepassthru = pvepassthru.cli.main:main" in points
    for dependency in ("filelock>=3.9", "jsonschema>=4.10", "proxmoxer>=1.2", "pyyaml>=6.0", "requests>=2.28"):
        assert f"Requires-Dist: {dependency}\n" in metadata


def test_dependencies_are_debians() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    asked = {re.split(r"[>=]+", text)[0]: re.split(r"[>=]+", text)[1] for text in project["dependencies"]}
    pinned = re.findall(r"^([\w-]+)==([\d.]+); python_version <", read("requirements/dev.txt"), re.MULTILINE)
    assert {name.lower(): version for name, version in pinned if name.lower() in asked}.keys() == asked.keys()
    for name, version in pinned:  # and what these need themselves
        assert version.startswith(asked.get(name.lower(), ""))
