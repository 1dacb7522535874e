# SPDX-License-Identifier: Apache-2.0
"""The emulator shares no code with the package and needs nothing but Python's own library."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PROJECT = os.path.dirname(os.path.dirname(HERE))
MODULES = sorted(name for name in os.listdir(HERE) if name.endswith(".py") and not name.startswith("test_"))


def imports(path: str) -> set[str]:
    with open(path, encoding="utf-8") as file:
        nodes = list(ast.walk(ast.parse(file.read())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def test_nothing_of_the_package_is_imported() -> None:
    assert "flows.py" in MODULES
    allowed = {"tests.pve", "tests.kernel", *sys.stdlib_module_names}
    for name in MODULES:
        for module in imports(os.path.join(HERE, name)):
            assert module.partition(".")[0] in allowed or module.startswith(("tests.pve", "tests.kernel")), name


def test_it_loads_without_the_package_and_without_site_packages() -> None:
    program = (
        f"import sys; sys.path.insert(0, {PROJECT!r}); import tests.pve.flows, tests.pve.qemu_process;"
        "print(sorted(name for name in sys.modules if name.partition('.')[0] == 'pvepassthru'))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
