# SPDX-License-Identifier: Apache-2.0
"""The commands `policy check` and `policy show`."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.cli.main import main
from pvepassthru.host import policy, policy_file
from pvepassthru.lifecycle import phases
from pvepassthru.model.policy import DevicePolicy, Policies, Policy, SriovPolicy, VfSettings
from tests import tree

if TYPE_CHECKING:
    from pathlib import Path

GPU = "0000:01:00.0"
EXAMPLE = os.path.join(os.path.dirname(__file__), "..", "..", "packaging", "policy.example.yaml")


@pytest.fixture
def root(tmp_path: Path) -> str:
    devices: dict[str, Any] = {GPU: {"vendor": "0x10de", "device": "0x2204", "class": "0x030000", "group": 1}}
    return tree.build(tmp_path, {"devices": devices}, configs={100: f"hostpci0: {GPU}\n"})


def put(root: str, node: str = "", cluster: str = "") -> None:
    for path, text in zip(policy.FILES, (cluster, node), strict=True):
        if text:
            os.chmod(tree.put(root, path.lstrip("/"), text), 0o600)


def ran(root: str, capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["--root", root, "policy", *words]) == code
    return capsys.readouterr().out


def test_no_policy(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no policy" in ran(root, capsys, "check")
    assert "there is no policy" in ran(root, capsys, "show")


def test_all_slips_are_told(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    put(root, "defaults:\n  gat: warn\n  seconds: 0\n", "vms:\n  x: {}\n")
    out = ran(root, capsys, "check", code=1)
    assert out.splitlines() == [
        "error: /etc/pve/pvepassthru.yaml:2: vms has x, which is no VMID; use numbers from 100",
        "error: /etc/pvepassthru.yaml:2: defaults has an unknown key gat; is gate meant?",
        "error: /etc/pvepassthru.yaml:3: defaults.seconds is 0; use a number from 1 to 600",
    ]
    rows = json.loads(ran(root, capsys, "check", "--json", code=1))
    assert [(row["file"], row["line"], row["severity"]) for row in rows] == [
        ("/etc/pve/pvepassthru.yaml", 2, "error"),
        ("/etc/pvepassthru.yaml", 2, "error"),
        ("/etc/pvepassthru.yaml", 3, "error"),
    ]


def test_what_is_no_slip_and_odd_all_the_same(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    put(root, f"silence:\n- {{code: PVP999, reason: x}}\ndevices: {{{GPU}: {{ids: 10de:1111}}}}\n")
    out = ran(root, capsys, "check")
    assert "warning: /etc/pvepassthru.yaml:2: silence entry 1 names PVP999, and there is no such code" in out
    assert (
        f"warning: /etc/pvepassthru.yaml:3: the policy's devices.{GPU} is for 10de:1111, but 10de:2204 lies at {GPU}"
        in out
    )


def test_without_the_clusters_file_system(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    put(root, "{}\n")
    assert ran(root, capsys, "check") == "fine\n"
    shutil.rmtree(os.path.join(root, "etc/pve"))
    os.mkdir(os.path.join(root, "etc/pve"))
    assert ran(root, capsys, "check").startswith("warning: /etc/pve is empty, so what the cluster's policy says")


def test_a_file_that_is_not_installed_yet(root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new.yaml"
    path.write_text("defaults: {gate: nope}\n", encoding="utf-8")
    assert f"error: {path}:1: defaults.gate is nope" in ran(root, capsys, "check", str(path), code=1)
    path.write_text("defaults: {gate: warn}\n", encoding="utf-8")
    assert ran(root, capsys, "check", str(path)) == "fine\n"
    assert main(["--root", root, "policy", "check", f"{path}.absent"]) == 3
    assert "there is no file" in capsys.readouterr().err


def test_others_can_write_it(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    put(root, "defaults: {gate: warn}\n")
    os.chmod(f"{root}/etc/pvepassthru.yaml", 0o666)
    assert "can be written by others" in ran(root, capsys, "check", code=1)


def test_what_applies_and_where_it_stands(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    put(
        root,
        "devices:\n  01:00.0:\n    give_back: former\nservices:\n  a.service: {devices: ['10de:2204']}\n",
        "defaults:\n  gate: warn\n  give_back: stay\n  seconds: 20\n",
    )
    rows = json.loads(ran(root, capsys, "show", "100", "--json"))
    found = {row["setting"]: (row["value"], row["source"]) for row in rows}
    assert found["gate"] == ("warn", "/etc/pve/pvepassthru.yaml:2")
    assert found["pre_start_seconds"] == (60, "default")
    assert found[f"hostpci0 {GPU} give_back"] == ("former", "/etc/pvepassthru.yaml:3")
    assert found[f"hostpci0 {GPU} seconds"] == (20, "/etc/pve/pvepassthru.yaml:4")
    assert found[f"hostpci0 {GPU} driver"] == ("vfio-pci", "default")
    assert found["stops"] == ("a.service", "/etc/pvepassthru.yaml:5")
    assert "give_back" in ran(root, capsys, "show", "100")
    whole = ran(root, capsys, "show")
    assert f"devices {GPU} give_back" in whole
    assert "/etc/pvepassthru.yaml:3" in whole


@pytest.mark.parametrize(
    "text,severity,sentence",
    [
        (
            "defaults: {give_back: igbb}",
            "warning",
            ":1: defaults give_back is igbb, and this host has no driver of that",
        ),
        (f"sriov:\n  {GPU}: {{vfs: 2}}", "error", f":2: sriov.{GPU}: that function has no SR-IOV"),
        ("sriov: {0000:77:00.0: {vfs: 2}}", "warning", "sriov.0000:77:00.0: there is no such function on this host"),
        ("sriov: {0000:02:00.0: {vfs: 9}}", "error", "vfs is 9, and the card can have 8; ask for no more"),
        ("mappings: {vgup: {placement: pack}}", "warning", "mappings vgup: there is no mapping vgup; is vgpu meant?"),
        ("devices: {mapping:nope: {rescan: true}}", "warning", "there is no mapping nope; the mappings are: vgpu"),
        ("services: {nope.service: {devices: ['*']}}", "warning", "services.nope.service: this host has no such unit"),
        ("services: {sshd.service: {devices: ['*']}}", "warning", "is stopped for every VM with any device, and the"),
    ],
)
def test_doubts(root: str, capsys: pytest.CaptureFixture[str], text: str, severity: str, sentence: str) -> None:
    tree.put(root, "sys/bus/pci/devices/0000:02:00.0/vendor", "0x8086\n")
    tree.put(root, "sys/bus/pci/devices/0000:02:00.0/sriov_totalvfs", "8\n")
    tree.folder(root, "sys/bus/pci/drivers")
    tree.put(root, "etc/pve/mapping/pci.cfg", "vgpu\n\tmap node=n,path=0000:08:00.0,id=10de:1\n")
    tree.put(root, "etc/systemd/system/sshd.service", "")
    put(root, text + "\n")
    out = ran(root, capsys, "check", code=1 if severity == "error" else 0)
    assert out.startswith(f"{severity}: /etc/pvepassthru.yaml:")
    assert sentence in out


def test_yaml_that_is_none_has_a_line(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    put(root, "defaults:\n  gate: [\n")
    (row,) = json.loads(ran(root, capsys, "check", "--json", code=1))
    assert row["line"] == 3
    assert ran(root, capsys, "check", code=1).count("/etc/pvepassthru.yaml") == 1


def test_show_with_a_slip(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    put(root, "defaults: {gate: nope}\n")
    assert main(["--root", root, "policy", "show"]) == 4
    assert "/etc/pvepassthru.yaml:1: defaults.gate is nope" in capsys.readouterr().err


# ---- the schema and the example


def properties(value: object) -> set[str]:
    """The names that a schema gives to settings, at any depth."""
    if isinstance(value, list):
        return set().union(*map(properties, value))
    if not isinstance(value, dict):
        return set()
    names = set(value["properties"]) if isinstance(value.get("properties"), dict) else set()
    return names.union(*map(properties, value.values()))


def keys(value: object) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(keys, value.values()))
    return set().union(*map(keys, value)) if isinstance(value, list) else set()


def test_the_example_has_every_setting() -> None:
    with open(EXAMPLE, "rb") as file:
        checked = policy_file.check(file.read())
    assert checked.slips == ()
    assert properties(policy_file.schema()) <= keys(checked.document)


def test_the_examples_defaults_are_those_without_a_policy() -> None:
    with open(EXAMPLE, "rb") as file:
        defaults = policy_file.check(file.read()).document["defaults"]
    assert defaults.pop("pre_start_seconds") == phases.BUDGET["pre-start"]  # which the policy can only raise
    assert Policies({"defaults": defaults}).of(100) == Policy()
    assert (
        DevicePolicy()._replace(**{name: defaults[name] for name in DevicePolicy._fields if name in defaults})
        == DevicePolicy()
    )


def test_the_schema_knows_each_setting_of_the_model() -> None:
    schema = policy_file.schema()
    sections = schema["properties"]
    device = set(DevicePolicy._fields)
    assert set(sections["defaults"]["properties"]) == device | set(Policy._fields)
    assert set(sections["vms"]["additionalProperties"]["properties"]) == device | set(Policy._fields)
    assert set(sections["devices"]["additionalProperties"]["properties"]) == device | {"ids"}
    pf = sections["sriov"]["additionalProperties"]["properties"]
    assert set(pf) == set(VfSettings._fields) | {"ids"} | (set(SriovPolicy._fields) - {"address", "all"})
    assert set(pf["vf"]["additionalProperties"]["properties"]) == set(VfSettings._fields)
    used = json.dumps(schema["properties"])
    assert all(f'"#/definitions/{name}"' in used for name in schema["definitions"])
