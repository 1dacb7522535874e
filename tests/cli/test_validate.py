# SPDX-License-Identifier: Apache-2.0
"""The command `validate`: what it prints, its JSON shape, and its exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pvepassthru.cli.main import main
from pvepassthru.host import vms
from pvepassthru.host.host import Host
from pvepassthru.rules import subject as subjects
from pvepassthru.rules.catalogue import findings
from tests import tree

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent.parent
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
    102: "machine: Q35\nhostpci0: 41:00.0\n",
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
        "pending": True,
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
            "silenced": None,
        },
        {
            "code": "PVP310",
            "severity": "error",
            "origin": "pve",
            "where": "/etc/pve/qemu-server/100.conf:1 hostpci0",
            "message": "pcie=1 needs a q35 machine",
            "hint": "set machine: q35, or remove pcie=1",
            "silenced": None,
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


BAD_CONFIGS: dict[str, Callable[[], bytes]] = {  # made when they are needed: memory in use makes forks slow
    "NUL bytes": lambda: b"hostpci0: 02:00.0\0\nname: a\0b\n\0\0\0",
    "10 MB line": lambda: b"hostpci0: " + b"x" * 10_000_000,
    "10 MB romfile": lambda: b"hostpci0: 02:00.0,romfile=" + b"x" * 10_000_000,
    "NUL in romfile": lambda: b"hostpci0: 02:00.0,romfile=a\0b\n",
    "invalid UTF-8": lambda: b"name: \xff\xfe\nhostpci0: 02:00.0,romfile=\xff\xfe\nhostpci1: \xff\n",
    "escape sequences": lambda: b"hostpci0: \x1b[31m\x07\x9b\n",
    "all bytes": lambda: bytes(range(256)) * 10,
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
@pytest.mark.parametrize("words", [["--json"], []], ids=["json", "list"])
def test_bad_configs(name: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tree.build(tmp_path, HOST, configs={100: BAD_CONFIGS[name]()})
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
            found = findings(subjects.load(around.host, vmid, pending=True, around=around))
            assert {finding.code for finding in found} == {"PVP426"}  # the others have the same devices
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


def _policy(root: str, text: str) -> None:
    os.chmod(tree.put(root, "etc/pvepassthru.yaml", text), 0o644)


def test_select_and_ignore(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words, codes, exit_code in (
        ((), ["PVP305", "PVP310"], 1),
        (("--select", "PVP31"), ["PVP310"], 1),
        (("--select=pvp310", "--select", "PVP2,PVP305"), ["PVP305", "PVP310"], 1),
        (("--ignore", "PVP31,PVP305"), [], 0),
        (("--select", "PVP3", "--ignore", "PVP310"), ["PVP305"], 1),
        (("--select", "PVP2"), [], 0),
    ):
        assert _run(root, "100", "--json", *words) == exit_code
        answer = json.loads(capsys.readouterr().out)
        assert [finding["code"] for finding in answer["findings"]] == codes
        assert answer["ok"] == (not codes)


def test_what_was_not_checked_is_no_fine(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A selection keeps what says that the judgement may be wrong, unless that code is ignored by name."""
    _policy(root, "silence: yes\n")
    for words, codes in (
        (("--select", "PVP201"), ["PVP105"]),
        (("--ignore", "PVP1,PVP3"), ["PVP105"]),
        (("--ignore", "PVP105,PVP3"), []),
    ):
        assert _run(root, "100", "--json", *words) == bool(codes)
        assert [found["code"] for found in json.loads(capsys.readouterr().out)["findings"]] == codes


@pytest.mark.parametrize("words", [("--select", "PVP999"), ("--ignore", "nonsense")])
def test_unknown_code(words: tuple[str, ...], root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(root, "100", *words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"{words[0]} {words[1].upper()}: no code begins so" in err


@pytest.mark.parametrize(
    "vmid,codes",
    [
        ("100", {"error": 1, "warning": 1, "info": 1, "never": 0}),
        ("102", {"error": 0, "warning": 1, "info": 1, "never": 0}),
        ("101", {"error": 0, "warning": 0, "info": 0, "never": 0}),
    ],
)
def test_fail_on(vmid: str, codes: dict[str, int], root: str) -> None:
    assert {limit: _run(root, vmid, "--fail-on", limit) for limit in codes} == codes
    assert _run(root, vmid, "999", "--fail-on", "never") == 3


def test_pending_and_current(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = "hostpci0: 02:00.0,pcie=1\nmachine: q35\n\n[PENDING]\ndelete: machine\n"
    root = tree.build(tmp_path, HOST, configs={100: config})
    for words, exit_code in (((), 1), (("--pending",), 1), (("--current",), 0)):
        assert _run(root, "100", "--json", *words) == exit_code
        assert json.loads(capsys.readouterr().out)["pending"] == (exit_code == 1)


@pytest.mark.parametrize("words", [("--pending", "--current"), ("--json", "--sarif"), ("--fail-on", "nothing")])
def test_options_that_exclude_each_other(words: tuple[str, ...], root: str) -> None:
    with pytest.raises(SystemExit) as caught:
        _run(root, "100", *words)
    assert caught.value.code == 2


def test_silenced(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    _policy(root, "silence:\n- {code: PVP305, vm: 100, reason: a typo that stays}\n")
    assert _run(root, "100") == 1
    assert capsys.readouterr().out.splitlines() == [
        "VM 100: 1 error, 1 silenced",
        "  hostpci0: 0000:02:00.0",
        "  error PVP310 hostpci0 (line 1): pcie=1 needs a q35 machine",
        "    hint: set machine: q35, or remove pcie=1",
        f"  silenced error PVP305 hostpci1 (line 2): {DROPPED}",
        "    reason: a typo that stays",
        "1 VM checked: 1 error, 1 silenced",
    ]
    _policy(root, "silence:\n- {code: PVP305, vm: 100, reason: a}\n- {code: PVP310, device: 02:00.0, reason: b}\n")
    assert _run(root, "100", "--json", "--fail-on", "info") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is True
    assert [(found["code"], found["silenced"]) for found in answer["findings"]] == [("PVP305", "a"), ("PVP310", "b")]
    assert _run(root, "100", "--ignore", "PVP305,PVP310") == 0
    assert "1 VM checked: fine, 2 left out by --ignore\n" in capsys.readouterr().out


def test_notes_on_what_is_silenced_for_nothing(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    entries = (
        "{code: PVP999, reason: x}",
        "{code: PVP305, vm: 100, reason: found}",
        "{code: PVP310, vm: 101, device: 41:00.0, reason: mended}",
        "{code: PVP310, vm: 555, reason: on another node}",
        "{code: PVP411, reason: once}",
    )
    _policy(root, "silence:\n" + "".join(f"- {entry}\n" for entry in entries))
    unknown = "pvepassthru: note: the policy /etc/pvepassthru.yaml silences PVP999, and there is no such code"
    assert _run(root, "--all", "--json") == 1
    more = "pvepassthru: note: the policy /etc/pvepassthru.yaml silences"
    assert capsys.readouterr().err.splitlines() == [
        unknown,
        f"{more} PVP310 of VM 101 on 0000:41:00.0, which is found no more (mended)",
        f"{more} PVP411, which is found no more (once)",
    ]
    for words in (("100",), ("--all", "--select", "PVP3"), ("--all", "--current")):
        assert _run(root, *words) == 1
        assert capsys.readouterr().err.splitlines() == [unknown]
    os.rename(f"{root}/etc/pvepassthru.yaml", f"{root}/etc/pve/pvepassthru.yaml")
    assert _run(root, "--all") == 1
    assert len(capsys.readouterr().err.splitlines()) == 2  # PVP411 may be of another node


def test_the_loaded_modules(root: str, python: str) -> None:
    """`validate VMID` needs no tables, no YAML without a policy, and nothing of SARIF; docs/design.md has its limit."""
    code = (
        "import sys; from pvepassthru.cli.main import main; main(sys.argv[1:]); "
        "print(*sorted(name for name in sys.modules if '.' not in name), file=sys.stderr)"
    )
    done = subprocess.run(
        [python, "-c", code, "--root", root, "validate", "101"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    slow = {"dataclasses", "hashlib", "inspect", "logging", "pathlib", "rich", "subprocess", "tempfile"}
    assert not (slow | {"filelock", "urllib", "yaml"}) & set(done.stderr.split())


def test_what_is_left_out_is_counted(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Else errors that were asked away would read as if there were none."""
    assert _run(root, "100", "--ignore", "PVP2,PVP3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert (lines[0], lines[-1]) == (
        "VM 100: fine, 2 left out by --ignore",
        "1 VM checked: fine, 2 left out by --ignore",
    )
    assert _run(root, "100", "--select", "PVP305", "--ignore", "PVP310") == 1
    assert "VM 100: 1 error, 1 left out by --select and --ignore" in capsys.readouterr().out
    assert _run(root, "--all", "--ignore", "PVP2,PVP3") == 0
    assert "left out by --ignore" in capsys.readouterr().out
    assert _run(root, "1000", "--ignore", "PVP2") == 0
    assert "left out" not in capsys.readouterr().out
