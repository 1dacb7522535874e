# SPDX-License-Identifier: Apache-2.0
"""The hookscript under conditions that are hard to bring about: bent_hook.py HOW VMID PHASE.

HOW is `patience=SECONDS`, for waits for other processes that would take 10 s; `budget=SECONDS`, for the whole phase;
`lines=N`, for a /run that is full once N lines of a journal are written: the next line ends in its middle; `eio=NAME`,
for attributes of that name that cannot be read; `killed=NAME`, where whoever writes to one of that name is killed
when the kernel has done it; or `together=N`, where a hook reserves nothing before so many hooks are about to.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from pvepassthru.host import reservations
from pvepassthru.host.host import Host
from pvepassthru.host.sim import SimHost
from pvepassthru.lifecycle import mdev, phases, quick, vgpu

if TYPE_CHECKING:
    from collections.abc import Callable


def wait(seconds: float) -> None:
    """Cut the waits for other processes."""
    phases.PATIENCE = seconds
    mdev.PARENT_WAIT = mdev.REMOVE_WAIT = mdev.HALF_CREATED_WAIT = mdev.INSTANCE_LOCK_WAIT = vgpu.RESET_WAIT = seconds


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


def fail_to_read(name: str) -> None:
    """Let files of this name answer EIO."""
    read = Host.at_once

    def failing(host: Host, path: str, *more: int) -> bytes:
        if path.endswith(f"/{name}"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return read(host, path, *more)

    setattr(Host, "at_once", failing)  # noqa: B010 - as above


def kill_writers(name: str) -> None:
    """Kill the process that has written to an attribute of this name, as the kernel's OOM killer may."""
    for kind in (Host, SimHost):
        write = kind.write

        def killed(host: Host, path: str, value: str, write: Callable[..., None] = write) -> None:
            write(host, path, value)
            if path.endswith(f"/{name}"):
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(kind, "write", killed)  # noqa: B010 - as above


def meet(count: int) -> None:
    """Have hooks wait for each other when they have judged their VMs, each with the same look at the host."""
    reserve = reservations.reserve
    folder = f"{os.environ.get('PVEPASSTHRU_ROOT', '')}/run/together"

    def together(*words: Any, **named: Any) -> None:  # noqa: ANN401 - what the real one takes
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/{os.getpid()}", "w", encoding="ascii"):
            pass
        end = time.monotonic() + 20
        while len(os.listdir(folder)) < count and time.monotonic() < end:
            time.sleep(0.005)
        reserve(*words, **named)

    reservations.reserve = together


how, _, value = sys.argv.pop(1).partition("=")
if how == "patience":
    wait(float(value))
elif how == "budget":
    phases.BUDGET.update(dict.fromkeys(phases.BUDGET, float(value)))
elif how == "eio":
    fail_to_read(value)
elif how == "killed":
    kill_writers(value)
elif how == "together":
    meet(int(value))
else:
    fill(int(value))

sys.exit(quick.main(sys.argv))
