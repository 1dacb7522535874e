# SPDX-License-Identifier: Apache-2.0
"""The flows of both hook tables: which phases run, in which order, and what the host looks like in each."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.host.sim import SimHost
from tests import tree
from tests.pve import kernel, recorder, reservations
from tests.pve.flows import Pve
from tests.pve.hook import HookHangsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.pve.hook import Log

NIC = "0000:05:00.0"
PARENTS = ("0000:03:00.0", "0000:04:00.0")
VF = "0000:a1:00.4"
UUID = "00000000-0000-0000-0000-000000000100"
CREATABLE = [{"id": "35", "name": "NVIDIA A16-1Q"}, {"id": "558", "name": "NVIDIA A16-1B"}]
ALL = ["pre-start", "post-start", "pre-stop", "post-stop"]
START, STOP = ALL[:2], ALL[2:]
MDEV = f"hostpci0: {PARENTS[0]},mdev=tbmdev-1\n"
MAPPED = f"""vgpu
\tmdev 1
\tmap id=1234:11e8,iommugroup=12,node=pve,path={PARENTS[0]}
\tmap id=1234:11e8,iommugroup=13,node=pve,path={PARENTS[1]}
"""


def parent(group: int) -> dict[str, Any]:
    kinds = {"tbmdev-1": {"available": "2"}, "tbmdev-2": {"available": "1"}}
    ids = {"vendor": "0x1234", "device": "0x11e8", "class": "0x00ff00"}
    return {**ids, "iommu_group": group, "mdev": {"types": kinds}}


HOST: dict[str, Any] = {
    "devices": {
        NIC: {"vendor": "0x8086", "device": "0x10d3", "class": "0x020000", "driver": "e1000e", "iommu_group": 14},
        PARENTS[0]: parent(12),
        PARENTS[1]: parent(13),
        "0000:a1:00.0": {"vendor": "0x10de", "device": "0x25b6", "class": "0x030200", "iommu_group": 60, "nvidia": {}},
        VF: {
            "vendor": "0x10de",
            "device": "0x25b6",
            "class": "0x030200",
            "driver": "nvidia",
            "iommu_group": 61,
            "physfn": "0000:a1:00.0",
            "nvidia": {"creatable": CREATABLE, "current": "0"},
        },
    }
}


class Node(Pve):
    """A Pve whose hook is the recorder."""

    folder: Path

    def records(self) -> list[dict[str, Any]]:
        """What the hook wrote down, in order."""
        text = recorder.read(str(self.folder / "runs")) or ""
        return [json.loads(line) for line in text.splitlines()]

    def fail(self, *phases: str) -> None:
        """Let the hook fail in these phases."""
        (self.folder / "fail").write_text(" ".join(phases))


@pytest.fixture
def pve(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    root = tree.build(tmp_path / "root", HOST)
    folder = tmp_path / "hook"
    folder.mkdir()
    script = shutil.copy(recorder.__file__, folder / "hook")
    write = kernel.TreeKernel(root).write if getattr(request, "param", "sim") == "tree" else SimHost(root).write
    node = Node(root, hook=[sys.executable, "-I", "-S", str(script)], write=write)
    node.folder = folder
    yield node
    node.close()


def mdevs(pve: Pve) -> list[str]:
    folder = f"{pve.root}/sys/bus/mdev/devices"
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def started(log: Log) -> Log:
    assert log.ok, str(log)
    return log


# ---- start and stop


@pytest.mark.parametrize("pve", ["tree", "sim"], indirect=True)
def test_a_life(pve: Node) -> None:
    pve.define(100, MDEV + f"hostpci1: {NIC}\n")
    log = started(pve.start(100))
    assert log.phases == START
    assert log.output == "out pre-start\nerr pre-start\nout post-start\nerr post-start\n"
    pid = pve.running(100)
    assert reservations.parse(pve.reserved().read()) == {NIC: ("100", "pid", str(pid))}
    assert mdevs(pve) == [UUID]
    assert pve.sysfs.driver(NIC) == "vfio-pci"
    links = {os.readlink(f"{pve.root}/proc/{pid}/fd/{name}") for name in os.listdir(f"{pve.root}/proc/{pid}/fd")}
    assert "/dev/vfio/14" in links
    assert len(links) == 3

    log = started(pve.stop(100))
    assert log.phases == STOP
    assert mdevs(pve) == []
    assert pve.reserved().read() == ""
    assert pve.sysfs.driver(NIC) == "vfio-pci"  # PVE never gives it back
    assert pve.running(100) is None
    assert not os.path.exists(f"{pve.root}/proc/{pid}")
    before, running, stopping, after = pve.records()
    assert (before["mdevs"], running["mdevs"], stopping["mdevs"], after["mdevs"]) == ([], [UUID], [UUID], [])
    assert before["reservations"] is None
    assert "pid:" in stopping["reservations"]
    assert after["reservations"] == ""
    assert (before["pid_file"], running["pid_file"], after["pid_file"]) == (None, f"{pid}\n", None)
    assert (before["scope"], running["scope"], after["scope"]) == (None, f"{pid}\n", None)
    assert all(record["locked"] for record in pve.records())


def test_how_a_hook_is_called(pve: Node) -> None:
    pve.define(100, "memory: 512\n")
    started(pve.start(100))
    record = pve.records()[0]
    environment = {name: value for name, value in record["environment"].items() if name != "LC_CTYPE"}  # Python's own
    assert environment == {
        "PATH": "/sbin:/bin:/usr/sbin:/usr/bin",
        "LC_ALL": "C",
        "PVE_MIGRATED_FROM": "",
        "PVEPASSTHRU_ROOT": pve.root,
    }
    assert (record["vmid"], record["phase"], record["cwd"], record["stdin"]) == ("100", "pre-start", "/", "")


def test_a_hook_that_hangs(pve: Node) -> None:
    pve.define(100, MDEV)
    (pve.folder / "sleep").write_text("pre-start")
    pve.hook_limit = 0.5
    with pytest.raises(HookHangsError, match="pre-start"):
        pve.start(100)


@pytest.mark.parametrize("place", ["command", "prepare", "qemu"])
def test_a_start_that_fails_after_pre_start(pve: Node, place: str) -> None:
    pve.define(100, MDEV + f"hostpci1: {NIC}\n")
    log = pve.start(100, fail=place)
    assert log.error is not None
    assert log.error.code == f"injected-{place}"
    assert log.phases == ["pre-start"]
    assert mdevs(pve) == []
    assert not reservations.parse(pve.reserved().read())
    assert pve.running(100) is None
    created = [path for path, _ in log.writes if path.endswith("/create")]
    assert len(created) == (0 if place == "command" else 1)
    assert (pve.sysfs.driver(NIC) == "vfio-pci") == (place == "qemu")
    assert pve.crash(100).phases == []  # nothing is left to clean up


def test_a_failing_pre_start(pve: Node) -> None:
    pve.define(100, MDEV)
    pve.fail("pre-start", "post-start", "post-stop")
    log = pve.start(100)
    assert log.error is not None
    assert log.error.code == "hook-failed"
    assert log.phases == ["pre-start"]
    assert log.writes == []


def test_other_phases_only_warn(pve: Node) -> None:
    pve.define(100, MDEV)
    pve.fail("post-start", "pre-stop", "post-stop")
    assert "post-start" in started(pve.start(100)).warnings[0]
    assert len(started(pve.stop(100)).warnings) == 2


def test_what_pve_refuses(pve: Node) -> None:
    pve.define(100, "hostpci0: 0000:1f:00.0\n")
    pve.define(101, f"hostpci0: {NIC},pcie=1\n")
    pve.define(102, f"machine: q35,aw-bits=39\nhostpci0: {NIC}\n")
    pve.define(103, "template: 1\n")
    pve.define(104, "lock: migrate\n")
    codes = {vmid: (log.error.code if log.error else None, log.phases) for vmid, log in logs(pve, range(100, 106))}
    assert codes == {
        100: ("device-not-found", ["pre-start"]),
        101: ("pcie-needs-q35", ["pre-start"]),
        102: ("machine-invalid", ["pre-start"]),
        103: ("template", []),
        104: ("locked", []),
        105: ("no-config", []),
    }


def logs(pve: Pve, vmids: range) -> list[tuple[int, Log]]:
    return [(vmid, pve.start(vmid)) for vmid in vmids]


def test_a_reset_that_fails_is_no_obstacle(pve: Node) -> None:
    pve.define(100, f"hostpci0: {NIC}\n")
    reset = f"/sys/bus/pci/devices/{NIC}/reset"
    tree.put(pve.root, reset)
    inner = pve.sysfs._write

    def write(path: str, value: str) -> None:
        if path == reset:
            raise kernel.failure(errno.ENOTTY, path)
        inner(path, value)

    pve.sysfs._write = write
    log = started(pve.start(100))
    assert (reset, "1") in log.writes
    assert "cannot reset" in log.warnings[0]


def test_started_twice(pve: Node) -> None:
    pve.define(100, MDEV)
    started(pve.start(100))
    log = pve.start(100)
    assert log.error is not None
    assert log.error.code == "already-running"
    assert log.phases == []


def test_two_vms_want_one_device(pve: Node) -> None:
    for vmid in (100, 101):
        pve.define(vmid, f"hostpci0: {NIC}\n")
    started(pve.start(100))
    log = pve.start(101)
    assert log.error is not None
    assert log.error.code == "reserved-in-use"
    assert NIC in reservations.parse(pve.reserved().read())
    started(pve.stop(100))
    started(pve.start(101))


def test_the_lock_of_the_vm_is_busy(pve: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    pve.define(100, MDEV)
    monkeypatch.setattr("tests.pve.flows.LOCK_WAIT", 0.1)
    with open(f"{pve.root}/var/lock/qemu-server/lock-100.conf", "a", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        log = pve.start(100)
    assert log.error is not None
    assert log.error.code == "lock-timeout"
    assert log.phases == []


# ---- mediated devices


def test_an_instance_of_ours_is_adopted(pve: Node) -> None:
    pve.define(100, MDEV)
    create = f"/sys/bus/pci/devices/{PARENTS[0]}/mdev_supported_types/tbmdev-1/create"
    pve.sysfs.write(create, UUID)
    log = started(pve.start(100))
    assert log.writes == []
    assert "used as it is" in log.warnings[0]


@pytest.mark.parametrize("pve", ["tree", "sim"], indirect=True)
def test_an_instance_on_a_later_alternative_is_adopted(pve: Node) -> None:
    pve.map(MAPPED)
    pve.define(100, "hostpci0: mapping=vgpu,mdev=tbmdev-1\n")
    pve.sysfs.write(f"/sys/bus/pci/devices/{PARENTS[1]}/mdev_supported_types/tbmdev-1/create", UUID)
    log = started(pve.start(100))
    assert "EEXIST" in log.warnings[0]
    assert "used as it is" in log.warnings[1]
    assert [path for path, _ in log.writes if PARENTS[0] in path]


@pytest.mark.parametrize("pve", ["tree", "sim"], indirect=True)
def test_an_instance_of_another_type_is_refused(pve: Node) -> None:
    pve.define(100, MDEV)
    pve.sysfs.write(f"/sys/bus/pci/devices/{PARENTS[0]}/mdev_supported_types/tbmdev-2/create", UUID)
    log = pve.start(100)
    assert log.error is not None
    assert log.error.code == "mdev-not-created"


# ---- the vendor vGPU interface


@pytest.mark.parametrize("pve", ["tree", "sim"], indirect=True)
def test_vendor_vgpu(pve: Node) -> None:
    pve.define(100, f"hostpci0: {VF},mdev=nvidia-35\n")
    started(pve.start(100))
    assert pve.sysfs.vgpu_current(VF) == "35"
    assert list(reservations.parse(pve.reserved().read())) == [VF]
    started(pve.stop(100))
    assert pve.sysfs.vgpu_current(VF) == "0"
    assert pve.reserved().read() == ""


# ---- ends


@pytest.mark.parametrize("end", ["power_off", "crash"])
def test_the_guest_ends_by_itself(pve: Node, end: str) -> None:
    pve.define(100, MDEV)
    started(pve.start(100))
    log = started(getattr(pve, end)(100))
    assert log.phases == ["post-stop"]
    assert mdevs(pve) == []
    assert pve.records()[-1]["locked"]
    assert started(getattr(pve, end)(100)).phases == []  # once only


def test_shutdown(pve: Node) -> None:
    pve.define(100, MDEV)
    started(pve.start(100))
    log = pve.shutdown(100, times_out=True)
    assert log.phases == ["pre-stop"]
    assert not log.ok
    assert pve.running(100) is not None
    assert started(pve.shutdown(100)).phases == STOP
    assert started(pve.shutdown(100)).phases == []


def test_reboot(pve: Node) -> None:
    pve.define(100, MDEV)
    started(pve.start(100))
    assert started(pve.reboot(100)).phases == [*STOP, *START]
    assert pve.running(100) is not None


def test_a_slow_post_stop_loses_the_restart(pve: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    pve.define(100, MDEV)
    started(pve.start(100))
    monkeypatch.setattr("tests.pve.flows.CLEANUP_WAIT", 0.0)
    log = pve.reboot(100)
    assert log.phases == STOP
    assert log.error is not None
    assert log.error.code == "restart-lost"


@pytest.mark.parametrize("times,phases", [(0, ["pre-stop"]), (2, ["pre-stop", "post-stop", "post-stop"])])
def test_post_stop_twice_or_never(pve: Node, times: int, phases: list[str]) -> None:
    pve.define(100, MDEV)
    started(pve.start(100))
    assert started(pve.stop(100, post_stop=times)).phases == phases
    assert started(pve.post_stop(100)).phases == ["post-stop"]


def test_qemu_outlives_sigkill(pve: Node) -> None:
    pve.define(100, f"hostpci0: {NIC}\n")
    started(pve.start(100))
    pid = pve.running(100)
    assert started(pve.stop(100, qemu="lingers")).phases == STOP
    record = pve.records()[-1]
    assert record["pid_file"] is None
    assert record["scope"] == f"{pid}\n"
    assert record["reservations"] == ""
    assert os.path.exists(f"{pve.root}/proc/{pid}/fd")
    log = pve.start(100)  # the group is still open
    assert log.error is not None
    assert log.error.code == "qemu-failed"
    assert os.path.exists(f"{pve.root}/proc/{pid}/fd")
    pve.end_qemu(100)
    assert not os.path.exists(f"{pve.root}/proc/{pid}")
    started(pve.start(100))


def test_a_hostpci_entry_deleted_while_the_vm_runs(pve: Node) -> None:
    pve.define(100, MDEV)
    started(pve.start(100))
    pve.set_pending(100, "hostpci0", None)
    pve.set_pending(100, "hostpci1", f"{NIC}")
    started(pve.stop(100))
    before, after = pve.records()[-2:]
    assert "delete: hostpci0" in before["config"]
    assert after["config"] == f"hostpci1: {NIC}\n"
    assert after["mdevs"] == []


def test_a_mapping_that_vanished_stops_the_cleanup_half_way(pve: Node) -> None:
    pve.map(MAPPED)
    pve.define(100, f"hostpci0: mapping=vgpu,mdev=tbmdev-1\nhostpci1: {NIC}\n")
    started(pve.start(100))
    pve.map("")
    log = started(pve.stop(100))
    assert log.phases == STOP
    assert "half way" in log.warnings[0]
    assert mdevs(pve) == [UUID]
    assert NIC in reservations.parse(pve.reserved().read())


# ---- pending, snapshots, hibernation, backup


def test_pending_is_applied_before_pre_start(pve: Node) -> None:
    pve.define(
        100, "# note\nhostpci0: 0000:1f:00.0\nname: x\n\n[PENDING]\ndelete: name\n" + MDEV + "[snap]\ncores: 1\n"
    )
    started(pve.start(100))
    assert pve.records()[0]["config"] == "# note\n" + MDEV + "\n[snap]\ncores: 1\n"


def test_rollback(pve: Node) -> None:
    pve.define(100, f"hostpci0: {NIC}\n\n[snap]\n" + MDEV)
    started(pve.start(100))
    assert started(pve.rollback(100, "snap")).phases == STOP
    assert NIC in pve.records()[-1]["config"].split("[snap]")[0]
    assert started(pve.start(100)).phases == START
    assert mdevs(pve) == [UUID]
    assert started(pve.rollback(100, "snap", ram=True)).phases == [*STOP, *START]
    assert pve.rollback(100, "none").phases == []


def test_hibernate_and_resume(pve: Node) -> None:
    pve.define(100, "memory: 512\n")
    started(pve.start(100))
    assert started(pve.hibernate(100)).phases == ["post-stop"]
    pve.set_pending(100, "hostpci0", NIC)
    assert started(pve.start(100)).phases == START
    assert "[PENDING]" in pve.records()[-1]["config"]  # not applied on a resume
    assert "vmstate" not in pve.records()[-1]["config"]
    pve.define(101, MDEV)
    started(pve.start(101))
    log = pve.hibernate(101)
    assert log.error is not None
    assert log.phases == []
    assert started(pve.hibernate(101, anyway=True)).phases == ["post-stop"]


def test_backup(pve: Node) -> None:
    pve.define(100, MDEV)
    assert started(pve.backup(100)).phases == ALL
    assert all("lock: backup" in record["config"] for record in pve.records())
    assert pve.running(100) is None
    started(pve.start(100))
    assert started(pve.backup(100, "snapshot")).phases == []
    assert started(pve.backup(100, "stop")).phases == [*STOP, *START]
    assert pve.running(100) is not None
    assert "lock" not in pve.cluster.config(100).main.values


def test_backup_of_a_template(pve: Node) -> None:
    pve.define(100, "template: 1\n" + MDEV)
    log = started(pve.backup(100))
    assert log.phases == ["pre-start", *STOP]
    assert log.writes == []


# ---- migration and HA


def test_migration_target(pve: Node) -> None:
    pve.define(100, MDEV + f"\n[PENDING]\nhostpci0: {NIC}\n", node="other")
    log = started(pve.migrate_in(100, "other"))
    assert log.phases == START
    assert {run.migrated_from for run in log.hooks} == {"other"}
    for record in pve.records():
        assert record["environment"]["PVE_MIGRATED_FROM"] == "other"
        assert record["config"] is None
        assert record["locked"]
    assert mdevs(pve) == [UUID]  # what waits in [PENDING] does not count
    pve.finish_migration(100, "other")
    assert started(pve.stop(100)).phases == STOP
    assert pve.records()[-1]["environment"]["PVE_MIGRATED_FROM"] == ""


def test_aborted_migration(pve: Node) -> None:
    pve.define(100, f"hostpci0: {NIC}\n", node="other")
    started(pve.migrate_in(100, "other"))
    pid = pve.running(100)
    assert started(pve.abort_migration(100, "other", qemu="lingers")).phases == ["post-stop"]
    record = pve.records()[-1]
    assert not record["locked"]
    assert record["config"] is None
    assert record["environment"]["PVE_MIGRATED_FROM"] == ""
    assert record["scope"] == f"{pid}\n"


def test_migration_source(pve: Node) -> None:
    pve.define(100, MDEV)
    started(pve.start(100))
    assert started(pve.migrate_out(100, "other")).phases == []
    assert mdevs(pve) == []
    assert pve.start(100).phases == []
    assert pve.cluster.config(100, "other").main.values


def test_ha_restarts_once_then_relocates(pve: Node) -> None:
    pve.define(100, MDEV)
    pve.fail("pre-start")
    assert [log.phases for log in pve.ha_start(100, "other")] == [["pre-start"], ["pre-start"]]
    assert os.path.exists(f"{pve.root}/etc/pve/nodes/other/qemu-server/100.conf")
    pve.define(101, MDEV)
    pve.fail()
    assert [log.phases for log in pve.ha_start(101, "other")] == [START]


def test_destroy(pve: Node) -> None:
    pve.define(100, MDEV)
    started(pve.start(100))
    started(pve.stop(100))
    pve.destroy(100)
    assert pve.start(100).error is not None


def test_a_blocked_remove_is_left_behind(tmp_path: Path) -> None:
    root = tree.build(tmp_path, HOST)
    pve = Pve(root, write=SimHost(root).write)
    pve.define(100, MDEV)
    started(pve.start(100))
    log = started(pve.stop(100, qemu="lingers"))
    assert "blocks" in log.warnings[0]
    assert mdevs(pve) == []
    assert os.path.exists(f"{root}/sys/bus/pci/devices/{PARENTS[0]}/{UUID}/iommu_group")
    pve.close()
    assert not os.path.exists(f"{root}/sys/bus/pci/devices/{PARENTS[0]}/{UUID}")
