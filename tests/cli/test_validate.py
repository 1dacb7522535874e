# SPDX-License-Identifier: Apache-2.0
"""The command `validate`: what it prints, its JSON shape, and its exit codes."""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from pvepassthru.cli.main import main
from pvepassthru.host import vms
from pvepassthru.host.host import Host
from pvepassthru.rules import subject as subjects
from pvepassthru.rules.catalogue import findings
from tests import tree

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = {"vendor": "0x10de", "device": "0x1db4", "class": "0x030200"}
HOST = {
    "devices": {
        "0000:02:00.0": {**PLAIN, "iommu_group": 4},
        "0000:41:00.0": {**PLAIN, "iommu_group": 50, "mdev": {"types": {"nvidia-63": {"available": "2"}}}},
        "0000:42:00.0": {**PLAIN, "iommu_group": 51, "mdev": {"types": {"nvidia-63": {"available": "2"}}}},
        "0000:a1:00.4": {
            **PLAIN,
            "iommu_group": 61,
            "nvidia": {"creatable": [{"id": "35", "name": "x"}], "current": "0"},
        },
    }
}
MAPPING = (
    "vgpu\n\tmdev 1\n\tmap node=pve,path=0000:41:00.0,id=10de:1db4,iommugroup=50\n"
    "\tmap node=pve,path=0000:42:00.0,id=10de:1db4,iommugroup=51\n"
)
CONFIGS = {
    100: "hostpci0: 02:00.0,pcie=1,rombar=off\nhostpci1: 41:00.0,x_vga=1\n",
    101: "machine: q35\nhostpci0: mapping=vgpu,mdev=nvidia-63,pcie=1\nhostpci3: a1:00.4,mdev=nvidia-35\n",
    102: "machine: Q35\nhostpci0: 02:00.0\n",
    1000: "memory: 512\n",
}
DROPPED = 'PVE drops "41:00.0,x_vga=1", and the VM starts without the device: there is no key "x_vga"'


@pytest.fixture
def root(tmp_path: Path) -> str:
    return tree.build(tmp_path, HOST, configs=CONFIGS, mapping=MAPPING)


def _run(root: str, *words: str) -> int:
    return main(["--root", root, "validate", *words])


def test_json_of_one_vm(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(root, "101", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "vmid": 101,
        "node": "pve",
        "ok": True,
        "findings": [],
        "devices": [
            {
                "index": 0,
                "addresses": ["0000:41:00.0", "0000:42:00.0"],
                "mdev": "nvidia-63",
                "mapping": "vgpu",
                "alternatives": [["0000:41:00.0"], ["0000:42:00.0"]],
                "options": {"pcie": "1"},
            },
            {"index": 3, "addresses": ["0000:a1:00.4"], "nvidia": "35", "options": {}},
        ],
    }


def test_json_with_findings(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(root, "100", "--json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert answer["devices"] == [
        {"index": 0, "addresses": ["0000:02:00.0"], "options": {"pcie": "1", "rombar": "0"}},
    ]
    assert answer["findings"] == [
        {
            "code": "PVP305",
            "severity": "error",
            "origin": "pve",
            "where": "/etc/pve/qemu-server/100.conf:2 hostpci1",
            "message": DROPPED,
            "hint": "write x-vga=1 if that is meant",
        },
        {
            "code": "PVP310",
            "severity": "error",
            "origin": "pve",
            "where": "/etc/pve/qemu-server/100.conf:1 hostpci0",
            "message": "pcie=1 needs a q35 machine",
            "hint": "set machine: q35, or remove pcie=1",
        },
    ]


def test_list_of_one_vm(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(root, "100") == 1
    assert capsys.readouterr().out.splitlines() == [
        "VM 100: 2 errors",
        "  hostpci0: 0000:02:00.0",
        f"  error PVP305 hostpci1 (line 2): {DROPPED}",
        "    hint: write x-vga=1 if that is meant",
        "  error PVP310 hostpci0 (line 1): pcie=1 needs a q35 machine",
        "    hint: set machine: q35, or remove pcie=1",
        "1 VM checked: 2 errors",
    ]


def test_list_of_devices(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(root, "101", "1000") == 0
    assert capsys.readouterr().out.splitlines() == [
        "VM 101: fine",
        "  hostpci0: 0000:41:00.0 0000:42:00.0 mdev nvidia-63",
        "  hostpci3: 0000:a1:00.4 vGPU type 35",
        "VM 1000: fine",
        "2 VMs checked: fine",
    ]


def test_all(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(root, "--all") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("VM ")] == ["VM 100: 2 errors", "VM 102: 1 warning"]
    assert lines[-1] == "4 VMs checked: 2 errors, 1 warning"
    assert _run(root, "--all", "--json") == 1
    assert [answer["vmid"] for answer in json.loads(capsys.readouterr().out)] == [100, 101, 102, 1000]


def test_a_warning_alone_is_fine(root: str) -> None:
    assert _run(root, "102") == 0


def test_all_goes_on_past_a_config_that_cannot_be_read(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    os.symlink("150.conf", os.path.join(root, "etc/pve/qemu-server/150.conf"))
    assert _run(root, "--all", "--json") == 1
    answers = {answer["vmid"]: answer for answer in json.loads(capsys.readouterr().out)}
    assert sorted(answers) == [100, 101, 102, 150, 1000]
    (finding,) = answers[150]["findings"]
    assert (finding["code"], finding["where"]) == ("PVP330", "/etc/pve/qemu-server/150.conf")
    assert "Too many levels of symbolic links" in finding["message"]
    assert _run(root, "150") == 4
    assert "Too many levels of symbolic links" in capsys.readouterr().err


def test_all_goes_on_past_a_config_that_is_gone(
    root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Removed or migrated between the listing and the reading: it is no VM of this node any more."""
    monkeypatch.setattr(vms, "vmids", lambda _: [100, 105, 1000])
    assert _run(root, "--all", "--json") == 1
    assert [answer["vmid"] for answer in json.loads(capsys.readouterr().out)] == [100, 1000]


def test_dangling_config_is_a_finding(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    os.symlink("nowhere", os.path.join(root, "etc/pve/qemu-server/150.conf"))
    assert _run(root, "--all", "--json") == 1
    answers = {answer["vmid"]: answer for answer in json.loads(capsys.readouterr().out)}
    assert sorted(answers) == [100, 101, 102, 150, 1000]
    (finding,) = answers[150]["findings"]
    assert finding["code"] == "PVP330"
    assert "cannot read the config of VM 150" in finding["message"]
    assert "leads nowhere" in finding["message"]
    assert _run(root, "150") == 4


def test_all_when_pve_goes_away(root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """That all VMs are gone at once is not fine: /etc/pve is."""

    def last_look(_: Host) -> list[int]:
        shutil.rmtree(os.path.join(root, "etc/pve"))
        return [100, 101]

    monkeypatch.setattr(vms, "vmids", last_look)
    assert _run(root, "--all") == 3
    assert "no Proxmox VE on this machine" in capsys.readouterr().err


def test_all_without_vms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(tree.build(tmp_path), "--all") == 0
    assert capsys.readouterr().out == "0 VMs checked: fine\n"


@pytest.mark.parametrize("words", [["105"], ["105", "--json"]])
def test_unknown_vm(words: list[str], root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(root, *words) == 3
    captured = capsys.readouterr()
    assert captured.err.startswith("pvepassthru: there is no VM 105 on node pve")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_some_that_cannot_be_judged(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The others are judged, and the first error gives the exit code."""
    tree.folder(root, "etc/pve/qemu-server/150.conf")
    words = ("102", "999", "150", "100")
    assert _run(root, *words) == 3
    out, err = capsys.readouterr()
    assert [line for line in out.splitlines() if line.startswith("VM ")] == ["VM 102: 1 warning", "VM 100: 2 errors"]
    assert out.endswith("\n2 VMs checked: 2 errors, 1 warning; 2 not checked\n")
    first, second = err.splitlines()
    assert first.startswith("pvepassthru: there is no VM 999 on node pve")
    assert second.startswith("pvepassthru: cannot read the config of VM 150")
    assert _run(root, *words, "--json") == 3
    assert [answer["vmid"] for answer in json.loads(capsys.readouterr().out)] == [102, 100]
    assert _run(root, "150", "100", "999", "--json") == 4
    assert [answer["vmid"] for answer in json.loads(capsys.readouterr().out)] == [100]


def test_none_that_can_be_judged(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(root, "998", "999") == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 2)
    assert _run(root, "998", "999", "--json") == 3
    assert json.loads(capsys.readouterr().out) == []


def test_vm_given_twice(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(root, "1000", "1000") == 0
    assert capsys.readouterr().out == "VM 1000: fine\n1 VM checked: fine\n"
    assert _run(root, "1000", "1000", "--json") == 0
    assert json.loads(capsys.readouterr().out)["vmid"] == 1000


@pytest.mark.parametrize("words", [["100"], ["100", "101"], ["--all"]])
def test_without_pve(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(str(tmp_path), *words) == 3
    err = capsys.readouterr().err
    assert err.startswith("pvepassthru: no Proxmox VE on this machine: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("word", ["../../etc/passwd", "0", "99", "1000000000", "0100", "x", "", "\u0663\u0660\u0660"])
def test_bad_vmid(word: str, root: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        _run(root, word)
    assert caught.value.code == 2
    assert "is no VMID" in capsys.readouterr().err


def test_negative_vmid(root: str) -> None:
    with pytest.raises(SystemExit) as caught:
        _run(root, "-1")
    assert caught.value.code == 2


@pytest.mark.parametrize(
    "words, why",
    [([], "validate needs one or more VMIDs, or --all"), (["100", "--all"], "takes VMIDs or --all, not both")],
)
def test_wrong_usage(words: list[str], why: str, root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(root, *words) == 2
    assert why in capsys.readouterr().err


BAD_CONFIGS: dict[str, bytes] = {
    "NUL bytes": b"hostpci0: 02:00.0\0\nname: a\0b\n\0\0\0",
    "10 MB line": b"hostpci0: " + b"x" * 10_000_000,
    "10 MB romfile": b"hostpci0: 02:00.0,romfile=" + b"x" * 10_000_000,
    "NUL in romfile": b"hostpci0: 02:00.0,romfile=a\0b\n",
    "invalid UTF-8": b"name: \xff\xfe\nhostpci0: 02:00.0,romfile=\xff\xfe\nhostpci1: \xff\n",
    "escape sequences": b"hostpci0: \x1b[31m\x07\x9b\n",
    "all bytes": bytes(range(256)) * 10,
}


@pytest.mark.parametrize("data", BAD_CONFIGS.values(), ids=list(BAD_CONFIGS))
@pytest.mark.parametrize("words", [["--json"], []], ids=["json", "list"])
def test_bad_configs(data: bytes, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tree.build(tmp_path, HOST, configs={100: data})
    begin = time.process_time()
    assert _run(root, "100", *words) in {0, 1}
    assert time.process_time() - begin < 20
    out = capsys.readouterr().out
    assert len(out) < 21_000_000 if words else len(out) < 5_000
    if words:
        assert json.loads(out)["vmid"] == 100
    assert all(char.isprintable() or char == "\n" for char in out)


def test_time_grows_with_the_number_of_vms_only(tmp_path: Path) -> None:
    """1,000 VMs on 4,096 functions, without a scan of all functions for each entry."""
    devices = {
        f"0000:{bus:02x}:{slot:02x}.{function}": {**PLAIN, "iommu_group": bus}
        for bus in range(2)
        for slot in range(32)
        for function in range(8)
    }
    config = "name: a\nmachine: q35\nhostpci0: 00:1f.7,pcie=1\nhostpci1: 01:02.0,pcie=1\n"
    configs = dict.fromkeys(range(100, 200), config)
    root = tree.build(tmp_path, {"devices": devices}, configs=configs)

    class Counting(Host):
        reads = 0

        def names(self, path: str) -> list[str]:
            Counting.reads += 1
            return super().names(path)

        def read(self, path: str, limit: int = 1 << 26) -> bytes:
            Counting.reads += 1
            return super().read(path, limit)

    def reads(vmids: range) -> int:
        Counting.reads = 0
        around = subjects.Surroundings(Counting(root))
        for vmid in vmids:
            assert findings(subjects.load(around.host, vmid, pending=True, around=around)) == []
        return Counting.reads

    few, many = reads(range(100, 110)), reads(range(100, 200))
    assert many <= few + 90 * 6


def test_gate_that_lets_errors_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = "hostpci0: 0000:0f:00.0\n"
    root = tree.build(tmp_path, configs={100: config, 101: config, 102: "memory: 512\n"})
    policy = tree.put(tmp_path, "etc/pvepassthru.yaml", "vms: {101: {gate: warn}, 102: {gate: off}}\n")
    os.chmod(policy, 0o644)
    assert main(["--root", root, "validate", "--all"]) == 1
    notes = [line for line in capsys.readouterr().out.splitlines() if "note" in line]
    assert notes == [
        "  note: the policy's gate for this VM is warn: the hook does not refuse its start, though PVE may"
    ]
