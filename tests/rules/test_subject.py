# SPDX-License-Identifier: Apache-2.0
"""What rules say of VMs that run, of several entries together, and to whom."""

from __future__ import annotations

import os
import re
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.host.host import Host
from pvepassthru.model.errors import InputError, NotFoundError
from pvepassthru.model.rom import LARGEST
from pvepassthru.rules import catalogue, gate
from pvepassthru.rules import subject as subjects
from tests import rom_images, tree
from tests.host.machine import memory_folder, unprivileged
from tests.rules.example import Tree

if TYPE_CHECKING:
    from pathlib import Path

    from pvepassthru.model.finding import Finding

TYPES = {"nvidia-63": {"available": "0"}, "nvidia-65": {"available": "1"}}
UUID = "00000000-0000-0000-0000-000000000{}"


def _host(instances: dict[str, str] | None = None, devices: dict[str, Any] | None = None) -> dict[str, Any]:
    plain = {"vendor": "0x10de", "device": "0x1db4", "class": "0x030200"}
    parent = {**plain, "iommu_group": 50, "driver": "nvidia", "mdev": {"types": TYPES, "instances": instances or {}}}
    return {
        "devices": {
            "0000:02:00.0": {**plain, "device": "0x2204", "iommu_group": 4},
            "0000:41:00.0": parent,
            "0000:41:00.1": {**plain, "iommu_group": 50},
            "0000:a1:00.4": {
                **plain,
                "device": "0x25b6",
                "iommu_group": 61,
                "nvidia": {"creatable": [], "current": "35"},
            },
            **(devices or {}),
        }
    }


def _judge(root: Path | str, vmid: int = 100, *, pending: bool = True, gate_only: bool = False) -> list[Finding]:
    judge = gate.findings if gate_only else catalogue.findings
    return judge(subjects.load(Host(str(root)), vmid, pending=pending))


def test_a_running_vm_is_judged_clean(tmp_path: Path) -> None:
    """Its own instance, reservation and vGPU type are no reason to refuse it, though nothing else is left."""
    config = "hostpci0: 41:00.0,mdev=nvidia-63\nhostpci1: 02:00.0\nhostpci2: a1:00.4,mdev=nvidia-35\n"
    reservations = "0000:02:00.0 100 pid:42\n0000:a1:00.4 100 pid:42\n"
    host = _host({UUID.format(100): "nvidia-63"})
    tree.build(tmp_path, host, configs={100: config}, reservations=reservations, running={100: 42})
    assert _judge(tmp_path) == []


def test_no_instance_left_names_who_has_them(tmp_path: Path) -> None:
    foreign = "c0ffee00-1111-2222-3333-444455556666"
    host = _host({UUID.format(101): "nvidia-63", UUID.format(102): "nvidia-63", foreign: "nvidia-63"})
    tree.build(tmp_path, host, configs={100: "hostpci0: 41:00.0,mdev=nvidia-63\n"})
    (finding,) = _judge(tmp_path)
    assert finding.code == "PVP212"
    assert "3 in use (VM 101, 102 and uuid c0ffee00-1111-2222-3333-444455556666)" in finding.message
    assert "nvidia-65" in finding.hint


@pytest.mark.parametrize(
    "running, journals, hint",
    [
        ({101: 41, 102: 42}, (), "stop a VM that uses one, or use a mapping with more devices"),
        ({101: 41}, (102,), "VM 102 does not run: pvepassthru recover gives back what it left; stop a VM that uses"),
        ({}, (), "VM 101, 102 do not run: pvepassthru mdev list shows what they left; use a mapping with more devices"),
    ],
)
def test_a_vm_that_does_not_run_is_not_to_be_stopped(
    running: dict[int, int], journals: tuple[int, ...], hint: str, tmp_path: Path
) -> None:
    host = _host({UUID.format(101): "nvidia-63", UUID.format(102): "nvidia-63"})
    tree.build(tmp_path, host, configs={100: "hostpci0: 41:00.0,mdev=nvidia-63\n"}, running=running)
    for vmid in journals:
        tree.put(tmp_path, f"run/pvepassthru/{vmid}.journal")
    (finding,) = _judge(tmp_path)
    assert finding.code == "PVP212"
    assert finding.hint.startswith(hint)
    assert finding.hint.endswith("use a mapping with more devices; still to be had on 0000:41:00.0: nvidia-65")


def test_what_was_made_by_hand_is_to_be_removed(tmp_path: Path) -> None:
    """No VM can be stopped for it."""
    foreign = ["c0ffee00-1111-2222-3333-444455556666", "c0ffee01-1111-2222-3333-444455556666"]
    host = _host(dict.fromkeys(foreign[:1], "nvidia-63"))
    tree.build(tmp_path, host, configs={100: "hostpci0: 41:00.0,mdev=nvidia-63\n"})
    (finding,) = _judge(tmp_path)
    assert finding.code == "PVP212"
    assert finding.hint.startswith(
        f"pvepassthru mdev remove {foreign[0]} removes what no VM owns; use a mapping with more devices"
    )
    host = _host(dict.fromkeys(foreign, "nvidia-63"))
    tree.build(tmp_path / "two", host, configs={100: "hostpci0: 41:00.0,mdev=nvidia-63\n"})
    (finding,) = _judge(tmp_path / "two")
    assert finding.hint.startswith(f"pvepassthru mdev remove {foreign[0]} removes one of 2 that no VM owns; use")


def test_what_is_left_on_all_parents(tmp_path: Path) -> None:
    host = _host()
    card = host["devices"]["0000:41:00.0"]
    full = {**TYPES, "nvidia-66": {"available": "2"}}
    host["devices"]["0000:42:00.0"] = {**card, "iommu_group": 51, "mdev": {"types": full}}
    ids = "id={}:{}".format(*(card[name].removeprefix("0x") for name in ("vendor", "device")))
    mapping = "p4\n\tmdev 1\n" + "".join(
        f"\tmap {ids},iommugroup={group},node=pve,path=0000:{bus}:00.0\n" for bus, group in ((41, 50), (42, 51))
    )
    tree.build(tmp_path, host, configs={100: "hostpci0: mapping=p4,mdev=nvidia-63\n"}, mapping=mapping)
    found = [finding for finding in _judge(tmp_path) if finding.code == "PVP212"]
    assert "still to be had on 0000:41:00.0: nvidia-65; on 0000:42:00.0: nvidia-65, nvidia-66" in found[0].hint


def test_entries_of_one_vm_together_need_more_than_there_is(tmp_path: Path) -> None:
    config = "hostpci0: 41:00.0,mdev=nvidia-65\nhostpci1: 41:00.0,mdev=nvidia-65\n"
    tree.build(tmp_path, _host(), configs={100: config})
    (finding,) = _judge(tmp_path, gate_only=True)
    assert (finding.code, finding.where) == ("PVP212", "/etc/pve/qemu-server/100.conf:2 hostpci1")
    assert "earlier entries of this VM take 1" in finding.message


def test_an_instance_that_the_kernel_still_creates_is_no_error(tmp_path: Path) -> None:
    host = _host()
    host["devices"]["0000:41:00.0"]["mdev"]["instances"] = {UUID.format(100): None}
    tree.build(tmp_path, host, configs={100: "hostpci0: 41:00.0,mdev=nvidia-63\n"})
    assert _judge(tmp_path) == []


def test_own_instance_on_another_parent(tmp_path: Path) -> None:
    other = {"vendor": "0x10de", "device": "0x1db4", "iommu_group": 51, "mdev": {"types": TYPES}}
    host = _host({UUID.format(100): "nvidia-65"}, {"0000:42:00.0": other})
    tree.build(tmp_path, host, configs={100: "hostpci0: 42:00.0,mdev=nvidia-65\n"})
    (finding,) = _judge(tmp_path)
    assert finding.code == "PVP213"
    assert "is there on 0000:41:00.0, not on 0000:42:00.0" in finding.message
    tree.build(tmp_path / "running", host, configs={100: "hostpci0: 42:00.0,mdev=nvidia-65\n"}, running={100: 4711})
    assert _judge(tmp_path / "running") == [], "PVE removes it when the VM stops"


def test_a_parent_of_other_vms_instances_is_in_use(tmp_path: Path) -> None:
    """Passing the parent whole, or a device of its group, would take the instances away from VM 200."""
    host = _host({UUID.format(200): "nvidia-63"})
    for selector in ("41:00.0", "41:00.1"):
        tree.build(tmp_path / selector, host, configs={100: f"hostpci0: {selector}\n"}, running={200: 42})
        (finding,) = _judge(tmp_path / selector)
        assert finding.code == "PVP423"
        assert "VM 200 has an mdev nvidia-63 on it" in finding.message
        tree.stop(tmp_path / selector, 200)
        assert _judge(tmp_path / selector) == []


def _vf(number: int, current: str, *offers: str) -> dict[str, Any]:
    creatable = [{"id": offer, "name": f"type {offer}"} for offer in offers]
    plain = {"vendor": "0x10de", "device": "0x25b6", "class": "0x030200", "physfn": "0000:a1:00.0"}
    return {**plain, "iommu_group": number, "nvidia": {"creatable": creatable, "current": current}}


def _vgpu_mapping(*functions: int) -> str:
    maps = (f"\tmap node=pve,path=0000:a1:00.{number},id=10de:25b6,iommugroup={number}\n" for number in functions)
    return "gpu\n\tmdev 1\n" + "".join(maps)


def test_a_full_gpu_has_no_free_device(tmp_path: Path) -> None:
    """VM 200 has the type that fills the GPU on one VF of the mapping; the other one is free and offers nothing."""
    host = _host(devices={"0000:a1:00.4": _vf(4, "0"), "0000:a1:00.5": _vf(5, "35")})
    for order in ((4, 5), (5, 4)):
        tree.build(
            tmp_path,
            host,
            configs={100: "hostpci0: mapping=gpu,mdev=nvidia-35\n"},
            mapping=_vgpu_mapping(*order),
            reservations="0000:a1:00.5 200 pid:42\n",
            running={200: 42},
        )
        (finding,) = _judge(tmp_path)
        assert (finding.code, finding.severity) == ("PVP422", "error")
        assert "0000:a1:00.4 does not offer vGPU type 35 now" in finding.message
        assert "0000:a1:00.5: VM 200 is running with it (process 42)" in finding.message


def test_an_earlier_entry_and_another_vm_leave_no_device(tmp_path: Path) -> None:
    host = _host(devices={"0000:a1:00.4": _vf(4, "0", "35"), "0000:a1:00.5": _vf(5, "35")})
    tree.build(
        tmp_path,
        host,
        configs={100: "hostpci0: mapping=gpu,mdev=nvidia-35\nhostpci1: mapping=gpu,mdev=nvidia-35\n"},
        mapping=_vgpu_mapping(4, 5),
        reservations="0000:a1:00.5 200 pid:42\n",
        running={200: 42},
    )
    (finding,) = _judge(tmp_path)
    assert (finding.code, finding.where) == ("PVP422", "/etc/pve/qemu-server/100.conf:2 hostpci1")
    assert "0000:a1:00.4: hostpci0 takes it, 0000:a1:00.5: VM 200 is running with it" in finding.message


def test_a_type_that_nobody_offers_is_told_once(tmp_path: Path) -> None:
    host = _host(devices={"0000:a1:00.4": _vf(4, "0", "35"), "0000:a1:00.5": _vf(5, "0")})
    tree.build(
        tmp_path,
        host,
        configs={100: "hostpci0: mapping=gpu,mdev=nvidia-99\n"},
        mapping=_vgpu_mapping(4, 5),
        reservations="0000:a1:00.5 200 pid:42\n",
        running={200: 42},
    )
    assert [finding.code for finding in _judge(tmp_path)] == ["PVP222"]


def test_a_mapping_that_is_all_taken_is_told_once(tmp_path: Path) -> None:
    """And nothing is said of the IOMMU group of a device that the VM would not get."""
    plain = {"vendor": "0x10de", "device": "0x1db4", "class": "0x030200"}
    host = _host(devices={f"0000:03:00.{number}": {**plain, "iommu_group": 9} for number in (0, 1)})
    maps = "".join(f"\tmap node=pve,path=0000:03:00.{number},id=10de:1db4,iommugroup=9\n" for number in (0, 1))
    tree.build(
        tmp_path,
        host,
        configs={100: "hostpci0: mapping=two\n"},
        mapping=f"two\n{maps}",
        reservations="0000:03:00.0 200 pid:42\n0000:03:00.1 200 pid:42\n",
        running={200: 42},
    )
    assert [finding.code for finding in _judge(tmp_path)] == ["PVP422"]


def test_a_start_of_another_vm_is_told_in_seconds_left(tmp_path: Path) -> None:
    reserved = f"0000:02:00.0 200 time:{int(time.time()) + 30}\n"
    tree.build(tmp_path, _host(), configs={100: "hostpci0: 02:00.0\n"}, reservations=reserved)
    (finding,) = _judge(tmp_path)
    assert finding.code == "PVP421"
    assert re.fullmatch(
        r"0000:02:00\.0 is not free: VM 200 has reserved it for a start, for (28|29|30) s more", finding.message
    )


def _held(root: Path, node: str, config: str, *, instances: dict[str, str] | None = None) -> list[Finding]:
    """Judge VM 100 while process 4242 has a device node open."""
    host = _host(instances)
    host["devices"]["0000:41:00.2"] = {"vendor": "0x10de", "device": "0x1db4", "iommu_group": 50, "pci_bus": True}
    tree.build(root, host, configs={100: config})
    tree.hold(root, 4242, node)
    return _judge(root)


@pytest.mark.parametrize("config", ["hostpci0: 02:00.0\n", "hostpci0: 02:00.0,driver=keep\n"])
def test_a_process_has_a_device_open_that_is_passed_whole(config: str, tmp_path: Path) -> None:
    (finding,) = _held(tmp_path, "/dev/vfio/4", config)
    assert (finding.code, finding.severity) == ("PVP424", "error")
    assert finding.message == "0000:02:00.0 is in use: process 4242 (holder) has it open (/dev/vfio/4)"


def test_a_process_has_a_cdev_of_the_group_open(tmp_path: Path) -> None:
    """Of 41:00.1, which PVE binds with 41:00.0; but with driver=keep it binds nothing."""
    tree.folder(tmp_path, "sys/bus/pci/devices/0000:41:00.1/vfio-dev/vfio3")
    (finding,) = _held(tmp_path, "/dev/vfio/devices/vfio3", "hostpci0: 41:00.0\n")
    assert finding.code == "PVP424"
    assert finding.message.startswith("0000:41:00.1 is in use: process 4242 (holder) has it open")
    tree.put(tmp_path, "etc/pve/nodes/pve/qemu-server/100.conf", "hostpci0: 41:00.0,driver=keep\n")
    assert _judge(tmp_path, gate_only=True) == []


@pytest.mark.parametrize("listed", [True, False])
def test_a_process_has_a_foreign_instance_open_on_a_parent_that_is_passed_whole(
    listed: bool,  # noqa: FBT001 - a parameter of the table
    tmp_path: Path,
) -> None:
    """PVE's unbind would wait for it for ever; so too when /sys/bus/mdev lists it no more, as its removal waits."""
    foreign = "c0ffee00-1111-2222-3333-444455556666"
    tree.link(tmp_path, f"sys/bus/pci/devices/0000:41:00.0/{foreign}/iommu_group", "sys/kernel/iommu_groups/77")
    config = "hostpci0: 41:00.1\nhostpci1: 02:00.0\n"
    (finding,) = _held(tmp_path, "/dev/vfio/77", config, instances={foreign: "nvidia-63"})
    if not listed:
        os.unlink(os.path.join(tmp_path, f"sys/bus/mdev/devices/{foreign}"))
        (finding,) = _judge(tmp_path)
    assert (finding.code, finding.where) == ("PVP424", "/etc/pve/qemu-server/100.conf:1 hostpci0")
    assert f"mdev {foreign} on 0000:41:00.0 is in use: process 4242 (holder) has it open" in finding.message


def test_what_is_not_passed_whole_may_be_open(tmp_path: Path) -> None:
    """The hook itself sees whether this VM's instance or vGPU is open (lifecycle/mdev.py, vgpu.py)."""
    config = "hostpci0: 41:00.0,mdev=nvidia-65\nhostpci1: a1:00.4,mdev=nvidia-35\n"
    for node in ("/dev/vfio/50", "/dev/vfio/61", "/dev/vfio/99"):
        assert _held(tmp_path / node[-2:], node, config) == []


def test_own_qemu_and_what_is_in_its_scope_may_have_the_device_open(tmp_path: Path) -> None:
    for pid, place in ((42, "run/qemu-server/100.pid"), (43, "sys/fs/cgroup/qemu.slice/100.scope/cgroup.procs")):
        tree.build(tmp_path, _host(), configs={100: "hostpci0: 02:00.0\n"}, running={100: 42})
        tree.hold(tmp_path, pid, "/dev/vfio/4")
        tree.put(tmp_path, place, f"{pid}\n")
        assert _judge(tmp_path) == []
    tree.put(tmp_path, "sys/fs/cgroup/qemu.slice/100.scope/cgroup.procs", "")
    assert [finding.code for finding in _judge(tmp_path)] == ["PVP424"]


def test_a_vm_that_has_the_device_open_is_told_once(tmp_path: Path) -> None:
    """By PVE's reservation, in the group too, or by the UUID of its instance."""
    host = _host({UUID.format(200): "nvidia-63"})
    for config, reserved, node, code in (
        ("hostpci0: 02:00.0\n", "0000:02:00.0 200 pid:42\n", "/dev/vfio/4", "PVP420"),
        ("hostpci0: 02:00.0,driver=keep\n", "0000:02:00.0 200 pid:42\n", "/dev/vfio/4", "PVP420"),
        ("hostpci0: 41:00.1\n", "", "/dev/vfio/50", "PVP423"),
    ):
        tree.build(tmp_path, host, configs={100: config}, reservations=reserved, running={200: 42})
        tree.hold(tmp_path, 42, node)
        assert [finding.code for finding in _judge(tmp_path)] == [code]


def test_processes_that_cannot_be_listed(tmp_path: Path) -> None:
    """Nobody can tell then: that is told, and is no reason to refuse the start."""
    tree.build(tmp_path, _host(), configs={100: "hostpci0: 02:00.0\n"})
    host = Host(str(tmp_path))
    os.symlink("proc", tmp_path / "proc")
    (finding,) = catalogue.findings(subjects.load(host, 100, pending=True))
    assert (finding.code, finding.severity, finding.where) == ("PVP104", "warning", "/proc")


def test_one_look_at_all_processes_serves_all_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And none is taken where no device is passed whole: the hook waits for it."""
    looks: list[str] = []
    listdir = os.listdir

    def look(path: str) -> list[str]:
        looks.append(path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", look)
    proc = str(tmp_path / "proc")
    for config, expected in (("hostpci0: 02:00.0\nhostpci1: 41:00\n", 1), ("hostpci0: 41:00.0,mdev=nvidia-65\n", 0)):
        tree.build(tmp_path, _host(), configs={100: config})
        looks.clear()
        around = subjects.Surroundings(Host(str(tmp_path)))
        for _ in range(2):  # as validate does with several VMs
            catalogue.findings(subjects.load(around.host, 100, pending=True, around=around))
        assert looks.count(proc) == expected


def test_a_zombie_does_not_run(tmp_path: Path) -> None:
    reserved = "0000:02:00.0 200 pid:42\n"
    tree.build(tmp_path, _host(), configs={100: "hostpci0: 02:00.0\n"}, reservations=reserved, running={200: 42})
    tree.put(tmp_path, "proc/42/stat", "42 (kvm) S 1 1")
    assert [finding.code for finding in _judge(tmp_path)] == ["PVP420"]
    tree.put(tmp_path, "proc/42/stat", "42 (k) v m) Z 1 1")
    assert _judge(tmp_path) == []


def test_pending_changes_count_only_when_asked_for(tmp_path: Path) -> None:
    tree.build(tmp_path, _host(), configs={100: "hostpci0: 02:00.0\n[PENDING]\nhostpci0: 09:00.0\n"})
    assert [finding.code for finding in _judge(tmp_path)] == ["PVP201"]
    assert _judge(tmp_path, pending=False) == []


def test_the_gate_only_warns_of_what_does_not_stop_a_start(tmp_path: Path) -> None:
    config = "hostpci0: 41:00.0,mdev=nvidia-65\nhostpci1: 41:00.0\nhostpci2: 09:00.0\n"
    tree.build(tmp_path, _host(), configs={100: config})
    by_code = {finding.code: finding.severity for finding in _judge(tmp_path, gate_only=True)}
    assert by_code == {"PVP201": "error", "PVP215": "warning"}


def test_a_template_is_left_alone(tmp_path: Path) -> None:
    config = "template: 1\nhostpci0: 09:00.0,romfile=absent.rom\nhostpci1: mapping=none\n"
    tree.build(tmp_path, _host(), configs={100: config})
    assert _judge(tmp_path, gate_only=True) == []


@pytest.mark.parametrize(
    "config, code, hint",
    [
        ("hostpci0: 02:00.0,pcie\n", "PVP303", "write pcie=1"),
        ("hostpci0: 02:00.0,xvga=1\n", "PVP305", "write x-vga=1 if that is meant"),
        ("hostpci0: 02:00.0,pice=1\n", "PVP305", "write pcie=1 if that is meant"),
        ("hostpci0: 02:00.0, rombar=0\n", "PVP305", "write rombar=0: a blank before or after a key belongs to it"),
        ("hostpci0: 0A:00.0\n", "PVP301", "write host=0a:00.0"),
        ("hostpci0: 02:00.0,vendor-id=10de\n", "PVP301", "write vendor-id=0x10de"),
        ("hostpci0: 02:00.0,driver=KEEP\n", "PVP307", "write driver=keep"),
        ("hostpci0: 02:00.0,rombar=\n", "PVP304", "give a value or remove rombar="),
        ("hostpci0: 02:00.7\n", "PVP201", "that slot has 0000:02:00.0"),
        ("hostpci0: e1:00.0\n", "PVP201", "write it with its domain: 10000:e1:00.0"),
        ("machine: Q35\nhostpci0: 02:00.0,pcie=1\n", "PVP310", "(line 1): correct it, such as machine: q35"),
    ],
)
def test_hints_give_the_corrected_text(config: str, code: str, hint: str, tmp_path: Path) -> None:
    vmd = {"vendor": "0x8086", "device": "0x0a54", "iommu_group": 9}
    tree.build(tmp_path, _host(devices={"10000:e1:00.0": vmd}), configs={100: config})
    assert any(finding.code == code and hint in finding.hint for finding in _judge(tmp_path)), _judge(tmp_path)


@pytest.mark.parametrize(
    "line, reasons, right",
    [
        (" hostpci0: 02:00.0,pcie=1", "it starts with a blank", "hostpci0: 02:00.0,pcie=1"),
        ("\thostpci12: 02:00", "it starts with a blank", "hostpci12: 02:00"),
        (
            "\ufeffhostpci0: 02:00.0",
            "a byte order mark stands before it, without which the file must be saved",
            "hostpci0: 02:00.0",
        ),
        ("HostPCI0: 02:00.0", "its key has capital letters", "hostpci0: 02:00.0"),
        ("hostpci0 : 02:00.0", "a blank stands before the colon", "hostpci0: 02:00.0"),
        ("hostpci0=02:00.0,pcie=1", "it has = instead of the colon", "hostpci0: 02:00.0,pcie=1"),
        ("hostpci0 = 02:00.0", "it has = instead of the colon", "hostpci0: 02:00.0"),
        ("hostpci0 02:00.0", "no colon follows its key", "hostpci0: 02:00.0"),
        ("hostpci0 host=02:00.0", "no colon follows its key", "hostpci0: host=02:00.0"),
        ("hostpci0:", "it has no value", "a value, such as hostpci0: 01:00.0"),
        ("host pci0: 02:00.0", "its key is not hostpci0", "hostpci0: 02:00.0"),
        ("hostpci 3: 02:00.0", "its key is not hostpci3", "hostpci3: 02:00.0"),
        ("hostpci0x: 02:00.0", "its key is not hostpci0", "hostpci0: 02:00.0"),
        ("HOSTPCI: 02:00.0", "its key has capital letters, its key is not hostpciN", "hostpciN: 02:00.0"),
        ("  Hostpci99=", None, "a value, such as hostpciN: 01:00.0"),
        ("hostpci0\xa0: 02:00.0", "its key is not hostpci0", "hostpci0: 02:00.0"),
        ("hostpci0\u0130: 02:00.0", "its key is not hostpci0", "hostpci0: 02:00.0"),
        (" hostpci0: \x1b[31m", "it starts with a blank", "hostpci0: \\x1b[31m"),
    ],
)
def test_what_makes_pve_pass_over_a_line_is_told(line: str, reasons: str | None, right: str, tmp_path: Path) -> None:
    tree.build(tmp_path, _host(), configs={100: f"{line}\nname: a\n"})
    (finding,) = _judge(tmp_path)
    assert finding.code == "PVP309"
    told = reasons or "it starts with a blank, its key has capital letters, its key is not hostpciN, it has no value"
    assert finding.message.endswith(f", though it looks like a hostpci entry: {told}")
    assert finding.hint == f"write {right}, or put # before it"


def test_all_problems_are_told_not_only_the_first(tmp_path: Path) -> None:
    config = "hostpci0: 09:00.0,pcie=1\nhostpci1: mapping=none\nhostpci2: zz\nhostpci3: 02:00.0;02:00.0\n"
    tree.build(tmp_path, _host(), configs={100: config})
    assert {finding.code for finding in _judge(tmp_path)} == {"PVP201", "PVP202", "PVP301", "PVP310", "PVP401"}


def test_romfile_links_are_followed(tmp_path: Path) -> None:
    tree.build(tmp_path, _host(), configs={100: "hostpci0: 02:00.0,romfile=link.rom\n"})
    link = os.path.join(tmp_path, "usr/share/kvm/link.rom")
    tree.put(tmp_path, "usr/share/kvm/real.rom", rom_images.image(ids=(0x10DE, 0x1DB4), devices=(0x2204,)))
    for target, codes in (
        ("real.rom", []),
        ("../../../etc/hostname", ["PVP230"]),
        (os.path.abspath(__file__), ["PVP230"]),
        ("gone.rom", ["PVP231"]),
        ("link.rom", ["PVP232"]),
    ):
        os.symlink(target, link)
        assert [finding.code for finding in _judge(tmp_path)] == codes, target
        os.unlink(link)


def test_a_rom_file_is_looked_at_once_and_not_read_to_its_end(tmp_path: Path) -> None:
    """By all rules of the hook on it, for all entries and VMs that are judged together."""

    class Counting(Host):
        reads = 0

        def read(self, path: str, limit: int = 1 << 26) -> bytes:
            if path.endswith(".rom"):
                self.reads += 1
                assert limit in {0, LARGEST}
            return super().read(path, limit)

    config = "hostpci0: 02:00.0,romfile=big.rom\nhostpci1: 41:00.0,romfile=big.rom\n"
    tree.build(tmp_path, _host(), configs={100: config, 101: config})
    tree.put(tmp_path, "usr/share/kvm/big.rom", b"U\xaa" * (1 << 20))
    host = Counting(str(tmp_path))
    around = subjects.Surroundings(host)
    for vmid in (100, 101):
        assert gate.findings(subjects.load(host, vmid, pending=True, around=around)) == []
    assert host.reads == 1
    for vmid in (100, 101):
        catalogue.findings(subjects.load(host, vmid, pending=True, around=around))
    assert host.reads == 2  # and by the other rules once more, to their end


@pytest.mark.parametrize(
    "path, text, mode, message",
    [
        ("etc/pvepassthru.yaml", "vms: {x: {}}\n", 0o644, "vms has x, which is no VMID"),
        (
            "etc/pve/pvepassthru.yaml",
            "defaults: [\n",
            0o644,
            "the policy /etc/pve/pvepassthru.yaml:2 is not valid YAML",
        ),
        ("etc/pvepassthru.yaml", "defaults: {gate: off}\n", 0o666, "can be written by others than root"),
    ],
)
def test_a_policy_that_the_hook_refuses_is_told(path: str, text: str, mode: int, message: str, tmp_path: Path) -> None:
    """Of a VM that has a device to pass through, and not by the gate: the hook has read the policy before it."""
    tree.build(tmp_path, _host(), configs={100: "hostpci0: 02:00.0\n", 101: "name: a\n"})
    os.chmod(tree.put(tmp_path, path, text), mode)
    (finding,) = _judge(tmp_path)
    assert (finding.code, finding.severity, finding.where) == ("PVP105", "error", f"/{path}")
    assert message in finding.message
    assert finding.hint
    assert _judge(tmp_path, 101) == []
    assert _judge(tmp_path, gate_only=True) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: becomes another user, who may not read root's policy")
def test_a_policy_that_only_the_hook_can_read() -> None:
    with memory_folder() as folder:
        os.chmod(folder, 0o755)
        tree.build(folder, _host(), configs={100: "hostpci0: 02:00.0\n"})
        os.chmod(tree.put(folder, "etc/pvepassthru.yaml", "defaults: {gate: enforce}\n"), 0o600)
        with unprivileged():
            (finding,) = _judge(folder)
        assert (finding.code, finding.where) == ("PVP104", "/etc/pvepassthru.yaml")
        assert _judge(folder) == []


def test_unknown_vm(tmp_path: Path) -> None:
    tree.build(tmp_path, _host(), configs={100: ""})
    tree.put(tmp_path, "etc/pve/nodes/other/qemu-server/105.conf", "")
    with pytest.raises(NotFoundError, match=r"there is no VM 105 on node pve.*it is on node other"):
        _judge(tmp_path, 105)


def test_config_that_cannot_be_read(tmp_path: Path) -> None:
    tree.build(tmp_path, _host(), configs={100: ""})
    tree.folder(tmp_path, "etc/pve/nodes/pve/qemu-server/101.conf")
    os.symlink("102.conf", os.path.join(tmp_path, "etc/pve/qemu-server/102.conf"))
    with pytest.raises(InputError, match=r"cannot read the config of VM 101.*Is a directory"):
        _judge(tmp_path, 101)
    with pytest.raises(InputError, match=r"cannot read the config of VM 102.*Too many levels of symbolic links"):
        _judge(tmp_path, 102)


def test_a_config_elsewhere(tmp_path: Path) -> None:
    tree.build(tmp_path, _host())
    path = "/etc/pve/nodes/source/qemu-server/100.conf"
    tree.put(tmp_path, path, "hostpci0: 09:00.0\n")
    subject = subjects.load(Host(str(tmp_path)), 100, pending=False, config_path=path)
    assert [finding.where for finding in catalogue.findings(subject)] == [f"{path}:1 hostpci0"]


def test_files_that_vanish_between_listing_and_reading(tmp_path: Path) -> None:
    """A device that is unplugged while it is looked at: no traceback, and the device is told of."""

    class Vanishing(Host):
        def read(self, path: str, limit: int = 1 << 26) -> bytes:
            if "/sys/bus/pci/devices/" in path:
                raise FileNotFoundError(2, "No such file or directory", path)
            return super().read(path, limit)

        def link(self, path: str) -> str | None:
            return None if "/sys/bus/pci/devices/" in path else super().link(path)

    tree.build(tmp_path, _host(), configs={100: "hostpci0: 02:00.0\nhostpci1: 41:00.0,mdev=nvidia-63\n"})
    found = catalogue.findings(subjects.load(Vanishing(str(tmp_path)), 100, pending=True))
    assert {finding.code for finding in found} == {"PVP204"}


def test_what_a_copy_of_a_host_lacks_is_no_evidence(tmp_path: Path) -> None:
    """Without /sys/class/iommu and the folder of drivers nobody can tell, and nothing is said."""
    tree.build(tmp_path, _host(), configs={100: "hostpci0: 02:00.0\n"})
    shutil.rmtree(tmp_path / "sys/class/iommu")
    shutil.rmtree(tmp_path / "sys/bus/pci/drivers")
    assert _judge(tmp_path) == []


def test_kept_driver_with_mdev_says_what_happens(tmp_path: Path) -> None:
    """The hook creates the mdev all the same, so that nothing needs to be removed."""
    tree.build(tmp_path, _host(), configs={100: "hostpci0: 41:00.0,mdev=nvidia-65,driver=keep\n"})
    (finding,) = _judge(tmp_path)
    assert (finding.code, finding.severity) == ("PVP214", "warning")
    assert "PVE itself creates no mediated device nvidia-65: the hook does" in finding.message
    assert "without the hook the start fails" in finding.message
    assert "remove" not in finding.hint


def test_a_pf_whose_vfs_have_the_types(tmp_path: Path) -> None:
    """There the driver is loaded, and the VFs are what is to be named."""

    def change(root: str) -> None:
        for number, vf in enumerate(("0000:a1:00.4", "0000:a1:00.5")):
            tree.link(root, f"{tree.DEVICES}/0000:01:00.0/virtfn{number}", f"{tree.DEVICES}/{vf}")

    found = Tree("hostpci0: 01:00.0,mdev=nvidia-35\n", change=change).findings(tmp_path)
    assert [(one.code, one.hint) for one in found] == [
        ("PVP210", "name one of its virtual functions: 0000:a1:00.4, 0000:a1:00.5")
    ]
