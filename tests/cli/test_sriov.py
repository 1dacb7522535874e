# SPDX-License-Identifier: Apache-2.0
"""The command sriov: what it shows, its exit codes, and the files for hosts without our unit."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.cli.main import main
from pvepassthru.model import sriov_drivers
from tests import tree
from tests.host import machine
from tests.host.machine import NIC, PCI, PF, VFS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.host.sim import SimHost

FILE = "/etc/sysfs.d/pvepassthru-sriov.conf"


@pytest.fixture
def host() -> Iterator[SimHost]:
    with machine.memory_folder() as folder:
        made = machine.build(folder, nested=False)
        tree.guests(folder, configs={100: f"hostpci0: {VFS[0]}\n"})
        tree.folder(folder, "var/lib/pvepassthru")
        tree.folder(folder, "run/lock")
        yield made


def run(host: SimHost, *words: str) -> int:
    return main(["--root", host.root, "sriov", *words])


def policy(host: SimHost, vfs: int, more: str = "") -> None:
    os.chmod(tree.put(host.root, "etc/pvepassthru.yaml", f"sriov:\n  {PF}:\n    vfs: {vfs}\n{more}"), 0o600)


def printed(capsys: pytest.CaptureFixture[str]) -> Any:  # noqa: ANN401 - JSON
    return json.loads(capsys.readouterr().out)


def test_show(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    policy(host, 3)
    host.write(f"{PCI}/{PF}/sriov_numvfs", "2")
    assert run(host, "show") == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["ADDRESS", "DRIVER", "VFS", "TOTAL", "POLICY", "INTERFACE", "IN", "USE"]
    assert row.split() == [PF, "nvme", "2", "4", "3", "-", "0", "of", "2"]
    assert run(host, "show", "--json") == 0
    (shape,) = printed(capsys)
    assert (shape["vfs"], shape["total"], shape["policy"], shape["autoprobe"]) == (2, 4, 3, True)
    assert [(vf["number"], vf["address"], vf["in_use"]) for vf in shape["functions"]] == [
        (0, VFS[0], None),
        (1, VFS[1], None),
    ]
    assert shape["functions"][0]["vms"] == [{"vmid": 100, "entries": ["hostpci0"], "runs": False, "has": False}]
    assert run(host, "show", PF.removeprefix("0000:")) == 0
    out = capsys.readouterr().out
    assert "VFs" in out
    assert "2 of 4" in out
    assert f"0   {VFS[0]}" in out


def test_show_of_a_driver_with_notes(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sriov_drivers.DRIVERS, "nvme", sriov_drivers.DRIVERS["i915"])
    assert run(host, "show", PF) == 0
    out = capsys.readouterr().out
    assert "driver's most  7" in out
    assert "i915.enable_guc=3" in out


def test_a_host_without_sriov(capsys: pytest.CaptureFixture[str]) -> None:
    with machine.memory_folder() as folder:
        tree.build(folder)
        assert main(["--root", folder, "sriov", "show"]) == 0
        assert "no device of this host does SR-IOV" in capsys.readouterr().out
        assert main(["--root", folder, "sriov", "apply"]) == 0
        assert "the policy says nothing of VFs" in capsys.readouterr().out
        assert main(["--root", folder, "sriov", "files"]) == 0
        assert "nothing that this file could hold" in capsys.readouterr().out


def test_one_pf_that_fails_does_not_stop_the_others(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    other = "0000:09:00.0"
    files = {name: text for name, text in machine.SRIOV.items() if name != "sriov_vf_device"}
    device = {"vendor": "0x1b36", "device": "0x0010", "class": "0x010802", "iommu_group": 40, "files": files}
    tree.add_device(host.root, other, {**device, "files": {**files, "sriov_offset": "1\n"}})
    first = "0000:00:1e.0"  # it comes first, and has no driver
    tree.add_device(host.root, first, {**device, "iommu_group": 41})
    text = "sriov:\n" + "".join(f"  {pf}: {{vfs: 2}}\n" for pf in (first, PF, other))
    os.chmod(tree.put(host.root, "etc/pvepassthru.yaml", text), 0o600)
    assert run(host, "apply", "--json") == 1
    shape = printed(capsys)
    assert [(pf["address"], bool(pf["error"])) for pf in shape["pfs"]] == [(first, True), (PF, False), (other, True)]
    assert "it has no driver" in shape["pfs"][0]["error"]
    assert host.text(f"{PCI}/{PF}/sriov_numvfs") == "2"


def test_a_rule_that_is_for_another_card(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    policy(host, 2, '    ids: "8086:1521"\n')
    assert run(host, "apply") == 0
    err = capsys.readouterr().err
    assert f"warning: the policy's sriov.{PF} is for 8086:1521, but " in err
    assert host.text(f"{PCI}/{PF}/sriov_numvfs") == "0"


def test_without_the_clusters_file_system(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    """The node's own policy is obeyed, and what is not known is told."""
    policy(host, 2)
    os.rename(host.path("/etc/pve"), host.path("/etc/no"))
    assert run(host, "apply") == 0
    assert "warning: /etc/pve is empty" in capsys.readouterr().err
    assert host.text(f"{PCI}/{PF}/sriov_numvfs") == "2"


@pytest.mark.parametrize(
    "words,code",
    [
        (("set", PF, "9"), 2),
        (("set", "01:00", "1"), 2),
        (("show", "0000:0f:00.0"), 3),
        (("show", VFS[0]), 3),
        (("show", NIC), 3),
        (("set", NIC, "1"), 3),
    ],
)
def test_exit_codes(host: SimHost, words: tuple[str, ...], code: int) -> None:
    assert run(host, *words) == code


@pytest.mark.parametrize(
    "selector,code,expected",
    [
        (NIC, 1, f"error: sriov.{NIC}: that function has no SR-IOV; name the physical function"),
        (NIC.removesuffix(".0"), 1, "that function has no SR-IOV"),
        ("0000:0f:00.0", 0, "note: sriov.0000:0f:00.0: there is no such function on this host"),
        ("8086:1521", 0, ""),
    ],
)
def test_what_is_no_pf(
    host: SimHost, capsys: pytest.CaptureFixture[str], selector: str, code: int, expected: str
) -> None:
    """The others are made what the policy says of them; a card that is not there may be another node's."""
    policy(host, 2, f"  '{selector}':\n    vfs: 1\n")
    assert run(host, "files", "--write", "--json") == code
    shape = printed(capsys)
    assert (shape["written"], len(shape["errors"])) == (code == 0, code)
    assert run(host, "apply") == code
    out, err = capsys.readouterr()
    assert f"made 2 VFs of {PF}" in out
    assert expected in err
    assert bool(expected) == bool(err)


def test_numbers_that_cannot_be_are_not_written(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    policy(host, 9)
    assert run(host, "files", "--write") == 1
    out, err = capsys.readouterr()
    assert "the card can have 4" in err
    assert "nothing was written" in out
    assert not host.exists(FILE)
    assert run(host, "files", "--json") == 1
    assert printed(capsys)["text"] == ""


def test_how_a_number_is_kept(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    """What was set by hand is gone after a reboot."""
    assert run(host, "set", PF, "1") == 0
    out = capsys.readouterr().out
    assert f"made 1 VF of {PF}\n" in out
    assert f"sriov: {{'{PF}': {{vfs: 1}}}} in the policy (/etc/pvepassthru.yaml)" in out
    assert "systemctl enable pvepassthru-sriov.service" in out
    policy(host, 1)
    assert run(host, "set", PF, "1") == 0
    out = capsys.readouterr().out
    assert f"{PF} has 1 VF already" in out
    assert "unless: systemctl enable pvepassthru-sriov.service" in out
    wants = "etc/systemd/system/multi-user.target.wants/pvepassthru-sriov.service"
    tree.link(host.root, wants, "etc/systemd/system/pvepassthru-sriov.service")
    assert run(host, "set", PF, "1") == 0
    assert "reboot" not in capsys.readouterr().out
    assert run(host, "set", PF, "0") == 0
    assert "reboot" not in capsys.readouterr().out


def test_a_dry_run_foresees(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    policy(host, 2, "    vlan: 5\n")
    assert run(host, "apply", "--dry-run") == 1
    assert "it has no network interface here" in capsys.readouterr().err
    policy(host, 2, "    driver: ice\n")
    assert run(host, "apply", "--dry-run") == 1
    assert "there is no such driver, and no such module" in capsys.readouterr().err
    policy(host, 2, "    driver: vfio-pci\n")
    assert run(host, "apply", "--dry-run") == 0
    assert host.text(f"{PCI}/{PF}/sriov_numvfs") == "0"


def test_ip_of_another_tree(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    tree.folder(host.root, f"{PCI}/{PF}/net/ens1")
    policy(host, 2, "    vlan: 5\n")
    assert run(host, "apply") == 1
    assert "programs of another tree are not run; run this on pve itself, without --root" in capsys.readouterr().err


def test_a_policy_with_a_slip(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    policy(host, 2, "    vlans: 3\n")
    assert run(host, "apply") == 4
    assert run(host, "show") == 0
    assert "vlans" in capsys.readouterr().err


# ---- files


def test_files(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    policy(host, 3, "    vlan: 5\n")
    assert run(host, "files", "--json") == 0
    shape = printed(capsys)
    attribute = f"bus/pci/devices/{PF}/sriov_"
    lines = [f"{attribute}drivers_autoprobe = 0", f"{attribute}numvfs = 3", f"{attribute}drivers_autoprobe = 1"]
    assert (shape["path"], shape["written"]) == (FILE, False)
    assert shape["text"].splitlines()[1:] == lines
    assert any("`pvepassthru sriov apply` only" in note for note in shape["notes"])
    assert not host.exists(FILE)
    assert run(host, "files", "--write") == 0
    assert host.text(FILE) == shape["text"].strip()
    assert "doctor --undo" in capsys.readouterr().out
    assert run(host, "files", "--write") == 0
    assert "nothing to change" in capsys.readouterr().out
    assert main(["--root", host.root, "doctor", "--undo"]) == 0
    assert not host.exists(FILE)


@pytest.mark.parametrize(
    "driver,expected",
    [
        ("igb", "in place of these lines modprobe.d can have `options nvme max_vfs=3`"),
        ("xe", "the driver needs `options nvme max_vfs=3` as well"),
        ("bnxt_en", "makes VFs only while its interface is up"),
        ("nvidia", "only /usr/lib/nvidia/sriov-manage makes VFs of the driver nvme"),
    ],
)
def test_what_the_file_cannot_hold(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], driver: str, expected: str
) -> None:
    monkeypatch.setitem(sriov_drivers.DRIVERS, "nvme", sriov_drivers.DRIVERS[driver])
    policy(host, 3)
    assert run(host, "files", "--json") == 0
    shape = printed(capsys)
    assert any(expected in note for note in shape["notes"]), shape
    assert (shape["text"] == "") == (driver == "nvidia")
