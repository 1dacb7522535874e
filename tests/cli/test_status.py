# SPDX-License-Identifier: Apache-2.0
"""The commands `status` and `recover` beside bad journals, and for users without the right to look."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from pvepassthru.cli import status
from pvepassthru.cli.main import main
from pvepassthru.host import state
from pvepassthru.host.host import Host
from tests import tree
from tests.host.machine import memory_folder, unprivileged

if TYPE_CHECKING:
    from pathlib import Path

PARENT = "0000:41:00.0"
STATE = "run/pvepassthru"


def journal(root: str | Path, vmid: int, *more: str) -> str:
    """A VM's journal with one step; returns its real path."""
    step = {"n": 1, "do": "mdev", "target": f"{PARENT}/00000000-0000-0000-0000-{vmid:012d}"}
    records = ({"v": 1, "vmid": vmid}, {**step, "before": None, "after": "nvidia-63"}, {"n": 1, "done": True})
    path = tree.put(
        root, f"{STATE}/{vmid}.journal", "".join(f"{line}\n" for line in [*map(json.dumps, records), *more])
    )
    os.chmod(os.path.dirname(path), 0o700)
    os.chmod(path, 0o600)
    return path


@pytest.fixture
def root(tmp_path: Path) -> str:
    return tree.build(tmp_path, running={100: 42})


def test_states(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    journal(root, 100)
    os.chmod(journal(root, 101), 0o666)
    tree.folder(root, f"{STATE}/102.journal")
    journal(root, 103)
    journal(root, 104, '{"state": "running"}', "junk")
    assert main(["--root", root, "status", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["journals"]
    states = {row["vmid"]: row["state"] for row in rows}
    assert states == {100: "running", 101: "unreadable", 102: "unreadable", 103: "prepared", 104: "stopped"}
    assert [row["pid"] for row in rows] == [42, None, None, None, None]
    assert [row["damaged_lines"] for row in rows] == [[], [], [], [], [5]]
    assert [len(row["steps"]) for row in rows] == [1, 0, 0, 1, 1]
    assert main(["--root", root, "status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("VM 100: running (process 42); ") for line in lines)
    (line,) = [line for line in lines if line.startswith("VM 101: ")]
    assert "is not a plain file that only root can write" in line
    damaged = lines.index("  line 5 of /run/pvepassthru/104.journal is damaged and was passed over")
    assert [line for line in lines[:damaged] if line.startswith("VM ")][-1].startswith("VM 104: ")
    said = [line.partition(": ")[2] for line in lines if line.startswith("VM ")]
    for row, words in zip(rows, said, strict=True):
        assert words.startswith(f"{row['words']}; last written ")
        assert words.endswith(" s ago")
        assert 0 <= row["age"] < 100


def test_failed_runs(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    for vmid in (100, 101):
        tree.put(root, f"etc/pve/qemu-server/{vmid}.conf", "memory: 512\n")
    host = Host(root)
    state.prepare(host)
    ended = int((host.now() - 600) * 1000)
    for vmid, phase, code in (
        (100, "pre-start", 6),
        (100, "post-stop", 0),
        (101, "post-stop", 5),
        (999, "pre-start", 6),
    ):
        state.note_run(host, state.Run(vmid, phase, ended, 20, code, 0))
    assert main(["--root", root, "status"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "nothing held: no journal is open, and nothing looks left behind",
        "VM 100: pre-start failed 10 min ago (exit code 6); that task's log says why",
        "VM 101: post-stop failed 10 min ago (exit code 5); that task's log says why",
    ]


@pytest.mark.parametrize(
    "age, words", [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (172800, "2 d")]
)
def test_age(age: int, words: str) -> None:
    assert status.words_for(age) == words


def test_age_of_a_journal(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = journal(root, 103)
    os.utime(path, (0, os.stat(path).st_mtime - 600))
    assert main(["--root", root, "status"]) == 0
    assert "; last written 10 min ago" in capsys.readouterr().out


def test_recover_tells_failed_from_skipped(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A journal that is not trusted or newer than this program is something to look at; a VM that runs is not."""
    journal(root, 100)
    assert main(["--root", root, "recover"]) == 0
    assert capsys.readouterr().out == "VM 100: skipped, it runs as process 42\n"
    os.chmod(journal(root, 101), 0o666)
    tree.put(root, f"{STATE}/102.journal", '{"v": 99}\n')
    assert main(["--root", root, "recover", "--dry-run"]) == 1
    skipped, unsafe, newer = capsys.readouterr().out.splitlines()
    assert skipped.startswith("VM 100: skipped, ")
    assert unsafe.startswith("VM 101: failed, the journal /run/pvepassthru/101.journal is not a plain file")
    assert newer.startswith("VM 102: failed, the journal /run/pvepassthru/102.journal has format 99")
    assert main(["--root", root, "recover", "--json"]) == 1
    states = {vm["vmid"]: vm["state"] for vm in json.loads(capsys.readouterr().out)["vms"]}
    assert states == {100: "alive", 101: "failed", 102: "failed"}


@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["recover"], ["recover", "100"]])
def test_without_the_right_to_look(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What this tool holds must not be called somebody else's."""
    instance = "00000000-0000-0000-0000-000000000100"
    types = {"types": {"nvidia-63": {"available": "1"}}, "instances": {instance: "nvidia-63"}}
    with memory_folder() as folder:
        tree.build(folder, {"devices": {PARENT: {"mdev": types}}})
        os.chmod(folder, 0o755)
        journal(folder, 100)
        os.chmod(f"{folder}/{STATE}", 0o700 if os.geteuid() == 0 else 0)
        with unprivileged():
            assert main(["--root", folder, *words]) == 5
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "pvepassthru: cannot read /run/pvepassthru: Permission denied; run this as root\n"


def test_how_the_last_hook_runs_went(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    tree.put(root, "etc/pve/qemu-server/100.conf", "memory: 512\n")
    host = Host(root)
    state.prepare(host)
    noted = [state.Run(100, "post-stop", 1_795_000_000_000, 30, 0, 1), state.Run(100, "pre-start", 7, 20, 5, 0)]
    for run in (*noted, state.Run(999, "pre-start", 7, 20, 5, 0)):  # there is no VM 999
        state.note_run(host, run)
    assert main(["--root", root, "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == [run._asdict() for run in noted]
