# SPDX-License-Identifier: Apache-2.0
"""`mdev plan`, and `mdev types` with what is required of a type."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.cli.main import main
from pvepassthru.host.host import Host
from pvepassthru.report.instances import taken
from tests import tree

if TYPE_CHECKING:
    from pathlib import Path

FIRST, SECOND = "0000:41:00.0", "0000:42:00.0"
VFS = tuple(f"0000:a1:00.{function}" for function in (4, 5, 6, 7))
NAMES = {"35": "NVIDIA A40-1Q", "36": "NVIDIA A40-4Q", "37": "NVIDIA A40-4C", "38": "NVIDIA A40-48Q"}
UUID = "f715f63c-0d00-4007-9c5a-b07b0c6c05de"


def types(free: dict[str, int]) -> dict[str, Any]:
    """Two types of a P4, with what is left of each."""
    sizes = {"nvidia-63": (1024, 8, "GRID P4-1Q"), "nvidia-65": (4096, 2, "GRID P4-4Q")}
    return {
        kind: {"available": str(free[kind]), "name": name, "description": f"framebuffer={size}M, max_instance={most}"}
        for kind, (size, most, name) in sizes.items()
    }


@pytest.fixture
def root(tmp_path: Path) -> str:
    begun = {"types": types({"nvidia-63": 7, "nvidia-65": 0}), "instances": {UUID: "nvidia-63"}}
    devices: dict[str, Any] = {
        FIRST: {"mdev": {"types": types({"nvidia-63": 8, "nvidia-65": 2})}},
        SECOND: {"mdev": begun},
        "0000:a1:00.0": {"nvidia": {}},
    }
    offers = [{"id": number, "name": name} for number, name in NAMES.items()]
    for vf in VFS:
        devices[vf] = {"physfn": "0000:a1:00.0", "nvidia": {"creatable": offers, "current": "0"}}
    entries = "".join(f"\tmap id=10de:1bb3,node=pve,path={path}\n" for path in (FIRST, SECOND))
    vfs = "".join(f"\tmap id=10de:2235,node=pve,path={path}\n" for path in VFS[::-1])
    gone = "gone\n\tmap id=10de:1bb3,node=pve,path=0000:99:00.0\n"
    mapping = f"p4\n\tmdev 1\n{entries}\na40\n\tmdev 1\n{vfs}\n{gone}"
    reservations = f"{VFS[3]} 100 pid:42\n"
    made = tree.build(tmp_path, {"devices": devices}, mapping=mapping, reservations=reservations, running={100: 42})
    tree.put(made, "/etc/pvepassthru.yaml", "mappings: {p4: {placement: pack}}\n")
    return made


def planned(capsys: pytest.CaptureFixture[str], root: str, *words: str, code: int = 0) -> dict[str, Any]:
    assert main(["--root", root, "mdev", "plan", *words, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_by_the_policy_of_the_mapping(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, root, "nvidia-63", "3", "--mapping", "p4")
    assert (found["strategy"], found["placed"], found["left"]) == ("pack", [SECOND] * 3, 12)
    assert found["gpus"] == [
        {
            "address": FIRST,
            "rule": "equal",
            "used": {},
            "room": 8,
            "certain": True,
            "planned": 0,
            "functions": {},
        },
        {
            "address": SECOND,
            "rule": "equal",
            "used": {"nvidia-63": 1},
            "room": 7,
            "certain": True,
            "planned": 3,
            "functions": {SECOND: 3},
        },
    ]
    assert found["order"] is None


def test_by_wish(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert planned(capsys, root, "nvidia-63", "3", "--strategy", "spread")["placed"] == [FIRST, FIRST, SECOND]
    assert planned(capsys, root, "nvidia-63", "3")["placed"] == [FIRST] * 3
    assert planned(capsys, root, "nvidia-63", "1", "--parent", "42:00.0")["placed"] == [SECOND]


def test_not_all_fit(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert planned(capsys, root, "nvidia-65", "3", code=1)["placed"] == [FIRST, FIRST]
    assert main(["--root", root, "mdev", "plan", "nvidia-65", "3"]) == 1
    assert "2 of 3 fit by strategy order; 0 more would\n" in capsys.readouterr().out


def test_vfs_of_the_vendor_interface(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One that a VM runs with is no room; the order is for whoever writes the mapping."""
    found = planned(capsys, root, "nvidia-36", "3", "--mapping", "a40", "--strategy", "spread")
    assert found["placed"] == list(VFS[2::-1])
    assert found["order"] == list(VFS[::-1])
    assert main(["--root", root, "mdev", "plan", "nvidia-36", "2", "--mapping", "a40", "--strategy", "pack"]) == 0
    assert f"have them in this order:\n  {' '.join(VFS[::-1])}\n" in capsys.readouterr().out


def test_what_is_only_a_bound(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    for vf in VFS:
        tree.put(root, f"/{tree.DEVICES}/{vf}/nvidia/creatable_vgpu_types", "36 : NVIDIA A40-4Q\n")
    tree.put(root, f"/{tree.DEVICES}/{VFS[0]}/nvidia/current_vgpu_type", "36\n")
    assert main(["--root", root, "mdev", "plan", "nvidia-36", "1", "--mapping", "a40"]) == 0
    assert "at most 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, code, said",
    [
        (["nvidia-64", "1"], 3, "has the type nvidia-64; the types are nvidia-35"),
        (["nvidia-63", "0"], 2, "0 is no number of instances"),
        (["nvidia-63", "1", "--mapping", "p5"], 3, "is p4 meant?"),
        (["nvidia-63", "1", "--mapping", "gone"], 3, "mapping gone has no device on node pve"),
        (["nvidia-63", "1", "--parent", "41:00"], 2, "41:00 is no PCI address"),
        (["nvidia-63", "1", "--parent", "43:00.0"], 3, "no PCI function 0000:43:00.0"),
        (["zz\x1b", "1", "--parent", FIRST], 3, "has the type zz\\x1b"),
    ],
)
def test_wrong_words(words: list[str], code: int, said: str, root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", root, "mdev", "plan", *words]) == code
    assert said in capsys.readouterr().err


def test_a_mapping_that_cannot_be_read(root: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "etc/pve/mapping/pci.cfg").unlink()
    assert main(["--root", root, "mdev", "plan", "nvidia-63", "1", "--mapping", "p4"]) == 3
    (tmp_path / "etc/pve/mapping/pci.cfg").mkdir()
    assert main(["--root", root, "mdev", "plan", "nvidia-63", "1", "--mapping", "p4"]) == 4
    assert "cannot read /etc/pve/mapping/pci.cfg: Is a directory" in capsys.readouterr().err


def test_types_by_what_is_required(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", root, "mdev", "types", "--min-framebuffer", "2G", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["type"], row["framebuffer"], row["available"], row["gpus"]) for row in rows] == [
        ("nvidia-36", 4096, 3, ["0000:a1:00.0"]),
        ("nvidia-37", 4096, 3, ["0000:a1:00.0"]),
        ("nvidia-65", 4096, 2, [FIRST]),
        ("nvidia-38", 49152, 1, ["0000:a1:00.0"]),
    ]
    assert main(["--root", root, "mdev", "types", FIRST, "--min-framebuffer", "4096M", "--min-instances", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [f"nvidia-65  GRID P4-4Q  4096 MiB     2     {FIRST}"]


def test_nothing_is_enough(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", root, "mdev", "types", "--min-framebuffer", "64G"]) == 1
    assert capsys.readouterr().out == "no type with 65536 MiB or more has room for 1 more\n"
    assert main(["--root", root, "mdev", "types", "--min-framebuffer", "64G", "--json"]) == 1
    assert capsys.readouterr().out == "[]\n"


@pytest.mark.parametrize(
    "words, said",
    [
        (["--min-framebuffer", "4.5G"], "--min-framebuffer '4.5G' is no amount of memory; write whole units"),
        (["--min-framebuffer", ""], "--min-framebuffer '' is no amount of memory"),
        (["--min-framebuffer", "4"], "--min-framebuffer 4: of what?; say 4G or 4M, as is meant"),
        (["--min-framebuffer", "foo"], "--min-framebuffer 'foo' is no amount of memory; write whole units, such as 4G"),
        (["--min-framebuffer", "0"], "--min-framebuffer '0' is no amount of memory"),
        (["--min-framebuffer", "4G", "--min-instances", "0"], "--min-instances 0 is no number of instances"),
        (["--min-instances", "2"], "--min-instances goes with --min-framebuffer only"),
    ],
)
def test_wrong_requirements(words: list[str], said: str, root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", root, "mdev", "types", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["types", VFS[0].replace(".4", ".0")],
        ["types", VFS[0].replace(".4", ".0"), "--json"],
        ["types", VFS[0].replace(".4", ".0"), "--min-framebuffer", "1G"],
        ["plan", "nvidia-63", "1", "--parent", VFS[0].replace(".4", ".0")],
    ],
)
def test_a_function_without_types(words: list[str], root: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It was named, and has none of what was asked for."""
    assert main(["--root", root, "mdev", *words]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "mdev or vGPU types; see that the vendor's driver is loaded" in err


def test_a_vf_whose_type_is_set(root: str) -> None:
    """It offers nothing more, and has a type."""
    tree.put(root, f"/{tree.DEVICES}/{VFS[0]}/nvidia/creatable_vgpu_types", "")
    tree.put(root, f"/{tree.DEVICES}/{VFS[0]}/nvidia/current_vgpu_type", "36\n")
    assert main(["--root", root, "mdev", "types", VFS[0]]) == 0


def test_a_reservation_is_judged_by_the_hosts_clock(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a snapshot stood still when it was taken."""
    tree.put(root, "run/qemu-server/pci-id-reservations", f"{VFS[0]} 100 time:1100\n")
    monkeypatch.setattr(Host, "now", lambda _host: 1000.0)
    assert taken(Host(root)) == {VFS[0]}
    monkeypatch.setattr(Host, "now", lambda _host: 1200.0)
    assert taken(Host(root)) == frozenset()


def test_an_address_in_capitals(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", root, "mdev", "types", "0000:A1:00.4"]) == 0
    assert main(["--root", root, "mdev", "types", "A1:00.4X"]) == 2
    assert "A1:00.4X is no PCI address" in capsys.readouterr().err
