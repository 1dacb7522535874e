# SPDX-License-Identifier: Apache-2.0
"""The package on Debian 12 and 13: installed, upgraded, removed, purged; and the unit tests on what was installed."""

from __future__ import annotations

import json
import os
import re
import shutil
from typing import TYPE_CHECKING

import pytest

import pvepassthru
from tests.packaging import installation
from tests.packaging.package import NAME, PROJECT
from tests.scenarios import attached

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.packaging.installation import Debian

LIBRARY = "usr/lib/python3/dist-packages"
HOOKSCRIPT = "/usr/share/pvepassthru/hookscripts/pvepassthru"
TIMER, SRIOV = "pvepassthru-recover.timer", "pvepassthru-sriov.service"
METRICS, METRICS_TIMER = "pvepassthru-metrics.service", "pvepassthru-metrics.timer"
STOP = f"stop {TIMER} {METRICS_TIMER} {METRICS}"
NUMBERS = "var/lib/prometheus/node-exporter/pvepassthru.prom"
WANTED = {
    f"etc/systemd/system/timers.target.wants/{TIMER}",
    f"etc/systemd/system/multi-user.target.wants/{SRIOV}",
}
METRICS_WANTED = f"etc/systemd/system/timers.target.wants/{METRICS_TIMER}"
BY_HAND = f"{attached.SNIPPETS}/by-hand"
HOOKED = "name: a\nhookscript: local:snippets/pvepassthru\n\n[PENDING]\nname: b\n"

pytestmark = pytest.mark.kernel  # trees of Debian are for the whole run only


@pytest.fixture(params=list(installation.RELEASES))
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tree(release: str) -> Iterator[Debian]:
    where = installation.place(f"package.{release}")
    try:
        yield installation.make(release, where)
    finally:
        shutil.rmtree(where, ignore_errors=True)


def changing(asked: list[str]) -> list[str]:
    """What systemctl was asked to do, in its own words but without its options."""
    lines = [" ".join(word for word in line.split() if not word.startswith("--")) for line in asked]
    return [line for line in lines if line.split()[:1] != ["show"] and "is-" not in line and "list-units" not in line]


def left(tree: Debian, before: set[str]) -> set[str]:
    """The files that were not there before, without what systemd's helper notes of units."""
    new = {name for name in tree.files() - before if not name.startswith("var/lib/systemd/")}
    return {name for name in new if (tree.root / name).is_symlink() or not (tree.root / name).is_dir()}


# ---- installed, upgraded, removed, purged


def test_its_life(tree: Debian, package: Path, tmp_path: Path) -> None:
    tree.with_systemd()
    tree.put("etc/pve/qemu-server/100.conf", HOOKED)
    tree.put("etc/pve/qemu-server/20.conf", HOOKED.replace("\n", "\r\n"))
    tree.put(
        "etc/pve/qemu-server/101.conf",
        "hookscript: local:snippets/other\n[PENDING]\nhookscript: local:snippets/pvepassthru\n",
    )
    tree.put("etc/pve/pvepassthru.yaml", "orphans: report\n")
    (tree.root / "etc/pve/qemu-server/102.conf").mkdir()
    before = tree.files()
    former = installation.older(package, tmp_path, "0.0.1", f"{NAME}/gone.py")

    # unpacked, not configured: what VMs start with while the rest of a system is upgraded
    tree.dpkg("--unpack", former)
    assert tree.asked() == []
    assert not list((tree.root / LIBRARY / NAME).rglob("*.pyc"))
    assert tree.run(HOOKSCRIPT, "100", "pre-start") == (0, "")
    assert tree.fine("python3", "-m", NAME, "demo").count("\n") > 20
    shutil.rmtree(tree.root / LIBRARY / NAME / "__pycache__", ignore_errors=True)

    tree.dpkg("--configure", NAME)
    assert changing(tree.asked()) == ["daemon-reload", f"start {TIMER}"]
    assert tree.files() >= WANTED
    assert METRICS_WANTED not in tree.files(), "it is the owner's to enable"
    assert list((tree.root / LIBRARY / NAME).glob("__pycache__/gone.*.pyc"))
    assert tree.fine("pvepassthru", "--version") == f"pvepassthru {pvepassthru.__version__}\n"

    # an upgrade waits for a run of recover, and stops and starts nothing but timers, and a run of metrics
    tree.fine("systemctl", "enable", METRICS_TIMER)
    tree.put(f"/{NUMBERS}", "")
    tree.recover_is("activating", "activating", "inactive")
    said = tree.dpkg("--install", package)
    asked = tree.asked()
    assert said.count("waiting for pvepassthru-recover.service to end") == 1
    assert sum("ActiveState" in line for line in asked) == 3
    done = changing(asked)
    assert done[0] == STOP, "before it is waited"
    assert done[-2:] == [f"start {TIMER}", f"start {METRICS_TIMER}"], "enabled meanwhile"
    again = {f"stop {TIMER}", f"stop {METRICS_TIMER}"}  # debhelper's preinst
    assert set(done) - again == {STOP, f"start {TIMER}", f"start {METRICS_TIMER}", "daemon-reload"}
    assert (tree.root / NUMBERS).exists()
    assert not [name for name in tree.files() if "gone" in name and NAME in name]
    assert (
        tree.fine("dpkg-query", "-W", "-f=${Version} ${Status}", NAME)
        == f"{pvepassthru.__version__} install ok installed"
    )

    # removal says which VMs have the hookscript or hold devices, and fails for none of it
    tree.put("run/pvepassthru/100.journal", "")
    tree.recover_is("activating", "failed")
    said = tree.dpkg("--remove", NAME)
    assert "VM 20, 100 still has the hookscript: what pvepassthru attach put on the storage lets it start" in said
    assert "install pvepassthru again and run pvepassthru detach --all" in said
    assert "qm set VMID --delete hookscript" in said
    assert "VM 100 still holds devices" in said
    assert set(changing(tree.asked())) == {f"stop {TIMER}", STOP, "daemon-reload"}
    assert left(tree, before) == {*WANTED, METRICS_WANTED}
    assert not (tree.root / NUMBERS).exists(), "it would be read as news for ever"

    # purge leaves the files that doctor --fix changed, and says so
    tree.put("var/lib/pvepassthru/backups/20260101/manifest.json", "{}")
    assert "/var/lib/pvepassthru stays" in tree.dpkg("--purge", NAME)
    assert left(tree, before) == {"var/lib/pvepassthru/backups/20260101/manifest.json"}
    assert (tree.root / "etc/pve/qemu-server/100.conf").read_text("utf-8") == HOOKED
    assert (tree.root / "run/pvepassthru/100.journal").exists()


def test_it_comes_and_goes_without_a_trace(tree: Debian, package: Path) -> None:
    """Without systemd and without Proxmox VE, as in an image that is built, and on a workstation."""
    before = tree.files()
    tree.dpkg("--install", package)
    (tree.root / "var/lib/pvepassthru/backups").mkdir(parents=True)
    assert tree.fine("pvepassthru", "demo")
    assert "pvepassthru:" not in tree.dpkg("--purge", NAME)
    assert left(tree, before) == set()
    assert not (tree.root / "var/lib/pvepassthru").exists()
    assert not (tree.root / LIBRARY / NAME).exists()


def test_it_says_what_goes_before_it(tree: Debian, release: str, package: Path) -> None:
    """What pip and hands installed, as README.md had it before there was a package."""
    copy = f"usr/local/lib/python{installation.RELEASES[release]}/dist-packages/{NAME}"
    tree.put(f"{copy}/__init__.py", "")
    tree.put("etc/systemd/system/pvepassthru-recover.service", "[Service]\n")
    said = tree.dpkg("--install", package)
    assert f"/{copy} is a copy by pip" in said
    assert "/etc/systemd/system/pvepassthru-recover.service goes before this package's unit" in said
    assert said.count("pvepassthru: ") == 2, "the links that the package made are its own"


# ---- VMs with the hookscript


def test_what_attach_gave_a_vm_outlives_the_package(tree: Debian, package: Path, tmp_path: Path) -> None:
    """Upgrade, removal, a new installation, and `detach`, which gives back what the VM had before."""
    tree.put("usr/bin/py3compile", "#!/bin/sh\n", 0o755)  # what it does is for test_its_life, and takes long
    tree.dpkg("--install", installation.older(package, tmp_path, "0.0.1", f"{NAME}/gone.py"))
    (tree.root / "etc/pve/nodes/pve/qemu-server").mkdir(parents=True)
    (tree.root / "etc/pve/qemu-server").symlink_to("nodes/pve/qemu-server")
    (tree.root / "var/lib/vz/snippets").mkdir(parents=True)
    tree.put("etc/hostname", "pve\n")
    tree.put("etc/pve/storage.cfg", "dir: local\n\tpath /var/lib/vz\n\tcontent iso,snippets\n")
    configs = {100: "name: a\n", 101: "name: b\nhookscript: local:snippets/other\n", 102: "name: c\n"}
    for vmid, config in configs.items():
        tree.put(f"etc/pve/nodes/pve/qemu-server/{vmid}.conf", config)
    tree.put(attached.OTHER, '#!/bin/sh\necho "other: $2"\n', 0o755)
    tree.put(BY_HAND, (PROJECT / "hookscripts/pvepassthru").read_text("utf-8"), 0o755)
    tree.put("usr/sbin/qm", "#!/usr/bin/python3 -IS\n" + (PROJECT / "tests/scenarios/qm.py").read_text("utf-8"), 0o755)

    def phase(vmid: int, name: str = "pre-start", script: str = attached.OURS) -> tuple[int, str]:
        return tree.run(script, str(vmid), name)

    node = (NAME, "--node", "pve")
    assert tree.fine(*node, "attach", "100", "101") == (
        f"{attached.OURS}: put\nVM 100: has hookscript local:snippets/pvepassthru\n"
        "VM 101: has hookscript local:snippets/pvepassthru, with local:snippets/other chained to it\n"
    )
    shim = (tree.root / attached.OURS.lstrip("/")).read_bytes()
    assert (phase(100), phase(101)) == ((0, ""), (0, "other: pre-start\n"))

    tree.dpkg("--install", package)
    assert (tree.root / attached.OURS.lstrip("/")).read_bytes() == shim
    assert (phase(100), phase(101)) == ((0, ""), (0, "other: pre-start\n"))
    assert phase(100, "nonsense")[0] == 2, "it is the package that answers"

    # the advice of the removal is true: what attach put lets the VMs start, what was copied by hand does not
    said = tree.dpkg("--remove", NAME)
    assert "VM 100, 101 still has the hookscript" in said
    code, words = phase(100)
    assert (code, words.count("\n")) == (0, 1)
    assert words.startswith("pvepassthru: error: pvepassthru is not installed on this node for /usr/bin/python3 (")
    code, words = phase(101)
    assert (code, words.count("\n"), words.splitlines()[-1]) == (0, 2, "other: pre-start")
    assert phase(100, script=BY_HAND)[0] == 3

    tree.dpkg("--install", package)
    assert (phase(100), phase(101)) == ((0, ""), (0, "other: pre-start\n"))
    assert tree.fine(*node, "attach", "102") == "VM 102: has hookscript local:snippets/pvepassthru\n"
    assert tree.fine(*node, "detach", "--all") == (
        "VM 100: has no hookscript again\nVM 101: has hookscript local:snippets/other again\n"
        "VM 102: has no hookscript again\n"
    )
    folder = tree.root / "etc/pve/qemu-server"
    assert {vmid: (folder / f"{vmid}.conf").read_text("utf-8") for vmid in configs} == configs
    assert "hookscript" not in tree.dpkg("--remove", NAME)


# ---- the unit tests on what was installed

DEBIANS = ("filelock", "jinja2", "jsonschema", "prometheus_client", "proxmoxer", "requests", "urllib3", "yaml")
"""Whose versions are to be Debian's own."""
CONNECTION = tuple(
    f"tests/api/test_{name}.py" for name in ("client", "cluster", "errors", "login", "profile", "pvesh", "transport")
)
FILES = (
    "tests/host/test_policy.py",
    "tests/host/test_locks.py",
    "tests/cli/test_metrics.py",
    "tests/cli/test_policy.py",
    "tests/cli/test_report.py",
    "tests/api/test_wish_file.py",
)
HOOK = tuple(f"tests/lifecycle/test_{name}.py" for name in ("flows", "gate", "imports", "journal", "quick"))
SUITES = {"bookworm": (*CONNECTION, *FILES), "trixie": (*CONNECTION, *FILES[-1:], *HOOK, "tests/host", "tests/cli")}
"""The main run has Debian 12's Python; so there only what is built on Debian's packages is of interest."""
LEFT_OUT = "tests/host/test_sim*.py"
"""The simulated host: its tests take long, and `pvepassthru demo` and the flows run on it."""


def test_the_unit_tests_pass_on_what_is_installed(tree: Debian, release: str, package: Path) -> None:
    tree.dpkg("--install", package)
    project, tools = tree.root / "srv/project", tree.root / "srv/tools"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("tests", "docs", "packaging", "requirements"):
        shutil.copytree(PROJECT / name, project / name, ignore=ignored, symlinks=True)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(PROJECT / name, project)
    (project / "hookscripts").symlink_to(os.path.dirname(HOOKSCRIPT))
    listed = (PROJECT / "requirements/dev.txt").read_text("utf-8").partition("# Tests\n")[2].partition("\n\n")[0]
    installation.tools(installation.RELEASES[release], tools, listed.splitlines())
    shutil.copy(PROJECT / "tests/packaging/whence.py", tools)
    assert not [name for name in DEBIANS if (tools / name).exists()], "the tools would hide Debian's"

    command = "cd /srv/project; exec python3 -B -m pytest -q -p no:cacheprovider -p whence -m 'not kernel' \"$@\""
    variables = {"CI": "true", "PYTHONPATH": "/srv/tools", "WHENCE": " ".join([NAME, "pytest", "hypothesis", *DEBIANS])}
    said = tree.fine("sh", "-c", command, "sh", *SUITES[release], "--ignore-glob", LEFT_OUT, **variables)

    assert re.search(r"^\d{2,} passed", said, re.MULTILINE), said[-2000:]
    files = json.loads(said.rpartition("\nwhence ")[2])
    assert files.pop("pytest").startswith("/srv/tools/")
    assert files.pop("hypothesis").startswith("/srv/tools/")
    assert set(files) == {NAME, *DEBIANS}
    assert {os.path.dirname(os.path.dirname(path)) for path in files.values()} == {f"/{LIBRARY}"}, files
