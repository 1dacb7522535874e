# SPDX-License-Identifier: Apache-2.0
"""`attach` and `detach` killed between any two steps, and several at once on one node and on two."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.cli.main import main
from pvepassthru.host import chained, cluster_lock, programs
from pvepassthru.host.host import Host
from pvepassthru.lifecycle import attachment
from pvepassthru.model.chain import Link
from pvepassthru.model.errors import DeviceError
from tests import tree
from tests.scenarios import attached
from tests.scenarios.attached import OTHER_VOLUME as OTHER
from tests.scenarios.attached import VOLUME as OURS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FORMER = f"hookscript: {OTHER}\n"
STEPS = ("mkdir", "rmdir", "rename", "unlink", "fsync")
"""Calls of os between which a process is killed; and before and after each qm."""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A node with VM 100, which has another hookscript."""
    monkeypatch.setattr(cluster_lock, "PATIENCE", 0.3)
    return attached.node(tmp_path / "root", monkeypatch, {100: FORMER})


def in_child(work: Callable[[], int]) -> int:
    """The wait status of a process that does this."""
    pid = os.fork()
    if pid == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        try:
            os._exit(work())
        finally:
            os._exit(99)
    return os.waitpid(pid, 0)[1]


def killed_at(number: int, *words: str) -> int:
    """Run a command in a process that is killed at its step of this number; its wait status."""
    left = [number]

    def counted(do: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **more: Any) -> Any:  # noqa: ANN401 - whatever the call takes
            count()
            answer = do(*args, **more)
            if do.__name__ == "<lambda>":  # programs.run: what it ran has done its work
                count()
            return answer

        return step

    def count() -> None:
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

    def work() -> int:
        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        programs.run = counted(programs.run)
        return main(list(words))

    return in_child(work)


def runs(root: str) -> list[str]:
    """The scripts that a start of VM 100 runs."""
    volume = attached.config(root).strip().removeprefix("hookscript: ")
    if volume == OURS:
        assert os.access(root + attached.OURS, os.X_OK)
        return [OTHER, OURS] if "100" in attached.hooks(root) else [OURS]
    return [volume]


def expire(root: str) -> None:
    """Remove the cluster's lock that a killed process left, as pmxcfs does when it is asked after 120 s."""
    folder = root + cluster_lock.FOLDER
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        os.rmdir(f"{folder}/{name}")


@pytest.mark.parametrize("command", ["attach", "detach"])
def test_killed_at_each_step(command: str, root: str) -> None:
    """The VM runs its former script at any time, and a second run makes up for it."""
    if command == "detach":
        assert main(["--root", root, "attach", "100"]) == 0
    after = [OTHER, OURS] if command == "attach" else [OTHER]
    kills = 0
    while killed_at(kills, "--root", root, command, "100") == signal.SIGKILL:
        assert runs(root) in ([OTHER], [OTHER, OURS])
        expire(root)
        assert main(["--root", root, command, "100"]) == 0
        assert runs(root) == after
        assert attached.hooks(root) == (
            {"100": {"volume": OTHER, "path": attached.OTHER}} if command == "attach" else {}
        )
        expire(root)
        kills += 1
        for path in (root + attached.OURS, root + attached.HOOKS):
            if command == "attach" and os.path.exists(path):
                os.unlink(path)
        if command == "attach":
            tree.put(root, "etc/pve/nodes/pve/qemu-server/100.conf", FORMER)
        else:
            assert main(["--root", root, "attach", "100"]) == 0
    assert runs(root) == after
    assert kills > 6, "it has that many steps"


def test_a_lock_of_a_killed_process(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    tree.folder(root, f"{cluster_lock.FOLDER}/{chained.LOCK}")
    assert main(["--root", root, "attach", "100"]) == 6
    assert "what a process that was killed has left there goes by itself after 2 min" in capsys.readouterr().err


def test_several_at_once(root: str) -> None:
    """All of one node: each VM keeps its former script."""
    vmids = range(100, 106)
    for vmid in vmids:
        tree.put(root, f"etc/pve/nodes/pve/qemu-server/{vmid}.conf", FORMER)
    pids = []
    for vmid in vmids:
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            cluster_lock.PATIENCE = 60.0
            os._exit(main(["--root", root, "attach", str(vmid), "100"]))
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * len(pids)
    assert attached.hooks(root) == {str(vmid): {"volume": OTHER, "path": attached.OTHER} for vmid in vmids}
    assert all(attached.config(root, vmid) == f"hookscript: {OURS}\n" for vmid in vmids)


def test_nodes_do_not_lose_each_others_notes(root: str) -> None:
    """Two nodes share no lock but the cluster's."""
    rounds, nodes = 15, 3
    pids = []
    for node in range(nodes):
        pid = os.fork()
        if pid == 0:
            cluster_lock.PATIENCE = 60.0
            host = Host(root)
            for number in range(rounds):
                chained.note(host, 1000 * (node + 1) + number, Link(OTHER, attached.OTHER), lambda: True)
                if number % 3 == 0:
                    chained.note(host, 1000 * (node + 1) + number, None, lambda: True)
            os._exit(0)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * nodes
    wanted = {str(1000 * (node + 1) + number) for node in range(nodes) for number in range(rounds) if number % 3}
    assert set(attached.hooks(root)) == wanted


def in_between(monkeypatch: pytest.MonkeyPatch, before: str, work: Callable[[], object]) -> None:
    """Have another node work once before a step of this one: taking the cluster's `lock`, or running `qm`."""
    done: list[bool] = []
    take, run = cluster_lock._take, programs.run

    def once() -> None:
        if not done:
            done.append(True)
            work()

    def lock(own: str, path: str, what: str) -> None:
        if before == "lock":
            once()
        take(own, path, what)

    def program(host: Host, command: tuple[str, ...], seconds: float) -> programs.Output:
        if before == "qm":
            once()
        return run(host, command, seconds)

    monkeypatch.setattr(cluster_lock, "_take", lock)
    monkeypatch.setattr(programs, "run", program)


def move(root: str, to: str) -> None:
    """Move VM 100 to the other node and let us be that one, or back."""
    configs = f"{root}/etc/pve/nodes"
    here = "pve" if to == "other" else "other"
    tree.folder(root, f"etc/pve/nodes/{to}/qemu-server")
    os.rename(f"{configs}/{here}/qemu-server/100.conf", f"{configs}/{to}/qemu-server/100.conf")
    tree.put(root, "etc/hostname", f"{to}\n")
    tree.link(root, "etc/pve/qemu-server", f"etc/pve/nodes/{to}/qemu-server")


def other_node(root: str, *words: str) -> int:
    """Run a command on the other node, to which VM 100 has moved; its exit code. The lock of this node is not its."""
    move(root, "other")
    lock = f"{root}{attachment.LOCK}"
    os.rename(lock, f"{lock}.of-pve")
    try:
        return main(["--root", root, *words, *(["--this-node-only"] if words[0] == "attach" else [])])
    finally:
        os.replace(f"{lock}.of-pve", lock)


def test_attached_on_another_node_before_a_detach_has_forgotten(
    root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The note is needed then."""
    assert main(["--root", root, "attach", "100"]) == 0
    codes = []
    in_between(monkeypatch, "lock", lambda: codes.append(other_node(root, "attach", "100")))
    assert main(["--root", root, "detach", "100"]) == 0
    assert codes == [0]
    assert "VM 100 has this tool's hookscript again, by somebody else, so the note of" in capsys.readouterr().err
    assert attached.config(root, node="other") == f"hookscript: {OURS}\n"
    assert attached.hooks(root) == {"100": {"volume": OTHER, "path": attached.OTHER}}


def test_a_detach_on_another_node_forgets_before_this_one_has_set(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours is noted again: a detach had given the VM its former hookscript and has yet to forget it."""
    attached.chain(root, "#!/bin/sh\n")
    host = Host(root)
    in_between(monkeypatch, "qm", lambda: chained.note(host, 100, None, lambda: True))
    assert main(["--root", root, "attach", "100"]) == 0
    assert attached.config(root) == f"hookscript: {OURS}\n"
    assert attached.hooks(root) == {"100": {"volume": OTHER, "path": attached.OTHER}}


def test_changed_before_it_is_noted(
    root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", root, "attach", "--shim-only"]) == 0
    third = "hookscript: local:snippets/third\n"
    in_between(monkeypatch, "lock", lambda: attached.give(root, third))
    assert main(["--root", root, "attach", "100"]) == 6
    assert capsys.readouterr().err == (
        "pvepassthru: somebody else changes the hookscript of VM 100; see what it has now; run this again\n"
    )
    assert attached.hooks(root) == {}
    assert main(["--root", root, "attach", "100"]) == 0
    assert attached.hooks(root)["100"]["volume"] == "local:snippets/third"


def test_the_package_must_be_there_for_the_shim(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a virtual environment it is not."""
    said = programs.Output(1, "", "Traceback ...\nModuleNotFoundError: No module named 'pvepassthru'")
    commands = []

    def run(_host: Host, command: tuple[str, ...], _seconds: float) -> programs.Output:
        commands.append(command)
        return said

    monkeypatch.setattr(programs, "run", run)
    with pytest.raises(
        DeviceError, match="/usr/bin/python3, which runs hookscripts, cannot load pvepassthru: ModuleNot"
    ):
        attachment.need_package(Host(root))
    said = programs.Output(0, "", "")
    attachment.need_package(Host(root))
    assert commands == [("/usr/bin/python3", "-I", "-c", "import pvepassthru.lifecycle.quick")] * 2


def test_what_qm_leaves_undone_is_seen(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    os.chmod(tree.put(root, "usr/sbin/qm", "#!/bin/sh\nexit 0\n"), 0o755)
    assert main(["--root", root, "attach", "100"]) == 5
    assert "qm said nothing of it, and the config has it not" in capsys.readouterr().err


def test_what_qm_has_done_counts(root: str) -> None:
    """Whatever it says: it may be late, and done."""
    script = f"#!/bin/sh\necho 'hookscript: {OURS}' >{root}/etc/pve/qemu-server/100.conf\nexit 1\n"
    os.chmod(tree.put(root, "usr/sbin/qm", script), 0o755)
    assert main(["--root", root, "attach", "100"]) == 0
