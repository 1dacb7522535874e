# SPDX-License-Identifier: Apache-2.0
"""Programs of the running host that hooks and commands ask to do what no file of the kernel does: ip, sriov-manage.

Those of another tree are whatever its maker put there, and would act on this host: they are never run.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pvepassthru.host.host import Host

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Output(NamedTuple):
    """What came of a program."""

    code: int | None
    """Its exit code; None: it was not run, or did not end in time."""
    stdout: str
    """What it printed."""
    words: str
    """What it said on its other stream, or why it was not run: for people."""


def find(host: Host, name: str) -> str | None:
    """The path of a program of the running host, or None: it is not installed, or this is another tree."""
    if host.root:
        return None
    return next((path for folder in PATH.split(":") if os.access(path := f"{folder}/{name}", os.X_OK)), None)


def run(host: Host, command: tuple[str, ...], seconds: float) -> Output:
    """Run a program, by its full path, with no terminal and a limit. Never raises.

    One that hangs in the kernel cannot be killed; it is left behind then.
    """
    if host.root:
        return Output(None, "", f"{command[0]} is not run for another tree")
    try:
        process = subprocess.Popen(  # noqa: S603 - a program of root's, with arguments that were checked
            command,
            cwd="/",
            env={"PATH": PATH, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        return Output(None, "", f"{command[0]} cannot be run: {error.strerror}")
    try:
        said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return Output(None, "", f"{command[0]} did not end within {seconds:.0f} s")
    finally:
        _end(process)
    stdout, stderr = (part.decode("utf-8", "replace") for part in said)
    return Output(process.returncode, stdout, stderr.strip())


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that has not ended, without waiting for one that cannot."""
    if process.returncode is None:
        process.kill()
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            process.returncode = -9
    for stream in (process.stdout, process.stderr):
        if stream:
            stream.close()
