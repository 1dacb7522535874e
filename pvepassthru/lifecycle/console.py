# SPDX-License-Identifier: Apache-2.0
"""The host's console and the firmware's picture, taken off a GPU before a VM gets it: only where the policy says so.

A console comes back when a driver of the host drives a display again, the firmware's picture never by itself
(policy `restore_framebuffer`): the guest has left the GPU in a state that the firmware did not set up. Before the VM
has run both come back, whatever the policy says: then nothing has touched the GPU.
"""

from __future__ import annotations

from pvepassthru.host import displays, holders, locks, state
from pvepassthru.host.inventory import DEVICES, Inventory
from pvepassthru.lifecycle import reserve
from pvepassthru.model.errors import DeviceError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pvepassthru.host.displays import PlatformFramebuffer
    from pvepassthru.lifecycle.journal import Step
    from pvepassthru.lifecycle.work import Function, Work
    from pvepassthru.model.policy import DevicePolicy, Policies

KIND = "console"
"""Target: the console driver's name (`vtcon1`)."""
FRAMEBUFFER = "framebuffer"
"""Target: DEVICE@ADDRESS (`efi-framebuffer.0@0000:01:00.0`), before: its driver, after: RESTORE or LEAVE."""
RESTORE, LEAVE = "restore", "leave"
UNDO_SECONDS = 15.0
"""How long a write that gives something back may take, if the phase has so much time left."""


class _Shown(NamedTuple):
    """What the host shows on a GPU."""

    address: str
    policy: DevicePolicy
    consoles: tuple[str, ...]
    framebuffers: tuple[PlatformFramebuffer, ...]


def release(work: Work, functions: Sequence[Function], policies: Policies) -> None:
    """Take the console and the firmware's picture off those display functions whose policy says `console: release`.

    Only off those that have one: the firmware's picture lies in one of their BARs, or their driver has a frame buffer.
    Raises DeviceError when the kernel does not let go, BusyError when it does not answer in time.
    """
    for found in _shown(work, functions, policies):
        for name in found.consoles:
            _release_console(work, name, found.address, found.policy.seconds)
        for framebuffer in found.framebuffers:
            after = RESTORE if found.policy.restore_framebuffer else LEAVE
            _release_framebuffer(work, framebuffer, found.address, after, found.policy.seconds)


def refuse(work: Work, functions: Sequence[Function], policies: Policies) -> None:
    """Raise DeviceError where `release` would have something to take off: then the host uses the GPU."""
    for address, _, consoles, framebuffers in _shown(work, functions, policies):
        what = [f"its console ({name})" for name in consoles]
        what += [f"the firmware's picture ({driver})" for _, driver in framebuffers]
        if what:
            raise DeviceError(
                f"cannot take {address} from the host, which shows {' and '.join(what)} on it",
                f"a backup starts VM {work.vmid}, and takes no console off a GPU unless the policy says on_backup: "
                "handover",
            )


def undo_console(work: Work, step: Step) -> str | None:
    """Bind a console again if a driver of the host drives a display.

    Returns None when nothing of the step remains, else why it was kept. The caller undoes it after the drivers.
    """
    path = displays.console(step.target)
    now = work.host.text(path)
    if now is None:
        work.voice.say("the host has no display any more; its console comes back with the next driver of one")
        return None
    if now != step.after:
        return None
    if not displays.has_picture(work.host):
        work.voice.say(f"{step.target} stays unbound: no driver of the host drives a display")
        return None
    _write(work, path, "1", UNDO_SECONDS, f"bind the console {step.target} again")
    if work.host.text(path) == step.after:
        work.voice.warn(f"the kernel took the write to {path}, but the console is not bound; echo 1 > {path}")
    else:
        work.voice.say(f"gave back the console {step.target}")
    return None


def undo_framebuffer(work: Work, step: Step) -> str | None:
    """Bind the firmware's picture again where the policy wanted that, or the VM has not run.

    Only if the GPU is not another VM's by now. Returns None when nothing of the step remains, else why it was kept.
    """
    device, _, address = step.target.partition("@")
    folder = f"{displays.PLATFORM}/devices/{device}"
    driver = step.before or ""
    if work.host.link(f"{folder}/driver") is not None:
        return None  # somebody has bound it
    if not work.host.exists(folder):
        if step.after == RESTORE:
            work.voice.warn(
                f"{driver} cannot come back on {address}: the kernel has removed {device} when a driver took the GPU"
            )
        return None
    bound = work.host.link(f"{DEVICES}/{address}/driver")
    if step.after != RESTORE and (work.journal.state == "running" or bound is not None):
        work.voice.say(f"{driver} stays unbound from {address}, since the policy does not restore it")
        return None
    return reserve.while_ours(work, [address], address, lambda: _bind_framebuffer(work, device, driver, address))


def _shown(work: Work, functions: Sequence[Function], policies: Policies) -> Iterator[_Shown]:
    """What is on each display function whose policy says `console: release`, as it is when it comes to that one."""
    inventory = Inventory(work.host)
    pictures: dict[str, str] | None = None
    for function in functions:
        address = function.address
        if not inventory.pci_class(address).startswith("03"):
            continue
        rule = policies.device(inventory, address, mapping=function.mapping, vmid=work.vmid)
        if rule.console != "release":
            continue
        pictures = displays.firmware_pictures(work.host) if pictures is None else pictures
        has_picture = address in pictures
        has_console = has_picture or displays.has_frame_buffer(work.host, address)
        yield _Shown(
            address,
            rule,
            displays.bound_consoles(work.host) if has_console else (),
            displays.platform_framebuffers(work.host, address) if has_picture else (),
        )


def _release_console(work: Work, name: str, address: str, seconds: float) -> None:
    path = displays.console(name)
    step = work.journal.intend(KIND, name, work.host.text(path), "0")
    what = f"take the console {name} off {address}"
    _write(work, path, "0", seconds, what)
    if work.host.text(path) not in {"0", None}:
        raise DeviceError(f"cannot {what}: the kernel took the write, but it is still bound", "see the kernel log")
    work.journal.done(step)
    work.voice.say(f"took the console {name} off {address}")


def _release_framebuffer(
    work: Work, framebuffer: PlatformFramebuffer, address: str, after: str, seconds: float
) -> None:
    device, driver = framebuffer
    step = work.journal.intend(FRAMEBUFFER, f"{device}@{address}", driver, after)
    path = f"{displays.PLATFORM}/drivers/{driver}/unbind"
    _write(work, path, device, seconds, f"unbind {driver} from {device}, whose picture lies in {address}")
    work.journal.done(step)
    work.voice.say(f"took the firmware's picture ({driver}) off {address}")


def _bind_framebuffer(work: Work, device: str, driver: str, address: str) -> str | None:
    users = holders.device_holders(work.host, f"{DEVICES}/{address}")
    if users:
        return f"{holders.describe(users)} has {address} open"
    try:
        path = f"{displays.PLATFORM}/drivers/{driver}/bind"
        _write(work, path, device, UNDO_SECONDS, f"bind {driver} to {device} again")
    except DeviceError as error:  # the GPU is no longer as the firmware set it up: another try would not help
        work.voice.warn(str(error))
        return None
    work.voice.say(f"gave back the firmware's picture ({driver}) on {address}")
    return None


def _write(work: Work, path: str, value: str, seconds: float, what: str) -> None:
    """Write about consoles, one process at a time. Raises DeviceError when the kernel refuses, and BusyError."""
    with locks.take(work.host, state.device_lock_path(KIND), work.deadline, "the host's console", seconds) as lock:
        try:
            work.attempt(what, path, value, seconds, lock)
        except OSError as error:
            raise DeviceError(f"cannot {what}: {path}: {error.strerror}", "see the kernel log") from error
