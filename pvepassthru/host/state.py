# SPDX-License-Identifier: Apache-2.0
"""The tool's own folder on a host: journals and locks, root's alone.

It lies in /run, so it lives and dies with the sysfs state that the journals describe.
"""

from __future__ import annotations

import errno
import os
import stat

from pvepassthru.host import vms
from pvepassthru.host.host import way_out
from pvepassthru.model.errors import PassthruError, UnsafeError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import number

if TYPE_CHECKING:
    from pvepassthru.host.host import Host

FOLDER = "/run/pvepassthru"
UNFINISHED = ".vfs"
"""Ending of the file, named by its PF, that is there while VFs are made and until they are set up."""

QUARANTINE = ".quarantine"
"""How the names of files about functions in quarantine end."""
RUN = ".run"
"""Ending of the file, named by a VM and a phase, that says how the last run of that phase went."""
RUN_LENGTH = 64
"""Bytes of such a file, whatever it says: a run replaces what the one before it said with one write."""


class Run(NamedTuple):
    """How the last run of a hook phase that had something to do went."""

    vmid: int
    phase: str
    ended: int
    """Milliseconds since the epoch."""
    took: int
    """Milliseconds, without the start of the interpreter."""
    code: int
    """0, or the exit code of the error that ended it (docs/exit-codes.md), which PVE is told of a pre-start only."""
    warnings: int


def journal_path(vmid: int) -> str:
    """Where a VM's journal lies."""
    return f"{FOLDER}/{vmid}.journal"


def damaged_path(host: Host, vmid: int) -> str:
    """Where a journal can be kept of whose steps some are unknown: where no other one lies yet."""
    path = f"{FOLDER}/{vmid}.damaged"
    number = 1
    while os.path.lexists(host.path(path)):
        number += 1
        path = f"{FOLDER}/{vmid}.damaged.{number}"
    return path


def vm_lock_path(vmid: int) -> str:
    """The lock that hooks and commands for one VM take."""
    return f"{FOLDER}/{vmid}.lock"


def device_lock_path(address: str) -> str:
    """The lock of one mdev parent or PF, or, by its UUID, of one mdev."""
    return f"{FOLDER}/{address}.lock"


def unfinished_path(address: str) -> str:
    """The file that tells that a PF's VFs are not set up yet as the policy says."""
    return f"{FOLDER}/{address}{UNFINISHED}"


def late_path(address: str) -> str:
    """The file that names the process which still reads an attribute of a function, long after it was asked."""
    return f"{FOLDER}/{address}.late"


def prepare(host: Host) -> None:
    """Make the folder if it is not there, and see that it can be trusted.

    Raises UnsafeError when it is a link, not ours or not ours alone, and PassthruError when it cannot be made.
    """
    try:
        os.mkdir(host.path(FOLDER), 0o700)
    except FileExistsError:
        check(host)
    except OSError as error:
        raise PassthruError(
            f"cannot make {FOLDER}: {error.strerror}", way_out(error, "check that /run is writable")
        ) from error


def check(host: Host) -> bool:
    """Whether the folder is there; raises UnsafeError when it is and cannot be trusted."""
    try:
        info = os.lstat(host.path(FOLDER))
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            return False
        raise PassthruError(f"cannot read {FOLDER}: {error.strerror}", way_out(error)) from error
    if not stat.S_ISDIR(info.st_mode):
        raise UnsafeError(f"{FOLDER} is not a folder, so no journal in it is trusted", "remove it")
    if not is_own(info):
        raise UnsafeError(
            f"{FOLDER} belongs to user {info.st_uid}, so no journal in it is trusted",
            f"see who made it, then: chown root: {FOLDER}",
        )
    if info.st_mode & 0o077:
        raise UnsafeError(
            f"{FOLDER} has mode {stat.S_IMODE(info.st_mode):04o}, so others may have written its journals",
            f"look at its files, then: chmod 0700 {FOLDER}",
        )
    return True


def is_own(info: os.stat_result) -> bool:
    """Whether a file is root's, or, for an unprivileged user on a test host, the user's own."""
    return info.st_uid in {0, os.geteuid()}


def journals(host: Host) -> list[int]:
    """The VMIDs that have a journal, ascending. Raises as `check`, and PassthruError when they cannot be listed."""
    stems = (name.removesuffix(".journal") for name in _names(host) if name.endswith(".journal"))
    return sorted(vmid for stem in stems if (vmid := vms.vmid_of(stem)) is not None)


def _names(host: Host) -> list[str]:
    """The folder's files. Raises as `check`, and PassthruError when they cannot be listed."""
    if not check(host):
        return []
    try:
        return os.listdir(host.path(FOLDER))
    except OSError as error:
        raise PassthruError(f"cannot read {FOLDER}: {error.strerror}", "run this as root") from error


def quarantined(host: Host) -> frozenset[str]:
    """The functions of which host/quarantine.py has noted something; none where the folder cannot be listed."""
    try:
        names = os.listdir(host.path(FOLDER))
    except OSError:
        return frozenset()
    return frozenset([name.removesuffix(QUARANTINE) for name in names if name.endswith(QUARANTINE)])


def run_path(vmid: int, phase: str) -> str:
    """Where it is noted how the last run of a phase went."""
    return f"{FOLDER}/{vmid}.{phase}{RUN}"


def note_run(host: Host, run: Run) -> None:
    """Note how a phase went. Where that cannot be done it is not: nothing depends on it, and no phase fails by it."""
    line = f"1 {run.ended} {run.took} {run.code} {run.warnings}"
    try:
        if not check(host):
            return
        path = host.path(run_path(run.vmid, run.phase))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, f"{line:<{RUN_LENGTH - 1}}\n".encode())
        finally:
            os.close(fd)
    except (OSError, PassthruError):
        pass


def runs(host: Host) -> list[Run]:
    """How the last runs went, by VM and phase; what is no such note is passed over.

    Raises as `check`, and PassthruError when they cannot be listed.
    """
    return sorted(run for name in _names(host) if name.endswith(RUN) and (run := _run(host, name)) is not None)


def _run(host: Host, name: str) -> Run | None:
    stem, _, phase = name.removesuffix(RUN).partition(".")
    vmid = vms.vmid_of(stem)
    words = (host.text(f"{FOLDER}/{name}") or "").split()
    if vmid is None or len(words) != 5 or words[0] != "1":
        return None
    ended, took, code, warnings = (number(word) for word in words[1:])
    if ended is None or took is None or code is None or warnings is None:
        return None
    return Run(vmid, phase, ended, took, code, warnings)
