# SPDX-License-Identifier: Apache-2.0
"""The completions in real shells on a terminal: a line is typed, and the program notes what it was called with."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pvepassthru.rules.catalogue import BY_CODE
from tests.packaging.package import PROJECT, need, said

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAIT = 60
"""Seconds for an answer; then the shell is stuck."""
START = {
    "bash": r"""
. /usr/share/bash-completion/bash_completion
. {script}
bind 'set bell-style none'
bind '"\C-t": insert-completions'
""",
    "zsh": r"""
fpath=({folder} $fpath)
autoload -U compinit
compinit -u -D
everything() {{ _main_complete; compstate[insert]=all }}
zle -C everything complete-word everything
bindkey '^T' everything
""",
}
"""^T inserts all that the word can become."""
COMMON = r"""
pvepassthru() {{ printf '%s\n' "$@" > {out}.new; mv {out}.new {out}; }}
PS1='ready> '
"""
PLAIN = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}


class Shell:
    """A shell on a terminal of its own, where `pvepassthru` only notes its arguments."""

    def __init__(self, name: str, script: Path, folder: Path) -> None:
        self.is_bash = name == "bash"
        self.out = folder / f"{name}.out"
        setup = (START[name] + COMMON).format(script=script, folder=script.parent, out=self.out)
        (folder / f"{name}.rc").write_text(setup, encoding="utf-8")
        self.terminal, inner = pty.openpty()
        environment = {
            "PATH": "/usr/bin:/bin",
            "TERM": "dumb",
            "HOME": str(folder),
            "COLUMNS": "4000",
            "LC_ALL": "C.UTF-8",
        }
        self.process = subprocess.Popen(
            PLAIN[name], stdin=inner, stdout=inner, stderr=inner, env=environment, cwd=folder, start_new_session=True
        )
        os.close(inner)
        self.said = ""
        self.type(f". {folder}/{name}.rc\n")
        self.type("pvepassthru begun\n")
        assert self.arguments() == ["begun"]

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def arguments(self) -> list[str]:
        """What the program was called with since the last question."""
        for _ in range(WAIT * 20):
            self._read()
            if self.out.exists():
                words = self.out.read_text("utf-8").splitlines()
                self.out.unlink()
                return words
        raise AssertionError(f"no answer; the terminal has: {self.said[-2000:]}")

    def _read(self) -> None:
        """Take what the shell writes, so that it never waits for a reader."""
        if select.select([self.terminal], [], [], 0.05)[0]:
            with contextlib.suppress(OSError):
                self.said += os.read(self.terminal, 65536).decode("utf-8", "replace")

    def completed(self, line: str) -> list[str]:
        """The arguments after all completions of the line's last word were put in its place."""
        self.type(f"{line}\x14\n")
        return self.arguments()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a host, as far as names in it can be completed."""
    root = tmp_path_factory.mktemp("root")
    for name in (
        *("etc/pve/qemu-server/100.conf", "etc/pve/qemu-server/205.conf", "etc/pve/qemu-server/notes.conf"),
        *("etc/pve/nodes/n1/qemu-server/100.conf", "etc/pve/nodes/n2/qemu-server/300.conf"),
        *("sys/bus/pci/devices/0000:01:00.0/vendor", "sys/bus/pci/devices/0000:01:00.1/vendor"),
        *("sys/bus/pci/devices/0000:02:00.0/mdev_supported_types/nvidia-63/name", "sys/bus/pci/drivers/vfio-pci/bind"),
        "sys/bus/mdev/devices/00000000-0000-0000-0000-000000000100/remove",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("", encoding="utf-8")
    (root / "etc/pve/mapping").mkdir()
    mapping = "gpu\n\tmap node=n1,path=0000:01:00.0\n\nnic-2\n\tmap node=n2,path=0000:02:00.0\n"
    (root / "etc/pve/storage.cfg").write_text(
        "dir: local\n\tpath /var/lib/vz\n\nnfs: nas-1\n\tpath /x\n", encoding="utf-8"
    )
    (root / "etc/pve/mapping/pci.cfg").write_text(mapping, encoding="utf-8")
    return root


@pytest.fixture(scope="module", params=["bash", "zsh"])
def shell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    need(request.param)
    if request.param == "bash" and not os.path.exists("/usr/share/bash-completion/bash_completion"):
        need(why="needs the Debian package bash-completion")
    folder = tmp_path_factory.mktemp(request.param)
    script = folder / {"bash": "pvepassthru", "zsh": "_pvepassthru"}[request.param]
    said(sys.executable, PROJECT / "packaging" / "completion.py", request.param, script)
    shell = Shell(request.param, script, folder)
    yield shell
    shell.end()


def inserted(shell: Shell, typed: str, becomes: list[str]) -> list[str]:
    """For bash a colon ends a word, so of the second address and the next only the rest behind it is inserted."""
    typed = typed.rpartition(" ")[2]
    if ":" not in typed or not shell.is_bash:
        return becomes
    return [becomes[0], *(word.removeprefix(typed[: typed.rindex(":") + 1]) for word in becomes[1:])]


VMIDS = ["100", "205"]
DEVICES = ["0000:01:00.0", "0000:01:00.1", "0000:02:00.0"]
PHASES = ["post-start", "post-stop", "pre-start", "pre-stop"]


@pytest.mark.parametrize(
    "typed, becomes",
    [
        ("fl", ["fleet"]),
        ("mdev ", ["create", "list", "plan", "remove", "types"]),
        ("validate --fail", ["--fail-on"]),
        ("validate --fail-on ", ["error", "info", "never", "warning"]),
        ("validate ", VMIDS),
        ("validate 100 2", ["205"]),
        ("validate --json --select PVP1 2", ["205"]),
        ("explain PVP40", sorted(code for code in BY_CODE if code.startswith("PVP40"))),
        ("validate --ignore PVP10", sorted(code for code in BY_CODE if code.startswith("PVP10"))),
        ("devices ", DEVICES),
        ("devices 0000:01:", DEVICES[:2]),
        ("devices 0000:02:00", DEVICES[2:]),
        ("devices --vm 1", ["100"]),
        ("devices --driver v", ["vfio-pci"]),
        ("doctor --fix --for 0000:01:00.0 0000:02", DEVICES[2:]),
        ("plan 100 ", PHASES),
        ("hook 100 post", PHASES[:2]),
        ("mdev types 0000:0", DEVICES),
        ("mdev plan nv", ["nvidia-63"]),
        ("mdev plan nvidia-63 2 --parent 0000:02", DEVICES[2:]),
        ("mdev remove ", ["00000000-0000-0000-0000-000000000100"]),
        ("mapping check ", ["gpu", "nic-2"]),
        ("mapping plan gpu --node ", ["n1", "n2"]),
        ("mapping remove n", ["nic-2"]),
        ("attach --st", ["--storage"]),
        ("attach --storage ", ["local", "nas-1"]),
        ("attach --all-passthrough --d", ["--dry-run"]),
        ("attach 100 2", ["205"]),
        ("detach ", VMIDS),
        ("detach --al", ["--all"]),
        ("config 100 --efi-storage n", ["nas-1"]),
        ("report --f", ["--force"]),
        ("metrics --o", ["--output"]),
        ("migrate-to-mapping 3", ["300"]),
        ("config 100 --bios ", ["ovmf", "seabios"]),
        ("config 100 --mapping n", ["nic-2"]),
        ("release 0000:01", DEVICES[:2]),
    ],
)
def test_a_word_becomes_what_can_stand_there(shell: Shell, root: Path, typed: str, becomes: list[str]) -> None:
    before = typed.split(" ")[:-1]
    words = shell.completed(f"pvepassthru --root {root} {typed}")
    assert words[:2] == ["--root", str(root)]
    assert words[2 : 2 + len(before)] == before
    assert sorted(words[2 + len(before) :]) == sorted(inserted(shell, typed, becomes))


def test_a_value_behind_an_equals_sign(shell: Shell, root: Path) -> None:
    assert shell.completed(f"pvepassthru --root={root} validate --fail-on=ne")[-1] == "--fail-on=never"
    assert shell.completed(f"pvepassthru --root={root} devices --vm=1")[-1] == "--vm=100"


def test_files(shell: Shell, root: Path) -> None:
    assert (
        shell.completed(f"pvepassthru policy check {root}/etc/pve/mapping/p")[-1] == f"{root}/etc/pve/mapping/pci.cfg"
    )
    assert shell.completed(f"pvepassthru --root {root}/etc/pve/map")[-1].rstrip("/") == f"{root}/etc/pve/mapping"
    for typed in ("report -o", "report --output", "metrics -o", "metrics --output", "snapshot -o"):
        assert shell.completed(f"pvepassthru {typed} {root}/etc/pve/st")[-1] == f"{root}/etc/pve/storage.cfg"


def test_what_nobody_knows_is_left_as_it_is(shell: Shell, root: Path) -> None:
    for typed in (f"--root {root} validate 9", f"--root {root} nothing ", "--root /nowhere devices ", "status x"):
        assert shell.completed(f"pvepassthru {typed}") == typed.split()


def test_no_python_is_started(shell: Shell) -> None:
    """The scripts name no program but the shell's own, and two that look through lists."""
    script = (shell.out.parent / {"bash": "pvepassthru", "zsh": "_pvepassthru"}[shell.out.stem]).read_text("utf-8")
    assert "python" not in script
    assert "/usr/bin" not in script
