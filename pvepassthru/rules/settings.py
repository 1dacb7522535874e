# SPDX-License-Identifier: Apache-2.0
"""Rules on what the policy sets on the functions that a VM gets, PVP257 and PVP258: whether the device can do it."""

from __future__ import annotations

from pvepassthru.model import bars
from pvepassthru.model.errors import PassthruError
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import listed, shown
from pvepassthru.rules.subject import Hit, chosen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.model.hostpci import HostpciEntry
    from pvepassthru.model.policy import DevicePolicy
    from pvepassthru.rules.subject import Subject


def reset_not_offered(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a function has the reset methods that the policy (`reset_method`) sets on it.

    They are compared with what its file `reset_method` reads now; `auto` takes what there is.

    Why it matters: the hook refuses to start the VM.

    How to fix: write methods that the function has into the policy, or `auto`. `echo default` to the file shows all.
    """
    for entry, address, wanted in _ruled(subject):
        words = (wanted.reset_method or "auto").split()
        offered = subject.inventory.attribute(address, "reset_method")
        if words == ["auto"] or (offered is None and not subject.inventory.has(address, "driver_override")):
            continue
        missing = [word for word in words if word not in (offered or "").split()]
        if missing:
            message = f"the policy resets {address} by {listed(missing)}, and it has {shown(offered or 'no method')}"
            yield _hit(subject, entry, message, "correct reset_method in the policy, or write auto")


def bar_not_offered(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a function's BARs can have the sizes that the policy (`bars`) gives them.

    Its files resourceN_resize say which it can have.

    Why it matters: the hook refuses to start the VM.

    How to fix: write a size that the BAR can have into the policy, or take it out. Kernels from 6.1 on can resize.
    """
    for entry, address, wanted in _ruled(subject):
        for bar, size in wanted.bars if subject.inventory.has(address, "resource") else ():
            offered = bars.sizes(subject.inventory.attribute(address, f"resource{bar}_resize") or "")
            if size not in offered:
                can = f"it can be {listed(map(bars.words, offered))}" if offered else "it is not resizable"
                message = f"the policy makes BAR {bar} of {address} {bars.words(size)} large, but {can}"
                yield _hit(subject, entry, message, "correct bars in the policy")


def _ruled(subject: Subject) -> Iterator[tuple[HostpciEntry, str, DevicePolicy]]:
    """Each function that the VM gets whole with what the policy says of it; none if there is no policy to use."""
    try:
        policies = subject.around.policies
    except PassthruError:  # told by hosts.policy_unusable
        return
    if not policies.document:
        return
    for device, functions in chosen(subject):
        for address in functions if not device.nvidia else ():
            mapping = device.entry.mapping or None
            yield device.entry, address, policies.device(subject.inventory, address, mapping, subject.vmid)


def _hit(subject: Subject, entry: HostpciEntry, message: str, hint: str) -> Hit:
    return Hit(subject.at(entry.key, entry.line), message, hint)
