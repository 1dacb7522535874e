# SPDX-License-Identifier: Apache-2.0
"""The hookscript under conditions that are hard to bring about: bent_hook.py HOW VMID PHASE.

HOW is `patience=SECONDS`, for waits for other processes that would take 10 s; `budget=SECONDS`, for the whole phase; or
`lines=N`, for a /run that is full once N lines of a journal are written: the next line ends in its middle.
"""

from __future__ import annotations

import errno
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from pvepassthru.host.host import Host
from pvepassthru.lifecycle import mdev, phases, quick, vgpu


def wait(seconds: float) -> None:
    """Cut the waits for other processes."""
    phases.PATIENCE = seconds
    mdev.REMOVE_WAIT = mdev.HALF_CREATED_WAIT = mdev.INSTANCE_LOCK_WAIT = vgpu.RESET_WAIT = seconds


def fill(lines: int) -> None:
    """Let the disk be full after so many lines of a journal."""
    left = lines
    append = Host.append

    def full(host: Host, path: str, line: str) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            append(host, path, line)
            return
        append(host, path, line[: len(line) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    setattr(Host, "append", full)  # noqa: B010 - mypy knows of no other method in its place


how, _, value = sys.argv.pop(1).partition("=")
if how == "patience":
    wait(float(value))
elif how == "budget":
    phases.BUDGET.update(dict.fromkeys(phases.BUDGET, float(value)))
else:
    fill(int(value))

sys.exit(quick.main(sys.argv))
