# SPDX-License-Identifier: Apache-2.0
"""What looks left behind: what no journal names and no running VM has."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.host.host import Host
from pvepassthru.host.inventory import DEVICES
from pvepassthru.lifecycle.orphans import Orphan, orphans
from tests import tree

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PARENT, VF = "0000:41:00.0", "0000:a1:00.4"
UUID = "0000000{}-0000-0000-0000-000000000{}"
FOREIGN = "c0ffee00-1111-2222-3333-444455556666"
LATER = int(time.time()) + 3600


def host(
    root: Path, instances: Iterable[str] = (), current: str = "0", *, reservations: str = "", running: bool = False
) -> Host:
    types = {"nvidia-63": {"available": "1"}}
    devices: dict[str, Any] = {
        PARENT: {"iommu_group": 50, "mdev": {"types": types, "instances": dict.fromkeys(instances, "nvidia-63")}},
        VF: {"iommu_group": 61, "nvidia": {"creatable": [], "current": current}},
    }
    pids = {100: 42} if running else {}
    return Host(tree.build(root, {"devices": devices}, reservations=reservations, running=pids))


def journal(root: Path, vmid: int, *targets: str, text: str = "") -> None:
    """A VM's journal with a step for each target."""
    lines = [json.dumps({"v": 1, "vmid": vmid})]
    for number, target in enumerate(targets, 1):
        lines.append(json.dumps({"n": number, "do": "mdev", "target": target, "before": None, "after": "nvidia-63"}))
    path = tree.put(root, f"run/pvepassthru/{vmid}.journal", "\n".join(lines) + "\n" + text)
    os.chmod(os.path.dirname(path), 0o700)
    os.chmod(path, 0o600)


def test_nothing(tmp_path: Path) -> None:
    assert orphans(host(tmp_path)) == []
    assert orphans(Host(str(tmp_path / "empty"))) == []


def test_instances(tmp_path: Path) -> None:
    found = orphans(host(tmp_path, [UUID.format(0, 100), UUID.format(0, 101), FOREIGN], running=True))
    of_101, foreign = UUID.format(0, 101), f"no VM's; if nobody wants it: pvepassthru mdev remove {FOREIGN}"
    assert found == [
        Orphan("mdev", of_101, f"mdev {of_101} (nvidia-63 on {PARENT})", 101, "pvepassthru release 101"),
        Orphan("mdev", FOREIGN, f"mdev {FOREIGN} (nvidia-63 on {PARENT})", None, foreign),
    ]


def test_a_second_instance_that_the_journal_does_not_name(tmp_path: Path) -> None:
    """A VM's having a journal says nothing of what is not in it."""
    made = host(tmp_path, [UUID.format(0, 100), UUID.format(1, 100)])
    journal(tmp_path, 100, f"{PARENT}/{UUID.format(0, 100)}")
    assert [one.what.split()[1] for one in orphans(made)] == [UUID.format(1, 100)]


@pytest.mark.parametrize("text", ["junk\n{}\n", '{"v": 99}\n'], ids=["damaged", "of a newer version"])
def test_what_may_be_in_a_bad_journal_is_no_orphan(text: str, tmp_path: Path) -> None:
    made = host(tmp_path, [UUID.format(0, 100)], "35", reservations=f"{VF} 100 pid:42\n")
    journal(tmp_path, 100, text=text)
    assert orphans(made) == []


def test_vgpu_type_that_nobody_reserved(tmp_path: Path) -> None:
    hint = f"if no VM is starting with it: echo 0 > {DEVICES}/{VF}/nvidia/current_vgpu_type"
    assert orphans(host(tmp_path, current="35")) == [Orphan("vgpu", VF, f"vGPU type 35 on {VF}", None, hint)]


def test_vgpu_type_of_a_dead_vm(tmp_path: Path) -> None:
    """Its reservation is stale as well, which PVE sees to."""
    found = orphans(host(tmp_path, current="35", reservations=f"{VF} 100 pid:42\n"))
    assert [(one.what, one.vmid) for one in found] == [
        (f"vGPU type 35 on {VF}", 100),
        (f"stale reservation of {VF} for VM 100 (process 42 is gone)", 100),
    ]
    assert found[1].hint == "PVE takes it over by itself"


@pytest.mark.parametrize("value, running", [("pid:42", True), (f"time:{LATER}", False)], ids=["runs", "starts"])
def test_vgpu_type_that_is_reserved(value: str, running: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    assert orphans(host(tmp_path, current="35", reservations=f"{VF} 100 {value}\n", running=running)) == []


def test_vgpu_type_in_a_journal(tmp_path: Path) -> None:
    made = host(tmp_path, current="35", reservations=f"{VF} 100 time:5\n")
    journal(tmp_path, 100, VF)
    assert orphans(made) == []


def test_reservation_whose_time_is_over(tmp_path: Path) -> None:
    (found,) = orphans(host(tmp_path, reservations=f"{VF} 100 time:5\n"))
    assert found.what == f"stale reservation of {VF} for VM 100 (its time is over)"


def test_unreadable_reservations_are_told(tmp_path: Path) -> None:
    """Without them nobody knows whether a type is used; that is said, and not taken for a left-over."""
    made = host(tmp_path, [FOREIGN], current="35")
    path = made.path("/run/qemu-server/pci-id-reservations")
    os.unlink(path)
    os.mkdir(path)
    _, doubt = orphans(made)
    assert doubt.hint.startswith("not checked: cannot read /run/qemu-server/pci-id-reservations: ")
