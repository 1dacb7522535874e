# SPDX-License-Identifier: Apache-2.0
"""Programs of the running host that do what no file of the kernel does: ip, modprobe, sriov-manage.

Those of another tree are whatever its maker put there, and would act on this host: they are never run.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pvepassthru.host.host import Host

MODULE_LIMIT = 15.0
"""Seconds for a module to be loaded."""
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


def run(host: Host, command: tuple[str, ...], seconds: float, keep: tuple[int, ...] = ()) -> Output:
    """Run a program, by its full path, with no terminal and a limit; it gets the open files in `keep`. Never raises.

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
            pass_fds=keep,
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


def load_driver(host: Host, driver: str) -> str | None:
    """See that a PCI driver is there, loading its module where it is not; returns None, or why it is not there.

    PVE loads vfio-pci itself (PVE::SysFSTools), but only when it binds a device. A module has its driver's name, where
    modprobe takes `-` for `_`. In the copy of a plan nothing is run: the driver is taken for one that loads.
    """
    folder = f"/sys/bus/pci/drivers/{driver}"
    if host.exists(folder):
        return None
    if host.copy_of is not None:
        os.makedirs(host.path(folder), exist_ok=True)
        for name in ("bind", "unbind"):
            host.replace(f"{folder}/{name}", b"")
        return None
    path = find(host, "modprobe")
    words = (
        run(host, (path, "--", driver), MODULE_LIMIT).words if path else "there is no program modprobe for this host"
    )
    return None if host.exists(folder) else words or f"its module was loaded, and there is no driver {driver}"


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
