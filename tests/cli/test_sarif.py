# SPDX-License-Identifier: Apache-2.0
"""SARIF 2.1.0: what the standard demands of the parts that are used, and that a fingerprint outlives small changes.

The standard's JSON schema is not here, its licence being unclear; sections 3.13 to 3.52 are asserted one by one.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.cli.main import main
from pvepassthru.cli.sarif import place
from pvepassthru.rules.catalogue import RULES
from tests import tree

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = b"# \xff\nhostpci0: 0f:00.0,pcie=1\nhostpci1: 0f:00.0,pcie=1\nhostpci2: 0f:00.0,x=1\nvga: junk\n"


def _log(capsys: pytest.CaptureFixture[str], root: str, *words: str, code: int = 1) -> dict[str, Any]:
    assert main(["--root", root, "validate", *words, "--sarif"]) == code
    log: dict[str, Any] = json.loads(capsys.readouterr().out)
    return log


def _run(log: dict[str, Any]) -> dict[str, Any]:
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-2.1.0.json")
    (run,) = log["runs"]
    assert set(run) <= {"tool", "invocations", "originalUriBaseIds", "columnKind", "results"}
    assert run["columnKind"] in {"utf16CodeUnits", "unicodeCodePoints"}
    for base in run["originalUriBaseIds"].values():
        assert base["uri"].startswith("file:///")
        assert base["uri"].endswith("/")
    _check_driver(run["tool"]["driver"])
    for invocation in run["invocations"]:
        assert isinstance(invocation["executionSuccessful"], bool)
        for note in invocation["toolExecutionNotifications"]:
            assert (note["level"], bool(note["message"]["text"])) == ("error", True)
    for result in run["results"]:
        _check_result(result, run)
    assert isinstance(run, dict)
    return run


def _check_driver(driver: dict[str, Any]) -> None:
    assert driver["name"] == "pvepassthru"
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(set(ids)) == len(ids)
    for rule in driver["rules"]:
        assert rule["defaultConfiguration"]["level"] in {"error", "warning", "note"}
        for text in ("shortDescription", "fullDescription", "help"):
            assert rule[text]["text"]
        assert rule["shortDescription"]["text"].startswith("Checks whether ")
        assert "\n" not in rule["shortDescription"]["text"]


def _check_result(result: dict[str, Any], run: dict[str, Any]) -> None:
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    assert result["level"] in {"error", "warning", "note"}
    assert result["message"]["text"]
    (location,) = result["locations"]
    artifact = location["physicalLocation"]["artifactLocation"]
    assert artifact["uriBaseId"] in run["originalUriBaseIds"]
    assert artifact["uri"].isascii()
    assert artifact["uri"][:1] not in {"", "/"}
    assert not set(artifact["uri"]) & set(' "<>\\^`{|}#?')
    region = location["physicalLocation"].get("region", {"startLine": 1})
    assert region["startLine"] >= 1
    assert all(name["fullyQualifiedName"] for name in location["logicalLocations"])
    assert all(len(print_) == 64 for print_ in result["partialFingerprints"].values())
    for suppression in result.get("suppressions", ()):
        assert suppression["kind"] in {"inSource", "external"}
        assert suppression["status"] in {"accepted", "underReview", "rejected"}
        assert suppression["justification"]


def test_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tree.build(tmp_path, configs={100: CONFIG, 101: "memory: 512\n", 102: "hostpci0: mapping=no\n"})
    run = _run(_log(capsys, root, "--all"))
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == [rule.code for rule in RULES if rule.check]
    assert main(["--root", root, "validate", "--all", "--json"]) == 1
    plain = [(vm["vmid"], found) for vm in json.loads(capsys.readouterr().out) for found in vm["findings"]]
    assert {vmid for vmid, _ in plain} == {100, 102}
    assert len(plain) == len(run["results"])
    for (vmid, found), result in zip(plain, run["results"], strict=True):
        assert (result["ruleId"], result["properties"]["vmid"]) == (found["code"], vmid)
        assert result["message"]["text"].startswith(found["message"])
    prints = [result["partialFingerprints"]["place/v1"] for result in run["results"]]
    assert len(set(prints)) == len(prints)
    first = next(result for result in run["results"] if result["ruleId"] == "PVP305")
    assert first["locations"] == [
        {
            "physicalLocation": {
                "artifactLocation": {"uri": "etc/pve/qemu-server/100.conf", "uriBaseId": "HOST"},
                "region": {"startLine": 4},
            },
            "logicalLocations": [{"fullyQualifiedName": "pve/100/hostpci2"}],
        }
    ]


def test_fingerprints_outlive_other_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prints = []
    for number, config in enumerate((CONFIG, b"# one\n# two\n" + CONFIG.replace(b"# \xff\n", b""))):
        root = tree.build(tmp_path / str(number), configs={100: config})
        run = _run(_log(capsys, root, "100"))
        found = {result["partialFingerprints"]["place/v1"]: result["ruleId"] for result in run["results"]}
        prints.append({print_ for print_, code in found.items() if code not in {"PVP201", "PVP202"}})
    assert prints[0] == prints[1] != set()


def test_silenced_and_selected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tree.build(tmp_path, configs={100: "hostpci0: 0f:00.0,pcie=1\n"})
    os.chmod(tree.put(root, "etc/pvepassthru.yaml", "silence: [{code: PVP201, reason: comes back}]\n"), 0o644)
    run = _run(_log(capsys, root, "100", "--select", "PVP2", code=0))
    assert {rule["id"][:4] for rule in run["tool"]["driver"]["rules"]} == {"PVP1", "PVP2", "PVP3", "PVP4"}
    (result,) = run["results"]
    assert result["suppressions"] == [{"kind": "external", "status": "accepted", "justification": "comes back"}]
    (other,) = _run(_log(capsys, root, "100", "--select", "PVP31"))["results"]
    assert "suppressions" not in other


def test_a_vm_that_cannot_be_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tree.build(tmp_path, configs={100: "memory: 512\n"})
    run = _run(_log(capsys, root, "100", "999", code=3))
    (invocation,) = run["invocations"]
    assert invocation["executionSuccessful"] is False
    (note,) = invocation["toolExecutionNotifications"]
    assert "there is no VM 999" in note["message"]["text"]
    assert run["results"] == []


@pytest.mark.parametrize(
    "where,found",
    [
        ("/etc/pve/qemu-server/100.conf:3 hostpci0", ("/etc/pve/qemu-server/100.conf", 3, "hostpci0")),
        ("/etc/pve/qemu-server/100.conf hostpci0", ("/etc/pve/qemu-server/100.conf", None, "hostpci0")),
        ("/etc/pve/mapping/pci.cfg:12 my gpu", ("/etc/pve/mapping/pci.cfg", 12, "my gpu")),
        ("/etc/pvepassthru.yaml", ("/etc/pvepassthru.yaml", None, "")),
        ("/sys/bus/pci/devices/0000:01:00.0", ("/sys/bus/pci/devices/0000:01:00.0", None, "")),
        ("/sys/class/pci_bus/0000:01", ("/sys/class/pci_bus/0000:01", None, "")),
        ("/x:99999999999", ("/x:99999999999", None, "")),
        (":3", (":3", None, "")),
    ],
)
def test_place(where: str, found: tuple[str, int | None, str]) -> None:
    assert place(where) == found
