# SPDX-License-Identifier: Apache-2.0
"""Rules across VMs, on the cluster's files, versions and functions, where one example is not enough."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.rules import catalogue
from pvepassthru.rules.subject import Surroundings
from tests import tree
from tests.rules.example import SSD, VFS, Tree
from tests.rules.examples import across

if TYPE_CHECKING:
    from pathlib import Path

    from pvepassthru.model.finding import Finding

PLAIN = "hostpci0: 02:00.0\n"
BOOT = "onboot: 1\n"
VFIO: dict[str, dict[str, Any]] = {"0000:02:00.0": {"driver": "nvme-vfio-pci"}}


def _codes(found: list[Finding]) -> list[str]:
    return [finding.code for finding in _mine(found)]


def _mine(found: list[Finding]) -> list[Finding]:
    """What the rules of these modules and of the gate found; others may have advice on such a VM."""
    return [finding for finding in found if not finding.code.startswith(("PVP26", "PVP27", "PVP34", "PVP35", "PVP36"))]


# ---- other VMs


def test_mappings_with_one_device_again_and_again(tmp_path: Path) -> None:
    """Each line is told of once, and the time is in proportion to their number."""
    entry = SSD.partition("\n")[2]
    found = Tree(mapping="one\n" + 6000 * entry + "\ntwo\n" + 6000 * entry).host_findings(tmp_path)
    codes = [finding.code for finding in found]
    assert (codes.count("PVP413"), codes.count("PVP414")) == (6000, 11998)


def test_what_runs_now_is_told_once(tmp_path: Path) -> None:
    held = Tree(PLAIN, others={200: PLAIN}, reservations="0000:02:00.0 200 pid:42\n", running={200: 42})
    assert _codes(held.findings(tmp_path / "a")) == ["PVP420"]
    both = replace(held, config=BOOT + PLAIN, others={200: BOOT + PLAIN})
    assert _codes(both.findings(tmp_path / "b")) == ["PVP420", "PVP425"]


def test_a_slot_holds_its_functions(tmp_path: Path) -> None:
    (finding,) = _mine(Tree("hostpci2: 01:00\n", others={200: "hostpci0: 01:00.1\n"}).findings(tmp_path))
    assert finding.code == "PVP426"
    assert finding.where.endswith("/100.conf:1 hostpci2")
    assert finding.message.startswith("0000:01:00.1 is passed to VM 200 (hostpci0) too")


def test_a_group_is_split_only_where_nothing_is_shared(tmp_path: Path) -> None:
    others = {200: "hostpci0: 01:00\n", 201: "hostpci5: 01:00.1\n"}
    found = _mine(Tree("hostpci0: 01:00.0\n", others=others).findings(tmp_path))
    assert _codes(found) == ["PVP426", "PVP428"]
    assert "0000:01:00.1 to VM 201 (hostpci5)" in found[1].message
    assert "VM 200" not in found[1].message


def test_others_that_cannot_be_read_or_mean_nothing(tmp_path: Path) -> None:
    others = {200: "hostpci0: 02:00.0,\0\nhostpci1: zz\n", 201: "\xff" * 500, 202: "[snap]\n" + PLAIN, 203: ""}
    bad = Tree(PLAIN, others=others, change=lambda root: tree.folder(root, "etc/pve/qemu-server/300.conf"))
    assert bad.findings(tmp_path) == []


@pytest.mark.parametrize(
    "job, told",
    [
        ("all 1\n\tmode snapshot", True),
        ("all 1\n\texclude 7,100", False),
        ("vmid 101", False),
        ("vmid 100\n\tenabled 0", False),
        ("vmid 100\n\tnode pve", True),
        ("vmid 100\n\tnode pve2", False),
        ("pool lab", True),
        ("pool other", False),
    ],
)
def test_backups_that_start_the_vm(job: str, told: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter of the table
    files: dict[str, str | bytes] = {
        "etc/pve/jobs.cfg": f"vzdump: nightly\n\t{job}\n",
        "etc/pve/user.cfg": "pool:lab::100:\npool:other::101:\n",
    }
    (finding,) = _mine(Tree(PLAIN, files=files, others={200: BOOT + PLAIN}).findings(tmp_path / "a"))
    assert finding.code == ("PVP435" if told else "PVP426")
    (finding,) = _mine(Tree(PLAIN, files=files, others={200: PLAIN}).findings(tmp_path / "b"))
    assert finding.code == "PVP426"  # nobody has it then


def test_files_of_the_cluster_that_cannot_be_read(tmp_path: Path) -> None:
    """A finding tells of each that this VM's judgement needed."""

    def change(root: str) -> None:
        tree.folder(root, "etc/pve/jobs.cfg")
        tree.folder(root, "etc/pve/ha/resources.cfg")
        tree.folder(root, "var/lib/dpkg/status")

    config = "machine: pc-q35-9.0\n" + PLAIN
    found = Tree(config, others={200: BOOT + PLAIN}, change=change).findings(tmp_path)
    assert _codes(found) == ["PVP426", "PVP104", "PVP104", "PVP104"]
    assert [finding.where for finding in found[1:]] == [
        *("/etc/pve/ha/resources.cfg", "/etc/pve/jobs.cfg", "/var/lib/dpkg/status")
    ]


# ---- mappings


def test_each_thing_that_drifted_is_told(tmp_path: Path) -> None:
    mapping = SSD.replace("144d:a80a", "144d:a808").replace("iommugroup=4", "iommugroup=7") + "\n" + VFS
    found = Tree(mapping=mapping + "\tmap id=1:2,node=pve\n").host_findings(tmp_path)
    assert _codes(found) == ["PVP410", "PVP412", "PVP412"]
    assert found[1].where == "/etc/pve/mapping/pci.cfg:2 ssd"
    assert "id is 144d:a808, and 0000:02:00.0 has 144d:a80a; node pve" in found[1].message
    assert "iommugroup is 7" in found[2].message


def test_mappings_that_cannot_be_read_are_unknown(tmp_path: Path) -> None:
    host = Tree(change=lambda root: tree.folder(root, "etc/pve/mapping/pci.cfg")).build(tmp_path)
    states = {state.rule.code: state for state in catalogue.host_states(Surroundings(host))}
    assert [states[code].state for code in ("PVP410", "PVP412", "PVP416")] == ["unknown"] * 3
    assert states["PVP411"].state == "findings"


def test_a_slot_and_its_function_in_three_mappings(tmp_path: Path) -> None:
    line = "map id=144d:a80a,iommugroup=4,node=pve,path=0000:02:00"
    mapping = f"aa\n\t{line}\n\nbb\n\t{line}.0\n\ncc\n\t{line}.1\n\t{line.replace('=pve', '=pve2')}.0\n"
    change = Tree(mapping=mapping, change=lambda root: tree.folder(root, "etc/pve/nodes/pve2"))
    found = [finding for finding in change.host_findings(tmp_path) if finding.code == "PVP413"]
    assert [finding.message for finding in found] == [
        "0000:02:00.0 of node pve is in mapping bb and in aa (line 2)",
        "0000:02:00.1 of node pve is in mapping cc and in aa (line 2)",
    ]


# ---- HA


def test_only_nodes_of_the_cluster_and_other_ones_count(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "etc/pve/ha/resources.cfg": "vm: 100\n\tgroup gpu\n",
        "etc/pve/ha/groups.cfg": "group: gpu\n\tnodes pve,gone\n\trestricted 1\n",
    }
    mapping = SSD.replace("ssd\n", "ssd\n\tlive-migration-capable 1\n")
    config = "hostpci0: mapping=ssd,driver=keep\n"
    assert _mine(Tree(config, VFIO, mapping=mapping, files=files).findings(tmp_path)) == []


# ---- versions and hookscripts


@pytest.mark.parametrize(
    "hookscript, message",
    [
        ("local:snippets/none.pl", "there is no /var/lib/vz/snippets/none.pl"),
        ("local:snippets/folder", "/var/lib/vz/snippets/folder is no file"),
        ("local:iso/hook.pl", "it is not in the snippets of its storage"),
        ("local:snippets/a/b", "it is not in the snippets of its storage"),
        ("nas:snippets/hook.pl", "there is no storage nas"),
        ("zfs:snippets/hook.pl", "storage zfs (zfspool) holds no files"),
        ("/srv/hook.pl", "it is no volume"),
        ("away:snippets/hook.pl", None),  # not mounted here, or no such host
        ("local:snippets/good.pl", None),
    ],
)
def test_hookscripts(hookscript: str, message: str | None, tmp_path: Path) -> None:
    def change(root: str) -> None:
        tree.folder(root, "var/lib/vz/snippets/folder")
        os.chmod(tree.put(root, "var/lib/vz/snippets/good.pl"), 0o700)
        tree.put(root, "etc/pve/storage.cfg", "zfspool: zfs\n\tpool rpool\n\nnfs: away\n\tserver s\n")

    found = Tree(f"hookscript: {hookscript}\n", change=change).findings(tmp_path)
    assert _codes(found) == (["PVP394"] if message else [])
    assert not message or found[0].message == f"hookscript {hookscript}: {message}"


def test_a_hookscript_where_nothing_can_be_run(tmp_path: Path) -> None:
    def change(root: str) -> None:
        os.chmod(tree.put(root, "var/lib/vz/snippets/good.pl"), 0o700)
        tree.put(root, "proc/mounts", "x /var/lib/vz ext4 rw,noexec 0 0\n")

    (found,) = Tree("hookscript: local:snippets/good.pl\n", change=change).findings(tmp_path)
    assert found.code == "PVP394"
    assert found.message.endswith("/var/lib/vz/snippets/good.pl lies on a file system that is mounted with noexec")
    assert found.hint.startswith("mount it without noexec, or put the script on another storage, or: qm set 100")


HOOKS = "/etc/pve/pvepassthru-hooks.json"


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"version": 2, "chained": {"100": {}}}', "has version 2, and this pvepassthru knows 1"),
        ('{"100"', "is no JSON: "),
        ('{"version": 1, "chained": {"100": {"volume": 5}}}', ": VM 100 has no hookscript there"),
        ('{"version": 2, "chained": {"1000": {}}}', None),  # the hook lets all others start
        ('{"version": 1, "chained": {}}', None),
        ("", None),
    ],
)
def test_notes_that_cannot_be_used(text: str, message: str | None, tmp_path: Path) -> None:
    def change(root: str) -> None:
        os.chmod(tree.put(root, "var/lib/vz/snippets/pvepassthru"), 0o700)
        tree.put(root, HOOKS, text)

    found = Tree("hookscript: local:snippets/pvepassthru\n", change=change).findings(tmp_path)
    assert _codes(found) == (["PVP396"] if message else [])
    start = "it cannot be told which hookscript is chained to this tool's: "
    assert not message or found[0].message.startswith(start + HOOKS)
    assert not message or message in found[0].message


def test_notes_that_cannot_be_read(tmp_path: Path) -> None:
    """Nobody's start is let through then."""

    def change(root: str) -> None:
        os.chmod(tree.put(root, "var/lib/vz/snippets/pvepassthru"), 0o700)
        os.chmod(tree.put(root, "var/lib/vz/snippets/other"), 0o700)
        tree.folder(root, HOOKS)

    (found,) = Tree("hookscript: local:snippets/pvepassthru\n", change=change).findings(tmp_path)
    assert found.code == "PVP396"
    assert f"cannot read {HOOKS}: Is a directory" in found.message
    assert Tree("hookscript: local:snippets/other\n", change=change).findings(tmp_path / "other") == []


def test_packages_that_say_nothing(tmp_path: Path) -> None:
    config = "machine: pc-i440fx-99.0\nhostpci0: 02:00.0,driver=keep\n"
    for number, status in enumerate(
        (
            "",
            "Package: qemu-server\nStatus: deinstall ok config-files\nVersion: 7.0\n\n",
            "Package: qemu-server\nStatus: install ok installed\n",
            "Package: pve-qemu-kvm\nStatus: install ok installed\n",
            "Package: pve-qemu-kvm\nStatus: install ok installed\nVersion: unknown\n",
        )
    ):
        files: dict[str, str | bytes] = {"var/lib/dpkg/status": status}
        assert Tree(config, VFIO, files=files).findings(tmp_path / str(number)) == []


# ---- functions


@pytest.mark.parametrize(
    "junk", ["", "\n", "\udcff\udcfe\0", "x" * 70_000, "0x 0x 0x\n0xzz 0x0 0xzz\n", "TOTAL_ERR_FATAL\n"]
)
def test_attributes_that_hold_junk(junk: str, tmp_path: Path) -> None:
    names = ("config", "resource", "aer_dev_fatal", "current_link_width", "max_link_width", "sriov_numvfs", "class")
    files = dict.fromkeys((*names, "reset_method"), junk) | {"reset_method": "flr" + junk}
    found = Tree(PLAIN, {"0000:02:00.0": {"files": files}}).findings(tmp_path)
    assert _mine(found) == []


def test_a_reset_that_is_absent_needs_evidence(tmp_path: Path) -> None:
    """A kernel that lists methods for others, and a device that is there with all its files."""
    other = {"0000:41:00.0": {"files": {"reset_method": "flr\n"}}}
    whole = {"0000:02:00.0": {"files": {"config": "x"}}}
    assert _codes(Tree(PLAIN, {**other, **whole}).findings(tmp_path / "a")) == ["PVP281"]
    assert _mine(Tree(PLAIN, whole).findings(tmp_path / "b")) == []
    assert _mine(Tree(PLAIN, other).findings(tmp_path / "c")) == []
    old = {"0000:02:00.0": {"files": {"config": "x"}, "reset": True}}
    assert _mine(Tree(PLAIN, {**other, **old}).findings(tmp_path / "d")) == []


def _below_a_port(root: str) -> None:
    """Put the functions of bus 1 below a port, as sysfs has it."""
    for name in ("0000:01:00.0", "0000:01:00.1"):
        here = os.path.join(root, "sys/bus/pci/devices", name)
        below = os.path.join(tree.folder(root, "sys/devices/pci0000:00/0000:00:01.0"), name)
        os.rename(here, below)
        tree.link(root, f"sys/bus/pci/devices/{name}", f"sys/devices/pci0000:00/0000:00:01.0/{name}")
        for link, target in (("iommu_group", "sys/kernel/iommu_groups/1"), ("driver", "sys/bus/pci/drivers/vfio-pci")):
            if os.path.lexists(os.path.join(below, link)):
                os.unlink(os.path.join(below, link))
                tree.link(root, f"sys/devices/pci0000:00/0000:00:01.0/{name}/{link}", target)


@pytest.mark.parametrize(
    "config, first, expected",
    [
        ("hostpci0: 01:00\n", "bus\n", []),
        ("hostpci0: 01:00.1\n", "bus\n", []),  # the GPU is of the same group
        ("hostpci0: 01:00\n", "", ["PVP281", "PVP281"]),  # the kernel knows that a reset of the bus does harm
    ],
)
def test_a_bus_that_goes_to_one_vm_is_reset_as_one(
    config: str, first: str, expected: list[str], tmp_path: Path
) -> None:
    """As graphics cards are: the kernel lists `bus` for the first function only, and nothing for the second."""
    second: dict[str, Any] = {"class": "0x120000", "driver": "vfio-pci", "files": {"config": "x"}}
    devices: dict[str, dict[str, Any]] = {
        "0000:01:00.0": {"driver": "vfio-pci", "reset": False, "files": {"config": "x", "reset_method": first}},
        "0000:01:00.1": second,
    }
    found = Tree(config, devices, change=_below_a_port).findings(tmp_path)
    assert [code for code in _codes(found) if code.startswith("PVP28")] == expected


def test_controllers_that_their_drivers_reset(tmp_path: Path) -> None:
    """USB, SATA and sound of a chipset have no reset method as a rule, and work in a VM all the same."""
    for number, kind in enumerate(("0x0c0330", "0x010601", "0x040300")):
        devices = {"0000:02:00.0": {"class": kind, "files": {"reset_method": "\n"}}}
        assert _mine(Tree(PLAIN, devices).findings(tmp_path / str(number))) == []


def test_many_rivals_are_one_finding(tmp_path: Path) -> None:
    mdevs = dict.fromkeys(range(200, 240), "hostpci0: 41:00.0,mdev=nvidia-63\n")
    (finding,) = (one for one in Tree("hostpci0: 41:00.0\n", others=mdevs).findings(tmp_path) if one.code == "PVP434")
    assert "VM 200 (hostpci0), VM 201 (hostpci0)" in finding.message
    assert finding.message.endswith("and 28 more")
    vfs = dict.fromkeys((200, 201), "hostpci0: a1:00.0\n")
    found = Tree("hostpci0: a1:00.4,mdev=nvidia-35\n", others=vfs).findings(tmp_path / "b")
    (finding,) = (one for one in found if one.code == "PVP433")
    assert finding.message.endswith("is passed to VM 200 (hostpci0), VM 201 (hostpci0)")


def test_what_ha_starts_is_stopped_by_ha(tmp_path: Path) -> None:
    resources: dict[str, str | bytes] = {"etc/pve/ha/resources.cfg": "vm: 200\n\tstate started\n"}
    (finding,) = Tree(BOOT + PLAIN, others={200: PLAIN}, files=resources).findings(tmp_path / "a")
    assert (finding.code, finding.hint.partition(",")[0]) == ("PVP425", "ha-manager set vm:200 --state stopped")
    (finding,) = Tree(BOOT + PLAIN, others={200: BOOT + PLAIN}).findings(tmp_path / "b")
    assert (finding.code, finding.hint.partition(",")[0]) == ("PVP425", "qm set 200 --onboot 0")


def test_a_virtual_function_whose_registers_read_all_ones(tmp_path: Path) -> None:
    """Only of a physical function does that mean that it is gone."""

    def change(root: str) -> None:
        tree.put(root, "sys/bus/pci/devices/0000:a1:00.4/config", b"\xff" * 64)

    assert _mine(Tree("hostpci0: a1:00.4,mdev=nvidia-35\n", change=change).findings(tmp_path)) == []


@pytest.mark.parametrize(
    "node, told",
    [("/dev/dri/renderD128", True), ("/dev/nvidia0", True), ("/dev/nvidia1", False), ("/dev/dri/card1", False)],
)
def test_programs_that_have_a_gpu_open(node: str, told: bool, tmp_path: Path) -> None:  # noqa: FBT001 - as above
    def change(root: str) -> None:
        tree.folder(root, "sys/bus/pci/devices/0000:01:00.0/drm/renderD128")
        tree.put(root, "proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: X\nDevice Minor: \t 0\n")
        tree.hold(root, 4711, node)

    found = Tree("hostpci0: 01:00.0\n", {"0000:01:00.0": {"driver": "nvidia"}}, change=change).findings(tmp_path)
    assert _codes(found) == (["PVP291"] if told else [])
    assert not told or f"process 4711 (holder) has {node} open" in _mine(found)[0].message


def _disks(config: str, others: dict[int, str], root: Path) -> list[str]:
    change = across.EXAMPLES["PVP436"][0].change
    return [one.message for one in Tree(config, others=others, change=change).findings(root) if one.code == "PVP436"]


@pytest.mark.parametrize(
    "line",
    [
        "virtio3: file=/dev/nvme0n1,size=1G",
        "efidisk0: /dev/nvme0n1p1,efitype=4m",
        "sata5: size=1G,file=/dev/nvme0n1",
        "[PENDING]\nide0: /dev/nvme0n1",
    ],
)
def test_another_vms_disk_on_a_passed_controller(tmp_path: Path, line: str) -> None:
    (message,) = _disks("hostpci0: 02:00.0\n", {200: f"{line}\n"}, tmp_path)
    assert message.startswith("0000:02:00.0 has a disk of VM 200 (")


@pytest.mark.parametrize(
    "config, other",
    [
        ("hostpci0: 01:00\n", "scsi0: /dev/nvme0n1\n"),
        ("hostpci0: 02:00.0,driver=keep\n", "scsi0: /dev/nvme0n1\n"),
        ("hostpci0: 02:00.0\n", "scsi0: /dev/nvme0n1\ntemplate: 1\n"),
        ("hostpci0: 02:00.0\n", "scsi0: /dev/nvme9n1\n"),
        ("hostpci0: 02:00.0\n", "scsi0: local:/dev/nvme0n1\n"),
        ("hostpci0: 02:00.0\n", "scsi0: /dev/nvme0n1\n[PENDING]\ndelete: scsi0\n"),
        ("hostpci0: 02:00.0\nscsi0: /dev/nvme0n1\n", "memory: 1\n"),
    ],
)
def test_disks_that_stay(tmp_path: Path, config: str, other: str) -> None:
    assert _disks(config, {200: other}, tmp_path) == []


def test_each_vm_is_named_with_the_address_that_it_has(tmp_path: Path) -> None:
    """A VM that has a list of devices may share another one with each of the others."""
    others = {200: "hostpci0: 01:00.0\n", 201: "hostpci2: 02:00.0\n", 202: "hostpci0: 02:00.0\n"}
    found = Tree("hostpci0: 02:00.0;01:00.0\n", others=others).findings(tmp_path)
    (message,) = (one.message for one in found if one.code == "PVP426")
    assert message.startswith(
        "0000:01:00.0 is passed to VM 200 (hostpci0), 0000:02:00.0 to VM 201 (hostpci2), VM 202 (hostpci0) too"
    )
