# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's vendor vGPU interface (kernel 6.8 and newer): a number in a VF's nvidia/current_vgpu_type, 0 for none.

A VF belongs to the VM that PVE's reservation file names; the number alone says nothing of an owner.
"""

from __future__ import annotations

from pvepassthru.host import holders, locks, slow, state
from pvepassthru.host.deadline import Deadline, pause
from pvepassthru.host.host import ABSENT
from pvepassthru.host.inventory import DEVICES, Inventory
from pvepassthru.lifecycle import reserve
from pvepassthru.model.errors import BusyError, DeviceError
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from pvepassthru.host.host import Host
    from pvepassthru.host.locks import Lock
    from pvepassthru.lifecycle.journal import Step
    from pvepassthru.lifecycle.work import Want, Work

KIND = "vgpu"
GPU_LOCK_WAIT = 10.0
"""Seconds for an undo to wait for another VM's work on the same GPU."""
RESET_WAIT = 10.0
"""Seconds to go on trying to write 0, as PVE does: the driver refuses while it still tears the vGPU down."""


def set_type(work: Work, want: Want) -> None:
    """Reserve the VF in PVE's file and set its vGPU type.

    Raises DeviceError when the VF is another VM's, in use, or the driver refuses, and BusyError after too long a wait.
    """
    (function,) = want.candidates
    host = work.host
    with _gpu_lock(work, function) as lock:
        reserve.reserve(work, [function])
        current = _current(host, function)
        if current is None:
            raise DeviceError(
                f"cannot set vGPU type {want.type} on {function}: it has no nvidia/current_vgpu_type",
                "see that NVIDIA's vGPU host driver is loaded and its VFs are enabled",
            )
        users = holders.device_holders(host, f"{DEVICES}/{function}")
        if users:
            raise DeviceError(
                f"cannot set vGPU type {want.type} on {function}: {holders.describe(users)} has it open as {current}",
                "end that process, then start again",
            )
        if current == want.type:
            work.journal.found(KIND, function)
            work.voice.say(f"vGPU type {want.type} is already set on {function}")
            return
        work.journal.gone(KIND, function)  # PVE or another VM has set something else since an earlier start
        step = work.journal.intend(KIND, function, current, want.type)
        for value in ("0", want.type) if current != "0" else (want.type,):
            _write(work, function, value, lock)
        current = _current(host, function)
        if current != want.type:
            raise DeviceError(
                f"cannot set vGPU type {want.type} on {function}: the driver took the write but reads {current}",
                "see what the driver says in the kernel log",
            )
        work.journal.done(step)
    work.voice.say(f"set vGPU type {want.type} on {function}")


def undo_type(work: Work, step: Step) -> str | None:
    """Write 0 where `set_type` wrote a type, if the VF can be reserved for this VM and nobody has it open.

    Returns None when nothing of it remains, else why it was kept.
    """
    host = work.host
    function = step.target
    if not step.done:
        await_writes(work, step)
    if _current(host, function) != step.after:
        return None  # 0 already, gone with its driver, or another VM's by now
    return reserve.while_ours(work, [function], "the VF", lambda: _undo_reserved(work, step))


def _undo_reserved(work: Work, step: Step) -> str | None:
    """As `undo_type`, with the VF reserved. Raises BusyError."""
    folder = f"{DEVICES}/{step.target}"
    # without the GPU's lock, which other VMs need meanwhile
    users = holders.wait_until_closed(work.host, folder, Deadline(work.deadline.left(work.patience)))
    if users:
        return f"{holders.describe(users)} has it open"
    end = Deadline(work.deadline.left(RESET_WAIT))
    while True:
        try:
            return _reset(work, step)
        except DeviceError as error:  # the driver refuses while it still tears the vGPU down
            if not pause(end, 0.2):
                return error.message


def _reset(work: Work, step: Step) -> str | None:
    """Write 0 once. Raises DeviceError when the driver refuses, and BusyError."""
    host = work.host
    function = step.target
    with _gpu_lock(work, function, GPU_LOCK_WAIT) as lock:
        if _current(host, function) != step.after:
            return None
        users = holders.device_holders(host, f"{DEVICES}/{function}")
        if users:
            return f"{holders.describe(users)} has it open"
        _write(work, function, "0", lock)
        if _current(host, function) == step.after:
            return "the driver took the write, but the type is still set"
    work.voice.say(f"gave back vGPU type {step.after} on {function}")
    return None


def await_writes(work: Work, step: Step) -> None:
    """Wait for a write that outlived its hook. Raises BusyError."""
    _gpu_lock(work, step.target, GPU_LOCK_WAIT).release()


def _gpu_lock(work: Work, function: str, most: float | None = None) -> Lock:
    """The lock of the VF's physical function: its VFs share one capacity. Raises BusyError."""
    parent = Inventory(work.host).physical_function(function) or function
    return locks.take(work.host, state.device_lock_path(parent), work.deadline, f"the GPU of {function}", most)


def _current(host: Host, function: str) -> str | None:
    """The type that is set, or None: no such file any more. Raises DeviceError when it cannot be read."""
    path = f"{DEVICES}/{function}/nvidia/current_vgpu_type"
    try:
        return host.read(path).decode("utf-8", "replace").strip()
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise DeviceError(
            f"cannot read {path}: {error.strerror}", "see what the driver says in the kernel log"
        ) from error


def _write(work: Work, function: str, value: str, lock: Lock) -> None:
    """Write a type. Raises DeviceError when the driver refuses, and BusyError."""
    path = f"{DEVICES}/{function}/nvidia/current_vgpu_type"
    if not work.deadline:
        raise BusyError(f"cannot set vGPU type {value} on {function}: no time was left for it", "start again")
    try:
        work.write(path, value, work.deadline.left(), lock)
    except slow.StillBlockedError:
        raise BusyError(
            f"cannot set vGPU type {value} on {function}: the driver has not answered in time",
            "see what the driver says in the kernel log",
        ) from None
    except OSError as error:
        raise DeviceError(
            f"cannot set vGPU type {value} on {function}: the driver says {error.strerror}",
            "see which types it offers now: pvepassthru mdev types " + function,
        ) from error
