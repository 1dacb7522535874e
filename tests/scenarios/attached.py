# SPDX-License-Identifier: Apache-2.0
"""A VM's hookscript as `pvepassthru attach` leaves it: the shim on a storage, and another script chained to it."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from pvepassthru.cli import attachment
from pvepassthru.cli.main import main
from pvepassthru.host import programs
from pvepassthru.host.host import Host
from pvepassthru.lifecycle import shim_file
from tests import tree
from tests.kernel import guest

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

SNIPPETS = "/var/lib/vz/snippets"
OURS = f"{SNIPPETS}/pvepassthru"
OTHER = f"{SNIPPETS}/other"
VOLUME = "local:snippets/pvepassthru"
OTHER_VOLUME = "local:snippets/other"
NIC = "hostpci0: 02:00.0\n"
DEVICE = {"vendor": "0x8086", "device": "0x1521", "class": "0x020000", "driver": "igb"}
"""What the nodes have there."""
HOOKS = "/etc/pve/pvepassthru-hooks.json"
NOTES = """#!/bin/sh
# Notes each phase, and whether VM 100 has a journal; ends with what CODE of its folder says.
folder=${0%/*}
[ -e "$PVEPASSTHRU_ROOT/run/pvepassthru/$1.journal" ] && has=journal || has=none
echo "$2 $has" >>"$folder/notes"
echo "other: $2"
[ -e "$folder/code" ] && exit "$(cat "$folder/code")"
exit 0
"""


def interpreter(folder: Path, *, package: bool) -> str:
    """A Python of its own below a folder, which finds the package of this checkout, or finds none."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    python = tree.folder(folder, "bin") + "/python3"
    tree.put(folder, "pyvenv.cfg", f"home = {os.path.dirname(_base())}\ninclude-system-site-packages = false\n")
    os.symlink(_base(), python)
    packages = tree.folder(folder, f"lib/{version}/site-packages")
    if package:
        tree.put(packages, "checkout.pth", f"{guest.PROJECT}\n")
    return python


def _base() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def put_shim(root: str) -> str:
    """Put the shim where attach puts it; returns its real path."""
    path = tree.put(root, OURS, shim_file.text())
    os.chmod(path, 0o755)
    return path


def chain(root: str, script: str | None = NOTES, *, vmid: int = 100, mode: int = 0o755) -> None:
    """Chain a script, None for one that is gone, to a VM's hookscript."""
    link = {"volume": "local:snippets/other", "path": OTHER}
    tree.put(root, HOOKS, json.dumps({"version": 1, "chained": {str(vmid): link}}))
    if script is not None:
        os.chmod(tree.put(root, OTHER, script), mode)


def notes(root: str) -> list[str]:
    """What the script has noted."""
    try:
        with open(f"{root}{SNIPPETS}/notes", encoding="ascii") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def other_ends_with(root: str, code: int) -> None:
    """Have the script end with this code from now on."""
    tree.put(root, f"{SNIPPETS}/code", f"{code}\n")


PVESH = """#!/bin/sh
# Answers `get /nodes/NODE/storage/STORAGE/content ...` with the tree's file of that path; a node without one is down.
root=${0%/usr/sbin/pvesh}
echo "$*" >>"$root/pvesh.log"
[ -e "$root/answers$2" ] && exec cat "$root/answers$2"
echo "ssh: connect to host: No route to host" >&2
exit 255
"""


def put_programs(root: str) -> None:
    """Put programs into a tree that stand for those of PVE."""
    qm = tree.put(root, "usr/sbin/qm", f"#!{_base()} -IS\n")
    with (
        open(qm, "a", encoding="utf-8") as file,
        open(f"{guest.PROJECT}/tests/scenarios/qm.py", encoding="utf-8") as own,
    ):
        file.write(own.read())
    os.chmod(qm, 0o755)
    os.chmod(tree.put(root, "usr/sbin/pvesh", PVESH), 0o755)


def run_programs_of(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the programs of a tree run, which else are never, and its VMs changed."""
    run = programs.run
    monkeypatch.setattr(programs, "find", lambda _host, name: f"{root}/usr/sbin/{name}")
    monkeypatch.setattr(programs, "run", lambda _host, command, seconds: run(Host("/"), command, seconds))
    monkeypatch.setattr(attachment, "need_own", lambda _args, _host: None)


def node(root: str | Path, monkeypatch: pytest.MonkeyPatch, configs: dict[int, str] | None = None) -> str:
    """Build a node with PVE's programs, two foreign hookscripts, and these VMs: by default 100, with a device, and 101.

    Returns its root.
    """
    made = tree.build(root, configs=configs or {100: f"memory: 512\n{NIC}", 101: "memory: 512\n"})
    for number, address in enumerate(("0000:02:00.0", "0000:03:00.0")):
        tree.add_device(made, address, {**DEVICE, "iommu_group": number})
    tree.folder(made, "run")
    for name in ("other", "third"):
        os.chmod(tree.put(made, f"{SNIPPETS}/{name}", "#!/bin/sh\n"), 0o755)
    put_programs(made)
    run_programs_of(made, monkeypatch)
    return made


def run(root: str, *words: str) -> int:
    """Run a command on this node; its exit code."""
    return main(["--root", root, *words])


def give(root: str, text: str, vmid: int = 100) -> None:
    """Give a VM of the node this config."""
    tree.put(root, f"etc/pve/nodes/pve/qemu-server/{vmid}.conf", text)


def snapshot(root: str) -> dict[str, bytes]:
    """All files of a tree."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = f"{folder}/{name}"
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    found[path.removeprefix(root)] = file.read()
    return found


def config(root: str, vmid: int = 100, node: str = "pve") -> str:
    """A VM's config."""
    with open(f"{root}/etc/pve/nodes/{node}/qemu-server/{vmid}.conf", encoding="utf-8") as file:
        return file.read()


def log(root: str, program: str = "qm") -> list[str]:
    """The words of each call of a program."""
    try:
        with open(f"{root}/{program}.log", encoding="utf-8") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def hooks(root: str) -> dict[str, dict[str, str]]:
    """The chained hookscripts that are noted, by VMID."""
    try:
        with open(root + HOOKS, encoding="utf-8") as file:
            found: dict[str, dict[str, str]] = json.load(file)["chained"]
            return found
    except FileNotFoundError:
        return {}
