# SPDX-License-Identifier: Apache-2.0
"""The commands `mapping` and `migrate-to-mapping`: what they print, ask, write and return."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pvepassthru.api import client, mapping_apply, reading
from pvepassthru.cli import connection
from pvepassthru.cli.main import main
from tests.api import mapping_cluster
from tests.api.fake_pve.server import FakePve
from tests.api.fake_pve.state import Vm
from tests.api.mapping_cluster import GPU_LINE, GPU_LINE2, mapping
from tests.cli import environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

GPU = ("--device", "10de:1b80", "--subsystem", "1462:3362")
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def pve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakePve]:
    """A cluster that the environment names, and no terminal."""
    environment.clear(monkeypatch, tmp_path)
    monkeypatch.setattr(mapping_apply, "SETTLE", (0.01,))
    monkeypatch.setattr(client, "BACKOFF", (0.01,))
    monkeypatch.setattr(reading, "PAUSES", (0.01,))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with FakePve(mapping_cluster.cluster()) as fake:
        environment.log_in(monkeypatch, fake)
        yield fake


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def answer(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(f"{word}\n"))


# ---- mapping remove


def test_remove_shows_asks_and_does_it(pve: FakePve, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    pve.state.mapping_text = mapping("gpu", GPU_LINE, GPU_LINE2)
    words = ["mapping", "remove", "gpu", "--node", "pve2"]
    assert main(words) == 0
    assert capsys.readouterr().out == f"mapping gpu: 1 device to be removed, 1 device left\n- map {GPU_LINE2}\n"
    assert main([*words, "--yes"]) == 2
    assert main([*words, "--apply"]) == 2
    assert "there is no terminal to ask at; add --yes" in capsys.readouterr().err
    assert main([*words, "--apply", "--json"]) == 2
    answer(monkeypatch, "n")
    assert main([*words, "--apply"]) == 1
    assert pve.state.writes == []
    capsys.readouterr()
    assert main([*words, "--apply", "--yes"]) == 0
    assert capsys.readouterr().out.endswith("mapping gpu is written\n")
    assert pve.state.mappings["gpu"].map == [GPU_LINE]
    assert main(["mapping", "remove", "gpu", "--apply", "--yes", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["after"], told["removed"], told["written"], told["note"]) == (None, [GPU_LINE], True, None)
    assert "gpu" not in pve.state.mappings
    assert main(["mapping", "remove", "gpu"]) == 3


def test_remove_is_refused_while_a_vm_uses_it(pve: FakePve, capsys: Capture) -> None:
    pve.state.mapping_text = mapping("gpu", GPU_LINE)
    pve.state.vm(102).change(hostpci0="mapping=gpu")
    assert main(["mapping", "remove", "gpu"]) == 1
    assert "\nrefused: mapping gpu is in use: VM 102 (hostpci0) on node pve1; " in capsys.readouterr().out
    assert main(["mapping", "remove", "gpu", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["users"] == [{"vmid": 102, "node": "pve1", "key": "hostpci0"}]
    assert told["refused"].startswith("mapping gpu is in use")
    assert "pvepassthru config 102 --remove hostpci0" in told["hint"]
    capsys.readouterr()
    assert main(["mapping", "remove", "gpu", "--apply", "--yes", "--json"]) == 13
    told = json.loads(capsys.readouterr().out)
    assert (told["written"], told["note"], told["error"]) == (False, None, told["refused"])
    assert main(["mapping", "remove", "gpu", "--apply", "--yes"]) == 13
    assert "pvepassthru config 102 --remove hostpci0" in capsys.readouterr().err
    assert pve.state.writes == []


# ---- mapping plan and apply


def test_plan_shows_and_writes_nothing(pve: FakePve, capsys: Capture) -> None:
    assert main(["mapping", "plan", "gpu", *GPU]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("mapping gpu: new, 2 devices on 2 nodes\n")
    assert f"+ map {GPU_LINE}\n" in out
    assert f"+ map {GPU_LINE2}\n" in out
    assert "note: no such device on pve3" in out
    assert (err, pve.state.writes) == ("", [])


def test_plan_as_json(pve: FakePve, capsys: Capture) -> None:
    pve.state.mapping_text = mapping("gpu", GPU_LINE)
    assert main(["mapping", "plan", "gpu", *GPU, "--json", "--order", "spread", "--live-migration"]) == 0
    shape = json.loads(capsys.readouterr().out)
    assert (shape["mapping"], shape["changed"], shape["after"]["live_migration_capable"]) == ("gpu", True, True)
    assert [change["new"] for change in shape["changes"]] == [GPU_LINE2]
    assert (shape["stale"], shape["moved"]) == ([], [])


def test_apply_needs_a_word(pve: FakePve, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["mapping", "apply", "gpu", *GPU]
    assert main(words) == 2
    assert "there is no terminal to ask at; add --yes" in capsys.readouterr().err
    assert main([*words, "--json"]) == 2
    answer(monkeypatch, "n")
    assert main(words) == 1
    assert "the answer was no" in capsys.readouterr().err
    assert pve.state.writes == []
    answer(monkeypatch, "yes")
    assert main(words) == 0
    assert "write mapping gpu? [y/N]" in capsys.readouterr().err
    assert pve.state.mappings["gpu"].map == [GPU_LINE, GPU_LINE2]
    assert main(words) == 0, "nothing to change, so nothing is asked"
    assert capsys.readouterr().out.endswith("nothing was changed\n")


def test_apply_that_is_interrupted(pve: FakePve, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(mapping_apply, "_write", interrupt)
    assert main(["mapping", "apply", "gpu", *GPU, "--yes"]) == 130
    assert "mapping gpu is as it was or as planned: the same plan again tells" in capsys.readouterr().err
    assert pve.state.writes == []


def test_apply_as_json(pve: FakePve, capsys: Capture) -> None:
    pve.faults.cut("after", write=1)
    assert main(["mapping", "apply", "gpu", *GPU, "--yes", "--json"]) == 0
    shape = json.loads(capsys.readouterr().out)
    assert shape["written"] is True
    assert "the answer was lost" in shape["note"]


@pytest.mark.parametrize(
    "words, code, text",
    [
        (["plan", "gpu", "--device", "nonsense"], 2, "nonsense is no device"),
        (["plan", "g", "--device", "gpu"], 2, "g is no name of a mapping; two characters or more: a letter, then"),
        (["plan", "gpu", "--device", "gpu", "--vf-of", "01:00.0"], 2, "not allowed with argument"),
        (["plan", "gpu", "--mdev"], 2, "one of --device and --vf-of says"),
        (["plan", "gpu", "--device", "gpu", "--subsystem", "x"], 2, "is no subsystem's id"),
        (["plan", "gpu"], 3, "there is no mapping gpu"),
        (["plan", "gpu", "--device", "gpu", "--node", "pve9"], 3, "the cluster has no node pve9"),
        (["plan", "gpu", "--device", "dead:beef"], 3, "no node of pve1, pve2, pve3 has dead:beef"),
        (["check", "gpu"], 3, "there is no mapping gpu"),
    ],
)
def test_what_is_wrong_is_one_sentence(pve: FakePve, capsys: Capture, words: list[str], code: int, text: str) -> None:
    try:
        found = main(["mapping", *words])
    except SystemExit as error:  # argparse's own
        found = int(str(error.code))
    assert found == code
    assert text in capsys.readouterr().err
    assert pve.state.writes == []


def test_apply_is_refused_while_a_vm_needs_what_goes(pve: FakePve, capsys: Capture) -> None:
    pve.state.mapping_text = mapping("gpu", GPU_LINE, GPU_LINE2)
    pve.state.vm(102).change(hostpci0="mapping=gpu")
    words = ["gpu", "--prune", "--exclude", "pve1:01:00"]
    assert main(["mapping", "plan", *words]) == 1
    sentence = (
        "mapping gpu is in use: node pve1 would be left with no device of it, and in use there: VM 102 (hostpci0)"
    )
    assert f"\nrefused: {sentence}" in capsys.readouterr().out
    assert main(["mapping", "plan", *words, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["refused"].startswith(sentence)
    assert main(["mapping", "apply", *words, "--yes"]) == 13
    assert sentence in capsys.readouterr().err
    assert main(["mapping", "apply", *words, "--yes", "--json"]) == 13
    told = json.loads(capsys.readouterr().out)
    assert (told["written"], told["error"]) == (False, told["refused"])
    assert pve.state.writes == []
    assert main(["mapping", "apply", "gpu", "--prune", "--exclude", "pve2:81:00", "--yes", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["written"], told["refused"], told["hint"], told["error"]) == (True, None, None, None)


def test_apply_without_the_privilege(pve: FakePve, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVE_USER", "auditor@pve")
    monkeypatch.setenv("PVE_PASSWORD", "word")
    assert main(["mapping", "apply", "gpu", *GPU, "--yes"]) == 12
    assert "auditor@pve may not make mapping gpu: that needs Mapping.Modify on /mapping/pci" in capsys.readouterr().err
    assert pve.state.writes == []


# ---- mapping check


def test_check_that_finds_nothing(pve: FakePve, capsys: Capture) -> None:
    pve.state.mapping_text = mapping("gpu", GPU_LINE)
    assert main(["mapping", "check", "gpu", "--node", "pve1", "--no-vms"]) == 0
    assert capsys.readouterr().out == "1 mapping on 1 node checked: fine\n"


def test_check_that_finds_errors(pve: FakePve, capsys: Capture) -> None:
    pve.state.mapping_text = mapping("gpu", GPU_LINE.replace("=2", "=9"))
    assert main(["mapping", "check"]) == 1
    out = capsys.readouterr().out
    assert out.startswith(
        "error PVP412 gpu on pve1: mapping gpu: iommugroup is 9, and 0000:01:00.0 has 2\n    hint: see"
    )
    assert out.endswith("1 mapping on 3 nodes checked: 1 error, 3 info\n")
    assert main(["mapping", "check", "--json"]) == 1
    shape = json.loads(capsys.readouterr().out)
    assert (shape["ok"], shape["mappings"], shape["nodes"], shape["unread"]) == (
        False,
        ["gpu"],
        ["pve1", "pve2", "pve3"],
        {},
    )
    first = next(one for one in shape["findings"] if one["severity"] == "error")
    assert set(first) == {"code", "severity", "origin", "mapping", "node", "vmid", "message", "hint"}


def test_check_of_a_cluster_with_a_node_down(pve: FakePve, capsys: Capture) -> None:
    pve.state.mapping_text = mapping("gpu", GPU_LINE)
    pve.take_down("pve3")
    assert main(["mapping", "check"]) == 10
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith("1 mapping on 2 of 3 nodes checked: ")
    assert out.endswith("; not looked at: node pve3\n")
    assert "node pve3 was not looked at: node pve3 is offline" in err


# ---- migrate-to-mapping


def test_migration_shows_and_changes_nothing(pve: FakePve, capsys: Capture) -> None:
    assert main(["migrate-to-mapping", "100", "102"]) == 0
    out = capsys.readouterr().out
    assert "mapping gpu-pve1-01-00: new, 1 device on 1 node\n" in out
    assert "- hostpci0: 01:00,pcie=1,x-vga=1\n+ hostpci0: mapping=gpu-pve1-01-00,pcie=1,x-vga=1\n" in out
    assert pve.state.writes == []


def test_migration(pve: FakePve, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["migrate-to-mapping", "100", "--name", "card", "--apply"]
    assert main(words) == 2
    assert main([*words, "--json"]) == 2
    answer(monkeypatch, "")
    assert main(words) == 1
    assert pve.state.writes == []
    capsys.readouterr()
    answer(monkeypatch, "y")
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out.endswith("VM 100 is changed: set hostpci0\n")
    assert "Change VM 100 so? [y/N]" in err
    assert pve.state.vm(100).config.main["hostpci0"] == "mapping=card,pcie=1,x-vga=1"
    assert main(words) == 0
    assert capsys.readouterr().out.endswith("VM 100 on node pve1: nothing to change\nnothing was changed\n")


def test_a_migration_that_is_refused_is_json_too(pve: FakePve, capsys: Capture) -> None:
    pve.state.vm(100).text += "lock: backup\n"
    assert main(["migrate-to-mapping", "100", "--json", "--apply", "--yes"]) == 13
    out, err = capsys.readouterr()
    shape = json.loads(out)
    assert ([plan["mapping"] for plan in shape["mappings"]], shape["vms"][0]["applied"]) == (["gpu-pve1-01-00"], None)
    assert "VM 100 on node pve1 is locked" in shape["error"]
    assert shape["error"] in err
    assert pve.state.writes == []


def test_a_write_that_is_denied_or_lost_is_json_too(pve: FakePve, capsys: Capture) -> None:
    pve.faults.answer(403, path="/cluster/mapping/pci", write=1)
    assert main(["mapping", "apply", "gpu", *GPU, "--yes", "--json"]) == 12
    told = json.loads(capsys.readouterr().out)
    assert (told["written"], told["mapping"]) == (False, "gpu")
    assert "mapping gpu is as it was" in told["error"]


def test_migration_as_json(pve: FakePve, capsys: Capture) -> None:
    assert main(["migrate-to-mapping", "100", "102", "--json"]) == 0
    shape = json.loads(capsys.readouterr().out)
    assert [(vm["vmid"], vm["applied"], vm["error"]) for vm in shape["vms"]] == [(100, None, None), (102, None, None)]
    assert [plan["mapping"] for plan in shape["mappings"]] == ["gpu-pve1-01-00", "gpu-pve1-01-00-0"]
    pve.faults.answer(403, path="/qemu/102/config", write=1, times=None)
    assert main(["migrate-to-mapping", "100", "102", "--json", "--apply", "--yes"]) == 12
    shape = json.loads(capsys.readouterr().out)
    assert shape["vms"][0]["applied"]["written"] == ["hostpci0"]
    assert shape["vms"][1]["error"]
    assert shape["notes"] == ["mapping gpu-pve1-01-00-0 was removed again, since no VM has it"]


def test_root_is_told_no_command_for_a_mapping_that_is_gone(pve: FakePve, capsys: Capture) -> None:
    pve.faults.answer(403, path="/qemu/102/config", write=1, times=None)
    assert main(["migrate-to-mapping", "102", "--apply", "--yes"]) == 12
    out, err = capsys.readouterr()
    assert "mapping gpu-pve1-01-00-0 was removed again" in err
    assert "qm set" not in out + err
    pve.state.mapping_text = mapping("sole", GPU_LINE.replace("00,", "00.0,"))
    pve.faults.clear()
    pve.faults.answer(403, path="/qemu/102/config", write=1, times=None)
    assert main(["migrate-to-mapping", "102", "--apply", "--yes"]) == 12
    assert "qm set 102 \\\n  --hostpci0 mapping=sole" in capsys.readouterr().out, "one that was there before stays"


@pytest.mark.parametrize(
    "number, code, word", [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 8, "ended by SIGTERM")]
)
def test_migration_that_is_ended_tells_what_was_done(
    pve: FakePve, capsys: Capture, number: int, code: int, word: str
) -> None:
    """Four mappings, then VM 100, then in the midst of VM 102."""
    before = {vmid: pve.state.vm(vmid).config.main for vmid in (101, 102)}
    pve.faults.meddle(lambda _: os.kill(os.getpid(), number), write=6)
    assert main(["migrate-to-mapping", "100", "102", "101", "--apply", "--yes"]) == code
    out, err = capsys.readouterr()
    assert out.endswith("VM 100 is changed: set hostpci0\n"), "as soon as it is"
    (line,) = [line for line in err.splitlines() if "is as it was" in line]
    assert word in line
    assert "VM 102 on node pve1 is as it was" in line
    assert "; changed: VM 100; not changed: VM 101; mapping gpu-pve1-01-00-0 was removed again, since no" in line
    assert line.count("was removed again") == 3
    assert {vmid: pve.state.vm(vmid).config.main for vmid in (101, 102)} == before
    assert list(pve.state.mappings) == ["gpu-pve1-01-00"]


def test_migration_that_is_interrupted_while_mappings_are_made(pve: FakePve, capsys: Capture) -> None:
    pve.faults.meddle(lambda _: os.kill(os.getpid(), signal.SIGINT), write=2)
    assert main(["migrate-to-mapping", "100", "102", "--apply", "--yes"]) == 130
    err = capsys.readouterr().err
    assert "interrupted: not changed: VM 100, 102; mapping gpu-pve1-01-00-0 is as it was or as planned" in err
    assert "mapping gpu-pve1-01-00 was removed again" in err
    assert "gpu-pve1-01-00" not in pve.state.mappings


def test_migration_that_is_interrupted_twice(pve: FakePve, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(mapping_apply, "take_back", again)
    pve.faults.meddle(lambda _: os.kill(os.getpid(), signal.SIGINT), write=2)
    assert main(["migrate-to-mapping", "100", "--apply", "--yes"]) == 130
    assert "on the way back, so mapping gpu-pve1-01-00 may be left, though no VM" in capsys.readouterr().err


def test_migration_of_what_is_not_there(pve: FakePve, capsys: Capture) -> None:
    assert main(["migrate-to-mapping", "999"]) == 3
    assert "sees no VM 999" in capsys.readouterr().err
    assert pve.state.writes == []


# ---- on a node, by pvesh


@pytest.fixture
def by_pvesh(pve: FakePve, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the next client one that asks by pvesh; what it reads is the same."""

    def asking() -> None:
        made = mapping_cluster.client_of(pve)
        made.profile = replace(made.profile, local=True)
        monkeypatch.setattr(connection, "connect", lambda _: made)

    return asking


@pytest.mark.parametrize("yes", [[], ["--yes"]])
def test_by_pvesh_no_mapping_is_written_and_nothing_asked(
    pve: FakePve, capsys: Capture, by_pvesh: Callable[[], None], yes: list[str]
) -> None:
    by_pvesh()
    assert main(["mapping", "apply", "gpu", *GPU, *yes]) == 2
    err = capsys.readouterr().err
    assert "mapping gpu cannot be written by pvesh" in err
    assert "a profile with a token" in err
    assert "terminal" not in err
    by_pvesh()
    assert main(["migrate-to-mapping", "100", "--apply", *yes]) == 2
    assert "mapping gpu-pve1-01-00 cannot be written by pvesh" in capsys.readouterr().err
    assert pve.state.writes == []


def test_the_two_steps_that_are_told_by_pvesh_do_it(
    pve: FakePve, capsys: Capture, monkeypatch: pytest.MonkeyPatch, by_pvesh: Callable[[], None]
) -> None:
    """VM 101 has two VFs of one PF, each of which becomes a mapping of its own."""
    by_pvesh()
    assert main(["migrate-to-mapping", "101", "100", "--apply", "--yes"]) == 2
    err = capsys.readouterr().err
    steps = [shlex.split(step)[1:] for step in re.findall(r"pvepassthru (?:mapping|migrate)[^;\n]*", err)]
    assert [step[0] for step in steps] == ["mapping", "mapping", "mapping", "migrate-to-mapping"]
    monkeypatch.setattr(connection, "connect", lambda _: mapping_cluster.client_of(pve, "mapper@pve", "word"))
    for step in steps[:3]:
        assert main([*step, "--yes"]) == 0
    by_pvesh()
    assert main([*steps[3], "--apply", "--yes"]) == 0
    assert pve.state.vm(101).config.main["hostpci3"] == "mapping=nic-pve1-03-10-1,rombar=0"
    assert pve.state.vm(100).config.main["hostpci0"] == "mapping=gpu-pve1-01-00,pcie=1,x-vga=1"


def test_a_device_of_several_slots_needs_the_password(
    pve: FakePve, capsys: Capture, by_pvesh: Callable[[], None]
) -> None:
    pve.state.vms[201] = Vm("pve2", "hostpci0: 06:00.0;07:00.0\n")
    by_pvesh()
    assert main(["migrate-to-mapping", "201", "--apply", "--yes"]) == 2
    assert "a profile with root@pam's password" in capsys.readouterr().err


def test_by_pvesh_a_mapping_that_is_there_is_taken(pve: FakePve, by_pvesh: Callable[[], None]) -> None:
    pve.state.mapping_text = mapping("card", GPU_LINE)
    by_pvesh()
    assert main(["migrate-to-mapping", "100", "--apply", "--yes"]) == 0
    assert pve.state.vm(100).config.main["hostpci0"].startswith("mapping=card")
