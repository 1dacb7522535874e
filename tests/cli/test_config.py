# SPDX-License-Identifier: Apache-2.0
"""The command `config`: from a node's own files or by the API, its forms, what it refuses, and --apply."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from pvepassthru.api import judgement
from pvepassthru.cli.main import main
from pvepassthru.model.finding import Finding
from tests import tree
from tests.api import node
from tests.api.applying import fake_cluster, held
from tests.api.fake_pve import data
from tests.api.fake_pve.data import Token, User
from tests.api.fake_pve.server import FakePve
from tests.cli import environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = "memory: 2048\nballoon: 512\nscsi0: local-lvm:vm-100-disk-0,size=8G\n"
NIC = "06:00.0"


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.clear(monkeypatch, tmp_path / "home")


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A node's own files."""
    folder = tmp_path / "root"
    node.build(folder, {100: CONFIG, 101: "hostpci0: 01:00\nonboot: 1\n"})
    return str(folder)


@pytest.fixture
def pve(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePve]:
    """A cluster that the environment names, for root@pam by password."""
    with FakePve(fake_cluster()) as fake:
        environment.log_in(monkeypatch, fake)
        yield fake


def run(*words: str, root: str | None = None) -> int:
    return main([*(["--root", root] if root else []), "config", *words])


def test_a_file_without_vms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vms.yaml"
    path.write_text("vms: {}\n")
    assert run("--file", str(path)) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"pvepassthru: {path} names no VM below vms, so there is nothing to change\n")
    assert run("--file", str(path), "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_numa_node_that_the_api_does_not_tell(pve: FakePve, capsys: pytest.CaptureFixture[str]) -> None:
    assert pve.state.writes == []
    assert run("100", "--device", "02:00.0", "--numa") == 5
    err = capsys.readouterr().err
    assert "the API does not tell which it is; run this on node pve1 itself, or set affinity by hand" in err


def test_entries_are_removed(pve: FakePve, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("100", "--remove", "hostpci3") == 0
    assert "- hostpci3: 0000:04:00.0\n    hostpci3 is to be removed: 0000:04:00.0" in capsys.readouterr().out
    assert run("100", "--remove", "hostpci3", "--apply", "--yes", "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["writes"] == [{"set": {}, "delete": ["hostpci3"]}]
    assert told["applied"]["written"] == ["hostpci3"]
    assert "hostpci3" not in held(pve).main
    assert run("100", "--remove", "hostpci3", "--apply", "--yes", "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["changes"], told["applied"]) == ([], None)
    pve.state.vm(100).change(hostpci4="0000:04:00.0")
    assert run("100", "--remove", "hostpci4", "--apply", "--yes") == 0
    assert "VM 100 is changed: removed hostpci4\n" in capsys.readouterr().out
    assert run("100", "--remove", "vga") == 2
    assert "vga is no hostpci entry" in capsys.readouterr().err


def test_what_stays_useless_is_not_put_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "node"
    node.build(folder, {100: "hostpci0: 03:10.0\nvga: none\nargs: -cpu host\nmemory: 512\n"})
    assert run("100", "--remove", "hostpci0", root=str(folder)) == 0
    out = capsys.readouterr().out
    assert "note: vga: none made sense with hostpci0" in out
    assert "note: args stays" in out
    assert "  moot: warning PVP348 vga: " in out
    assert "put right: warning PVP348" not in out
    assert "serial0" not in out, "one way out is enough, that of the note"


def test_the_preview_says_what_stands_in_the_way(pve: FakePve, capsys: pytest.CaptureFixture[str]) -> None:
    """A note, which leaves the exit code alone; and not before --apply, which says it itself."""
    pve.state.vm(100).change(lock="backup")
    words = ["100", "--device", "02:00.0", "--hookscript", "nosuch:snippets/x"]
    assert run(*words) == 0
    out = capsys.readouterr().out
    assert out.count("note: as things are now --apply would not do it: ") == 2
    assert out.count("is locked (backup)") == out.count("there is no storage nosuch on node pve1") == 1
    assert run(*words, "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert len(told["hindrances"]) == 2
    assert run(*words, "--apply", "--yes", "--json") == 13
    out, err = capsys.readouterr()
    assert json.loads(out)[0]["hindrances"] == []
    assert err.count("is locked (backup)") == 1
    assert pve.state.writes == []


def test_of_several_vms_each_fact_is_said_once(
    pve: FakePve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "vms.yaml"
    path.write_text('vms:\n  101: {devices: ["02:00.0"]}\n  102: {devices: ["01:00"]}\n')
    assert run("--file", str(path)) == 0
    assert capsys.readouterr().out.count("the API does not tell what the host itself uses a device for") == 1
    assert run("--file", str(path), "--json") == 0
    assert all(any("does not tell" in note for note in one["notes"]) for one in json.loads(capsys.readouterr().out))
    assert pve.state.writes == []


def test_by_the_api_each_vm_has_its_node(pve: FakePve, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--node", "pve9", "config", "100", "--device", "02:00.0"]) == 2
    assert "--node says whose files are read, and here everything is read by the API" in capsys.readouterr().err
    assert not pve.state.log


# ---- from files


def test_a_diff_with_reasons_and_what_the_rules_say(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("100", "--device", "01:00", root=root) == 0
    out = capsys.readouterr().out
    assert "+ hostpci0: 0000:01:00,pcie=1\n    0000:01:00 is wanted: 0000:01:00.0" in out
    assert "+ machine: q35\n    pcie=1 of hostpci0 needs a q35 machine" in out
    assert "- balloon: 512\n+ balloon: 0\n" in out
    assert "only one of the two" not in out, "the rule says it"
    assert out.count("VM 101") == 1
    assert "rules: 1 finding new\n  new info PVP426 hostpci0:" in out


def test_what_a_vm_has_itself_is_not_anothers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node.build(tmp_path / "root", {102: "hostpci0: 01:00.0\n"})
    assert run("102", "--device", "01:00", root=str(tmp_path / "root")) == 0
    out = capsys.readouterr().out
    assert "- hostpci0: 01:00.0\n+ hostpci0: 0000:01:00" in out
    assert "is also of" not in out


def test_forms(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    def out(form: str) -> str:
        assert run("100", "--device", NIC, "--format", form, root=root) == 0
        return capsys.readouterr().out

    assert "qm set 100 \\\n  --hostpci0 0000:06:00.0 \\\n  --balloon 0 \\\n  --digest " in out("qm")
    (told,) = json.loads(out("json"))
    assert yaml.safe_load(out("yaml")) == [told]
    assert [one["key"] for one in told["changes"]] == ["hostpci0", "balloon"]
    assert told["findings"] == {"new": [], "remaining": [], "gone": [], "moot": []}
    assert (told["refused"], told["applied"], told["error"]) == (False, None, None)
    assert 'resource "proxmox_virtual_environment_vm" "vm100"' in out("terraform")
    assert "community.proxmox.proxmox_kvm" in out("ansible")
    assert run("100", "--device", NIC, "--json", root=root) == 0
    assert json.loads(capsys.readouterr().out) == [told]


def test_findings_beside_commands(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("100", "--device", "01:00", "--format", "qm", root=root) == 0
    assert "new info PVP426" in capsys.readouterr().err


def test_a_new_error_is_refused(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("100", "--device", "01:00", "--rom", "bad.rom", root=root) == 1
    captured = capsys.readouterr()
    assert "new error PVP" in captured.out
    assert "the change of VM 100 is refused: it brings PVP" in captured.err
    assert "silence it in the policy" in captured.err


def test_a_new_error_by_the_api_is_silenced_on_the_node(
    pve: FakePve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API does not tell of the node's policy, so silencing alone would be no way out."""
    error = Finding("PVP401", "error", "own", "VM 100 hostpci0", "it is so", "")
    monkeypatch.setattr(judgement, "judge", lambda *_: judgement.Judgement((error,), (), ()))
    assert run("100", "--device", "02:00.0") == 1
    captured = capsys.readouterr()
    assert "put that right, or if its policy silences that, run this on node pve1" in captured.err
    assert "silence it in the policy" not in captured.err
    assert not pve.state.writes


def test_a_silenced_error_is_none(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("100", "--device", "01:00", "--rom", "bad.rom", "--json", root=root)
    (told,) = json.loads(capsys.readouterr().out)
    codes = {finding["code"] for finding in told["findings"]["new"] if finding["severity"] == "error"}
    silence = "".join(f"  - {{code: {code}, vm: 100, reason: it is so}}\n" for code in sorted(codes))
    tree.put(root, "etc/pvepassthru.yaml", f"silence:\n{silence}")
    assert run("100", "--device", "01:00", "--rom", "bad.rom", root=root) == 0
    assert "silenced error" in capsys.readouterr().out


def test_a_snapshot_is_looked_at_and_never_changed(
    root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = str(tmp_path / "host.tar.xz")
    assert main(["--root", root, "snapshot", "-o", taken]) == 0
    capsys.readouterr()
    assert run("100", "--device", NIC, root=taken) == 0
    assert "+ hostpci0: 0000:06:00.0" in capsys.readouterr().out
    assert run("100", "--device", NIC, "--apply", "--yes", root=taken) == 2
    assert "is a snapshot, of which nothing can be applied" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, code, sentence",
    [
        (["100"], 2, "nothing is required of the VM"),
        ([], 2, "config needs a VMID, or --file"),
        (["100", "--device", "sound"], 2, "sound"),
        (["100", "--device", "77:00.0"], 3, "VM 100: there is no PCI device 0000:77:00.0 on node pve1"),
        (["105", "--device", NIC], 3, "there is no VM 105 on node pve1"),
        (["100", "--device", NIC, "--apply", "--yes"], 2, "is only files of a host"),
        (["100", "--device", NIC, "--apply"], 2, "there is no terminal; add --yes"),
        (["100", "--device", NIC, "--apply", "--json"], 2, "asks nothing, so it needs --yes"),
        (["100", "--device", NIC, "--yes"], 2, "--yes says how --apply is done"),
        (["--file", "wishes.yaml", "--device", NIC], 2, "--file says what is wanted, and so does --device"),
        (["--file", "/nowhere/wishes.yaml"], 4, "cannot read /nowhere/wishes.yaml"),
        (["100", "--mapping", "nosuch"], 3, "VM 100: "),
    ],
)
def test_what_is_wrong_is_one_sentence(
    root: str, capsys: pytest.CaptureFixture[str], words: list[str], code: int, sentence: str
) -> None:
    assert run(*words, root=root) == code
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1


def test_a_file_of_many(root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree.put(root, "etc/pve/nodes/pve1/qemu-server/102.conf", "memory: 512\n")
    wishes = tmp_path / "wishes.yaml"
    wishes.write_text('vms:\n  "100": {devices: ["06:00.0"]}\n  "101": {devices: [nosuch: 1]}\n')
    assert run("--file", str(wishes), root=root) == 4
    assert f"{wishes}:3" in capsys.readouterr().err
    wishes.write_text(
        'vms:\n  "100": {devices: ["06:00.0"]}\n  "101": {devices: ["77:00.0"]}\n  "102": {devices: [nic]}\n'
        '  "109": {devices: ["06:00.0"]}\n'
    )
    assert run("--file", str(wishes), "--json", root=root) == 3
    captured = capsys.readouterr()
    assert [(one["vmid"], one["functions"]) for one in json.loads(captured.out)] == [(100, ["0000:06:00.0"])]
    for vmid, words in ((101, "no PCI device 0000:77:00.0"), (102, "network card"), (109, "there is no VM 109")):
        assert any(f"VM {vmid}" in line and words in line for line in captured.err.splitlines()), captured.err
    assert run("--file", str(wishes), "100", root=root) == 0
    assert run("--file", str(wishes), "999", root=root) == 3


# ---- by the API


def test_by_the_api(pve: FakePve, capsys: pytest.CaptureFixture[str]) -> None:
    before = held(pve)
    assert run("100", "--device", "01:00", "--primary-gpu") == 0
    out = capsys.readouterr().out
    assert "VM 100 on node pve1: 4 changes" in out
    assert "the API does not tell what the host itself uses a device for" in out
    assert held(pve) == before
    assert not pve.state.writes


def test_apply(pve: FakePve, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("100", "--device", "02:00.0", "--apply", "--yes") == 0
    assert "VM 100 is changed: set hostpci0, balloon\n" in capsys.readouterr().out
    assert held(pve).main["hostpci0"] == "0000:02:00.0"
    sent = len(pve.state.writes)
    assert run("100", "--device", "02:00.0", "--apply", "--yes") == 0
    assert "nothing to change" in capsys.readouterr().out
    assert len(pve.state.writes) == sent


def test_apply_to_a_running_vm(pve: FakePve, capsys: pytest.CaptureFixture[str]) -> None:
    pve.state.vm(100).running = True
    assert run("100", "--mapping", "nic", "--apply", "--yes", "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["applied"] == {
        "vmid": 100,
        "node": "pve1",
        "written": ["balloon"],
        "pending": ["hostpci0"],
        "taken": [],
    }


@pytest.mark.parametrize("answer, code", [("y\n", 0), ("n\n", 1), ("", 1)])
def test_it_asks(
    pve: FakePve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert run("100", "--device", "02:00.0", "--apply") == code
    captured = capsys.readouterr()
    assert "+ hostpci0: 0000:02:00.0" in captured.out
    assert "Change VM 100 so? [y/N]" in captured.err
    assert ("hostpci0" in held(pve).main) == (code == 0)


def test_a_question_that_is_interrupted(
    pve: FakePve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> str:
        raise KeyboardInterrupt

    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(terminal, "readline", stop)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert run("100", "--device", "02:00.0", "--apply") == 130
    assert capsys.readouterr().err.endswith(
        "[y/N] \npvepassthru: nothing is changed, since the question was interrupted\n"
    )
    assert pve.state.writes == []


def test_the_command_for_root_is_printed_once(
    pve: FakePve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reasons and notes stand in the preview already."""
    environment.log_in(monkeypatch, pve, "root@pam", "full")
    words = ["100", "--device", "01:00", "--apply", "--yes"]
    assert run(*words) == 12
    out = capsys.readouterr().out
    assert (out.count("does not tell"), out.count("qm set 100"), out.count("# note")) == (1, 1, 0)
    assert run(*words, "--format", "qm") == 12
    out = capsys.readouterr().out
    assert out.count("qm set 100") == 1
    assert run("100", "--device", "01:00", "--format", "qm") == 0
    assert "--apply would not do it" not in capsys.readouterr().err, "that is why root is to do it"
    assert run("100", "--device", "01:00") == 0
    assert "--apply would not do it" in capsys.readouterr().out


def test_what_is_roots_alone_is_printed_for_root(
    pve: FakePve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.log_in(monkeypatch, pve, "root@pam", "full")
    assert run("100", "--device", "01:00", "--apply", "--yes") == 12
    captured = capsys.readouterr()
    assert "qm set 100 \\\n  --hostpci0 0000:01:00,pcie=1" in captured.out
    assert "mapping gpu has the device of hostpci0" in captured.err
    assert not pve.state.writes
    assert run("100", "--device", "01:00", "--by-mapping", "--apply", "--yes") == 0
    assert held(pve).main["hostpci0"] == "mapping=gpu,pcie=1"


def test_pending_changes_of_others(pve: FakePve, capsys: pytest.CaptureFixture[str]) -> None:
    pve.state.vm(100).text += "\n[PENDING]\ncores: 4\n"
    assert run("100", "--device", "02:00.0", "--apply", "--yes") == 13
    assert "--with-pending" in capsys.readouterr().err
    assert run("100", "--device", "02:00.0", "--apply", "--yes", "--with-pending") == 0
    assert "pending values of others took effect: cores" in capsys.readouterr().out


def test_a_refused_change_is_not_applied(pve: FakePve, capsys: pytest.CaptureFixture[str]) -> None:
    pve.state.vm(100).text = "memory: 512\nhostpci0: 02:00.0\n"
    pve.state.mapping_text += "\nmore\n\tmap node=pve1,path=0000:02:00.0,id=8086:1533\n"
    code = run("100", "--mapping", "more", "--apply", "--yes")
    captured = capsys.readouterr()
    assert code in {1, 2, 5}, captured
    assert not pve.state.writes


def test_vms_of_several_nodes(pve: FakePve, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wishes = tmp_path / "wishes.yaml"
    wishes.write_text(
        'vms:\n  "100": {devices: ["02:00.0"]}\n  "101": {devices: ["04:00.0"]}\n'
        '  "200": {bios: ovmf, storage: local-lvm}\n  "300": {devices: [gpu]}\n'
    )
    pve.state.vm(101).change(lock="backup")
    assert run("--file", str(wishes), "--apply", "--yes") == 13
    captured = capsys.readouterr()
    assert "VM 100 is changed" in captured.out
    assert "VM 200 is changed" in captured.out
    assert "VM 101 on node pve1 is locked (backup)" in captured.err
    assert "sees no VM 300" in captured.err
    assert held(pve, 200).main["bios"] == "ovmf"


def test_stop_at_first(pve: FakePve, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wishes = tmp_path / "wishes.yaml"
    wishes.write_text('vms:\n  "100": {devices: ["02:00.0"]}\n  "101": {devices: ["04:00.0"]}\n')
    pve.state.vm(100).change(lock="backup")
    assert run("--file", str(wishes), "--apply", "--yes", "--stop-at-first") == 13
    assert "VM 101 not changed, since one before failed" in capsys.readouterr().err
    assert not pve.state.writes
    wishes.write_text('vms:\n  "101": {devices: ["04:00.0"]}\n  "300": {devices: [gpu]}\n')
    assert run("--file", str(wishes), "--apply", "--yes", "--stop-at-first") == 3
    assert "nothing is changed, since not every VM is ready" in capsys.readouterr().err
    assert not pve.state.writes


def test_a_node_that_is_down_does_not_stop_the_others(
    pve: FakePve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wishes = tmp_path / "wishes.yaml"
    wishes.write_text('vms:\n  "100": {devices: ["02:00.0"]}\n  "200": {bios: ovmf, storage: local-lvm}\n')
    pve.take_down("pve2")
    assert run("--file", str(wishes), "--apply", "--yes") == 10
    captured = capsys.readouterr()
    assert "VM 100 is changed" in captured.out
    assert "VM 200: " in captured.err


def test_the_vms_own_node_tells_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its files are used only where they are those of the VM that the API has."""
    host = tmp_path / "root"
    node.build(host, {100: CONFIG})
    known = data.Cluster({"pve1": data.Node([data.Device("0000:06:00.0", "8086", "1533", group=16)], {100: CONFIG})})
    with FakePve(known) as pve:
        environment.log_in(monkeypatch, pve)
        assert run("100", "--device", "04:00.0", "--apply", "--yes", root=str(host)) == 0
        assert "the API does not tell" not in capsys.readouterr().out
        assert held(pve).main["hostpci0"] == "0000:04:00.0", "which the API's list does not have"
        assert run("100", "--device", NIC, root=str(host)) == 0
        assert "the API does not tell" in capsys.readouterr().out, "the file is not the VM's any more"


def test_a_signal_in_the_middle(pve: FakePve, capsys: pytest.CaptureFixture[str]) -> None:
    before = held(pve)
    pve.faults.meddle(lambda _: os.kill(os.getpid(), signal.SIGTERM), write=2)
    handler = signal.getsignal(signal.SIGTERM)
    assert run("100", "--device", "02:00.0", "--apply", "--yes") == 8
    assert "VM 100 on node pve1 is as it was: ended by SIGTERM" in capsys.readouterr().err
    assert held(pve) == before
    assert signal.getsignal(signal.SIGTERM) == handler


def test_ctrl_c_in_the_middle(pve: FakePve, capsys: pytest.CaptureFixture[str]) -> None:
    before = held(pve)
    pve.faults.meddle(lambda _: os.kill(os.getpid(), signal.SIGINT), write=2)
    assert run("100", "--device", "02:00.0", "--apply", "--yes") == 130
    assert "interrupted: VM 100 on node pve1 is as it was" in capsys.readouterr().err
    assert held(pve) == before


def test_no_secret_is_shown(pve: FakePve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pve.state.users["op@pve"] = User(tokens={"t": Token("s3cret", separate=False)}, acl={"/": "PVEAuditor"})
    environment.log_in(monkeypatch, pve, "op@pve", "t")
    assert run("100", "--mapping", "nic", "--apply", "--yes") == 12
    captured = capsys.readouterr()
    assert "s3cret" not in captured.out + captured.err


def test_of_a_vm_that_runs_it_is_said_what_its_next_start_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakePve(fake_cluster(running=True)) as pve:
        environment.log_in(monkeypatch, pve)
        assert run("100", "--remove", "hostpci3", "--apply", "--yes") == 0
        assert "VM 100 is changed: its next start removes hostpci3\n" in capsys.readouterr().out
        assert run("100", "--device", "02:00.0", "--apply", "--yes") == 0
        assert "VM 100 is changed: set balloon; its next start sets hostpci0\n" in capsys.readouterr().out
