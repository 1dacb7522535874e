# SPDX-License-Identifier: Apache-2.0
"""Run a Python script, and kill it at its N-th change to the outside world: for tests of crashes at any point.

    python3 -I killed.py --before N SCRIPT ARGUMENT...     SIGKILL instead of its N-th change
    python3 -I killed.py --after N SCRIPT ARGUMENT...      SIGKILL right after its N-th change
    python3 -I killed.py --log FILE SCRIPT ARGUMENT...     only count: one line a change is appended to FILE

A change is a call of one of the functions in CHANGES, or an open that may create, cut or write a file, by the script's
process or a child that it forked, counted from 1 over all of them. SIGKILL goes to the script's process and to the
child that was about to make the change; with --spare-child only to the script's process, as when somebody kills that:
the child goes on. Programs that the script executes are not looked into. A script that makes fewer changes ends
by itself. Only the standard library; works on any host, real or simulated.
"""

from __future__ import annotations

import argparse
import builtins
import io
import mmap
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

CHANGES = (
    *("write", "writev", "pwrite", "sendfile", "ftruncate", "truncate", "posix_fallocate", "copy_file_range"),
    *("rename", "replace", "unlink", "remove", "link", "symlink", "mkdir", "rmdir", "mkfifo"),
    *("chmod", "fchmod", "chown", "fchown", "lchown", "utime"),
)
CREATING = os.O_CREAT | os.O_TRUNC


class At(NamedTuple):
    """Where to kill, and what to note."""

    before: int | None = None
    """The number of the change that does not happen any more."""
    after: int | None = None
    """The number of the change that is the last."""
    spare_child: bool = False
    """Kill only the script's process, not the child that makes the change."""
    log: str | None = None
    """A file that gets one line a change."""


class Killer:
    """Counts the changes of this process and its children, and kills them at the wanted one."""

    def __init__(self, at: At) -> None:
        self.main = os.getpid()
        self.at = at
        self._count = mmap.mmap(-1, 8)  # shared with forked children
        self._open, self._write, self._close = os.open, os.write, os.close

    def install(self) -> None:
        """Put itself in front of every function that makes changes."""
        for name in CHANGES:
            if hasattr(os, name):
                setattr(os, name, self._around(name, getattr(os, name), lambda *_, **__: True))
        os.open = self._around("open", os.open, _open_changes)
        builtins.open = io.open = self._around("open", builtins.open, _file_changes)

    def _around(self, name: str, real: Callable[..., Any], changes: Callable[..., bool]) -> Callable[..., Any]:
        def call(*words: Any, **named: Any) -> Any:  # noqa: ANN401 - whatever the real function takes and returns
            if not changes(*words, **named):
                return real(*words, **named)
            number = self._next(f"{name} {_target(words)}")
            if number == self.at.before:
                self._kill()
            result = real(*words, **named)
            if number == self.at.after:
                self._kill()
            return result

        return call

    def _next(self, what: str) -> int:
        number = int.from_bytes(self._count[:8], "little") + 1
        self._count[:8] = number.to_bytes(8, "little")
        if self.at.log:
            fd = self._open(self.at.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._write(fd, f"{what}\n".encode("utf-8", "surrogateescape"))
            self._close(fd)
        return number

    def _kill(self) -> None:
        os.kill(self.main, signal.SIGKILL)
        if not self.at.spare_child:
            os.kill(os.getpid(), signal.SIGKILL)


def _open_changes(path: object, flags: int, *_: object, **__: object) -> bool:
    del path
    return bool(flags & CREATING)


def _file_changes(file: object, mode: str = "r", *_: object, **__: object) -> bool:
    return not isinstance(file, int) and any(letter in mode for letter in "wax+")


def _target(words: tuple[Any, ...]) -> str:
    """What a change is made to, on one line."""
    first = words[0] if words else ""
    if isinstance(first, int):
        try:
            first = os.readlink(f"/proc/self/fd/{first}")
        except OSError:
            first = f"fd {first}"
    text = os.fsdecode(first) if isinstance(first, str | bytes | os.PathLike) else str(first)
    return text.replace("\n", "?")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Run a script and kill it at its N-th change.")
    parser.add_argument("--before", type=int, metavar="N")
    parser.add_argument("--after", type=int, metavar="N")
    parser.add_argument("--spare-child", action="store_true")
    parser.add_argument("--log", metavar="FILE")
    parser.add_argument("script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    at = At(options.before, options.after, options.spare_child, options.log)
    _run(options.script, options.arguments, at)


def _run(script: str, arguments: Sequence[str], at: At) -> None:
    sys.dont_write_bytecode = True  # not a change of the script's
    sys.argv[1:] = arguments
    Killer(at).install()
    runpy.run_path(script, run_name="__main__")


# ---- for tests


def command(script: str, *arguments: str, at: At, python: str = sys.executable) -> list[str]:
    """The command line that runs a script under this one."""
    words = [python, "-I", os.path.abspath(__file__)]
    for name, value in at._asdict().items():
        if value not in {None, False}:
            option = "--" + name.replace("_", "-")
            words += [option] if value is True else [option, str(value)]
    return [*words, script, *arguments]


def changes(script: str, *arguments: str, env: Mapping[str, str] | None = None, limit: float = 60.0) -> list[str]:
    """Run a script to its end and return its changes, one line each; they happen. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        log = os.path.join(folder, "log")
        words = command(script, *arguments, at=At(log=log))
        subprocess.run(words, check=True, env=env, timeout=limit, stdin=subprocess.DEVNULL)
        if not os.path.exists(log):
            return []
        with open(log, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().splitlines()


if __name__ == "__main__":
    main(sys.argv[1:])
