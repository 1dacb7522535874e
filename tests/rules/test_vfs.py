# SPDX-License-Identifier: Apache-2.0
"""VFs that are not there: what the start itself makes is no error, and of the rest it is said who makes it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pvepassthru.rules import catalogue, subject
from pvepassthru.rules.subject import Surroundings
from tests import tree
from tests.rules.example import Tree

if TYPE_CHECKING:
    from pathlib import Path

PF = "0000:21:00.0"
CARD = {"sriov_totalvfs": "4\n", "sriov_numvfs": "0\n", "sriov_offset": "1\n", "sriov_stride": "1\n"}
HOOK = "hookscript: local:snippets/pvepassthru\n"
BY_ADDRESS, BY_MAPPING = f"{HOOK}hostpci0: 21:00.1\n", f"{HOOK}hostpci0: mapping=net\n"
MAPPING = f"net\n\tmap id=8086:1520,iommugroup=21,node=pve,path={PF[:-1]}2\n"
CODES = {BY_ADDRESS: "PVP201", BY_MAPPING: "PVP403"}


def card(config: str, policy: str, *, driver: str = "igb", vfs: int = 0, **files: str) -> Tree:
    pf = {"vendor": "0x8086", "device": "0x1521", "class": "0x020000", "iommu_group": 20, "driver": driver}
    devices = {PF: {**pf, "files": {**CARD, "sriov_numvfs": f"{vfs}\n", **files}}}
    text = f"sriov:\n  {PF}: {{{policy}}}\n"
    return Tree(config, devices, mapping=MAPPING, files={"etc/pvepassthru.yaml": text}, change=_hook)


def _hook(root: str) -> None:
    os.chmod(tree.put(root, "var/lib/vz/snippets/pvepassthru", "#!/bin/sh\n"), 0o755)


def told(made: Tree, root: Path) -> list[tuple[str, str, str]]:
    return [(found.code, found.severity, found.hint) for found in made.findings(root)]


@pytest.mark.parametrize("config", CODES)
def test_the_start_makes_them(config: str, tmp_path: Path) -> None:
    found = told(card(config, "vfs: 2, in_hook: true"), tmp_path)
    assert [(code, severity) for code, severity, _ in found] == [("PVP299", "info")]


@pytest.mark.parametrize("config", CODES)
def test_only_the_hook_makes_them(config: str, tmp_path: Path) -> None:
    """The start of a VM without it fails."""
    ((code, severity, hint),) = told(card(config.removeprefix(HOOK), "vfs: 2, in_hook: true"), tmp_path)
    assert (code, severity) == (CODES[config], "error")
    assert "the VM has no hookscript" in hint


@pytest.mark.parametrize("config", CODES)
def test_apply_makes_them(config: str, tmp_path: Path) -> None:
    ((code, severity, hint),) = told(card(config, "vfs: 2"), tmp_path)
    assert (code, severity) == (CODES[config], "error")
    assert "gives 0000:21:00.0 2 VFs" in hint
    assert "pvepassthru sriov apply makes them" in hint


@pytest.mark.parametrize(
    "policy,more,expected",
    [
        ("vfs: 9, in_hook: true", {}, "the card can have 4"),
        ("vfs: 2, in_hook: true", {"driver": "vfio-pci"}, "it is bound to vfio-pci"),
        ("vfs: 2, in_hook: true", {"sriov_offset": "0\n"}, "that slot has"),  # nobody can tell which they would be
        ("vfs: 1, in_hook: true", {"sriov_offset": "5\n"}, "that slot has"),  # others
    ],
)
def test_the_start_cannot_make_them(policy: str, more: dict[str, str], expected: str, tmp_path: Path) -> None:
    ((code, _, hint),) = told(card(BY_ADDRESS, policy, **more), tmp_path)  # type: ignore[arg-type]  # all are texts
    assert code == "PVP201"
    assert expected in hint


def test_another_number_than_the_policys(tmp_path: Path) -> None:
    made = card(f"{HOOK}hostpci0: 21:00.2\n", "vfs: 2, in_hook: true", vfs=1)
    vf = {"vendor": "0x8086", "device": "0x1520", "class": "0x020000", "iommu_group": 21, "physfn": PF}
    made.devices[f"{PF[:-1]}1"] = vf
    host = made.build(tmp_path)
    (tmp_path / f"sys/bus/pci/devices/{PF}/virtfn0").symlink_to(f"../{PF[:-1]}1")
    (found,) = [one for one in catalogue.findings(subject.load(host, 100, pending=True)) if one.severity == "error"]
    assert found.code == "PVP201"
    assert "has 1 VF, and a start never changes a number of VFs that is not 0" in found.hint


def test_doctor_puts_up_with_the_mapping(tmp_path: Path) -> None:
    host = card("", "vfs: 2, in_hook: true").build(tmp_path)
    states = {state.rule.code: state for state in catalogue.host_states(Surroundings(host))}
    assert states["PVP412"].findings == ()
    (tmp_path / "etc/pvepassthru.yaml").write_text(f"sriov:\n  {PF}: {{vfs: 2}}\n")
    states = {state.rule.code: state for state in catalogue.host_states(Surroundings(host))}
    (found,) = states["PVP412"].findings
    assert "pvepassthru sriov apply makes them" in found.hint
