# SPDX-License-Identifier: Apache-2.0
"""The command `attach` by the API: who may, where the hookscript has to lie, and what only the node can do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pvepassthru.cli.main import main
from tests.api.applying import fake_cluster
from tests.api.fake_pve.data import Storage
from tests.api.fake_pve.server import FakePve
from tests.cli import environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OURS = "local:snippets/pvepassthru"


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.clear(monkeypatch, tmp_path / "home")


@pytest.fixture
def pve(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePve]:
    """A cluster of two nodes, each with the hookscript on `local`, for root@pam by password."""
    with FakePve(fake_cluster("memory: 512\n")) as fake:
        environment.log_in(monkeypatch, fake)
        yield fake


def hookscript(pve: FakePve, vmid: int = 100) -> str | None:
    return pve.state.vms[vmid].config.main.get("hookscript")


def storages(pve: FakePve, node: str, **found: Storage) -> None:
    object.__setattr__(pve.state.nodes[node], "storages", found)


def test_a_vm_gets_the_hookscript(pve: FakePve, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attach", "100", "--dry-run"]) == 0
    assert capsys.readouterr().out == (f"VM 100: would have hookscript {OURS}\n  qm set 100 --hookscript {OURS}\n")
    assert hookscript(pve) is None
    assert main(["attach", "100", "101"]) == 0
    assert capsys.readouterr().out == f"VM 100: has hookscript {OURS}\nVM 101: has hookscript {OURS}\n"
    assert hookscript(pve) == hookscript(pve, 101) == OURS
    assert main(["attach", "100", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["shim"] is None
    assert [vm["state"] for vm in found["vms"]] == ["already"]


@pytest.mark.parametrize("user, token", [("root@pam", "full"), ("op@pve", "all"), ("op@pve", "")])
def test_who_may_not(
    user: str, token: str, pve: FakePve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.log_in(monkeypatch, pve, user, token)
    assert main(["attach", "100"]) == 12
    who = f"{user}!{token}" if token else user
    assert capsys.readouterr().err == (
        f"pvepassthru: {who} may set no hookscript: PVE lets only root@pam do that, with its password, and no token; "
        "use a profile of root@pam with its password, or run pvepassthru attach as root on the VM's node\n"
    )
    assert hookscript(pve) is None


def test_a_foreign_hookscript_is_the_nodes_part(pve: FakePve, capsys: pytest.CaptureFixture[str]) -> None:
    pve.state.vms[100].change(hookscript="local:snippets/other")
    assert main(["attach", "100"]) == 13
    assert capsys.readouterr().err == (
        "pvepassthru: VM 100 has the hookscript local:snippets/other, and only its own node can chain one; as root on "
        "node pve1: pvepassthru attach 100\n"
    )
    assert hookscript(pve) == "local:snippets/other"


def test_the_vms_node_lacks_it(pve: FakePve, capsys: pytest.CaptureFixture[str]) -> None:
    storages(pve, "pve1", local=Storage("snippets", "dir"))
    assert main(["attach", "100"]) == 3
    assert capsys.readouterr().err == (
        "pvepassthru: node pve1 has no hookscript snippets/pvepassthru (local has it not), and the API takes no "
        "snippets; as root on that node: pvepassthru attach --shim-only\n"
    )
    assert main(["attach", "100", "--storage", "nas"]) == 3
    assert "node pve1 has no storage nas for snippets" in capsys.readouterr().err
    storages(pve, "pve1")
    assert main(["attach", "100"]) == 3
    assert "(no storage there is for snippets)" in capsys.readouterr().err
    assert hookscript(pve) is None


def test_another_node_lacks_it(pve: FakePve, capsys: pytest.CaptureFixture[str]) -> None:
    storages(pve, "pve2", local=Storage("snippets", "dir", {"x": True}))
    assert main(["attach", "100"]) == 13
    assert capsys.readouterr().err == (
        "pvepassthru: VM 100 may be started on pve2 too, where PVE refuses that without its hookscript (pve2: it has "
        f"no {OURS}); as root there: pvepassthru attach --shim-only --storage local; or leave it at that with "
        "--this-node-only\n"
    )
    assert hookscript(pve) is None
    assert main(["attach", "100", "--this-node-only"]) == 0
    assert hookscript(pve) == OURS


@pytest.mark.parametrize("how", ["down", "no storage"])
def test_another_node_that_cannot_be_asked(how: str, pve: FakePve, capsys: pytest.CaptureFixture[str]) -> None:
    if how == "down":
        pve.state.down["pve2"] = 595
    else:
        storages(pve, "pve2")
    assert main(["attach", "100"]) == 13
    assert ("pve2: it is offline" in capsys.readouterr().err) == (how == "down")
    assert hookscript(pve) is None


def test_a_device_keeps_a_vm_where_it_is(pve: FakePve) -> None:
    storages(pve, "pve2")
    pve.state.vms[100].change(hostpci0="0000:01:00.0")
    assert main(["attach", "100"]) == 0


@pytest.mark.parametrize(
    "text, code",
    [
        ("memory: 512\n\n[PENDING]\nhostpci0: 0000:01:00.0\n", 0),
        ("hostpci0: 0000:01:00.0\nmemory: 512\n\n[PENDING]\ndelete: hostpci0\n", 13),
    ],
    ids=["added", "deleted"],
)
def test_a_device_that_is_pending_counts(text: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a node: where a VM may go is a matter of its next start."""
    with FakePve(fake_cluster(text, running=True)) as pve:
        environment.log_in(monkeypatch, pve)
        storages(pve, "pve2")
        assert main(["attach", "100", "--dry-run"]) == code


def test_what_the_api_cannot_do(pve: FakePve, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--shim-only", "--all-passthrough"):
        assert main(["attach", option]) == 2
        assert f"{option} is for a node itself, and this goes by the API" in capsys.readouterr().err
    assert hookscript(pve) is None


def test_vms_that_are_none(pve: FakePve, capsys: pytest.CaptureFixture[str]) -> None:
    pve.state.vms[101].change(template="1")
    assert main(["attach", "999", "101", "102"]) == 3
    said = capsys.readouterr()
    assert "sees no VM 999" in said.err
    assert "VM 101 is a template" in said.err
    assert said.out == f"VM 102: has hookscript {OURS}\n"
