# SPDX-License-Identifier: Apache-2.0
"""The emulator decides what qemu-server 9.2.6 decided, in every case of the conformance data."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests import tree
from tests.pve import config, kernel, mapping, qemu_server, reservations, sysfs
from tests.pve.config import PveError

if TYPE_CHECKING:
    from pathlib import Path

DATA = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "conformance")


def load(name: str) -> Any:  # noqa: ANN401 - JSON
    with open(os.path.join(DATA, name), encoding="utf-8") as file:
        return json.load(file)


CASES = load("cases.json")
RESERVATIONS = load("reservations.json")


def ignore(_: str) -> None:
    """Take a warning that does not matter here."""


class Emulated:
    """One case's tree and the emulator on it."""

    def __init__(self, root: str, case: dict[str, Any]) -> None:
        tree.put(root, reservations.PATH, case.get("reservations", ""))
        running = {str(vmid): pid for vmid, pid in case.get("running", {}).items()}
        now = case.get("now", 1_700_000_000)
        self.kernel = kernel.TreeKernel(root)
        self.vmid: int = case["vmid"]
        self.config = config.parse(case["config"].encode("utf-8", "surrogateescape"))
        self.machine = qemu_server.Machine(
            sysfs.Sysfs(root, self.kernel.write),
            case["node"],
            mapping.parse((case["pci_cfg"] or "").encode("utf-8", "surrogateescape")),
            reservations.File(root, running.get, lambda: now, ignore),
            ignore,
        )

    def verdict(self, section: config.Section) -> tuple[str | None, list[qemu_server.Device]]:
        """The error of a dry run and its devices."""
        try:
            devices = qemu_server.parse_devices(self.machine, section)
            qemu_server.choose(self.machine, devices, self.vmid)
        except PveError as error:
            return error.code, []
        return None, devices

    def start(self, section: config.Section) -> dict[str, Any]:
        """Reserve and prepare, as `expect.start` tells it."""
        chosen: dict[str, list[str]] | None = None
        error: str | None = None
        try:
            devices = qemu_server.parse_devices(self.machine, section)
            qemu_server.choose(self.machine, devices, self.vmid, timeout=10)
            chosen = {device.key: device.ids for device in devices}
            self.machine.reserved.reserve(qemu_server.to_reserve(devices), self.vmid, timeout=10)
            for device in qemu_server.by_name(devices):
                qemu_server.prepare(self.machine, device, self.vmid)
        except PveError as refusal:
            error = refusal.code
        writes = [list(write) for write in self.machine.sysfs.writes]
        return {"ok": error is None, "error": error, "chosen": chosen, "writes": writes}

    def described(self, device: qemu_server.Device) -> dict[str, Any]:
        """A device in the form of the conformance data."""
        groups = [self.machine.sysfs.group(address) for address in device.ids]
        optional = {
            "mdev": device.mdev,
            "nvidia": device.nvidia,
            "alternatives": device.alternatives if len(device.alternatives) > 1 else None,
            "live_migration": device.live_migration or None,
        }
        return {
            "index": device.index,
            "ids": device.ids,
            "iommugroups": [-1 if group is None else group for group in groups],
            "multifunction": len(device.ids) > 1 and not device.classic_mdev,
            "options": device.options,
            **{key: value for key, value in optional.items() if value is not None},
        }


def test_the_data_is_all_there() -> None:
    assert len(CASES["cases"]) == 858
    assert len(RESERVATIONS) == 112


@pytest.mark.parametrize("host", sorted(CASES["hosts"]))
def test_cases(host: str, tmp_path: Path) -> None:
    wrong = {}
    root = tree.build(tmp_path, CASES["hosts"][host])
    for case in (case for case in CASES["cases"] if case["host"] == host):
        emulated = Emulated(root, case)
        main = emulated.config.main
        error, devices = emulated.verdict(main)
        seen: dict[str, Any] = {
            "accepted": error is None,
            "error": error,
            "dropped": [{"key": key, "why": list(whys)} for key, whys in main.dropped],
            "devices": [emulated.described(device) for device in devices],
            "q35": main.q35,
            "machine_invalid": main.machine_invalid,
            "pending": None,
        }
        if emulated.config.has_pending():
            later, _ = emulated.verdict(emulated.config.effective())
            seen["pending"] = {"accepted": later is None, "error": later}
        seen["start"] = emulated.start(emulated.config.effective())
        emulated.kernel.undo()
        if seen != case["expect"]:
            wrong[case["id"]] = {k: (v, case["expect"][k]) for k, v in seen.items() if v != case["expect"][k]}
    assert not wrong


@pytest.mark.parametrize("case", RESERVATIONS, ids=lambda case: case["id"])
def test_reservations(case: dict[str, Any]) -> None:
    arguments = case["args"]
    warnings: list[str] = []
    text: str | None = case["file"]
    expect: dict[str, Any] = {"accepted": True, "error": None, "file": text}
    vmid = arguments["vmid"]
    if case["op"] == "reserve":
        ids = [arguments["ids"]] if isinstance(arguments["ids"], str) else arguments["ids"]
        request = reservations.Request(vmid, case["now"], arguments["timeout"], arguments["pid"])
        try:
            new = reservations.reserve(text, ids, request, case["running"].get, warnings.append)
            expect["file"] = text if new is None else new
        except PveError as error:
            expect |= {"accepted": False, "error": error.code}
    elif case["op"] == "remove":
        expect["file"] = reservations.remove(text, vmid, arguments.get("ids"))
    else:
        assert case["op"] == "get"
        expect["result"] = reservations.reserved(text, vmid)
    expect["warns"] = bool(warnings)
    assert expect == case["expect"]
