# SPDX-License-Identifier: Apache-2.0
"""Rules that save the host, beyond the examples of each."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.cli.main import main
from pvepassthru.host import uses
from pvepassthru.rules import gate, subject
from tests import storage, tree
from tests.rules.example import OFFERS, TYPES, VF, Tree

if TYPE_CHECKING:
    from pathlib import Path

    from pvepassthru.model.finding import Finding

SSD, OTHER = "0000:02:00.0", "0000:02:00.1"
PF = "0000:a1:00.0"
SHARED: dict[str, dict[str, Any]] = {
    SSD: {"iommu_group": 4},
    OTHER: {"vendor": "0x144d", "device": "0xa80b", "class": "0x010802", "iommu_group": 4, "driver": "nvme"},
    "0000:00:1c.0": {"vendor": "0x8086", "device": "0x0001", "class": "0x060400", "iommu_group": 4, "pci_bus": True},
}


def _mounted(root: str, point: str = "/") -> None:
    storage.disk(root, SSD)
    storage.mount(root, f"259:1 {point} ext4 /dev/nvme0n1p1")


def _found(example: Tree, root: Path) -> list[Finding]:
    """What the hook's rules say of VM 100."""
    return gate.findings(subject.load(example.build(root), 100, pending=False))


def _codes(example: Tree, root: Path) -> list[str]:
    return [finding.code for finding in _found(example, root)]


def test_a_member_of_the_group_is_told_from_the_device(tmp_path: Path) -> None:
    (finding,) = _found(Tree("hostpci0: 02:00.1\n", SHARED, change=_mounted), tmp_path)
    assert (finding.code, finding.severity, finding.origin) == ("PVP240", "error", "own")
    assert finding.where == "/etc/pve/qemu-server/100.conf:1 hostpci0"
    assert finding.message == (
        "PVE would take 0000:02:00.0 (in IOMMU group 4 with 0000:02:00.1, which is passed) from the host: "
        "/dev/nvme0n1p1 is mounted on /"
    )


def test_each_function_is_told_once(tmp_path: Path) -> None:
    config = "hostpci0: 02:00.1\nhostpci1: 02:00.0\n"
    (finding,) = _found(Tree(config, SHARED, change=_mounted), tmp_path)
    assert finding.where.endswith(":2 hostpci1")
    assert finding.message == "PVE would take 0000:02:00.0 from the host: /dev/nvme0n1p1 is mounted on /"


@pytest.mark.parametrize(
    "config", ["hostpci0: 02:00.1,driver=keep\n", "template: 1\nhostpci0: 02:00.0\n", "memory: 1\n"]
)
def test_what_the_host_keeps(tmp_path: Path, config: str) -> None:
    assert _codes(Tree(config, SHARED, change=_mounted), tmp_path) == []


def test_parents_of_mediated_devices_stay_with_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And such a VM does not pay for reading what the host uses."""

    def refuse(_around: object) -> None:
        raise AssertionError

    devices: dict[str, dict[str, Any]] = {"0000:41:00.0": {"mdev": {"types": TYPES}, "iommu_group": 4}}
    example = Tree("hostpci0: 41:00.0,mdev=nvidia-63\n", devices, change=_mounted)
    monkeypatch.setattr(uses, "read", refuse)
    assert _codes(example, tmp_path / "mdev") == []
    with pytest.raises(AssertionError):
        _codes(Tree("hostpci0: 41:00.0\n", devices, change=_mounted), tmp_path / "whole")


def test_of_a_mapping_the_alternative_counts_that_pve_takes(tmp_path: Path) -> None:
    devices = {OTHER: {**SHARED[OTHER], "iommu_group": 7}}
    lines = [
        f"\tmap id=144d:{device},iommugroup={group},node=pve,path={address}\n"
        for address, device, group in ((OTHER, "a80b", 7), (SSD, "a80a", 4))
    ]
    good = Tree("hostpci0: mapping=ssd\n", devices, mapping="ssd\n" + "".join(lines), change=_mounted)
    assert _codes(good, tmp_path / "good") == []
    bad = Tree("hostpci0: mapping=ssd\n", devices, mapping="ssd\n" + "".join(reversed(lines)), change=_mounted)
    assert _codes(bad, tmp_path / "bad") == ["PVP240"]
    taken = Tree(  # VM 200 has the first, so PVE takes the second
        "hostpci0: mapping=ssd\n",
        devices,
        mapping="ssd\n" + "".join(lines),
        reservations=f"{OTHER} 200 pid:42\n",
        running={200: 42},
        change=_mounted,
    )
    assert _codes(taken, tmp_path / "taken") == ["PVP240"]


def test_several_uses_and_kinds(tmp_path: Path) -> None:
    def change(root: str) -> None:
        storage.disk(root, SSD, parts=6)
        storage.mount(root, "259:1 /a ext4 x", "259:2 /b ext4 y")
        storage.swap(root, "/dev/nvme0n1p4 partition")

    found = _found(Tree("hostpci0: 02:00.0\n", change=change), tmp_path)
    assert [finding.code for finding in found] == ["PVP240", "PVP241"]
    assert "/dev/nvme0n1p1 is mounted on" in found[0].message
    assert "/dev/nvme0n1p2 is mounted on" in found[0].message


def test_names_of_the_host_are_made_safe(tmp_path: Path) -> None:
    def change(root: str) -> None:
        storage.disk(root, SSD)
        storage.mount(root, "259:1 /a\x1b[31m\\012b ext4 x")

    (finding,) = _found(Tree("hostpci0: 02:00.0\n", change=change), tmp_path)
    assert finding.message.endswith("is mounted on /a\\x1b[31m\\nb")


def test_a_plan_says_what_the_hook_would(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It works on a copy, which has no disks; those of the host count."""
    Tree("hostpci0: 02:00.0\n", change=_mounted).build(tmp_path)
    assert main(["--root", str(tmp_path), "--node", "pve", "plan", "100"]) != 0
    assert "/dev/nvme0n1p1 is mounted on /" in capsys.readouterr().out


# ---- what cannot be read


def _denied(monkeypatch: pytest.MonkeyPatch, denied: str) -> None:
    """Let a file answer EACCES, as to a user who is not root."""
    real = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if path.endswith(denied):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)


def test_without_rights_it_is_a_warning_and_for_root_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = Tree("hostpci0: 02:00.0\n", change=_mounted)
    example.build(tmp_path)
    _denied(monkeypatch, "/proc/self/mountinfo")
    host = example.build(tmp_path / "tree")
    for user, expected in ((0, ("PVP248", "error")), (1000, ("PVP104", "warning"))):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        host.unreadable.clear()
        (finding,) = gate.findings(subject.load(host, 100, pending=False))
        assert (finding.code, finding.severity) == expected
        assert "cannot read /proc/self/mountinfo: Permission denied" in finding.message


def test_a_device_without_disks_needs_no_mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _denied(monkeypatch, "/proc/self/mountinfo")
    assert _codes(Tree("hostpci0: 02:00.0\n"), tmp_path) == []


# ---- physical functions


def _vfs(root: str) -> None:
    tree.put(root, f"{tree.DEVICES}/{PF}/sriov_numvfs", "2\n")
    for number, vf in enumerate(("0000:a1:00.4", "0000:a1:00.5")):
        tree.link(root, f"{tree.DEVICES}/{PF}/virtfn{number}", f"{tree.DEVICES}/{vf}")


def _with_interface(root: str) -> None:
    _vfs(root)
    storage.net(root, "0000:a1:00.5", "enp161s0v1")
    storage.upper(root, "vmbr0", "enp161s0v1", bridge=True)


def _open(root: str) -> None:
    _vfs(root)
    tree.hold(root, 4711, "/dev/vfio/61")


UUID = "c7b3e5a0-5e2c-4c0e-9a51-0d1f6f1f2a3b"
CASES = {
    "another VM's": (Tree(reservations="0000:a1:00.4 200 time:99999999999\n", change=_vfs), "0000:a1:00.4: "),
    "this VM's": (Tree("hostpci1: a1:00.5\n", change=_vfs), "0000:a1:00.5: this VM gets it, too"),
    "a vGPU's": (
        Tree(devices={"0000:a1:00.5": {"nvidia": {**OFFERS, "current": "35"}}}, change=_vfs),
        "0000:a1:00.5: has vGPU type 35",
    ),
    "the host's": (Tree(change=_with_interface), "0000:a1:00.5: enp161s0v1 is a port of bridge vmbr0"),
    "a process's": (Tree(change=_open), "0000:a1:00.4: a process has it open"),
    "an mdev parent's": (
        Tree(devices={"0000:a1:00.4": {"mdev": {"types": TYPES, "instances": {UUID: "nvidia-63"}}}}, change=_vfs),
        "0000:a1:00.4: has mediated devices",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_virtual_functions_in_use(tmp_path: Path, case: str) -> None:
    example, words = CASES[case]
    example = Tree(**{**vars(example), "config": f"hostpci0: a1:00.0\n{example.config}"})
    (finding,) = _found(example, tmp_path)
    assert finding.code == "PVP247"
    assert words in finding.message


def test_pf_in_the_group_of_its_passed_vf(tmp_path: Path) -> None:
    """Without ACS a VF shares its PF's group, and PVE would take the PF with it."""
    example = Tree("hostpci0: a1:00.4\n", {"0000:a1:00.4": {**VF, "iommu_group": 60}}, change=_vfs)
    (finding,) = _found(example, tmp_path)
    assert finding.code == "PVP247"
    assert "0000:a1:00.0 (in IOMMU group 60 with 0000:a1:00.4, which is passed)" in finding.message


def test_pf_that_vfio_pci_has_already_keeps_its_vfs(tmp_path: Path) -> None:
    example = Tree("hostpci0: a1:00.0\n", {PF: {"driver": "vfio-pci"}}, change=_vfs)
    assert _codes(example, tmp_path) == []


def test_mediated_devices_of_a_vm_are_other_rules_business(tmp_path: Path) -> None:
    instances = {"00000000-0000-0000-0000-000000000200": "nvidia-63"}
    example = Tree("hostpci0: 41:00.0\n", {"0000:41:00.0": {"mdev": {"types": TYPES, "instances": instances}}})
    assert _codes(example, tmp_path) == []


@pytest.mark.parametrize("point, hint", [("/", "the host cannot do without it"), ("/mnt/x", "unmount it if")])
def test_what_to_do_of_a_file_system(tmp_path: Path, point: str, hint: str) -> None:
    """Nobody can unmount /, so nobody is told to."""
    example = Tree("hostpci0: 02:00.0\n", change=lambda root: _mounted(root, point))
    (finding,) = _found(example, tmp_path)
    assert finding.code == "PVP240"
    assert finding.hint.startswith(hint)
