# SPDX-License-Identifier: Apache-2.0
"""Two hookscripts as one: the order, what each one's end means, and what the chained one is given."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests import tree
from tests.lifecycle.test_imports import QUICK, loaded
from tests.scenarios import attached
from tests.scenarios.world import ALL, mdev

if TYPE_CHECKING:
    from tests.scenarios.world import SimWorld


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python with the package."""
    return attached.interpreter(tmp_path_factory.mktemp("whole"), package=True)


@pytest.fixture
def chained(world: SimWorld, python: str) -> SimWorld:
    """VM 100 with a mediated device, the shim, and a script chained to it."""
    world.pve.hook = [python, "-I", attached.put_shim(world.root)]
    world.pve.define(100, mdev(1))
    attached.chain(world.root)
    return world


def begin(world: SimWorld, phase: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*world.pve.hook, "100", phase],
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "PVEPASSTHRU_ROOT": world.root, **more},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(world: SimWorld, phase: str) -> tuple[int, str, str]:
    process = begin(world, phase)
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    return process.returncode, out, err


# ---- order


def test_the_other_one_is_around_ours(chained: SimWorld) -> None:
    before = chained.state()
    for phase in ALL:
        assert chained.hook(100, phase).code == 0
    assert attached.notes(chained.root) == [
        "pre-start none",
        "post-start journal",
        "pre-stop journal",
        "post-stop none",
    ]
    assert chained.state() == before


def test_another_vm_has_ours_only(chained: SimWorld) -> None:
    chained.pve.define(101, "memory: 512\n")
    assert chained.hook(101, "pre-start").code == 0
    assert attached.notes(chained.root) == []


def test_post_stop_needs_no_config_and_no_journal(chained: SimWorld) -> None:
    """Attached while the VM ran, which is gone by now."""
    os.unlink(f"{chained.root}/etc/pve/qemu-server/100.conf")
    assert run(chained, "post-stop") == (0, "other: post-stop\n", "")


# ---- exit codes


def test_it_can_refuse_the_start(chained: SimWorld) -> None:
    attached.other_ends_with(chained.root, 7)
    before = chained.state()
    code, _, said = run(chained, "pre-start")
    assert code == 7
    assert said == (
        "pvepassthru: error: hookscript local:snippets/other, chained to ours, ended with 7 at pre-start, so VM 100 "
        "does not start\n"
    )
    assert chained.state() == before


@pytest.mark.parametrize("phase", ["post-start", "pre-stop", "post-stop"])
def test_elsewhere_its_failure_changes_nothing_for_ours(phase: str, chained: SimWorld) -> None:
    assert chained.hook(100, "pre-start").code == 0
    attached.other_ends_with(chained.root, 7)
    code, _, said = run(chained, phase)
    assert code == 7, "PVE warns of it, as before"
    assert "warning: hookscript local:snippets/other, chained to ours, ended with 7" in said
    assert bool(chained.journals()) == (phase != "post-stop")
    if phase == "post-start":
        assert "has run" in chained.run("status")


def test_ours_refuses_after_it_has_run(chained: SimWorld) -> None:
    chained.pve.define(100, "hostpci0: 0000:77:00.0\n")
    code, _, said = run(chained, "pre-start")
    assert code == 5
    assert attached.notes(chained.root) == ["pre-start none"]
    lines = said.splitlines()
    assert "0000:77:00.0" in lines[0]
    assert lines[-1] == (
        "pvepassthru: error: hookscript local:snippets/other has run before; as after any start that fails, PVE does "
        "not run its post-stop"
    )


def test_it_is_ended_by_a_signal(chained: SimWorld) -> None:
    attached.chain(chained.root, "#!/bin/sh\nkill -9 $$\n")
    code, _, said = run(chained, "pre-start")
    assert code == 137
    assert "was ended by signal 9 at pre-start" in said


# ---- scripts that cannot be run


@pytest.mark.parametrize(
    "script, mode, why",
    [
        (None, 0o755, "there is no /var/lib/vz/snippets/other"),
        ("", 0o644, "/var/lib/vz/snippets/other is not executable"),
    ],
    ids=["gone", "not executable"],
)
def test_one_that_pve_would_not_run(script: str | None, mode: int, why: str, chained: SimWorld) -> None:
    os.unlink(chained.root + attached.OTHER)
    attached.chain(chained.root, script, mode=mode)
    code, _, said = run(chained, "pre-start")
    assert code == 5
    assert said.startswith(
        f"pvepassthru: error: cannot run hookscript local:snippets/other, chained to ours: {why}; put"
    )
    assert said.endswith("or do without it: pvepassthru detach 100; pvepassthru attach 100\n")
    assert not chained.journals()
    code, _, said = run(chained, "post-stop")
    assert code == 5
    assert said.startswith("pvepassthru: warning: cannot run hookscript local:snippets/other")


def test_one_without_a_first_line_is_run_by_sh(chained: SimWorld) -> None:
    """As execvp(3) does it, and so perl."""
    attached.chain(chained.root, 'echo "$1 $2"\n')
    assert run(chained, "pre-start")[1].startswith("100 pre-start\n")


def test_one_with_an_interpreter_that_is_not_there(chained: SimWorld) -> None:
    attached.chain(chained.root, "#!/no/such/program\n")
    code, _, said = run(chained, "pre-start")
    assert code == 5
    assert "chained to ours: No such file or directory" in said


def test_it_lies_where_the_storage_is_now(chained: SimWorld) -> None:
    tree.put(
        chained.root,
        "etc/pve/storage.cfg",
        "dir: local\n\tpath /srv/vz\n\tcontent snippets\n\tcontent-dirs snippets=hooks\n",
    )
    os.chmod(tree.put(chained.root, "srv/vz/hooks/other", "#!/bin/sh\necho moved\n"), 0o755)
    assert run(chained, "pre-start")[1].startswith("moved\n")


def test_ours_chained_to_itself_runs_once(chained: SimWorld) -> None:
    link = {"volume": "local:snippets/pvepassthru", "path": attached.OURS}
    tree.put(chained.root, attached.HOOKS, json.dumps({"version": 1, "chained": {"100": link}}))
    assert run(chained, "pre-start")[0] == 0
    assert chained.mdevs()


@pytest.mark.parametrize("text", ['{"100"', '{"version": 2, "chained": {"100": {}}}', '["100"]'])
def test_a_file_that_cannot_be_used(text: str, chained: SimWorld) -> None:
    """The script may be needed for the start; it is not for what ours gives back."""
    assert chained.hook(100, "pre-start").code == 0
    tree.put(chained.root, attached.HOOKS, text)
    code, _, said = run(chained, "post-stop")
    assert code == 0
    assert "warning: it cannot be told which hookscript is chained to ours: /etc/pve/pvepassthru-hooks.json" in said
    assert not chained.journals()
    assert run(chained, "pre-start")[0] == 4
    assert not chained.journals()
    assert attached.notes(chained.root) == ["pre-start none"]


# ---- what it is given


def test_arguments_environment_folder_and_streams(chained: SimWorld) -> None:
    script = (
        '#!/bin/sh\necho "$0 $*"\nenv | sort\npwd\ncat\ngrep SigBlk /proc/self/status\nls /proc/self/fd\necho e >&2\n'
    )
    attached.chain(chained.root, script)
    inherited = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(inherited, True)  # noqa: FBT003 - it has no keyword
    chained.pve.define(100, "memory: 512\n")
    command = [*chained.pve.hook, "100", "pre-start"]
    environment = {
        "PATH": "/usr/bin:/bin",
        "LC_ALL": "C",
        "PVE_MIGRATED_FROM": "",
        "A": "b c",
        "PVEPASSTHRU_ROOT": chained.root,
    }
    run_it = partial(
        subprocess.run,
        cwd="/",
        env=environment,
        input="in\n",
        capture_output=True,
        text=True,
        check=True,
        pass_fds=[inherited],
    )
    given = run_it(command)
    alone = run_it([chained.root + attached.OTHER, *command[-2:]])
    os.close(inherited)
    assert given.stdout == alone.stdout
    assert given.stderr == alone.stderr == "e\n"
    assert f"\n{inherited}\n" in given.stdout
    attached.chain(chained.root, "#!/bin/sh\ngrep SigIgn /proc/self/status\n")
    assert int(run(chained, "pre-start")[1].split()[1], 16) & (1 << 31) - 1 == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_it(number: signal.Signals, chained: SimWorld) -> None:
    """It is passed on, so that nobody is left behind; and the start is refused."""
    words = (
        f"trap 'echo trapped; exit 3' {number}; echo up; while :; do sleep 0.05; done"  # traps wait for a command's end
    )
    attached.chain(chained.root, f"#!/bin/sh\n{words}\n")
    process = begin(chained, "pre-start")
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (3, "trapped\n")
    assert "ended with 3 at pre-start" in err
    assert not chained.journals()


def test_an_interrupt_is_the_terminals(chained: SimWorld) -> None:
    """Ctrl-C reaches both by itself; ours waits for the other one's end."""
    attached.chain(chained.root, '#!/bin/sh\necho up\nread x <"${0%/*}/fifo"\nexit 9\n')
    fifo = f"{chained.root}{attached.SNIPPETS}/fifo"
    os.mkfifo(fifo)
    process = begin(chained, "pre-start")
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    with open(fifo, "w", encoding="ascii") as file:
        file.write("go\n")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 9
    assert "Traceback" not in err


# ---- cost


def test_it_loads_nothing_slow(chained: SimWorld, python: str) -> None:
    chained.pve.define(100, "memory: 512\n")
    usual = loaded("-c", "pass", python=python)
    path = chained.root + attached.OURS
    found = loaded(path, "100", "post-stop", root=chained.root, python=python) - usual
    assert not found & {"argparse", "dataclasses", "filelock", "inspect", "json", "logging", "subprocess", "yaml"}
    assert "pvepassthru.lifecycle.chained" in found
    assert set(QUICK) <= found


def test_messages_cannot_break_the_log(chained: SimWorld) -> None:
    link = {"volume": "local:snippets/a\nb", "path": "/x"}
    tree.put(chained.root, attached.HOOKS, json.dumps({"version": 1, "chained": {"100": link}}))
    code, _, said = run(chained, "pre-start")
    assert code == 5
    assert said.count("\n") == 1
    assert "a\\nb" in said
