# SPDX-License-Identifier: Apache-2.0
"""`pvepassthru validate` agrees with Proxmox VE on every recorded case."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import pytest

from pvepassthru.cli.main import main
from pvepassthru.model import reservation, vmconfig
from tests import tree

HERE = os.path.dirname(__file__)
NOW = 1700000000


def _load(name: str) -> Any:  # noqa: ANN401 - whatever the JSON file holds
    with open(os.path.join(HERE, name), encoding="utf-8") as file:
        return json.load(file)


DATA = _load("cases.json")
CASES: list[dict[str, Any]] = DATA["cases"]
RESERVATIONS: list[dict[str, Any]] = _load("reservations.json")

MDEV_CODES = {"PVP210", "PVP211", "PVP212", "PVP213"}
CODES: dict[str, set[str]] = {
    "iommu-not-present": {"PVP101"},
    "vfio-pci-missing": {"PVP102"},
    "device-not-found": {"PVP201"},
    "device-assigned-twice": {"PVP202"},
    "no-free-device": {"PVP203", "PVP222", "PVP422"},
    "device-info-unreadable": {"PVP204"},
    "device-without-iommu-group": {"PVP205"},
    "mdev-not-created": MDEV_CODES,
    "nvidia-no-sysfs": {"PVP220"},
    "vgpu-type-not-available": {"PVP221"},
    "pcie-needs-q35": {"PVP310"},
    "host-or-mapping-required": {"PVP314"},
    "host-and-mapping": {"PVP315"},
    "mdev-with-multifunction": {"PVP316"},
    "igd-twice": {"PVP320"},
    "igd-needs-vga-none": {"PVP321"},
    "igd-needs-rombar": {"PVP322"},
    "igd-with-x-vga": {"PVP323"},
    "igd-with-mdev": {"PVP324"},
    "igd-with-q35": {"PVP325"},
    "igd-with-multifunction": {"PVP326"},
    "igd-with-alternatives": {"PVP327"},
    "igd-wrong-address": {"PVP328"},
    "mapping-not-found": {"PVP401", "PVP402"},
    "mapping-device-not-found": {"PVP403"},
    "mapping-id-mismatch": {"PVP404"},
    "mapping-subsystem-mismatch": {"PVP405"},
    "mapping-iommugroup-mismatch": {"PVP406"},
    "mapping-mdev-mismatch": {"PVP407"},
    "mapping-missing-property": {"PVP408"},
    "mapping-unexpected-property": {"PVP409"},
    "reserved-in-use": {"PVP420"},
    "reserved-pending": {"PVP421"},
}
"""The rules that tell of PVE's error."""
DROPPED = {
    "bad-pattern": {"PVP301"},
    "bad-format": {"PVP302", "PVP308"},
    "duplicate-key": {"PVP303"},
    "missing-key": {"PVP304"},
    "unknown-key": {"PVP305"},
    "bad-boolean": {"PVP306"},
    "bad-enum": {"PVP307"},
}
"""The rules that tell of a line that PVE drops."""


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The trees of the hosts' hardware by name."""
    top = tmp_path_factory.mktemp("hosts")
    for name, host in DATA["hosts"].items():
        tree.hardware(top / name, host)
    return {name: str(top / name) for name in DATA["hosts"]}


def _place(hosts: dict[str, str], case: dict[str, Any]) -> str:
    root = hosts[case["host"]]
    tree.guests(
        root,
        node=case["node"],
        configs={case["vmid"]: case["config"]},
        mapping=case["pci_cfg"],
        reservations=case.get("reservations"),
        running={int(vmid): pid for vmid, pid in case.get("running", {}).items()},
    )
    return root


def _validate(root: str, case: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main(["--root", root, "--node", case["node"], "validate", str(case["vmid"]), "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert isinstance(answer, dict)
    return code, answer


def _pending_changes_a_dropped_key(case: dict[str, Any]) -> bool:
    config = vmconfig.parse(case["config"].encode())
    changed = {*config.pending.values, *config.deletes}
    return any(dropped["key"] in changed for dropped in case["expect"]["dropped"])


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_validate_agrees_with_pve(
    case: dict[str, Any],
    hosts: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "time", lambda: float(NOW))
    expect = case["expect"]
    exit_code, answer = _validate(_place(hosts, case), case, capsys)
    errors = {finding["code"] for finding in answer["findings"] if finding["severity"] == "error"}
    by_pve = {finding["code"] for finding in answer["findings"] if _is_pve_error(finding)}

    assert exit_code == (1 if errors else 0)
    assert answer["ok"] == (not errors)
    if not _pending_changes_a_dropped_key(case):  # there the dropped line plays no part in the start that is judged
        refused = not expect["start"]["ok"] or expect["machine_invalid"] or bool(expect["dropped"])
        assert bool(by_pve) == refused
        for dropped in expect["dropped"]:
            for why in dropped["why"]:
                assert by_pve & DROPPED[why]
    if expect["start"]["error"]:
        assert by_pve & CODES[expect["start"]["error"]]
    if expect["machine_invalid"]:
        assert "PVP311" in by_pve
    if expect["accepted"] and not expect["pending"]:
        assert [_comparable(device) for device in answer["devices"]] == [
            _wanted(device) for device in expect["devices"]
        ]


def _is_pve_error(finding: dict[str, Any]) -> bool:
    return bool(finding["severity"] == "error" and finding["origin"] == "pve")


def _comparable(device: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in device.items() if name != "mapping"}


def _wanted(device: dict[str, Any]) -> dict[str, Any]:
    wanted = {"index": device["index"], "addresses": device["ids"], "options": device["options"]}
    for name in ("mdev", "nvidia", "alternatives"):
        if name in device and device[name] != "0":  # mdev=0 asks for none
            wanted[name] = device[name]
    return wanted


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_config_is_read_as_pve_does(case: dict[str, Any]) -> None:
    main_section = vmconfig.parse(case["config"].encode()).main
    dropped = [
        {"key": dropped.key, "why": list(dropped.why)}
        for dropped in main_section.dropped
        if dropped.key.startswith("hostpci")
    ]
    assert dropped == case["expect"]["dropped"]
    assert main_section.machine.q35 == case["expect"]["q35"]
    assert (main_section.machine.fault is not None) == case["expect"]["machine_invalid"]


def test_exclusions_are_few() -> None:
    left_out = [case["id"] for case in CASES if _pending_changes_a_dropped_key(case)]
    assert len(left_out) <= 3, left_out


@pytest.mark.parametrize("case", RESERVATIONS, ids=[case["id"] for case in RESERVATIONS])
def test_reservations(case: dict[str, Any]) -> None:
    args, expect, before = case["args"], case["expect"], case["file"] or ""
    ids = [args["ids"]] if isinstance(args.get("ids"), str) else args.get("ids")

    def running(vmid: int) -> int | None:
        pid = case["running"].get(str(vmid))
        return pid if isinstance(pid, int) else None

    if case["op"] == "reserve":
        result = reservation.reserve(
            before, ids, args["vmid"], case["now"], timeout=args["timeout"], pid=args["pid"], running=running
        )
        assert (result.accepted, result.error, result.warns) == (expect["accepted"], expect["error"], expect["warns"])
        assert (case["file"] if result.text is None else result.text) == expect["file"]
    elif case["op"] == "remove":
        assert reservation.remove(before, args["vmid"], addresses=ids) == expect["file"]
    else:
        assert case["op"] == "get"
        assert list(reservation.held(before, args["vmid"])) == expect["result"]
