# SPDX-License-Identifier: Apache-2.0
"""The fake PVE itself: what no recorded call shows."""

from __future__ import annotations

import hashlib
import http.client
import ssl
import subprocess
import threading
import urllib.parse
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.asking import CONFIG, GPU, TEXT, Got, ask, cluster
from tests.api.fake_pve import configtext, mappingtext, marks
from tests.api.fake_pve.apart import Apart
from tests.api.fake_pve.data import PASSWORD, Cluster, Node
from tests.api.fake_pve.server import FakePve

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pve() -> Iterator[FakePve]:
    with FakePve(cluster(), doors=("pve1", "pve2")) as fake:
        yield fake


# ---- who may come in


def test_password_and_ticket(pve: FakePve) -> None:
    got = ask(pve, "POST /access/ticket", {"username": "root@pam", "password": PASSWORD}, by={})
    headers = {"Cookie": f"PVEAuthCookie={urllib.parse.quote(got.data['ticket'])}"}
    assert ask(pve, f"GET {CONFIG}", by=headers).status == 200
    refused = ask(pve, f"PUT {CONFIG}", {"cores": "2"}, by=headers)
    assert refused.status == 401
    assert marks.BAD_CSRF in refused.reason
    headers["CSRFPreventionToken"] = got.data["CSRFPreventionToken"]
    assert ask(pve, f"PUT {CONFIG}", {"cores": "2"}, by=headers).status == 200
    again = {"username": "root@pam", "password": got.data["ticket"]}
    assert ask(pve, "POST /access/ticket", again, by={}).status == 200
    pve.state.expire_tickets()
    assert ask(pve, f"GET {CONFIG}", by=headers).status == 401
    assert ask(pve, "POST /access/ticket", again, by={}).status == 401


def test_second_factor(pve: FakePve) -> None:
    login = {"username": "otp@pve", "password": PASSWORD}
    assert ask(pve, "POST /access/ticket", {**login, "otp": "123456"}, by={}).data["ticket"]
    assert ask(pve, "POST /access/ticket", {**login, "otp": "000000"}, by={}).status == 401
    begun = ask(pve, "POST /access/ticket", login, by={}).data
    assert begun["NeedTFA"] == 1
    assert ask(pve, "GET /version", by={"Cookie": f"PVEAuthCookie={begun['ticket']}"}).status == 401
    answer = {"username": "otp@pve", "tfa-challenge": begun["ticket"], "password": "totp:123456"}
    assert "NeedTFA" not in ask(pve, "POST /access/ticket", answer, by={}).data
    assert ask(pve, "POST /access/ticket", answer, by={}).status == 401, "a challenge is good once"


def test_token_has_what_it_and_its_user_have(pve: FakePve) -> None:
    token = {"Authorization": "PVEAPIToken=op@pve!t=s"}
    assert ask(pve, f"GET {CONFIG}", by=token).status == 200
    assert ask(pve, "GET /nodes/pve1/qemu/101/config", by=token).status == 403
    pve.state.users["op@pve"].acl = {"/vms/100": "PVEAuditor"}
    assert ask(pve, f"PUT {CONFIG}", {"cores": "2"}, by=token).status == 403
    assert ask(pve, f"GET {CONFIG}", by={"Authorization": "PVEAPIToken=op@pve!t=x"}).status == 401


# ---- configs


def test_config_is_written_as_it_was() -> None:
    text = (
        "#first %25 line\n#\n#third\ncores: 2\nhostpci0: 01:00.0,pcie=1\n\n[PENDING]\ndelete: vga\nmemory: 600\n\n"
        "[snap]\n#note\ncores: 1\n\n[special:cloudinit]\nname: x\n"
    )
    config = configtext.parse(text)
    assert config.main["description"] == "first % line\n\nthird"
    assert configtext.write(config) == text
    assert config.effective()["memory"] == "600"


def test_what_does_not_fit_is_dropped_and_an_earlier_line_counts(pve: FakePve) -> None:
    pve.state.vm(100).text = "cores: 1\nhostpci0: 01:00.0\nhostpci0: 01:00.G\nhostpci16: 01:00\nnonsense: 1\nvga: x\n"
    data = ask(pve, f"GET {CONFIG}").data
    assert {key: value for key, value in data.items() if key != "digest"} == {"cores": 1, "hostpci0": "01:00.0"}
    assert ask(pve, f"PUT {CONFIG}", {"cores": "2"}).status == 200
    assert pve.state.vm(100).text == "cores: 2\nhostpci0: 01:00.0\n"


def test_mappings_are_written_as_they_were() -> None:
    text = f"gpu\n\tdescription the one\n\tmdev 1\n\tmap {GPU}\n\tmap node=pve2,path=0000:02:00.0,id=10de:1b80\n\n"
    assert mappingtext.write(mappingtext.parse(text)) == text


def test_refusal_in_the_middle_leaves_a_part_pending(pve: FakePve) -> None:
    pve.state.order = sorted
    values = {"cores": "2", "hostpci0": "0000:01:00.0", "memory": "600"}
    refused = ask(pve, f"PUT {CONFIG}", values, by="op@pve")
    assert refused.status == 500
    assert marks.ROOT_ONLY in refused.reason
    config = pve.state.vm(100).config
    assert (config.main["cores"], config.pending) == ("1", {"cores": "2"})
    assert ask(pve, f"GET {CONFIG}").data["cores"] == 2
    assert ask(pve, f"GET {CONFIG}", {"current": 1}).data["cores"] == 1
    assert ask(pve, f"PUT {CONFIG}", {"revert": "cores"}).status == 200
    assert pve.state.vm(100).text == TEXT


def test_revert_leaves_what_is_in_force(pve: FakePve) -> None:
    """A value that waits, a deletion that waits, a key that is only pending, and a disk, whose volume is kept."""
    vm = pve.state.vm(100)
    vm.running = True
    pending = "cpu: host\nefidisk0: local-lvm:vm-100-disk-7,size=4M\nhostpci0: mapping=gpu\ndelete: memory\n"
    vm.text = f"{TEXT}\n[PENDING]\n{pending}"
    before = vm.config.main
    assert ask(pve, f"PUT {CONFIG}", {"revert": "memory,cpu,efidisk0,hostpci0,vga"}).status == 200
    now = vm.config
    assert (now.pending, now.deletes) == ({}, [])
    assert now.main == before | {"unused0": "local-lvm:vm-100-disk-7"}


def test_revert_needs_the_device(pve: FakePve) -> None:
    """Of the value in force, which is written again, or of the pending one, which is deleted."""
    vm = pve.state.vm(100)
    vm.running = True
    vm.text = "hostpci0: 0000:01:00\n[PENDING]\nhostpci0: mapping=gpu\nhostpci1: 0000:01:00\n"
    for key in ("hostpci0", "hostpci1"):
        refused = ask(pve, f"PUT {CONFIG}", {"revert": key}, by="op@pve")
        assert (refused.status, marks.ROOT_ONLY in refused.reason) == (500, True)
    assert vm.config.pending == {"hostpci0": "mapping=gpu", "hostpci1": "0000:01:00"}


def test_bad_form_is_refused_before_anything_is_written(pve: FakePve) -> None:
    got = ask(pve, f"PUT {CONFIG}", {"cores": "2", "hostpci0": "garbage", "nonsense": "1"})
    assert (got.status, set(got.body["errors"])) == (400, {"hostpci0", "nonsense"})
    assert pve.state.vm(100).text == TEXT


def test_root_only_keys_are_refused_before_anything_is_written(pve: FakePve) -> None:
    for key, value in {"args": "-x", "hookscript": "local:snippets/pvepassthru"}.items():
        got = ask(pve, f"PUT {CONFIG}", {"cores": "2", key: value}, by="op@pve")
        assert (got.status, marks.ROOT_ONLY in got.reason) == (500, True)
    assert pve.state.vm(100).text == TEXT


@pytest.mark.parametrize(
    "values, path, privilege",
    [
        ({"cores": "2"}, "/vms/100", "VM.Config.CPU"),
        ({"memory": "600"}, "/vms/100", "VM.Config.Memory"),
        ({"machine": "pc"}, "/vms/100", "VM.Config.HWType"),
        ({"vga": "none"}, "/vms/100", "VM.Config.HWType"),
        ({"delete": "name"}, "/vms/100", "VM.Config.Options"),
        ({"bios": "ovmf"}, "/vms/100", "VM.Config.Options"),
        ({"startup": "order=1"}, "/", "Sys.Modify"),
    ],
)
def test_each_key_needs_its_privilege(pve: FakePve, values: dict[str, str], path: str, privilege: str) -> None:
    everything = ask(pve, "GET /access/permissions", {"path": "/"}).data["/"]
    less = {f"/{word}": "some" for word in ("mapping", "nodes", "storage", "vms")} | {"/": "some"}
    pve.state.users["op@pve"].acl = less
    pve.state.roles["some"] = frozenset(everything) - {privilege}
    refused = ask(pve, f"PUT {CONFIG}", values, by="op@pve")
    assert (refused.status, refused.reason) == (403, f"{marks.DENIED} ({path}, {privilege})")
    assert pve.state.vm(100).text == TEXT
    pve.state.roles["some"] |= {privilege}
    assert ask(pve, f"PUT {CONFIG}", values, by="op@pve").status == 200


def test_balloon_must_fit(pve: FakePve) -> None:
    assert ask(pve, f"PUT {CONFIG}", {"balloon": "600"}).status == 500
    assert ask(pve, f"PUT {CONFIG}", {"balloon": "600", "memory": "current=700"}).status == 200
    assert ask(pve, f"PUT {CONFIG}", {"memory": "599"}).status == 500
    assert pve.state.vm(100).config.main["memory"] == "current=700"


def test_running_vm(pve: FakePve) -> None:
    path = "/nodes/pve1/qemu/101/config"
    assert ask(pve, f"PUT {path}", {"hostpci0": "mapping=gpu", "tags": "a", "delete": "memory"}).status == 200
    config = pve.state.vm(101).config
    assert config.main == {"memory": "512", "tags": "a"}
    rows = {row["key"]: row for row in ask(pve, "GET /nodes/pve1/qemu/101/pending").data}
    assert rows["hostpci0"] == {"key": "hostpci0", "pending": "mapping=gpu"}
    assert rows["memory"] == {"key": "memory", "value": "512", "delete": 1}
    assert "memory" not in ask(pve, f"GET {path}").data
    assert ask(pve, f"PUT {path}", {"cores": "2", "memory": "512"}).status == 200
    assert pve.state.vm(101).config.deletes == [], "the value in force needs no waiting"
    assert ask(pve, f"PUT {path}", {"delete": "cores", "memory": "600"}).status == 200
    assert pve.state.vm(101).config.pending == {"hostpci0": "mapping=gpu", "memory": "600"}
    assert ask(pve, f"PUT {path}", {"memory": "512"}).status == 200
    assert ask(pve, "POST /nodes/pve1/qemu/101/status/stop").status == 200
    assert pve.state.vm(101).config.main == {"hostpci0": "mapping=gpu", "memory": "512", "tags": "a"}


def test_efi_disk_is_made(pve: FakePve) -> None:
    asked = "local-lvm:1,efitype=4m,pre-enrolled-keys=1"
    values = {"cores": "2", "efidisk0": asked}
    assert ask(pve, f"PUT {CONFIG}", values, by="op@pve").status == 403, "no right on the storage"
    for value in ("nosuch:1", "small:1"):
        assert ask(pve, f"PUT {CONFIG}", {"cores": "2", "efidisk0": value}).status == 500
    assert pve.state.vm(100).text == TEXT
    assert ask(pve, f"PUT {CONFIG}", {"efidisk0": asked}).status == 200
    made = "local-lvm:vm-100-disk-1,efitype=4m,pre-enrolled-keys=1,size=4M"
    assert pve.state.vm(100).config.main["efidisk0"] == made
    assert ask(pve, f"PUT {CONFIG}", {"delete": "efidisk0"}).status == 200
    assert pve.state.vm(100).config.main["unused0"] == "local-lvm:vm-100-disk-1"


def test_task_changes_when_it_ends(pve: FakePve) -> None:
    pve.state.polls["qmconfig"] = 1
    upid = ask(pve, f"POST {CONFIG}", {"cores": "2"}).data
    status = f"/nodes/pve1/tasks/{upid}/status"
    assert ask(pve, f"GET {status}").data["status"] == "running"
    assert pve.state.vm(100).text == TEXT
    assert ask(pve, f"GET {status}").data["exitstatus"] == "OK"
    assert pve.state.vm(100).config.main["cores"] == "2"


def test_task_fails(pve: FakePve) -> None:
    pve.state.order = sorted
    upid = ask(pve, f"POST {CONFIG}", {"cores": "2", "hostpci0": "0000:01:00.0"}, by="op@pve").data
    status = ask(pve, f"GET /nodes/pve1/tasks/{upid}/status").data
    assert marks.ROOT_ONLY in status["exitstatus"]
    assert pve.state.vm(100).config.pending == {"cores": "2"}


def test_list_of_a_map_is_replaced(pve: FakePve) -> None:
    second = "node=pve2,path=0000:02:00.0,id=10de:1b80"
    before = pve.state.mapping_digest
    assert ask(pve, "PUT /cluster/mapping/pci/gpu", {"map": [GPU, second], "digest": before}).status == 200
    assert pve.state.mappings["gpu"].map == [GPU, second]
    stale = ask(pve, "PUT /cluster/mapping/pci/gpu", {"map": second, "digest": before})
    assert (stale.status, marks.STALE_MAPPING in stale.reason) == (500, True)
    bad = ask(pve, "PUT /cluster/mapping/pci/gpu", {"map": [GPU, "node=pve2"]})
    assert "map[1]" in bad.body["errors"]


def test_mdev_types_of_a_mapping(pve: FakePve) -> None:
    pve.state.mapping_text += "vgpu\n\tmdev 1\n\tmap node=pve1,path=0000:02:00.0,id=10de:2231,iommugroup=3\n"
    row = {"type": "nvidia-63", "available": 2, "description": "", "name": "A5000-1Q"}
    assert ask(pve, "GET /nodes/pve1/hardware/pci/vgpu/mdev").data == [row]
    rows = ask(pve, "GET /cluster/mapping/pci", {"check-node": "pve1"}).data
    assert {row["id"]: row["checks"] for row in rows} == {"gpu": [], "vgpu": []}


# ---- nodes


def test_node_down(pve: FakePve) -> None:
    path = "/nodes/pve2/qemu/200/config"
    assert ask(pve, f"GET {path}").data["name"] == "two"
    pve.take_down("pve2")
    assert ask(pve, f"GET {path}") == Got(596, "node pve2 does not answer", "")
    assert ask(pve, "GET /cluster/mapping/pci", {"check-node": "pve2"}).status == 596
    with pytest.raises(ConnectionRefusedError):
        ask(pve, "GET /version", node="pve2")
    assert {row["node"]: row["status"] for row in ask(pve, "GET /nodes").data} == {
        "pve1": "online",
        "pve2": "offline",
    }
    assert [row["status"] for row in ask(pve, "GET /cluster/resources", {"type": "vm"}).data][-1] == "unknown"
    assert [row["online"] for row in ask(pve, "GET /cluster/status").data if row["type"] == "node"] == [1, 0]
    pve.bring_up("pve2")
    assert ask(pve, f"GET {path}", node="pve2").status == 200


def test_each_node_has_its_fingerprint(pve: FakePve) -> None:
    shown = {row["node"]: row["ssl_fingerprint"] for row in ask(pve, "GET /nodes").data}
    for node, port in pve.ports.items():
        certificate = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((pve.host, port)))
        assert shown[node] == pve.state.fingerprints[node]
        assert shown[node].replace(":", "").lower() == _sha256(certificate)
    assert pve.fingerprint == shown["pve1"] != shown["pve2"]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("version, groups, rules", [("8.4.14", 200, 501), ("9.2.11", 500, 200)])
def test_groups_or_rules(version: str, groups: int, rules: int) -> None:
    resources = [{"sid": "vm:100", "type": "vm", "state": "started"}]
    with FakePve(cluster(version=version, ha_resources=resources)) as fake:
        assert ask(fake, "GET /cluster/ha/groups").status == groups
        assert ask(fake, "GET /cluster/ha/rules").status == rules
        assert ask(fake, "GET /cluster/ha/resources").data == resources
        assert ask(fake, "GET /nodes/pve1/qemu/100/status/current").data["ha"] == {"managed": 1}


# ---- size


def test_large_cluster() -> None:
    nodes = {
        f"pve{node}": Node(vms=dict.fromkeys(range(100 + 125 * node, 225 + 125 * node), TEXT)) for node in range(32)
    }
    with FakePve(Cluster(nodes)) as fake:
        rows = ask(fake, "GET /cluster/resources", {"type": "vm"}).data
        assert len(rows) == 4000
        found: list[int] = []
        share = [rows[start::8] for start in range(8)]
        threads = [threading.Thread(target=_read, args=(fake, part[:40], found)) for part in share]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [200] * 320


def _read(fake: FakePve, rows: list[dict[str, Any]], found: list[int]) -> None:
    found += [ask(fake, f"GET /nodes/{row['node']}/qemu/{row['vmid']}/config").status for row in rows]


def test_process_of_its_own() -> None:
    with Apart(cluster()) as place:
        context = ssl.create_default_context(cafile=place.ca_file)
        connection = http.client.HTTPSConnection(place.host, place.port, timeout=20, context=context)
        connection.request("GET", "/api2/json/version")
        assert connection.getresponse().status == 401
        connection.close()
    with pytest.raises(ConnectionRefusedError):
        connection.connect()


def test_certificates_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are what would make each start slow."""
    with FakePve():
        pass
    made: list[object] = []
    monkeypatch.setattr(subprocess, "run", lambda *words, **_: made.append(words))
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **_: made.append(words))
    with FakePve(cluster()):
        pass
    assert made == []
