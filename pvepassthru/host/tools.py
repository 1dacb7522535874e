# SPDX-License-Identifier: Apache-2.0
"""Programs of a host that make boot loader and initramfs take changed files.

They are run on the host itself. Those of another tree are whatever its maker put there, and chroot holds no program
of root's: they are run on the owner's word only.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pvepassthru.host.host import Host

FOLDERS = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
LIMIT = 1800.0
"""Seconds; an initramfs for each of many kernels takes minutes on a slow disk."""


class Run(NamedTuple):
    """What came of a program."""

    command: tuple[str, ...]
    code: int | None
    """Its exit code; None: it was not run."""
    output: str
    """What it printed, on both of its streams; or why it was not run."""

    @property
    def words(self) -> str:
        """The command as people type it."""
        return " ".join(self.command)


def run(host: Host, command: tuple[str, ...], *, chroot: bool = False) -> Run:
    """Run a program of the host to its end. Never raises.

    With a root other than / nothing is run; with `chroot` in that root by chroot, which only root can.
    """
    if host.root and not chroot:
        return Run(command, None, "in that host: programs of another tree are run only with --chroot")
    path = next((f"{folder}/{command[0]}" for folder in FOLDERS if host.exists(f"{folder}/{command[0]}")), None)
    if path is None:
        return Run(command, None, f"there is no {command[0]} on this host")
    if host.root and os.geteuid():
        return Run(command, None, f"only root can run it in {host.root}")
    words = [*(("chroot", host.root) if host.root else ()), path, *command[1:]]
    environment = {"PATH": ":".join(("/usr/local/sbin", "/usr/local/bin", *FOLDERS)), "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(  # noqa: S603 - a program of the host, with arguments that are constants
            words,
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        said = (late.stdout or b"").decode("utf-8", "replace")
        return Run(command, 124, f"{said}\nit did not end within {LIMIT:.0f} s and was killed")
    except OSError as error:
        return Run(command, 126, f"it cannot be run: {error.strerror}")
    return Run(command, done.returncode, done.stdout.decode("utf-8", "replace"))
