# SPDX-License-Identifier: Apache-2.0
"""The Debian package: what is in it, what it needs, that lintian takes it, and that each build makes the same."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import re
import subprocess
import tomllib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pvepassthru
from tests.docs import markdown
from tests.docs.test_links import DOCUMENTATION, target
from tests.packaging.package import NAME, PROJECT, build, need, said

if TYPE_CHECKING:
    from types import ModuleType

DEBIAN = PROJECT / "packaging" / "debian"
LIBRARY = "usr/lib/python3/dist-packages"
DOCS = "usr/share/doc/pvepassthru"
LINKED = {"CONTRIBUTING.md", "packaging/README.md", "packaging/policy.example.yaml", "packaging/vms.example.yaml"}
"""What pages of the documentation link to beside each other."""
NO_SYSVINIT = "package-supports-alternative-init-but-no-init.d-script"

pytestmark = pytest.mark.kernel  # a package is built for the whole run only


def files(unpacked: Path) -> dict[str, Path]:
    """All but links."""
    found = {str(path.relative_to(unpacked)): path for path in unpacked.rglob("*") if not path.is_dir()}
    return {name: path for name, path in found.items() if not path.is_symlink()}


def fields(package: Path) -> dict[str, str]:
    lines = said("dpkg-deb", "--field", package).splitlines()
    return dict(line.split(": ", 1) for line in lines if not line.startswith(" ") and ": " in line)


def names(field: str) -> set[str]:
    return {part.split()[0].partition(":")[0] for part in field.split(",")}


# ---- what is in it


def test_the_whole_python_package_is_in_it(unpacked: Path) -> None:
    tracked = said("git", "ls-files", NAME).split()
    there = {name: path.read_bytes() for name, path in files(unpacked / LIBRARY).items() if name.startswith(f"{NAME}/")}
    assert there == {name: (PROJECT / name).read_bytes() for name in tracked}


def test_all_else_that_is_in_it(unpacked: Path) -> None:
    there = {name for name in files(unpacked) if not name.startswith(LIBRARY)}
    docs = {name for name in there if name.startswith(f"{DOCS}/")}
    assert there - docs == {
        "usr/bin/pvepassthru",
        "usr/lib/systemd/system/pvepassthru-metrics.service",
        "usr/lib/systemd/system/pvepassthru-metrics.timer",
        "usr/lib/systemd/system/pvepassthru-recover.service",
        "usr/lib/systemd/system/pvepassthru-recover.timer",
        "usr/lib/systemd/system/pvepassthru-sriov.service",
        "usr/share/bash-completion/completions/pvepassthru",
        "usr/share/man/man1/pvepassthru.1.gz",
        "usr/share/man/man5/pvepassthru.yaml.5.gz",
        "usr/share/pvepassthru/grafana/pvepassthru.json",
        "usr/share/pvepassthru/hookscripts/pvepassthru",
        "usr/share/zsh/vendor-completions/_pvepassthru",
    }
    examples = {name.rpartition("/")[2] for name in docs if "/examples/" in name}
    assert examples == {"policy.example.yaml", "vms.example.yaml"}
    hookscript = unpacked / "usr/share/pvepassthru/hookscripts/pvepassthru"
    assert hookscript.read_bytes() == (PROJECT / "hookscripts/pvepassthru").read_bytes()
    assert hookscript.stat().st_mode & 0o777 == 0o755


def test_every_unit_is_in_it(unpacked: Path) -> None:
    folder = unpacked / "usr/lib/systemd/system"
    units = {path.name: path.read_bytes() for path in (PROJECT / "packaging/systemd").iterdir()}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == units


def test_the_documentation_is_in_it_as_it_is(unpacked: Path) -> None:
    folder = unpacked / DOCS
    tracked = set(said("git", "ls-files", "docs", "README.md").split()) | LINKED
    there = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    examples = {name for name in there if name.startswith("examples/")}
    assert there.keys() - examples - tracked == {"changelog.gz", "copyright"}
    assert {name: there[name].read_bytes() for name in tracked} == {
        name: (PROJECT / name).read_bytes() for name in tracked
    }


def test_links_of_its_pages_lead_somewhere(unpacked: Path) -> None:
    folder = unpacked / DOCS
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*.md")}
    pages = {name: markdown.parse(name, path.read_text("utf-8")) for name, path in paths.items()}
    faults = []
    for name, page in pages.items():
        for line, link in page.links:
            there, anchor = target(name, link)
            if "://" in link:
                continue
            if not (folder / there).is_file():
                faults.append(f"{name}:{line}: there is no {there}")
            elif anchor and anchor not in pages[there].anchors:
                faults.append(f"{name}:{line}: {there} has no heading #{anchor}")
    assert not faults
    assert pages.keys() >= DOCUMENTATION


def test_what_its_pages_name_of_it_is_there(unpacked: Path) -> None:
    """The manual pages and the documentation name files by their places in it."""
    manual = [said("man", "-l", path) for path in (unpacked / "usr/share/man").rglob("*.gz")]
    pages = [path.read_text("utf-8") for path in (unpacked / DOCS).rglob("*.md")]
    named = set(re.findall(r"/usr/share/(?:doc/)?pvepassthru[\w./-]*\w", "\n".join([*manual, *pages])))
    assert {f"/{DOCS}/docs/exit-codes.md", "/usr/share/pvepassthru/grafana/pvepassthru.json"} <= named
    assert not [name for name in named if not (unpacked / name.lstrip("/")).exists()]


def test_nothing_is_in_it_twice(unpacked: Path) -> None:
    found = [path.read_bytes() for name, path in files(unpacked).items() if name.startswith("usr/share/")]
    assert not [data[:80] for data, count in Counter(found).items() if count > 1]


def test_all_is_roots_and_writable_by_nobody_else(package: Path) -> None:
    for line in said("dpkg-deb", "--contents", package).splitlines():
        mode, owner = line.split()[:2]
        assert owner == "root/root", line
        assert mode[0] == "l" or (mode[5], mode[8]) == ("-", "-"), line


# ---- what it needs


def test_it_needs_what_the_python_package_needs(package: Path) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = {re.split(r"[>=]", text)[0] for text in project["dependencies"]}
    renamed = {"pyyaml": "yaml", "prometheus-client": "prometheus-client"}
    assert names(fields(package)["Depends"]) == {"python3", *(f"python3-{renamed.get(name, name)}" for name in asked)}


def test_it_needs_nothing_of_proxmox(package: Path) -> None:
    """It is for workstations too."""
    told = fields(package)
    wanted = names(told["Depends"]) | names(told["Recommends"])
    assert not {name for name in wanted if name.startswith(("pve", "proxmox", "qemu", "lib"))}


def test_one_version(package: Path) -> None:
    changelog = (DEBIAN / "changelog").read_text("utf-8")
    assert changelog.startswith(f"{NAME} ({pvepassthru.__version__}) ")
    assert fields(package)["Version"] == pvepassthru.__version__
    assert package.name == f"{NAME}_{pvepassthru.__version__}_all.deb"


def test_what_it_is_built_with_is_what_dev_installs() -> None:
    control = (DEBIAN / "control").read_text("utf-8")
    asked = re.findall(
        r"^ ([a-z0-9-]+)", control.partition("Build-Depends:")[2].partition("Standards-")[0], re.MULTILINE
    )
    loader = importlib.machinery.SourceFileLoader("dev", str(PROJECT / "dev"))
    dev = importlib.util.module_from_spec(importlib.util.spec_from_loader("dev", loader))  # type: ignore[arg-type]  # a file has one
    loader.exec_module(dev)
    renamed = {"debhelper-compat": "debhelper", "dh-sequence-python3": "dh-python"}
    assert {renamed.get(name, name) for name in asked} | {"dpkg-dev", "make"} == set(dev.DEB_PACKAGES)


# ---- how it is built


def test_lintian_has_nothing_to_say(package: Path) -> None:
    """But for one tag of Debian 12's: Proxmox VE runs on systemd only, so there is no script for sysvinit.

    Debian 13's does not know that tag any more, and refuses it as an override and as an option.
    """
    need("lintian")
    words = ["lintian", "--allow-root", "--pedantic", "--display-info", "--fail-on", "error,warning"]
    assert not [line for line in said(*words, package).splitlines() if NO_SYSVINIT not in line]


def test_it_is_the_same_wherever_it_is_built(package: Path, tmp_path: Path) -> None:
    settings = {
        "TZ": "Asia/Kathmandu",
        "LC_ALL": "C",
        "LANGUAGE": "tr",
        "HOME": str(tmp_path),
        "PYTHONPATH": "/nowhere",
    }
    again = build(tmp_path / "elsewhere", "sh", "-c", 'umask 077; exec "$@"', "sh", **settings)
    assert again.name == package.name
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(package.read_bytes()).digest()


@pytest.fixture
def deb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """packaging/deb.py, in a small project of its own."""
    spec = importlib.util.spec_from_file_location("deb", PROJECT / "packaging" / "deb.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    project = tmp_path / "project"
    for name, text in (
        ("packaging/debian/changelog", f"{NAME} (1.2) unstable; urgency=medium\n"),
        (f"{NAME}/__init__.py", '__version__ = "1.2"\n'),
        ("run", "#!/bin/sh\n"),
    ):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text, encoding="utf-8")
    (project / "run").chmod(0o700)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *words], cwd=project, check=True)
    monkeypatch.setattr(module, "PROJECT", str(project))
    return module


def test_only_what_git_tracks_is_built(deb: ModuleType, tmp_path: Path) -> None:
    project = Path(deb.PROJECT)
    assert deb.uncommitted() == []
    (project / "new").write_text("", encoding="utf-8")
    (project / "run").write_text("#!/bin/sh\ntrue\n", encoding="utf-8")
    assert {line.split()[1] for line in deb.uncommitted()} == {"new", "run"}
    deb.copy(deb.tracked(), str(tmp_path / "copy"))
    there = {str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    assert there == {"run", f"{NAME}/__init__.py", "packaging/debian/changelog", "debian/changelog"}
    assert (tmp_path / "copy/run").read_text("utf-8").endswith("true\n"), "as it is in the checkout"
    assert os.stat(tmp_path / "copy/run").st_mode & 0o777 == 0o755
    assert deb.version(str(tmp_path / "copy")) == "1.2"


def test_a_file_that_was_removed_is_no_fault(deb: ModuleType) -> None:
    (Path(deb.PROJECT) / "run").unlink()
    assert "run" not in deb.tracked()


def test_two_versions_are_refused(deb: ModuleType, tmp_path: Path) -> None:
    (Path(deb.PROJECT) / NAME / "__init__.py").write_text('__version__ = "1.3"\n', encoding="utf-8")
    deb.copy(deb.tracked(), str(tmp_path / "copy"))
    with pytest.raises(deb.BuildError, match=r"has version 1\.2, pvepassthru/__init__\.py 1\.3"):
        deb.version(str(tmp_path / "copy"))


def test_a_folder_without_git_is_refused(deb: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(deb, "PROJECT", str(tmp_path / "nothing"))
    with pytest.raises(deb.BuildError, match="no checkout"):
        deb.tracked()
