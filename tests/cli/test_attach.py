# SPDX-License-Identifier: Apache-2.0
"""The command `attach` on a node, with programs that stand for qm and pvesh."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import cluster_lock
from pvepassthru.lifecycle import shim_file
from tests import tree
from tests.kernel import guest
from tests.scenarios import attached
from tests.scenarios.attached import NIC, OTHER_VOLUME, VOLUME, give, run, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A node with VM 100, which has a device, and 101, which has none."""
    return attached.node(tmp_path / "root", monkeypatch)


# ---- attach


def test_a_vm_gets_the_hookscript(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "attach", "100") == 0
    assert capsys.readouterr().out == (
        "/var/lib/vz/snippets/pvepassthru: put\nVM 100: has hookscript local:snippets/pvepassthru\n"
    )
    assert attached.config(root) == f"memory: 512\n{NIC}hookscript: {VOLUME}\n"
    assert attached.hooks(root) == {}
    with open(root + attached.OURS, "rb") as file:
        assert file.read() == shim_file.text()
    assert os.stat(root + attached.OURS).st_mode & 0o777 == 0o755


def test_a_second_time_nothing_is_done(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(root, "attach", "100")
    before = snapshot(root)
    capsys.readouterr()
    assert run(root, "attach", "100") == 0
    assert capsys.readouterr().out == "VM 100: has hookscript local:snippets/pvepassthru already\n"
    assert snapshot(root) == before


def test_a_former_hookscript_is_chained(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    give(root, f"hookscript: {OTHER_VOLUME}\n{NIC}")
    assert run(root, "attach", "100") == 0
    said = "VM 100: has hookscript local:snippets/pvepassthru, with local:snippets/other chained to it\n"
    assert capsys.readouterr().out.endswith(said)
    assert attached.hooks(root) == {"100": {"volume": OTHER_VOLUME, "path": attached.OTHER}}
    assert os.stat(root + attached.HOOKS).st_mode & 0o777 == 0o640, "pmxcfs takes no other"
    assert not os.listdir(root + cluster_lock.FOLDER)
    assert attached.config(root).endswith(f"hookscript: {VOLUME}\n")
    assert run(root, "attach", "100") == 0
    assert capsys.readouterr().out.endswith("already, with local:snippets/other chained to it\n")


def test_a_dry_run_changes_nothing(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    give(root, f"hookscript: {OTHER_VOLUME}\n")
    before = snapshot(root)
    assert run(root, "attach", "100", "101", "--dry-run") == 0
    assert capsys.readouterr().out == (
        "/var/lib/vz/snippets/pvepassthru: would be put\n"
        "VM 100: would have hookscript local:snippets/pvepassthru, with local:snippets/other chained to it\n"
        "  note local:snippets/other in /etc/pve/pvepassthru-hooks.json\n"
        "  qm set 100 --hookscript local:snippets/pvepassthru\n"
        "VM 101: would have hookscript local:snippets/pvepassthru\n"
        "  qm set 101 --hookscript local:snippets/pvepassthru\n"
    )
    assert snapshot(root) == before


def test_all_with_devices(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    give(root, f"template: 1\n{NIC}", 102)
    give(root, f"memory: 512\n\n[PENDING]\n{NIC}", 103)
    tree.run(root, 103, 4242)
    assert run(root, "attach", "--all-passthrough") == 0
    assert attached.log(root) == [f"set {vmid} --hookscript {VOLUME}" for vmid in (100, 103)]
    give(root, "memory: 512\n")
    give(root, "memory: 512\n", 103)
    capsys.readouterr()
    assert run(root, "attach", "--all-passthrough") == 0
    assert capsys.readouterr().out == "no VM of this node has hostpci entries\n"


def test_one_that_cannot_be_read_does_not_stop_the_others(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    tree.folder(root, "etc/pve/nodes/pve/qemu-server/102.conf")
    give(root, f"memory: 512\n{NIC}", 210)
    for command, last in (("attach", f"set 210 --hookscript {VOLUME}"), ("detach", "set 210 --delete hookscript")):
        assert run(root, command, "--all-passthrough" if command == "attach" else "--all") == 4
        assert capsys.readouterr().err == (
            "pvepassthru: cannot read /etc/pve/qemu-server/102.conf: Is a directory; see what is wrong with it\n"
        )
        assert attached.log(root)[-1] == last
        assert len(attached.log(root)) == (2 if command == "attach" else 4)


def test_json(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    give(root, f"hookscript: {OTHER_VOLUME}\n")
    assert run(root, "attach", "100", "999", "--json") == 3
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "dry_run": False,
        "shim": {"volume": VOLUME, "path": attached.OURS, "state": "put"},
        "vms": [
            {
                "vmid": 100,
                "state": "attached",
                "hookscript": VOLUME,
                "former": OTHER_VOLUME,
                "commands": [f"note {OTHER_VOLUME} in {attached.HOOKS}", f"qm set 100 --hookscript {VOLUME}"],
                "warnings": [],
                "error": None,
            },
            {
                "vmid": 999,
                "state": "failed",
                "hookscript": None,
                "former": None,
                "commands": [],
                "warnings": [],
                "error": "there is no VM 999; the VMs of node pve: 100, 101",
            },
        ],
    }


@pytest.mark.parametrize("words", [(), ("100", "--all-passthrough"), ("100", "--shim-only")])
def test_which_vms(words: tuple[str, ...], root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "attach", *words) == 2
    assert "attach needs VMIDs, --all-passthrough or --shim-only" in capsys.readouterr().err


def test_guests_that_are_none_of_this_node(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    tree.put(root, "etc/pve/nodes/other/qemu-server/200.conf", "memory: 512\n")
    tree.put(root, "etc/pve/nodes/pve/lxc/300.conf", "memory: 512\n")
    give(root, "template: 1\n", 102)
    assert run(root, "attach", "200", "300", "102", "100", "--this-node-only") == 2
    assert capsys.readouterr().err.splitlines() == [
        "pvepassthru: VM 200 is on node other, and this is pve; run this on node other",
        "pvepassthru: 300 is a container, and this tool is for VMs; leave it out",
        "pvepassthru: VM 102 is a template, which never starts; attach the VMs that are made of it",
    ]
    assert attached.log(root) == [f"set 100 --hookscript {VOLUME}"], "the others do not stop it"


@pytest.mark.parametrize("make", [os.unlink, lambda path: os.chmod(path, 0o644)], ids=["gone", "mode"])
def test_a_former_hookscript_that_cannot_be_run(
    make: Callable[[str], None], root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    give(root, f"hookscript: {OTHER_VOLUME}\n")
    make(root + attached.OTHER)
    assert run(root, "attach", "100") == 5
    said = capsys.readouterr().err
    assert said.startswith("pvepassthru: hookscript local:snippets/other of VM 100 cannot be run: ")
    assert said.endswith("or do without it: qm set 100 --delete hookscript\n")
    assert attached.hooks(root) == {}
    assert attached.log(root) == []


def test_pve_works_on_the_vm(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    give(root, "lock: backup\n")
    assert run(root, "attach", "100") == 6
    assert capsys.readouterr().err == (
        "pvepassthru: VM 100 is locked (backup): PVE works on it; wait until that is done\n"
    )


def test_pending_changes_of_others(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    """While the VM runs they stay pending; else any write makes them effective."""
    text = "memory: 512\n\n[PENDING]\nmemory: 1024\ndelete: vga\n"
    give(root, text)
    assert run(root, "attach", "100") == 5
    assert "VM 100 does not run and has pending changes (memory, vga)" in capsys.readouterr().err
    assert attached.config(root) == text
    tree.run(root, 100, 4242)
    assert run(root, "attach", "100") == 0
    assert "[PENDING]\nmemory: 1024" in attached.config(root)
    tree.stop(root, 100)
    assert run(root, "detach", "100") == 5
    assert run(root, "detach", "100", "--with-pending") == 0
    assert "PENDING" not in attached.config(root)


def test_qm_fails(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    give(root, f"hookscript: {OTHER_VOLUME}\n")
    tree.put(root, "qm.fails")
    assert run(root, "attach", "100") == 5
    assert capsys.readouterr().err == (
        "pvepassthru: qm set 100 --hookscript local:snippets/pvepassthru failed: unable to write file: Permission "
        "denied; the VM has what it had; mend that, then run this again\n"
    )
    os.unlink(f"{root}/qm.fails")
    assert run(root, "attach", "100") == 0
    assert attached.hooks(root)["100"]["volume"] == OTHER_VOLUME


@pytest.mark.parametrize("now", [None, "local:snippets/third"])
def test_an_old_note_is_not_revived(now: str | None, root: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a VM that had this number before, or whose hookscript people have changed; it is said how to have it again."""
    attached.chain(root)
    if now:
        give(root, f"hookscript: {now}\n")
    assert run(root, "attach", "100") == 0
    assert attached.hooks(root).get("100", {}).get("volume") == now
    again = "pvepassthru detach 100; qm set 100 --hookscript local:snippets/other; pvepassthru attach 100"
    assert capsys.readouterr().err == (
        "pvepassthru: warning: hookscript local:snippets/other, which was chained to ours before, is forgotten: VM 100 "
        f"had {now or 'none'} now; to have it again: {again}\n"
    )


def test_a_damaged_file_of_notes(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    tree.put(root, attached.HOOKS, "{")
    assert run(root, "attach", "100") == 4
    assert "pvepassthru-hooks.json is no JSON" in capsys.readouterr().err
    assert attached.log(root) == []


# ---- where


def test_another_tree_is_only_looked_at(
    root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    for command in ("attach", "detach"):
        assert run(root, command, "100") == 2
        assert "is another tree, whose VMs no program changes; add --dry-run" in capsys.readouterr().err
        assert run(root, command, "100", "--dry-run") == 0
    assert attached.log(root) == []


def test_no_node_of_pve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(tmp_path), "attach", "100") == 3
    assert run(str(tmp_path), "detach", "100") == 3
    assert "no Proxmox VE on this machine" in capsys.readouterr().err


def test_on_a_node_the_api_is_not_loaded() -> None:
    code = "import sys; from pvepassthru.cli import attach, detach; sys.exit('proxmoxer' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=guest.PROJECT).returncode == 0


def test_a_start_that_will_be_refused_is_told(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    give(root, "memory: 512\nhostpci0: 0000:09:00.0\nhostpci1: 02:00.0,pcie=1\n")
    assert run(root, "attach", "100", "101") == 0
    assert capsys.readouterr().err == (
        "pvepassthru: warning: validate finds 2 errors, so the next start may be refused: pvepassthru validate 100\n"
    )
