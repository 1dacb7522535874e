# SPDX-License-Identifier: Apache-2.0
"""All VMs of a cluster, judged by the API: what is found, in how many requests, and what a mishap costs."""

from __future__ import annotations

import collections
import json
import sys
import threading
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.api import fleet, survey
from pvepassthru.api.client import connect
from pvepassthru.api.transport import CONNECTIONS
from pvepassthru.cli import progress
from pvepassthru.cli.main import main
from pvepassthru.model.errors import (
    ApiConflictError,
    ApiDeniedError,
    ApiError,
    ApiMissingError,
    ApiUnreachableError,
    UsageError,
)
from tests.api.fake_client import client_of, profile_of
from tests.api.fake_pve import data
from tests.api.fake_pve.data import PASSWORD, ROOT, Cluster, Device, MdevType, Token, User
from tests.api.fake_pve.server import FakePve

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pvepassthru.api.fleet import Report

    Rows = Sequence[Mapping[str, str | int]]

GPU = Device("0000:01:00.0", "10de", "1b80", group=2)
NIC = Device("0000:02:00.0", "8086", "1533", group=3, class_="020000")
P4 = Device(
    "0000:41:00.0", "10de", "1bb3", group=50, class_="030200", mdev=[MdevType("nvidia-63", 2, "max_instance=8")]
)
MAPPING = (
    "gpu\n\tmap node=pve1,path=0000:01:00.0,id=10de:1b80,iommugroup=2\n"
    "\tmap node=pve2,path=0000:01:00.0,id=10de:1b80,iommugroup=7\n"
)
FINE = "machine: q35\nmemory: 512\nhostpci0: mapping=gpu,pcie=1\n"


def cluster(**more: Any) -> Cluster:  # noqa: ANN401 - what a cluster takes
    nodes = {
        "pve1": data.Node(
            [GPU, NIC, P4],
            {100: FINE, 101: "memory: 512\n", 102: "hostpci0: 05:00.0\n", 103: "hostpci0: 02:00.0,pcie=1\n"},
        ),
        "pve2": data.Node([GPU, NIC], {200: FINE, 201: "name: plain\n", 202: "hostpci0: 02:00\n"}),
        "pve3": data.Node([NIC], {300: "hostpci0: 02:00.0\n", 301: "hostpci0: 02:00.0\n"}, [300]),
    }
    return Cluster(nodes, **{"mappings": MAPPING, **more})


@pytest.fixture
def pve() -> Iterator[FakePve]:
    with FakePve(cluster()) as fake:
        yield fake


def judged(pve: FakePve, **more: Any) -> Report:  # noqa: ANN401 - as validate
    with client_of(pve) as client:
        return fleet.validate(client, **more)


def codes(report: Report) -> dict[int, list[str]]:
    return {vm.vmid: [finding.code for finding in vm.findings] for vm in report.vms if vm.findings}


def configs(pve: FakePve) -> collections.Counter[str]:
    """How often each VM was read."""
    return collections.Counter(entry.path for entry in pve.state.log if entry.path.endswith(("/config", "/pending")))


OF_ALL = {
    102: ["PVP201"],
    103: ["PVP310"],
    200: ["PVP406"],
    300: ["PVP426"],
    301: ["PVP426"],
}


# ---- what is found, and in how many requests


def test_all_vms_of_all_nodes(pve: FakePve) -> None:
    report = judged(pve)
    assert codes(report) == OF_ALL
    assert [(vm.node, vm.vmid) for vm in report.vms] == sorted((vm.node, vm.vmid) for vm in report.vms)
    assert [vm.vmid for vm in report.vms] == [100, 102, 103, 200, 202, 300, 301]
    assert [vm.vmid for vm in report.vms if vm.running] == [300]
    assert (report.read, report.nodes, report.failures) == (9, ("pve1", "pve2", "pve3"), ())
    assert [(of.node, of.finding.code) for of in report.mappings] == [("pve2", "PVP412")]
    everything = [*(one for vm in report.vms for one in vm.findings), *(of.finding for of in report.mappings)]
    assert not any("line" in finding.message or ".conf:" in finding.where for finding in everything)


def test_a_running_vm_that_gives_its_devices_up(pve: FakePve) -> None:
    """It is judged by its next start, so that there is nothing to say of it."""
    pve.state.vm(300).text += "[PENDING]\ndelete: hostpci0\n"
    report = judged(pve, nodes=["pve3"])
    assert ([vm.vmid for vm in report.vms], report.read, codes(report)) == ([301], 2, {})


def test_one_request_a_vm_and_few_a_node(pve: FakePve) -> None:
    judged(pve)
    assert set(configs(pve).values()) == {1}
    assert len(configs(pve)) == 9
    assert [path for path in configs(pve) if path.endswith("/pending")] == ["/nodes/pve3/qemu/300/pending"], "it runs"
    gets = [entry.path for entry in pve.state.log if entry.method == "GET"]
    others = [path for path in gets if not path.endswith(("/config", "/pending"))]
    assert sorted(others) == [
        "/cluster/backup",
        *("/cluster/ha/groups", "/cluster/ha/resources", "/cluster/ha/rules"),
        *("/cluster/mapping/pci", "/cluster/resources", "/nodes"),
        *(f"/nodes/{name}/hardware/pci" for name in ("pve1", "pve2", "pve3")),
    ]


def test_types_are_asked_of_what_entries_name(pve: FakePve) -> None:
    pve.state.vm(101).change(hostpci0="41:00.0,mdev=nvidia-99")
    assert codes(judged(pve))[101] == ["PVP211"]
    asked = [entry.path for entry in pve.state.log if entry.path.endswith("/mdev")]
    assert asked == ["/nodes/pve1/hardware/pci/0000:41:00.0/mdev"]


def test_nodes_that_are_named(pve: FakePve) -> None:
    report = judged(pve, nodes=["pve3", "pve3"])
    assert (report.nodes, report.read, sorted(codes(report))) == (("pve3",), 2, [300, 301])
    assert not [entry for entry in pve.state.log if "pve1" in entry.path or "pve2" in entry.path]
    with pytest.raises(ApiMissingError, match=r"no node pve9; is pve[123] meant\?"):
        judged(pve, nodes=["pve9"])


def test_a_node_without_devices_costs_its_vms_only() -> None:
    with FakePve(Cluster({"pve1": data.Node([GPU], {100: "memory: 512\n"}), "pve2": data.Node([GPU])})) as pve:
        report = judged(pve)
        assert (report.read, report.vms, report.failures) == (1, (), ())
        assert not [entry for entry in pve.state.log if "hardware" in entry.path]


@pytest.mark.parametrize("jobs", [0, CONNECTIONS + 1])
def test_a_number_of_jobs_that_cannot_be(pve: FakePve, jobs: int) -> None:
    with pytest.raises(UsageError, match="from 1 to"):
        judged(pve, jobs=jobs)


def test_as_many_connections_as_jobs() -> None:
    """They are kept for the next request; who asks is never more than so many at a time."""
    nodes = {f"pve{node}": data.Node([NIC], {node * 100 + vm: "memory: 512\n" for vm in range(30)}) for node in (1, 2)}
    with FakePve(Cluster(nodes)) as pve, client_of(pve) as client:
        most, here, lock = 0, 0, threading.Lock()
        get = client.get

        def counted(path: str, /, **params: object) -> Any:  # noqa: ANN401 - as get
            nonlocal most, here
            with lock:
                here += 1
                most = max(most, here)
            try:
                return get(path, **params)
            finally:
                with lock:
                    here -= 1

        client.get = counted  # type: ignore[method-assign]  # counted
        before = len(pve._doors["pve1"]._threads)
        report = fleet.validate(client, jobs=3)
        assert report.read == 60
        assert most <= 3
        assert len(pve._doors["pve1"]._threads) - before <= 3


def test_ha_and_backups_count() -> None:
    """The first VM is HA's and stopped, so that it does not start by itself, whatever onboot says."""
    vms = {100: "hostpci0: 02:00.0\nonboot: 1\n", 101: "hostpci0: 02:00.0\nonboot: 1\n"}
    both = {"pve1": data.Node([NIC], vms), "pve2": data.Node()}
    with FakePve(Cluster(both)) as pve:
        assert codes(judged(pve)) == {100: ["PVP425"], 101: ["PVP425"]}
    ha = [{"sid": "vm:100", "state": "stopped", "digest": "0"}]
    rules: Rows = [{"rule": "r", "type": "node-affinity", "nodes": "pve1", "resources": "vm:100", "strict": 1}]
    with FakePve(Cluster(both, ha_resources=ha, ha_rules=rules)) as pve:
        assert codes(judged(pve)) == {100: ["PVP426"], 101: ["PVP426"]}
    groups = [{"group": "g", "nodes": "pve1,pve2:1", "restricted": 1}]
    older: dict[str, Any] = {"ha_resources": [{**ha[0], "group": "g"}], "ha_groups": groups, "version": "8.4.1"}
    with FakePve(Cluster(both, **older)) as pve:
        assert codes(judged(pve)) == {100: ["PVP426", "PVP452"], 101: ["PVP426"]}
    job: Rows = [{"id": "backup-1", "type": "vzdump", "enabled": 1, "all": 1, "schedule": "daily", "mode": "snapshot"}]
    with FakePve(Cluster(both, ha_resources=ha, backup_jobs=job)) as pve:
        assert codes(judged(pve)) == {100: ["PVP435", "PVP452"], 101: ["PVP426"]}


# ---- what a user may not see


def test_who_sees_few_things(pve: FakePve) -> None:
    pve.state.users["some@pve"] = User("word", {"/": "PVEVMUser", "/vms/103": "NoAccess"})
    with client_of(pve, "some@pve", "word") as client, pytest.raises(ApiDeniedError, match="cluster/ha"):
        fleet.validate(client)


def test_a_mapping_that_a_user_does_not_see_is_not_called_missing(pve: FakePve) -> None:
    """PVE answers with the mappings that are seen, and says nothing of the others."""
    pve.state.roles = {**pve.state.roles, "Looks": frozenset({"VM.Audit", "Sys.Audit"})}
    pve.state.users["some@pve"] = User("word", {"/": "Looks"})
    with client_of(pve, "some@pve", "word") as client:
        report = fleet.validate(client)
    assert [(one.vmid, one.error.exit_code) for one in report.failures] == [(100, 12), (200, 12)]
    assert "sees no mapping gpu" in str(report.failures[0])
    assert sorted(codes(report)) == [102, 103, 300, 301]
    pve.state.vm(102).change(hostpci0="mapping=nope")
    assert codes(judged(pve))[102] == ["PVP401"], "who sees all knows that it is missing"


# ---- mishaps


def test_a_node_that_is_offline_from_the_start(pve: FakePve) -> None:
    pve.take_down("pve2")
    report = judged(pve)
    (failure,) = report.failures
    assert (failure.node, failure.vmid, failure.error.exit_code) == ("pve2", None, 10)
    assert "offline" in str(failure)
    assert "3 VMs not looked at" in str(failure)
    assert report.read == 6
    assert sorted(codes(report)) == [vmid for vmid in OF_ALL if vmid != 200]
    assert not [entry for entry in pve.state.log if "/pve2/" in entry.path], "it is not asked in vain"


@pytest.mark.parametrize("status", [595, 596])
def test_a_node_that_goes_down_meanwhile(pve: FakePve, status: int) -> None:
    pve.faults.meddle(lambda state: state.down.update(pve2=status), path="/nodes/pve2/qemu/201/")
    report = judged(pve, jobs=1)
    (failure,) = report.failures
    assert (failure.node, failure.vmid, failure.error.exit_code) == ("pve2", None, 10)
    assert "3 VMs not looked at" in str(failure)
    assert (report.read, 200 in codes(report)) == (6, False)
    assert configs(pve)["/nodes/pve2/qemu/202/config"] == 0, "it is asked no more"


def test_a_node_whose_hardware_cannot_be_read(pve: FakePve) -> None:
    pve.faults.answer(500, "lspci is broken", path="/nodes/pve1/hardware/pci")
    report = judged(pve)
    (failure,) = report.failures
    assert (failure.node, failure.vmid, failure.error.exit_code) == ("pve1", None, 9)
    assert "lspci is broken" in str(failure)
    assert {vm.node for vm in report.vms} == {"pve2", "pve3"}


def test_a_vm_that_cannot_be_read(pve: FakePve) -> None:
    pve.faults.answer(500, "some trouble", path="/nodes/pve3/qemu/300/")
    report = judged(pve)
    (failure,) = report.failures
    assert (failure.node, failure.vmid, failure.error.exit_code) == ("pve3", 300, 9)
    assert 300 not in {vm.vmid for vm in report.vms}
    assert codes(report).get(301) is None, "nobody else is known to want its device"


def test_a_vm_that_is_removed_meanwhile(pve: FakePve) -> None:
    def remove(state: Any) -> None:  # noqa: ANN401 - the fake's state
        del state.vms[202]

    pve.faults.meddle(remove, path="/nodes/pve2/qemu/202/")
    report = judged(pve)
    assert (report.failures, report.read) == ((), 8)


def test_a_vm_that_goes_to_another_node_meanwhile(pve: FakePve) -> None:
    def move(state: Any) -> None:  # noqa: ANN401 - the fake's state
        state.vms[202].node = "pve1"

    pve.faults.meddle(move, path="/nodes/pve2/qemu/202/")
    (failure,) = judged(pve).failures
    assert isinstance(failure.error, ApiConflictError)
    assert "gone to node pve1" in str(failure)


def test_a_login_that_runs_out_meanwhile(pve: FakePve) -> None:
    pve.faults.meddle(lambda state: state.expire_tickets(), path="/nodes/pve2/qemu/201/")
    report = judged(pve)
    assert (report.failures, report.read) == ((), 9)


def test_a_login_that_is_refused_meanwhile(pve: FakePve) -> None:
    """Nobody is asked on: a password that is tried a thousand times locks its user out."""

    def change(state: Any) -> None:  # noqa: ANN401 - the fake's state
        state.expire_tickets()
        state.users[ROOT] = User("another")

    pve.faults.meddle(change, path="/nodes/pve2/qemu/200/")
    report = judged(pve, jobs=2)
    assert {failure.error.exit_code for failure in report.failures} == {12}
    assert {failure.node for failure in report.failures} >= {"pve2", "pve3"}
    logins = [entry for entry in pve.state.log if entry.path == "/access/ticket" and entry.status != 200]
    assert 1 <= len(logins) <= 4


def test_a_token_that_is_refused_meanwhile(pve: FakePve) -> None:
    pve.state.users["op@pve"] = User("w", {"/": "PVEAuditor"}, {"t": Token("s", acl={"/": "PVEAuditor"})})

    def remove(state: Any) -> None:  # noqa: ANN401 - the fake's state
        state.users["op@pve"].tokens = {}

    pve.faults.meddle(remove, path="/nodes/pve2/qemu/200/")
    with client_of(pve, "op@pve", token=("t", "s")) as client:
        report = fleet.validate(client, jobs=1)
    assert [(one.node, one.error.exit_code) for one in report.failures] == [("pve2", 12), ("pve3", 12)]
    assert {vm.node for vm in report.vms} == {"pve1"}


def test_the_host_itself_goes_away(pve: FakePve) -> None:
    with client_of(pve) as client:
        known = survey.overview(client)
        pve.take_down("pve1")
        report = survey.walk(
            client, known.nodes.values(), known.vms.values(), lambda vms: vms.name, matters=fleet.matters, jobs=2
        )
    assert report.found == ()
    assert [failure.node for failure in report.failures] == ["pve1", "pve2", "pve3"]
    assert all(isinstance(failure.error, ApiUnreachableError) for failure in report.failures)
    assert len(pve.state.log) < 12


def test_a_slow_node(pve: FakePve) -> None:
    """Its answer comes in time, and the others do not wait for it."""
    pve.faults.slow(0.4, path="/nodes/pve1/qemu/100/")
    report = judged(pve, jobs=2)
    assert (report.failures, report.read) == ((), 9)


def test_a_node_that_does_not_answer_in_time(pve: FakePve) -> None:
    """Its VMs are given up after the first; the host that was asked answers for the other nodes, and so goes on."""
    pve.faults.slow(20, path="/nodes/pve2/qemu/", times=None)
    with connect(replace(profile_of(pve), timeout=2.0, retries=0)) as client:
        report = fleet.validate(client, jobs=1)
    (failure,) = report.failures
    assert (failure.node, failure.vmid, failure.error.exit_code) == ("pve2", None, 10)
    assert "nothing came within 2 s" in str(failure)
    assert (report.read, {vm.node for vm in report.vms}) == (6, {"pve1", "pve3"})
    assert sum(configs(pve)[f"/nodes/pve2/qemu/{vmid}/config"] for vmid in (200, 201, 202)) == 1


def test_a_cluster_that_cannot_be_read(pve: FakePve) -> None:
    pve.faults.answer(500, "no quorum", path="/cluster/resources")
    with pytest.raises(ApiError, match="no quorum"):
        judged(pve)


def test_what_fails_in_a_thread_is_not_lost(pve: FakePve) -> None:
    def visit(_: object) -> None:
        raise RuntimeError("a bug")

    with client_of(pve) as client:
        known = survey.overview(client)
        with pytest.raises(RuntimeError, match="a bug"):
            survey.walk(client, known.nodes.values(), known.vms.values(), visit, matters=fleet.matters)


# ---- memory


def test_what_is_held_does_not_grow_with_the_vms() -> None:
    """Configs of VMs that pass nothing are dropped at once: what is held is counted, in bytes."""
    held = []
    for count in (40, 160):
        vms = {100 + number: f"memory: 512\nname: vm{number}\nargs: {'x' * 2000}\n" for number in range(count)}
        with FakePve(Cluster({"pve1": data.Node([NIC], vms)})) as pve, client_of(pve) as client:
            known = survey.overview(client)
            tracemalloc.start()
            try:
                survey.walk(
                    client,
                    known.nodes.values(),
                    known.vms.values(),
                    lambda vms: vms.presents,
                    matters=fleet.matters,
                    jobs=1,
                )
                held.append(tracemalloc.get_traced_memory()[0])
            finally:
                tracemalloc.stop()
    assert held[1] - held[0] < 120 * 1000, "each config has 2000 characters"


# ---- the command


@pytest.fixture
def environment(pve: FakePve, monkeypatch: pytest.MonkeyPatch) -> FakePve:
    values = {"PVE_HOST": f"{pve.host}:{pve.port}", "PVE_USER": ROOT, "PVE_PASSWORD": PASSWORD}
    for name, value in {**values, "PVE_FINGERPRINT": pve.fingerprint}.items():
        monkeypatch.setenv(name, value)
    return pve


def test_command(environment: FakePve, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "validate"]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert "VM 102 on node pve1: 1 error\n  error PVP201 hostpci0: there is no PCI device 0000:05:00.0" in out
    assert "mappings: 1 error\n  error PVP412 gpu on node pve2: mapping gpu:" in out
    assert out.splitlines()[-1].startswith("9 VMs on 3 nodes checked: 4 errors")
    assert main(["fleet", "validate", "--ignore", "PVP2,PVP3,PVP4"]) == 0
    assert capsys.readouterr().out == "9 VMs on 3 nodes checked: fine, 6 left out by --ignore\n"
    environment.take_down("pve3")
    assert main(["fleet", "validate", "--select", "PVP201"]) == 10
    out, err = capsys.readouterr()
    assert err.startswith("pvepassthru: node pve3: it is offline")
    assert (
        out.splitlines()[-1] == "7 VMs on 2 of 3 nodes checked: 1 error, 3 left out by --select; not checked: node pve3"
    )
    environment.faults.answer(500, "some trouble", path="/nodes/pve1/qemu/100/")
    environment.faults.answer(500, "lspci is broken", path="/nodes/pve2/hardware/pci")
    assert main(["fleet", "validate", "--select", "PVP201"]) == 9
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("3 VMs on 1 of 3 nodes checked: 1 error, ")
    assert last.endswith("; not checked: node pve2, pve3; VM 100")
    assert main(["fleet", "validate", "--node", "pve1", "--select", "PVP426", "--fail-on", "info"]) == 0
    capsys.readouterr()
    assert main(["fleet", "validate", "--node", "nope"]) == 3
    assert capsys.readouterr().err == "pvepassthru: the cluster has no node nope; its nodes are pve1, pve2, pve3\n"
    assert main(["fleet", "validate", "--jobs", "99"]) == 2


def test_json(environment: FakePve, capsys: pytest.CaptureFixture[str]) -> None:
    environment.faults.answer(500, "some trouble", path="/nodes/pve1/qemu/100/")
    assert main(["fleet", "validate", "--json"]) == 9
    out, err = capsys.readouterr()
    shape: Mapping[str, Any] = json.loads(out)
    assert list(shape) == ["ok", "nodes", "checked", "vms", "mappings", "failures", "notes"]
    assert (shape["ok"], shape["nodes"], shape["checked"]) == (False, ["pve1", "pve2", "pve3"], 8)
    first = shape["vms"][0]
    assert list(first) == ["vmid", "node", "running", "ok", "findings"]
    assert (first["vmid"], first["findings"][0]["code"]) == (102, "PVP201")
    assert list(first["findings"][0]) == ["code", "severity", "origin", "where", "message", "hint", "silenced"]
    assert [(of["node"], of["finding"]["code"]) for of in shape["mappings"]] == [("pve2", "PVP412")]
    (failure,) = shape["failures"]
    assert {**failure, "message": "", "hint": ""} == {"node": "pve1", "vmid": 100, "code": 9, "message": "", "hint": ""}
    assert err == f"pvepassthru: VM 100 on node pve1: {failure['message']}\n"
    assert PASSWORD not in out + err
    again = main(["fleet", "validate", "--json"])
    assert (again, json.loads(capsys.readouterr().out)["failures"]) == (1, [])


class Terminal:
    def __init__(self, *, tty: bool = True) -> None:
        self.tty = tty
        self.text = ""

    def isatty(self) -> bool:
        return self.tty

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        """Nothing to do."""


def test_progress_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    with progress.Bar("VMs") as bar:
        bar(0, 0)
        bar(1, 4)
        bar(4, 4)
    assert "[#####" in shown.text
    assert shown.text.endswith(" 4 of 4 VMs\r\x1b[K")
    assert "\x1b[" not in shown.text.removesuffix("\x1b[K"), "no colour"
    assert all(len(line) <= 60 for line in shown.text.split("\r"))
    for terminal, quiet, term in (
        (Terminal(), True, "xterm"),
        (Terminal(tty=False), False, "xterm"),
        (Terminal(), False, "dumb"),
    ):
        monkeypatch.setenv("TERM", term)
        monkeypatch.setattr(sys, "stderr", terminal)
        with progress.Bar("VMs", quiet=quiet) as bar:
            bar(1, 2)
        assert terminal.text == ""


def test_progress_counts_every_vm(pve: FakePve) -> None:
    seen: list[tuple[int, int]] = []
    pve.take_down("pve2")
    judged(pve, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 9) for number in range(1, 10)]
