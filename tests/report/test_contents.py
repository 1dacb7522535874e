# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.cli.main import main
from pvepassthru.host.host import open_host
from pvepassthru.model.errors import InputError
from pvepassthru.model.finding import Finding
from pvepassthru.report import room
from pvepassthru.report.contents import _named_vms, gather, summary
from pvepassthru.report.page import page
from tests import tree
from tests.host.machine import memory_folder, unprivileged
from tests.report import hosts
from tests.report.made import MADE, Seen

if TYPE_CHECKING:
    from pathlib import Path

    from tests.report.made import Made


def said(made: Made, words: str, capsys: pytest.CaptureFixture[str]) -> Any:  # noqa: ANN401 - JSON
    main(["--root", made.root, *words.split(), "--json"])
    return json.loads(capsys.readouterr().out)


def test_the_numbers_are_those_of_the_commands(rich: Made, capsys: pytest.CaptureFixture[str]) -> None:
    contents = json.loads(json.dumps(rich.contents))
    assert contents["readiness"] == said(rich, "doctor", capsys)
    more = {"name", "bridge", "uses"}
    devices = [{name: row[name] for name in row if name not in more} for row in contents["devices"]]
    assert devices == said(rich, "devices", capsys)
    assert contents["instances"] == said(rich, "mdev list", capsys)
    pfs = said(rich, "sriov show", capsys)
    for pf in pfs:
        for vf in pf["functions"]:
            del vf["network"]
    assert contents["physical_functions"] == pfs
    status = said(rich, "status", capsys)
    assert contents["held"] == {name: status[name] for name in status if name != "runs"}
    judged = said(rich, "validate --all", capsys)
    assert [vm["devices"] for vm in contents["vms"]] == [vm["devices"] for vm in judged]
    of_vms = [finding for vm in judged for finding in vm["findings"]]
    of_host = [hit for step in contents["readiness"]["steps"] for rule in step["rules"] for hit in rule["findings"]]
    told = [{name: row[name] for name in row if name not in {"id", "vms", "devices"}} for row in contents["findings"]]
    assert sorted(map(str, told)) == sorted(map(str, [*of_vms, *of_host]))
    plan = said(rich, "mdev plan nvidia-64 1", capsys)["gpus"]
    (gpu,) = contents["rooms"]
    assert [(one["address"], one["room"]) for one in plan] == [
        (gpu["address"], one["available"]) for one in gpu["types"] if one["type"] == "nvidia-64"
    ]


def test_the_command_says_the_same(rich: Made, capsys: pytest.CaptureFixture[str]) -> None:
    told = said(rich, "report", capsys)
    assert told["about"].pop("made") > 0
    contents = json.loads(json.dumps(rich.contents))
    del contents["about"]["made"]
    assert told == contents


def test_what_is_blocked_by_siblings(rich: Made) -> None:
    (gpu,) = rich.contents["rooms"]
    rows = {row["type"]: (row["used"], row["available"], row["blocked"], row["total"]) for row in gpu["types"]}
    assert rows == {"nvidia-63": (0, 0, 8, 8), "nvidia-64": (1, 3, 0, 4), "nvidia-65": (0, 0, 2, 2)}
    assert [row["vmids"] for row in gpu["types"]] == [[], [101], []]


def test_a_total_that_nobody_knows_is_none(tmp_path: Path) -> None:
    types = {name: {"available": "1", "name": name} for name in ("a-1", "a-2")}
    mdev = {"types": types, "instances": {hosts.uuid(0, 100): "a-1"}}
    root = tree.build(tmp_path, {"devices": {"0000:41:00.0": {**hosts.VGPU, "iommu_group": 1, "mdev": mdev}}})
    (gpu,) = gather(open_host(root), MADE)["rooms"]
    assert [(row["type"], row["total"], row["blocked"]) for row in gpu["types"]] == [("a-1", 2, 0), ("a-2", None, None)]


def test_findings_name_their_vm_and_devices(rich: Made) -> None:
    found = {(row["code"], *row["vms"]): row["devices"] for row in rich.contents["findings"]}
    assert found["PVP201", 104] == []  # it names one that is not there
    assert found["PVP294", 102] == ["0000:02:00.0", "0000:00:1f.3"]
    assert [row["id"] for row in rich.contents["findings"]] == list(range(1, len(rich.contents["findings"]) + 1))
    severities = [row["severity"] for row in rich.contents["findings"]]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)
    assert summary(rich.contents).startswith(f"{severities.count('error')} error")


@pytest.mark.parametrize(
    "message, where, vmids",
    [
        ("the mediated device x on y is VM 1004's, which does not run", "/sys/x", [1004]),
        ("and VMs 1052, 1053 and 1054 get it, VM 99 not", "/sys/x", [1052, 1053, 1054]),
        ("it is of no VM", "/etc/pve/qemu-server/100.conf:3 hostpci0", [100]),
        ("VMware 100, VMs of 0000:01:00.0", "/etc/pve/qemu-server/x.conf", []),
    ],
)
def test_vms_that_a_finding_of_the_host_names(message: str, where: str, vmids: list[int]) -> None:
    assert _named_vms(Finding("PVP168", "warning", "own", where, message, "")) == vmids


def test_what_the_policy_accepts_comes_last(tmp_path: Path) -> None:
    root = hosts.rich(tmp_path)
    reason = "password=hunter2hunter2 is no reason"
    path = tree.put(root, "etc/pvepassthru.yaml", f"silence:\n- {{code: PVP201, reason: '{reason}'}}\n")
    os.chmod(path, 0o600)
    last = gather(open_host(root), MADE)["findings"][-1]
    assert (last["code"], last["silenced"]) == ("PVP201", "password=masked is no reason")


def test_what_cannot_be_read_is_said() -> None:
    with memory_folder() as folder:
        os.chmod(folder, 0o755)
        root = hosts.rich(os.path.join(folder, "root"))
        for path in ("etc/pve/nodes/pve/qemu-server/100.conf", "run/qemu-server/pci-id-reservations", "proc/cmdline"):
            os.chmod(tree.put(root, path, "x"), 0)
        with unprivileged():
            contents = gather(open_host(root), MADE)
    about = contents["about"]
    assert about["unreadable"] == [
        "/etc/pve/qemu-server/100.conf: Permission denied",
        "/proc/cmdline: Permission denied",
    ]
    assert about["notes"] == ["cannot read /run/qemu-server/pci-id-reservations: Permission denied"]
    assert contents["devices"]
    assert any(row["code"] == "PVP330" and row["vms"] == [100] for row in contents["findings"])
    seen = Seen(page(contents))
    assert "/proc/cmdline: Permission denied" in seen.words


def test_one_part_that_fails_leaves_the_others(rich: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise InputError("cannot read the rooms", "try again")

    monkeypatch.setattr(room, "rooms", fail)
    contents = gather(open_host(rich.root), MADE)
    assert contents["rooms"] == []
    assert contents["findings"] == rich.contents["findings"]
    assert contents["about"]["notes"] == ["cannot read the rooms; try again"]


def test_an_empty_host(tmp_path: Path) -> None:
    contents = gather(open_host(tree.build(tmp_path)), MADE)
    assert (contents["devices"], contents["vms"], contents["rooms"]) == ([], [], [])
    bare = gather(open_host(str(tmp_path / "nothing")), MADE)
    assert any("/etc/pve is absent" in note for note in bare["about"]["notes"])


def test_a_snapshot_says_of_when_it_is(rich: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "<b>\"'\u202e&amp;.tar.xz"
    file = str(tmp_path / name)
    assert main(["--root", rich.root, "snapshot", "-o", file]) == 0
    capsys.readouterr()
    assert main(["--root", file, "report", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["about"]["source"], told["about"]["file"]) == ("snapshot", name)
    assert told["about"]["taken"] <= told["about"]["made"]
    assert "snapshot <bdi>&lt;b&gt;&#34;&#39;\\u202e&amp;amp;.tar.xz</bdi>, taken " in page(told)
    assert [row["message"] for row in told["findings"]] == [row["message"] for row in rich.contents["findings"]]


@pytest.mark.parametrize("secret", hosts.SECRETS)
def test_no_secret_is_in_it(secret: str, hostile: Made) -> None:
    assert secret not in json.dumps(hostile.contents, ensure_ascii=False)
    assert secret.lower() not in hostile.text.lower()


def test_long_texts_are_cut(hostile: Made) -> None:
    assert "w" * 1001 not in json.dumps(hostile.contents)
    assert any("(10000 characters)" in str(vm["name"]) for vm in hostile.contents["vms"])
