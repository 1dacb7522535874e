# SPDX-License-Identifier: Apache-2.0
"""The command `detach` on a node, and whatever people do with both."""

from __future__ import annotations

import json
import os
import tempfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tree
from tests.scenarios import attached
from tests.scenarios.attached import OTHER_VOLUME, VOLUME, give, run, snapshot

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A node with VM 100, which has a device, and 101, which has none."""
    return attached.node(tmp_path / "root", monkeypatch)


# ---- detach


def test_back_to_none(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = attached.config(root)
    run(root, "attach", "100")
    capsys.readouterr()
    assert run(root, "detach", "100") == 0
    assert capsys.readouterr().out == "VM 100: has no hookscript again\n"
    assert attached.config(root) == before
    assert os.path.exists(root + attached.OURS), "others may have it"


def test_back_to_the_former(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    give(root, f"hookscript: {OTHER_VOLUME}\n")
    run(root, "attach", "100")
    capsys.readouterr()
    before = snapshot(root)
    assert run(root, "detach", "100", "--dry-run") == 0
    assert capsys.readouterr().out == (
        "VM 100: would have hookscript local:snippets/other again\n"
        "  qm set 100 --hookscript local:snippets/other\n"
        "  forget VM 100 in /etc/pve/pvepassthru-hooks.json\n"
    )
    assert snapshot(root) == before
    assert run(root, "detach", "100") == 0
    assert attached.config(root) == f"hookscript: {OTHER_VOLUME}\n"
    assert not os.path.exists(root + attached.HOOKS)


def test_a_former_hookscript_that_is_gone(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    give(root, f"hookscript: {OTHER_VOLUME}\n")
    run(root, "attach", "100")
    os.unlink(root + attached.OTHER)
    before = attached.snapshot(root)
    capsys.readouterr()
    assert run(root, "detach", "100", "--dry-run") == 0
    assert "qm set 100 --delete hookscript\n" in capsys.readouterr().out
    assert attached.snapshot(root) == before
    assert run(root, "detach", "100", "--json") == 0
    said = capsys.readouterr()
    (vm,) = json.loads(said.out)["vms"]
    assert (vm["state"], vm["hookscript"], vm["former"]) == ("detached", None, OTHER_VOLUME)
    assert said.err == (
        "pvepassthru: warning: VM 100 had hookscript local:snippets/other before, which cannot be run (there is no "
        "/var/lib/vz/snippets/other), so it has none now; to have it again, once it can: qm set 100 --hookscript "
        "local:snippets/other\n"
    )
    assert "hookscript" not in attached.config(root)
    assert attached.hooks(root) == {}


def test_the_way_out_of_a_chain_that_is_broken(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What PVP396 advises leads to a VM that starts."""
    give(root, f"hookscript: {OTHER_VOLUME}\n")
    assert run(root, "attach", "100") == 0
    os.unlink(root + attached.OTHER)
    capsys.readouterr()
    run(root, "validate", "100", "--select", "PVP396")
    advice = capsys.readouterr().out.split("do without it: ")[1].split("\n")[0].split("; ")
    assert len(advice) == 2
    for command in advice:
        assert run(root, *command.split(" ")[1:]) == 0
    assert attached.config(root) == f"hookscript: {VOLUME}\n"
    assert attached.hooks(root) == {}
    assert run(root, "validate", "100", "--select", "PVP394,PVP396") == 0


def test_storages_that_cannot_be_read(root: str) -> None:
    """Whether the former hookscript can be run is not known then, and nothing is taken off."""
    give(root, f"hookscript: {OTHER_VOLUME}\n")
    run(root, "attach", "100")
    tree.folder(root, "etc/pve/storage.cfg")
    assert run(root, "detach", "100") == 4
    assert attached.config(root) == f"hookscript: {VOLUME}\n"
    assert "100" in attached.hooks(root)


def test_another_hookscript_meanwhile(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    give(root, f"hookscript: {OTHER_VOLUME}\n")
    run(root, "attach", "100")
    third = "local:snippets/third"
    give(root, f"hookscript: {third}\n")
    capsys.readouterr()
    assert run(root, "detach", "100") == 0
    said = capsys.readouterr()
    assert said.out == "VM 100: the note of its former hookscript is forgotten\n"
    assert said.err == (
        f"pvepassthru: warning: VM 100 has hookscript {third}, which is not this tool's: it stays; the one that it had "
        "before ours was local:snippets/other\n"
    )
    assert attached.config(root) == f"hookscript: {third}\n"
    assert attached.hooks(root) == {}
    assert run(root, "detach", "100") == 0
    assert capsys.readouterr().out == "VM 100: nothing to take off\n"


def test_a_vm_that_is_gone(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    attached.chain(root, vmid=555)
    assert run(root, "detach", "555") == 0
    assert attached.hooks(root) == {}
    assert "VM 555 is not there any more" in capsys.readouterr().err
    assert run(root, "detach", "555") == 3


def test_an_open_journal_is_recovers(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(root, "attach", "100")
    journal = tree.put(root, "run/pvepassthru/100.journal", "x\n")
    assert run(root, "detach", "100") == 0
    assert "warning: VM 100 has an open journal" in capsys.readouterr().err
    assert os.path.exists(journal)


def test_all_of_this_node(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    give(root, f"hookscript: {OTHER_VOLUME}\n", 102)
    run(root, "attach", "100")
    tree.put(root, "etc/pve/nodes/other/qemu-server/200.conf", f"hookscript: {VOLUME}\n")
    attached.chain(root, vmid=200)
    assert run(root, "detach", "--all") == 0
    assert attached.log(root)[1:] == ["set 100 --delete hookscript"]
    assert list(attached.hooks(root)) == ["200"], "another node's"
    capsys.readouterr()
    assert run(root, "detach", "--all", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"dry_run": False, "vms": []}
    assert run(root, "detach") == 2


def test_its_own_shim_is_gone(root: str) -> None:
    """The VM does not start then; it can be given another one, and be without one."""
    run(root, "attach", "100")
    os.unlink(root + attached.OURS)
    assert run(root, "detach", "100") == 0
    assert "hookscript" not in attached.config(root)


@settings(max_examples=20)
@given(st.lists(st.sampled_from(["attach", "detach", "other", "third", "none"]), max_size=6))
def test_whatever_people_do(steps: list[str]) -> None:
    """A VM runs what people have set, with ours or without it."""
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as monkeypatch:
        attached.node(root, monkeypatch)
        wanted: str | None = None
        has_ours = False
        for step in steps:
            if step in {"attach", "detach"}:
                has_ours = step == "attach"
                assert run(root, step, "100") == 0
            else:
                has_ours = False
                wanted = None if step == "none" else f"local:snippets/{step}"
                give(root, f"hookscript: {wanted}\n" if wanted else "memory: 512\n")
            config = attached.config(root)
            if has_ours:
                assert config.endswith(f"hookscript: {VOLUME}\n")
                assert attached.hooks(root).get("100", {}).get("volume") == wanted
            else:
                assert config.endswith(f"hookscript: {wanted}\n") if wanted else "hookscript" not in config
