# SPDX-License-Identifier: Apache-2.0
"""pvesh on the node itself: run with a limit, and its answers. proxmoxer's local backend makes the command.

proxmoxer takes everything on pvesh's standard error for a failure, where PVE also tells of locks and tasks; what counts
here is the exit code. Source: PVE's pvesh (its proxy_handler, for other nodes), proxmoxer's issue 146.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, Any

from pvepassthru.api.transport import CutError
from pvepassthru.model.errors import ApiError, ApiUnreachableError
from pvepassthru.model.text import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

WRITE_TIMEOUT = 60.0
"""Seconds that a change may take at least: pvesh runs a task to its end."""
STATUS = re.compile(r"(\d{3}) (\S.*)")
CUT_OFF = re.compile(r"failed: (?:exit code 255|got signal \d+|received interrupt)")
"""How pvesh tells that its ssh to another node was cut off: 255 is ssh's own, and nobody knows what that node did."""
PROXY = "proxy handler failed"
UPID = re.compile(r"UPID:[^\s\"]+")


SSH_HINT = "see whether root reaches that node by ssh (pvecm updatecerts repairs its keys)"


class RefusedError(Exception):
    """PVE refused; the status, and its words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words


def run(command: Sequence[str], timeout: float) -> str:
    """What pvesh prints; `timeout` in seconds.

    Raises RefusedError when it fails, CutError when it cannot be run or is late: a read is then ended, a change left at
    work, since nobody knows what it has done. CutError too when a change was to be done on another node, where pvesh
    goes by ssh, and that broke off.
    """
    reading = command[1] == "get"
    limit = timeout if reading else max(timeout, WRITE_TIMEOUT)
    try:
        process = subprocess.Popen(  # noqa: S603 - pvesh, with arguments as a list
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            start_new_session=True,  # with what it starts itself, such as ssh to another node
        )
    except OSError as error:
        message = f"cannot run {command[0]}: {error.strerror}"
        raise CutError(ApiUnreachableError(message, "is this a node of PVE?"), sent=False) from error
    try:
        printed, complaints = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired as error:
        if reading:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        else:
            threading.Thread(target=process.communicate, daemon=True).start()  # so that it can go on printing
        words = f"pvesh (pid {process.pid}) has not answered within {limit:g} s"
        raise CutError(ApiUnreachableError(words, "see whether the cluster's file system works"), sent=True) from error
    if process.returncode:
        if not reading and CUT_OFF.search(complaints):
            words = one_line(" ".join(complaints.split()))
            raise CutError(
                ApiUnreachableError(f"pvesh could not hear the other node out: {words}", SSH_HINT), sent=True
            )
        raise _refused(complaints or printed, process.returncode)
    return printed


def data_of(printed: str) -> Any:  # noqa: ANN401 - what JSON holds
    """The answer in what pvesh printed: its JSON, behind the output of a task if there is one. Raises CutError."""
    lines = printed.splitlines()
    while lines:
        try:
            return json.loads("\n".join(lines))
        except ValueError:
            last = lines[-1].strip()
            if len(lines) == 1 and UPID.fullmatch(last):
                return last
            lines = lines[1:]
    if printed.strip():
        raise CutError(ApiError("pvesh printed something that is no JSON"), sent=True)
    return None


def _refused(complaints: str, code: int) -> RefusedError:
    lines = [line.strip() for line in complaints.splitlines()]
    usage = next((at for at, line in enumerate(lines) if line.startswith("pvesh ")), len(lines))
    lines = [line for line in lines[:usage] if line]
    lines = [line for line in lines if not line.startswith(PROXY)] or lines  # the other node's own words come before
    for at, line in enumerate(lines):
        found = STATUS.fullmatch(line)
        if found:
            return RefusedError(int(found.group(1)), " ".join(lines[at + 1 :]) or found.group(2))
    return RefusedError(500, " ".join(lines) or f"pvesh ended with {code}")
