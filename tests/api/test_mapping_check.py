# SPDX-License-Identifier: Apache-2.0
"""What is found wrong with mappings: against each node's hardware, against VMs, and by PVE itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pvepassthru.api import mapping_check, mapping_plan, mapping_wish, mappings, nodes
from pvepassthru.model.errors import ApiMissingError, ApiUnreachableError
from tests.api import mapping_cluster
from tests.api.fake_pve import data, hardware
from tests.api.fake_pve.server import FakePve
from tests.api.mapping_cluster import GPU_LINE, GPU_LINE2, client_of, mapping

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pvepassthru.api.client import Client
    from pvepassthru.api.mapping_check import Drift

GOOD = mapping(
    "gpu", GPU_LINE, GPU_LINE2, "node=pve3,path=0000:01:00.0,id=10de:2204,subsystem-id=10de:147d,iommugroup=7"
)


class Scene:
    def __init__(self, pve: FakePve, client: Client) -> None:
        self.pve = pve
        self.client = client

    def check(
        self, text: str, names: Sequence[str] = (), nodes: Sequence[str] = (), *, vms: bool = False
    ) -> tuple[Drift, ...]:
        self.pve.state.mapping_text = text
        return mapping_check.check(self.client, names, nodes, vms=vms).drifts

    def errors(self, text: str, nodes: Sequence[str] = ()) -> list[tuple[str | None, str, str | None, str, str]]:
        drifts = self.check(text, nodes=nodes)
        return [(one.code, one.mapping, one.node, one.message, one.hint) for one in drifts if one.severity == "error"]


@pytest.fixture
def scene() -> Iterator[Scene]:
    with FakePve(mapping_cluster.cluster()) as pve, client_of(pve) as client:
        yield Scene(pve, client)


def test_what_fits(scene: Scene) -> None:
    found = scene.check(GOOD)
    assert [(one.code, one.severity) for one in found] == [("PVP415", "info")], "only that the models differ"


@pytest.mark.parametrize(
    "old, new, message, hint",
    [
        (
            "path=0000:81:00,",
            "path=0000:80:00,",
            "there is no PCI device 0000:80:00.0",
            "is at 0000:81:00.0 of node pve2",
        ),
        ("path=0000:81:00,", "path=0000:06:00,", "id is 10de:1b80, and 0000:06:00.0 has 144d:a808", "0000:81:00.0 of"),
        ("iommugroup=40", "iommugroup=41", "iommugroup is 41, and 0000:81:00.0 has 40", "mapping plan gpu"),
        (",iommugroup=40", "", "iommugroup is missing, and 0000:81:00.0 has 40", "add iommugroup=40"),
        ("1462:3362", "1462:3363", "subsystem-id is 1462:3363, and 0000:81:00.0 has 1462:3362", "no other device"),
    ],
    ids=["gone", "renumbered", "group", "no group", "subsystem"],
)
def test_drift(scene: Scene, old: str, new: str, message: str, hint: str) -> None:
    changed = GPU_LINE2.replace(old, new)
    assert changed != GPU_LINE2
    found = scene.errors(mapping("gpu", GPU_LINE, changed))
    assert found[0][:3] == ("PVP412", "gpu", "pve2")
    assert message in found[0][3]
    assert hint in found[0][4]
    assert hardware.faults(scene.pve.state, "pve2", "gpu"), "PVE thinks so, too"


def test_a_device_whose_line_is_wrong_is_not_called_lacking(scene: Scene) -> None:
    """One line has another group than its device, the other no device; what both are to have is at one place."""
    wrong = GPU_LINE2.replace("=40", "=99")
    found = scene.errors(mapping("gpu", wrong, GPU_LINE2.replace("81:00", "80:00")))
    gone = next(one for one in found if "there is no PCI device 0000:80:00.0" in one[3])
    assert gone[4].startswith("node pve2 has no other device 10de:1b80 that the mapping lacks")


def test_what_another_mapping_has_is_not_proposed(scene: Scene) -> None:
    other = "node=pve2,path=0000:82:00,id=10de:1b80,subsystem-id=1043:8591,iommugroup=41"

    def hint(text: str) -> str:
        drifts = scene.check(text, ["one"], ["pve2"])
        return next(one.hint for one in drifts if one.node == "pve2")

    one = mapping("one", GPU_LINE)
    assert hint(one) == "pvepassthru mapping plan one --node pve2 --device 10de:1b80"
    partly = hint(one + mapping("two", other))
    assert partly == "pvepassthru mapping plan one --node pve2 --device 0000:81:00.0 --only"
    words = "the devices 10de:1b80 of node pve2 are in mapping two, so such VMs are to stay on the others"
    assert hint(one + mapping("two", other, GPU_LINE2)) == words


def test_a_flag_that_the_device_is_not(scene: Scene) -> None:
    ((code, name, node, message, _),) = scene.errors(mapping("gpu", GPU_LINE, mdev=1))
    assert (code, name, node) == ("PVP412", "gpu", "pve1")
    assert "mdev is 1, and 0000:01:00.0 has no mediated devices" in message


def test_a_node_without_an_entry_once(scene: Scene) -> None:
    found = [one for one in scene.check(mapping("gpu", GPU_LINE, GPU_LINE2)) if one.node]
    assert [(one.severity, one.origin, one.node) for one in found] == [("info", "own", "pve3")]


def test_the_rules_on_mappings(scene: Scene) -> None:
    text = (
        mapping("one", GPU_LINE, GPU_LINE) + mapping("two", GPU_LINE) + mapping("far", GPU_LINE.replace("pve1", "pve8"))
    )
    found = {(one.code, one.mapping): one for one in scene.check(text) if one.code}
    assert set(found) == {("PVP414", "one"), ("PVP413", "two"), ("PVP416", "far")}
    assert found["PVP413", "two"].message == "0000:01:00 of node pve1 is in mapping two and in one"
    way = "pvepassthru mapping remove two --device pve1:0000:01:00"
    assert found["PVP413", "two"].hint == f"remove it from one of them, such as {way}"
    assert found["PVP414", "one"].message == "mapping one has 0000:01:00 of node pve1 twice"
    assert "which the cluster has not" in found["PVP416", "far"].message
    only = scene.check(text, names=["two"])
    assert {one.mapping for one in only} == {"two"}
    assert any(one.code == "PVP413" for one in only), "against all others, not only those that are named"


def test_what_two_mappings_have_is_found_of_either_and_told_once(scene: Scene) -> None:
    text = mapping("a1", GPU_LINE) + mapping("b2", GPU_LINE2) + mapping("c3", GPU_LINE) + mapping("d4", GPU_LINE)
    said = {
        names: [(one.mapping, one.message) for one in scene.check(text, names) if one.code == "PVP413"]
        for names in (("a1",), ("b2",), ("c3",), ("a1", "c3"), ())
    }
    two = "0000:01:00 of node pve1 is in mapping c3 and in a1"
    three = "0000:01:00 of node pve1 is in mapping d4 and in a1, c3"
    assert said == {
        ("a1",): [("a1", two), ("a1", three)],
        ("b2",): [],
        ("c3",): [("c3", two), ("c3", three)],
        ("a1", "c3"): [("a1", three), ("c3", two)],
        (): [("c3", two), ("d4", three)],
    }


def test_what_only_pve_says(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "faults", lambda _, node, name: [("error", f"{name}\nis odd")] * (node == "pve2"))
    found = [one for one in scene.check(GOOD) if one.node]
    assert [(one.severity, one.origin, one.node, one.code) for one in found] == [("error", "pve", "pve2", None)]
    assert "PVE says of mapping gpu on node pve2: gpu is odd" in found[0].message


def test_vms_and_mappings(scene: Scene) -> None:
    vms = {
        300: "hostpci0: mapping=gpu\n",
        301: "hostpci2: mapping=gup,pcie=1\nmachine: q35\n",
        302: "hostpci0: mapping=one\n",
        303: "hostpci0: mapping=nosuch\ntemplate: 1\n",
    }
    for vmid, text in vms.items():
        scene.pve.state.vms[vmid] = type(scene.pve.state.vms[100])("pve2", text)
    text = GOOD + mapping("one", GPU_LINE) + mapping("idle", GPU_LINE)
    found = [one for one in scene.check(text, vms=True) if one.vmid or (one.node is None and one.code is None)]
    assert [(one.code, one.severity, one.mapping, one.node, one.vmid) for one in found] == [
        ("PVP401", "error", "gup", "pve2", 301),
        (None, "info", "idle", None, None),
        ("PVP402", "error", "one", "pve2", 302),
    ]
    assert found[0].hint == "is gpu meant?"
    assert "no VM that root@pam sees uses mapping idle" in found[1].message
    assert found[2].message == "VM 302 hostpci0: mapping one has no device on node pve2"
    assert [one.vmid for one in scene.check(text, ["one"], vms=True) if one.vmid] == [302]
    assert [one.vmid for one in scene.check(text, nodes=["pve1"], vms=True) if one.vmid] == []


def test_a_change_that_waits_counts(scene: Scene) -> None:
    scene.pve.state.vm(101).text += "[PENDING]\nhostpci1: mapping=soon\n"
    assert [one.mapping for one in scene.check("", vms=True)] == ["soon"]


def test_what_a_vm_has_until_it_stops_is_in_use(scene: Scene) -> None:
    text = "hostpci0: mapping=one\n[PENDING]\ndelete: hostpci0\n"
    scene.pve.state.vms[300] = type(scene.pve.state.vms[100])("pve1", text, running=True)
    found = [one for one in scene.check(mapping("one", GPU_LINE), vms=True) if one.node is None]
    assert [one.message for one in found] == ["no VM that root@pam sees uses mapping one, but VM 300 until it stops"]
    assert found[0].hint == "stop VM 300 first; then if nobody needs it: pvepassthru mapping remove one"
    scene.pve.state.vms[301] = type(scene.pve.state.vms[100])("pve1", "hostpci0: mapping=one\n")
    assert not [one for one in scene.check(mapping("one", GPU_LINE), vms=True) if one.node is None]


def test_a_node_that_is_down_is_named(scene: Scene) -> None:
    scene.pve.state.vms[300] = type(scene.pve.state.vms[100])("pve2", "hostpci0: mapping=gpu\n")
    scene.pve.take_down("pve2")
    scene.pve.state.mapping_text = mapping("gpu", GPU_LINE, GPU_LINE2.replace("=40", "=1"))
    report = mapping_check.check(scene.client)
    assert (report.nodes, list(report.unread), report.wrong) == (("pve1", "pve3"), ["pve2"], False)
    assert not any("uses mapping" in one.message for one in report.drifts), "that cannot be told then"
    with pytest.raises(ApiUnreachableError, match="node pve2 is offline"):
        mapping_check.check(scene.client, nodes=["pve2"])


def test_a_config_that_cannot_be_read_is_named(scene: Scene) -> None:
    scene.pve.faults.answer(500, path="/qemu/101/", times=None)
    report = mapping_check.check(scene.client)
    assert list(report.unread) == ["VM 101"]


def test_a_node_whose_vms_cannot_be_read_is_named_once(scene: Scene) -> None:
    scene.pve.faults.answer(503, path="/nodes/pve1/qemu/", times=None)
    report = mapping_check.check(scene.client)
    assert list(report.unread) == ["pve1"]
    assert "not looked at" in str(report.unread["pve1"])


def test_pves_own_check_that_fails_is_named(scene: Scene) -> None:
    scene.pve.faults.answer(596, path="/cluster/mapping/pci", request=2, times=1)
    report = mapping_check.check(scene.client, nodes=["pve2"], vms=False)
    assert list(report.unread) == ["pve2"]


def test_unknown_names(scene: Scene) -> None:
    with pytest.raises(ApiMissingError, match="there is no mapping gup; is gpu meant"):
        scene.check(GOOD, ["gup"])
    with pytest.raises(ApiMissingError, match="the cluster has no node pve7"):
        scene.check(GOOD, nodes=["pve7"])


def test_who_sees_less_is_told_so() -> None:
    users = {"some@pve": data.User("word", {"/": "PVEAuditor", "/mapping": "NoAccess"})}
    cluster = data.Cluster(
        {"pve1": data.Node(vms={100: "hostpci0: mapping=gpu\n"})}, users, {"NoAccess": ""}, mappings=GOOD
    )
    with FakePve(cluster) as pve, client_of(pve, "some@pve", "word") as client:
        (found,) = mapping_check.check(client).drifts
    assert found.message == "VM 100 hostpci0: there is no mapping gpu, as far as some@pve sees"


def test_requests(scene: Scene) -> None:
    before = len(scene.pve.state.log)
    scene.check(GOOD)
    paths = [entry.path for entry in list(scene.pve.state.log)[before:]]
    assert len(paths) == 2 + 2 * 3, "the mappings, the nodes; of each node its hardware and PVE's check"
    assert scene.pve.state.writes == []


@pytest.mark.parametrize(
    "line, node, words",
    [
        (GPU_LINE, "pve2", ["--node", "pve2", "--device", "10de:1b80"]),
        ("node=pve1,path=0000:03:10.0,id=8086:10ed,subsystem-id=8086:7a11,iommugroup=20", "pve2", None),
        ("node=pve1,path=0000:04:00.0,id=144d:a808,subsystem-id=144d:a801,iommugroup=15", "pve2", None),
    ],
    ids=["model", "VF", "what the host may use"],
)
def test_the_command_of_a_hint_does_it(scene: Scene, line: str, node: str, words: list[str] | None) -> None:
    """A node without a device gets one by just the command that is named."""
    (drift,) = [one for one in scene.check(mapping("pool", line)) if one.node == node]
    said = drift.hint.removeprefix("pvepassthru mapping plan pool ").split()
    assert words is None or said == words
    args = dict(zip(said[::2], said[1::2], strict=True))
    sought = mapping_wish.of_arguments(args["--device"], "", "")
    client = scene.client
    plan = mapping_plan.plan("pool", mappings.read(client), nodes.read(client, [args["--node"]]), sought)
    assert next(change.node for change in plan.lines if change.new) == node


def test_a_node_with_none_of_the_kind(scene: Scene) -> None:
    (drift,) = [one for one in scene.check(mapping("gpu", GPU_LINE)) if one.node == "pve3"]
    assert drift.hint == "node pve3 has no device 10de:1b80, so such VMs are to stay on the others"
