# SPDX-License-Identifier: Apache-2.0
"""The library as docs/api.md shows it: its examples run, against a PVE over HTTPS."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

import pvepassthru.api
from pvepassthru.api import (
    ApiMissingError,
    Device,
    NotFoundError,
    PassthruError,
    Pve,
    UsageError,
    Wish,
    library,
    profile,
    profile_file,
)
from pvepassthru.api.hardware import KINDS
from tests.api.fake_client import client_of, profile_of
from tests.api.fake_pve import data
from tests.api.fake_pve.data import PASSWORD, Cluster
from tests.api.fake_pve.server import FakePve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
PROFILES = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
GPU = data.Device("0000:01:00.0", "10de", "2204", group=2)
SOUND = data.Device("0000:01:00.1", "10de", "1aef", group=2, class_="040300")
CARDS = [data.Device(f"0000:0{number}:00.0", "8086", "1572", group=number, class_="020000") for number in (3, 4)]


@pytest.fixture
def pve() -> Iterator[FakePve]:
    vms = {
        100: "memory: 4096\nscsi0: local-lvm:vm-100-disk-0,size=8G\n",
        101: "machine: q35\n",
        102: "machine: q35\n",
        103: "lock: backup\n",
    }
    with FakePve(Cluster(nodes={"pve1": data.Node(pci=[GPU, SOUND, *CARDS], vms=vms, running=[102])})) as fake:
        lines = [f"node=pve1,path={card.id},id=8086:1572,iommugroup={card.group}" for card in CARDS]
        with client_of(fake) as client:
            client.post("cluster/mapping/pci", id="gpu", map=lines)
        yield fake


@pytest.fixture
def lab(pve: FakePve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePve:
    """The fake PVE as profile lab of the user's own file."""
    pins = [
        {"host": pve.host, "port": port, "fingerprint": pve.state.fingerprint(name)} for name, port in pve.ports.items()
    ]
    said = {"profiles": {"lab": {"hosts": pins, "user": "root@pam", "password": PASSWORD}}}
    folder = tmp_path / ".config" / "pvepassthru"
    folder.mkdir(parents=True)
    (folder / "api.yaml").write_text(yaml.safe_dump(said), encoding="utf-8")
    (folder / "api.yaml").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PVE_HOST", raising=False)
    return pve


def run(example: str, **names: object) -> None:
    exec(compile(example, "docs/api.md", "exec"), {"__name__": "example", **names})  # noqa: S102 - our own page


def test_the_first_example(lab: FakePve, capsys: pytest.CaptureFixture[str]) -> None:
    run(EXAMPLES[0])
    out = capsys.readouterr().out
    assert "+ hostpci0: 0000:01:00,pcie=1,x-vga=1" in out
    assert "set: (" in out
    assert lab.state.vm(100).values["hostpci0"] == "0000:01:00,pcie=1,x-vga=1"
    before = len(lab.state.writes)
    run(EXAMPLES[0])
    assert "nothing to change" in capsys.readouterr().out
    assert len(lab.state.writes) == before, "applying it again sends nothing"


def test_the_first_example_when_it_cannot_be_done(lab: FakePve, capsys: pytest.CaptureFixture[str]) -> None:
    lab.state.vm(100).change(lock="backup")
    with pytest.raises(SystemExit, match=r"later, perhaps: VM 100 on node pve1 is locked \(backup\)"):
        run(EXAMPLES[0])
    assert "in the way: VM 100 on node pve1 is locked (backup)" in capsys.readouterr().out
    lab.take_down("pve1")
    with pytest.raises(SystemExit, match=r"cannot reach the PVE API .* \(exit code 10\)"):
        run(EXAMPLES[0])


def test_the_errors_in_the_page_are_those_of_the_library() -> None:
    named = set(re.findall(r"`([A-Z]\w+Error)`", PAGE))
    offered = {name for name in library.__all__ if name.endswith("Error")}
    assert named - {"BusyError"} == offered - {"BusyError"}


@pytest.mark.parametrize("kind", [Device, Wish])
def test_the_page_has_every_field(kind: type[Device | Wish]) -> None:
    """In the order of the class, each with its type."""
    table = PAGE.partition(f"| field of `{kind.__name__}` |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", table, re.MULTILINE)
    words = {
        "bool": "bool",
        "bool | None": "bool or None",
        "int": "int",
        "str": "text",
        "tuple[str, ...]": "tuple of texts",
        "tuple[Device, ...]": "tuple of `Device`",
    }
    assert rows == [(name, words[kind.__annotations__[name].__forward_arg__]) for name in kind._fields]


def test_the_kinds_on_the_page_are_those_that_there_are() -> None:
    (row,) = re.findall(r"^\| `kind` \| text \| (.*) \|$", PAGE, re.MULTILINE)
    assert re.findall(r"`(\w+)`", row) == list(KINDS)


def test_the_example_of_several_vms(lab: FakePve, capsys: pytest.CaptureFixture[str]) -> None:
    run(EXAMPLES[1])
    assert capsys.readouterr().out == "101 is changed\n102 is changed\n"
    assert lab.state.vm(101).values["hostpci0"].startswith("mapping=gpu")
    assert lab.state.vm(102).config.pending["hostpci0"].startswith("mapping=gpu"), "it runs"


def test_the_example_without_its_host(lab: FakePve) -> None:
    lab.take_down("pve1")
    with pytest.raises(SystemExit, match=r"cannot reach the PVE API .* \(exit code 10\)"):
        run(EXAMPLES[1])


def test_the_example_of_profiles() -> None:
    (text,) = PROFILES
    found = profile_file.check("api.yaml", text.encode()).value
    assert set(found["profiles"]) == {"lab", "root", "node"}
    assert set(profile.ENVIRONMENT) | {"PVE_HOST"} == set(re.findall(r"`(PVE_[A-Z_]+)`", PAGE))


def test_what_is_told_of_a_cluster(pve: FakePve) -> None:
    with Pve(client_of(pve)) as found:
        assert repr(found).startswith("Pve(root@pam at 127.0.0.1:")
        assert list(found.nodes()) == ["pve1"]
        assert found.vms()[103].lock == "backup"
        assert found.config(100).get("memory") == "4096"
        with pytest.raises(ApiMissingError, match="sees no VM 999"):
            found.config(999)


def test_errors_of_wishes(pve: FakePve) -> None:
    with Pve(client_of(pve)) as found:
        with pytest.raises(NotFoundError, match="no NVMe drive"):
            found.generate(100, Wish((Device(kind="nvme"),)))
        with pytest.raises(UsageError, match="nothing is required"):
            found.generate(100, Wish())
        with pytest.raises(UsageError, match="no form of a change"):
            found.diff(found.generate(100, Wish((Device(addresses=("0000:01:00",)),))), "xml")
        (one,) = found.propose({999: Wish((Device(kind="gpu"),))})
        with pytest.raises(ApiMissingError):
            one.need()
    assert pve.state.writes[1:] == [], "only the fixture's mapping"


@pytest.mark.parametrize(
    "said, told",
    [
        ({"remove": "hostpci0"}, "remove is a tuple, and hostpci0 is none"),
        ({"remove": ("vga",)}, "vga is no hostpci entry"),
        ({"remove": (0,)}, "remove is a text, and 0 is none"),
        ({"devices": Device(mapping="vf")}, "devices is a tuple, and a Device is none"),
        ({"devices": ("gpu",)}, "gpu in devices of a Wish is no Device"),
        ({"bios": "foo"}, "foo is no firmware"),
        ({"bios": None}, "bios is a text, and None is none"),
        ({"storage": "a b"}, "a b is no name of a storage"),
        ({"hookscript": "pvepassthru"}, "pvepassthru is no hookscript"),
        ({"rom": "../x"}, "is no ROM file"),
        ({"numa": "yes"}, "numa is True or False, and not yes"),
    ],
)
def test_a_wish_that_means_nothing(pve: FakePve, said: dict[str, Any], told: str) -> None:
    with Pve(client_of(pve)) as found, pytest.raises(UsageError, match=re.escape(told)):
        found.generate(100, Wish(**({"devices": (Device(kind="gpu"),)} | said)))


@pytest.mark.parametrize(
    "said, told",
    [
        ({"addresses": "05:00.0"}, "devices[0].addresses is a tuple, and 05:00.0 is none"),
        ({"addresses": ("5",)}, "5 is no address of a device"),
        ({"addresses": (5,)}, "addresses is a text, and 5 is none"),
        ({"ids": "10de"}, "10de is no vendor:device"),
        ({"kind": "foo"}, "foo is no class"),
        ({"vf_of": "03"}, "03 is no address of a PF"),
        ({"mapping": "1"}, "1 is no name of a mapping"),
        ({"mdev": "a b"}, "a b is no mdev type"),
        ({"mdev": "best", "framebuffer": "4G"}, "devices[0].framebuffer is a number of MiB, and 4G is none"),
        ({"kind": "gpu", "rom": ["x"]}, "devices[0].rom is a text, and a list is none"),
        ({"kind": "gpu", "primary": 1}, "devices[0].primary is True or False, and not 1"),
        ({"kind": "gpu", "pcie": "no"}, "devices[0].pcie is True, False or None, and not no"),
    ],
)
def test_a_device_that_means_nothing(pve: FakePve, said: dict[str, Any], told: str) -> None:
    with Pve(client_of(pve)) as found, pytest.raises(UsageError, match=re.escape(told)):
        found.generate(100, Wish((Device(**said),)))


def test_words_are_written_the_one_way(pve: FakePve) -> None:
    with Pve(client_of(pve)) as found:
        change = found.generate(100, Wish((Device(addresses=("01:00",)),)))
        assert change.after.get("hostpci0") == "0000:01:00,pcie=1"
        change = found.generate(100, Wish((Device(ids="10DE:2204"),)))
        assert change.functions == ("0000:01:00.0", "0000:01:00.1")
        for other in ("100", 100.0, True, None):
            with pytest.raises(UsageError, match="is no VMID"):
                found.generate(other, Wish((Device(kind="gpu"),)))  # type: ignore[arg-type]  # that is the point
        with pytest.raises(UsageError, match="is no VMID"):
            found.config("100")  # type: ignore[arg-type]  # that is the point
        with pytest.raises(UsageError, match="a Device is no Wish"):
            found.generate(100, Device(kind="gpu"))  # type: ignore[arg-type]  # that is the point


def test_a_new_error_is_told(pve: FakePve) -> None:
    """A device that another VM has."""
    pve.state.vm(101).change(hostpci0="0000:01:00,pcie=1", onboot="1")
    with Pve(client_of(pve)) as found:
        judged = found.validate(found.generate(100, Wish((Device(addresses=("0000:01:00",)),))))
    assert judged.new


def test_every_form(pve: FakePve) -> None:
    with Pve(client_of(pve)) as found:
        change = found.generate(100, Wish((Device(kind="gpu"),)))
        assert all("hostpci0" in found.diff(change, form) or form == "terraform" for form in pvepassthru.api.pve.FORMS)


def test_all_that_is_offered_can_be_had() -> None:
    for name in library.__all__:
        assert getattr(pvepassthru.api, name) is getattr(library, name)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = pvepassthru.api.Nothing  # type: ignore[attr-defined]  # that is the point
    errors = [
        thing
        for name in library.__all__
        if isinstance(thing := getattr(library, name), type) and issubclass(thing, Exception)
    ]
    assert all(issubclass(error, PassthruError) for error in errors)


def test_the_package_itself_imports_nothing() -> None:
    names = "[name for name in sys.modules if name.startswith(('pvepassthru.', 'proxmoxer'))]"
    code = f"import sys, pvepassthru.api; print({names})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "['pvepassthru.api']\n"


def test_a_profile_by_hand(pve: FakePve) -> None:
    with library.Client(profile_of(pve)) as client:
        assert Pve(client).vms()
