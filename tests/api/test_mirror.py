# SPDX-License-Identifier: Apache-2.0
"""On a mirror of a host, made of what the API would tell of it, the rules find less than on the host, and nothing else.

Every example of every rule (tests/rules) is a host for that.
"""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.api import judgement, mirror, present, wish
from pvepassthru.api.generate import generate
from pvepassthru.api.mirror import Cluster
from pvepassthru.host import cluster as files
from pvepassthru.host import holders, vms
from pvepassthru.host.cluster import Resource
from pvepassthru.host.host import Host
from pvepassthru.host.inventory import Inventory
from pvepassthru.host.memory import Link, MemoryHost
from pvepassthru.model import mapping
from pvepassthru.model.errors import PassthruError
from pvepassthru.model.finding import Finding
from pvepassthru.rules import catalogue
from pvepassthru.rules import subject as subjects
from pvepassthru.rules.catalogue import BY_CODE
from pvepassthru.rules.rule import NotApplicable, Unknown
from pvepassthru.rules.subject import Surroundings
from tests.api import node, told
from tests.rules.example import DEVICES, UUID, VF, VFS, Tree
from tests.rules.test_rules import EXAMPLES, HOST_EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pvepassthru.rules.rule import Rule
    from pvepassthru.rules.subject import Hit

UNREADABLE = {"PVP330", "PVP411"}
"""Codes whose bad host has a file that the API could not read either: it would answer with an error."""
OWN_LEFT = ("PVP212", 1)
"""A host on which the VM's own instance is left of an earlier start, which nobody sees by the API."""
ELSEWHERE = {"PVP413"}
"""Findings on mappings may name the other one of two: the API does not tell the order of the file."""
CLUSTER = tuple(rule for rule in catalogue.RULES if rule.step == "cluster")
FOUND = (
    *("PVP201", "PVP202", "PVP203", "PVP205", "PVP210", "PVP211", "PVP212", "PVP215", "PVP220", "PVP230", "PVP280"),
    *("PVP310", "PVP311", "PVP314", "PVP315", "PVP316", *(f"PVP{code}" for code in range(320, 329))),
    *("PVP340", "PVP341", "PVP342", "PVP343", "PVP344", "PVP345", "PVP346", "PVP347", "PVP348", "PVP349", "PVP350"),
    *("PVP351", "PVP352", "PVP360", "PVP363", *(f"PVP{code}" for code in range(401, 410)), "PVP214", "PVP275"),
    *("PVP425", "PVP426", "PVP427", "PVP428", "PVP432", "PVP433", "PVP434", "PVP435"),
    *("PVP450", "PVP451", "PVP452", "PVP453", "PVP454"),
    *("PVP412", "PVP413", "PVP414", "PVP415", "PVP416"),
)
"""What the API tells enough for."""
TREES = [
    pytest.param(code, place, made, id=f"{word}-{code}-{place}")
    for word, examples in (("vm", EXAMPLES), ("host", HOST_EXAMPLES))
    for code, pair in examples.items()
    for place, made in enumerate(pair)
    if (made.config or made.mapping) and (place or code not in UNREADABLE)
]


def found_on(host: Host) -> set[tuple[str, int, str]]:
    """Code, VM (0 of the cluster) and key of all findings but those on the host."""
    around = Surroundings(host)
    found = set()
    for vmid in vms.vmids(host):
        try:
            subject = subjects.load(host, vmid, pending=True, around=around, lenient=True)
        except PassthruError:
            continue
        found |= {(finding.code, vmid, key(finding)) for finding in catalogue.findings(subject)}
    for rule in CLUSTER:
        for hit in of_cluster(rule, around):
            found.add((rule.code, 0, "" if rule.code in ELSEWHERE else hit.where.rpartition(" ")[2]))
    return found


def of_cluster(rule: Rule, around: Surroundings) -> list[Hit]:
    try:
        return list(rule.on_host(around)) if rule.on_host else []
    except (NotApplicable, Unknown):
        return []


def key(finding: Finding) -> str:
    return finding.where.rpartition(" ")[2]


@pytest.mark.parametrize("code, place, made", TREES)
def test_no_rule_fires_for_lack_of_a_source(code: str, place: int, made: Tree, tmp_path: Path) -> None:
    host = made.build(tmp_path)
    seen = told.mirrored(host)
    found = found_on(seen)
    more = found - found_on(host)
    if (code, place) == OWN_LEFT:
        assert {name for name, _, _ in more} == {"PVP212"}
    else:
        assert more == set()
    assert not seen.unreadable
    assert not {name for name, vmid, _ in found if vmid} & mirror.NEVER
    if code in FOUND and not place:
        assert code in {name for name, _, _ in found}


# ---- mediated devices, whose instances the API does not tell


MOST = {"nvidia-63": 8, "nvidia-64": 4}
PARENT = "0000:41:00.0"


def parent(available: Mapping[str, int]) -> dict[str, Any]:
    """A GPU that offers so many of its types."""
    types = {
        kind: {
            "available": str(left),
            "name": f"GRID P4-{8 // MOST[kind]}Q",
            "description": f"max_instance={MOST[kind]}",
        }
        for kind, left in available.items()
    }
    return {**DEVICES[PARENT], "mdev": {"types": types}}


def codes(made: Tree, root: Path) -> set[tuple[str, int]]:
    """What is found on the mirror; on the host nothing less."""
    host = made.build(root)
    seen = found_on(told.mirrored(host))
    assert seen <= found_on(host)
    return {(code, vmid) for code, vmid, _ in seen}


def test_a_running_vm_has_its_instance(tmp_path: Path) -> None:
    """Nothing is left, and 100 has one of them; 101, which does not run, gets none."""
    one = f"hostpci0: {PARENT},mdev=nvidia-63\n"
    left = {"nvidia-63": 0, "nvidia-64": 0}
    device = parent(left)
    device["mdev"]["instances"] = {f"00000000-0000-0000-0000-{100 + number:012d}": "nvidia-63" for number in (0, 2, 3)}
    made = Tree(one, {PARENT: device}, running={100: 4711}, others={101: one})
    assert codes(made, tmp_path) == {("PVP212", 101)}


@pytest.mark.parametrize(
    "later, found",
    [("delete: hostpci0", set()), (f"hostpci0: {PARENT},mdev=nvidia-64", {("PVP429", 109)})],
    ids=["no entry", "another type"],
)
def test_a_running_vm_has_what_is_in_force(later: str, found: set[tuple[str, int]], tmp_path: Path) -> None:
    """Whatever it has from its next start on; so it is known, too, that eight of a type is all that the GPU takes."""
    entry = f"hostpci0: {PARENT},mdev=nvidia-63\nonboot: 1\n"
    device = parent({"nvidia-63": 7, "nvidia-64": 0})
    device["mdev"]["instances"] = {UUID: "nvidia-63"}
    others = dict.fromkeys(range(101, 110), entry)
    made = Tree(f"{entry}[PENDING]\n{later}\n", {PARENT: device}, running={100: 4711}, others=others)
    assert codes(made, tmp_path) == found
    (instance,) = Inventory(told.mirrored(Host(str(tmp_path)))).mdevs()
    assert (instance.uuid, instance.parent, instance.type) == (UUID, PARENT, "nvidia-63")


@pytest.mark.parametrize("left, short", [(8, set()), (5, set()), (7, {("PVP429", 108)})])
def test_room_after_a_boot_is_told_only_where_all_that_is_on_a_gpu_is_known(
    left: int, short: set[tuple[str, int]], tmp_path: Path
) -> None:
    """Nine VMs start by themselves, one of which runs; eight is what the GPU takes."""
    one = f"hostpci0: {PARENT},mdev=nvidia-63\nonboot: 1\n"
    device = parent({"nvidia-63": left, "nvidia-64": 0})
    device["mdev"]["instances"] = {UUID: "nvidia-63"}
    if left == 5:
        device["mdev"]["instances"] |= {
            f"c0ffee00-0000-0000-0000-00000000000{number}": "nvidia-63" for number in (1, 2)
        }
    made = Tree(one, {PARENT: device}, running={100: 4711}, others=dict.fromkeys(range(101, 109), one))
    host = made.build(tmp_path)
    assert {(code, vmid) for code, vmid, _ in found_on(told.mirrored(host))} == short


def test_a_vendor_vgpu_is_never_in_doubt(tmp_path: Path) -> None:
    """A VF that has a type offers none, and its VM's next start is fine."""
    taken = {"creatable": [], "current": "35"}
    devices = {"0000:a1:00.4": {"nvidia": taken}, "0000:a1:00.5": {"nvidia": taken}}
    made = Tree("hostpci0: mapping=vgpu,mdev=nvidia-35\n", devices, mapping=VFS, running={100: 4711})
    assert codes(made, tmp_path) == set()


def test_more_vms_start_than_there_are_vfs(tmp_path: Path) -> None:
    one = "hostpci0: mapping=vgpu,mdev=nvidia-35\nonboot: 1\n"
    made = Tree(one, mapping=VFS, others={101: one, 102: one})
    assert codes(made, tmp_path) == {("PVP430", 102)}


def test_vfs_with_the_kernels_own_types(tmp_path: Path) -> None:
    """NVIDIA's before kernel 6.8: several entries may name one VF, and nobody takes it whole."""
    types = {"nvidia-63": {"available": "1", "name": "GRID P4-1Q", "description": "max_instance=8"}}
    vf: dict[str, Any] = {**VF, "physfn": "0000:b1:00.0", "mdev": {"types": types}}
    devices: dict[str, dict[str, Any]] = {
        "0000:b1:00.0": {**DEVICES["0000:a1:00.0"], "iommu_group": 70},
        "0000:b1:00.4": {**vf, "iommu_group": 71},
        "0000:b1:00.5": {**vf, "iommu_group": 72},
    }
    one = "hostpci0: b1:00.4,mdev=nvidia-63\nonboot: 1\n"
    made = Tree(f"{one}hostpci1: b1:00.4,mdev=nvidia-63\n", devices, others={101: one})
    assert codes(made, tmp_path) <= {("PVP212", 100)}
    hardware_of = told.node_hardware(Host(str(tmp_path)))
    assert mirror.vendor(hardware_of) == {"0000:a1:00.0", "0000:a1:00.4", "0000:a1:00.5"}
    wanted = {"0000:41:00.0", "0000:a1:00.4", "0000:a1:00.5", "0000:b1:00.5", "0000:02:00.0"}
    assert mirror.asked(hardware_of, wanted) == ("0000:41:00.0", "0000:a1:00.4", "0000:b1:00.5")


def test_types_that_nobody_asked_for_fit(tmp_path: Path) -> None:
    host = Tree(f"hostpci0: {PARENT},mdev=nvidia-99\n").build(tmp_path)
    hardware_of = told.node_hardware(host)
    now = present.of_file(100, host.node, host.read(vms.config_path(100)))
    seen = mirror.host(hardware_of, mapping.EMPTY, [now], untold={PARENT})
    assert found_on(seen) == set()
    assert {code for code, _, _ in found_on(mirror.host(hardware_of, mapping.EMPTY, [now]))} == {"PVP211"}


# ---- a VF that the hook may make


@pytest.mark.parametrize(
    "config, found",
    [
        ("hostpci0: 02:00.1\nhookscript: local:snippets/pvepassthru\n", set()),
        ("hostpci0: 02:00.1\n", {("PVP201", 100)}),
        ("hostpci0: 03:00.0\nhookscript: local:snippets/pvepassthru\n", {("PVP201", 100)}),
        ("hostpci0: a1:00.6\nhookscript: local:snippets/pvepassthru\n", {("PVP201", 100)}),
    ],
)
def test_a_vf_that_the_hook_may_make(config: str, found: set[tuple[str, int]], tmp_path: Path) -> None:
    """The policy is not told. Without a PF before it on its bus it is none, and a PF that has VFs keeps them."""
    host = Tree(config).build(tmp_path)
    assert {(code, vmid) for code, vmid, _ in found_on(told.mirrored(host))} == found


# ---- a change, judged on a mirror


def test_a_change_is_judged_on_a_mirror(tmp_path: Path) -> None:
    """As apply does it: what is new, what goes, and the host itself is not needed."""
    config = "hostpci0: 04:00.0,pcie=1,romfile=gone.rom\nmemory: 512\nballoon: 0\nhookscript: away:snippets/x\n"
    host = node.build(tmp_path, {100: config, 101: "hostpci0: 01:00\n"})
    seen = told.mirrored(host)
    now = present.of_file(100, node.NODE, config.encode())
    change = generate(now, wish.of_arguments(devices=["01:00.0"]), told.node_hardware(host), mapping.EMPTY)
    found = judgement.judge(seen, change)
    assert "PVP310" in {one.code for one in found.gone}
    assert any("VM 101" in one.message for one in found.new)
    assert not {"PVP231", "PVP394"} & {one.code for one in (*found.new, *found.remaining, *found.gone)}
    assert not found.refused


def test_a_finding_says_nothing_of_lines(tmp_path: Path) -> None:
    host = HOST_EXAMPLES["PVP414"][0].build(tmp_path)
    hits = of_cluster(BY_CODE["PVP414"], Surroundings(told.mirrored(host)))
    assert hits
    for one in [mirror.plain(Finding("PVP414", "warning", "own", *hit)) for hit in hits]:
        assert "line" not in f"{one.where} {one.message} {one.hint}"
        assert one.where.startswith("/etc/pve/mapping/pci.cfg ")


def test_the_cluster_that_it_is_in(tmp_path: Path) -> None:
    host = Tree("memory: 512\n").build(tmp_path)
    rows: dict[str, Any] = {
        "resources": [{"sid": "vm:100", "state": "started", "digest": "x", "comment": "two\nlines", "failback": True}],
        "rules": [{"rule": "here", "type": "node-affinity", "nodes": "pve,b:2", "resources": "vm:100", "strict": 1}],
    }
    seen = mirror.host(told.node_hardware(host), mapping.EMPTY, [], cluster=Cluster(("b", "pve"), **rows))
    assert files.nodes(seen) == ("b", "pve")
    there = Resource(100, 1, started=True, nodes=("pve", "b"), strict=True, said_by="node affinity rule here")
    assert files.ha_resources(seen) == {100: there}


# ---- files in memory


def test_files_in_memory() -> None:
    host = MemoryHost(
        "n", {"/a/b": b"one\n", "/a/c": Link("/a"), "/d": None, "/a/loop": Link("/a/loop"), "/x": Link("/y")}
    )
    assert host.read("/a/c/c/b") == b"one\n"
    assert host.text("/a/b") == "one"
    assert host.head("/a/b", 2) == b"on"
    assert host.names("/a/c") == ["b", "c", "loop"]
    assert (host.names("/d"), host.names("/a/b"), host.names("/z")) == ([], [], [])
    assert (host.link("/a/c"), host.link("/a/b"), host.link("/z")) == ("a", None, None)
    assert host.resolve("/a/c/../a/b") == "/a/b"
    assert (host.resolve("/x"), host.exists("/x"), host.exists("/d")) == (None, False, True)
    modes = [host.mode(path) or 0 for path in ("/a/b", "/d", "/z")]
    assert (stat.S_ISREG(modes[0]), stat.S_ISDIR(modes[1]), modes[2]) == (True, True, 0)
    assert not host.unreadable
    for path, number in (
        ("/a", errno.EISDIR),
        ("/z", errno.ENOENT),
        ("/a/b/c", errno.ENOTDIR),
        ("/a/loop", errno.ELOOP),
    ):
        with pytest.raises(OSError, match=path) as raised:
            host.read(path)
        assert raised.value.errno == number
    with pytest.raises(OSError, match="large") as raised:
        host.read("/a/b", 3)
    assert raised.value.errno == errno.EFBIG
    with pytest.raises(OSError, match="Not a directory"):
        MemoryHost("n", {"/a": b"", "/a/b": b""})


def test_nothing_is_written_nor_read_of_this_machine() -> None:
    host = MemoryHost("n", {})
    assert (host.text("/etc/hostname"), host.names("/proc"), host.mode("/")) == (None, [], stat.S_IFDIR | 0o555)
    assert holders.opened(host) == {}
    acts: list[Callable[[], None]] = [
        lambda: host.write("/a", "1"),
        lambda: host.append("/a", "1"),
        lambda: host.replace("/a", b""),
        lambda: host.remove("/a"),
    ]
    for act in acts:
        with pytest.raises(OSError, match="Read-only"):
            act()
